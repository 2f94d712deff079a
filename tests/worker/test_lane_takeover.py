"""Lanes that change hands, with inputs that vary, at the moments that are easily forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from elasticdl.proto import ps_pb2
from elasticdl.ps.client import TaskDiffers
from elasticdl.ps.lane_client import LaneClient
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.worker.lane import Connection, Lane
from tests import checkpoints
from tests.worker.lanes_harness import Batch, Job, Killed, ListedStream, Task, make_batches

SGD = OptimizerConfig(name="sgd", learning_rate=0.1)
DEADLINE_S = 60.0


def otherwise(batches: list[Batch]) -> list[Batch]:
    return [batches[2], batches[0], batches[1]]


class Stream(ListedStream):
    """Hands out so many minibatches once it may; then the worker is killed."""

    most = 1 << 30
    may_begin = threading.Event()
    may_begin.set()

    def next(self):
        assert self.may_begin.wait(DEADLINE_S)
        if self.most <= 0:
            raise Killed
        self.most -= 1
        return super().next()


class Worker:
    """A worker that trains one task of a lane."""

    def __init__(self, job: Job, read: Callable[[list[Batch]], list[Batch]] = list) -> None:
        self.job = job
        client = job._connect(0.0)
        self.stream = Stream(job._tasks, client, read)
        self.ended = threading.Event()
        self.connection = Connection(client, LaneClient(client))
        self.lane = Lane(
            self.connection, self.stream, job.ledger, job._step, lambda *_: self.ended.set()
        )

    def take(self, task: Task, rate: float | None = None) -> Worker:
        held = self.job._hold(task)
        if rate is not None:
            held.task.learning_rate = rate
        try:
            assert self.lane.take(held)
        except TaskDiffers as error:
            self.job.ledger.begin_anew(error.task, error.attempt)
        return self

    def join(self) -> None:
        self.lane.join(DEADLINE_S)
        self.connection.lanes.close()

    def dies_at_push(self, k: int, after: tuple[int, ...]) -> Worker:
        """Be killed when minibatch k has reached these partitions only."""
        push = self.connection.lanes.push

        def push_to_some(header, versions, *gradients):
            if header.k < k:
                return push(header, versions, *gradients)
            for index in after:
                own = ps_pb2.PushHeader()
                own.CopyFrom(header)
                own.version = versions[index]
                self.connection.client.push(index, own, *gradients)
            raise Killed

        self.connection.lanes.push = push_to_some
        return self


@pytest.fixture(autouse=True)
def quiet_deaths(monkeypatch):
    before = threading.excepthook
    monkeypatch.setattr(
        threading, "excepthook", lambda args: args.exc_type is Killed or before(args)
    )


def job_of(
    num_partitions: int = 2, *more_epochs: int, lanes: int = 1, max_steps: int = 0
) -> tuple[Job, Task]:
    rng = np.random.default_rng(0)
    epochs = [[[make_batches(rng, count)] for _ in range(lanes)] for count in (3, *more_epochs)]
    job = Job(epochs, SGD, num_partitions, max_steps)
    return job, job._epochs[0][0][0]


def train(job: Job, task: Task, read=list, most: int = 1 << 30) -> None:
    worker = Worker(job, read)
    worker.stream.most = most
    worker.take(task).join()


def check_counts(job: Job, task: Task) -> None:
    assert job.ledger.done.keys() == {task.message.id}
    assert job.ledger.failures == []
    for audit in job.audits():
        assert audit.closed_tasks == 1
        counted = np.array(audit.applied_records) + np.array(audit.filtered_records)
        assert set(counted) == {task.message.end} == set(audit.closed_records)


def test_a_worker_that_lost_its_lane_before_the_epoch_began_anywhere_begins_it_no_more():
    job, task = job_of()
    former = Worker(job).dies_at_push(1, after=())
    current = Worker(job, lambda batches: [])
    for worker in (former, current):
        worker.stream.may_begin = threading.Event()
        worker.take(task)
    for worker in (former, current):
        worker.stream.may_begin.set()
        worker.join()
    assert job.ledger.done == {task.message.id: (0, False)}
    assert {sum(audit.applied_records) for audit in job.audits()} == {0}
    check_counts(job, task)


@pytest.mark.parametrize("epoch_began", [False, True])
def test_what_one_partition_had_closed_when_a_checkpoint_was_taken_all_close_after_it(
    epoch_began, tmp_path
):
    job, task = job_of(2, 2)
    train(job, task, most=2)
    train(job, task, otherwise)  # It differs, and begins anew.
    root = tmp_path
    checkpoints.ask(job.partitions[0], root, 1, at_version=5)
    train(job, task, otherwise)
    if epoch_began:
        following = job._epochs[1][0][0].message.lane
        job.client.task_progress(1, following)
    checkpoints.ask(job.partitions[1], root, 1, at_version=5)
    path = checkpoints.commit(job.partitions, root, 1, at_version=5)
    job.partitions[:] = checkpoints.restore(path, 2, incarnation=1)
    states = [partition._steps.lanes.state() for partition in job.partitions]
    assert states[0] == states[1]
    job.ledger.done.clear()  # As the master's ledger is rolled back.
    for _ in range(2):
        train(job, task, otherwise)
    check_counts(job, task)


@pytest.mark.parametrize("num_partitions", [1, 2])
def test_where_one_partition_had_a_filler_in_a_checkpoint_the_task_begins_anew(
    num_partitions, tmp_path
):
    job, task = job_of()
    Worker(job).dies_at_push(1, after=(0,)).take(task).join()
    train(job, task, otherwise)
    root = tmp_path
    for partition in job.partitions:
        checkpoints.ask(partition, root, 1, at_version=2)
    train(job, task, otherwise, most=1)
    path = checkpoints.commit(job.partitions, root, 1, at_version=2)
    again, task = job_of(num_partitions)
    again.partitions[:] = checkpoints.restore(path, num_partitions, incarnation=1)
    for _ in range(2):  # The master's ledger is at the first attempt again, which was read so.
        train(again, task)
    assert again.ledger.attempts == {task.message.id: 1}
    check_counts(again, task)


def test_a_filler_changes_no_learning_rate():
    job, task = job_of(lanes=2)
    rates: list[float | None] = []
    for partition in job.partitions:
        apply = partition._steps._updates.apply

        def note(gradients, rate, apply=apply):
            rates.append(rate)
            apply(gradients, rate)

        partition._steps._updates.apply = note
    Worker(job).dies_at_push(0, after=(0,)).take(task, rate=0.025).join()
    Worker(job, otherwise).take(task, rate=0.025).join()
    other = Worker(job).take(job._epochs[0][1][0], rate=0.025)
    Worker(job, otherwise).take(task, rate=0.025).join()
    other.join()
    assert len(job.ledger.done) == 2
    assert set(rates) == {0.025}


def check_limited(job: Job, task: Task, applied: list[int], repeated: int) -> None:
    """Each partition applied so many of the task's records; the others are beyond max_steps."""
    assert job.ledger.done == {task.message.id: (2, True)}
    assert job.ledger.failures == []
    for audit, records in zip(job.audits(), applied, strict=True):
        assert set(audit.applied_records) == {records}
        assert set(audit.repeated_records) == {repeated}
        assert set(audit.beyond_limit_records) == {task.message.end - records}
        assert set(audit.closed_records) == {task.message.end}


def test_what_is_not_trained_again_because_max_steps_came_first_is_not_repeated():
    job, task = job_of(max_steps=2)
    train(job, task, most=2)
    for _ in range(2):  # It differs, and begins anew, where nothing is wanted any more.
        train(job, task, otherwise)
    first, second, _ = map(len, task.batches)
    check_limited(job, task, [first + second] * 2, repeated=0)


def test_what_one_partition_alone_had_of_the_last_step_is_not_repeated():
    job, task = job_of(max_steps=2)
    Worker(job).dies_at_push(1, after=(0,)).take(task).join()
    for _ in range(2):
        train(job, task, otherwise)
    first, second, _ = map(len, task.batches)
    check_limited(job, task, [first + second, first], repeated=0)


def test_what_was_trained_before_a_task_began_anew_is_repeated_up_to_max_steps():
    job, task = job_of(max_steps=2)
    train(job, task, most=1)
    for _ in range(2):
        train(job, task, otherwise)
    first, _, last = map(len, task.batches)
    check_limited(job, task, [last] * 2, repeated=first)
