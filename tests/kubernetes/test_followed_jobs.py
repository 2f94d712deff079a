"""Jobs of pods as whoever submitted them sees and handles them, from the command line.

Their pods run this machine's Python (`tests.kubernetes.real_jobs`): no image is built.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from elasticdl.master.cluster.kubernetes.names import partition_service_name, result_name
from elasticdl.master.cluster.kubernetes.pod_template import MAIN
from tests.cluster.api import Namespace
from tests.cluster.cluster import Cluster
from tests.cluster.network import node_address
from tests.job.clicks_data import ZOO, write_clicks
from tests.kubernetes.objects import wait_for
from tests.kubernetes.person import LEFT_S, RUN_S, Output, Person
from tests.kubernetes.real_jobs import pod_options, shared_directory

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1200)]

RECORDS = 2000


@pytest.fixture
def directory() -> Iterator[Path]:
    with shared_directory() as made:
        yield made


@pytest.fixture
def person(namespace: Namespace, tmp_path: Path) -> Iterator[Person]:
    made = Person(namespace, tmp_path)
    yield made
    made.admin.close()


def train(directory: Path, name: str) -> list[str]:
    """The command of a small job."""
    options = pod_options(
        directory,
        job_name=name,
        model_zoo=ZOO,
        model_def="clicks.Clicks",
        data=write_clicks(directory / "data", RECORDS),
        output=str(directory / "model"),
        num_workers="2",
        num_ps="1",
        minibatch_size="8",
    )
    words = ["train"]
    for option, value in options.items():
        given = value if isinstance(value, list) else [value]
        words += [f"--{option}={one}" for one in given]
    return words


def seen_from(cluster: Cluster, url: str) -> str:
    """What somebody in the cluster's network, and in none of its pods, is answered."""
    command = [*cluster.control.enter, "curl", "--silent", "--show-error", "--noproxy", "*", url]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("keep", ["result", "pods", "all"])
def test_objects_are_kept_that_were_asked_for(person: Person, directory: Path, keep: str) -> None:
    name = f"kept-{keep}"
    person.run(*train(directory, name), f"--keep_objects={keep}")
    service, result = partition_service_name(name, 0), result_name(name)
    if keep == "result":
        wait_for(lambda: person.left(name) == [f"ConfigMap {result}"], "one is left", LEFT_S)
    else:
        wait_for(lambda: person.have_ended(name), "no pod runs", LEFT_S)
        left = person.left(name)
        assert {f"ConfigMap {result}", f"Job {name}", f"Secret {name}"} <= set(left)
        assert (f"Service {service}" in left) == (keep == "all")
        assert {"master", "check", "ps", "worker"} == set(person.components(name))
        assert "worker-0" in person.run("jobs", "logs", name)
    person.run("jobs", "stop", name)
    person.wait_for_nothing_left(name)


def test_data_that_the_master_does_not_see_fail_the_job_at_once(
    person: Person, directory: Path, tmp_path: Path
) -> None:
    """As with a path of the host that is another directory on each node."""
    name = "unseen"
    command = train(directory, name)
    container = {
        "name": MAIN,
        "volumeMounts": [{"name": "nothing", "mountPath": str(directory / "data")}],
    }
    spec = {"containers": [container], "volumes": [{"name": "nothing", "emptyDir": {}}]}
    template = tmp_path / "pods.yaml"
    template.write_text(yaml.safe_dump({"master": {"spec": spec}}))
    failed = Output(person.start(*command, f"--pod_template={template}"))
    try:
        failed.wait_for(r"data '.*\.recordio': matches no file")
        assert failed.end() == 1
    finally:
        failed.process.kill()
        print(failed.text)
    assert "Traceback" not in failed.text
    result = json.loads((directory / "job" / "result.json").read_text())
    assert result["session"].endswith(".1"), "the first master"
    person.wait_for_nothing_left(name)


def test_a_job_is_left_followed_looked_at_stopped_and_resumed(
    cluster: Cluster, person: Person, directory: Path
) -> None:
    name = "long"
    open_to_all = "--dashboard_service=NodePort"
    begun = Output(person.start(*train(directory, name), "--num_epochs=1000", open_to_all))
    try:
        port = begun.wait_for(r"open to whoever reaches port (\d+) of every node")[1]
        begun.wait_for(r"epoch 1")
        for node in cluster.nodes:
            url = f"http://{node_address(node.index)}:{port}/api/state"
            assert json.loads(seen_from(cluster, url))["state"] == "running"
        assert begun.end(signal.SIGINT) == 130
    finally:
        begun.process.kill()
    assert f"detached; job {name} goes on" in begun.text

    logs = Output(person.start("jobs", "logs", name, "-f"))
    page = Output(person.start("jobs", "dashboard", name))
    try:
        logs.wait_for(r"worker")
        url = page.wait_for(r"http://127\.0\.0\.1:\d+/")[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{url}api/state", timeout=20) as answer:
            assert json.load(answer)["state"] == "running"
        before = person.status(name)["progress"]["records_done"]
        ends = time.monotonic() + RUN_S
        while person.status(name)["progress"]["records_done"] == before:
            assert time.monotonic() < ends, "it goes on"
        assert page.end(signal.SIGINT) == 130
        person.run("jobs", "stop", name)
        assert logs.end() == 0
    finally:
        for each in (logs, page):
            each.process.kill()
    person.wait_for_nothing_left(name)
    stopped = person.status(name)
    assert stopped["state"] == "stopped"

    # It finds its journal, and the result of the Job before, which is not its own.
    resumed = Output(person.start("jobs", "resume", name))
    try:
        resumed.wait_for(r"training, epoch [2-9]|training, epoch \d\d")
        assert resumed.end(signal.SIGINT) == 130
    finally:
        resumed.process.kill()
    assert person.status(name)["progress"]["records_done"] > stopped["progress"]["records_done"]
    person.run("jobs", "stop", name, "--now")
    person.wait_for_nothing_left(name)
