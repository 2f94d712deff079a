"""Partitions that keep copies of each other, in one process."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.copies import Copies
from elasticdl.ps.copy_source import CopySource
from elasticdl.ps.partition import Partition
from elasticdl.ps.restoring import Source
from elasticdl.ps.standby import Standby, keeper_of
from elasticdl.rpc import Client, DirectTransport, Frame, Placement, Service

STANDBY = ps_pb2.DESCRIPTOR.services_by_name["Standby"]


class HookedTransport(DirectTransport):
    """Calls `hook(path)` before every call."""

    def __init__(self, service: Service, hook: Callable[[str], object]) -> None:
        super().__init__(service)
        self._hook = hook

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        self._hook(path)
        return super().call(path, request, timeout_s, placement)


class Standbys:
    """For each of some partitions its standby, and what it keeps itself of others.

    Attributes:
      hook: called before every request, with its path.
    """

    def __init__(self, partitions: list[Partition]) -> None:
        self.partitions = partitions
        self.copies = [Copies(one.incarnation) for one in partitions]
        self.hook: Callable[[str], object] = lambda path: None
        self.cluster = master_pb2.Cluster(
            partitions=[
                master_pb2.Partition(index=one.index, incarnation=one.incarnation)
                for one in partitions
            ]
        )
        self.standbys = [Standby(one, self.connect) for one in partitions]
        for one in partitions:
            self.standbys[one.index].is_to_be_kept_by(self.keeper(one.index))

    def connect(self, server: master_pb2.Partition) -> HookedTransport:
        return HookedTransport(
            Service(STANDBY, self.copies[server.index]), lambda path: self.hook(path)
        )

    def keeper(self, index: int) -> master_pb2.Partition:
        keeper = keeper_of(index, self.cluster)
        assert keeper is not None
        return deepcopy(keeper)

    def replace(self, index: int, incarnation: int) -> None:
        """Whoever kept a copy there is gone, with it."""
        self.copies[index] = Copies(incarnation)
        self.cluster.partitions[index].incarnation = incarnation
        before = (index - 1) % len(self.partitions)
        self.standbys[before].is_to_be_kept_by(self.keeper(before))

    def copy(self) -> bool:
        """Have every partition copied once."""
        done = [standby.copy() for standby in self.standbys]
        return all(done)

    def fetch(self, index: int, routing: ps_pb2.Routing, number: int = 0, life: int = 1) -> Source:
        """What a life of a partition that is told to restore a checkpoint finds."""
        keeper = self.keeper(index)
        client = Client(STANDBY, self.connect(keeper), "its keeper")
        restore = master_pb2.Restore(checkpoint="there", routing=routing, number=number)
        return CopySource(keeper, client, index, life).fetch(restore)

    def restored(self, index: int, routing: ps_pb2.Routing, life: int = 1) -> Partition:
        """A partition as its copy has it."""
        partition = Partition(index, self.partitions[index].incarnation + 1)
        partition.restore(self.fetch(index, routing, life=life), routing)
        return partition

    def kept(self, index: int) -> list[tuple[int, int]]:
        """The parts that are kept of a partition: the number of each, and of its base."""
        kept = self.copies[self.keeper(index).index]._kept
        return [(one.number, one.base) for one in kept[index].parts] if index in kept else []
