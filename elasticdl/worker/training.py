"""Trains leased tasks: step by step, pushes in order, and the closing frame that ends each task."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.phases import PHASES, Phase
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import ParameterClient, TaskRewound
from elasticdl.ps.progress import CLOSED
from elasticdl.ps.pulling import Pulled
from elasticdl.ps.push_queue import PushQueue, Send
from elasticdl.worker.leases import HeldTask, Leases, decided_rate
from elasticdl.worker.pipeline import TaskEnd, TaskPipeline
from elasticdl.worker.seeds import step_seed
from elasticdl.worker.step_results import TrainResult
from elasticdl.worker.stream import DenseUse, MinibatchStream, Prepared
from elasticdl.worker.two_phase import TwoPhaseModel
from elasticdl.worker.watchdog import WATCHDOG

logger = logging.getLogger(__name__)

LOSS_MEMORY = 0.9


class NotFiniteError(JobError):
    """The loss or a gradient is not finite, and the job is to stop then."""


class Trainer:
    """Trains tasks on one worker. Used by one thread.

    Args:
      spec: the job.
      model: the model, split in two phases.
      client: the parameter servers.
      pipeline: reads the tasks; owned by the trainer from now on.
      leases: where tasks come from and completions go.
      leaving: set when the worker is to leave after the minibatch under way.
    """

    def __init__(
        self,
        spec: JobSpec,
        model: TwoPhaseModel,
        client: ParameterClient,
        pipeline: TaskPipeline,
        leases: Leases,
        leaving: threading.Event,
    ) -> None:
        self.loss: float | None = None
        self._spec = spec
        self._model = model
        self._client = client
        self._leases = leases
        self._leaving = leaving
        self._pushes = PushQueue(client)
        self._num_pushed = 0
        # By grant: the lowest minibatch each partition still wants, as push replies tell.
        self._wanted: dict[int, list[int]] = {}
        staleness = spec.staleness
        pushes = self._pushes
        self._stream = MinibatchStream(
            pipeline,
            client,
            before_pull=lambda position: pushes.wait(position - staleness),
            most_ahead=staleness + 1,
            dense_use=DenseUse.within(staleness),
        )

    def take(self, held: HeldTask) -> None:
        """Begin to read a task: at the lowest minibatch any group wants (R2)."""
        task = held.task
        first = self._client.next_minibatch(task.id, task.attempt)
        self._wanted[held.grant] = [first] * self._client.num_partitions
        # A task that is closed everywhere is read once more, for its number of minibatches.
        start = first if first < CLOSED else 0
        self._stream.put(task.id, held.records, start, task.max_minibatches or None)

    def has_taken(self, held: HeldTask) -> bool:
        """Whether `take` was called for this grant."""
        return held.grant in self._wanted

    def train(self, held: HeldTask, look_ahead: Callable[[], None]) -> None:
        """Train a task that was taken, to its closing frame, or until the worker is to leave.

        Args:
          look_ahead: called before each minibatch; may take another task.

        Raises:
          UserCodeError: the model's code raised.
          NotFiniteError: with on_nan=stop.
          TaskRewound: the task must be leased and read again.
          TaskDiffers: a task, this one or one before, must begin anew.
          StaleCluster: a partition moved.
        """
        while True:
            look_ahead()
            item = self._stream.next()
            task = item.task_id if isinstance(item, TaskEnd) else item.minibatch.task_id
            if task != held.task.id:
                raise TaskRewound(f"task {held.task.id}: the pipeline is at task {task}")
            if isinstance(item, TaskEnd):
                self._close(held, item)
                return
            if self._leaving.is_set():
                return
            self._step(held, item)

    def _step(self, held: HeldTask, item: Prepared) -> None:
        minibatch, task = item.minibatch, held.task.id
        if min(self._wanted[held.grant]) > minibatch.k:  # Somebody else has pushed it everywhere.
            self._put(lambda index: None)
            return
        with PHASES.on_path(Phase.PULL_WAIT):
            pulled = item.pull.result()
        result = train_minibatch(self._spec, self._model, held.task, item, pulled)
        self.loss = smoothed(self.loss, result)

        def send(index: int) -> None:
            header = ps_pb2.PushHeader(
                task=task,
                k=minibatch.k,
                epoch=held.task.epoch,
                num_records=minibatch.num_records,
                loss=result.loss,
                version=pulled.versions[index],
                skip=not result.finite,
                learning_rate=decided_rate(held.task),
                digest_before=minibatch.digest_before,
                digest_after=minibatch.digest_after,
                attempt=held.task.attempt,
            )
            with PHASES.measure(Phase.PUSH):
                if header.skip:
                    answer = self._client.push(index, header)
                else:
                    answer = self._client.push(
                        index, header, item.lookup, result.row_gradients, result.dense_gradients
                    )
            self._note_answer(held, index, *answer)

        self._put(send)

    def _note_answer(self, held: HeldTask, index: int, wanted: int, in_order: bool) -> None:
        if not in_order:
            raise TaskRewound(
                f"task {held.task.id}: partition {index} wants minibatch {wanted} first"
            )
        if held.grant in self._wanted:
            self._wanted[held.grant][index] = wanted

    def _close(self, held: HeldTask, end: TaskEnd) -> None:
        """Send the closing frame; acknowledged by every partition, it completes the task."""
        task = held.task
        if end.is_cut and not task.truncated:
            raise JobError(
                "the input function makes more minibatches than the task has records for, and "
                "max_steps counts on the records; let it add none, or give num_epochs instead"
            )
        acknowledged: list[int] = []
        lock = threading.Lock()

        def send(index: int) -> None:
            header = ps_pb2.PushHeader(
                task=task.id,
                k=end.num_minibatches,
                epoch=task.epoch,
                close=True,
                task_records=task.end - task.start,
                emitted_records=end.num_records,
                limited=end.is_cut,
                digest_before=end.digest,
                attempt=task.attempt,
            )
            self._note_answer(held, index, *self._client.push(index, header))
            with lock:
                acknowledged.append(index)
                is_last = len(acknowledged) == self._client.num_partitions
            if is_last:
                self._wanted.pop(held.grant, None)
                self._leases.complete(held, end.num_minibatches, self._client.incarnations)

        self._put(send)

    def _put(self, send: Send) -> None:
        with PHASES.on_path(Phase.PUSH_WAIT):
            self._pushes.put(send)
        self._num_pushed += 1

    def finish(self) -> None:
        """Wait until everything pushed is acknowledged and completed."""
        self._pushes.wait(self._num_pushed)

    def close(self) -> None:
        """End the threads; what was not read or pushed is somebody else's to do."""
        self._pushes.close()
        self._stream.close()


