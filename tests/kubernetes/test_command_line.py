"""The command line on a real cluster: an image that is built, jobs of pods that run in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from elasticdl.master.cluster.kubernetes.client import KubeError
from elasticdl.master.cluster.kubernetes.names import (
    COMPONENT_LABEL,
    selecting,
)
from elasticdl.master.cluster.kubernetes.rbac import MASTER
from elasticdl.proto.trained_model_pb2 import TrainedModel
from tests.cluster.cluster import Cluster
from tests.cluster.docker import BASE, Engine
from tests.docs.pages import ROOT
from tests.kubernetes.conftest import installed_with
from tests.kubernetes.objects import client
from tests.kubernetes.person import RUN_S, Person
from tests.kubernetes.real_jobs import shared_directory

# The first build of all installs what an image is made of.
pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(2400)]

NUM_TRAIN, NUM_TEST = 4500, 500
BUILD_AND_RUN_S = 1800
SMALL = [
    "--master_resource_request=cpu=50m,memory=1Gi",
    "--ps_resource_request=cpu=50m,memory=1Gi",
    "--worker_resource_request=cpu=100m,memory=2Gi",
]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("metadata")
    with installed_with("cpu", directory):
        yield directory


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """What every node sees, with the data."""
    with shared_directory() as made:
        make = [sys.executable, "-m", "model_zoo.mnist.make_data", f"--output={made / 'mnist'}"]
        subprocess.run(make, cwd=ROOT, check=True, timeout=RUN_S)
        yield made


@pytest.fixture(scope="module")
def person(
    cluster: Cluster,
    engine: Engine,
    registry: str,
    directory: Path,
    metadata: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Person]:
    cluster.add_registry(int(registry.rpartition(":")[2]))
    namespace = cluster.new_namespace()
    made = Person(
        namespace,
        tmp_path_factory.mktemp("home"),
        [metadata],
        docker_image_repository=f"{registry}/team",
        base_image=BASE,
        service_account=MASTER,
        volume=[f"host_path={directory},mount_path={directory}"],
    )
    yield made
    made.admin.close()
    cluster.api.delete_namespace(namespace.name)


class Watching:
    """Sees where a job's pods run, and in what image, from another thread."""

    def __init__(self, person: Person, job: str) -> None:
        self._person, self._job = person, job
        self.nodes: dict[str, set[str]] = {}
        self.images: set[str] = set()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watching:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        own = client(self._person.namespace.admin, self._person.namespace)
        while not self._ends.wait(1.0):
            try:
                pods = own.list("Pod", selecting(self._job)).items
            except KubeError:
                continue
            for pod in pods:
                if node := pod["spec"].get("nodeName"):
                    role = pod["metadata"]["labels"][COMPONENT_LABEL]
                    self.nodes.setdefault(role, set()).add(node)
                self.images |= {one["image"] for one in pod["spec"]["containers"]}
        own.close()


@pytest.fixture(scope="module")
def model(person: Person, directory: Path) -> Path:
    """A model that a job of pods has trained: from the command to the last object."""
    output = directory / "model"
    with Watching(person, "mnist-1") as watching:
        said = person.run(
            *("train", "--model_zoo=model_zoo", "--model_def=mnist.MnistElasticDLSpec"),
            *(f"--data={directory}/mnist/train/*", f"--output={output}"),
            *("--num_workers=2", "--num_ps=2", "--num_epochs=2", "--job_name=mnist-1", *SMALL),
            timeout_s=BUILD_AND_RUN_S,
        )
    assert "building the image, step" in said
    assert re.search(r"dashboard: http://127\.0\.0\.1:\d+/", said)
    assert f"trained model: {output}" in said
    assert len(set().union(*watching.nodes.values())) == 2, watching.nodes
    assert watching.nodes.keys() == {"master", "check", "ps", "worker"}
    definition = TrainedModel.FromString((output / "trained_model.pb").read_bytes())
    assert watching.images == {definition.docker_commit_id}
    assert re.search(r"/team/elasticdl@sha256:[0-9a-f]{64}$", definition.docker_commit_id)
    return output


def test_tables_on_two_parameter_servers_are_trained_in_the_same_image_and_predict(
    person: Person, model: Path, directory: Path
) -> None:
    data, output = directory / "ctr", directory / "ctr-model"
    make = [sys.executable, "-m", "model_zoo.ctr.make_data", f"--output={data}"]
    sizes = ["--num_records=20000", f"--num_test_records={NUM_TEST}", "--num_shards=4"]
    subprocess.run([*make, *sizes], cwd=ROOT, check=True, timeout=RUN_S)
    said = person.run(
        *("train", "--model_zoo=model_zoo", "--model_def=ctr.deepfm.DeepFM", *SMALL),
        *(f"--data={data}/train/*", f"--output={output}", "--job_name=ctr-1"),
        *("--num_workers=2", "--num_ps=2", "--minibatch_size=256"),
    )
    assert image_of(output) == image_of(model)
    assert "20,000 applied once on each of 2 partitions" in said
    clicks = directory / "clicks.csv"
    person.run(
        *("predict", f"--trained_model={output}", f"--output={clicks}", "--job_name=clicks"),
        *(f"--data={data}/test/*", *SMALL),
    )
    assert len(clicks.read_text().splitlines()) == NUM_TEST + 1
    person.wait_for_nothing_left("ctr-1")
    person.wait_for_nothing_left("clicks")


def image_of(model: Path) -> str:
    return TrainedModel.FromString((model / "trained_model.pb").read_bytes()).docker_commit_id


def test_a_model_is_trained_by_pods_and_every_record_counts_once(
    person: Person, model: Path, directory: Path
) -> None:
    person.wait_for_nothing_left("mnist-1")
    assert person.status("mnist-1")["state"] == "succeeded"
    audit = json.loads(person.run("jobs", "audit", "mnist-1", "--json"))
    assert set(audit["applied_once"].values()) == {2 * NUM_TRAIN}
    assert audit["lost"] == audit["tasks_not_closed"] == 0
    assert "worker 1" in person.run("jobs", "events", "mnist-1"), "the journal is here"
    person.run("jobs", "report", "mnist-1", f"--output={directory}/report.html")


def test_predictions_need_the_model_and_the_data_alone(
    person: Person, model: Path, directory: Path
) -> None:
    output = directory / "predictions.csv"
    with Watching(person, "digits") as watching:
        person.run(
            *("predict", f"--trained_model={model}", "--job_name=digits", *SMALL),
            *(f"--data={directory}/mnist/test/*", f"--output={output}"),
        )
    assert watching.images == {image_of(model)}
    assert len(output.read_text().splitlines()) == NUM_TEST + 1
    person.wait_for_nothing_left("digits")


def test_an_evaluation_has_no_output_and_its_result_comes_here(
    person: Person, model: Path, directory: Path
) -> None:
    person.run(
        *("evaluate", f"--trained_model={model}", "--job_name=measured", *SMALL),
        f"--data={directory}/mnist/test/*",
    )
    result = json.loads(person.run("jobs", "wait", "measured", "--json"))
    assert result["metrics"]["accuracy"] > 0.8
    person.wait_for_nothing_left("measured")
