"""What an image is made of; that it works is tested with a real engine in tests/kubernetes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from elasticdl.api.command_line import main
from elasticdl.api.image import kernels
from elasticdl.api.image.build import build_image
from elasticdl.api.image.context import make_context
from elasticdl.api.image.wheel import dependencies, wheel_of_installed
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.machine_options import variable
from elasticdl.model.source import ModelSource
from elasticdl.model.zoo_sources import Zoo
from tests.docs.pages import ROOT


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    directory = tmp_path / "models"
    directory.mkdir()
    (directory / "model.py").write_text("ONE = 1\n")
    return Zoo(directory)


def files_of(zoo: Zoo) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(make_context(zoo, "base:1").archive)) as archive:
        found = {}
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            found[member.name] = content.read().decode(errors="replace")
        return found


def test_the_wheel_is_what_this_process_runs_and_can_be_installed(tmp_path: Path) -> None:
    wheel = wheel_of_installed()
    assert wheel_of_installed() == wheel
    path = tmp_path / wheel.name
    path.write_bytes(wheel.content)
    target = tmp_path / "installed"
    install = ["install", "--quiet", "--no-deps", "--no-compile", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", *install, path], check=True, timeout=120)
    names = zipfile.ZipFile(path).namelist()
    own = {name for name in names if name.startswith("elasticdl/")}
    for part in ("py.typed", "dashboard/page/index.html", "proto/ps_pb2.py", "api/image/wheel.py"):
        assert f"elasticdl/{part}" in own
    assert not [name for name in names if "__pycache__" in name]
    for name in own:
        assert (target / name).read_bytes() == (ROOT / name).read_bytes()
    (info,) = target.glob("elasticdl-*.dist-info")
    found = metadata.Distribution.at(info)
    assert found.metadata["Name"] == "elasticdl"
    assert found.metadata["Requires-Python"] == ">=3.11"
    assert set(found.requires or ()) >= {one for one in dependencies() if one.startswith("numba")}
    assert (target / "bin" / "elasticdl").exists()


def test_dependencies_are_those_of_jobs_of_pods_and_of_no_developer() -> None:
    names = {Requirement(text).name for text in dependencies()}
    assert {"numpy", "numba", "kubernetes"} <= names
    assert not {"pytest", "ruff", "tensorboard", "mlxtend"} & names
    assert not [text for text in dependencies() if "extra" in text]


def test_the_context_has_code_and_small_files_and_names_what_it_leaves_out(zoo: Zoo) -> None:
    for name in (".git/config", ".env", "data.recordio", "venv/x.py", "sub/words.txt"):
        path = zoo.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    (zoo.directory / "large.txt").write_bytes(b"x" * (2 << 20))
    in_zoo = {name for name in files_of(zoo) if name.startswith("zoo/")}
    assert in_zoo == {"zoo/model.py", "zoo/sub/words.txt"}
    context = make_context(zoo, "base:1")
    assert context.left_out == (zoo.directory / "large.txt",)
    assert make_context(zoo, "base:1") == context


def test_each_layer_changes_less_often_than_the_next(zoo: Zoo) -> None:
    (zoo.directory / "requirements.txt").write_text("elasticdl>=1\npandas>=2 # Tables.\n")
    files = files_of(zoo)
    order = ["FROM base:1", "dependencies.txt", "COPY requirements", "*.whl", "COPY zoo"]
    places = [files["Dockerfile"].index(part) for part in order]
    assert places == sorted(places)
    assert files["Dockerfile"].rstrip().endswith("COPY zoo /model_zoo/custom")
    assert files["requirements/requirements.txt"] == "pandas>=2 # Tables.\n"


def test_requirements_may_name_other_files_of_the_zoo(zoo: Zoo, tmp_path: Path) -> None:
    texts = {
        "requirements.txt": "-r base.txt  # Shared.\n--constraint=limits/all.txt\n",
        "base.txt": "tensorflow\nnumpy\n-r wide/requirements.txt\n",
        "limits/all.txt": "-c 'more limits.txt'\nnumpy<1000\n",
        "limits/more limits.txt": "packaging<1000\n",
        "wide/requirements.txt": "--requirement ../notes/a.txt\n-rhttps://example.com/x.txt\n",
        "notes/a.txt": "numpy\n",
        "notes/b.txt": "numpy\n",
    }
    for name, text in texts.items():
        (zoo.directory / name).parent.mkdir(exist_ok=True)
        (zoo.directory / name).write_text(text)
    files = files_of(zoo)
    brought = {name for name in files if name.startswith("requirements/")}
    assert brought == {f"requirements/{name}" for name in texts if name != "notes/b.txt"}
    assert "tensorflow" not in files["requirements/base.txt"]
    asked = " -r /opt/elasticdl/requirements/requirements.txt"
    assert f"{asked} -r /opt/elasticdl/requirements/wide/requirements.txt" in files["Dockerfile"]
    for name in brought:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(files[name].replace("-rhttps", "# "))
    words = ["install", "--dry-run", "--no-index", "-r", tmp_path / "requirements/requirements.txt"]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=120)


@pytest.mark.parametrize("named", ["none.txt", "../outside.txt", "/etc/hosts"])
def test_requirements_that_name_what_no_image_has_are_refused_before_the_build(
    zoo: Zoo, tmp_path: Path, named: str
) -> None:
    (tmp_path / "outside.txt").write_text("numpy\n")
    (zoo.directory / "requirements.txt").write_text(f"numpy\n-c {named}\n")
    with pytest.raises(UsageError, match=rf"'requirements.txt' names '{named}'") as caught:
        make_context(zoo, "base:1")
    assert "\n" not in str(caught.value)


def test_requirements_that_name_each_other_are_brought_once(zoo: Zoo) -> None:
    (zoo.directory / "requirements.txt").write_text("-r base.txt\n")
    (zoo.directory / "base.txt").write_text("-r requirements.txt\n")
    brought = sorted(name for name in files_of(zoo) if name.startswith("requirements/"))
    assert brought == ["requirements/base.txt", "requirements/requirements.txt"]


def test_a_directory_of_any_name_may_have_requirements(zoo: Zoo) -> None:
    path = zoo.directory / "wide & deep" / "requirements.txt"
    path.parent.mkdir()
    path.write_text("pandas>=2\n")
    text = files_of(zoo)["Dockerfile"]
    assert " -r '/opt/elasticdl/requirements/wide & deep/requirements.txt'" in text


def test_a_link_that_leads_out_of_a_zoo_is_refused(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("SECRET = 1")
    (zoo.directory / "inside.py").symlink_to("model.py")
    assert files_of(zoo)["zoo/inside.py"] == "ONE = 1\n"
    (zoo.directory / "linked.py").symlink_to("../outside.py")
    with pytest.raises(UsageError, match=r"'linked.py' is a symbolic link that leads out"):
        make_context(zoo, "base:1")


def test_the_image_of_a_job_is_known_to_what_it_trains() -> None:
    options = {
        "cluster": "kubernetes",
        "image": f"registry/team/models@sha256:{64 * '0'}",
        "model_zoo": "model_zoo",
        "model_def": "mnist.MnistElasticDLSpec",
        "data": "/data/x",
        "output": "/data/output",
        "volume": "claim_name=data,mount_path=/data",
    }
    source = ModelSource.of_job(JobSpec.resolve("train", options))
    assert source.image == options["image"]


def test_where_there_is_no_engine_one_line_says_so(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    with pytest.raises(UsageError, match="no Docker engine") as caught:
        build_image(zoo, "registry/team", "base:1", show=lambda line: None)
    assert "\n" not in str(caught.value)


def test_init_writes_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable("base_image"), "registry/base:2")
    (tmp_path / "requirements.txt").write_text("pandas\n")
    assert main(["zoo", "init", str(tmp_path)]) == 0
    assert "FROM registry/base:2\n" in (tmp_path / "Dockerfile").read_text()
    assert (tmp_path / "requirements.txt").read_text() == "pandas\n"
    assert main(["zoo", "init", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_zoo_that_is_not_there_is_not_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["zoo", "build", str(tmp_path / "none"), "--image=registry/x:1"]) == 2
    assert "no such directory" in capsys.readouterr().err
    assert main(["zoo", "build", str(tmp_path)]) == 2
    assert "`zoo build` needs --image" in capsys.readouterr().err


def test_every_module_with_kernels_is_compiled_into_images() -> None:
    with_kernels = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "elasticdl").rglob("*.py")
        if "cache=True" in path.read_text(encoding="utf-8")
    }
    listed = [*kernels.MODULES, *kernels.MODULES_OF_WORKERS]
    packages = [name.removesuffix(".*") for name in listed if name.endswith(".*")]
    covered = {*listed, *(f"{package}.__init__" for package in packages)}
    left = {name for name in with_kernels - covered if name.rpartition(".")[0] not in packages}
    assert not left
    assert "elasticdl.ps.optimizer_kernels.adam" in set(kernels.kernel_modules())


LOAD = """
import os, sys
from pathlib import Path
from elasticdl.api.image import kernels
directory = Path(sys.argv[1])
if sys.argv[2] == "compile":
    kernels.MODULES, kernels.MODULES_OF_WORKERS = ("elasticdl.ps.averaging",), ()
    kernels.compile_kernels(directory)
else:
    os.environ.update(kernels.kernel_variables(directory))
    import elasticdl.ps.averaging
"""


def test_compiled_kernels_are_found_where_they_cannot_be_written(tmp_path: Path) -> None:
    compiled, temporary = tmp_path / "kernels", tmp_path / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "NUMBA_DEBUG_CACHE": "1", "TMPDIR": str(temporary)}

    def said(what: str) -> str:
        command = [sys.executable, "-c", LOAD, str(compiled), what]
        ended = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert said("compile").count("data saved to") > 0
    for _ in range(2):  # A container that is restarted in place has what it copied.
        loaded = said("load")
        assert loaded.count("data loaded from") > 0
        assert "data saved to" not in loaded
    assert [path.name for path in temporary.iterdir()] == ["elasticdl-kernels"]
