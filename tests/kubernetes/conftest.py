"""What tests with real daemons start from."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.docker import Engine, Registry
from tests.cluster.fixtures import api_namespace, apiserver, cluster, namespace
from tests.cluster.packages import NotHere
from tests.docs.pages import ROOT

__all__ = ["api_namespace", "apiserver", "cluster", "namespace"]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine of the tests' own, by which this process's builds go, with a base image."""
    with tempfile.TemporaryDirectory(prefix="elasticdl-", dir="/tmp") as directory:
        made = Engine(Path(directory))
        try:
            made.start()
        except NotHere as reason:
            pytest.skip(str(reason))
        try:
            made.base_image()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DOCKER_HOST", made.address)
                yield made
        finally:
            made.stop()


@pytest.fixture(scope="session")
def registry(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a registry that the engine reaches."""
    served = Registry(tmp_path_factory.mktemp("registry"))
    try:
        served.start()
        yield served.address
    finally:
        served.stop()


@contextmanager
def installed_with(tensorflow: str, directory: Path) -> Iterator[None]:
    """Have this process find the package as it is when it is installed with ELASTICDL_TENSORFLOW.

    Args:
      tensorflow: cpu, gpu or none: what images get, too.
      directory: for the metadata.
    """
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "dist_info", f"--output-dir={directory}"],
        cwd=ROOT,
        env={**os.environ, "ELASTICDL_TENSORFLOW": tensorflow},
        check=True,
        capture_output=True,
        timeout=120,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(directory))
        yield
