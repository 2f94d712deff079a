"""A lane of sync mode, as a worker trains it: task after task, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from elasticdl.heartbeat import NotAMember
from elasticdl.logs.line import fields
from elasticdl.phases import PHASES, Phase
from elasticdl.proto import ps_pb2
from elasticdl.ps.client import GaveUp, ParameterClient, TaskRewound
from elasticdl.ps.lane_client import Finished, LaneClient, Past
from elasticdl.ps.pulling import Pulled
from elasticdl.rpc import RpcError
from elasticdl.worker.failures import tell_failure
from elasticdl.worker.lane_start import LaneStart, start_of
from elasticdl.worker.leases import HeldTask, Leases, decided_rate
from elasticdl.worker.pipeline import TaskEnd
from elasticdl.worker.step_results import TrainResult
from elasticdl.worker.stream import MinibatchStream, Prepared

logger = logging.getLogger(__name__)

# Computes one minibatch's gradients from what was pulled.
Step = Callable[[HeldTask, Prepared, Pulled], TrainResult]


@dataclass(frozen=True)
class Connection:
    """The parameter servers, as all lanes of a worker see them."""

    client: ParameterClient
    lanes: LaneClient

    def close(self) -> None:
        """Free the connections."""
        self.lanes.close()
        self.client.close()


class _Outcome(Enum):
    """What follows from a task: the next; giving back the rest, of the connection too; leaving."""

    GO_ON = 0
    START_AGAIN = 1
    CONNECT_AGAIN = 2
    LEAVE = 3


@dataclass(frozen=True)
class _Taken:
    """A task with where it stood when it was taken."""

    held: HeldTask
    start: LaneStart


class Lane:
    """Trains the tasks of one lane, in the order they are taken, until there is none left.

    Args:
      connection: the parameter servers.
      stream: reads the tasks; owned by the lane while it runs.
      leases: where completions go.
      step: computes a minibatch; one runs at a time in a worker.
      on_end: called by the lane's thread at its end, with whether the stream may be used again, and
        whether the parameter servers are to be asked for anew.
    """

    def __init__(
        self,
        connection: Connection,
        stream: MinibatchStream,
        leases: Leases,
        step: Step,
        on_end: Callable[[Lane, bool, bool], None],
    ) -> None:
        self.stream = stream
        self.connection = connection
        self._leases = leases
        self._step = step
        self._on_end = on_end
        self._lock = threading.Lock()
        self._tasks: deque[_Taken] = deque()
        self._has_ended = False
        self._has_finished = False
        self._left_unread = False
        self._thread: threading.Thread | None = None

    def take(self, held: HeldTask) -> bool:
        """Begin to read a task, whose lane this is; False if the lane has ended meanwhile.

        Raises:
          TaskRewound: an earlier task of the lane, not this worker's any more, comes first; or this
            one is not this worker's any more.
          TaskDiffers: it must begin anew.
          StaleCluster: a partition came, went or moved.
          DeadlinePassed: a partition does not answer.
        """
        task = held.task
        place = ps_pb2.LanePosition()
        place.CopyFrom(task.lane)
        place.grant = held.grant
        replies = self.connection.client.task_progress(task.id, place)
        start = start_of(task, held.grant, replies)
        with self._lock:
            if self._has_ended:
                return False
            last = self._tasks[-1].held.task.lane.position if self._tasks else None
            if start.is_early and (last is None or task.lane.position != last + 1):
                # The lease of the earlier one ended, and this one's with it: it was not told.
                raise TaskRewound(
                    f"task {task.id}: an earlier one of lane {task.lane.lane} is open"
                )
            if start.closing is None:
                # Of an epoch that is over it is read once more, for its number of minibatches.
                self.stream.put(task.id, held.records, start.first_of_attempt, None)
            self._tasks.append(_Taken(held, start))
            if self._thread is None:
                name = f"lane-{task.lane.lane}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
            return True

    def join(self, timeout_s: float) -> None:
        """Wait until the lane's thread has ended."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    # ------------------------------------------------------------------ its thread

    def _run(self) -> None:
        outcome = _Outcome.GO_ON
        while outcome is _Outcome.GO_ON and (taken := self._next()) is not None:
            outcome = self._do(taken)
        with self._lock:
            self._has_ended = True
            grants = [taken.held.grant for taken in self._tasks]
        if grants and outcome is not _Outcome.LEAVE:
            self._leases.give_back(grants)
        is_clean = outcome is _Outcome.GO_ON and not self._has_finished
        self._on_end(self, is_clean, outcome is _Outcome.CONNECT_AGAIN)

    def _next(self) -> _Taken | None:
        with self._lock:
            if not self._tasks:
                self._has_ended = True
                return None
            return self._tasks[0]

    def _do(self, taken: _Taken) -> _Outcome:
        held, outcome = taken.held, _Outcome.GO_ON
        try:
            if held.error is not None:
                raise held.error
            closing = taken.start.closing
            if closing is None:
                closing = self._train(taken)
            self._close(taken, closing)
            if self._left_unread and not self._has_finished:
                outcome = _Outcome.START_AGAIN
        except GaveUp:
            return _Outcome.LEAVE
        except (RpcError, NotAMember) as error:
            self._leases.stop(error)
            return _Outcome.LEAVE
        except Exception as error:
            if tell_failure(self._leases, held, error):
                return _Outcome.CONNECT_AGAIN
            outcome = _Outcome.START_AGAIN
        with self._lock:
            self._tasks.popleft()
        return outcome

    def _train(self, taken: _Taken) -> ps_pb2.TaskClosing:
        """Train a task to its end, or to max_steps; return how it is to be closed."""
        held, task, start = taken.held, taken.held.task, taken.start
        wanted, offset = start.first, start.place.start
        if self._has_finished:
            return ps_pb2.TaskClosing(limited=True)
        said = fields(task=task.id, lane=task.lane.lane, minibatch=wanted)
        logger.info("task %d: its lane goes on", task.id, extra=said)
        for index, filler in start.fillers:
            self.connection.lanes.fill(filler, index)
        is_checked = False
        while True:
            item = self.stream.next()
            of_task = item.task_id if isinstance(item, TaskEnd) else item.minibatch.task_id
            if of_task != task.id:
                raise TaskRewound(f"task {task.id}: the pipeline is at task {of_task}")
            if not is_checked:
                start.check(task, item if isinstance(item, TaskEnd) else item.minibatch)
                is_checked = True
            if isinstance(item, TaskEnd):
                return ps_pb2.TaskClosing(
                    num_minibatches=offset + item.num_minibatches,
                    emitted_records=item.num_records,
                    attempt=task.attempt,
                    start=offset,
                )
            minibatch, k = item.minibatch, offset + item.minibatch.k
            if k < wanted:
                continue
            self.connection.client.check()
            pulled = self.connection.lanes.pull(start.place, k, item.lookup)
            if isinstance(pulled, Finished):
                self._has_finished = True
                return ps_pb2.TaskClosing(
                    num_minibatches=k,
                    emitted_records=minibatch.num_records_before,
                    limited=True,
                    attempt=task.attempt,
                    start=offset,
                )
            if isinstance(pulled, Past):
                if pulled.closing is not None:
                    self._left_unread = True
                    return pulled.closing
                wanted = pulled.next
                continue
            wanted = self._push(taken, item, pulled, self._step(held, item, pulled))

    def _push(self, taken: _Taken, item: Prepared, pulled: Pulled, result: TrainResult) -> int:
        held, place = taken.held, taken.start.place
        header = ps_pb2.PushHeader(
            task=held.task.id,
            k=place.start + item.minibatch.k,
            epoch=held.task.epoch,
            num_records=item.minibatch.num_records,
            loss=result.loss,
            skip=not result.finite,
            lane=place,
            learning_rate=decided_rate(held.task),
            digest_after=item.minibatch.digest_after,
        )
        lanes = self.connection.lanes
        with PHASES.on_path(Phase.PUSH_WAIT):
            if header.skip:
                return lanes.push(header, pulled.versions)
            return lanes.push(
                header, pulled.versions, item.lookup, result.row_gradients, result.dense_gradients
            )

    def _close(self, taken: _Taken, closing: ps_pb2.TaskClosing) -> None:
        held, task = taken.held, taken.held.task
        place = ps_pb2.LanePosition()
        place.CopyFrom(taken.start.place)
        place.attempt, place.start = closing.attempt, closing.start
        header = ps_pb2.PushHeader(
            task=task.id,
            k=closing.num_minibatches,
            epoch=task.epoch,
            close=True,
            task_records=task.end - task.start,
            emitted_records=closing.emitted_records,
            limited=closing.limited,
            lane=place,
        )
        with PHASES.on_path(Phase.BARRIER_WAIT):
            self.connection.lanes.close_task(header)
        self._leases.complete(
            held,
            closing.num_minibatches,
            self.connection.client.incarnations,
            limited=closing.limited,
        )
