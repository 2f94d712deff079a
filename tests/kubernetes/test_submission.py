"""Jobs as they are submitted to a real apiserver, by who may do just that, and removed again."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from elasticdl.api import job_logs, jobs
from elasticdl.api.command_line import main
from elasticdl.api.functions import resume_job
from elasticdl.api.job_backends import PLACE
from elasticdl.api.kubernetes.following import follow, launch
from elasticdl.api.kubernetes.place import KubernetesJob
from elasticdl.api.kubernetes.port_forward import NoMaster, master_pod
from elasticdl.api.kubernetes.record import Submitted
from elasticdl.api.kubernetes.submission import check_submittable, leftovers, remove, submit
from elasticdl.api.result import JobStatus
from elasticdl.credentials import Credentials
from elasticdl.errors import Detached, JobError, UsageError
from elasticdl.job_spec import JobSpec, jobs_home
from elasticdl.master.cluster.kubernetes.client import KubeClient, NotAsked, NotFound
from elasticdl.master.cluster.kubernetes.last_acts import STATE_ANNOTATION
from elasticdl.master.cluster.kubernetes.names import (
    RESUMES_ANNOTATION,
    claim_name,
    pod_name,
    result_name,
)
from elasticdl.master.cluster.kubernetes.objects import (
    LaunchedBy,
    Owner,
    claim_map,
    instance_pod,
    result_map,
)
from elasticdl.master.instances import Needs
from tests.cluster.api import Api, Namespace
from tests.cluster.api_only import ApiOnly
from tests.docs.pages import ROOT
from tests.kubernetes.objects import client as client_of
from tests.kubernetes.objects import wait_for
from tests.master.kubernetes.jobs import IMAGE, job, worker

pytestmark = pytest.mark.apiserver

NAME = "mnist-1"
STEPS = 4
"""Job, Secret, Service, and the Job again."""


class Person:
    """Who submits jobs, with nothing but the rights for it."""

    def __init__(self, api: Api, namespace: Namespace) -> None:
        self.api = api
        self.namespace = namespace.name
        self.client = KubeClient.of_kubeconfig()
        self.admin = client_of(namespace.admin, namespace)

    def submit(self, spec: JobSpec | None = None) -> KubernetesJob:
        directory = jobs_home() / NAME
        submitted = submit(spec or job(), IMAGE, directory, self.client)
        return KubernetesJob(NAME, directory, submitted)

    def left(self) -> list[str]:
        return leftovers(self.admin, NAME)

    def launch(self, submitted: Submitted) -> None:
        """What a master makes of a job: a worker's pod, a claim."""
        owner = Owner(NAME, submitted.uid)
        by = LaunchedBy(owner, IMAGE, "10.0.0.1:2222", 1, "s1")
        for made in (instance_pod(job(), worker(), Needs(), by), claim_map(job(), owner)):
            self.admin.create(self.placed(made))

    def keep_result(self, **result: Any) -> None:
        made = self.placed(result_map(job()))
        self.admin.create({**made, "data": {"result.json": json.dumps(result)}})

    def placed(self, made: dict[str, Any]) -> dict[str, Any]:
        return {**made, "metadata": {**made["metadata"], "namespace": self.namespace}}


@pytest.fixture
def person(
    apiserver: ApiOnly,
    api_namespace: Namespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Person]:
    monkeypatch.setenv("KUBECONFIG", str(api_namespace.submitter))
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    made = Person(apiserver.api, api_namespace)
    yield made
    made.client.close()
    made.admin.close()


def test_a_job_is_a_job_that_owns_the_rest_and_begins_last(person: Person) -> None:
    placed = person.submit()
    live = person.admin.get("Job", NAME)
    assert live["spec"]["parallelism"] == 1
    assert placed.submitted.uid == live["metadata"]["uid"]
    assert sorted(person.left()) == [f"Job {NAME}", f"Secret {NAME}", f"Service {NAME}-master"]
    for kind, name in (("Secret", NAME), ("Service", f"{NAME}-master")):
        (owner,) = person.admin.get(kind, name)["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Job", placed.submitted.uid)
        assert not owner["blockOwnerDeletion"]


