"""Jobs of pods of which nothing outlives a pod but what is at an object store.

Most have a real apiserver without nodes, and processes of this machine as pods.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from elasticdl.api import jobs
from elasticdl.api.command_line import main
from elasticdl.api.job_backends import PLACE
from elasticdl.api.kubernetes.place import KubernetesJob
from elasticdl.api.kubernetes.submission import leftovers, submit
from elasticdl.data.filesystems import file_system
from elasticdl.job_spec import JobSpec, jobs_home
from elasticdl.master.cluster.kubernetes.client import KubeClient, NotFound
from elasticdl.master.cluster.kubernetes.last_acts import read_result
from elasticdl.master.cluster.kubernetes.names import selecting
from elasticdl.master.cluster.kubernetes.objects import result_map
from elasticdl.master.journal import Entry, read_journal
from elasticdl.master.journal_mirror import copy_journal, root_of
from tests.cluster.api import Namespace
from tests.cluster.api_only import ApiOnly
from tests.cluster.cluster import Cluster
from tests.docs.pages import ROOT
from tests.job.clicks_data import ZOO, write_clicks
from tests.kubernetes.objects import client as client_of
from tests.kubernetes.objects import wait_for
from tests.kubernetes.pod_processes import PodProcesses
from tests.kubernetes.real_jobs import pod_options, shared_directory
from tests.kubernetes.real_jobs import submit as submit_objects
from tests.kubernetes.whole_jobs import NAME, START_S, assert_exact
from tests.master.kubernetes.jobs import IMAGE
from tests.object_stores import Line, Store

pytestmark = pytest.mark.timeout(900)

RECORDS = 800


class Job:
    """One that was submitted, with all that it reads and writes at a store."""

    def __init__(
        self,
        apiserver: ApiOnly,
        namespace: Namespace,
        store: Store,
        directory: Path,
        command: str = "train",
        **options: Any,
    ) -> None:
        self.store = store
        self.namespace = namespace.name
        self.admin = client_of(namespace.admin, namespace)
        given = {
            "cluster": "kubernetes",
            "image": IMAGE,
            "namespace": namespace.name,
            "s3_endpoint": store.endpoint,
            "gcs_endpoint": store.endpoint,
            "job_name": NAME,
            "num_workers": "2",
            "num_ps": "1",
            "minibatch_size": "8",
            "dashboard": "false",
            "log_level": "INFO",
            **options,
        }
        self.spec = JobSpec.resolve(command, given)
        self.name = self.spec.job_name
        self.submitter = KubeClient.of_kubeconfig("", namespace.name)
        submit(self.spec, self.spec.image, jobs_home() / self.name, self.submitter)
        self._copy = directory / f"copy-{self.name}"
        self.pods = PodProcesses(apiserver.api, namespace, self.name, directory / self.name)

    @property
    def placed(self) -> KubernetesJob:
        found = PLACE.find(self.name)
        assert isinstance(found, KubernetesJob)
        return found

    def entries(self, kind: str) -> list[Entry]:
        """What the store's journal has of a kind."""
        if not copy_journal(root_of(self.spec.job_dir), self._copy):
            return []
        return list(read_journal(self._copy, kind))

    def wait_for_tasks(self, more: int = 3) -> None:
        """Wait until so many more tasks are done."""
        before = len(self.entries("done"))
        self.wait_for(lambda: len(self.entries("done")) >= before + more, f"{more} more tasks done")

    def wait_for(self, is_so: Any, what: str) -> None:
        try:
            wait_for(is_so, what, START_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.pods.printed()}") from None

    def result(self) -> dict[str, Any] | None:
        """As it is at the store."""
        files, path = file_system(f"{self.spec.job_dir}/result.json")
        return json.loads(files.read(path)) if files.info(path) is not None else None

    def remove(self, but: str = "") -> None:
        """Delete every object, as the garbage collector does with those of a deleted Job."""
        for kind, name in (one.split() for one in leftovers(self.admin, self.name)):
            if kind != but:
                try:
                    self.admin.delete(kind, name, grace_s=0 if kind == "Pod" else None)
                except NotFound:
                    continue

    def close(self) -> None:
        self.pods.close()
        self.admin.close()
        self.submitter.close()


