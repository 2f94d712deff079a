import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The sources as they are in a fresh clone: nothing generated."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "Makefile"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(
        ROOT / "elasticdl",
        copy / "elasticdl",
        ignore=shutil.ignore_patterns("__pycache__", "*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py"),
    )
    return copy


def build(*arguments: str, cwd: Path) -> None:
    command = [sys.executable, *arguments]
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if "No matching distribution" in ended.stderr:
        pytest.skip("pip cannot reach a package index for the build's requirements")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_a_wheel_has_the_generated_code_the_types_templates_and_the_page(source, tmp_path):
    build("-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(source), cwd=tmp_path)
    (wheel,) = tmp_path.glob("elasticdl-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    protos = {path.stem for path in (ROOT / "elasticdl" / "proto").glob("*.proto")}
    expected = {"elasticdl/py.typed"}
    for proto in protos:
        for suffix in (".proto", "_pb2.py", "_pb2.pyi", "_pb2_grpc.py"):
            expected.add(f"elasticdl/proto/{proto}{suffix}")
    templates = (source / "elasticdl" / "api" / "templates").glob("*.template")
    expected |= {str(path.relative_to(source)) for path in templates}
    assert protos
    assert "elasticdl/api/templates/spec.py.template" in expected
    page = (source / "elasticdl" / "dashboard" / "page").iterdir()
    expected |= {str(path.relative_to(source)) for path in page}
    assert "elasticdl/dashboard/page/index.html" in expected
    assert expected <= names
    modules = {str(path.relative_to(source)) for path in (source / "elasticdl").rglob("*.py")}
    assert modules <= names


def test_the_source_tree_stays_clean_and_an_sdist_has_no_generated_code(source, tmp_path):
    build("setup.py", "-q", "sdist", "-d", str(tmp_path), cwd=source)
    (archive,) = tmp_path.glob("elasticdl-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = opened.getnames()
    assert any(name.endswith("ps.proto") for name in names)
    assert not [name for name in names if "_pb2" in name]
    assert not list((source / "elasticdl").rglob("*_pb2*"))
