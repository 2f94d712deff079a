"""Joins the pure parts to the world: requests and events in, actions carried out and written down.

One lock orders everything. Nothing in here decides; the ledger and the membership do.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events
from elasticdl.master import membership as membership_module
from elasticdl.master.cluster.backend import Backend, BackendEvent, InstanceExited
from elasticdl.master.journal import Journal
from elasticdl.master.ledger import Ledger
from elasticdl.master.membership import InstanceSpec, Membership, Role, State
from elasticdl.master.tasks import JobPlan, Task, TaskKind

logger = logging.getLogger(__name__)

TICK_S = 0.2
# A longer pause between two ticks means that this process was stopped: time stood still then.
LONGEST_TICK_S = 3.0
START_S = 180.0
MESSAGES_KEPT = 200
LOG_TAIL_BYTES = 2000


@dataclass
class Outcome:
    """How a job ended: `succeeded`, `failed` (`traceback` is of user code) or `stopped`."""

    state: str
    error: str = ""
    traceback: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    output: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation found: after which epoch, from 0, and how many steps."""

    reason: str
    epoch: int
    steps: int
    metrics: dict[str, float]
    logs: dict[str, float]


@dataclass
class CountedRecords:
    """Of the tasks of one kind, the records they span; of those done, and what results are of."""

    defined: int = 0
    expected: int = 0
    counted: int = 0