@pytest.fixture
def place(api_namespace: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KUBECONFIG", str(api_namespace.submitter))
    return tmp_path


def put_data(store: Store, directory: Path) -> str:
    """Put the data of the clicks model; return their pattern."""
    write_clicks(directory / "data", RECORDS)
    files, path = file_system(f"{store.root}/data")
    files.upload(directory / "data", path)
    return f"{store.root}/data/*.recordio"


def training(store: Store, directory: Path) -> dict[str, Any]:
    return {
        "model_zoo": ZOO,
        "model_def": "clicks.Clicks",
        "data": put_data(store, directory),
        "output": f"{store.root}/model",
        "num_epochs": "1",
        "checkpoint_steps": "30",
        "records_per_task": "80",
    }


def training_until_told(store: Store, directory: Path) -> dict[str, Any]:
    """Training that goes on until there is a file `end` in the directory."""
    return {
        **training(store, directory),
        "model_def": "until_told.UntilTold",
        "params": f"path='{directory}/end'",
        "num_epochs": "10000",
    }


def typed(*words: str) -> subprocess.Popen[str]:
    """Type an `elasticdl` command."""
    return subprocess.Popen(
        [sys.executable, "-m", "elasticdl.api", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.apiserver
def test_a_job_goes_on_from_the_store_alone(
    apiserver: ApiOnly,
    api_namespace: Namespace,
    s3: Store,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = Job(apiserver, api_namespace, s3, place, **training_until_told(s3, place))
    assert job.spec.job_dir == f"{s3.root}/.elasticdl/{NAME}"
    try:
        # Its first master is killed, and started again where it is.
        master = job.pods.start_master()
        job.wait_for_tasks()
        job.pods.restart(master)
        job.wait_for(lambda: len(job.entries("master")) == 2, "it goes on")
        job.wait_for_tasks()
        # It is killed again, and what its pod had goes with it.
        job.pods.kill("master")
        told = len(job.entries("done"))
        assert jobs.status(NAME)["state"] == "running"
        assert len(list(read_journal(jobs_home() / NAME, "done"))) >= told > 0
        capsys.readouterr()
        assert main(["jobs", "audit", NAME]) == 0
        assert "as of checkpoint" in capsys.readouterr().out
        # Another pod goes on with the same instances.
        job.pods.start_master()
        job.wait_for(lambda: len(job.entries("master")) == 3, "the next master")
        job.wait_for_tasks()
        launched = [one.body for one in job.entries("launch")]
        assert [one["incarnation"] for one in launched] == [1, 1, 1], "all were adopted"
        # The store is away for a while.
        s3.server.line.cut()
        time.sleep(5.0)
        s3.server.line.mend()
        job.wait_for_tasks()
        # Everything is killed, and every object of it removed.
        job.pods.kill()
        job.remove()
        assert leftovers(job.admin, NAME) == []
        assert job.result() is None
        assert jobs.status(NAME)["state"] == "lost"
        rows = checkpoints_listed(capsys)
        assert rows
        assert {row["state"] for row in rows} == {"complete"}
        again = typed("jobs", "resume", NAME)
        job.wait_for(lambda: is_submitted(job), "it is submitted again")
        last = job.pods.start_master()
        job.wait_for_tasks()
        (place / "end").touch()
        job.wait_for(job.result, "the result")
        job.wait_for(lambda: job.pods.exit_code(last) == 0, "the last acts")
        job.wait_for(lambda: (jobs_home() / NAME / "result.json").exists(), "the result is here")
        job.remove()
        said, _ = again.communicate(timeout=120)
        assert again.returncode == 0, said
        result = job.result() or {}
        records = result["audit"]["records_expected"]
        assert_exact(result, records)
        assert records > 0
        assert records % RECORDS == 0
        assert len(job.entries("master")) == 4
        assert len(job.entries("restored")) >= 1
        assert leftovers(job.admin, NAME) == []
        # Whoever looks for the first time finds it all there.
        for name in ("result.json", "journal.sqlite", "figures.json", "of_store"):
            (jobs_home() / NAME / name).unlink(missing_ok=True)
        found = jobs.status(NAME)
        assert found["state"] == "succeeded"
        assert found["total"]["steps"] > 0
        assert jobs.audit(NAME)["applied_once"] == {"0": records}
        assert jobs.list_jobs()[0]["records_done"] == records
        assert any(one.kind == "result" for one in read_journal(jobs_home() / NAME))
    except AssertionError as error:
        raise AssertionError(f"{error}\n{job.pods.printed()}") from error
    finally:
        job.close()


def crash_without_the_store(job: Job, line: Line, held: str) -> None:
    """Have a master find the store silent where it is held: it ends, and the job does not."""
    master = job.pods.start_master(held)
    job.wait_for(lambda: job.pods.is_held(master) or job.pods.exit_code(master) is not None, held)
    line.cut()
    job.pods.let_go(master)
    job.wait_for(lambda: job.pods.exit_code(master) is not None, "it ends")
    line.mend()
    assert job.pods.exit_code(master) == 1
    assert job.result() is None
    assert read_result(job.spec, job.admin) is None


@pytest.mark.apiserver
@pytest.mark.long
def test_a_later_master_that_cannot_read_at_the_store_is_followed_by_another(
    apiserver: ApiOnly, api_namespace: Namespace, s3: Store, line: Line, place: Path
) -> None:
    job = Job(apiserver, api_namespace, s3, place, **training_until_told(s3, place))
    try:
        job.pods.start_master()
        job.wait_for_tasks()
        job.pods.kill("master")
        of_pod, of_mirror = "elasticdl.api.pod_master", "elasticdl.master.journal_mirror"
        crash_without_the_store(job, line, f"{of_pod} MasterPod _last_session")
        crash_without_the_store(job, line, f"{of_mirror} JournalMirror fetch")
        job.pods.start_master()
        job.wait_for_tasks()
    except AssertionError as error:
        raise AssertionError(f"{error}\n{job.pods.printed()}") from error
    finally:
        job.close()


@pytest.mark.apiserver
@pytest.mark.long
def test_a_success_that_cannot_be_told_at_the_store_is_told_by_the_next_master(
    apiserver: ApiOnly, api_namespace: Namespace, s3: Store, line: Line, place: Path
) -> None:
    job = Job(apiserver, api_namespace, s3, place, **training(s3, place))
    try:
        crash_without_the_store(job, line, "elasticdl.master.kept_files KeptFiles write")
        last = job.pods.start_master()
        job.wait_for(lambda: job.pods.exit_code(last) == 0, "the last acts")
        assert_exact(job.result() or {}, RECORDS)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{job.pods.printed()}") from error
    finally:
        job.close()


@pytest.mark.apiserver
@pytest.mark.long
def test_predictions_of_pods_and_their_parts_are_objects(
    apiserver: ApiOnly, api_namespace: Namespace, store: Store, place: Path
) -> None:
    options = {**training(store, place), "num_workers": "0"}
    trained = typed("train", *(f"--{name}={value}" for name, value in options.items()))
    said, _ = trained.communicate(timeout=START_S)
    assert trained.returncode == 0, said
    job = Job(
        apiserver,
        api_namespace,
        store,
        place,
        "predict",
        trained_model=f"{store.root}/model",
        data=options["data"],
        output=f"{store.root}/out/predictions.csv",
        keep_columns="row",
    )
    assert job.spec.job_dir == f"{store.root}/out/.elasticdl/{NAME}"
    try:
        job.pods.start_master()
        job.wait_for(job.result, "the predictions")
        result = job.result() or {}
        assert result["state"] == "succeeded", result["error"]
        files, path = file_system(f"{store.root}/out/predictions.csv")
        lines = files.read(path).decode().splitlines()
        assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(RECORDS))
        parts = job.spec.parts_root
        job.wait_for(lambda: not files.files(parts), "the parts are gone")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{job.pods.printed()}") from error
    finally:
        job.close()


def checkpoints_listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["checkpoints", "list", NAME, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def is_submitted(job: Job) -> bool:
    try:
        return bool(job.admin.get("Job", job.name)["spec"]["parallelism"] == 1)
    except NotFound:
        return False


@pytest.mark.apiserver
def test_a_bucket_that_is_not_there_fails_the_job_with_one_line(
    apiserver: ApiOnly, api_namespace: Namespace, s3: Store, place: Path
) -> None:
    options = {**training(s3, place), "output": "s3://nobodys-bucket/model"}
    job = Job(apiserver, api_namespace, s3, place, **options)
    try:
        master = job.pods.start_master()
        job.wait_for(lambda: job.pods.exit_code(master) == 0, "the master ends")
        result = read_result(job.spec, job.admin)
        assert result is not None
        assert (result["state"], result["traceback"]) == ("failed", "")
        assert result["error"] == (
            f"job_dir 's3://nobodys-bucket/.elasticdl/{NAME}': "
            f"there is no bucket 'nobodys-bucket' at {s3.endpoint}"
        )
    finally:
        job.close()


@pytest.mark.apiserver
def test_a_result_that_was_read_at_the_store_is_removed_from_the_cluster_later(
    apiserver: ApiOnly,
    api_namespace: Namespace,
    s3: Store,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = Job(apiserver, api_namespace, s3, place, **training(s3, place))
    try:
        uid = job.placed.submitted.uid
        files, there = file_system(f"{job.spec.job_dir}/result.json")

        def put_result(session: str) -> None:
            files.put(there, json.dumps({"state": "succeeded", "session": session}).encode())

        kept = result_map(job.spec)
        kept["metadata"]["namespace"] = job.namespace
        result = json.dumps({"state": "succeeded", "session": f"{uid}.1"})
        job.admin.create({**kept, "data": {"result.json": result}})
        job.remove(but="ConfigMap")
        with monkeypatch.context() as away:
            away.setenv("KUBECONFIG", str(place / "none"))
            put_result("of-another-job.1")
            assert jobs.list_jobs()[0]["state"] == "unknown"
            put_result(f"{uid}.1")
            assert jobs.list_jobs()[0]["state"] == "succeeded"
        assert leftovers(job.admin, NAME) == [f"ConfigMap {NAME}-result"]
        assert jobs.list_jobs()[0]["state"] == "succeeded"
        assert leftovers(job.admin, NAME) == []
    finally:
        job.close()


@pytest.mark.apiserver
def test_a_store_that_is_away_is_said_and_what_was_known_is_shown(
    apiserver: ApiOnly,
    api_namespace: Namespace,
    s3: Store,
    line: Line,
    place: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = Job(apiserver, api_namespace, s3, place, **training(s3, place))
    try:
        line.cut()
        assert jobs.list_jobs()[0]["state"] == "running"
        assert f"'{job.spec.job_dir}': no answer from {s3.endpoint}" in caplog.text
    finally:
        job.close()


@pytest.mark.kubernetes
def test_on_a_cluster_a_master_whose_pod_is_deleted_is_followed_by_another(
    cluster: Cluster, namespace: Namespace, s3: Store, tmp_path: Path
) -> None:
    """Its pods have nothing but the programs, and keys that are mounted."""
    keys = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "store-keys", "namespace": namespace.name},
        "stringData": {
            "credentials": "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"
        },
    }
    cluster.api.create(keys)
    there = f"http://{cluster.reachable(int(s3.endpoint.rpartition(':')[2]))}"
    with shared_directory() as directory:
        given = pod_options(
            directory,
            **{**training(s3, tmp_path), "num_epochs": "3"},
            job_name=NAME,
            job_dir=f"{s3.root}/job",
            namespace=namespace.name,
            s3_endpoint=there,
            num_workers="2",
            num_ps="1",
            minibatch_size="8",
        )
        given["volume"] = [
            *(one for one in given["volume"] if str(directory) not in one),
            "secret_name=store-keys,mount_path=/keys,read_only=true",
        ]
        given["env"] = [
            *(one for one in given["env"] if str(directory) not in one),
            "NUMBA_CACHE_DIR=/tmp/numba",
            "AWS_SHARED_CREDENTIALS_FILE=/keys/credentials",
            "AWS_EC2_METADATA_DISABLED=true",
        ]
        spec = JobSpec.resolve("train", given)
        submitter, admin = (
            client_of(one, namespace) for one in (namespace.submitter, namespace.admin)
        )
        copy = tmp_path / "copy"

        def told(kind: str) -> list[Entry]:
            is_there = copy_journal(root_of(spec.job_dir), copy)
            return list(read_journal(copy, kind)) if is_there else []

        def result() -> dict[str, Any]:
            files, path = file_system(f"{spec.job_dir}/result.json")
            return json.loads(files.read(path)) if files.info(path) is not None else {}

        try:
            submit_objects(spec, submitter)
            wait_for(lambda: len(told("done")) > 1, "some tasks are done", START_S)
            (master,) = submitter.list("Pod", selecting(NAME, "master")).items
            submitter.delete("Pod", master["metadata"]["name"])
            wait_for(result, "the result", START_S)
            found = result()
            assert_exact(found, 3 * RECORDS)
            assert [one.body["incarnation"] for one in told("master")] == [1, 2]
            wait_for(lambda: leftovers(admin, NAME) == [], "nothing is left", 120)
        finally:
            submitter.close()
            admin.close()
