"""Submits the job of tests to an apiserver in a process of its own, which dies when it is told to.

`python -m tests.kubernetes.submitting STEPS`: killed right after so many changes were answered.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from elasticdl.api.kubernetes.submission import submit
from elasticdl.job_spec import jobs_home
from elasticdl.master.cluster.kubernetes.client import TIMEOUT_S, KubeClient
from tests.master.kubernetes.jobs import IMAGE, job


class DyingClient(KubeClient):
    """Its process is killed after so many changes; -1: never."""

    steps = -1

    def create(
        self, made: Mapping[str, Any], timeout_s: float = TIMEOUT_S, dry_run: bool = False
    ) -> dict[str, Any]:
        return self._counted(super().create(made, timeout_s, dry_run))

    def patch(
        self, kind: str, name: str, changes: Mapping[str, Any], timeout_s: float = TIMEOUT_S
    ) -> dict[str, Any]:
        return self._counted(super().patch(kind, name, changes, timeout_s))

    def _counted(self, answer: dict[str, Any]) -> dict[str, Any]:
        self.steps -= 1
        if self.steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


if __name__ == "__main__":
    client = DyingClient.of_kubeconfig()
    client.steps = int(sys.argv[1])
    submit(job(), IMAGE, jobs_home() / "mnist-1", client)