def test_what_shows_this_machine_to_the_job_is_its_owners_alone(person: Person) -> None:
    directory = person.submit().directory
    secret = person.admin.get("Secret", NAME)["data"]
    shown = Credentials.of_directory(directory)
    assert shown.token == base64.b64decode(secret["token"]).decode()
    assert shown.client_context is not None
    assert (directory / "tls.crt").read_bytes() == base64.b64decode(secret["client.crt"])
    for name in ("token", "tls.key", "job.yaml"):
        assert (directory / name).stat().st_mode & 0o077 == 0
    assert JobSpec.load(directory).image == IMAGE


@pytest.mark.parametrize("steps", range(1, STEPS + 1))
def test_whoever_submits_dies_after_any_step_and_one_stop_leaves_nothing(
    person: Person, steps: int
) -> None:
    command = [sys.executable, "-m", "tests.kubernetes.submitting", str(steps)]
    ended = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(person.left()) == min(steps, STEPS - 1)
    assert PLACE.find(NAME).is_running() == (steps == STEPS)
    assert main(["jobs", "stop", NAME]) == 0
    assert person.left() == []
    assert jobs.status(NAME)["state"] == "stopped"


def test_the_steps_are_all_there_are(person: Person) -> None:
    command = [sys.executable, "-m", "tests.kubernetes.submitting", str(STEPS + 1)]
    ended = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_a_name_that_is_taken_is_refused_and_nothing_is_changed(
    person: Person, tmp_path: Path
) -> None:
    placed = person.submit()
    with pytest.raises(UsageError, match="holds a job already"):
        person.submit()
    with pytest.raises(UsageError, match=rf"Job '{NAME}' is in namespace.*jobs stop k8s:"):
        submit(job(), IMAGE, tmp_path / "other", person.client)
    assert not (tmp_path / "other").exists()
    assert person.admin.get("Job", NAME)["metadata"]["uid"] == placed.submitted.uid
    assert len(person.left()) == 3


def test_a_submission_that_is_refused_half_way_leaves_nothing(
    person: Person, tmp_path: Path
) -> None:
    stray = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"{NAME}-master", "namespace": person.namespace},
        "spec": {"ports": [{"port": 1}]},
    }
    person.admin.create(stray)
    with pytest.raises(UsageError, match="Service 'mnist-1-master' is in namespace"):
        person.submit()
    assert person.left() == []
    assert not (jobs_home() / NAME).exists()
    assert person.admin.get("Service", f"{NAME}-master")["spec"]["ports"][0]["port"] == 1


def test_who_may_not_submit_is_told_what_it_takes(
    apiserver: ApiOnly, api_namespace: Namespace, person: Person, tmp_path: Path
) -> None:
    master = client_of(api_namespace.master, api_namespace)
    with pytest.raises(UsageError, match=r"forbidden.*elasticdl kubernetes rbac"):
        submit(job(), IMAGE, tmp_path / "job", master)
    master.close()
    assert not (tmp_path / "job").exists()


