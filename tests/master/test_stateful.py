"""Whatever happens to a job's processes, messages and checkpoints, nothing is lost or done twice.

Hypothesis chooses what happens next and, where an invariant breaks, finds the shortest such story.
Longer: `STATEFUL_EXAMPLES=20000 pytest tests/master/test_stateful.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import Role
from elasticdl.master.replacement import MOST_RAISES
from elasticdl.master.tasks import EvaluationSchedule
from tests.master import job_invariants
from tests.master.job_model import NUM_GROUPS, JobModel, ReplyLost
from tests.master.plans import make_plan

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "150"))
SOME = st.integers(0, 7)
"""Which one, of those that there are."""
LOST = st.sampled_from(["", "", "", "request", "reply"])
SHARDS = st.lists(st.integers(1, 24), min_size=1, max_size=2)
SCHEDULES = st.builds(
    EvaluationSchedule, epochs=st.integers(0, 1), steps=st.sampled_from([0, 0, 3])
)


class Job(RuleBasedStateMachine):
    """What may happen to a job; at the end nothing bad happens any more, and it has to end well."""

    job: JobModel
    memories: int

    def start(
        self, num_workers: int, num_ps: int, turns: int, is_cluster: bool, **plan: Any
    ) -> None:
        made = dataclasses.replace(make_plan(**plan), checkpoints=True, backups=True)
        self.job = JobModel(made, num_workers, num_ps, is_cluster)
        self.memories = 0
        self.all_goes_well(turns, 2)

    @contextlib.contextmanager
    def answered(self) -> Iterator[None]:
        """Somebody may ask a master that dies: then he is not answered, and that is all."""
        with contextlib.suppress(ReplyLost):
            yield

    def one(self, role: Role, which: int) -> Any:
        there = self.job.all_of(role)
        return there[which % len(there)] if there else None

    # ------------------------------------------------------------- what is to happen

    @rule(turns=st.integers(1, 12), messages=st.integers(0, 3))
    def all_goes_well(self, turns: int, messages: int) -> None:
        for _ in range(turns):
            with self.answered():
                self.job.take_turns(messages)

    @rule(which=SOME, messages=st.integers(1, 12), task=st.integers(0, 2), loses=LOST)
    def a_worker_works(self, which: int, messages: int, task: int, loses: str) -> None:
        worker = self.one(Role.WORKER, which)
        for message in range(messages):
            if worker is not None and worker.spec in self.job.processes:
                with self.answered():
                    self.job.work(worker, task, loses if message == messages - 1 else "")

    @rule(which=SOME)
    def a_partition_goes_on_to_be_ready(self, which: int) -> None:
        server = self.one(Role.PS, which)
        if server is not None:
            with self.answered():
                self.job.join(server)

    @rule(requests=st.integers(1, 4))
    def the_backend_works(self, requests: int) -> None:
        with self.answered():
            self.job.carry_out(requests)

    # ------------------------------------------------------------------- messages

    @rule(which=st.integers(0, 30))
    def a_push_that_was_thought_lost_arrives(self, which: int) -> None:
        late = self.job.old_pushes
        if late:
            self.job.deliver(*late[which % len(late)])

    @rule(which=st.integers(0, 30))
    def a_report_arrives_late_or_again(self, which: int) -> None:
        late = self.job.old_reports
        if late:
            report = late[which % len(late)]
            with self.answered():
                self.job.ask(lambda master: master.report(report))

    @rule(which=SOME, before=st.integers(1, 3))
    def a_request_for_a_lease_arrives_late(self, which: int, before: int) -> None:
        worker = self.one(Role.WORKER, which)
        if worker is not None and worker.request >= before:
            with self.answered():
                self.job.ask(lambda master: master.lease(worker.spec, worker.request - before))

    @rule(which=SOME)
    def a_worker_gives_back_what_it_has(self, which: int) -> None:
        worker = self.one(Role.WORKER, which)
        if worker is not None and worker.is_registered:
            with self.answered():
                self.job.reconnect(worker)

    # -------------------------------------------------------------- time and deaths

    @rule(
        seconds=st.sampled_from([0.1, 1.0, 5.0, 29.0, 31.0]),
        silent=st.sets(SOME, max_size=3),
        drops_leases=st.booleans(),
    )
    def time_passes(self, seconds: float, silent: set[int], drops_leases: bool) -> None:
        with self.answered():
            self.job.pass_time(seconds, silent, drops_leases)

    @rule(which=SOME)
    def a_worker_dies(self, which: int) -> None:
        worker = self.one(Role.WORKER, which)
        if worker is not None:
            self.job.end_process(worker.spec)

    @rule(which=SOME)
    def a_partition_dies(self, which: int) -> None:
        server = self.one(Role.PS, which)
        if server is not None:
            self.job.end_process(server.spec)

    @rule(which=SOME)
    def a_partition_dies_and_the_next_is_ready(self, which: int) -> None:
        self.a_partition_dies(which)
        self.all_goes_well(4, 0)

    @rule()
    def the_master_dies(self) -> None:
        if not self.job.is_over:
            job_invariants.the_journal_is_the_ledger(self.job)
            self.job.restart_master()

    @precondition(lambda self: self.job.is_cluster)
    @rule(gone=st.sets(SOME, max_size=4), kept=st.integers(0, 6))
    def pods_vanish_while_the_master_is_away(self, gone: set[int], kept: int) -> None:
        """What it had written down last may be lost with it, or its requests not asked for."""
        if self.job.is_over:
            return
        for position, spec in enumerate(list(self.job.processes)):
            if position in gone:
                self.job.vanish(spec)
        with self.answered():
            self.job.carry_out(kept)
        self.job.restart_master()

    @precondition(lambda self: self.job.is_cluster)
    @rule(which=SOME, role=st.sampled_from([Role.PS, Role.WORKER]))
    def somebody_runs_out_of_memory(self, which: int, role: Role) -> None:
        process = self.one(role, which)
        if process is not None and self.memories < MOST_RAISES - 1:
            self.memories += 1
            self.job.end(process.spec, End(Cause.OUT_OF_MEMORY, -9))

    @precondition(lambda self: self.job.is_cluster)
    @rule(is_there=st.booleans())
    def there_is_room_or_none(self, is_there: bool) -> None:
        if is_there:
            self.job.room_comes()
        self.job.has_room = is_there

    @rule(how=st.sampled_from(["unwritten", "written"]))
    def the_master_will_die_before_it_answers(self, how: str) -> None:
        self.job.dies = how

    @rule()
    def everything_dies_and_is_resumed(self) -> None:
        self.job.resume()

    # ------------------------------------------------------------ people, checkpoints

    @rule(num_workers=st.integers(1, 4))
    def the_number_of_workers_changes(self, num_workers: int) -> None:
        with self.answered():
            self.job.ask(lambda master: master.scale(num_workers))

    @rule(num_ps=st.integers(1, NUM_GROUPS), calmly=st.booleans())
    def another_number_of_partitions_is_wanted(self, num_ps: int, calmly: bool) -> None:
        with self.answered():
            self.job.ask(lambda master: master.rescale(num_ps))
        if calmly:
            self.a_checkpoint_is_begun()
            self.a_checkpoint_is_committed_when_all_have_written(NUM_GROUPS)

    @rule()
    def a_checkpoint_is_begun(self) -> None:
        with self.answered():
            self.job.begin_checkpoint()

    @precondition(lambda self: self.job.snapshot is not None)
    @rule(which=SOME)
    def a_partition_writes_its_part(self, which: int) -> None:
        with self.answered():
            self.job.write_part(which)

    @precondition(lambda self: self.job.snapshot is not None)
    @rule(parts=st.integers(0, NUM_GROUPS))
    def a_checkpoint_is_committed_when_all_have_written(self, parts: int) -> None:
        with self.answered():
            for _ in range(parts):
                self.job.write_part()
            self.job.commit_checkpoint()

    @precondition(lambda self: self.job.snapshot is not None)
    @rule()
    def a_checkpoint_fails(self) -> None:
        with self.answered():
            self.job.fail_checkpoint()

    # -------------------------------------------------------------------- proof

    @invariant()
    def what_always_holds(self) -> None:
        job_invariants.check(self.job)

    def teardown(self) -> None:
        if hasattr(self, "job"):
            self.job.finish()
            job_invariants.check(self.job)
            job_invariants.check_the_end(self.job)


class AsyncJob(Job):
    @initialize(
        turns=st.integers(0, 16),
        is_cluster=st.booleans(),
        num_workers=st.integers(1, 3),
        num_ps=st.integers(1, NUM_GROUPS),
        shard_sizes=SHARDS,
        num_epochs=st.integers(1, 2),
        minibatch_size=st.integers(1, 3),
        records_per_task=st.integers(2, 12),
        max_steps=st.none() | st.integers(1, 20),
        validation=st.sampled_from([0, 0, 9]),
        evaluation=SCHEDULES,
    )
    def begins(self, **plan: Any) -> None:
        self.start(**plan)


class SyncJob(Job):
    """With lanes, and rolled back where a partition is lost.

    How partitions keep lanes in step is another matter: tests/ps/test_lanes.py.
    """

    @initialize(
        turns=st.integers(0, 16),
        is_cluster=st.booleans(),
        num_workers=st.integers(1, 3),
        num_ps=st.integers(1, NUM_GROUPS),
        shard_sizes=SHARDS,
        num_epochs=st.integers(1, 2),
        minibatch_size=st.integers(1, 3),
        records_per_task=st.integers(2, 12),
        max_steps=st.none(),
        lanes=st.integers(1, 3),
        validation=st.sampled_from([0, 0, 9]),
        evaluation=SCHEDULES,
    )
    def begins(self, **plan: Any) -> None:
        self.start(**plan)


PROFILE = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestAsyncJob = AsyncJob.TestCase
TestAsyncJob.settings = PROFILE
TestSyncJob = SyncJob.TestCase
TestSyncJob.settings = PROFILE


def test_a_sync_job_that_was_rescaled_goes_on_when_a_partition_is_lost_before_a_checkpoint():
    """Found above: the ledger went back to a checkpoint of two partitions, and waited for both."""
    for resumes in (False, True):
        plan = make_plan([24], 2, 2, 6, None, lanes=2)
        job = JobModel(dataclasses.replace(plan, checkpoints=True), num_workers=2, num_ps=2)
        for _ in range(9):
            job.take_turns(2)
        assert job.master.rescale(1) == ""
        job.begin_checkpoint()
        job.write_part()
        job.commit_checkpoint()
        assert job.master.committed is not None
        assert job.master.committed.number == 2, "the one that it was rescaled with"
        for _ in range(4):
            job.take_turns(1)
        (server,) = (one for one in job.all_of(Role.PS) if one.is_ready)
        if resumes:
            job.resume()
        else:
            job.end_process(server.spec)
        job.finish()
        job_invariants.check(job)
        job_invariants.check_the_end(job)


@pytest.mark.parametrize("is_made_again", [False, True])
def test_a_pod_that_vanished_while_the_master_was_away_is_not_made_again(is_made_again):
    """Made again under its incarnation, a partition would be empty, and thought to be full."""
    plan = dataclasses.replace(make_plan([24], 2, 2, 6, None), checkpoints=True, backups=True)
    job = JobModel(plan, num_workers=1, num_ps=2, is_cluster=True)
    for _ in range(9):
        job.take_turns(4)
    (lost, _) = (one.spec for one in job.all_of(Role.PS) if one.histories[0].closed)
    job.vanish(lost)
    if is_made_again:
        job.adopt = lambda specs: [job.launch(spec) for spec in specs]  # type: ignore[assignment]
    job.restart_master()

    def goes_on() -> None:
        job.finish()
        job_invariants.check(job)
        job_invariants.check_the_end(job)

    if is_made_again:
        with pytest.raises(AssertionError):
            goes_on()
    else:
        goes_on()
        spec = dataclasses.replace(lost, incarnation=lost.incarnation + 1)
        assert any(one.spec == spec for one in job.all_of(Role.PS))
