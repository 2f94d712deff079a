"""docs/kubernetes.md as a newcomer follows it: its own files and commands, in its order."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from elasticdl.api.kubernetes.submission import leftovers
from elasticdl.machine_options import variable
from elasticdl.proto.trained_model_pb2 import TrainedModel
from tests.cluster.api import SUBMITTER, Namespace, collection, write_kubeconfig
from tests.cluster.cluster import Cluster
from tests.cluster.docker import BASE, Engine
from tests.docs.pages import ROOT, blocks, commands, masked
from tests.kubernetes.conftest import installed_with
from tests.kubernetes.objects import client, wait_for
from tests.kubernetes.person import LEFT_S, Output
from tests.kubernetes.real_jobs import shared_directory

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
NOT_RUN = {
    "pip install ": "what it installs is installed where tests run",
    "kind ": "a cluster of containers; here there is one already",
    "minikube ": "a cluster of a virtual machine; here there is one already",
    "gcloud ": "a cloud's own",
}
"""How commands begin that no test runs, and why."""
NOT_USED = {"pods.yaml": "a template that is laid over pods: tests/api renders it"}
"""Files of the page that none of its commands reads, and why."""
REGISTRY, PERSON, NAMESPACE = "registry.example.com", "--submitter=ada", "training"
INTERRUPT = "^C"
COMMAND_S = 900.0
NUM_TEST = 30


@dataclass(frozen=True)
class Command:
    """A command of the page, and the output that is shown below it."""

    text: str
    shown: list[str]

    @property
    def why_not(self) -> str:
        """Why it is not run; empty: it is."""
        found = (why for start, why in NOT_RUN.items() if self.text.startswith(start))
        return next(found, "")


def page_commands() -> list[Command]:
    return [
        Command(command.strip(), shown.splitlines())
        for kind, text in blocks(PAGE)
        if kind == "console"
        for command, shown in commands(text)
    ]


def page_files() -> dict[str, str]:
    """The files of the page, by name: their first line."""
    texts = [text for kind, text in blocks(PAGE) if kind == "yaml"]
    return {text.splitlines()[0].removeprefix("# "): text for text in texts}


def test_every_block_is_run_or_named_with_its_reason() -> None:
    fences = re.findall(r"^```(.*)$", PAGE, re.MULTILINE)
    assert set(fences[::2]) == {"console", "yaml"}
    assert set(fences[1::2]) == {""}
    typed = [one.text for one in page_commands()]
    for kind, text in blocks(PAGE):
        assert kind == "yaml" or text.startswith("$ "), text
    for start in NOT_RUN:
        assert any(one.startswith(start) for one in typed), f"nothing is left out by {start!r}"
    names = {"~/.config/elasticdl/config.yaml", *NOT_USED}
    for name in page_files():
        assert name in names or any(name in one for one in typed), f"{name}: nothing reads it"
    assert names <= page_files().keys()


class Newcomer:
    """Somebody in a clone of the repository, who types what the page says.

    Args:
      home: a directory of one's own.
      path: where modules are found besides.
      registry: where the page says `REGISTRY`.
      admin: kubeconfig of whoever runs the cluster, as whom `kubectl` is called.
      person: of whoever submits jobs, as whom `elasticdl` is.
    """

    def __init__(self, home: Path, path: Path, registry: str, admin: Path, person: Path) -> None:
        self._registry = registry
        self.home, self.clone = home, home / "clone"
        shutil.copytree(ROOT / "model_zoo", self.clone / "model_zoo")
        (home / ".docker").mkdir()
        (home / ".docker" / "config.json").write_text('{"auths": {}}')
        self._environment = {
            **os.environ,
            "HOME": str(home),
            "PATH": f"{self._programs(person)}:{os.environ['PATH']}",
            "PYTHONPATH": f"{path}:{ROOT}",
            "KUBECONFIG": str(admin),
            variable("base_image"): BASE,  # The page's is Docker Hub's, which is not reached here.
        }
        for name in ("XDG_CONFIG_HOME", "ELASTICDL_HOME"):
            self._environment.pop(name, None)

    def _programs(self, person: Path) -> Path:
        directory = self.home / "bin"
        directory.mkdir()
        scripts = {
            "python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
            # As it is installed, but for who calls it.
            "elasticdl": f"#!{sys.executable}\nimport os, sys\n"
            f"os.environ['KUBECONFIG'] = {str(person)!r}\n"
            "from elasticdl.api.__main__ import main\nsys.exit(main())\n",
        }
        for name, script in scripts.items():
            (directory / name).write_text(script)
            (directory / name).chmod(0o755)
        return directory

    def _here(self, text: str) -> str:
        """What stands on the page, as it is to be called here."""
        return text.replace(REGISTRY, self._registry).replace(PERSON, f"--submitter={SUBMITTER}")

    def write(self, name: str, text: str) -> None:
        """Write a file of the page."""
        own = name.startswith("~/")
        file = self.home / name.removeprefix("~/") if own else self.clone / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self._here(text))

    def type(self, command: Command) -> None:
        """Run a command; all lines that are shown of it are printed, in their order."""
        words = f"set -o pipefail; {self._here(command.text)}"
        print(f"\n$ {command.text}", flush=True)
        process = subprocess.Popen(
            ["bash", "-c", words],
            cwd=self.clone,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        output = Output(process)
        try:
            if INTERRUPT in command.shown:
                at = command.shown.index(INTERRUPT)
                self._interrupt(output, command.shown[:at])
                assert process.wait(60) in (130, -signal.SIGINT), output.text
            else:
                assert process.wait(COMMAND_S) == 0, output.text
        finally:
            end_all_of(process)
            output.end()
            print(output.text, flush=True)
        shown = [self._here(line) for line in command.shown if line not in ("...", INTERRUPT)]
        assert found(shown, output.lines) == shown, output.text

    def _interrupt(self, output: Output, before: list[str]) -> None:
        """Press Ctrl-C once what is shown before it was printed, and its page was seen."""
        shown = [self._here(line) for line in before if line != "..."]

        def is_there() -> bool:
            said = bool(output.lines) and found(shown, output.lines) == shown
            return said or output.process.poll() is not None

        wait_for(is_there, f"what {before} shows", COMMAND_S)
        assert output.process.poll() is None, output.text
        for url in re.findall(r"http://127\.0\.0\.1:\d+/", output.text):
            assert "<title>" in body_of(url)
        os.killpg(output.process.pid, signal.SIGINT)


def found(shown: list[str], printed: list[str]) -> list[str]:
    """Which of the lines shown were printed, one after the other; numbers aside, `…` is any end."""
    lines = iter([masked(line) for line in printed])
    there = []
    for line in shown:
        start, cut, _ = line.partition("…")
        wanted = masked(start)
        if any(one.startswith(wanted) if cut else one == wanted for one in lines):
            there.append(line)
    return there


def body_of(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30) as answer:
        return str(answer.read().decode())


def end_all_of(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def volume(cluster: Cluster) -> Iterator[Path]:
    """Where the files of claims are: on other clusters something makes volumes when asked."""
    with shared_directory() as directory:
        made = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "newcomer"},
            "spec": {
                "capacity": {"storage": "5Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(directory)},
            },
        }
        cluster.api.create(made)
        yield directory
        cluster.api.delete("/api/v1/persistentvolumes/newcomer")


@pytest.fixture
def newcomer(
    cluster: Cluster,
    engine: Engine,
    registry: str,
    volume: Path,
    tmp_path: Path,
) -> Iterator[Newcomer]:
    cluster.add_registry(int(registry.rpartition(":")[2]))
    api = cluster.api
    token = cluster.plane.token(SUBMITTER)
    person = write_kubeconfig(tmp_path / "ada.kubeconfig", api.server, api.authority, token)
    home = tmp_path / "home"
    home.mkdir()
    with installed_with("cpu", tmp_path):
        yield Newcomer(home, tmp_path, registry, cluster.admin, person)
    for one in yaml.safe_load_all(page_files()["classes.yaml"]):
        api.delete(f"{collection(one)}/{one['metadata']['name']}")
    api.delete(f"/api/v1/namespaces/{NAMESPACE}")
    wait_for(lambda: not is_there(cluster, NAMESPACE), "the namespace is gone", LEFT_S)


def is_there(cluster: Cluster, namespace: str) -> bool:
    try:
        cluster.api.call("GET", f"/api/v1/namespaces/{namespace}")
    except urllib.error.HTTPError as error:
        return error.code != 404
    return True


@pytest.mark.kubernetes
@pytest.mark.timeout(2400)  # The first build of all installs what an image is made of.
def test_whoever_follows_the_page_has_a_trained_model_and_its_predictions(
    newcomer: Newcomer, cluster: Cluster, volume: Path
) -> None:
    assert not is_there(cluster, NAMESPACE), f"kubectl delete namespace {NAMESPACE} first"
    for name, text in page_files().items():
        newcomer.write(name, text)
    admin = client(cluster.admin, Namespace(NAMESPACE, *[cluster.admin] * 3))
    last = "kubectl delete namespace"
    for command in page_commands():
        if command.why_not:
            continue
        if command.text.startswith(last):
            for job in (f"iris-{number}" for number in range(1, 5)):
                wait_for(lambda job=job: not leftovers(admin, job), f"{job} is gone", LEFT_S)
        newcomer.type(command)
    admin.close()

    definition = TrainedModel.FromString((newcomer.clone / "model/trained_model.pb").read_bytes())
    assert re.search(r"/team/models@sha256:[0-9a-f]{64}$", definition.docker_commit_id)
    predictions = (newcomer.clone / "predictions.csv").read_text().splitlines()
    assert len(predictions) == NUM_TEST + 1
    assert "<title>" in (newcomer.clone / "iris-1.html").read_text()
    assert not (volume / "iris" / "printed").exists()
