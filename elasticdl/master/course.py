"""The course of a job: which phase, epoch or round comes next, and what has to be waited for.

Pure, a part of the ledger, which grants the tasks that are defined here and says when they are
done. A round's own stages are in `rounds`.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from elasticdl.master.decisions import Decisions
from elasticdl.master.epoch_tasks import EpochTasks
from elasticdl.master.lanes import carve_lanes
from elasticdl.master.ledger_events import (
    Action,
    CheckpointWanted,
    Decided,
    EpochEnded,
    Evaluated,
    JobDone,
    PhaseEnded,
    Requeued,
    RoundBegan,
    TaskCompleted,
    TaskDone,
    TasksDefined,
)
from elasticdl.master.open_tasks import OpenTasks
from elasticdl.master.replays import Replays
from elasticdl.master.rounds import Rounds
from elasticdl.master.steps import Steps
from elasticdl.master.tasks import JobPlan, Task, TaskKind, carve


class Course:
    """How far a job is, and what comes next.

    Args:
      plan: the job.
      tasks: its open tasks; those that come next are defined among them.
      replays: its tasks that a restored partition may have to see again.
      now: the clock's reading at the start, in seconds.

    Attributes:
      rounds: of evaluation and callbacks, in between.
      num_done: tasks that are done; one that is done again counts once.
      records_done: of these tasks, by their kind, all epochs.
      records_repeated: of tasks that were done before, each time they were done again after a loss.
      epochs: of the tasks that the job is for; one where they have none.
    """

    def __init__(self, plan: JobPlan, tasks: OpenTasks, replays: Replays, now: float) -> None:
        self.rounds = Rounds(plan, now)
        self.num_done = 0
        self.records_done: Counter[TaskKind] = Counter()
        self.records_repeated = 0
        self.epochs: dict[int, EpochTasks] = {}
        self._plan = plan
        self._tasks = tasks
        self._replays = replays
        self._steps = Steps(plan)
        self._phase = -1
        self._phase_results: list[str] = []
        self._initialize: Task | None = None
        self._is_initialized = False
        self._epoch = -1
        # The last epoch at whose end it was decided whether to evaluate.
        self._epoch_decided = -1
        # The checkpoint that has to be committed before anything goes on: initial or final.
        self._awaited_checkpoint = ""

    # ------------------------------------------------------------- where it stands

    @property
    def phase(self) -> TaskKind | None:
        """The kind of tasks being worked on; None once all is done."""
        return None if self.is_over else self._plan.phases[self._phase]

    @property
    def is_over(self) -> bool:
        """Whether all is done."""
        return self._phase == len(self._plan.phases)

    @property
    def epoch(self) -> int:
        """The latest epoch whose tasks exist, from 0."""
        return max(0, self._epoch)

    @property
    def steps_done(self) -> int:
        """Steps of training that are done."""
        return self._steps.done

    @property
    def is_initializing(self) -> bool:
        """Whether the partitions, or one of them, are still to get their initial values."""
        return self._initialize is not None and self._initialize.id in self._tasks

    # ----------------------------------------------------- what has to be waited for

    @property
    def checkpoint_wanted(self) -> str:
        """`initial` or `final` where nothing goes on before a checkpoint is committed, else empty.

        What is to be in it is there: no task is open.
        """
        has_open = self._tasks.num_training or self.is_initializing
        return "" if has_open else self._awaited_checkpoint

    def admits(self, task: Task) -> bool:
        """Whether a task of the queue's row may be granted now; if so, it gets its steps."""
        if self.is_initializing and task.kind is not TaskKind.INITIALIZE:
            return False
        current = self.rounds.current
        if self._replays.open and current is not None and task.id in current.open:
            return False
        if self.waits_for_last and task.kind is not TaskKind.TRAINING:
            return False
        if task.granted or task.kind is not TaskKind.TRAINING:
            return True
        return self._steps.give(task, self._tasks.num_under_way)

    @property
    def _is_past_training(self) -> bool:
        return TaskKind.TRAINING in self._plan.phases[: self._phase]

    @property
    def waits_for_last(self) -> bool:
        """Whether what comes after training waits: the last checkpoint was damaged."""
        return self._is_past_training and self._awaited_checkpoint == "final"

    def fell_back(self) -> list[Action]:
        """Partitions begin with an older checkpoint from now on."""
        return self._wait_for_another_last()

    def _wait_for_another_last(self) -> list[Action]:
        """After training, wait for another checkpoint where the last one does not have all."""
        lacks_some = self._is_past_training and len(self._replays)
        return self._wait_for_checkpoint("final") if lacks_some else []

    def _wait_for_checkpoint(self, reason: str) -> list[Action]:
        if self._awaited_checkpoint == reason:  # It was said.
            return []
        self._awaited_checkpoint = reason
        return [CheckpointWanted(reason)]

    def checkpoint_committed(self, now: float) -> list[Action]:
        """Go on, if this is what was waited for."""
        awaited = self.checkpoint_wanted
        if awaited == "initial":
            self._awaited_checkpoint = ""
            return self._next_phase(now)
        if awaited == "final":
            self._awaited_checkpoint = ""
            return self._wait_for_another_last() or self.advance(now)
        return []

    # ------------------------------------------------------------------ phases

    def begin(self) -> list[Action]:
        """Enter the first phase."""
        return self._next_phase(0.0)

    def _next_phase(self, now: float) -> list[Action]:
        """Enter the next phase that has tasks, or end the job."""
        actions: list[Action] = []
        if self._phase >= 0:
            actions.append(PhaseEnded(self._plan.phases[self._phase]))
        results, self._phase_results = self._phase_results, []
        self._phase += 1
        kind = self.phase
        if kind is None:
            return [*actions, JobDone()]
        if kind is TaskKind.TRAINING:
            return actions + self.advance(now)
        if kind.spans_records:
            tasks = list(carve(self._plan.shards, kind, 0, self._tasks.next_id, self._plan))
            self.epochs[0] = EpochTasks.of(tasks)
            return actions + self._define(tasks)
        task = Task(self._tasks.next_id, kind, payload=json.dumps(self._payload(kind, results)))
        if kind is TaskKind.INITIALIZE:
            self._initialize = task
        return actions + self._define([task])

    def _payload(self, kind: TaskKind, results: list[str]) -> Any:
        if kind is TaskKind.SUMMARIZE:
            return {"results": results, "epoch": 0, "pin": 0, "evaluated": True}
        if kind is TaskKind.EXPORT:
            restored = self.rounds.restored
            return {"copy": restored} if restored is not None else {}
        return results

    def _define(self, tasks: list[Task]) -> list[Action]:
        current = self.rounds.current
        self._tasks.define(tasks, first=current is not None and tasks[0].id in current.open)
        return [TasksDefined(tuple(tasks))]

    def initialize_again(self, reason: str) -> list[Action]:
        """Have the initial values set again, where that was done."""
        task = self._initialize
        if task is None or task.id in self._tasks:
            return []
        self._tasks.open_again(task)
        return [Requeued(task, reason)]

    # ------------------------------------------------------------------ epochs

    def define_ahead(self) -> list[Action]:
        """Define the next epoch's tasks before this one's are done, where they need not wait."""
        may_overlap = (
            self.phase is TaskKind.TRAINING
            and self._epoch >= 0
            and not self._plan.lanes
            and not self._training_is_over()
            and not self.rounds.wanted_after(self._epoch)
        )
        return self._define_epoch() if may_overlap else []

    def _define_epoch(self) -> list[Action]:
        self._epoch += 1
        first_id = self._tasks.next_id
        if self._plan.lanes:
            tasks = list(carve_lanes(self._plan.shards, self._epoch, first_id, self._plan))
        else:
            kind = TaskKind.TRAINING
            tasks = list(carve(self._plan.shards, kind, self._epoch, first_id, self._plan))
        self.epochs[self._epoch] = EpochTasks.of(tasks)
        return self._define(tasks)

    def _training_is_over(self) -> bool:
        """Whether no task of training is to be granted for the first time any more."""
        is_last = self._epoch + 1 >= self._plan.num_epochs
        return is_last or self._steps.are_over or bool(self.rounds.stopped)

    def _drop_if_stopped(self) -> None:
        """End training early; in sync mode at the epoch's end, as lanes go there in step."""
        if self.rounds.stopped and not self._plan.lanes:
            self._tasks.drop_ungranted()

    def advance(self, now: float) -> list[Action]:
        """Begin what comes next in training: a round, an epoch, or the phase after it."""
        rounds = self.rounds
        if self.phase is not TaskKind.TRAINING:
            return []
        if not self._steps.are_wanted_after(self._tasks.num_under_way):
            self._tasks.drop_ungranted()
        self._drop_if_stopped()
        if rounds.current is not None:
            return []
        if self._tasks.num_training:
            due = rounds.begin_if_due(self.epoch, self.steps_done, now)
            return self._round_began() if due else []
        over = self._training_is_over()
        # Before the last evaluation: what is measured is what is exported, whoever dies.
        if over and self._plan.checkpoints and len(self._replays):
            return self._wait_for_checkpoint("final")
        if self._epoch_decided < self._epoch:
            self._epoch_decided = self._epoch
            if rounds.begin_after_epoch(self._epoch, self.steps_done, now, over):
                return self._round_began()
        if over:
            if rounds.begin_at_end(self.epoch, self.steps_done, now):
                return self._round_began()
            if rounds.begin_to_tell({"event": "train_end"}):
                return self._round_began()
            return self._next_phase(now)
        epoch_begin = {"event": "epoch_begin", "epoch": self._epoch + 1}
        if rounds.begin_to_tell({"event": "train_begin"}, epoch_begin):
            return self._round_began()
        return self._define_epoch()

    # ------------------------------------------------------------------ rounds

    def _round_began(self, again: str = "") -> list[Action]:
        assert self.rounds.current is not None
        began = RoundBegan(self.rounds.current, again)
        return [began, *self._define(self.rounds.next_tasks(self._tasks.next_id))]

    def begin_round_again(self, why: str) -> tuple[set[int], list[Action]]:
        """Drop a round whose pin, or a part of it, is gone, and begin it anew.

        Args:
          why: what became of the pin.

        Returns:
          The ids of the tasks that are dropped, and what follows.
        """
        current = self.rounds.current
        if current is None:
            return set(), []
        dropped = current.open
        is_untouched = not any(self._tasks[task_id].granted for task_id in dropped)
        if current.stage is TaskKind.PIN and is_untouched:
            return set(), []
        if not self.rounds.begin_again():
            return set(), []
        self._tasks.drop(dropped)
        return dropped, self._round_began(again=why)

    def _round_task_done(self, task: Task, result: str, now: float) -> list[Action]:
        """Go on with the round when a stage is done, and with training when the round is."""
        current = self.rounds.current
        assert current is not None
        decisions = self.rounds.done(task, result)
        actions: list[Action] = []
        if task.kind is TaskKind.SUMMARIZE:
            actions.append(Evaluated(current))
        actions += [Decided(one, current.epoch, self.steps_done) for one in decisions]
        self._drop_if_stopped()
        if current.open:
            return actions
        tasks = self.rounds.next_tasks(self._tasks.next_id)
        if tasks:
            return actions + self._define(tasks)
        return actions + self.advance(now)

    # -------------------------------------------------------------- completion

    def task_done(self, task: Task, event: TaskCompleted, now: float) -> list[Action]:
        """Count a task that is not open any more, and go on."""
        if task.kind is TaskKind.TRAINING:
            if not self._replays.done(task):
                self.epochs[task.epoch].replayed.add(task.id)
                self.records_repeated += task.num_records
                return self.advance(now)
            self._steps.count(task, event.num_minibatches, event.limited)
        elif task is self._initialize:
            if self._is_initialized:  # A partition that began empty has its values, too.
                awaited = self._awaited_checkpoint
                return [CheckpointWanted(awaited)] if awaited else []
            self._is_initialized = True
        self.num_done += 1
        actions: list[Action] = [TaskDone(task, event.result)]
        current = self.rounds.current
        if current is not None and task.id in current.open:
            return actions + self._round_task_done(task, event.result, now)
        if event.result:
            self._phase_results.append(event.result)
        if task.kind is TaskKind.INITIALIZE and TaskKind.TRAINING in self._plan.phases:
            decisions = Decisions.of_initialize(event.result, self._plan.best_path)
            self.rounds.decisions = decisions
            self._phase_results.clear()
            if self._plan.checkpoints:
                return actions + self._wait_for_checkpoint("initial")
        if task.kind.spans_records:
            self.records_done[task.kind] += task.num_records
        if task.kind is self._plan.main_kind:
            self.epochs[task.epoch].done(task)
        if task.kind is TaskKind.TRAINING:
            if not self.epochs[task.epoch].num_left:
                actions.append(EpochEnded(task.epoch))
            return actions + self.advance(now)
        return actions + ([] if len(self._tasks) else self._next_phase(now))