def test_what_the_cluster_refuses_is_said_before_an_image_is_built(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no Docker engine: to build one would be the first thing to fail."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "mnist.py").write_text("class MnistElasticDLSpec: ...\n")
    zoo = {"model_zoo": str(tmp_path / "zoo"), "docker_image_repository": "registry/team"}
    unbuilt = job(image=None, **zoo)
    with pytest.raises(UsageError, match="no Docker engine"):
        launch(unbuilt, lambda status: None)
    submit(job(), IMAGE, tmp_path / "other", person.client)
    with pytest.raises(UsageError, match=rf"Job '{NAME}' is in namespace.*jobs stop k8s:"):
        launch(unbuilt, lambda status: None)
    with pytest.raises(UsageError, match=r"forbidden.*elasticdl kubernetes rbac"):
        launch(unbuilt.model_copy(update={"namespace": "default"}), lambda status: None)
    assert not (jobs_home() / NAME).exists()


@pytest.mark.parametrize(
    ("template", "role", "told"),
    [
        ("spec: {hostNetwork: 'of course'}", "master", "hostNetwork"),
        ("worker: {spec: {tolerations: [{operator: Sometimes}]}}", "worker", "tolerations"),
        ("ps: {spec: {nodeSelector: {disk: very fast}}}", "ps", "nodeSelector"),
    ],
)
def test_a_pod_that_the_apiserver_refuses_is_told_of_before_an_image_is_built(
    person: Person, tmp_path: Path, template: str, role: str, told: str
) -> None:
    (tmp_path / "zoo").mkdir()
    (tmp_path / "pods.yaml").write_text(template)
    options = {"model_zoo": str(tmp_path / "zoo"), "docker_image_repository": "registry/team"}
    refused = job(image=None, pod_template=str(tmp_path / "pods.yaml"), **options)
    with pytest.raises(
        UsageError, match=rf"pods.yaml': .* the pod of a {role}: .*{told}"
    ) as caught:
        launch(refused, lambda status: None)
    assert "\n" not in str(caught.value)
    assert person.left() == []
    assert not (jobs_home() / NAME).exists()


def test_an_apiserver_that_is_away_is_named_before_an_image_is_built(
    person: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        port = nobody_listens.getsockname()[1]
        for cluster in known["clusters"]:
            cluster["cluster"]["server"] = f"https://127.0.0.1:{port}"
        (tmp_path / "away").write_text(yaml.safe_dump(known))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "away"))
        away = KubeClient.of_kubeconfig()
        with pytest.raises(NotAsked):
            check_submittable(away, NAME, for_s=0)
        away.close()


def test_stop_removes_what_a_master_made_and_what_belongs_to_nothing(person: Person) -> None:
    placed = person.submit()
    person.launch(placed.submitted)
    person.keep_result(state="succeeded", audit={"lost": 0})
    assert f"Pod {pod_name(NAME, worker())}" in person.left()
    jobs.stop(NAME, now=True)
    assert person.left() == []
    assert jobs.wait(NAME)["state"] == "succeeded"  # It had ended, and its result was fetched.
    with pytest.raises(JobError, match="does not run"):
        jobs.stop(NAME)


def test_a_result_that_was_kept_is_fetched_once_and_removed(person: Person) -> None:
    placed = person.submit()
    assert placed.is_running()
    result = {"state": "failed", "error": "it ran out of luck", "traceback": ""}
    person.keep_result(**result)
    remove_job(person)
    assert jobs.wait(NAME, timeout_s=30) == {"name": NAME, **result}
    assert person.left() == []
    assert jobs.list_jobs()[0]["state"] == "failed"


def test_a_result_that_was_asked_for_stays(person: Person) -> None:
    person.submit(job(keep_objects="result"))
    person.keep_result(state="succeeded", audit={})
    remove_job(person)
    assert jobs.wait(NAME, timeout_s=30)["state"] == "succeeded"
    assert person.left() == [f"ConfigMap {NAME}-result"]
    jobs.stop(NAME)
    assert person.left() == []


def remove_job(person: Person) -> None:
    """Delete the Job with what belongs to it, as a garbage collector would."""
    for kind, name in (one.split() for one in person.left()):
        if name != result_name(NAME):
            person.admin.delete(kind, name, grace_s=0 if kind == "Pod" else None)


def test_jobs_of_pods_are_listed_with_others_and_say_where_they_stand(person: Person) -> None:
    placed = person.submit()
    (listed,) = jobs.list_jobs()
    assert (listed["name"], listed["state"], listed["command"]) == (NAME, "running", "train")
    found = jobs.status(NAME)
    assert (found["state"], found["dashboard"], found["health"]) == ("running", None, [])
    annotation = {STATE_ANNOTATION: "failed"}
    person.admin.patch("Job", NAME, {"metadata": {"annotations": annotation}})
    assert not KubernetesJob(NAME, placed.directory, placed.submitted).is_running()
    remove(person.client, placed.submitted)
    assert jobs.list_jobs()[0]["state"] == "lost"


