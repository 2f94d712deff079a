"""Options of the machine: where they may stand, which of them holds, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from elasticdl.errors import UsageError
from elasticdl.job_spec import OPTIONS, JobSpec
from elasticdl.machine_options import variable

TRAIN = {
    "model_zoo": "model_zoo",
    "model_def": "mnist.MnistElasticDLSpec",
    "data": "/data/*.recordio",
    "output": "/data/output",
    "volume": "claim_name=data,mount_path=/data",
}
LOCAL = {**TRAIN, "volume": None}


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This person's configuration, which is not there yet."""
    for name in OPTIONS:
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "elasticdl" / "config.yaml"
    path.parent.mkdir(parents=True)
    return path


def test_flags_hold_over_config_over_environment_over_file_over_default(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def namespace(**options: str) -> str:
        return JobSpec.resolve("train", {**TRAIN, "cluster": "kubernetes", **options}).namespace

    assert namespace() == ""
    file.write_text("namespace: of-file")
    assert namespace() == "of-file"
    monkeypatch.setenv("ELASTICDL_NAMESPACE", "of-environment")
    assert namespace() == "of-environment"
    config = tmp_path / "job.yaml"
    config.write_text("namespace: of-config")
    assert namespace(config=str(config)) == "of-config"
    assert namespace(config=str(config), namespace="of-flag") == "of-flag"


def test_the_file_alone_makes_a_command_one_of_the_cluster(file: Path) -> None:
    file.write_text(
        "cluster: kubernetes\nnamespace: training\n"
        "volume: ['claim_name=data,mount_path=/data', 'host_path=/x,mount_path=/y']\n"
    )
    spec = JobSpec.resolve("train", LOCAL)
    assert (spec.cluster, spec.namespace) == ("kubernetes", "training")
    assert len(spec.volume) == 2


def test_what_is_known_of_a_cluster_leaves_a_local_job_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("cluster: kubernetes\nnamespace: training\n")
    monkeypatch.setenv("ELASTICDL_DOCKER_IMAGE_REPOSITORY", "registry/team")
    spec = JobSpec.resolve("train", {**LOCAL, "cluster": "local"})
    assert (spec.cluster, spec.namespace, spec.docker_image_repository) == ("local", "", "")


def test_a_command_without_instances_is_not_concerned(file: Path) -> None:
    file.write_text("cluster: kubernetes\n")
    assert JobSpec.resolve("check", {**LOCAL, "output": None}).cluster == "local"


def test_a_job_that_was_described_stays_so(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    JobSpec.resolve("train", LOCAL).save(tmp_path / "job")
    file.write_text("cluster: kubernetes\n")
    monkeypatch.setenv("ELASTICDL_NAMESPACE", "training")
    assert JobSpec.load(tmp_path / "job").cluster == "local"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("cluster: moon", "config.yaml: cluster='moon': no such choice; give local or kubernetes"),
        ("num_epochs: 3", "config.yaml: num_epochs: an option of a job; this file has those of"),
        ("namspace: x", "config.yaml: namspace: no such option; did you mean namespace?"),
        ("[1]", "config.yaml': not a mapping of options"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        JobSpec.resolve("train", LOCAL)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELASTICDL_CLUSTER", "moon")
    with pytest.raises(UsageError, match=r"^\$ELASTICDL_CLUSTER: cluster='moon': no such choice"):
        JobSpec.resolve("train", LOCAL)


def test_who_has_no_home_has_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", "/proc/1/root/nobody")
    assert JobSpec.resolve("train", LOCAL).cluster == "local"
