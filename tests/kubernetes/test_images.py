"""Images by a real Docker engine and a real registry; all but one without TensorFlow."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import docker
import pytest

from elasticdl.api.command_line import main
from elasticdl.api.image.build import build_image, digest_of, image_of_job
from elasticdl.errors import JobError, UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.model.zoo_sources import Zoo, resolve_zoo
from elasticdl.proto.trained_model_pb2 import TrainedModel
from tests.cluster.docker import BASE, Engine
from tests.docs.pages import ROOT
from tests.kubernetes.conftest import installed_with

# The first build of all installs what an image is made of.
pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1800)]
RUN_S = 300
KERNELS_LOADED = """
import os
from elasticdl.api.image.kernels import kernel_modules, kernel_variables
if {used}:
    os.environ.update(kernel_variables())
import importlib
for name in kernel_modules():
    importlib.import_module(name)
"""


@pytest.fixture(scope="session")
def without_tensorflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed_with("none", tmp_path_factory.mktemp("metadata")):
        yield


@pytest.fixture
def client(engine: Engine) -> Iterator[docker.DockerClient]:
    opened = engine.client()
    yield opened
    opened.close()


@pytest.fixture
def zoo(tmp_path: Path, without_tensorflow: None) -> Zoo:
    """A zoo whose images get no TensorFlow."""
    directory = tmp_path / "models"
    directory.mkdir()
    (directory / "model.py").write_text("ONE = 1\n")
    return Zoo(directory)


def run(client: docker.DockerClient, image: str, command: Sequence[str], **options: object) -> str:
    """Run a command in a container that is as a pod's is: read-only, without rights."""
    container = client.containers.create(
        image,
        entrypoint=list(command),
        read_only=True,
        tmpfs={"/tmp": ""},
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        network_mode="none",
        **options,
    )
    try:
        container.start()
        ended = container.wait(timeout=RUN_S)
        said = container.logs().decode()
        assert ended["StatusCode"] == 0, said
        return said
    finally:
        container.remove(force=True)


def layers(client: docker.DockerClient, image: str) -> list[str]:
    return client.images.get(image).attrs["RootFS"]["Layers"]


def test_what_is_built_and_pushed_is_pulled_by_its_digest_and_runs_as_nobody(
    client: docker.DockerClient, registry: str, zoo: Zoo
) -> None:
    told: list[str] = []
    image = build_image(zoo, f"{registry}/team", BASE, show=told.append)
    repository, _, digest = image.partition("@")
    assert repository == f"{registry}/team/elasticdl"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
    assert [line for line in told if line.startswith("building the image, step 1 of ")]
    assert told[-1] == f"pushed {image}"

    for tag in client.images.get(image).tags:
        client.api.remove_image(tag, noprune=True)
    client.images.pull(image)
    code = "import elasticdl, os; print(elasticdl.__version__, os.getuid(), os.getgid())"
    assert run(client, image, ["python", "-c", code]).split()[1:] == ["10001", "10001"]
    assert run(client, image, ["cat", "/model_zoo/custom/model.py"]) == "ONE = 1\n"
    written = ["sh", "-c", "touch /model_zoo/custom/x /opt/x 2>&1; ls /model_zoo/custom"]
    assert run(client, image, written).count("Read-only file system") == 2
    assert client.images.get(image).attrs["Config"]["User"] == "10001:10001"


def test_a_changed_model_file_changes_the_last_layer_alone(
    client: docker.DockerClient, registry: str, zoo: Zoo
) -> None:
    before = layers(client, build_image(zoo, registry, BASE, show=lambda line: None))
    (zoo.directory / "model.py").write_text("TWO = 2\n")
    began = time.monotonic()
    image = build_image(zoo, registry, BASE, show=lambda line: None)
    print(f"build and push after a changed model file: {time.monotonic() - began:.1f} s")
    after = layers(client, image)
    assert before[:-1] == after[:-1]
    assert before[-1] != after[-1]
    assert run(client, image, ["cat", "/model_zoo/custom/model.py"]) == "TWO = 2\n"


def test_nothing_changed_is_the_same_image(registry: str, zoo: Zoo) -> None:
    images = {build_image(zoo, registry, BASE, show=lambda line: None) for _ in range(2)}
    assert len(images) == 1


