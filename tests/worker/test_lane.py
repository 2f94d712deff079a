"""Sync mode in one process: the weights are those of one process, whoever dies."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from elasticdl.model.keras_api import keras
from elasticdl.model.user_optimizer import UserOptimizer
from elasticdl.ps.client import TaskRewound
from elasticdl.ps.keras_optimizers import from_keras_config
from elasticdl.ps.lanes import Answer, Lanes
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.worker.digests import minibatch_digest
from tests.ps import lazy_reference
from tests.worker.lanes_harness import (
    DIM,
    INPUTS,
    NUM_IDS,
    Batch,
    Job,
    Killed,
    gradients,
    make_batches,
)

SGD = OptimizerConfig(name="sgd", learning_rate=0.1)
# Of these tables are updated as Keras updates the whole matrix.
EAGER = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    # Each clips most steps of these data; Keras sees the average.
    "clipvalue": lambda: keras.optimizers.SGD(0.1, clipvalue=0.1),
    "clipnorm": lambda: keras.optimizers.Adagrad(0.1, clipnorm=0.3),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.4),
    "schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 20, 0.9)
    ),
}
WITH_OPTIONS = ("clipvalue", "clipnorm", "global_clipnorm", "schedule")
# The tables of the others are updated lazily.
LAZY = {
    "momentum": lambda: keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01),
    "ftrl": lambda: keras.optimizers.Ftrl(0.05),
    "adadelta": lambda: keras.optimizers.Adadelta(0.5),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "lion": lambda: keras.optimizers.Lion(0.001),
}


def config_of(optimizer: keras.optimizers.Optimizer) -> OptimizerConfig:
    return from_keras_config(optimizer.get_config(), type(optimizer).__name__)


@pytest.fixture(autouse=True)
def quiet_deaths(monkeypatch):
    """A thread that is killed is no news."""
    before = threading.excepthook
    monkeypatch.setattr(
        threading, "excepthook", lambda args: args.exc_type is Killed or before(args)
    )


def epoch_of(rng: np.random.Generator, lanes: list[list[int]]) -> list[list[list[Batch]]]:
    return [[make_batches(rng, count) if count else [] for count in tasks] for tasks in lanes]


def steps_of(epochs: list[list[list[list[Batch]]]]) -> list[list[Batch]]:
    """Step j is minibatch j of each lane that has one."""
    steps = []
    for lanes in epochs:
        sequences = [[batch for batches in tasks for batch in batches] for tasks in lanes]
        for j in range(max(map(len, sequences))):
            steps.append([one[j] for one in sequences if j < len(one)])
    return steps


def accumulated(job: Job, steps: list[list[Batch]], optimizer, lazily: bool = False):
    """One process that trains on each step's records as one minibatch, with a Keras optimizer."""
    config = config_of(optimizer)
    kernel = keras.Variable(job.kernel)
    rows = keras.Variable(job.parameters()[2])
    lazy_rows = rows.numpy()
    slots = {
        name: np.full_like(lazy_rows, config.initial_slot_value(slot))
        for slot, name in enumerate(config.slot_names)
    }
    variables = [kernel] if lazily else [kernel, rows]
    optimizer.build(variables)
    mean = np.zeros(INPUTS, np.float32)
    for number, batches in enumerate(steps, 1):
        batch = Batch.joined(batches)
        now = lazy_rows if lazily else rows.numpy()
        _, of_kernel, of_rows, _ = gradients(batch, kernel.numpy(), now, batch.ids)
        optimizer.apply([of_kernel, of_rows][: len(variables)], variables)
        if lazily:
            touched = np.unique(batch.ids)
            iterations = np.full(len(touched), number)
            lazy_reference.apply(config, lazy_rows, slots, touched, of_rows[touched], iterations)
        # Each minibatch's change from the same old state, averaged by records.
        changes = [0.1 * (one.numbers.mean(axis=0) - mean) * len(one) for one in batches]
        mean = mean + sum(changes) / len(batch)
    return kernel.numpy(), mean, lazy_rows if lazily else rows.numpy()


