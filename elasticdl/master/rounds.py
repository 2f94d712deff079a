"""Rounds of evaluation: when one is due, which tasks it is made of, what follows from it.

Pure, like the ledger, which grants a round's tasks and says when they are done.
docs/decisions/evaluation.md tells the whole.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from elasticdl.master.decisions import Decision, Decisions
from elasticdl.master.tasks import JobPlan, Task, TaskKind, carve


@dataclass
class Round:
    """A sequence of stages, each a set of tasks that are all done before the next is defined.

    number: counts up in a job; also the pin's. evaluates: on the validation data; otherwise logs
    are of training alone. stage: the one under way. stages: still to come. open: ids of the stage's
    tasks that are not done.
    is_pinned: it needs a pin. is_summarized: its numbers are known, and what follows from them.
    """

    number: int
    reason: str
    epoch: int
    steps: int
    evaluates: bool
    stages: list[TaskKind]
    open: set[int] = field(default_factory=set)
    results: list[str] = field(default_factory=list)
    logs: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    keeps: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    stage: TaskKind | None = None
    is_pinned: bool = False
    is_summarized: bool = False


class Rounds:
    """The rounds of one `train` job, one at a time.

    Args:
      plan: the job.
      now: the clock's reading when training starts, in seconds.

    Attributes:
      current: the round under way, or None.
      decisions: what callbacks the master decides for.
      over: number of the last round that ended: its pin, and older ones, are not needed any more.
      stopped: why training is to end early; empty while it is not.
      restored: path of the model that the job's end restores, once one was kept.
    """

    def __init__(self, plan: JobPlan, now: float) -> None:
        self.current: Round | None = None
        self.decisions = Decisions()
        self.over = 0
        self.stopped = ""
        self.restored: str | None = None
        self._plan = plan
        self._number = 0
        self._steps_mark = 0
        self._last_began = now
        self._steps_evaluated = -1
        self._logs: dict[str, float] = {}
        self._evaluated_logs: dict[str, float] = {}
        self._told: set[str] = set()
        # The model that was kept to be restored, before the one that is now.
        self._superseded: str | None = None

    # ------------------------------------------------------------- when one is due

    def wanted_after(self, epoch: int) -> bool:
        """Whether the next epoch's tasks have to wait for a round after this one's."""
        return self.decisions.any or self._evaluates_after(epoch)

    def _evaluates_after(self, epoch: int) -> bool:
        every = self._plan.evaluation.epochs
        is_due = bool(every) and (epoch + 1) % every == 0
        # A model that is kept is measured: whoever gets it is told its numbers.
        return bool(self._plan.validation_shards) and (is_due or self.decisions.keeps_best)

    def _due(self, steps: int, now: float) -> str:
        """Why an evaluation is due, by steps or seconds; empty where none is."""
        schedule = self._plan.evaluation
        if not self._plan.validation_shards or steps == self._steps_evaluated:
            return ""
        if schedule.steps and steps // schedule.steps > self._steps_mark:
            return "steps"
        return "secs" if schedule.secs and now - self._last_began >= schedule.secs else ""

    def begin_if_due(self, epoch: int, steps: int, now: float) -> bool:
        """Begin a round on the way, if steps or seconds say so."""
        reason = self._due(steps, now)
        if self.current is not None or self.stopped or not reason:
            return False
        self._begin(reason, epoch, steps, now, evaluates=True)
        return True

    def begin_after_epoch(self, epoch: int, steps: int, now: float, over: bool) -> bool:
        """Begin the round at an epoch's end, or at the end of training; False if none is wanted."""
        evaluates = self._evaluates_after(epoch) or bool(self._due(steps, now))
        evaluates |= over and bool(self._plan.validation_shards)
        if steps == self._steps_evaluated:  # The last round was of this state.
            evaluates = False
        if not evaluates and not self.decisions.any:
            return False
        self._begin("epoch", epoch, steps, now, evaluates)
        return True

    def begin_at_end(self, epoch: int, steps: int, now: float) -> bool:
        """Begin the last evaluation, where training ended without one of its final state."""
        if not self._plan.validation_shards or steps == self._steps_evaluated:
            return False
        self._begin("end", epoch, steps, now, evaluates=True)
        return True

    def begin_to_tell(self, *events: dict[str, Any]) -> bool:
        """Begin a round that tells the user's callbacks of events; False if told or nobody asks."""
        names = [f"{event['event']} {event.get('epoch', '')}" for event in events]
        new = [event for event, name in zip(events, names, strict=True) if name not in self._told]
        if not self.decisions.user_callbacks or not new:
            return False
        self._told.update(names)
        self._number += 1
        epoch = new[-1].get("epoch", 0)
        for event in new:
            if event["event"] == "train_end":
                event["logs"] = self._logs
        self.current = Round(
            self._number, "callbacks", epoch, 0, False, [TaskKind.CALLBACKS], events=new
        )
        return True

    def _begin(self, reason: str, epoch: int, steps: int, now: float, evaluates: bool) -> None:
        self._number += 1
        stages = [TaskKind.SUMMARIZE]
        if evaluates:
            self._last_began = now
            if self._plan.evaluation.steps:
                self._steps_mark = steps // self._plan.evaluation.steps
            self._steps_evaluated = steps
            stages = [TaskKind.PIN, TaskKind.EVALUATION, *stages]
        elif self.decisions.keeps_best:
            stages = [TaskKind.PIN, *stages]
        is_pinned = TaskKind.PIN in stages
        self.current = Round(
            self._number, reason, epoch, steps, evaluates, stages, is_pinned=is_pinned
        )

    def begin_again(self) -> bool:
        """A partition came back without its pin: begin anew, if the pin had been made.

        The sums of the round so far are dropped. What it has decided stays decided: then only what
        comes after that is done again, of what the partitions hold now.
        """
        before = self.current
        if before is None or not before.is_pinned:
            return False
        self._number += 1
        self.current = dataclasses.replace(before, number=self._number, open=set(), results=[])
        stages = [TaskKind.PIN]
        if not before.is_summarized:
            stages += [TaskKind.EVALUATION] if before.evaluates else []
            stages.append(TaskKind.SUMMARIZE)
        else:
            stages += [TaskKind.EXPORT] if before.keeps else []
            stages += [TaskKind.CALLBACKS] if before.events else []
        self.current.stages = stages
        return True

    def forget_state(self) -> None:
        """What was evaluated last is not quite what there is now: gradients were computed again."""
        self._steps_evaluated = -1

    # --------------------------------------------------------------- its tasks

    def next_tasks(self, first_id: int) -> list[Task]:
        """Return the tasks of the next stage; none where the round is over: then it is ended."""
        current = self.current
        assert current is not None
        assert not current.open
        if not current.stages:
            self.current = None
            self.over = current.number
            return []
        kind = current.stage = current.stages.pop(0)
        if kind is TaskKind.EVALUATION:
            shards, pin = self._plan.validation_shards, current.number
            tasks = list(carve(shards, kind, current.epoch, first_id, self._plan, pin))
        elif kind is TaskKind.EXPORT:
            tasks = [
                Task(
                    first_id + offset,
                    kind,
                    current.epoch,
                    pin=current.number,
                    payload=json.dumps({"pin": current.number, **self._place(path, current)}),
                )
                for offset, path in enumerate(current.keeps)
            ]
        else:
            payload = json.dumps(self._payload(kind, current))
            pin = current.number if kind is TaskKind.PIN or current.evaluates else 0
            tasks = [Task(first_id, kind, current.epoch, pin=pin, payload=payload)]
        current.open = {task.id for task in tasks}
        return tasks

    def _place(self, path: str, current: Round) -> dict[str, str]:
        """Where to keep a model; what is to be restored is never written over, so it is whole."""
        if path != self.decisions.restores:
            return {"path": path}
        place = {"path": f"{path}-{current.number}"}
        # The one before stays until it is known that this one is there.
        return {**place, "replaces": self._superseded} if self._superseded else place

    def _payload(self, kind: TaskKind, current: Round) -> dict[str, Any]:
        if kind is TaskKind.PIN:
            return {"consistency": "sync" if self._plan.lanes else "async"}
        if kind is TaskKind.CALLBACKS:
            rate = self.decisions.current_rate(current.epoch)
            return {"events": current.events, "learning_rate": rate}
        return {
            "results": current.results,
            "epoch": current.epoch,
            "pin": current.number if current.evaluates else 0,
            "evaluated": current.evaluates,
        }

    def done(self, task: Task, result: str) -> list[Decision]:
        """Take a task's result into account; return what was decided."""
        current = self.current
        assert current is not None
        current.open.discard(task.id)
        if task.kind is TaskKind.EVALUATION:
            current.results.append(result)
        elif task.kind is TaskKind.SUMMARIZE:
            return self._summarized(current, json.loads(result))
        elif task.kind is TaskKind.CALLBACKS:
            return self._called_back(current.epoch, json.loads(result) if result else {})
        elif task.kind is TaskKind.EXPORT:
            path = json.loads(task.payload)["path"]
            if path == f"{self.decisions.restores}-{current.number}":
                self._superseded, self.restored = self.restored, path
        return []

    def _summarized(self, current: Round, result: dict[str, Any]) -> list[Decision]:
        current.is_summarized = True
        current.metrics = result.get("metrics", {})
        current.logs = self._logs = result.get("logs", {})
        if current.evaluates:
            self._evaluated_logs = current.logs
        elif current.steps == self._steps_evaluated:  # The last round was of this state.
            self._logs = {**self._evaluated_logs, **current.logs}
        decisions = self.decisions.decide(current.epoch, current.logs)
        current.keeps = sorted({str(one.value) for one in decisions if one.kind == "best"})
        if current.keeps:
            current.stages.append(TaskKind.EXPORT)
        if self.decisions.user_callbacks:
            current.stages.append(TaskKind.CALLBACKS)
            if current.evaluates:
                current.events += [
                    {"event": "evaluation_begin"},
                    {"event": "evaluation_end", "logs": current.logs},
                ]
            if current.reason == "epoch":
                epoch_end = {"event": "epoch_end", "epoch": current.epoch, "logs": self._logs}
                current.events.append(epoch_end)
            if not current.events:
                current.stages.remove(TaskKind.CALLBACKS)
        self._note_stop(decisions)
        return decisions

    def _called_back(self, epoch: int, result: dict[str, Any]) -> list[Decision]:
        decisions = []
        if result.get("learning_rate") is not None:
            value = float(result["learning_rate"])
            self.decisions.decide_rate(value, epoch)
            decisions.append(Decision("learning_rate", "a callback set it", value))
        if result.get("stop"):
            decisions.append(Decision("stop", "a callback set model.stop_training"))
        self._note_stop(decisions)
        return decisions

    def _note_stop(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if decision.kind == "stop":
                self.stopped = self.stopped or decision.reason