@pytest.mark.parametrize("used", [True, False])
def test_kernels_are_found_compiled_where_nothing_can_be_written(
    client: docker.DockerClient, registry: str, zoo: Zoo, used: bool
) -> None:
    image = build_image(zoo, registry, BASE, show=lambda line: None)
    began = time.monotonic()
    code = KERNELS_LOADED.format(used=used)
    variables = {"NUMBA_DEBUG_CACHE": "1", "HOME": "/tmp"}
    # As the image was pushed and is pulled, whose files have times of whole seconds.
    for tag in client.images.get(image).tags:
        client.api.remove_image(tag, noprune=True)
    client.images.pull(image)
    said = run(client, image, ["python", "-c", code], environment=variables)
    print(f"kernels {'loaded' if used else 'compiled'}: {time.monotonic() - began:.1f} s")
    loaded, compiled = said.count("data loaded from"), said.count("data saved to")
    if used:
        assert compiled == 0
        assert loaded > 50
    else:  # Else the other half proves nothing.
        assert compiled > 50
        assert loaded == 0


def test_requirements_are_installed_but_for_what_every_image_has(
    client: docker.DockerClient, registry: str, zoo: Zoo
) -> None:
    (zoo.directory / "requirements.txt").write_text("elasticdl>=0.1\ntf-keras\ntoolz>=0.12\n")
    (zoo.directory / "other").mkdir()
    (zoo.directory / "other" / "requirements.txt").write_text("# None.\nsix\n")
    image = build_image(zoo, registry, BASE, show=lambda line: None)
    said = run(client, image, ["python", "-m", "pip", "list", "--format=freeze"])
    assert "toolz==" in said
    assert "six==" in said
    assert "tensorflow" not in said


def test_a_requirement_that_cannot_be_installed_is_said_with_its_reason(
    registry: str, zoo: Zoo
) -> None:
    (zoo.directory / "requirements.txt").write_text("numpy<1\n")
    with pytest.raises(JobError, match="the image cannot be built") as caught:
        build_image(zoo, registry, BASE, show=lambda line: None)
    assert "numpy<1" in str(caught.value)


def test_a_zoo_may_say_what_its_image_begins_with(
    client: docker.DockerClient, registry: str, zoo: Zoo
) -> None:
    assert main(["zoo", "init", str(zoo.directory), f"--base_image={BASE}"]) == 0
    file = zoo.directory / "Dockerfile"
    file.write_text(f"{file.read_text()}RUN echo hello > /greeting\nUSER nobody\n")
    image = build_image(zoo, registry, "no.such/image", show=lambda line: None)
    assert run(client, image, ["cat", "/greeting"]) == "hello\n"
    assert client.images.get(image).attrs["Config"]["User"] == "10001:10001"