def test_a_job_whose_cluster_is_away_is_of_unknown_state(
    person: Person, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    person.submit()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert [one["state"] for one in jobs.list_jobs()] == ["unknown"]


def test_the_job_of_somebody_else_is_found_by_namespace_and_name(
    person: Person, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    person.submit()
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "other"))
    named = f"k8s:{person.namespace}/{NAME}"
    found = jobs.status(named)
    assert (found["name"], found["state"]) == (NAME, "running")
    directory = PLACE.find(named).directory
    assert Credentials.of_directory(directory).job == NAME
    person.keep_result(state="succeeded")
    assert jobs.status(named)["state"] == "succeeded"
    assert f"ConfigMap {NAME}-result" in person.left()  # It is for whoever submitted it.
    jobs.stop(named)
    assert person.left() == []
    with pytest.raises(UsageError, match="no such job"):
        PLACE.find(f"k8s:{person.namespace}/other")
    with pytest.raises(UsageError, match="not k8s:NAMESPACE/NAME"):
        PLACE.find("k8s:mnist-1")


@pytest.mark.parametrize("now", [False, True])
def test_a_job_of_the_same_name_that_came_later_is_left_alone(
    person: Person, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, now: bool
) -> None:
    own = person.submit()
    remove(person.client, own.submitted)
    with monkeypatch.context() as somebody_else:
        somebody_else.setenv("ELASTICDL_HOME", str(tmp_path / "other"))
        later = person.submit().submitted
    others = person.left()
    named = rf"another of its name.*k8s:{person.namespace}/{NAME}"
    with pytest.raises(UsageError, match=named):
        jobs.stop(NAME, now=now)
    with pytest.raises(UsageError, match=named):
        resume_job(NAME)
    with pytest.raises(UsageError, match=named):
        own.end_failed("its master did not start")
    with pytest.raises(UsageError, match=named):
        job_logs.log_lines(NAME)
    assert list(job_logs.log_lines(f"k8s:{person.namespace}/{NAME}")) == []
    assert person.left() == others
    live = person.admin.get("Job", NAME)["metadata"]
    assert (live["uid"], live.get("deletionTimestamp")) == (later.uid, None)
    assert jobs.list_jobs()[0]["state"] == "lost"
    jobs.stop(f"k8s:{person.namespace}/{NAME}", now=now)
    assert person.left() == []


def test_what_is_no_job_of_ours_has_no_state_and_is_left_alone(
    person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    container = {"name": "main", "image": "other"}
    pod = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": "backup", "namespace": person.namespace}
    spec = {"parallelism": 0, "template": pod}
    person.admin.create(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    )
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata}
    person.admin.create({**secret, "data": {"password": ""}})
    for command in ("status", "events", "audit"):
        assert main(["jobs", command, f"k8s:{person.namespace}/backup"]) == 2
        assert "no Secret says what it is" in capsys.readouterr().err
    assert main(["jobs", "stop", f"k8s:{person.namespace}/backup"]) != 0
    assert person.admin.get("Job", "backup")["spec"]["parallelism"] == 0
    assert person.admin.get("Secret", "backup")["data"] == {"password": ""}


def test_what_kubectl_applied_is_stopped_though_its_secret_belongs_to_nothing(
    person: Person,
) -> None:
    from elasticdl.master.cluster.kubernetes.objects import submission_objects
    from tests.master.kubernetes.jobs import SECRET

    for made in submission_objects(job(), IMAGE, SECRET):
        person.client.create(person.placed(made))
    jobs.stop(f"k8s:{person.namespace}/{NAME}")
    assert person.left() == []


