"""A job's story so far, as the ledger's actions tell it: what was found, counted and decided.

Pure: it is fed by actions alone, so a master that folds the journal's events knows it again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from elasticdl.masking import masked
from elasticdl.master import ledger_events
from elasticdl.master.tasks import Task, TaskKind


@dataclass
class Outcome:
    """How a job ended: `succeeded`, `failed` (`traceback` is of user code) or `stopped`.

    `error` and `traceback` are without passwords (`masked`).
    """

    state: str
    error: str = ""
    traceback: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    output: str | None = None

    def __post_init__(self) -> None:
        self.error, self.traceback = masked(self.error), masked(self.traceback)


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


@dataclass(frozen=True)
class Note:
    """An entry for the journal; `text` says it to people, where it is for them."""

    kind: str
    body: dict[str, Any]
    text: str = ""


class Story:
    """What a job's actions add up to.

    Attributes:
      counted: records of evaluations and predictions.
      evaluations: in order.
      epoch_ended_at: seconds of training by epoch, when its last task was done.
      training_seconds: from the first task granted to the last one done; 0 before that.
    """

    def __init__(self) -> None:
        self.counted = {
            TaskKind.EVALUATION: CountedRecords(),
            TaskKind.PREDICTION: CountedRecords(),
        }
        self.evaluations: list[Evaluation] = []
        self.epoch_ended_at: dict[int, float] = {}
        self.training_seconds = 0.0
        # The records counted before the round under way; None where its own are known to count.
        self._before_round: CountedRecords | None = None
        self._training_started: float | None = None
        self._results: dict[TaskKind, str] = {}
        # The evaluation of the model that the job's end restores.
        self._restored: Evaluation | None = None

    def take(self, action: ledger_events.Action, now: float, restores: str | None) -> Note | None:
        """Take an action into account; return the entry that tells it, if it is worth one.

        Args:
          now: the ledger's clock, in seconds.
          restores: path of the model that the job's end restores, or None.
        """
        if isinstance(action, ledger_events.Decided):
            return self._decided(action, restores)
        tell = _ACTIONS.get(type(action))
        return None if tell is None else tell(self, action, now)

    def succeeded(self) -> Outcome:
        """The outcome of a job all of whose tasks are done."""
        outcome = Outcome("succeeded")
        if self.evaluations:
            outcome.metrics = (self._restored or self.evaluations[-1]).metrics
        elif TaskKind.SUMMARIZE in self._results:
            outcome.metrics = json.loads(self._results[TaskKind.SUMMARIZE])["metrics"]
        for kind in (TaskKind.EXPORT, TaskKind.MERGE):
            if kind in self._results:
                outcome.output = json.loads(self._results[kind])["output"]
        return outcome

    def training_time(self, now: float) -> float:
        """Seconds of training so far, by the ledger's clock."""
        return 0.0 if self._training_started is None else now - self._training_started

    def _tasks_defined(self, action: ledger_events.TasksDefined, now: float) -> Note:
        for task in action.tasks:
            if task.kind in self.counted:
                self.counted[task.kind].defined += task.num_records
        return Note("tasks", {"tasks": [definition(one) for one in action.tasks]})

    def _granted(self, action: ledger_events.Grant, now: float) -> Note | None:
        if action.repeated:
            return None
        task = action.task
        if task.kind is TaskKind.TRAINING and self._training_started is None:
            self._training_started = now
        body = {
            "task": task.id,
            "kind": task.kind.name,
            "grant": action.grant,
            "max_minibatches": task.max_minibatches,
            "learning_rate": task.learning_rate,
        }
        late = action.straggler
        return Note("granted", body | ({"straggler": dataclasses.asdict(late)} if late else {}))

    def _task_done(self, action: ledger_events.TaskDone, now: float) -> Note:
        kind = action.task.kind
        body: dict[str, Any] = {"task": action.task.id, "kind": kind.name}
        if action.result:
            body["result"] = action.result
            self._results[kind] = action.result
        if kind in self.counted:
            counted = self.counted[kind]
            counted.expected += action.task.num_records
            counted.counted += json.loads(action.result)["records"]
        return Note("done", body)

    def _requeued(self, action: ledger_events.Requeued, now: float) -> Note:
        return Note("requeued", {"task": action.task.id, "reason": action.reason})

    def _restarted(self, action: ledger_events.TaskRestarted, now: float) -> Note:
        task = action.task
        text = (
            "the input function does not make the same minibatches of the same records each time "
            f"({task}): such tasks are trained at least once; make it deterministic for exactly "
            "once"
        )
        body = {"task": task.id, "attempt": task.attempt}
        return Note("restarted", body, text=text if action.is_first else "")

    def _epoch_ended(self, action: ledger_events.EpochEnded, now: float) -> Note:
        self.epoch_ended_at[action.epoch] = self.training_time(now)
        return Note("epoch", {"epoch": action.epoch})

    def _phase_ended(self, action: ledger_events.PhaseEnded, now: float) -> Note:
        if action.kind is TaskKind.TRAINING:
            self.training_seconds = self.training_time(now)
        return Note("phase", {"kind": action.kind.name})

    def _round_began(self, action: ledger_events.RoundBegan, now: float) -> Note:
        began, counted = action.round, self.counted[TaskKind.EVALUATION]
        if self._before_round is not None:  # The last one's pin was lost: it begins again.
            counted = self.counted[TaskKind.EVALUATION] = self._before_round
        self._before_round = dataclasses.replace(counted)
        body = {"number": began.number, "reason": began.reason, "epoch": began.epoch}
        body |= {"evaluates": began.evaluates}
        if not action.again:
            return Note("round", body)
        what = "the evaluation" if began.evaluates else "what comes after an epoch"
        text = f"{what} begins again: {action.again}"
        return Note("round", {**body, "again": action.again}, text)

    def _evaluated(self, action: ledger_events.Evaluated, now: float) -> Note:
        done, self._before_round = action.round, None
        body = {"number": done.number, "metrics": done.metrics, "logs": done.logs}
        body |= {"epoch": done.epoch, "steps": done.steps, "evaluates": done.evaluates}
        if not done.evaluates:
            return Note("evaluated", body)
        evaluation = Evaluation(done.reason, done.epoch, done.steps, done.metrics, done.logs)
        self.evaluations.append(evaluation)
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in done.metrics.items())
        when = f"epoch {done.epoch + 1}" if done.reason == "epoch" else f"step {done.steps}"
        return Note("evaluated", body, text=f"evaluation after {when}: {numbers}")

    def _decided(self, action: ledger_events.Decided, restores: str | None) -> Note:
        decision = action.decision
        body = {"kind": decision.kind, "value": decision.value, "reason": decision.reason}
        if decision.kind == "best":
            if decision.value == restores and self.evaluations:
                self._restored = self.evaluations[-1]
            return Note("decided", body)
        stops = decision.kind == "stop"
        what = "training stops" if stops else f"learning rate {decision.value:g}"
        return Note("decided", body, text=f"{what}: {decision.reason}")


