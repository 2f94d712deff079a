"""Sync mode in one process: the weights are those of one process, whoever dies."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.model.keras_api import keras
from elasticdl.model.user_optimizer import UserOptimizer
from elasticdl.ps.optimizers import OptimizerConfig
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
OPTIMIZERS = {
    "sgd": (SGD, lambda: keras.optimizers.SGD(0.1)),
    "adagrad": (
        OptimizerConfig(name="adagrad", learning_rate=0.1),
        lambda: keras.optimizers.Adagrad(0.1),
    ),
    # Each clips most steps of these data; Keras sees the average.
    **{
        option: (
            OptimizerConfig(name="sgd", learning_rate=0.1, **{option: limit}),
            partial(keras.optimizers.SGD, 0.1, **{option: limit}),
        )
        for option, limit in {"clipnorm": 0.3, "global_clipnorm": 0.4, "clipvalue": 0.1}.items()
    },
    "schedule": (
        OptimizerConfig(name="sgd", learning_rate=9.0, schedule="ExponentialDecay"),
        lambda: keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 20, 0.9)),
    ),
}


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


def accumulated(job: Job, steps: list[list[Batch]], optimizer):
    """One process that trains on each step's records as one minibatch, with a Keras optimizer."""
    kernel = keras.Variable(job.kernel)
    rows = keras.Variable(job.parameters()[2])
    optimizer.build([kernel, rows])
    mean = np.zeros(INPUTS, np.float32)
    for batches in steps:
        batch = Batch.joined(batches)
        _, of_kernel, of_rows, _ = gradients(batch, kernel.numpy(), rows.numpy(), batch.ids)
        optimizer.apply([of_kernel, of_rows], [kernel, rows])
        # Each minibatch's change from the same old state, averaged by records.
        changes = [0.1 * (one.numbers.mean(axis=0) - mean) * len(one) for one in batches]
        mean = mean + sum(changes) / len(batch)
    return kernel.numpy(), mean, rows.numpy()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_lanes", [1, 2, 3])
def test_a_hundred_steps_equal_keras_on_the_accumulated_minibatches(name, num_lanes):
    config, make_optimizer = OPTIMIZERS[name]
    rng = np.random.default_rng(num_lanes)
    epochs = [epoch_of(rng, [[20, 30]] * num_lanes) for _ in range(2)]
    rates = UserOptimizer(make_optimizer()).rates if config.schedule else None
    job = Job(epochs, config, num_partitions=2, rates=rates)
    expected = accumulated(job, steps_of(epochs), make_optimizer())
    job.run()
    assert job.versions == [100, 100]
    for value, wanted in zip(job.parameters(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5)


LANES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    lanes=LANES.filter(lambda lanes: any(map(sum, lanes))),
    num_partitions=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_whoever_is_killed_the_weights_are_the_same_bits(lanes, num_partitions, seed):
    rng = np.random.default_rng(seed)
    epochs = [epoch_of(rng, lanes) for _ in range(2)]
    adam = OptimizerConfig(name="adam", learning_rate=0.05, global_clipnorm=0.4)
    undisturbed = Job(epochs, adam, num_partitions)
    undisturbed.run()
    killed = Job(epochs, adam, num_partitions, dies=0.03, seed=seed)
    killed.run()
    assert not killed.ledger.failures
    for value, wanted in zip(killed.parameters(), undisturbed.parameters(), strict=True):
        np.testing.assert_array_equal(value, wanted)
    records = sum(len(batch) for step in steps_of(epochs) for batch in step)
    for audit in killed.audits():
        assert set(audit.applied_records) == {records}
        assert set(audit.closed_records) == {records}
        assert audit.closed_tasks == 2 * sum(map(len, lanes))


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
