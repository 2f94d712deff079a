"""Pods of an apiserver without nodes, as processes of this machine.

It does for a job what the Job controller and kubelets do: makes the master's pod, runs what each
pod of the job is to run, says how it ended, and ends what is deleted. Addresses of Services are
ports of this machine's loopback interface, directories that a pod mounts are directories here.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from elasticdl.api.pod import ENDED_VARIABLE, MODULES, exit_code, keras_of
from elasticdl.instance import child_environment
from elasticdl.master.cluster.kubernetes.client import KubeError, NotFound
from elasticdl.master.cluster.kubernetes.names import COMPONENT_LABEL, selecting
from elasticdl.master.cluster.kubernetes.objects import CREDENTIALS, DESCRIPTION, STATE
from tests.cluster.api import Api, Namespace
from tests.docs.pages import ROOT
from tests.kubernetes.objects import client, set_container, set_status

_LOOK_S = 0.2
_WAIT_S = 30.0
_MASTER = """
import os, sys
from elasticdl.api import pod_master
from elasticdl.master.cluster.kubernetes.client import KubeClient
pod_master.HEALTH_PORT = 0
if "HELD" in os.environ:
    import importlib, pathlib, time
    from elasticdl.data import filesystems
    from elasticdl.master import kept_files
    filesystems.use_stores_of.__defaults__ = (1.0,)
    pod_master.PATIENCE_S = kept_files.PATIENCE_S = 1.0
    module, name, method = os.environ["HELD"].split()
    of, held = getattr(importlib.import_module(module), name), pathlib.Path("held")
    called = getattr(of, method)
    def call(*arguments):
        held.touch()
        while held.exists():
            time.sleep(0.02)
        return called(*arguments)
    setattr(of, method, call)
