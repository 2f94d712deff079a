"""What is printed for a cluster, and what is said of what cannot be done with one yet."""

from __future__ import annotations

import base64
import re
import shlex
from pathlib import Path

import pytest
import yaml

import elasticdl
from elasticdl.api.command_line import main
from elasticdl.errors import UsageError
from elasticdl.machine_options import variable
from tests.docs.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
TRAIN = [
    "train",
    "--cluster=kubernetes",
    "--image=registry/mnist:1",
    "--model_zoo=model_zoo",
    "--model_def=mnist.MnistElasticDLSpec",
    "--volume=claim_name=data,mount_path=/data",
    "--data=/data/x",
    "--output=/data/output",
]


def printed_by(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_a_dry_run_prints_the_objects_and_launches_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    text = printed_by([*TRAIN, "--dry_run", "--job_name=mnist-1"], capsys)
    assert text.startswith("# Holds the job's keys")
    assert [(one["kind"], one["metadata"]["name"]) for one in yaml.safe_load_all(text)] == [
        ("Job", "mnist-1"),
        ("Secret", "mnist-1"),
        ("Service", "mnist-1-master"),
    ]
    assert "&id" not in text
    assert not (tmp_path / "home").exists()


def test_what_a_pod_mounts_is_in_the_secret(capsys: pytest.CaptureFixture[str]) -> None:
    job, secret, _ = yaml.safe_load_all(printed_by([*TRAIN, "--dry_run"], capsys))
    volumes = {one["name"]: one for one in job["spec"]["template"]["spec"]["volumes"]}
    described = volumes["job"]["projected"]["sources"][0]["secret"]
    credentials = volumes["credentials"]["secret"]
    assert described["name"] == credentials["secretName"] == secret["metadata"]["name"]
    mounted = {item["key"] for item in [*described["items"], *credentials["items"]]}
    assert mounted <= secret["data"].keys()
    assert {"ps.key", "worker.key", "client.key", "ca.crt"} <= secret["data"].keys()


def test_two_dry_runs_have_different_keys(capsys: pytest.CaptureFixture[str]) -> None:
    tokens = {
        list(yaml.safe_load_all(printed_by([*TRAIN, "--dry_run"], capsys)))[1]["data"]["token"]
        for _ in range(2)
    }
    assert len(tokens) == 2


def test_a_template_that_breaks_a_pod_is_found_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text("worker: {spec: {restartPolicy: Always}}")
    error = refused([*TRAIN, "--dry_run", f"--pod_template={template}"], capsys)
    assert "pod_template: spec.restartPolicy cannot be changed" in error


@pytest.mark.parametrize(
    ("job_dir", "said"),
    [
        ("hdfs://there/job", "no such kind of place; give a local path, s3://BUCKET/PATH or gs://"),
        ("s3://key:word@there/job", "job_dir: 's3://…': has a key, or a host, before its path"),
        ("/elsewhere/job", "--job_dir=/elsewhere/job: no pod has this path; give one below"),
    ],
)
def test_a_job_dir_that_pods_cannot_have_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], job_dir: str, said: str
) -> None:
    for more in ([], ["--dry_run"]):
        error = refused([*TRAIN, f"--job_dir={job_dir}", *more], capsys)
        assert said in error
        assert "word" not in error


def test_a_job_without_a_cluster_is_not_launched_and_that_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert "no cluster is known" in refused(TRAIN, capsys)


def test_a_function_says_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="no cluster is known"):
        elasticdl.predict(
            cluster="kubernetes",
            trained_model="/data/output",
            data="/data/x",
            output="/data/p.csv",
            volume="claim_name=data,mount_path=/data",
        )


