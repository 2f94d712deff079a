"""What a worker's client does when a partition goes, comes back empty, or does not answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from elasticdl.credentials import Credentials
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import GaveUp, ModelLayout, ParameterClient, StaleCluster
from elasticdl.ps.lane_client import LaneClient
from elasticdl.ps.partition import Partition
from elasticdl.ps.push_queue import PushQueue
from elasticdl.ps.routing_table import RoutingTable
from elasticdl.rpc import Service, StreamServer, StreamTransport
from tests.partitions import DENSE, DESCRIPTOR, IDS, MODEL

DEADLINE_S = 60.0
TOKEN = Credentials("token")
SYNCHRONOUS = ps_pb2.ModelDefinition()
SYNCHRONOUS.CopyFrom(MODEL)
SYNCHRONOUS.synchronous.max_steps = 0
LANE = ps_pb2.LanePosition(epoch=0, lane=0, position=0, num_lanes=1, last=True)


class Cluster:
    """Two partitions that serve on real sockets, and a client of them."""

    def __init__(self, model: ps_pb2.ModelDefinition = MODEL) -> None:
        self.moved, self.over = threading.Event(), threading.Event()
        self.partitions = [Partition(index, 1) for index in range(2)]
        self.servers = [StreamServer([Service(DESCRIPTOR, one)], TOKEN) for one in self.partitions]
        routing = RoutingTable.initial(64, 2)
        self.cluster = master_pb2.Cluster(
            routing=ps_pb2.Routing(partition_of_group=routing.partition_of_group),
            partitions=[
                master_pb2.Partition(index=index, incarnation=1, address=server.address)
                for index, server in enumerate(self.servers)
            ],
        )
        self.client = ParameterClient(
            self.cluster,
            lambda one: StreamTransport(one.address, TOKEN),
            ModelLayout(model),
            give_up=self.over.is_set,
            is_stale=self.moved.is_set,
        )
        self.lookup = self.client.prepare([IDS])
        self.rows = [np.ones((len(self.lookup.unique[0]), 3), np.float32)]

    def push(self, index: int) -> object:
        header = ps_pb2.PushHeader(task=9, num_records=4)
        return self.client.push(index, header, self.lookup, self.rows, DENSE)

    def close(self) -> None:
        self.client.close()
        for server in self.servers:
            server.stop()


@pytest.fixture
def cluster():
    one = Cluster()
    one.client.initialize(DENSE)
    yield one
    one.close()


@pytest.fixture
def synchronous():
    one = Cluster(SYNCHRONOUS)
    one.client.initialize(DENSE)
    yield one
    one.close()


def ends_with(error: type[Exception], call, then: threading.Event) -> None:
    """The call waits, and ends with an error once `then` is set."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call)
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        then.set()
        with pytest.raises(error):
            waiting.result(DEADLINE_S)


@pytest.mark.parametrize("what", ["pull", "push", "queue", "progress", "pin", "export"])
def test_a_wait_for_a_lost_partition_ends_when_the_cluster_has_moved_on(cluster, what):
    client = cluster.client
    queue = PushQueue(client)
    pull = client.start_pull(cluster.lookup)
    pull.result()
    cluster.servers[1].stop()
    queue.put(cluster.push)
    calls = {
        "pull": lambda: client.start_pull(cluster.lookup).result(),
        "push": lambda: cluster.push(1),
        "queue": lambda: queue.wait(1),
        "progress": lambda: client.next_minibatch(9),
        "pin": lambda: client.pin(1),
        "export": lambda: client.export_rows(0),
    }
    ends_with(StaleCluster, calls[what], cluster.moved)
    queue.close()


@pytest.mark.parametrize("what", ["pull", "push", "close"])
def test_so_does_a_lanes(synchronous, what):
    lanes = LaneClient(synchronous.client)
    pulled = lanes.pull(LANE, 0, synchronous.lookup)
    header = ps_pb2.PushHeader(task=9, num_records=4, lane=LANE)
    synchronous.servers[1].stop()
    calls = {
        "pull": lambda: lanes.pull(LANE, 0, synchronous.lookup),
        "push": lambda: lanes.push(
            header, pulled.versions, synchronous.lookup, synchronous.rows, DENSE
        ),
        "close": lambda: lanes.close_task(ps_pb2.PushHeader(task=9, close=True, lane=LANE)),
    }
    ends_with(StaleCluster, calls[what], synchronous.moved)
    lanes.close()


@pytest.mark.parametrize("why", ["over", "moved"])
def test_a_lanes_push_waits_no_more_for_a_partition_that_does_not_answer(synchronous, why):
    lanes = LaneClient(synchronous.client)
    pulled = lanes.pull(LANE, 0, synchronous.lookup)
    header = ps_pb2.PushHeader(task=9, num_records=4, lane=LANE)
    with synchronous.partitions[1]._lock:  # It is reached, and stuck.
        ends_with(
            GaveUp if why == "over" else StaleCluster,
            lambda: lanes.push(
                header, pulled.versions, synchronous.lookup, synchronous.rows, DENSE
            ),
            getattr(synchronous, why),
        )
    lanes.close()


def test_an_empty_partition_is_no_error_of_the_model_but_another_cluster():
    empty = Cluster()
    client = empty.client
    calls = [
        lambda: client.start_pull(empty.lookup).result(),
        lambda: empty.push(0),
        lambda: client.next_minibatch(9),
        lambda: client.pin(1),
        lambda: client.training_losses(),
    ]
    for call in calls:
        with pytest.raises(StaleCluster, match="PS_NOT_INITIALIZED"):
            call()
    empty.close()
