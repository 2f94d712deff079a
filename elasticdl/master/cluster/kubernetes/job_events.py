"""What befalls a job, as Events of its Job: `kubectl describe job` shows them."""

from __future__ import annotations

import logging
import re
import time
from datetime import UTC, datetime
from typing import Any

from elasticdl.master.cluster.backend import InstanceEnded, InstanceStarted, InstanceWaits
from elasticdl.master.cluster.kubernetes.client import KubeClient, KubeError
from elasticdl.master.cluster.kubernetes.objects import Owner
from elasticdl.master.exits import Cause

logger = logging.getLogger(__name__)

REPEATED_AFTER_S = 60.0
_MOST_CHARACTERS = 1000
_COMPONENT = "elasticdl-master"


class JobEvents:
    """Writes Events; a job is no worse without them. Not thread-safe.

    Args:
      owner: the Job.
      host: the master's pod.
    """

    def __init__(self, client: KubeClient, owner: Owner, host: str) -> None:
        self._client = client
        self._owner = owner
        self._host = host
        self._told: dict[str, float] = {}

    def tell(self, event: InstanceStarted | InstanceWaits | InstanceEnded) -> None:
        """Tell of an end, or of a start that is in want of something, unless that is told."""
        match event:
            case InstanceWaits(spec, why, is_error, for_room) if is_error or for_room:
                reason = f"{spec.role.value.capitalize()}Waits"
                self._write(reason, f"{spec}: {why}", "Warning" if is_error else "Normal")
            case InstanceEnded(spec, end):
                # As kubectl shows reasons: WorkerPreempted, PsOutOfMemory.
                cause = re.sub(r"\W+", "", end.cause.value.title())
                is_normal = end.cause is Cause.EXITED and end.exit_code == 0
                message = f"{spec}, incarnation {spec.incarnation}: {end.describe()}"
                reason = f"{spec.role.value.capitalize()}{cause}"
                self._write(reason, message, "Normal" if is_normal else "Warning")

    def _write(self, reason: str, message: str, kind: str) -> None:
        now = time.monotonic()
        self._told = {text: at for text, at in self._told.items() if now - at < REPEATED_AFTER_S}
        if f"{reason} {message}" in self._told:
            return
        self._told[f"{reason} {message}"] = now
        try:
            self._client.create(self._event(reason, message, kind))
        except KubeError as error:
            logger.warning("an Event of the Job was not written: %s", error)

    def _event(self, reason: str, message: str, kind: str) -> dict[str, Any]:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = self._client.namespace
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self._owner.name}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": self._owner.name,
                "namespace": namespace,
                "uid": self._owner.uid,
            },
            "reason": reason,
            "message": message[:_MOST_CHARACTERS],
            "type": kind,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "source": {"component": _COMPONENT, "host": self._host},
        }