place = os.environ["ELASTICDL_POD_NAMESPACE"]
KubeClient.in_cluster = classmethod(lambda cls: cls.of_kubeconfig("", place))
sys.exit(pod_master.main())
"""


class PodProcesses:
    """The pods of one job.

    Args:
      name: of its Job.
      directory: for what its pods mount and print.
    """

    def __init__(self, api: Api, namespace: Namespace, name: str, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._api = api
        self._namespace = namespace
        self._name = name
        self._admin = client(namespace.admin, namespace)
        self._master_address = _free_address()
        self._lock = threading.Lock()
        self._of_master: dict[str, str] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._is_told: set[str] = set()
        self._closed = threading.Event()
        self._looking = threading.Thread(target=self._look_forever, daemon=True)
        self._looking.start()

    def start_master(self, held: str = "") -> str:
        """Make the pod of the Job's master, as the Job's controller would; return its name.

        Args:
          held: module, class and method before which it is held until it is let go; its patience
            with stores is short then.
        """
        job = self._admin.get("Job", self._name)
        assert job["spec"]["parallelism"] == 1
        template = job["spec"]["template"]
        uid, name = job["metadata"]["uid"], f"{self._name}-{secrets.token_hex(3)}"
        metadata = {**template["metadata"], "name": name, "namespace": self._namespace.name}
        metadata["labels"] = {**metadata["labels"], "controller-uid": uid}
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        pod = self._admin.create(made)
        self._of_master = {
            "ELASTICDL_JOB_UID": uid,
            "ELASTICDL_POD_NAME": name,
            "ELASTICDL_POD_UID": pod["metadata"]["uid"],
            "ELASTICDL_POD_NAMESPACE": self._namespace.name,
            "KUBECONFIG": str(self._namespace.master),
        }
        with self._lock:
            self._start(pod, {**self._of_master, **({"HELD": held} if held else {})})
        return name

    def is_held(self, name: str) -> bool:
        """Whether a master has come to where it is to be held."""
        return (self.directory / name / "held").exists()

    def let_go(self, name: str) -> None:
        """Have it go on."""
        (self.directory / name / "held").unlink()

    def restart(self, name: str) -> None:
        """SIGKILL a master and start it again where it is: its pod stays, with what it has."""
        with self._lock:
            self._processes[name].kill()
            self._processes[name].wait(_WAIT_S)
            ended = {ENDED_VARIABLE: str(self._processes[name].returncode)}
            self._start(self._admin.get("Pod", name), {**self._of_master, **ended})

    def kill(self, component: str = "") -> list[str]:
        """SIGKILL all pods of a component, or all, and remove whatever they had; return which."""
        found = [one["metadata"]["name"] for one in self._pods(component)]
        with self._lock:
            for name in found:
                if name in self._processes:
                    self._processes[name].kill()
                    self._processes[name].wait(_WAIT_S)
                self._is_told.add(name)
        for name in found:
            shutil.rmtree(self.directory / name, ignore_errors=True)
            self._admin.delete("Pod", name, grace_s=0)
        return found

    def exit_code(self, pod: str) -> int | None:
        return self._processes[pod].poll()

    def printed(self) -> str:
        """The end of what each pod printed, for whoever looks at a failed test."""
        logs = sorted(self.directory.glob("*.log"))
        return "\n".join(f"== {one.name}\n{one.read_text()[-3000:]}" for one in logs)

    def close(self) -> None:
        """End all of them."""
        self._closed.set()
        self._looking.join(_WAIT_S)
        for process in self._processes.values():
            process.kill()
            process.wait(_WAIT_S)
        self._admin.close()

    def _pods(self, component: str = "") -> list[dict[str, Any]]:
        return self._admin.list("Pod", selecting(self._name, component)).items

    def _look_forever(self) -> None:
        while not self._closed.wait(_LOOK_S):
            try:
                self._look()
            except KubeError:  # It was deleted meanwhile.
                continue

    def _look(self) -> None:
        pods = {one["metadata"]["name"]: one for one in self._pods()}
        with self._lock:
            for name, pod in pods.items():
                is_master = pod["metadata"]["labels"][COMPONENT_LABEL] == "master"
                if name not in self._processes and not is_master:
                    self._start(pod, {})
            for name, process in self._processes.items():
                if name not in pods:
                    if process.poll() is None:
                        process.send_signal(signal.SIGTERM)
                elif process.poll() is not None and name not in self._is_told:
                    self._is_told.add(name)
                    code = exit_code(process.returncode)
                    ended = {"terminated": {"exitCode": code, "reason": "Error"}}
                    set_container(self._api, self._namespace.name, name, state=ended)

    def _start(self, pod: dict[str, Any], environment: dict[str, str]) -> None:
        name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
        role = labels[COMPONENT_LABEL]
        here = self.directory / name
        here.mkdir(exist_ok=True)
        mounted = self._mount(pod, here)
        (container,) = pod["spec"]["containers"]
        own = self._master_address if role == "master" else _free_address()
        arguments = []
        for argument in container["args"][1:]:
            option, _, value = argument.partition("=")
            if option == "--master":
                value = self._master_address
            elif option in ("--listen", "--advertise"):
                value = own
            arguments.append(f"{option}={mounted.get(value, value)}")
        command = [sys.executable, "-P", "-m", MODULES[role]]
        if role == "master":
            command = [sys.executable, "-P", "-c", _MASTER]
        variables = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        del variables["HOME"]
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*command, *arguments],
                stdout=log,
                stderr=log,
                cwd=here,
                env={
                    **child_environment(keras_of(here / "job")),
                    "PYTHONPATH": str(ROOT),
                    **variables,
                    **environment,
                },
            )
        set_status(self._api, self._namespace.name, name, phase="Running")
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        set_container(self._api, self._namespace.name, name, state=running)

    def _mount(self, pod: dict[str, Any], here: Path) -> dict[str, str]:
        """Make what the pod mounts; return where here the directories of the container are."""
        volumes = {one["name"]: one for one in pod["spec"]["volumes"]}
        mounted = {}
        for mount in pod["spec"]["containers"][0]["volumeMounts"]:
            path, volume = mount["mountPath"], volumes[mount["name"]]
            if path not in (DESCRIPTION, CREDENTIALS, STATE):
                continue
            directory = here / Path(path).name
            directory.mkdir(mode=0o700, exist_ok=True)
            mounted[path] = str(directory)
            if "emptyDir" in volume:
                continue
            for source in volume.get("projected", {}).get("sources", [volume]):
                for name, content in self._files_of(source).items():
                    (directory / name).write_bytes(content)
        return mounted

    def _files_of(self, source: dict[str, Any]) -> dict[str, bytes]:
        if "secret" in source:
            given = source["secret"]
            data = self._admin.get("Secret", given.get("secretName") or given["name"])["data"]
            return {one["path"]: base64.b64decode(data[one["key"]]) for one in given["items"]}
        given = source["configMap"]
        try:
            data = self._admin.get("ConfigMap", given["name"])["data"]
        except NotFound:
            return {}
        return {one["path"]: data[one["key"]].encode() for one in given["items"]}


def _free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"