def check_a_hundred_steps(make_optimizer, num_lanes: int, lazily: bool) -> None:
    rng = np.random.default_rng(num_lanes)
    epochs = [epoch_of(rng, [[20, 30]] * num_lanes) for _ in range(2)]
    config = config_of(make_optimizer())
    rates = UserOptimizer(make_optimizer()).rates if config.schedule else None
    job = Job(epochs, config, num_partitions=2, rates=rates)
    expected = accumulated(job, steps_of(epochs), make_optimizer(), lazily)
    job.run()
    assert not job.ledger.failures
    assert job.versions == [100, 100]
    for value, wanted in zip(job.parameters(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "num_lanes"),
    [("sgd", 1), ("sgd", 2), ("adagrad", 1), ("adagrad", 3), *((name, 2) for name in WITH_OPTIONS)],
)
def test_a_hundred_steps_equal_keras_on_the_accumulated_minibatches(name, num_lanes):
    check_a_hundred_steps(EAGER[name], num_lanes, lazily=False)


@pytest.mark.parametrize("name", LAZY)
def test_a_hundred_steps_equal_the_lazy_reference(name):
    check_a_hundred_steps(LAZY[name], num_lanes=3, lazily=True)


LANES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    lanes=LANES.filter(lambda lanes: any(map(sum, lanes))),
    num_partitions=st.integers(1, 3),
    clips=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_whoever_is_killed_the_weights_are_the_same_bits(lanes, num_partitions, clips, seed):
    rng = np.random.default_rng(seed)
    epochs = [epoch_of(rng, lanes) for _ in range(2)]
    adam = OptimizerConfig(name="adam", learning_rate=0.05, clipnorm=0.5 if clips else 0.0)
    undisturbed = Job(epochs, adam, num_partitions)
    undisturbed.run()
    killed = Job(epochs, adam, num_partitions, dies=0.03, seed=seed)
    killed.run()
    event("workers died" if killed.num_deaths else "nobody died")
    assert not killed.ledger.failures
    assert not killed.ledger.attempts, "the same minibatches each time"
    for value, wanted in zip(killed.parameters(), undisturbed.parameters(), strict=True):
        np.testing.assert_array_equal(value, wanted)
    records = sum(len(batch) for step in steps_of(epochs) for batch in step)
    for audit in killed.audits():
        assert set(audit.applied_records) == {records}
        assert set(audit.closed_records) == {records}
        assert audit.closed_tasks == 2 * sum(map(len, lanes))