def test_without_an_image_it_is_said_which_one_would_be_built(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word for word in TRAIN if not word.startswith("--image")] + ["--dry_run"]
    assert "docker_image_repository: not given" in refused(words, capsys)
    words += ["--docker_image_repository=registry.example.com/team/", "--base_image=ours:1"]
    text = printed_by(words, capsys)
    said = [line for line in text.splitlines() if line.startswith("#")]
    assert "No image is built" in said[1]
    assert "of the zoo" in said[1]
    assert "model_zoo upon" in said[1]
    assert said[2] == "# ours:1, and pushed as registry.example.com/team/elasticdl; its digest " + (
        "stands in the pods then."
    )
    job, secret, _ = yaml.safe_load_all(text)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/team/elasticdl"
    described = yaml.safe_load(base64.b64decode(secret["data"]["job.yaml"]))
    assert described["model_zoo"] == "/model_zoo/custom"


def test_a_password_of_the_zoos_address_is_not_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word for word in TRAIN if not word.startswith(("--image", "--model_zoo"))]
    words += ["--dry_run", "--docker_image_repository=registry.example.com/team"]
    text = printed_by([*words, "--model_zoo=https://ada:SESAM@git.example.com/m@v1"], capsys)
    assert "of the zoo https://***@git.example.com/m@v1 upon" in text
    secrets = [one["data"] for one in yaml.safe_load_all(text) if one["kind"] == "Secret"]
    described = b"".join(base64.b64decode(value) for value in secrets[0].values())
    assert "SESAM" not in text
    assert b"SESAM" not in described


@pytest.mark.parametrize("text", ["\x00:", "[]", "a: [", "clusters: 3\ncurrent-context: a\n"])
def test_a_file_that_is_no_kubeconfig_is_said_in_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str,
) -> None:
    (tmp_path / "config").write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    assert "no cluster is known: " in refused(TRAIN, capsys)


def test_the_roles_are_printed_for_a_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["kubernetes", "rbac", "--namespace=training", "--submitter=ada"]
    objects = list(yaml.safe_load_all(printed_by(words, capsys)))
    assert [(one["kind"], one["metadata"]["name"]) for one in objects] == [
        ("ServiceAccount", "elasticdl-master"),
        ("Role", "elasticdl-master"),
        ("RoleBinding", "elasticdl-master"),
        ("Role", "elasticdl-submitter"),
        ("RoleBinding", "elasticdl-submitter"),
    ]
    assert {one["metadata"]["namespace"] for one in objects} == {"training"}
    assert objects[4]["subjects"][0]["name"] == "ada"


def test_a_wrong_namespace_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(["kubernetes", "rbac", "--namespace=A b"], capsys)
    assert "--namespace='A b': not an object's name" in error


def test_the_pages_commands_and_files_are_understood_without_a_cluster(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are run by tests/kubernetes/test_page.py, where there is one."""
    files = {
        text.splitlines()[0].removeprefix("# "): text
        for kind, text in blocks(PAGE)
        if kind == "yaml"
    }
    for one in yaml.safe_load_all(files["classes.yaml"]):
        assert (one["apiVersion"], one["kind"]) == ("scheduling.k8s.io/v1", "PriorityClass")
    config = tmp_path / "elasticdl" / "config.yaml"
    config.parent.mkdir()
    config.write_text(files["~/.config/elasticdl/config.yaml"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(variable("cluster"), raising=False)
    for name in ("small.yaml", "pods.yaml"):
        (tmp_path / name).write_text(files[name])
    monkeypatch.chdir(tmp_path)

    typed = re.findall(r"^\$ elasticdl (.*?[^\\])$", PAGE, re.MULTILINE | re.DOTALL)
    printing = [one for one in typed if one.startswith("kubernetes ") or "--dry_run" in one]
    assert len(printing) == 3
    for one in printing:
        words = shlex.split(re.split(r" [|>] ", one.replace("\\\n", " "))[0])
        assert list(yaml.safe_load_all(printed_by(words, capsys)))

    words = [word for word in TRAIN if not word.startswith(("--cluster", "--volume"))]
    words += ["--dry_run", "--pod_template=pods.yaml"]
    job, *_ = yaml.safe_load_all(printed_by(words, capsys))
    assert job["metadata"]["namespace"] == "training"
    assert "hostNetwork" not in job["spec"]["template"]["spec"]
