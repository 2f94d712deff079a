"""What the instances of a job say of themselves with their signs of life, and how fast it grows."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.proto import master_pb2

WINDOW_S = 5.0
"""Rates are those of so many seconds."""


@dataclass(frozen=True)
class _Sign:
    at: float
    cpu_s: float
    vitals: master_pb2.Vitals


@dataclass(frozen=True)
class PartitionVitals:
    """Of one parameter server: what it holds, what it is asked for, and how old pushes were.

    staleness: of the pushes applied in this life, how many were 0, 1, 2, … minibatches old.
    """

    rows: int
    num_bytes: int
    pulls_per_s: float
    pushes_per_s: float
    bytes_per_s: float
    staleness: tuple[int, ...]
    counts: master_pb2.PartitionCounts


@dataclass(frozen=True)
class InstanceVitals:
    """Of one instance: `cpu` in cores, None where one sign tells no rate; `heard_s` ago."""

    heard_s: float
    cpu: float | None
    cpu_s: float
    memory_bytes: int
    doing: str
    metrics_address: str
    partition: PartitionVitals | None
    learning_rate: float | None
    refusals: Mapping[str, int]


@dataclass
class _Seat:
    incarnation: int
    signs: deque[_Sign] = field(default_factory=deque)


class JobVitals:
    """The newest signs of life of every instance. Thread-safe.

    Args:
      clock: in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seats: dict[tuple[Role, int], _Seat] = {}

    def note(self, spec: InstanceSpec, cpu_s: float, vitals: master_pb2.Vitals) -> None:
        """An instance, which is current, gave a sign of life."""
        now = self._clock()
        with self._lock:
            seat = self._seats.setdefault((spec.role, spec.index), _Seat(spec.incarnation))
            if spec.incarnation < seat.incarnation:
                return
            if spec.incarnation > seat.incarnation:
                seat = self._seats[spec.role, spec.index] = _Seat(spec.incarnation)
            seat.signs.append(_Sign(now, cpu_s, vitals))
            while len(seat.signs) > 2 and seat.signs[1].at <= now - WINDOW_S:
                seat.signs.popleft()

    def of(self, spec: InstanceSpec) -> InstanceVitals | None:
        """What an instance said last; None where that was nothing, or another life said it."""
        now = self._clock()
        with self._lock:
            seat = self._seats.get((spec.role, spec.index))
            if seat is None or seat.incarnation != spec.incarnation:
                return None
            first, last = seat.signs[0], seat.signs[-1]
        seconds = last.at - first.at
        counts = last.vitals.partition if last.vitals.HasField("partition") else None
        has_rate = counts is not None and counts.HasField("learning_rate")
        return InstanceVitals(
            heard_s=max(0.0, now - last.at),
            cpu=(last.cpu_s - first.cpu_s) / seconds if seconds > 0 else None,
            cpu_s=last.cpu_s,
            memory_bytes=last.vitals.memory_bytes,
            doing=last.vitals.doing,
            metrics_address=last.vitals.metrics_address,
            partition=None if counts is None else _partition(first.vitals, counts, seconds),
            learning_rate=counts.learning_rate if counts is not None and has_rate else None,
            refusals=dict(last.vitals.refusals),
        )


def _partition(
    before: master_pb2.Vitals, counts: master_pb2.PartitionCounts, seconds: float
) -> PartitionVitals:
    then = before.partition

    def per_s(difference: int) -> float:
        return max(0, difference) / seconds if seconds > 0 else 0.0

    sent = counts.sent_bytes - then.sent_bytes
    received = counts.received_bytes - then.received_bytes
    return PartitionVitals(
        rows=counts.rows,
        num_bytes=counts.num_bytes,
        pulls_per_s=per_s(counts.pulls - then.pulls),
        pushes_per_s=per_s(counts.pushes - then.pushes),
        bytes_per_s=per_s(sent + received),
        staleness=tuple(counts.staleness),
        counts=counts,
    )


def describe_partitions(servers: Iterable[InstanceSpec], vitals: JobVitals) -> list[dict[str, Any]]:
    """Return plain values of the parameter servers that have told something."""
    described = []
    for spec in servers:
        found = vitals.of(spec)
        if found is None or found.partition is None:
            continue
        partition = found.partition
        described.append(
            {
                "index": spec.index,
                "incarnation": spec.incarnation,
                "rows": partition.rows,
                "bytes": partition.num_bytes,
                "pulls_per_s": round(partition.pulls_per_s, 3),
                "pushes_per_s": round(partition.pushes_per_s, 3),
                "bytes_per_s": round(partition.bytes_per_s, 1),
                "staleness": list(partition.staleness),
            }
        )
    return described