class Coordinator:
    """A job's ledger, membership and journal, kept in step. Thread-safe.

    Args:
      spec: the job.
      plan: what it is to do.
      backend: runs the instances.
      journal: where its story goes.
    """

    def __init__(self, spec: JobSpec, plan: JobPlan, backend: Backend, journal: Journal) -> None:
        self.spec = spec
        self.plan = plan
        self.ended = threading.Event()
        self.outcome: Outcome | None = None
        self.training_seconds = 0.0
        self.epoch_ended_at: dict[int, float] = {}
        self._backend = backend
        self._journal = journal
        self._lock = threading.RLock()
        self._time_lost = 0.0
        self._ticked = time.monotonic()
        self._ledger = Ledger(plan, self._clock())
        num_workers = max(1, spec.num_workers)
        self._membership = Membership(
            num_workers,
            spec.num_ps,
            silence_s=spec.lease_s,
            start_s=max(START_S, spec.lease_s),
        )
        # What the backend is asked for, in the order in which it was decided.
        self._requests: queue.SimpleQueue[membership_module.Launch | membership_module.Stop] = (
            queue.SimpleQueue()
        )
        self._messages: deque[tuple[int, str]] = deque(maxlen=MESSAGES_KEPT)
        self._num_messages = 0
        self._losses: dict[int, float] = {}
        self._results: dict[TaskKind, str] = {}
        self.counted = {
            TaskKind.EVALUATION: CountedRecords(),
            TaskKind.PREDICTION: CountedRecords(),
        }
        self._training_started: float | None = None
        self.evaluations: list[Evaluation] = []
        # The evaluation of the model that the job's end restores.
        self._restored: Evaluation | None = None

    # ------------------------------------------------------------------ the run

    def start(self) -> None:
        """Write the job down, launch everything and begin to watch."""
        self._write("job", {"options": self.spec.to_options()}, durable=True)
        with self._lock:
            self._carry_out_ledger(self._ledger.first_actions)
            self._carry_out_membership(self._membership.start(self._clock()))
        self._backend.watch(self._on_backend_event)
        threading.Thread(target=self._ask_backend, name="backend", daemon=True).start()
        threading.Thread(target=self._tick_forever, name="tick", daemon=True).start()

    def _clock(self) -> float:
        """Seconds of this process's running time."""
        return time.monotonic() - self._time_lost

    def _ask_backend(self) -> None:
        while not self.ended.is_set():
            try:
                request = self._requests.get(timeout=TICK_S)
            except queue.Empty:
                continue
            try:
                if isinstance(request, membership_module.Launch):
                    self._backend.launch(request.spec)
                else:
                    self._backend.stop(request.spec, request.grace_s)
            except Exception as error:
                logger.exception("the backend failed")
                self.end(Outcome("failed", f"the backend failed: {error}"))

    def _tick_forever(self) -> None:
        while not self.ended.wait(TICK_S):
            try:
                with self._lock:
                    paused_s = time.monotonic() - self._ticked
                    self._ticked += paused_s
                    if paused_s > LONGEST_TICK_S:
                        self._time_lost += paused_s
                    now = self._clock()
                    self._carry_out_ledger(self._ledger.handle(ledger_events.Tick(), now))
                    self._carry_out_membership(
                        self._membership.handle(membership_module.Tick(), now)
                    )
            except Exception as error:
                logger.exception("the master cannot go on")
                self.end(Outcome("failed", f"the master cannot go on: {error}"))

    def end(self, outcome: Outcome) -> None:
        """End the job, once: workers are told to leave when they next ask."""
        with self._lock:
            if self.outcome is not None:
                return
            self.outcome = outcome
            self._membership.handle(membership_module.JobOver(), self._clock())
            self._ledger.finished = True
            self.ended.set()
            try:
                body = {"state": outcome.state, "error": outcome.error}
                self._journal.append("ended", body, durable=True)
            except JobError as error:
                logger.error("the end of the job is not in the journal: %s", error)

    def _write(self, kind: str, body: dict[str, Any], durable: bool = False) -> None:
        """Write to the journal; a journal that cannot be written ends the job (R5)."""
        try:
            self._journal.append(kind, body, durable)
        except JobError as error:
            self.end(Outcome("failed", str(error)))
            raise

    def _on_backend_event(self, event: BackendEvent) -> None:
        with self._lock:
            if not isinstance(event, InstanceExited):
                self._write("started", {**_id(event.spec), "pid": event.pid})
                return
            reason = membership_module.describe_exit(event.exit_code)
            self._write("exited", {**_id(event.spec), "reason": reason})
            exited = membership_module.Exited(event.spec, event.exit_code, event.log_path)
            self._carry_out_membership(self._membership.handle(exited, self._clock()))

    # ------------------------------------------------------------- instances' requests

    def register(self, spec: InstanceSpec, address: str, pid: int) -> bool:
        """An instance is up; False if it is not a current incarnation."""
        with self._lock:
            if not self._membership.is_current(spec):
                return False
            if not self._membership.is_registered(spec):
                self._write("registered", {**_id(spec), "address": address}, durable=True)
            event = membership_module.Registered(spec, address, pid)
            self._carry_out_membership(self._membership.handle(event, self._clock()))
            return True

    def partitions(self) -> list[membership_module.Instance] | None:
        """The parameter servers by index, or None until all have registered."""
        with self._lock:
            return self._membership.partitions()

    def heartbeat(self, spec: InstanceSpec, grants: Sequence[int], loss: float | None) -> bool:
        """A sign of life, and the leases that are still worked on."""
        with self._lock:
            if not self._membership.is_current(spec):
                return False
            now = self._clock()
            self._membership.handle(membership_module.Heard(spec), now)
            if spec.role is Role.WORKER:
                held = ledger_events.LeasesHeld(spec.index, spec.incarnation, tuple(grants))
                self._carry_out_ledger(self._ledger.handle(held, now))
                if loss is not None:
                    self._losses[spec.index] = loss
            return True

    def lease(self, spec: InstanceSpec, request: int) -> ledger_events.Action | None:
        """Grant, Wait or NoMoreTasks; None if the worker is not a current incarnation."""
        with self._lock:
            if self.outcome is not None:
                return ledger_events.NoMoreTasks()
            if not self._membership.is_current(spec):
                return None
            if self._membership.is_leaving(spec):
                return ledger_events.NoMoreTasks()
            event = ledger_events.LeaseRequested(spec.index, spec.incarnation, request)
            *before, answer = self._ledger.handle(event, self._clock())
            self._carry_out_ledger(before)
            if isinstance(answer, ledger_events.Grant) and not answer.repeated:
                self._note_grant(spec, answer)
            return answer

    @property
    def pin_over(self) -> int:
        """The newest pin that nobody needs any more; 0 for none."""
        with self._lock:
            return self._ledger.rounds.over

    def _note_grant(self, spec: InstanceSpec, answer: ledger_events.Grant) -> None:
        if answer.task.kind is TaskKind.TRAINING and self._training_started is None:
            self._training_started = self._clock()
        self._write(
            "granted",
            {
                "task": answer.task.id,
                "grant": answer.grant,
                "worker": spec.index,
                "incarnation": spec.incarnation,
                "max_minibatches": answer.task.max_minibatches,
                "learning_rate": answer.task.learning_rate,
            },
        )

    def complete(self, event: ledger_events.TaskCompleted) -> None:
        """All groups have closed a task, or its result is here."""
        with self._lock:
            if self.outcome is None:
                self._carry_out_ledger(self._ledger.handle(event, self._clock()))

    def fail(self, event: ledger_events.TaskFailed) -> None:
        """The user's code raised on a task."""
        with self._lock:
            if self.outcome is None:
                self._write("raised", {"grant": event.grant, "message": event.message})
                self._carry_out_ledger(self._ledger.handle(event, self._clock()))

    def give_back(self, spec: InstanceSpec, grants: Sequence[int], goodbye: bool) -> None:
        """A worker returns leases unharmed, and may say that it leaves."""
        with self._lock:
            if goodbye:
                self._membership.handle(membership_module.Leaving(spec), self._clock())
            event = ledger_events.GrantsReturned(tuple(grants))
            self._carry_out_ledger(self._ledger.handle(event, self._clock()))

    def scale(self, num_workers: int) -> None:
        """Run another number of workers from now on."""
        with self._lock:
            self._write("scaled", {"num_workers": num_workers}, durable=True)
            self._say(f"scaling to {num_workers} worker{'s' if num_workers > 1 else ''}")
            event = membership_module.Scaled(num_workers)
            self._carry_out_membership(self._membership.handle(event, self._clock()))

    # -------------------------------------------------------------- carrying out

    def _carry_out_ledger(self, actions: Sequence[ledger_events.Action]) -> None:
        for action in actions:
            handle = _LEDGER_ACTIONS.get(type(action))
            if handle is not None:
                handle(self, action)

    def _tasks_defined(self, action: ledger_events.TasksDefined) -> None:
        tasks = [
            [t.id, t.kind.name, t.epoch, t.shard, t.start, t.end, t.pin, t.payload, _lane(t)]
            for t in action.tasks
        ]
        self._write("tasks", {"tasks": tasks}, durable=True)
        for task in action.tasks:
            if task.kind in self.counted:
                self.counted[task.kind].defined += task.num_records

    def _task_done(self, action: ledger_events.TaskDone) -> None:
        body: dict[str, Any] = {"task": action.task.id, "kind": action.task.kind.name}
        kind = action.task.kind
        if action.result:
            body["result"] = action.result
            self._results[kind] = action.result
        if kind in (TaskKind.EVALUATION, TaskKind.PREDICTION):
            counted = self.counted[kind]
            counted.expected += action.task.num_records
            counted.counted += json.loads(action.result)["records"]
        self._write("done", body, durable=bool(action.result))
        self._membership.handle(membership_module.Progressed(), self._clock())

    def _requeued(self, action: ledger_events.Requeued) -> None:
        self._write("requeued", {"task": action.task.id, "reason": action.reason})
        self._say(f"{action.task} will be leased again: {action.reason}")

    def _epoch_ended(self, action: ledger_events.EpochEnded) -> None:
        self.epoch_ended_at[action.epoch] = self._training_time()
        self._write("epoch", {"epoch": action.epoch}, durable=True)

    def _phase_ended(self, action: ledger_events.PhaseEnded) -> None:
        self._write("phase", {"kind": action.kind.name}, durable=True)
        if action.kind is TaskKind.TRAINING:
            self.training_seconds = self._training_time()

    def _round_began(self, action: ledger_events.RoundBegan) -> None:
        began = action.round
        body = {"number": began.number, "reason": began.reason, "epoch": began.epoch}
        self._write("round", {**body, "evaluates": began.evaluates}, durable=True)

    def _evaluated(self, action: ledger_events.Evaluated) -> None:
        done = action.round
        self._write(
            "evaluated",
            {"number": done.number, "metrics": done.metrics, "logs": done.logs},
            durable=True,
        )
        if not done.evaluates:
            return
        evaluation = Evaluation(done.reason, done.epoch, done.steps, done.metrics, done.logs)
        self.evaluations.append(evaluation)
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in done.metrics.items())
        when = f"epoch {done.epoch + 1}" if done.reason == "epoch" else f"step {done.steps}"
        self._say(f"evaluation after {when}: {numbers}")

    def _decided(self, action: ledger_events.Decided) -> None:
        decision = action.decision
        self._write(
            "decided",
            {"kind": decision.kind, "value": decision.value, "reason": decision.reason},
            durable=True,
        )
        if decision.kind == "best":
            if decision.value == self._ledger.rounds.decisions.restores and self.evaluations:
                self._restored = self.evaluations[-1]
            return
        what = "training stops" if decision.kind == "stop" else f"learning rate {decision.value:g}"
        self._say(f"{what}: {decision.reason}")

    def _training_time(self) -> float:
        started = self._training_started
        return 0.0 if started is None else self._clock() - started

    def _job_done(self, action: ledger_events.JobDone) -> None:
        outcome = Outcome("succeeded")
        if self.evaluations:
            outcome.metrics = (self._restored or self.evaluations[-1]).metrics
        elif TaskKind.SUMMARIZE in self._results:
            outcome.metrics = json.loads(self._results[TaskKind.SUMMARIZE])["metrics"]
        for kind in (TaskKind.EXPORT, TaskKind.MERGE):
            if kind in self._results:
                outcome.output = json.loads(self._results[kind])["output"]
        self.end(outcome)

    def _job_failed(self, action: ledger_events.JobFailed) -> None:
        self.end(Outcome("failed", action.message, action.traceback))

    def _carry_out_membership(self, actions: Sequence[membership_module.Action]) -> None:
        """Carry out what membership decided; the backend, which may be slow, is asked later."""
        for action in actions:
            if isinstance(action, membership_module.Launch):
                self._write("launch", _id(action.spec), durable=True)
                if action.spec.incarnation > 1:
                    self._say(f"{action.spec} is relaunched")
                self._requests.put(action)
            elif isinstance(action, membership_module.Stop):
                self._requests.put(action)
            elif isinstance(action, membership_module.WorkerGone):
                self._worker_gone(action)
            elif isinstance(action, membership_module.PartitionUp):
                event = ledger_events.PartitionStarted(action.spec.index, action.spec.incarnation)
                self._carry_out_ledger(self._ledger.handle(event, self._clock()))
            elif isinstance(action, membership_module.GiveUp):
                self.end(Outcome("failed", action.message + _log_tail(action.log_path)))

    def _worker_gone(self, action: membership_module.WorkerGone) -> None:
        self._losses.pop(action.spec.index, None)
        self._say(f"{action.spec} is gone: {action.reason}")
        event = ledger_events.WorkerLost(action.spec.index, action.spec.incarnation, action.reason)
        self._carry_out_ledger(self._ledger.handle(event, self._clock()))

    def _say(self, text: str) -> None:
        logger.info(text)
        self._num_messages += 1
        self._messages.append((self._num_messages, text))

    # ------------------------------------------------------------------ answers

    def messages(self, after: int) -> list[tuple[int, str]]:
        """What happened after message `after`, oldest first, as (number, text)."""
        with self._lock:
            return [message for message in self._messages if message[0] > after]

    def snapshot(self) -> Snapshot:
        """What the job looks like now."""
        with self._lock:
            ledger, phase = self._ledger, self._ledger.phase
            expected = sum(shard.num_records for shard in self.plan.shards) * self.plan.num_epochs
            if self.plan.max_steps is not None:
                step = self.plan.minibatch_size * max(1, self.plan.lanes)
                expected = min(expected, self.plan.max_steps * step)
            losses = list(self._losses.values())
            return Snapshot(
                state=self.outcome.state if self.outcome else "running",
                phase=self._doing(phase),
                epoch=ledger.epoch,
                records_done=ledger.records_done(self.plan.main_kind),
                records_expected=expected,
                loss=sum(losses) / len(losses) if losses else None,
                target_workers=self._membership.num_workers,
                tasks_todo=ledger.num_todo,
                tasks_leased=ledger.num_leased,
                tasks_done=ledger.num_done,
                instances=self._membership.instances(),
            )

    def _doing(self, phase: TaskKind | None) -> str:
        """The phase in a word; an epoch's end may have it evaluate instead of train."""
        if phase is TaskKind.TRAINING and self._ledger.is_between_epochs:
            return TaskKind.EVALUATION.name.lower()
        return phase.name.lower() if phase is not None else "done"

    def training_granted(self) -> tuple[int, int]:
        """Records and tasks of training that were granted, all epochs: what the audit expects."""
        with self._lock:
            return self._ledger.training_granted()

    @property
    def relaunches(self) -> int:
        """Instances that were replaced so far."""
        return self._membership.relaunches

    def workers_left(self) -> list[InstanceSpec]:
        """Workers whose process has not ended yet."""
        with self._lock:
            return [
                instance.spec
                for instance in self._membership.instances()
                if instance.spec.role is Role.WORKER and instance.state is not State.GONE
            ]


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment, for people to look at."""

    state: str
    phase: str
    epoch: int
    records_done: int
    records_expected: int
    loss: float | None
    target_workers: int
    tasks_todo: int
    tasks_leased: int
    tasks_done: int
    instances: list[membership_module.Instance]


def _lane(task: Task) -> list[int] | None:
    lane = task.lane
    return None if lane is None else [lane.lane, lane.position, lane.num_lanes, int(lane.last)]


def _id(spec: InstanceSpec) -> dict[str, Any]:
    return {"role": spec.role.value, "index": spec.index, "incarnation": spec.incarnation}


def _log_tail(path: str) -> str:
    """The end of an instance's log, for an error; empty where there is none."""
    try:
        data = Path(path).read_bytes()[-LOG_TAIL_BYTES:] if path else b""
    except OSError:
        return ""
    return f"; the end of {path}:\n{data.decode(errors='replace')}" if data else ""


_LEDGER_ACTIONS: dict[type[ledger_events.Action], Callable[[Coordinator, Any], None]] = {
    ledger_events.TasksDefined: Coordinator._tasks_defined,
    ledger_events.TaskDone: Coordinator._task_done,
    ledger_events.Requeued: Coordinator._requeued,
    ledger_events.EpochEnded: Coordinator._epoch_ended,
    ledger_events.PhaseEnded: Coordinator._phase_ended,
    ledger_events.RoundBegan: Coordinator._round_began,
    ledger_events.Evaluated: Coordinator._evaluated,
    ledger_events.Decided: Coordinator._decided,
    ledger_events.JobDone: Coordinator._job_done,
    ledger_events.JobFailed: Coordinator._job_failed,
}
