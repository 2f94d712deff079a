"""What a job of N workers needs, from what few of them cost: the model of docs/performance.md.

A minibatch costs a worker, and all parameter servers together, processor time of two kinds: for
what it is, and for each partition that it is sent to: both are lines over the number of partitions.
A lease costs the master some, and every instance costs something as long as it lives. All that is
fitted to runs of few workers (`benchmarks.scaling`). The rest follows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.simulated_cluster import Settings, SimulatedCluster

MOST_BUSY = 0.7
"""Of a parameter server's core: beyond, requests wait for one another."""
_FLOAT_BYTES = 4
_ID_BYTES = 8


@dataclass(frozen=True)
class Line:
    """Seconds of processor time a minibatch: `base`, and `each` for every partition."""

    base: float
    each: float

    def at(self, partitions: int) -> float:
        """Return what it costs with so many partitions."""
        return self.base + self.each * partitions


def fit(columns: Sequence[np.ndarray], used: Sequence[float]) -> list[float]:
    """Return what each of some causes costs, none below 0, by least squares.

    Args:
      columns: of each cause, how much of it there was in each run.
      used: processor time in each run.
    """
    target = np.asarray(used, float)
    best, found = np.inf, [0.0] * len(columns)
    for chosen in itertools.product((False, True), repeat=len(columns)):
        positions = [position for position, is_in in enumerate(chosen) if is_in]
        if not positions:
            continue
        matrix = np.array([columns[position] for position in positions], float).T
        costs = np.linalg.lstsq(matrix, target, rcond=None)[0]
        error = float(np.square(matrix @ costs - target).sum())
        if costs.min() >= 0 and error < best * (1 - 1e-9):
            best, found = error, [0.0] * len(columns)
            for position, cost in zip(positions, costs, strict=True):
                found[position] = float(cost)
    return found


@dataclass(frozen=True)
class Traffic:
    """What a minibatch moves between its worker and all parameter servers.

    Attributes:
      dense: elements of the dense variables.
      rows: of each table: distinct ids of a minibatch, and the width of a row.
      served: minibatches that take the dense variables of one pull.
    """

    dense: int
    rows: tuple[tuple[float, int], ...]
    served: int

    @property
    def pulled_bytes(self) -> float:
        """Ids there, and rows and dense variables back; headers left out."""
        rows = sum(distinct * (_ID_BYTES + _FLOAT_BYTES * dim) for distinct, dim in self.rows)
        return rows + _FLOAT_BYTES * self.dense / self.served

    @property
    def pushed_bytes(self) -> float:
        """Ids and gradients."""
        rows = sum(distinct * (_ID_BYTES + _FLOAT_BYTES * dim) for distinct, dim in self.rows)
        return rows + _FLOAT_BYTES * self.dense


@dataclass(frozen=True)
class Costs:
    """What was measured of few workers.

    Attributes:
      minibatch_size: records.
      records_per_task: of a lease.
      worker: processor time of a minibatch in its worker.
      ps: in all parameter servers together.
      ps_alive: what a parameter server uses beside that, in each second.
      lease_s: of a lease in the master.
      alive: what the master uses for each instance, in each second.
      master: what it uses for itself.
      traffic: of a minibatch.
    """

    minibatch_size: int
    records_per_task: int
    worker: Line
    ps: Line
    ps_alive: float
    lease_s: float
    alive: float
    master: float
    traffic: Traffic

    def samples_per_s(self, workers: int, partitions: int, cores: int) -> float:
        """Return what some cores can do that all roles share, or, if they are enough, the workers.

        A worker computes one minibatch at a time: it is counted for one core at most.
        """
        minibatch_s = self.worker.at(partitions) + self.ps.at(partitions)
        minibatch_s += self.lease_s * self.minibatch_size / self.records_per_task
        always = partitions * self.ps_alive + (workers + partitions) * self.alive + self.master
        together = (cores - always) / minibatch_s
        return self.minibatch_size * min(together, workers / self.worker.at(partitions))


@dataclass(frozen=True)
class Needs:
    """What a job of some workers needs.

    Attributes:
      workers: each with a core of its own, or as many as `samples_per_s` was measured with.
      samples_per_s: of all workers.
      partitions: the fewest that are not too busy; None where no number is enough.
      ps_cores: that they use together.
      leases_per_s: that the master grants.
      master_cores: that it uses for them.
      worker_bytes_per_s: over the network of each worker, either way together.
      ps_bytes_per_s: of each parameter server.
    """

    workers: int
    samples_per_s: float
    partitions: int | None
    ps_cores: float
    leases_per_s: float
    master_cores: float
    worker_bytes_per_s: float
    ps_bytes_per_s: float


def needs(costs: Costs, workers: int, samples_per_s_each: float | None = None) -> Needs:
    """Return what a job of some workers needs.

    Args:
      costs: of a minibatch.
      workers: how many.
      samples_per_s_each: of one of them; what one core can do unless given.
    """
    speed = samples_per_s_each or costs.minibatch_size / costs.worker.at(1)
    minibatches_per_s = workers * speed / costs.minibatch_size
    # Each of P answers every push: P x (MOST_BUSY - alive) >= rate x (base + each x P).
    room = MOST_BUSY - costs.ps_alive - minibatches_per_s * costs.ps.each
    enough = minibatches_per_s * costs.ps.base / room if room > 0 else None
    partitions = None if enough is None else max(1, -int(-enough // 1))
    used = partitions or 1
    leases_per_s = workers * speed / costs.records_per_task
    moved = costs.traffic.pulled_bytes + costs.traffic.pushed_bytes
    return Needs(
        workers,
        workers * speed,
        partitions,
        minibatches_per_s * costs.ps.at(used) + used * costs.ps_alive,
        leases_per_s,
        leases_per_s * costs.lease_s + (workers + used) * costs.alive + costs.master,
        speed / costs.minibatch_size * moved,
        minibatches_per_s * moved / used,
    )


def most_workers(costs: Costs, samples_per_s_each: float | None = None) -> int:
    """Return how many workers parameter servers can serve, however many there are."""
    speed = samples_per_s_each or costs.minibatch_size / costs.worker.at(1)
    if not costs.ps.each:
        return 1 << 30
    return int((MOST_BUSY - costs.ps_alive) / costs.ps.each * costs.minibatch_size / speed)


@dataclass(frozen=True)
class Simulated:
    """What a simulated job of as many workers did, with the real ledger and membership."""

    samples_per_s: float
    leases_per_s: float


def simulate(costs: Costs, workers: int, samples_per_s_each: float, seconds: float) -> Simulated:
    """Play a job in which nobody dies.

    Args:
      costs: of a minibatch.
      workers: how many.
      samples_per_s_each: of one of them.
      seconds: how long it is to train, about.
    """
    tasks = max(1, round(seconds * samples_per_s_each / costs.records_per_task))
    settings = Settings(
        workers=workers,
        partitions=1,
        records=tasks * workers * costs.records_per_task,
        minibatch_size=costs.minibatch_size,
        records_per_task=costs.records_per_task,
        minibatch_s=costs.minibatch_size / samples_per_s_each,
        start_s=1.0,
        deaths_per_hour=0.0,
        ps_deaths_per_hour=0.0,
        storms=0,
        cut_share=0.0,
        repeated_share=0.0,
    )
    cluster = SimulatedCluster(settings)
    cluster.run()
    training_s = cluster.training_s
    return Simulated(settings.records / training_s, cluster.num_training_leases / training_s)
