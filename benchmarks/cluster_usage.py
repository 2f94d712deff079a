"""What the pods of the test cluster request and use, over time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.master.cluster.kubernetes.names import INSTANCE_LABEL
from elasticdl.pod_options import parse_quantity
from tests.cluster.cluster import Cluster
from tests.cluster.machines import CGROUP

_ACCOUNTS = Path("/sys/fs/cgroup/cpuacct") / CGROUP
_EVERY_S = 1.0
WINDOW_S = 5.0
_NANO = 1e-9


@dataclass(frozen=True)
class Sample:
    """One look.

    Attributes:
      at_s: seconds since the epoch.
      requested: cores that pods request whose containers run, by whose they are.
      used_s: seconds of cores that all pods have used so far.
    """

    at_s: float
    requested: Mapping[str, float]
    used_s: float


class Usage:
    """Looks at all pods of a namespace every second, in a thread, until it is stopped.

    Args:
      cluster: whose nodes run nothing else.
      namespaces: whose pods are looked at.

    Attributes:
      samples: what was seen, in order.
      allocatable: cores that pods may request, of all nodes.
    """

    def __init__(self, cluster: Cluster, *namespaces: str) -> None:
        self._api = cluster.api
        self._namespaces = namespaces
        self._nodes = [one.name for one in cluster.nodes]
        self.samples: list[Sample] = []
        self.allocatable = sum(allocatable_cores(cluster).values())
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Usage:
        self.samples.append(self._look())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)
        self.samples.append(self._look())

    def _run(self) -> None:
        while not self._end.wait(_EVERY_S):
            try:
                self.samples.append(self._look())
            except OSError:  # The apiserver is asked again.
                continue

    def _look(self) -> Sample:
        requested: dict[str, float] = {}
        for namespace in self._namespaces:
            pods = self._api.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
            for pod in filter(runs, pods):
                whose = pod["metadata"].get("labels", {}).get(INSTANCE_LABEL, "others")
                requested[whose] = requested.get(whose, 0.0) + cores_of(pod["spec"])
        used = sum(_used_s(node) for node in self._nodes)
        return Sample(time.time(), requested, used)

    def between(self, start_s: float, end_s: float) -> list[Sample]:
        """The samples of a span of time."""
        return [one for one in self.samples if start_s <= one.at_s <= end_s]


def mean_used(samples: Sequence[Sample]) -> float:
    """Cores used by all pods, on average."""
    first, last = samples[0], samples[-1]
    return (last.used_s - first.used_s) / (last.at_s - first.at_s)


def mean_requested(samples: Sequence[Sample]) -> float:
    """Cores requested by pods that run, on average over time."""
    pairs = itertools.pairwise(samples)
    weighed = sum(sum(a.requested.values()) * (b.at_s - a.at_s) for a, b in pairs)
    return weighed / (samples[-1].at_s - samples[0].at_s)


def steps(samples: Sequence[Sample], began: float) -> list[dict[str, Any]]:
    """When other cores were requested than before, and which, in seconds from the beginning."""
    pairs = itertools.pairwise(samples)
    changed = [one for before, one in pairs if before.requested != one.requested]
    return [
        {"at_s": round(one.at_s - began, 1), "requested": one.requested}
        for one in (samples[0], *changed, samples[-1])
    ]


def used_by_window(samples: Sequence[Sample], began: float) -> list[tuple[float, float]]:
    """The middle of each span of `WINDOW_S`, from the beginning, and the cores used in it."""
    found, first = [], samples[0]
    for one in samples:
        if one.at_s - first.at_s >= WINDOW_S:
            middle = (first.at_s + one.at_s) / 2 - began
            found.append((round(middle, 1), round(mean_used([first, one]), 3)))
            first = one
    return found


def runs(pod: Mapping[str, Any]) -> bool:
    """Whether its containers run."""
    return bool(pod["status"].get("phase") == "Running")


def cores_of(spec: Mapping[str, Any]) -> float:
    """Cores that a pod requests."""
    requests = [one.get("resources", {}).get("requests", {}) for one in spec["containers"]]
    return float(sum(parse_quantity(one.get("cpu", "0")) for one in requests))


def allocatable_cores(cluster: Cluster) -> dict[str, float]:
    """Cores that pods may request, by node."""
    return {
        node["metadata"]["name"]: float(parse_quantity(node["status"]["allocatable"]["cpu"]))
        for node in cluster.api.call("GET", "/api/v1/nodes")["items"]
    }


def free_cores(cluster: Cluster) -> dict[str, float]:
    """Cores that nobody has requested, by node."""
    free = allocatable_cores(cluster)
    for pod in cluster.api.call("GET", "/api/v1/pods")["items"]:
        node = pod["spec"].get("nodeName")
        if node in free and pod["status"].get("phase") not in ("Succeeded", "Failed"):
            free[node] -= cores_of(pod["spec"])
    return free


def fit(wanted: Sequence[float], free: Mapping[str, float]) -> bool:
    """Whether pods that request so many cores all find room, the largest first."""
    left = dict(free)
    for cores in sorted(wanted, reverse=True):
        node = max(left, key=left.__getitem__, default=None)
        if node is None or left[node] < cores - 1e-6:
            return False
        left[node] -= cores
    return True


def _used_s(node: str) -> float:
    file = _ACCOUNTS / node / "kubepods" / "cpuacct.usage"
    try:
        return int(file.read_text()) * _NANO
    except OSError:
        return 0.0