def test_no_layer_and_no_setting_has_a_secret(
    client: docker.DockerClient,
    registry: str,
    tmp_path: Path,
    zoo: Zoo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "f2b9c0ffee5ec7e7"
    for name in (".netrc", ".git/config", "venv/pyvenv.cfg", "job/token", ".env"):
        (zoo.directory / name).parent.mkdir(exist_ok=True)
        (zoo.directory / name).write_text(secret)
    (zoo.directory / "job" / "token").rename(zoo.directory / "job" / ".token")
    monkeypatch.setenv("ELASTICDL_GIT_PASSWORD", secret)
    monkeypatch.setenv("ELASTICDL_TOKEN", secret)
    image = build_image(zoo, registry, BASE, show=lambda line: None)
    assert secret not in str(client.api.history(image))
    assert secret not in str(client.images.get(image).attrs)
    saved = tmp_path / "image.tar"
    with saved.open("wb") as file:
        for chunk in client.images.get(image).save():
            file.write(chunk)
    with tarfile.open(saved) as archive:
        names = {name for name in archive.getnames() if name.endswith(("layer.tar", ".json"))}
        assert len(names) >= len(layers(client, image))
        for member in archive:
            content = archive.extractfile(member)
            while content is not None and (block := content.read(1 << 24)):
                assert secret.encode() not in block, member.name


def test_a_repository_is_in_the_image_at_its_commit(
    client: docker.DockerClient, registry: str, tmp_path: Path, zoo: Zoo
) -> None:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", *who, *words], cwd=zoo.directory, check=True, timeout=60)
    fetched = resolve_zoo(f"file://{zoo.directory}", tmp_path / "home")
    image = build_image(fetched, registry, BASE, show=lambda line: None)
    code = (
        "from pathlib import Path; from elasticdl.model.zoo_sources import zoo_of; "
        "print(zoo_of(Path('/model_zoo')).commit)"
    )
    assert run(client, image, ["python", "-c", code]).strip() == fetched.commit
    found = client.images.get(image).labels
    assert found["org.opencontainers.image.revision"] == fetched.commit


def test_commands_build_and_push_what_jobs_are_given(
    registry: str, zoo: Zoo, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{registry}/team/models:1"
    words = ["zoo", "build", str(zoo.directory), f"--image={name}", f"--base_image={BASE}"]
    assert main(words) == 0
    assert f"--image={name} --model_zoo=/model_zoo/custom" in capsys.readouterr().out
    with pytest.raises(UsageError):
        digest_of(name)
    assert main(["zoo", "push", name]) == 0
    pushed = capsys.readouterr().out.split()[-1]
    assert pushed == digest_of(name)
    assert pushed.startswith(f"{registry}/team/models@sha256:")
    assert digest_of(pushed) == pushed
    assert main(["zoo", "push", f"{registry}/team/models:2"]) == 2
    assert "the Docker engine has none of this name" in capsys.readouterr().err


def test_the_image_of_a_job_is_the_given_or_the_model_s_or_is_built(
    registry: str, zoo: Zoo, tmp_path: Path
) -> None:
    def predict(**options: str) -> JobSpec:
        trained = {"trained_model": str(tmp_path / "out"), "data": str(tmp_path / "x.recordio")}
        volume = f"host_path={tmp_path},mount_path={tmp_path}"
        given = {"cluster": "kubernetes", "volume": volume, "output": str(tmp_path / "p.csv")}
        return JobSpec.resolve("predict", {**trained, **given, **options})

    def said(line: str) -> None:
        told.append(line)

    told: list[str] = []
    directory = tmp_path / "out"
    (directory / "model_zoo").mkdir(parents=True)
    (directory / "model_zoo" / "model.py").write_text("ONE = 1\n")
    definition = TrainedModel(model_def="model.ONE")
    (directory / "trained_model.pb").write_bytes(definition.SerializeToString())
    repository = {"docker_image_repository": registry, "base_image": BASE}
    built = image_of_job(predict(**repository), said)
    assert built.startswith(f"{registry}/elasticdl@sha256:")
    with pytest.raises(UsageError, match="docker_image_repository: not given"):
        image_of_job(predict(), said)

    definition.docker_commit_id = built
    (directory / "trained_model.pb").write_bytes(definition.SerializeToString())
    told.clear()
    assert image_of_job(predict(**repository), said) == built
    assert told == []
    tagged = f"{registry}/elasticdl:given"
    client = docker.from_env()
    client.images.get(built).tag(tagged)
    client.images.push(tagged)
    client.close()
    assert image_of_job(predict(image=tagged), said) == built
    unknown = f"{registry}/elasticdl:none"
    assert image_of_job(predict(image=unknown), said) == unknown
    assert "it may change meanwhile" in told[-1]


def test_a_model_is_trained_in_its_image(
    engine: Engine, client: docker.DockerClient, registry: str, tmp_path: Path
) -> None:
    """The one image that has TensorFlow, and everything else of a real job."""
    data = tmp_path / "data"
    make = [sys.executable, "-m", "model_zoo.iris.make_data", f"--output={data}"]
    subprocess.run(make, cwd=ROOT, check=True, timeout=RUN_S)
    with installed_with("cpu", tmp_path):
        began = time.monotonic()
        image = build_image(Zoo(ROOT / "model_zoo"), registry, BASE, show=print)
        print(f"an image with TensorFlow: {time.monotonic() - began:.0f} s")
    (tmp_path / "out").mkdir(mode=0o777)
    (tmp_path / "out").chmod(0o777)
    options = [
        *(
            "--model_zoo=/model_zoo/custom",
            "--model_def=iris.IrisSpec",
            "--num_workers=0",
            "--num_epochs=2",
        ),
        *("--data=/data/train/*", "--output=/out/model", "--job_dir=/out/job"),
    ]
    said = run(
        client,
        image,
        ["python", "-m", "elasticdl.api", "train", *options],
        volumes={str(data): {"bind": "/data"}, str(tmp_path / "out"): {"bind": "/out"}},
        environment={"HOME": "/tmp"},
    )
    assert "trained model: " in said
    assert (tmp_path / "out" / "model" / "trained_model.pb").is_file()
