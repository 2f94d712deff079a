"""Somebody who types commands about jobs of pods."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from elasticdl.api.kubernetes.submission import leftovers
from elasticdl.master.cluster.kubernetes.names import COMPONENT_LABEL, selecting
from tests.cluster.api import Namespace
from tests.docs.pages import ROOT
from tests.kubernetes.objects import client, wait_for

RUN_S = 600
LEFT_S = 150
"""Kubelets of 1.20 may need a minute to see that a pod has gone which has ended."""


class Person:
    """Somebody with a shell on this machine, a cluster, and the rights to submit jobs to it.

    Args:
      home: a directory of one's own.
      path: where modules are found besides this source tree.
      config: what stands in the configuration file.
    """

    def __init__(
        self, namespace: Namespace, home: Path, path: Sequence[Path] = (), **config: object
    ) -> None:
        self.namespace = namespace
        config = {"cluster": "kubernetes", "namespace": namespace.name, **config}
        file = home / "config" / "elasticdl" / "config.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(config))
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(namespace.submitter),
            "ELASTICDL_HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "PYTHONPATH": ":".join(map(str, [*path, ROOT])),
        }
        self.admin = client(namespace.admin, namespace)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "elasticdl.api", *words],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, timeout_s: float = RUN_S) -> str:
        process = self.start(*words)
        try:
            said, _ = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
        print(f"$ elasticdl {' '.join(words)}\n{said}")
        assert process.returncode == 0, said
        return said

    def left(self, job: str) -> list[str]:
        return leftovers(self.admin, job)

    def wait_for_nothing_left(self, job: str) -> None:
        wait_for(lambda: not self.left(job), f"nothing of {job} is left", LEFT_S)

    def components(self, job: str) -> list[str]:
        pods = self.admin.list("Pod", selecting(job)).items
        return [one["metadata"]["labels"][COMPONENT_LABEL] for one in pods]

    def have_ended(self, job: str) -> bool:
        pods = self.admin.list("Pod", selecting(job)).items
        return all(one["status"]["phase"] in ("Succeeded", "Failed") for one in pods)

    def status(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("jobs", "status", job, "--json"))
        return found


class Output:
    """Reads what a process prints, from another thread."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def wait_for(self, pattern: str, timeout_s: float = RUN_S) -> re.Match[str]:
        def is_over() -> bool:
            return self.process.poll() is not None or bool(re.search(pattern, self.text))

        wait_for(is_over, pattern, timeout_s)
        found = re.search(pattern, self.text)
        assert found is not None, self.text
        return found

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def end(self, number: int | None = None) -> int:
        """Wait for its end, after a signal."""
        if number is not None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self._thread.join(10)
