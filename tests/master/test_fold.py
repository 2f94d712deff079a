"""The ledger is the fold of the journal's events, wherever the journal ends."""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections import Counter, deque
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elasticdl.data.shards import Shard
from elasticdl.master import ledger_events as events
from elasticdl.master.journal import FILE_NAME, Entry, Journal, read_journal
from elasticdl.master.plan import plan_body, plan_of
from elasticdl.master.recorded_ledger import EVENT, ROLLED_BACK, RecordedLedger, event_of, fold
from elasticdl.master.story import Note
from elasticdl.master.tasks import EvaluationSchedule, JobPlan, Task, TaskKind
from tests.master.cluster_model import ClusterModel, Worker
from tests.master.plans import SCHEDULES, SEEDS, make_plan, plans

# Not part of what a ledger knows: how it works, and until when leases hold, which begin anew.
NOT_STATE = {
    "_handlers",
    "_last_requests",
    "_none_late_before",
    "expires",
    "first_actions",
    "first_notes",
    "plan",
}
STOPPING = {
    "kind": "early_stopping",
    "monitor": "val_loss",
    "mode": "min",
    "patience": 1,
    "restore_best_weights": True,
}


def state_of(value: Any) -> Any:
    """Everything an object holds, all the way down, as values that can be compared."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        if isinstance(value, Counter):
            value = {key: count for key, count in value.items() if count}
        return {str(state_of(key)): state_of(one) for key, one in value.items()}
    if isinstance(value, list | tuple | deque):
        return [state_of(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, map(state_of, value)))
    if hasattr(value, "__dict__"):
        kept = {name: one for name, one in vars(value).items() if name not in NOT_STATE}
        return {"": type(value).__name__, **{name: state_of(one) for name, one in kept.items()}}
    return value


class Recording:
    """The ledger of a `ClusterModel`, of which every event that changes it is written down.

    `written` is a list of transactions, each on disk as a whole or not at all. `handled` has every
    event, also those that are not written, how much was written after it, and whether it was.
    """

    def __init__(self, model: DyingMaster) -> None:
        self.model = model
        self.recorded = RecordedLedger(model.plan)
        self.written: list[list[Note]] = [self.recorded.first_notes]
        self.handled: list[tuple[events.Event, float, int, bool]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.recorded.ledger, name)

    def handle(self, event: events.Event, now: float) -> list[events.Action]:
        actions, notes = self.recorded.handle(event, now)
        if notes:
            self.written.append(notes)
        self.handled.append((event, now, len(self.written), bool(notes)))
        return self.model.replied(event, now, actions)


class DyingMaster(ClusterModel):
    """A cluster whose master is killed now and then; the next one folds what is on disk.

    A master that dies before it has replied may or may not have written down what it was told; who
    told it does so again. A reply that nobody waits for is lost.

    Args:
      job_dir: where the journal is a real file; None for one in memory.
    """

    def __init__(self, plan: JobPlan, num_workers: int, seed: int, job_dir: Path | None) -> None:
        super().__init__(plan, num_workers, 2, seed)
        self.incarnation = 1
        self.dies_before_it_replies = False
        self.job_dir = job_dir
        self.lost_workers: list[events.WorkerLost] = []
        self.ledger = Recording(self)
        self.forget()
        self._note(self.ledger.first_actions)
        self.ledger.handle(events.MasterStarted(1), self.now)
        for index in range(2):
            self.ledger.handle(events.PartitionStarted(index, 1), self.now)

    def forget(self) -> None:
        self.tasks.clear()
        self.tasks_done.clear()
        self.rounds.clear()
        self.told.clear()

    def result(self, task: Task) -> str:
        if task.kind is TaskKind.EVALUATION:
            return json.dumps({"records": task.num_records})
        return super().result(task)

    def disturb(self) -> None:
        if self.random.random() < 0.3:
            self.dies_before_it_replies = True
            return
        workers = [(worker.index, worker.incarnation) for worker in self.workers]
        super().disturb()
        for (index, incarnation), worker in zip(workers, self.workers, strict=True):
            if worker.incarnation != incarnation:
                self.lost_workers.append(events.WorkerLost(index, incarnation, "preempted"))

    def ask_late(self, worker: Worker) -> None:
        # Who answered it may be dead, or die now: then the lease nobody holds ends.
        if self.incarnation == 1 and not self.dies_before_it_replies:
            super().ask_late(worker)

    def replied(
        self, event: events.Event, now: float, actions: list[events.Action]
    ) -> list[events.Action]:
        if not self.dies_before_it_replies:
            return actions
        self.dies_before_it_replies = False
        self.kill_the_master(len(self.ledger.written) - self.random.randrange(2))
        return self.ledger.handle(event, max(now, self.ledger.recorded.clock))

    def kill_the_master(self, kept: int) -> None:
        before = self.ledger
        for some in {self.random.randint(1, kept), kept}:
            entries = self.entries(before.written, some)
            undisturbed = RecordedLedger(self.plan)
            for event, now, written, _ in before.handled:
                if written <= some:
                    undisturbed.handle(event, now)
            assert state_of(fold(self.plan, entries)) == state_of(undisturbed)
        after = self.ledger = Recording(self)
        after.written = before.written[:kept]
        # Requests that had to wait are not written down: this one never heard of them.
        after.handled = [
            (event, now, written, is_written)
            for event, now, written, is_written in before.handled
            if written <= kept and (is_written or not isinstance(event, events.LeaseRequested))
        ]
        self.forget()
        self._note(after.recorded.ledger.first_actions)
        for entry in self.entries(before.written, kept):
            if entry.kind == EVENT:
                self._note(after.recorded.replay(*event_of(entry.body)))
        assert self.now >= after.recorded.clock
        self.incarnation += 1
        after.handle(events.MasterStarted(self.incarnation), self.now)
        for lost in self.lost_workers:  # Who watches the processes tells of all ends again.
            self._note(after.handle(lost, self.now))
        for worker in self.workers:
            grants = {work.grant for work in worker.held}
            returned = events.GrantsReturned(tuple(after.grants_of(worker.index) - grants))
            self._note(after.handle(returned, self.now))

    def entries(self, written: list[list[Note]], kept: int) -> list[Entry]:
        """The journal that is found again: its first `kept` transactions."""
        notes = [note for transaction in written[:kept] for note in transaction]
        if self.job_dir is None:
            bodies = [json.loads(json.dumps(note.body)) for note in notes]
            kinds = [note.kind for note in notes]
            return [
                Entry(number, 0.0, kind, body)
                for number, (kind, body) in enumerate(zip(kinds, bodies, strict=True), 1)
            ]
        (self.job_dir / FILE_NAME).unlink(missing_ok=True)
        journal = Journal(self.job_dir)
        for transaction in written:
            journal.write([(note.kind, note.body) for note in transaction])
        journal.close()
        with sqlite3.connect(self.job_dir / FILE_NAME) as db:
            db.execute("DELETE FROM entries WHERE number > ?", (len(notes),))
        return list(read_journal(self.job_dir))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    plan=plans(
        fewest_records_per_task=4,
        most_steps=40,
        most_lanes=4,
        validation=st.sampled_from([0, 0, 20]),
        evaluation=SCHEDULES,
    ),
    num_workers=st.integers(1, 4),
    seed=SEEDS,
    disturbances=st.integers(1, 40),
    stops=st.booleans(),
    user_callbacks=st.booleans(),
)
def test_a_master_that_dies_at_any_moment_is_found_again_and_nothing_is_applied_twice(
    plan, num_workers, seed, disturbances, stops, user_callbacks
):
    if plan.lanes and plan.max_steps is not None:  # Partitions count the steps there.
        plan = make_plan(
            [shard.num_records for shard in plan.shards],
            plan.num_epochs,
            plan.minibatch_size,
            plan.records_per_task,
            None,
            plan.lanes,
        )
    cluster = DyingMaster(plan, num_workers, seed, None)
    if stops or user_callbacks:
        cluster.initialized = {
            "callbacks": [STOPPING] if stops else [],
            "user_callbacks": user_callbacks,
        }
    cluster.run(disturbances)
    cluster.check()
    num_ranges = sum(-(-one.num_records // plan.records_per_task) for one in plan.validation_shards)
    for counted in cluster.rounds.values():
        assert set(counted.values()) == {1}
        assert len(counted) == num_ranges


def test_the_end_of_one_of_two_leases_of_a_task_is_found_again():
    plan = make_plan([12, 1, 1], 1, 1, 4, None)
    cluster = DyingMaster(plan, 4, 30257, None)
    cluster.initialized = {"callbacks": [], "user_callbacks": True}
    cluster.run(7)
    cluster.check()


@pytest.mark.parametrize("seed", range(4))
def test_the_journals_file_is_what_the_next_master_needs(tmp_path, seed):
    chance = random.Random(seed)
    plan = make_plan([40, 30], 2, 4, 8, None, lanes=seed % 2, validation=20)
    cluster = DyingMaster(plan, 3, chance.randrange(1 << 32), tmp_path)
    cluster.initialized = {"callbacks": [STOPPING], "user_callbacks": True}
    cluster.run(40)
    cluster.check()
    assert cluster.incarnation > 3


def test_a_plan_comes_back_from_the_journal_as_it_was():
    plan = JobPlan(
        phases=(TaskKind.INITIALIZE, TaskKind.TRAINING),
        shards=(Shard("/data/a", 10), Shard("table", 5, start=7)),
        validation_shards=(Shard("/data/b", 3),),
        evaluation=EvaluationSchedule(1, 2, 3.5),
        max_steps=9,
        lease_s=math.inf,
    )
    assert plan_of(json.loads(json.dumps(plan_body(plan)))) == plan


def test_events_after_a_checkpoint_that_training_went_back_to_do_not_count():
    plan = make_plan([40], 1, 4, 8, None, lanes=2)
    entries: list[Entry] = []

    def tell(recorded: RecordedLedger, *told: events.Event) -> list[events.Action]:
        actions: list[events.Action] = []
        for event in told:
            handled, notes = recorded.handle(event, float(len(entries)))
            actions += handled
            for note in notes:
                entries.append(Entry(len(entries) + 1, 0.0, note.kind, note.body))
        return actions

    recorded = RecordedLedger(plan)
    tell(recorded, events.MasterStarted(1), events.PartitionStarted(0, 1))
    tell(recorded, events.LeaseRequested(0, 1, 0), events.TaskCompleted(0, (1,), 0, "{}"))
    tell(recorded, events.LeaseRequested(1, 1, 0))
    last = len(entries)
    for number in range(3):
        tell(recorded, events.LeaseRequested(0, 1, 1 + number))
        tell(recorded, events.WorkerLost(1, 1))
        ids = recorded.ledger.ids_used
        entries.append(Entry(len(entries) + 1, 0.0, ROLLED_BACK, {"entry": last}))
        recorded = fold(plan, entries, last)
        tell(recorded, events.PartitionLost(0), events.RolledBack(*ids))
        tell(recorded, events.PartitionStarted(0, 2 + number, ()))
        assert state_of(fold(plan, entries)) == state_of(recorded)
        granted = tell(recorded, events.LeaseRequested(0, 1, 9 + number))
        (grant,) = [one for one in granted if isinstance(one, events.Grant)]
        assert grant.grant >= ids[1], "no number is given twice"
        # All lanes may be had by the only worker there is.
        more = tell(recorded, events.LeaseRequested(0, 1, 10 + number))
        assert isinstance(more[-1], events.Grant)
