"""What instances ask the master for while they live, and how often."""

from __future__ import annotations

import threading

from elasticdl.heartbeat import LONGEST_PAUSE_S, wait_for_cluster
from elasticdl.master.servicer import MasterServicer
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client, DirectTransport, Service

MASTER = master_pb2.DESCRIPTOR.services_by_name["Master"]


class Registry(MasterServicer):
    """Partitions that are there from the fifth time on that somebody asks."""

    def __init__(self, retry_after_s: float) -> None:
        self.asked = 0
        self._retry_after_s = retry_after_s

    def register(self, request: master_pb2.RegisterRequest) -> master_pb2.RegisterReply:
        self.asked += 1
        cluster = master_pb2.Cluster(version=7) if self.asked == 5 else None
        return master_pb2.RegisterReply(
            accepted=True, cluster=cluster, retry_after_s=self._retry_after_s
        )


class Waits(threading.Event):
    """Notes how long is waited for it, and lets nobody wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return False


def pauses(retry_after_s: float) -> list[float | None]:
    registry, stop = Registry(retry_after_s), Waits()
    client = Client(MASTER, DirectTransport(Service(MASTER, registry)), "the master")
    cluster = wait_for_cluster(client, master_pb2.InstanceId(role="worker"), 1, give_up=stop)
    assert cluster.version == 7
    return stop.seconds


def test_who_waits_for_a_partition_asks_no_sooner_than_the_master_says():
    assert pauses(2.0) == [2.0] * 4
    assert all(0 < pause <= LONGEST_PAUSE_S for pause in pauses(0.0))
