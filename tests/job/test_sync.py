"""Sync mode as people run it: the weights of one process, whoever computes and whoever dies."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import elasticdl
from elasticdl.api import jobs
from elasticdl.data.recordio import Scanner
from elasticdl.data.shards import find_shards
from elasticdl.errors import JobError, UserCodeError
from elasticdl.master.journal import read_journal
from elasticdl.master.lanes import carve_lanes
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.ps.manifest import committed, read_manifest
from tests.job.clicks_data import ZOO, write_clicks
from tests.job.real_jobs import Job, wait_until

RECORDS = 600
SIZE = 20


def parameters_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path / "params.npz") as archive:
        return {name: archive[name] for name in archive.files}


def assert_same(path: Path, other: Path) -> None:
    expected, actual = parameters_of(path), parameters_of(other)
    assert expected.keys() == actual.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains in this process."""
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    data = write_clicks(tmp_path / "clicks", RECORDS)

    def train_one(name: str, **options):
        given = {
            "model_zoo": ZOO,
            "model_def": "clicks.Clicks",
            "data": data,
            "output": str(tmp_path / name),
            "num_workers": 0,
            "num_ps": 2,
            "minibatch_size": SIZE,
            "quiet": True,
        }
        return elasticdl.train(**{**given, **options})

    train_one.data = data
    return train_one


def test_one_lane_is_plain_training(train, tmp_path):
    train("sync", consistency="sync", grads_to_wait=1, num_epochs=2, shuffle=False)
    train("async", staleness=0, num_epochs=2, shuffle=False)
    assert_same(tmp_path / "async", tmp_path / "sync")


def steps_of(data: str, num_lanes: int, num_epochs: int) -> Iterator[list[list[bytes]]]:
    """The records of every step's minibatches, as the master cuts lanes, without shuffling."""
    shards = tuple(find_shards(data))
    plan = JobPlan(
        phases=(TaskKind.TRAINING,),
        shards=shards,
        lanes=num_lanes,
        minibatch_size=SIZE,
        records_per_task=100,
        shuffle=False,
    )
    records = {shard.path: list(Scanner(shard.path)) for shard in shards}
    for epoch in range(num_epochs):
        lanes: dict[int, list[list[bytes]]] = {}
        for task in carve_lanes(shards, epoch, 0, plan):
            assert task.lane is not None
            for start in range(task.start, task.end, SIZE):
                minibatch = records[task.shard][start : min(start + SIZE, task.end)]
                lanes.setdefault(task.lane.lane, []).append(minibatch)
        assert len(lanes) == num_lanes
        for j in range(max(map(len, lanes.values()))):
            yield [lanes[lane][j] for lane in sorted(lanes) if j < len(lanes[lane])]


def accumulated(
    data: str, optimizer: str, num_lanes: int, num_epochs: int
) -> dict[str, np.ndarray]:
    """Train in Keras, accumulating gradients; batch normalization's changes are averaged too."""
    import keras
    import tensorflow as tf

    from elasticdl.model.building import build_model
    from elasticdl.model.contract import load_contract
    from elasticdl.model.element_spec import element_spec
    from elasticdl.model.mode import Mode
    from elasticdl.model.source import ModelSource

    source = ModelSource(
        model_zoo=ZOO, model_def="normalized.Normalized", params=f"optimizer='{optimizer}'"
    )
    contract = load_contract(source, Mode.TRAINING)
    features = element_spec(contract, Mode.TRAINING).features
    model = build_model(contract, features, 0)
    applied = contract.create_optimizer()
    applied.build(model.trainable_variables)
    state = model.non_trainable_variables
    steps = list(steps_of(data, num_lanes, num_epochs))
    records = [record for step in steps for minibatch in step for record in minibatch]
    assert all(len(minibatch) == SIZE for step in steps for minibatch in step)
    dataset = contract.dataset(tf.data.Dataset.from_tensor_slices(records), Mode.TRAINING)
    elements = iter(dataset.batch(SIZE))
    for step in steps:
        gradients = [np.zeros(one.shape, np.float32) for one in model.trainable_variables]
        old = [one.numpy() for one in state]
        changes = [np.zeros(one.shape, np.float32) for one in state]
        for _ in step:
            inputs, labels = next(elements)[:2]
            with tf.GradientTape() as tape:
                outputs = model(inputs, training=True)
                loss = contract.loss(outputs, labels) + sum(model.losses)
            found = tape.gradient(loss, [one.value for one in model.trainable_variables])
            for target, one in zip(gradients, found, strict=True):
                target += one.numpy() / len(step)
            for target, one, before in zip(changes, state, old, strict=True):
                target += (one.numpy() - before) / len(step)
                one.assign(before)
        applied.apply([tf.constant(one) for one in gradients], model.trainable_variables)
        for variable, before, change in zip(state, old, changes, strict=True):
            variable.assign(before + change)
    assert isinstance(model, keras.Model)
    return {one.path: one.numpy() for one in [*model.trainable_variables, *state]}


