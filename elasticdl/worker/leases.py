"""The worker's leases: asks the master for tasks, one ahead, and tells it what became of them."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from elasticdl.heartbeat import call_master
from elasticdl.phases import PHASES, Phase
from elasticdl.proto import master_pb2
from elasticdl.rpc import Client
from elasticdl.worker.records import TaskRecords

logger = logging.getLogger(__name__)

MOST_HELD = 2
MOST_HELD_WITH_LANES = 1 << 16
_OF_MINIBATCHES = (
    master_pb2.TaskKind.TRAINING,
    master_pb2.TaskKind.EVALUATION,
    master_pb2.TaskKind.PREDICTION,
)


@dataclass(frozen=True)
class HeldTask:
    """A leased task: its grant, and its records in the order they are to be read.

    cluster_version: of the parameter servers when it was granted.
    """

    task: master_pb2.Task
    grant: int
    records: TaskRecords
    error: Exception | None = None
    cluster_version: int = 0


class Leases:
    """Tasks leased by this worker. Thread-safe.

    Args:
      master: the master's client.
      instance: who this worker is.
      read: reads a task's records; its error is handed on with the task.
      on_pin_over: told once of each pin that nobody needs any more, by the thread that leases.
    """

    def __init__(
        self,
        master: Client,
        instance: master_pb2.InstanceId,
        read: Callable[[master_pb2.Task], TaskRecords],
        on_pin_over: Callable[[int], None] = lambda pin: None,
    ) -> None:
        self._master = master
        self._instance = instance
        self._read = read
        self._on_pin_over = on_pin_over
        self._pin_over = 0
        self._changed = threading.Condition(threading.RLock())
        # By the grant a task came with: the newest grant of it, which a master that was relaunched
        # may have given anew, and its task.
        self._held: dict[int, tuple[int, int]] = {}
        self._of_lanes: set[int] = set()
        self._lanes_apart = False
        self._stopped = threading.Event()
        self._ready: queue.Queue[HeldTask | None] = queue.Queue()
        self._lane_tasks: queue.Queue[HeldTask | None] = queue.Queue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._lease_all, name="leases", daemon=True)

    def start(self, lanes_apart: bool = False) -> None:
        """Begin to lease.

        Args:
          lanes_apart: tasks of lanes come by `next_of_lanes`, not by `next`, and the master alone
            decides how many tasks this worker holds.
        """
        self._lanes_apart = lanes_apart
        self._thread.start()

    @property
    def has_begun(self) -> bool:
        """Whether `start` was called: there may be leases to return."""
        return self._thread.ident is not None

    @property
    def grants(self) -> list[int]:
        """The grants this worker works on."""
        with self._changed:
            return sorted(newest for newest, _ in self._held.values())

    def next(self) -> HeldTask | None:
        """Wait for the next task; None once the job is over or `stop` was called.

        Raises:
          Orphaned: no master answered.
          RpcError: it refused.
        """
        wait = PHASES.waiting_for_task()
        held = self._ready.get()
        if held is not None and held.task.kind in _OF_MINIBATCHES:
            wait.is_over()
        if held is None and self._failure is not None:
            raise self._failure
        return held

    def is_ready(self, within_s: float) -> bool:
        """Whether `next` need not wait longer than that."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._ready.empty(), within_s)

    def next_if_ready(self) -> HeldTask | None:
        """The next task if it is there already, else None. Never hands out the end of the job."""
        with self._changed:
            if self._ready.empty() or self._ready.queue[0] is None:
                return None
            return self._ready.get_nowait()

    def next_of_lanes(self) -> HeldTask | None:
        """Wait for the next task of a lane; None once the job is over or `stop` was called."""
        return self._lane_tasks.get()

    def stop(self, failure: Exception | None = None) -> None:
        """Lease no more; `next` returns None at once, or raises `failure`."""
        self._failure = self._failure or failure
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()
        self._end()

    def _end(self) -> None:
        self._ready.put(None)
        self._lane_tasks.put(None)

    def complete(
        self,
        held: HeldTask,
        num_minibatches: int = 0,
        partition_incarnations: tuple[int, ...] = (),
        result: dict[str, Any] | None = None,
        limited: bool = False,
    ) -> None:
        """Tell the master that a task is closed everywhere, or what it produced."""
        request = master_pb2.CompleteTaskRequest(
            instance=self._instance,
            task=held.task.id,
            grant=self._newest(held.grant),
            partition_incarnations=partition_incarnations,
            num_minibatches=num_minibatches,
            result=json.dumps(result) if result is not None else "",
            limited=limited,
            figures=PHASES.figures("worker").to_message(),
        )
        self._tell("CompleteTask", request)
        self._release([held.grant])

    def fail(self, held: HeldTask, message: str, traceback: str = "", fatal: bool = False) -> None:
        """Tell the master that the user's code raised on a task."""
        with self._changed:
            newest = self._newest(held.grant)
            # Before the master is told: it may grant the task to this worker again at once.
            self._release([held.grant])
        request = master_pb2.FailTaskRequest(
            instance=self._instance,
            task=held.task.id,
            grant=newest,
            message=message,
            traceback=traceback,
            fatal=fatal,
        )
        self._tell("FailTask", request)

    def begin_anew(self, task: int, attempt: int) -> None:
        """Tell the master that a task cannot be gone on with: its minibatches are others now."""
        request = master_pb2.RestartTaskRequest(instance=self._instance, task=task, attempt=attempt)
        self._tell("RestartTask", request)

    def give_back_all(self, goodbye: bool = False, lanes: bool = True) -> None:
        """Return every lease unharmed; also those whose records are still being read.

        Args:
          goodbye: this worker leaves; its end is no crash.
          lanes: those of lanes too.
        """
        with self._changed:
            while self.next_if_ready() is not None:
                pass
            grants = sorted(self._held if lanes else self._held.keys() - self._of_lanes)
        self.give_back(grants, goodbye)

    def give_back(self, grants: Sequence[int], goodbye: bool = False) -> None:
        """Return these leases unharmed."""
        with self._changed:
            newest = [self._newest(grant) for grant in grants]
            self._release(grants)
        if grants or goodbye:
            self._tell(
                "ReturnTasks",
                master_pb2.ReturnTasksRequest(
                    instance=self._instance, grants=newest, goodbye=goodbye
                ),
            )

    def _tell(self, method: str, request: Any) -> None:
        call_master(self._master, method, request)

    def _release(self, grants: Sequence[int]) -> None:
        with self._changed:
            for grant in grants:
                self._held.pop(grant, None)
            self._of_lanes.difference_update(grants)
            self._changed.notify_all()

    def _newest(self, grant: int) -> int:
        return self._held.get(grant, (grant, 0))[0]

    def _is_held(self, reply: master_pb2.LeaseReply) -> bool:
        """Whether this is the lease of a task that is worked on here; then it has a new grant."""
        with self._changed:
            for grant, (_, task) in self._held.items():
                if task == reply.task.id:
                    self._held[grant] = (reply.grant, task)
                    return True
        return False

    def _lease_all(self) -> None:
        number = 0
        most_held = MOST_HELD_WITH_LANES if self._lanes_apart else MOST_HELD
        try:
            while not self._stopped.is_set():
                with self._changed:
                    self._changed.wait_for(
                        lambda: len(self._held) < most_held or self._stopped.is_set()
                    )
                number = self._lease_one(number)
        except _End:
            pass
        except Exception as error:
            self._failure = error
        self._end()

    def _lease_one(self, number: int) -> int:
        """Ask once; return the number of the next request: one that was answered is over."""
        request = master_pb2.LeaseRequest(instance=self._instance, request=number)
        with PHASES.leasing.measure(Phase.LEASE):
            reply = call_master(self._master, "Lease", request, self._stopped.is_set)
        if reply.pin_over > self._pin_over:
            self._pin_over = reply.pin_over
            self._on_pin_over(reply.pin_over)
        if reply.outcome == master_pb2.LeaseReply.WAIT:
            with self._changed:  # What is done here may be what is waited for.
                if not self._stopped.is_set():
                    self._changed.wait(reply.retry_after_s)
            return number + 1
        if reply.outcome != master_pb2.LeaseReply.GRANTED:
            raise _End
        if self._is_held(reply):
            return number + 1
        is_of_lane = self._lanes_apart and reply.task.HasField("lane")
        with self._changed:
            self._held[reply.grant] = (reply.grant, reply.task.id)
            if is_of_lane:
                self._of_lanes.add(reply.grant)
        try:
            with PHASES.leasing.measure(Phase.READ):
                records = self._read(reply.task)
            held = HeldTask(reply.task, reply.grant, records, cluster_version=reply.cluster_version)
        except Exception as error:
            held = HeldTask(reply.task, reply.grant, [], error)
        with self._changed:
            if reply.grant in self._held:  # Not given back while its records were read.
                (self._lane_tasks if is_of_lane else self._ready).put(held)
                self._changed.notify_all()
        return number + 1


class _End(Exception):
    """The master has no more tasks for this worker."""


def decided_rate(task: master_pb2.Task) -> float | None:
    """Return the learning rate that callbacks decided for a task, if they did."""
    return task.learning_rate if task.HasField("learning_rate") else None