def train_minibatch(
    spec: JobSpec, model: TwoPhaseModel, task: master_pb2.Task, item: Prepared, pulled: Pulled
) -> TrainResult:
    """Compute one minibatch's gradients from what was pulled for it.

    Raises:
      UserCodeError: the model's code raised.
      NotFiniteError: they are not finite, with on_nan=stop.
    """
    minibatch = item.minibatch
    assert pulled.dense is not None
    what = f"training minibatch {minibatch.k} of task {task.id}"
    with WATCHDOG.watching(what), PHASES.step("train"):
        result = model.train_step(
            minibatch.features,
            minibatch.labels,
            pulled.dense,
            pulled.rows,
            item.lookup.inverses,
            step_seed=step_seed(spec.seed, task, minibatch.k),
            sample_weights=minibatch.sample_weights,
        )
    if not result.finite and spec.on_nan == "stop":
        raise NotFiniteError(
            f"minibatch {minibatch.k}: the loss ({result.loss}) or a gradient is not finite; "
            "lower the learning rate, check the records, or count such minibatches as skipped "
            "with --on_nan=skip"
        )
    return result


def smoothed(loss: float | None, result: TrainResult) -> float | None:
    """Return the recent loss, with one more minibatch's."""
    if not result.finite:
        return loss
    before = loss if loss is not None else result.loss
    return LOSS_MEMORY * before + (1 - LOSS_MEMORY) * result.loss
