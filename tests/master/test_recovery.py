"""A master that is relaunched knows from the journal what the one before it knew."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from elasticdl.data.shards import Shard
from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events, membership_events
from elasticdl.master.cluster.backend import InstanceEnded, InstanceStarted
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Role, State
from elasticdl.master.journal import FILE_NAME, Journal, read_journal
from elasticdl.master.ledger import GRANTS_PER_MASTER
from elasticdl.master.membership_events import Registered
from elasticdl.master.recovery import last_incarnation, recover
from elasticdl.master.tasks import JobPlan, TaskKind
from tests.master.test_coordinator import PS, WORKER, Recorder

MASTER = InstanceSpec(Role.MASTER, 0, 1)
PLAN = JobPlan(phases=(TaskKind.TRAINING,), shards=(Shard("a", 40),), records_per_task=10)


class Masters:
    """One job's masters, one after the other."""

    def __init__(self, job_dir: Path, plan: JobPlan = PLAN) -> None:
        self.spec = JobSpec(command="train", job_dir=str(job_dir), num_workers=1, num_ps=1)
        self.plan = plan
        self.incarnation = 0
        self.journal: Journal | None = None
        self.coordinator: Coordinator
        self.backend: Recorder

    def next(self, session: str = "first") -> Coordinator:
        """Kill the present master, if there is one, and launch another."""
        self.kill()
        self.incarnation += 1
        self.journal = Journal(self.spec.job_dir)
        recovered = recover(self.spec.job_dir)
        plan = recovered.plan if recovered else self.plan
        self.backend = Recorder()
        self.coordinator = Coordinator(
            self.spec, plan, self.backend, self.journal, self.incarnation, session, recovered
        )
        self.coordinator.start()
        return self.coordinator

    def kill(self) -> None:
        if self.journal is not None:
            self.coordinator.ended.set()
            self.journal.close()

    def states(self) -> dict[InstanceSpec, State]:
        return {one.spec: one.state for one in self.coordinator.snapshot().instances}


@pytest.fixture
def masters(tmp_path):
    masters = Masters(tmp_path)
    first = masters.next()
    assert first.register(Registered(PS, "here:1", 1))
    assert first.register(Registered(WORKER, "", 2))
    yield masters
    masters.kill()


def test_instances_stay_members_and_what_may_not_have_been_launched_is_asked_for_again(masters):
    second = masters.next()
    masters.backend.wait_for([PS, WORKER])
    assert masters.states() == {PS: State.RUNNING, WORKER: State.RUNNING}
    assert second.heartbeat(WORKER, [], None)
    (partition,) = second.cluster().partitions
    assert (partition.address, partition.spec) == ("here:1", PS)
    assert not second.register(Registered(InstanceSpec(Role.WORKER, 0, 7), "", 3))


def test_ends_that_nobody_saw_are_told_by_the_supervisor_and_old_ones_change_nothing(masters):
    masters.backend.tell(InstanceEnded(WORKER, End.of_exit_code(-9)))
    replacement = InstanceSpec(Role.WORKER, 0, 2)
    masters.backend.wait_for([PS, WORKER, replacement])
    second = masters.next()
    for event in (
        InstanceStarted(MASTER, 1),
        InstanceStarted(PS, 2),
        InstanceEnded(WORKER, End.of_exit_code(-9)),
        InstanceEnded(MASTER, End.of_exit_code(-9)),
        InstanceEnded(replacement, End.of_exit_code(-9)),
    ):
        masters.backend.tell(event)
    third = InstanceSpec(Role.WORKER, 0, 3)
    masters.backend.wait_for([PS, replacement, third])
    texts = [text for _, text in second.messages(0)]
    assert texts[0] == "the master was lost (killed by SIGKILL); another one goes on"
    exits = [entry.body["incarnation"] for entry in read_journal(masters.spec.job_dir, "exited")]
    assert exits == [1, 1, 2]
    assert second.relaunches == 2


def test_who_was_given_up_and_may_still_live_is_ended(masters):
    silent = membership_events.WorkerGone(WORKER, "not heard from for 30 s")
    with masters.coordinator._transactions.begin():
        masters.coordinator._carry_out_membership([silent])
    masters.next()
    masters.backend.wait_for([PS, InstanceSpec(Role.WORKER, 0, 2)])
    assert masters.backend.stopped == [WORKER]


def test_a_terminal_misses_no_message_of_the_next_master(masters):
    masters.coordinator.scale(2)
    (seen, _) = masters.coordinator.messages(0)[-1]
    second = masters.next()
    second.scale(1)
    assert [text for _, text in second.messages(seen)] == ["scaling to 1 worker"]
    assert second.snapshot().target_workers == 1


