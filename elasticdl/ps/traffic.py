"""What a partition was asked for and sent: counts that its heartbeat tells the master."""

from __future__ import annotations

from collections.abc import Sequence

from elasticdl.exposition import Exposition
from elasticdl.proto import master_pb2
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.rpc import Frame

MOST_STALE = 31
"""Pushes that are older are counted as this old."""


class Traffic:
    """Counts of one partition. Not thread-safe: counted under the partition's lock.

    Attributes:
      learning_rate: of the last update; None before the first one.
    """

    def __init__(self) -> None:
        self.learning_rate: float | None = None
        self._pulls = self._pushes = 0
        self._sent_bytes = self._received_bytes = 0
        self._staleness = [0] * (MOST_STALE + 1)

    def pulled(self, reply: Frame) -> Frame:
        """Count the answer of a pull, and return it."""
        self._pulls += 1
        self._sent_bytes += sum(reply.lengths)
        return reply

    def pushed(self, request: Frame) -> None:
        """Count the push of a minibatch, whatever becomes of it."""
        self._pushes += 1
        self._received_bytes += sum(request.lengths)

    def applied(self, staleness: int) -> None:
        """Count what was applied, by how many minibatches came between its pull and its push."""
        self._staleness[min(max(0, staleness), MOST_STALE)] += 1

    def counts(
        self, tables: Sequence[EmbeddingTable], dense_bytes: int
    ) -> master_pb2.PartitionCounts:
        """Return what was counted so far, and what the partition holds now."""
        last = max((age for age, count in enumerate(self._staleness) if count), default=-1)
        return master_pb2.PartitionCounts(
            rows=sum(map(len, tables)),
            num_bytes=sum(table.num_bytes for table in tables) + dense_bytes,
            pulls=self._pulls,
            pushes=self._pushes,
            sent_bytes=self._sent_bytes,
            received_bytes=self._received_bytes,
            staleness=self._staleness[: last + 1],
            learning_rate=self.learning_rate,
        )


def doing_of(has_model: bool, is_writing: bool) -> str:
    """Say what a partition is at, in words."""
    if not has_model:
        return "waits for initial values, or for what to restore"
    return "serves, and writes a checkpoint" if is_writing else "serves"


def add_metrics(metrics: Exposition, counts: master_pb2.PartitionCounts | None) -> None:
    """Add what a partition's heartbeat tells to the metrics of its process."""
    if counts is None:
        return
    metrics.gauge("own_rows", "Rows of embeddings held.", counts.rows)
    metrics.gauge("own_values_bytes", "Memory of its values.", counts.num_bytes)
    for name, told in (
        ("pulls", "Pulls answered."),
        ("pushes", "Pushes of minibatches."),
        ("sent_bytes", "Answered to pulls."),
        ("received_bytes", "Of pushes."),
    ):
        metrics.counter(f"own_{name}_total", told, getattr(counts, name))
    told = "Minibatches between what a push was computed from and its application."
    metrics.histogram("own_staleness_minibatches", told, counts.staleness)
