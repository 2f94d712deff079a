"""A lane of sync mode, as a worker trains it: task after task, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from elasticdl.heartbeat import NotAMember
from elasticdl.proto import ps_pb2
from elasticdl.ps.client import GaveUp, ParameterClient, Pulled, TaskRewound
from elasticdl.ps.lane_client import Finished, LaneClient, Past
from elasticdl.ps.progress import CLOSED
from elasticdl.rpc import RpcError
from elasticdl.worker.failures import tell_failure
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
    first: int
    closing: ps_pb2.TaskClosing | None


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
          TaskRewound: an earlier task of the lane, not this worker's any more, comes first.
          StaleCluster: a partition came, went or moved.
          DeadlinePassed: a partition does not answer.
        """
        task = held.task
        first, closing, is_early = self.connection.client.task_progress(task.id, task.lane)
        with self._lock:
            if self._has_ended:
                return False
            last = self._tasks[-1].held.task.lane.position if self._tasks else None
            if is_early and (last is None or task.lane.position != last + 1):
                # The lease of the earlier one ended, and this one's with it: it was not told.
                raise TaskRewound(
                    f"task {task.id}: an earlier one of lane {task.lane.lane} is open"
                )
            if closing is None:
                # Of an epoch that is over it is read once more, for its number of minibatches.
                start = first if first < CLOSED else 0
                self.stream.put(task.id, held.records, start, None)
            self._tasks.append(_Taken(held, first, closing))
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
            closing = taken.closing
            if closing is None:
                closing = self._train(taken)
            self._close(held, closing)
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
        held, task, wanted = taken.held, taken.held.task, taken.first
        if self._has_finished:
            return ps_pb2.TaskClosing(limited=True)
        logger.info("task %d: lane %d, from minibatch %d", task.id, task.lane.lane, wanted)
        while True:
            item = self.stream.next()
            of_task = item.task_id if isinstance(item, TaskEnd) else item.minibatch.task_id
            if of_task != task.id:
                raise TaskRewound(f"task {task.id}: the pipeline is at task {of_task}")
            if isinstance(item, TaskEnd):
                return ps_pb2.TaskClosing(
                    num_minibatches=item.num_minibatches, emitted_records=item.num_records
                )
            minibatch = item.minibatch
            if minibatch.k < wanted:
                continue
            self.connection.client.check()
            pulled = self.connection.lanes.pull(task.lane, minibatch.k, item.lookup)
            if isinstance(pulled, Finished):
                self._has_finished = True
                return ps_pb2.TaskClosing(
                    num_minibatches=minibatch.k,
                    emitted_records=minibatch.num_records_before,
                    limited=True,
                )
            if isinstance(pulled, Past):
                if pulled.closing is not None:
                    self._left_unread = True
                    return pulled.closing
                wanted = pulled.next
                continue
            wanted = self._push(held, item, pulled, self._step(held, item, pulled))

    def _push(self, held: HeldTask, item: Prepared, pulled: Pulled, result: TrainResult) -> int:
        header = ps_pb2.PushHeader(
            task=held.task.id,
            k=item.minibatch.k,
            epoch=held.task.epoch,
            num_records=item.minibatch.num_records,
            loss=result.loss,
            skip=not result.finite,
            lane=held.task.lane,
            learning_rate=decided_rate(held.task),
        )
        lanes = self.connection.lanes
        if header.skip:
            return lanes.push(header, pulled.versions)
        return lanes.push(
            header, pulled.versions, item.lookup, result.row_gradients, result.dense_gradients
        )

    def _close(self, held: HeldTask, closing: ps_pb2.TaskClosing) -> None:
        task = held.task
        header = ps_pb2.PushHeader(
            task=task.id,
            k=closing.num_minibatches,
            epoch=task.epoch,
            close=True,
            task_records=task.end - task.start,
            emitted_records=closing.emitted_records,
            limited=closing.limited,
            lane=task.lane,
        )
        self.connection.lanes.close_task(header)
        self._leases.complete(
            held,
            closing.num_minibatches,
            self.connection.client.incarnations,
            limited=closing.limited,
        )