def test_leases_and_completions_are_kept_and_grants_do_not_collide(masters):
    first = masters.coordinator
    done, held = first.lease(WORKER, 0), first.lease(WORKER, 1)
    first.report(ledger_events.TaskCompleted(done.task.id, (1,), 1))
    second = masters.next()
    again = second.lease(WORKER, 1)
    assert (again.task.id, again.grant, again.repeated) == (held.task.id, held.grant, True)
    new = second.lease(WORKER, 2)
    assert held.grant < 2 * GRANTS_PER_MASTER <= new.grant
    assert new.task.id not in (done.task.id, held.task.id)
    assert second.snapshot().records_done == 10


def test_what_a_worker_does_not_hold_any_more_is_granted_at_once(masters):
    held = masters.coordinator.lease(WORKER, 0)
    second = masters.next()
    assert second.heartbeat(WORKER, [], None)
    new = second.lease(WORKER, 1)
    assert new.task.id == held.task.id
    assert second.heartbeat(WORKER, [], None), "a grant of this master's is not given up"
    assert second.snapshot().tasks_leased == 1


def test_a_job_that_ended_is_not_done_again(masters):
    first = masters.coordinator
    for request in range(4):
        task = first.lease(WORKER, request).task
        first.report(ledger_events.TaskCompleted(task.id, (1,), 1))
    assert first.outcome.state == "succeeded"
    second = masters.next()
    assert second.ended.is_set()
    assert second.outcome.state == "succeeded"
    assert second.cluster() is not None, "its partitions can be asked for the audit"
    assert isinstance(second.lease(WORKER, 9), ledger_events.NoMoreTasks)


def test_how_a_job_failed_is_remembered(masters):
    first = masters.coordinator
    grant = first.lease(WORKER, 0).grant
    first.report(
        ledger_events.TaskFailed(grant, "ValueError: bad", "Traceback: line 1", fatal=True)
    )
    second = masters.next()
    assert second.outcome.state == "failed"
    assert "ValueError: bad" in second.outcome.error
    assert second.outcome.traceback == "Traceback: line 1"


def test_the_clock_goes_on_where_it_stood(masters):
    first = masters.coordinator
    task = first.lease(WORKER, 0).task
    first.report(ledger_events.TaskCompleted(task.id, (1,), 1))
    stood = max(entry.body["now"] for entry in read_journal(masters.spec.job_dir, "event"))
    second = masters.next()
    assert second._clock.now() >= stood
    second.lease(WORKER, 1)
    times = [entry.body["now"] for entry in read_journal(masters.spec.job_dir, "event")]
    assert times == sorted(times)


def test_with_another_supervisor_every_instance_is_launched_anew(masters):
    held = masters.coordinator.lease(WORKER, 0)
    second = masters.next(session="second")
    replaced = [InstanceSpec(Role.PS, 0, 2), InstanceSpec(Role.WORKER, 0, 2)]
    masters.backend.wait_for(replaced)
    assert not second.heartbeat(WORKER, [held.grant], None)
    assert second.snapshot().tasks_leased == 0
    third = masters.next(session="second")
    assert set(masters.states()) == set(replaced)
    assert third.register(Registered(replaced[1], "", 5))


def test_a_job_that_failed_and_is_resumed_goes_on(masters):
    first = masters.coordinator
    grant = first.lease(WORKER, 0).grant
    first.report(ledger_events.TaskFailed(grant, "boom", fatal=True))
    second = masters.next(session="second")
    assert second.outcome is None
    third = masters.next(session="second")
    assert third.outcome is None
    assert not third.ended.is_set()


def test_of_a_prediction_that_is_resumed_every_task_is_done_anew(tmp_path):
    plan = JobPlan(phases=(TaskKind.PREDICTION,), shards=(Shard("a", 20),), records_per_task=10)
    masters = Masters(tmp_path, plan)
    first = masters.next()
    first.register(Registered(PS, "here:1", 1))
    task = first.lease(WORKER, 0).task
    first.report(ledger_events.TaskCompleted(task.id, (1,), result='{"records": 10}'))
    second = masters.next(session="second")
    assert second.snapshot().records_done == 0
    again = InstanceSpec(Role.WORKER, 0, 2)
    assert second.lease(again, 0).task.start == task.start
    third = masters.next(session="second")
    assert third.snapshot().records_done == 0
    assert third.story.counted[TaskKind.PREDICTION].defined == 20
    assert third.lease(again, 0).repeated
    masters.kill()


def test_a_first_master_that_wrote_nothing_is_as_if_it_had_not_been(tmp_path):
    Journal(tmp_path).close()
    assert recover(tmp_path) is None
    assert last_incarnation(tmp_path) == 0
    assert last_incarnation(tmp_path / "nowhere") == 0


def test_a_journal_of_another_version_is_an_error_in_one_line(masters):
    masters.kill()
    with sqlite3.connect(Path(masters.spec.job_dir) / FILE_NAME) as db:
        db.execute("UPDATE entries SET body = replace(body, 'MasterStarted', 'NoSuchEvent')")
    with pytest.raises(JobError, match="does not fit this version of elasticdl"):
        recover(masters.spec.job_dir)