def leased_twice(body: Mapping[str, Any]) -> str:
    """Say of a second lease's entry that it is one, and why."""
    late = body["straggler"]
    return (
        f"task {body['task']} is leased to worker {body['worker']} as well: worker "
        f"{late['worker']} has held it for {late['held_s']:.1f} s, its peers take "
        f"{late['usual_s']:.1f} s"
    )


def definition(task: Task) -> list[Any]:
    """Return a task's definition, as the journal and checkpoints have it."""
    return [
        task.id,
        task.kind.name,
        task.epoch,
        task.shard,
        task.start,
        task.end,
        task.pin,
        task.payload,
        _lane(task),
    ]


def _lane(task: Task) -> list[int] | None:
    lane = task.lane
    return None if lane is None else [lane.lane, lane.position, lane.num_lanes, int(lane.last)]


_ACTIONS: dict[type[ledger_events.Action], Callable[[Story, Any, float], Note | None]] = {
    ledger_events.TasksDefined: Story._tasks_defined,
    ledger_events.Grant: Story._granted,
    ledger_events.TaskDone: Story._task_done,
    ledger_events.Requeued: Story._requeued,
    ledger_events.TaskRestarted: Story._restarted,
    ledger_events.EpochEnded: Story._epoch_ended,
    ledger_events.PhaseEnded: Story._phase_ended,
    ledger_events.RoundBegan: Story._round_began,
    ledger_events.Evaluated: Story._evaluated,
}