def test_lanes_equal_accumulated_gradients_in_keras(train, tmp_path):
    optimizer, num_lanes = "Adam", 3
    num_epochs = 100 * num_lanes * SIZE // RECORDS
    result = train(
        "model",
        model_def="normalized.Normalized",
        params=f"optimizer='{optimizer}'",
        consistency="sync",
        grads_to_wait=num_lanes,
        shuffle=False,
        records_per_task=100,
        num_epochs=num_epochs,
    )
    assert result.audit["lost"] == 0
    trained = parameters_of(tmp_path / "model")
    expected = accumulated(train.data, optimizer, num_lanes, num_epochs)
    assert trained.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(trained[name], values, atol=1e-5, rtol=1e-5, err_msg=name)


def test_max_steps_are_steps_of_all_lanes(train):
    result = train("model", consistency="sync", grads_to_wait=3, max_steps=2)
    assert [epoch["records"] for epoch in result.history] == [2 * 3 * SIZE]
    assert result.audit["applied_once"] == {"0": 2 * 3 * SIZE, "1": 2 * 3 * SIZE}
    assert result.audit["lost"] == 0


def test_messages_that_are_lost_or_repeated_change_no_bit(train, tmp_path, monkeypatch):
    # Filtered records make lanes of different lengths.
    options = {"consistency": "sync", "grads_to_wait": 3, "params": "drop_above=350"}
    options |= {"num_epochs": 3, "checkpoint_steps": 3, "keep_checkpoints": 100}
    undisturbed = train("plain", **options)
    assert undisturbed.audit["filtered"] == 3 * (RECORDS - 351)
    faults = "request_lost=0.1,reply_lost=0.1,in_flight=0.1,duplicated=0.2,seed=3"
    monkeypatch.setenv("ELASTICDL_FAULTS", faults)
    lossy = train("lossy", **options)
    assert lossy.audit["repeats_dropped"] > 0
    assert {**lossy.audit, "repeats_dropped": 0} == undisturbed.audit
    assert_same(tmp_path / "plain", tmp_path / "lossy")
    for result in (undisturbed, lossy):
        checkpoints = committed(Path(result.job_dir) / "checkpoints")
        assert len(checkpoints) >= 3, "the first, the last, and one on the way"
        for path in checkpoints:
            versions = {part["version"] for part in read_manifest(path).parts}
            assert len(versions) == 1, "all partitions are of one step"


def test_a_bad_record_fails_the_job_by_name_and_one_that_is_not_finite_is_skipped(train):
    options = {"consistency": "sync", "grads_to_wait": 2}
    with pytest.raises(UserCodeError, match=r"clicks-0.recordio, records \d+ to \d+.*3 times"):
        train("bad", params="fail_at=250", **options)
    with pytest.raises(JobError, match=r"is not finite.*--on_nan=skip"):
        train("stopped", params="nan_at=250", **options)
    skipped = train("skipped", params="nan_at=250", on_nan="skip", **options)
    assert (skipped.audit["skipped"], skipped.audit["lost"]) == (SIZE, 0)


def test_evaluations_at_steps_see_one_version_and_change_nothing(train, tmp_path):
    options = {"consistency": "sync", "grads_to_wait": 2, "num_epochs": 4, "records_per_task": 100}
    train("plain", **options)
    result = train("evaluated", validation_data=train.data, evaluation_steps=10, **options)
    assert_same(tmp_path / "plain", tmp_path / "evaluated")
    assert result.metrics["auc"] > 0


def both(servers: list) -> list | None:
    return servers if len(servers) == 2 else None


def rolled_back(job: Job) -> bool:
    return bool(list(read_journal(job.directory, "rolled_back")))


@pytest.mark.timeout(600)
def test_killed_workers_and_a_killed_parameter_server_leave_the_same_weights(start):
    chance = random.Random(int(os.environ.get("CHAOS_SEED", "1")))
    # More lanes than workers, then more workers than lanes.
    options = ("--consistency=sync", "--grads_to_wait=4", "--num_epochs=6", "--worker_threads=1")
    undisturbed: Job = start(*options, "--num_workers=2")
    assert undisturbed.wait() == 0, undisturbed.terminal()
    job: Job = start(*options, "--num_workers=3", "--checkpoint_steps=50")
    wait_until("training", lambda: job.records_done() > 0)
    for workers in (5, 2):
        victims = wait_until("a running worker", lambda: job.running("worker"))
        done = job.records_done()
        os.kill(chance.choice(victims).pid, signal.SIGKILL)
        jobs.scale(str(job.directory), workers)
        wait_until("progress after the kill", lambda done=done: job.records_done() > done)
    servers = wait_until("both parameter servers", lambda: both(job.running("ps")))
    os.kill(chance.choice(servers).pid, signal.SIGKILL)
    wait_until("all of them to begin again", lambda: rolled_back(job))
    assert job.wait() == 0, job.terminal()
    job.assert_nothing_is_left()
    audit = jobs.audit(str(job.directory))
    assert audit["records_expected"] == 6 * job.records
    assert audit["applied_once"] == {"0": 6 * job.records, "1": 6 * job.records}
    assert audit["lost"] == 0
    assert audit["relaunches"] >= 3
    assert_same(undisturbed.output, job.output)
