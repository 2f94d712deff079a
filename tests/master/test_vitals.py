"""What the master keeps of what instances say of themselves."""

from __future__ import annotations

import pytest

from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.vitals import WINDOW_S, JobVitals
from elasticdl.proto import master_pb2

SERVER = InstanceSpec(Role.PS, 0, 1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def said(pulls: int, pushes: int = 0) -> master_pb2.Vitals:
    counts = master_pb2.PartitionCounts(
        rows=7,
        num_bytes=70,
        pulls=pulls,
        pushes=pushes,
        sent_bytes=100 * pulls,
        received_bytes=10 * pushes,
        staleness=[pushes, 1],
        learning_rate=0.5,
    )
    return master_pb2.Vitals(memory_bytes=1 << 20, doing="serves", partition=counts)


def test_rates_are_of_the_last_seconds():
    clock = Clock()
    vitals = JobVitals(clock)
    for second in range(60):
        clock.now = 100.0 + second
        rate = 50 if second >= 40 else 5
        vitals.note(SERVER, 0.5 * second, said(rate * second, 2 * second))
    clock.now += 0.25
    found = vitals.of(SERVER)
    assert found.heard_s == pytest.approx(0.25)
    assert found.cpu == pytest.approx(0.5)
    assert found.memory_bytes == 1 << 20
    assert found.learning_rate == 0.5
    assert found.partition.pulls_per_s == pytest.approx(50)
    assert found.partition.pushes_per_s == pytest.approx(2)
    assert found.partition.bytes_per_s == pytest.approx(50 * 100 + 2 * 10)
    assert found.partition.staleness == (118, 1)
    assert WINDOW_S < 20, "what is over twenty seconds ago says nothing of now"


def test_a_new_life_begins_with_nothing_and_an_old_one_is_not_heard():
    clock = Clock()
    vitals = JobVitals(clock)
    vitals.note(SERVER, 1.0, said(1000))
    again = InstanceSpec(Role.PS, 0, 2)
    assert vitals.of(again) is None
    vitals.note(again, 0.1, said(3))
    vitals.note(SERVER, 2.0, said(2000))
    assert vitals.of(SERVER) is None
    found = vitals.of(again)
    assert found.partition.counts.pulls == 3
    assert found.cpu is None, "one sign tells no rate"
    assert found.partition.pulls_per_s == 0
