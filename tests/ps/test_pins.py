"""Pins: one moment of every partition, kept while training goes on."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.proto import ps_pb2
from elasticdl.ps.client import PinGone, StaleCluster
from elasticdl.ps.pins import Pins
from elasticdl.worker.pinning import PinAgreement, make_pin
from tests.partitions import IDS, Servers


def push(servers: Servers, k: int, ids: np.ndarray = IDS) -> None:
    servers.push(k, ids, 1.0, 2.0)


def make(servers: Servers, number: int, grant: int = 1) -> list[int]:
    return make_pin(servers.client, number, grant, False, threading.Event())


def test_pulls_and_exports_that_name_a_pin_read_what_was_pinned() -> None:
    servers = Servers()
    push(servers, 0)
    pinned = servers.pull(IDS)
    exported = servers.client.export_rows(0)
    assert make(servers, 1) == [1, 1, 1]
    push(servers, 1, np.arange(-50, 50))
    now = servers.pull(IDS)
    assert not np.array_equal(now[0], pinned[0])
    for of_pin, expected in zip(servers.pull(IDS, pin=1), pinned, strict=True):
        np.testing.assert_array_equal(of_pin, expected)
    for of_pin, expected in zip(servers.client.export_rows(0, pin=1), exported, strict=True):
        np.testing.assert_array_equal(of_pin, expected)
    unseen = np.array([1000, 1001])
    np.testing.assert_array_equal(servers.pull(unseen, pin=1)[1], servers.pull(unseen)[1])


def test_making_a_pin_again_changes_nothing_of_it() -> None:
    servers = Servers()
    make(servers, 1)
    push(servers, 0)
    pinned = servers.pull(IDS, pin=1)
    for grant in (1, 2, 9):
        assert make(servers, 1, grant) == [0, 0, 0]
    np.testing.assert_array_equal(servers.pull(IDS, pin=1)[1], pinned[1])


def test_a_newer_pin_takes_the_place_of_an_older_one_which_never_comes_back() -> None:
    servers = Servers()
    make(servers, 1)
    push(servers, 0)
    assert make(servers, 2) == [1, 1, 1]
    for use in (
        lambda: servers.pull(IDS, pin=1),
        lambda: servers.client.export_rows(0, pin=1),
        lambda: make(servers, 1, 99),
    ):
        with pytest.raises(PinGone):
            use()
    servers.client.unpin(1)  # a late one
    assert len(servers.pull(IDS, pin=2)[1]) == len(IDS)


def test_a_pin_let_go_is_gone_for_good() -> None:
    servers = Servers()
    make(servers, 3)
    for _ in range(2):
        servers.client.unpin(3)
        with pytest.raises(PinGone):
            servers.pull(IDS, pin=3)
        with pytest.raises(PinGone):
            make(servers, 3, 2)
    make(servers, 4)
    assert len(servers.pull(IDS, pin=4)[1]) == len(IDS)


def test_a_pin_that_a_partition_never_made_is_gone_there() -> None:
    servers = Servers()
    make(servers, 1)
    with pytest.raises(PinGone):
        servers.pull(IDS, pin=2)


def test_a_pin_asked_of_another_incarnation_is_refused() -> None:
    servers = Servers()
    servers.cluster.partitions[1].incarnation = 2
    stale = servers.connect(servers.cluster)
    with pytest.raises(StaleCluster):
        stale.pin(1)
    with pytest.raises(StaleCluster):
        stale.unpin(1)


def test_a_version_to_come_is_pinned_when_it_is_there() -> None:
    taken: list[int] = []
    version = 0
    pins = Pins(lambda: taken.append(version), lambda: taken.clear())

    def ask(number: int, wanted: int) -> int:
        request = ps_pb2.PinRequest(
            number=number, action=ps_pb2.PIN_AT_VERSION, version=wanted, attempt=1
        )
        return pins.pin(request, version).status

    assert ask(1, 2) == ps_pb2.PS_NOT_YET
    assert not pins.is_pinned(1)
    for version in (1, 2, 3):
        pins.reached(version)
    assert taken == [2]
    assert pins.is_pinned(1)
    assert ask(1, 2) == ps_pb2.PS_OK
    assert ask(1, 1) == ps_pb2.PS_PIN_TOO_LATE
    assert taken == [2], "an answer of 'too late' leaves the image"
    assert ask(2, 9) == ps_pb2.PS_NOT_YET
    assert ask(3, 3) == ps_pb2.PS_OK
    version = 9
    pins.reached(version)
    assert taken == [3], "what a newer pin took the place of is not awaited any more"


@dataclass
class Simulated:
    """A partition as far as pins go."""

    version: int = 0
    image: int | None = None
    pins: Pins = field(init=False)

    def __post_init__(self) -> None:
        self.pins = Pins(self.take, self.drop)

    def take(self) -> None:
        self.image = self.version

    def drop(self) -> None:
        self.image = None

    def step(self) -> None:
        self.version += 1
        self.pins.reached(self.version)


class Maker:
    """A worker that makes pin 1, one request at a time."""

    def __init__(self, grant: int, partitions: list[Simulated]) -> None:
        self.agreement = PinAgreement(grant)
        self.partitions = partitions
        self.replies: list[ps_pb2.PinReply] = []
        self.sent: list[tuple[int, ps_pb2.PinRequest]] = []
        self.ended = False
        self.version: int | None = None

    def send(self, stands_still: bool) -> None:
        if self.ended:
            return
        ask = self.agreement.ask
        request = ps_pb2.PinRequest(
            number=1, attempt=ask.attempt, action=ask.action, version=ask.version
        )
        index = len(self.replies)
        self.sent.append((index, request))
        reply = self.partitions[index].pins.pin(request, self.partitions[index].version)
        if reply.status == ps_pb2.PS_PIN_GONE:
            self.ended = True
            return
        self.replies.append(reply)
        if len(self.replies) == len(self.partitions):
            replies, self.replies = self.replies, []
            if self.agreement.answered(replies, stands_still).done:
                self.ended, self.version = True, self.agreement.ask.version


@settings(max_examples=300, deadline=None)
@given(
    num_partitions=st.integers(1, 3),
    events=st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 2), st.integers(1, 8)),
            st.tuples(st.just("step"), st.integers(0, 2), st.just(1)),
            st.tuples(st.just("late"), st.integers(0, 2), st.integers(0, 10)),
        ),
        min_size=8,
        max_size=40,
    ),
)
def test_whoever_makes_a_pin_agrees_with_whoever_made_it_before(
    num_partitions: int, events: list[tuple[str, int, int]]
) -> None:
    partitions = [Simulated() for _ in range(num_partitions)]
    makers = [Maker(grant, partitions) for grant in range(1, 4)]
    agreed: set[int] = set()
    for what, who, argument in events:
        if what == "send":
            for _ in range(argument):
                makers[who].send(stands_still=argument % 2 == 1)
        elif what == "step":
            partition = partitions[who % num_partitions]
            if partition.version == min(one.version for one in partitions):
                partition.step()
        elif makers[who].sent:  # a request whose reply was lost, or a copy of it, arrives late
            index, request = makers[who].sent[argument % len(makers[who].sent)]
            partitions[index].pins.pin(request, partitions[index].version)
        agreed |= {maker.version for maker in makers if maker.version is not None}
        assert len(agreed) <= 1
        if agreed:
            assert {one.image for one in partitions} == agreed
    if not agreed:  # the last one comes to an end, whatever the others left
        last = Maker(9, partitions)
        for _ in range(20):
            for _ in partitions:
                last.send(stands_still=False)
            for partition in partitions:
                if partition.version == min(one.version for one in partitions):
                    partition.step()
        assert last.version is not None
        assert {one.image for one in partitions} == {last.version}


def test_where_training_stands_still_its_version_is_pinned() -> None:
    partitions = [Simulated(version=4), Simulated(version=4)]
    maker = Maker(1, partitions)
    for _ in partitions:
        maker.send(False)
    for partition in partitions:
        partition.step()
    for _ in range(4):
        maker.send(False)  # 4 has passed; 6 is awaited and does not come
    assert maker.version is None
    for _ in range(20):
        maker.send(True)
    assert maker.version == 5


def test_pulls_of_a_pin_go_on_beside_pushes() -> None:
    servers = Servers()
    ids = np.arange(400)
    push(servers, 0, ids)
    make(servers, 1)
    expected = servers.pull(ids)
    failures: list[str] = []
    stopped = threading.Event()

    def read() -> None:
        while not stopped.is_set():
            dense, rows = servers.pull(ids, pin=1)
            if not (np.array_equal(dense, expected[0]) and np.array_equal(rows, expected[1])):
                failures.append("a pull of the pin saw a push")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for k in range(1, 40):
        push(servers, k, ids[k * 7 % 300 :])
    stopped.set()
    for reader in readers:
        reader.join()
    assert failures == []