class WatchedLanes(Lanes):
    """Notes the digests of what was taken, and of each attempt that closed a task all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[tuple[int, int, int, int], list[int]] = {}
        self.closed: list[list[int]] = []
        self.filled = 0

    def take(self, place, digest=0):
        if self.progress(place).next < place.start:
            self.filled += 1
        else:
            key = (place.epoch, place.lane, place.position, place.attempt)
            self.taken.setdefault(key, []).append(digest)
        super().take(place, digest)

    def close(self, place, closing):
        verdict = super().close(place, closing)
        if verdict.answer is Answer.GO:
            key = (place.epoch, place.lane, place.position, closing.attempt)
            self.closed.append(self.taken.get(key, []))
        return verdict


@settings(max_examples=60, deadline=None)
@given(
    lanes=LANES.filter(lambda lanes: any(map(sum, lanes))),
    num_partitions=st.integers(1, 3),
    clips=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_what_is_read_otherwise_each_time_every_partition_trains_whole_at_the_end(
    lanes, num_partitions, clips, seed
):
    rng = np.random.default_rng(seed)
    readings: list[list[int]] = []

    def read(batches: list[Batch]) -> list[Batch]:
        kept = [one for one in batches if rng.random() < 0.7]
        rng.shuffle(kept)
        digests = [0]
        for one in kept:
            digests.append(minibatch_digest(one.numbers, len(one), digests[-1]))
        readings.append(digests[1:])
        return kept

    epochs = [epoch_of(rng, lanes) for _ in range(2)]
    adam = OptimizerConfig(name="adam", learning_rate=0.05, clipnorm=0.5 if clips else 0.0)
    job = Job(epochs, adam, num_partitions, dies=0.04, seed=seed, read=read)
    watched = [WatchedLanes() for _ in job.partitions]
    for partition, lanes_of in zip(job.partitions, watched, strict=True):
        partition._steps.lanes = lanes_of
    job.run()
    event("began anew" if job.ledger.attempts else "never")
    event("filled" if any(one.filled for one in watched) else "nothing to fill")
    assert not job.ledger.failures
    for one in watched:
        assert all(digests in readings for digests in one.closed)
        assert sorted(one.closed) == sorted(watched[0].closed)
    assert len(set(job.versions)) == 1
    given = sum(one.message.end for lanes in job._epochs for tasks in lanes for one in tasks)
    for audit in job.audits():
        counted = np.array(audit.applied_records) + np.array(audit.filtered_records)
        assert set(counted) == {given} == set(audit.closed_records)
        assert set(audit.skipped_records) == {0}
        if not job.ledger.attempts:
            assert set(audit.repeated_records) == {0}


def test_a_task_is_not_begun_before_an_earlier_one_of_its_lane_that_was_given_back():
    """A worker gives a task back, and is not told that later ones went with it: it asks."""
    job = Job([epoch_of(np.random.default_rng(1), [[2, 3, 1]])], SGD, num_partitions=2)
    first, second, third = job.held(0)
    lane, ended = job.new_lane()
    with pytest.raises(TaskRewound, match="an earlier one of lane 0 is open"):
        lane.take(second)
    for held in (first, second, third):
        if not lane.take(held):  # It has done what it had: the next is not early then.
            lane, ended = job.new_lane()
            assert lane.take(held)
    assert ended.wait(60.0)
    assert sorted(job.ledger.done) == [0, 1, 2]
    assert job.ledger.failures == []
    lane.connection.lanes.close()


@pytest.mark.parametrize("dies", [0.0, 0.05])
@pytest.mark.parametrize("max_steps", [1, 2, 5])
def test_max_steps_ends_every_lane_exactly_there(max_steps, dies):
    rng = np.random.default_rng(3)
    epochs = [epoch_of(rng, [[2, 2, 4], [3, 5]])]
    job = Job(epochs, SGD, 2, max_steps=max_steps, dies=dies, seed=9)
    job.run()
    assert job.versions == [max_steps] * 2
    assert sum(count for count, _ in job.ledger.done.values()) == 2 * max_steps
    assert any(limited for _, limited in job.ledger.done.values())
    expected = sum(len(batch) for step in steps_of(epochs)[:max_steps] for batch in step)
    for audit in job.audits():
        assert set(audit.applied_records) == {expected}
        total = np.array(audit.applied_records) + np.array(audit.beyond_limit_records)
        assert (total == np.array(audit.closed_records)).all()


def test_a_minibatch_that_is_not_finite_fills_its_place_and_adds_nothing():
    rng = np.random.default_rng(4)
    epochs = [epoch_of(rng, [[3], [3]])]
    job = Job(epochs, SGD, 2, nan_at=(1, 1))
    steps = steps_of(epochs)
    steps[1] = steps[1][:1]
    expected = accumulated(job, steps, keras.optimizers.SGD(0.1))
    job.run()
    for value, wanted in zip(job.parameters(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)
    for audit in job.audits():
        assert set(audit.skipped_records) == {len(epochs[0][1][0][1])}
    assert job.versions == [3, 3]


def test_the_small_models_gradients_are_right():
    rng = np.random.default_rng(5)
    batch = make_batches(rng, 1)[0]
    kernel = rng.normal(size=(INPUTS, DIM))
    rows = rng.normal(size=(NUM_IDS, DIM))
    _, of_kernel, of_rows, _ = gradients(batch, kernel, rows, batch.ids)
    for array, found in ((kernel, of_kernel), (rows, of_rows)):
        for at in np.ndindex(array.shape):
            array[at] += 1e-5
            above = gradients(batch, kernel, rows, batch.ids)[0]
            array[at] -= 2e-5
            below = gradients(batch, kernel, rows, batch.ids)[0]
            array[at] += 1e-5
            np.testing.assert_allclose((above - below) / 2e-5, found[at], atol=1e-5)


def test_a_job_in_which_workers_die_all_the_time_ends_with_the_same_bits():
    rng = np.random.default_rng(6)
    epochs = [epoch_of(rng, [[6, 4], [5, 5], [3, 7]])]
    undisturbed = Job(epochs, SGD, 2)
    undisturbed.run()
    killed = Job(epochs, SGD, 2, dies=0.1, seed=6)
    killed.run()
    assert killed.num_deaths > 10
    for value, wanted in zip(killed.parameters(), undisturbed.parameters(), strict=True):
        np.testing.assert_array_equal(value, wanted)
