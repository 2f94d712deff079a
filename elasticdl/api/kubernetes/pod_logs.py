"""What the pods of a job said, as long as they are there."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from elasticdl.logs.files import LineReader, first_error_in
from elasticdl.logs.line import OUTPUT, LogLine
from elasticdl.master.cluster.kubernetes.client import KubeClient, KubeError, NotAsked, Unanswered
from elasticdl.master.cluster.kubernetes.names import (
    CHECK,
    COMPONENT_LABEL,
    INCARNATION_LABEL,
    INDEX_LABEL,
    selecting,
)
from elasticdl.master.cluster.kubernetes.pod_template import MAIN

LOOK_S = 1.0
"""How often a log is asked for that is followed."""
_FRACTION = re.compile(r"\.\d+")
_ROLES = ("check", "master", "ps", "worker")


def find_pod_logs(
    client: KubeClient, name: str, role: str | None = None, index: int | None = None
) -> list[PodLog]:
    """The logs of a job's pods, of one role and index or all; by role, index and incarnation.

    Raises:
      KubeError: the apiserver refuses, or is away.
    """
    found = []
    for pod in client.list("Pod", selecting(name, role or "")).items:
        log = PodLog(client, pod)
        if log.role in _ROLES and index in (None, log.index):
            found.append(log)
    return sorted(found, key=lambda one: (one.role, one.index, one.incarnation, one.began))


class PodLog:
    """What the container of one pod said; see `elasticdl.api.job_backends.Log`.

    Attributes:
      pod: its name.
      began: when it was created.
      restarts: how often its container was started again where it is: a master's.
    """

    def __init__(self, client: KubeClient, pod: Mapping[str, Any]) -> None:
        labels = pod["metadata"]["labels"]
        self._client = client
        self.pod: str = pod["metadata"]["name"]
        self.began: str = pod["metadata"]["creationTimestamp"]
        self.role: str = labels.get(COMPONENT_LABEL, CHECK)
        self.index = int(labels.get(INDEX_LABEL, 0))
        self.incarnation = int(labels.get(INCARNATION_LABEL, 0))
        statuses = (pod.get("status") or {}).get("containerStatuses") or ()
        main: Sequence[Mapping[str, Any]] = [one for one in statuses if one["name"] == MAIN]
        self.restarts = sum(one.get("restartCount", 0) for one in main)

    def lines(self) -> Iterator[LogLine]:
        reader = self._reader()
        for previous in (True, False) if self.restarts else (False,):
            for _, text in self._printed("", previous):
                yield from reader.read(text)

    def first_error(self) -> LogLine | None:
        return first_error_in(self.lines())

    def follower(self) -> PodLogFollower:
        return PodLogFollower(self)

    def printed_since(self, since: str) -> list[tuple[str, bytes]]:
        """The lines of that second and later, each with its time."""
        return list(self._printed(since, previous=False))

    def _printed(self, since: str, previous: bool) -> Iterator[tuple[str, bytes]]:
        try:
            content = self._client.log_since(self.pod, MAIN, since, previous)
        except (NotAsked, Unanswered):
            raise
        except KubeError:  # It waits for its container, or is gone.
            return
        for line in content.splitlines():
            at, _, text = line.partition(b" ")
            yield at.decode(errors="replace"), text

    def _reader(self) -> LineReader:
        return LineReader(LogLine("", self.role, self.index, self.incarnation, OUTPUT, ""))


class PodLogFollower:
    """Reads a pod's log from its beginning, then what was added each time."""

    def __init__(self, log: PodLog) -> None:
        self._log = log
        self._reader = log._reader()
        self._last = ""
        self._of_last = 0
        self._due = 0.0

    def read(self) -> Iterator[LogLine]:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + LOOK_S
            yield from self._new()

    def rest(self) -> Iterator[LogLine]:
        yield from self._new()

    def close(self) -> None:
        pass

    def _new(self) -> Iterator[LogLine]:
        """Those that were not read; asked for by the second, which may have been read in part."""
        try:
            printed = self._log.printed_since(_second(self._last))
        except KubeError:
            return  # The apiserver is away for a while.
        read = self._of_last
        for at, text in printed:
            if at < self._last:
                continue
            if at == self._last and read:
                read -= 1
                continue
            if at != self._last:
                self._last, self._of_last = at, 0
            self._of_last += 1
            yield from self._reader.read(text)


def _second(at: str) -> str:
    """A time of nanoseconds as the apiserver takes it."""
    return _FRACTION.sub("", at)
