"""What the partitions are, what they begin with, and the checkpoints that are made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elasticdl.master.instances import Instance
from elasticdl.ps.routing_table import RoutingTable

BEGUN = "checkpoint_begun"
COMMITTED = "checkpoint"
FAILED = "checkpoint_failed"
RETRIED = "checkpoint_retried"
"""Kinds of entries of the journal: a checkpoint's number, before it is used; what became of it:
there, not to be written, or given up for another as what it was to be of had changed meanwhile."""


@dataclass(frozen=True)
class Cluster:
    """All parameter servers by index; `version` grows whenever one comes, goes or moves."""

    partitions: tuple[Instance, ...]
    routing: RoutingTable
    version: int


@dataclass(frozen=True)
class Restore:
    """What a parameter server begins with: a checkpoint's directory, or none, and the routing.

    number: of the checkpoint. keeper: who may have a copy of the partition that goes beyond it.
    """

    checkpoint: str
    routing: RoutingTable
    number: int = 0
    keeper: Instance | None = None


@dataclass(frozen=True)
class CheckpointMoment:
    """What a checkpoint is begun with.

    entry: number of the journal's last entry. tasks: definitions of those that may be open in it.
    """

    cluster: Cluster
    entry: int
    tasks: list[Any]


@dataclass(frozen=True)
class CommittedCheckpoint:
    """A checkpoint that the journal has.

    path: its directory. entry: number of the journal's last entry when it was begun. closed: tasks
    that are closed in all its groups, as half-open intervals.
    """

    number: int
    path: str
    entry: int
    steps: int
    closed: tuple[tuple[int, int], ...]
    reason: str
    num_bytes: int
    seconds: float

    @classmethod
    def of_entry(cls, body: dict[str, Any]) -> CommittedCheckpoint:
        """Return the checkpoint that an entry `checkpoint` of the journal tells of."""
        return cls(**{**body, "closed": tuple((start, end) for start, end in body["closed"])})

    def __str__(self) -> str:
        size = f"{self.num_bytes / 1e6:,.1f} MB in {self.seconds:.1f} s"
        return f"checkpoint {self.number} at step {self.steps:,} ({size})"
