"""The model of what N workers need, against the real client and against the simulator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.needs import MOST_BUSY, Costs, Line, Traffic, fit, most_workers, needs, simulate
from elasticdl.ps.client import ParameterClient
from elasticdl.rpc import DirectTransport, Frame, Placement, Service
from tests.partitions import DESCRIPTOR, Servers

COSTS = Costs(
    minibatch_size=1024,
    records_per_task=64 * 1024,
    worker=Line(0.008, 0.0005),
    ps=Line(0.002, 0.0002),
    ps_alive=0.01,
    lease_s=0.0005,
    alive=0.0002,
    master=0.02,
    traffic=Traffic(1000, ((10.0, 16),), 2),
)


class CountingTransport(DirectTransport):
    """Counts the bytes of buffers, either way."""

    def __init__(self, service: Service, counted: Callable[[int], None]) -> None:
        super().__init__(service)
        self._counted = counted

    def call(
        self, path: str, request: Frame, timeout_s: float, placement: Placement | None = None
    ) -> Frame:
        reply = super().call(path, request, timeout_s)
        self._counted(sum(request.lengths) + sum(reply.lengths))
        return super().call(path, request, timeout_s, placement)


@pytest.mark.parametrize("num_partitions", [1, 3])
def test_a_minibatch_moves_the_bytes_that_the_model_says(num_partitions: int) -> None:
    servers, moved = Servers(num_partitions), [0]

    def count(num_bytes: int) -> None:
        moved[0] += num_bytes

    servers.client = ParameterClient(
        servers.cluster,
        lambda one: CountingTransport(Service(DESCRIPTOR, servers.partitions[one.index]), count),
        servers.layout,
    )
    ids = np.arange(50, dtype=np.int64)
    traffic = Traffic(287, ((50.0, 3),), 1)

    servers.pull(ids)
    assert moved[0] == traffic.pulled_bytes

    moved[0] = 0
    servers.push(0, ids, 1.0, 1.0)
    assert moved[0] == traffic.pushed_bytes


def test_what_was_paid_for_each_cause_is_found_again() -> None:
    minibatches, seconds = np.array([100.0, 300.0, 90.0, 500.0]), np.array([8.0, 9.0, 7.0, 8.5])
    used = list(0.003 * minibatches + 0.02 * seconds)
    assert fit([minibatches, seconds], used) == pytest.approx([0.003, 0.02])


def test_nothing_costs_less_than_nothing() -> None:
    minibatches, partitions = np.array([100.0, 100.0, 100.0]), np.array([1.0, 2.0, 4.0])
    base, each = fit([minibatches, minibatches * partitions], [0.4, 0.3, 0.2])
    assert base == pytest.approx(0.003)
    assert each == 0.0


@pytest.mark.parametrize("workers", [1, 7, 20])
def test_partitions_are_the_fewest_that_are_not_too_busy(workers: int) -> None:
    found = needs(COSTS, workers)
    assert found.partitions is not None
    minibatches_per_s = found.samples_per_s / COSTS.minibatch_size

    def busy(partitions: int) -> float:
        return minibatches_per_s * COSTS.ps.at(partitions) / partitions + COSTS.ps_alive

    assert busy(found.partitions) <= MOST_BUSY
    assert found.partitions == 1 or busy(found.partitions - 1) > MOST_BUSY
    assert found.ps_cores == pytest.approx(found.partitions * busy(found.partitions))


def test_beyond_the_most_workers_no_number_of_partitions_is_enough() -> None:
    most = most_workers(COSTS)
    assert needs(COSTS, most - 1).partitions is not None
    assert needs(COSTS, most + 1).partitions is None


@pytest.mark.parametrize("workers", [1, 4, 64])
def test_the_simulator_trains_as_fast_and_leases_as_often_as_the_model_says(workers: int) -> None:
    speed = 100_000.0
    expected = needs(COSTS, workers, speed)

    found = simulate(COSTS, workers, speed, 120.0)

    assert found.samples_per_s == pytest.approx(expected.samples_per_s, rel=0.1)
    assert found.leases_per_s == pytest.approx(expected.leases_per_s, rel=0.1)
