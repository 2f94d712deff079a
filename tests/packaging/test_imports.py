import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ["tensorflow", "keras", "numpy", "numba", "grpc", "pydantic", "pyarrow"]


def loaded_after(statement: str) -> set[str]:
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import elasticdl").isdisjoint(HEAVY)


@pytest.mark.parametrize("service", ["elasticdl.master.__main__", "elasticdl.ps.__main__"])
def test_a_service_never_loads_tensorflow(service):
    assert loaded_after(f"import {service}").isdisjoint(["tensorflow", "keras", "tf_keras"])


def test_every_package_is_a_package():
    """A directory without ``__init__.py`` would be missing from a wheel."""
    root = Path(__file__).parents[2]
    directories = {path.parent for path in (root / "elasticdl").rglob("*.py")}
    missing = [str(d.relative_to(root)) for d in directories if not (d / "__init__.py").exists()]
    assert missing == []