def test_a_job_that_was_lost_is_submitted_again_under_its_name(person: Person) -> None:
    placed = person.submit()
    first = Credentials.of_directory(placed.directory).token
    with pytest.raises(UsageError, match="it still runs"):
        resume_job(NAME)
    annotations = person.admin.get("Job", NAME)["metadata"]["annotations"]
    person.admin.delete("Job", NAME)
    ended: list[BaseException] = []

    def resume() -> None:
        try:
            resume_job(NAME)
        except JobError as error:
            ended.append(error)

    thread = threading.Thread(target=resume)
    thread.start()
    wait_for(lambda: started_again(person, placed.submitted.uid), "the job is there again")
    directory = jobs_home() / NAME
    again = Submitted.load(directory)
    assert RESUMES_ANNOTATION not in annotations
    assert RESUMES_ANNOTATION in person.admin.get("Job", NAME)["metadata"]["annotations"]
    assert again.job_dir == "/data/.elasticdl/mnist-1"
    assert Credentials.of_directory(directory).token != first
    person.keep_result(state="failed", error="no luck before", session=f"{placed.submitted.uid}.1")
    assert not PLACE.find(NAME).directory.joinpath("result.json").exists()
    person.admin.delete("ConfigMap", result_name(NAME))
    uid = again.uid
    person.keep_result(state="failed", error="no luck again", traceback="", session=f"{uid}.2")
    remove_job(person)
    thread.join(30)
    assert "no luck again" in str(ended[0])
    assert person.left() == []


def started_again(person: Person, before: str) -> bool:
    try:
        live = person.admin.get("Job", NAME)
    except NotFound:
        return False
    return live["metadata"]["uid"] != before and live["spec"]["parallelism"] == 1


def test_whoever_follows_a_job_hears_why_it_waits_and_how_it_ended(person: Person) -> None:
    placed = person.submit()
    person.launch(placed.submitted)
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    path = f"/api/v1/namespaces/{person.namespace}/pods/{pod_name(NAME, worker())}/status"
    status = {"status": {"conditions": [{**condition, "message": "no room"}]}}
    person.api.call("PATCH", path, status, "strategic-merge-patch+json")
    said: list[str] = []

    def show(status: JobStatus) -> None:
        said.append(status.message)
        if "no room" in status.message:
            person.keep_result(state="failed", error="it ran out of luck", traceback="")
            remove_job(person)

    with pytest.raises(JobError, match="it ran out of luck"):
        follow(placed, show)
    assert "worker 0 waits: Unschedulable: no room" in said


def tell_of_job(person: Person, uid: str, reason: str, message: str, at: str) -> None:
    """What a Job's controller tells of it; there is none here."""
    person.admin.create(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{NAME}.{reason.lower()}", "namespace": person.namespace},
            "involvedObject": {
                "kind": "Job",
                "name": NAME,
                "namespace": person.namespace,
                "uid": uid,
            },
            "reason": reason,
            "message": message,
            "lastTimestamp": at,
            "type": "Warning",
        }
    )


NO_ACCOUNT = 'pods "mnist-1-" is forbidden: error looking up service account elasticdl-master'


def test_a_master_whose_pod_cannot_be_created_is_waited_for_no_longer_than_asked(
    person: Person,
) -> None:
    placed = person.submit(job(start_deadline=1))
    tell_of_job(person, placed.submitted.uid, "FailedCreate", NO_ACCOUNT, "2026-01-01T10:00:00Z")
    said: list[str] = []
    with pytest.raises(JobError, match=r"did not start in 1 s: .*service account"):
        follow(placed, lambda status: said.append(status.message))
    assert f"master waits: {NO_ACCOUNT}" in said
    assert person.left() == []
    assert jobs.status(NAME)["state"] == "failed"


@pytest.mark.parametrize(
    ("message", "then"),
    [
        ("exceeded quota: cores, requested: 1", ""),
        (NO_ACCOUNT, "SuccessfulCreate"),
    ],
)
def test_a_master_that_waits_for_room_or_was_created_since_is_waited_for(
    person: Person, message: str, then: str
) -> None:
    placed = person.submit(job(start_deadline=1))
    uid = placed.submitted.uid
    tell_of_job(person, uid, "FailedCreate", message, "2026-01-01T10:00:00Z")
    if then:
        tell_of_job(person, uid, then, "Created pod: mnist-1-abcde", "2026-01-01T10:00:05Z")
    said: list[str] = []
    looks = 0

    class Looking(KubernetesJob):
        def job(self) -> dict[str, Any] | None:
            nonlocal looks
            looks += 1
            if looks == 5:
                raise KeyboardInterrupt
            return super().job()

    with pytest.raises(Detached):
        follow(Looking(NAME, placed.directory, placed.submitted), lambda s: said.append(s.message))
    assert (f"master waits: {message}" in said) == (not then)
    assert placed.is_running()


def test_who_follows_a_job_that_somebody_deletes_hears_so(person: Person) -> None:
    placed = person.submit()
    person.admin.delete("Job", NAME)
    with pytest.raises(JobError, match="somebody deleted it"):
        follow(placed, lambda status: None)


def test_ctrl_c_detaches_and_the_job_goes_on(person: Person) -> None:
    placed = person.submit()

    def press(status: JobStatus) -> None:
        raise KeyboardInterrupt

    person.launch(placed.submitted)
    pod = pod_name(NAME, worker())
    path = f"/api/v1/namespaces/{person.namespace}/pods/{pod}/status"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    person.api.call(
        "PATCH", path, {"status": {"conditions": [condition]}}, "strategic-merge-patch+json"
    )
    with pytest.raises(Detached, match="detached; job mnist-1 goes on: elasticdl jobs logs"):
        follow(placed, press)
    assert placed.is_running()


def test_train_is_detached_by_ctrl_c_and_says_how_to_go_on(person: Person, tmp_path: Path) -> None:
    words = [
        *("--cluster=kubernetes", f"--image={IMAGE}", "--model_zoo=/model_zoo"),
        *("--model_def=mnist.MnistElasticDLSpec", "--data=/data/*.recordio", f"--job_name={NAME}"),
        *("--output=/data/output", "--volume=claim_name=data,mount_path=/data"),
    ]
    said = tmp_path / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "elasticdl.api", "train", *words],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        wait_for(lambda: "Ctrl-C detaches" in said.read_text(), "the job is submitted")
        process.send_signal(signal.SIGINT)
        process.wait(30)
    finally:
        process.kill()
    assert process.returncode == 130, said.read_text()
    assert f"detached; job {NAME} goes on: elasticdl jobs logs {NAME} -f" in said.read_text()
    assert PLACE.find(NAME).is_running()
    jobs.stop(NAME)
    assert person.left() == []


def test_logs_of_pods_that_have_none_are_empty_and_who_is_not_there_is_named(
    person: Person,
) -> None:
    placed = person.submit()
    person.launch(placed.submitted)
    assert list(job_logs.log_lines(NAME)) == []
    with pytest.raises(UsageError, match="no log of ps; there are worker 0"):
        job_logs.log_lines(NAME, "ps")


def test_the_master_is_the_pod_that_the_claim_names(person: Person) -> None:
    placed = person.submit()
    with pytest.raises(NoMaster):
        master_pod(person.client, NAME)
    assert placed.connect() is None
    person.launch(placed.submitted)
    claim = person.admin.get("ConfigMap", claim_name(NAME))
    claim = person.admin.replace({**claim, "data": {"pod": "mnist-1-abcde", "released": ""}})
    assert master_pod(person.client, NAME) == "mnist-1-abcde"
    person.admin.replace({**claim, "data": {"pod": "mnist-1-abcde", "released": "yes"}})
    with pytest.raises(NoMaster):
        master_pod(person.client, NAME)
