"""Joins the pure parts to the world: requests and events in, actions carried out and written down.

One lock orders everything. Nothing in here decides; the ledger and the membership do.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events, membership_events
from elasticdl.master.backend_events import BackendEvents, launched
from elasticdl.master.backend_requests import BackendRequests
from elasticdl.master.cluster.backend import Backend, BackendEvent
from elasticdl.master.cluster_state import (
    BEGUN,
    COMMITTED,
    FAILED,
    RETRIED,
    CheckpointMoment,
    Cluster,
    CommittedCheckpoint,
    Restore,
)
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_view import Messages, Snapshot
from elasticdl.master.journal import Journal
from elasticdl.master.ledger import GRANTS_PER_MASTER, Ledger
from elasticdl.master.ledger_events import Action
from elasticdl.master.membership import Membership
from elasticdl.master.placement import ASKED, PLACED, Placement, damaged, restored
from elasticdl.master.plan import plan_body
from elasticdl.master.recorded_ledger import (
    MASTER,
    ROLLED_BACK,
    RecordedLedger,
    fold,
    starts_anew,
)
from elasticdl.master.recovery import PLAN, RESUMED, Recovered, body_of
from elasticdl.master.running_clock import RunningClock
from elasticdl.master.story import Note, Outcome, Story, definition
from elasticdl.master.tasks import JobPlan, TaskKind
from elasticdl.master.tenure import LocalTenure, Tenure
from elasticdl.master.transactions import Transactions
from elasticdl.master.wanted import membership_of
from elasticdl.master.wording import count_of

logger = logging.getLogger(__name__)

TICK_S = 0.2
T = TypeVar("T")
_RESCALED_IN = (TaskKind.INITIALIZE, TaskKind.TRAINING)


class Coordinator:
    """A job's ledger, membership and journal, kept in step. Thread-safe.

    Args:
      spec: the job.
      plan: what it is to do.
      backend: runs the instances.
      journal: where its story goes.
      incarnation: which master of the job this is.
      session: the supervisor's; instances belong to the one that launched them.
      recovered: what the masters before left; None for the first.
      clock: makes one that goes on from a reading.
      tenure: while it is not sure, nothing is decided; for a master that is alone, always.

    Attributes:
      when_on_disk: as of `Transactions`; for whom a request, told not to, does not wait.
      checkpoint_wanted: set where nothing goes on before a checkpoint is committed.
    """

    def __init__(
        self,
        spec: JobSpec,
        plan: JobPlan,
        backend: Backend,
        journal: Journal,
        incarnation: int = 1,
        session: str = "",
        recovered: Recovered | None = None,
        clock: Callable[[float], RunningClock] = RunningClock,
        tenure: Tenure | None = None,
    ) -> None:
        self.tenure = tenure or LocalTenure(incarnation)
        self.spec = spec
        self.plan = plan
        self._placement = Placement(
            spec.num_bucket_groups, spec.num_ps, bool(spec.ps_standby), spec.keep_checkpoints
        )
        self._placement.recover(recovered.placement if recovered else [])
        self.checkpoint_wanted = threading.Event()
        self.ended = threading.Event()
        self.outcome: Outcome | None = None
        self._journal = journal
        self._lock = threading.RLock()
        # A terminal asks for what came after the last message it has, also if another master's.
        self._messages = Messages(first_number=incarnation << 20)
        ended, failed = self.ended, self._backend_failed
        self._requests = BackendRequests(backend, journal, self.tenure, ended, failed)
        self._transactions = Transactions(
            self._lock, journal, self._messages, self._requests, self._is_on_disk, self.ended
        )
        self.when_on_disk = self._transactions.when_on_disk
        self._incarnation = incarnation
        self._session = session
        self._recorded = recovered.recorded if recovered else RecordedLedger(plan)
        # Workers that are still to say which of the grants of before they hold.
        self._to_confirm: set[InstanceSpec] = set()
        self._clock = clock(self._recorded.clock)
        self._membership = membership_of(spec, restart_together=plan.lanes > 0)
        self._events = BackendEvents(self._membership, recovered.told if recovered else ())
        self._adopted: tuple[InstanceSpec, ...] = ()
        self._losses: dict[int, float] = {}
        with self._transactions.begin():
            if recovered is None:
                self._begin()
            else:
                self._go_on(recovered)

    @property
    def _ledger(self) -> Ledger:
        return self._recorded.ledger

    @property
    def story(self) -> Story:
        """What was found, counted and decided so far."""
        return self._recorded.story

    # ------------------------------------------------------------------ the run

    def start(self) -> None:
        """Launch everything that does not run, and begin to watch."""
        self._requests.start(self._adopted, self._on_backend_event)
        threading.Thread(target=self._tick_forever, name="tick", daemon=True).start()

    def _begin(self) -> None:
        self._note("job", {"options": self.spec.to_options()})
        self._note(PLAN, plan_body(self.plan))
        self._transactions.note(*self._recorded.first_notes)
        self._note_master(resumed=False)
        self._carry_out_membership(self._membership.start(self._clock.now()))

    def _go_on(self, recovered: Recovered) -> None:
        """Take over from a master that was lost, or resume a job whose supervisor is gone."""
        now = self._clock.now()
        recovered.restore(self._membership, now)
        resumed = recovered.session != self._session
        if recovered.outcome is not None and not resumed:  # All that is left is to tell of it.
            self._is_over(recovered.outcome)
            return
        if resumed and starts_anew(self.plan):
            self._recorded = RecordedLedger(self.plan)
            self._recorded.clock = now
        self._note_master(resumed)
        if resumed:
            self._membership.all_were_lost(RESUMED)
            if self.plan.lanes:
                self._roll_back()
        else:
            stops = [membership_events.Stop(one, 0) for one in recovered.given_up]
            self._transactions.ask_backend(*stops)
        self._to_confirm = {one.spec for one in self._membership.instances()}
        self._carry_out_membership(self._membership.go_on(now))

    def _note_master(self, resumed: bool) -> None:
        body = {"incarnation": self._incarnation, "session": self._session, "resumed": resumed}
        self._note(MASTER, body, text=RESUMED if resumed else "")
        if resumed and starts_anew(self.plan):
            self._transactions.note(*self._recorded.first_notes)
        self._handle(ledger_events.MasterStarted(self._incarnation, resumed))

    def _backend_failed(self, error: Exception) -> None:
        self.end(Outcome("failed", f"the backend failed: {error}"))

    def _tick_forever(self) -> None:
        while not self.ended.wait(TICK_S):
            try:
                self.tick()
            except Exception as error:
                logger.exception("the master cannot go on")
                self.end(Outcome("failed", f"the master cannot go on: {error}"))

    def tick(self) -> None:
        """Let time pass: leases that nobody extended end, and who is silent is given up."""
        if not self.tenure.is_sure():
            with self._lock:
                self._clock.stand_still()
            return
        with self._transactions.begin():
            stood_still, now = self._clock.stands_still, self._clock.tick()
            if stood_still:
                self._membership.handle(membership_events.AllHeard(), now)
            self._handle(ledger_events.Tick())
            self._carry_out_membership(self._membership.handle(membership_events.Tick(), now))

    def stop(self) -> None:
        """Decide nothing any more, though the job is not over."""
        self.ended.set()

    def end(self, outcome: Outcome) -> None:
        """End the job, once: workers are told to leave when they next ask."""
        try:
            with self._transactions.begin():
                if self.outcome is None:
                    self._is_over(outcome)
                    body = {"state": outcome.state, "error": outcome.error}
                    self._note("ended", {**body, "traceback": outcome.traceback})
        except JobError as error:
            logger.error("the end of the job is not in the journal: %s", error)

    def _is_over(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self._transactions.end_job()
        self._membership.handle(membership_events.JobOver(), self._clock.now())
        self._ledger.end()

    # ------------------------------------------------------------- writing it down

    def _is_on_disk(self, number: int, failure: JobError | None) -> None:
        """All up to an entry is on disk; the job is over with its end, or if it cannot be (R5)."""
        end = self._transactions.end_number
        if failure is None and (end is None or number < end):
            return
        with self._lock:
            if self.ended.is_set():
                return
            if failure is not None and (self.outcome is None or self.outcome.state == "succeeded"):
                self._is_over(Outcome("failed", str(failure)))
            self.ended.set()

    def _note(self, kind: str, body: dict[str, Any], text: str = "") -> None:
        self._transactions.note(Note(kind, body, text))

    def _handle(self, event: ledger_events.Event) -> list[Action]:
        """Let the ledger handle an event, note what came of it, and end the job if that is it."""
        actions, notes = self._recorded.handle(event, self._clock.now())
        self._transactions.note(*notes)
        for action in actions:
            if isinstance(action, ledger_events.TaskDone):
                self._membership.handle(membership_events.Progressed(), self._clock.now())
            elif isinstance(action, ledger_events.CheckpointWanted):
                self.checkpoint_wanted.set()
            elif isinstance(action, ledger_events.PhaseEnded):
                if action.kind is TaskKind.TRAINING:
                    self._transactions.note(*self._placement.training_is_over())
            elif isinstance(action, ledger_events.JobDone):
                self.end(self.story.succeeded())
            elif isinstance(action, ledger_events.JobFailed):
                self.end(Outcome("failed", action.message, action.traceback))
        return actions

    def _on_backend_event(self, event: BackendEvent) -> None:
        with self._transactions.begin():
            notes, heard = self._events.take(event)
            self._transactions.note(*notes)
            if heard is not None:
                self._carry_out_membership(self._membership.handle(heard, self._clock.now()))

    # ------------------------------------------------------------- instances' requests

    def register(self, event: membership_events.Registered) -> bool:
        """An instance is there; False if it is not a current incarnation."""
        with self._transactions.begin():
            if not self._membership.is_current(event.spec):
                return False
            if self._membership.is_news(event):
                body = {**body_of(event.spec), "address": event.address, "pid": event.pid}
                body |= {"ready": event.ready, "closed": event.closed}
                self._note("registered", body)
            self._carry_out_membership(self._membership.handle(event, self._clock.now()))
            return True

    @property
    def cluster_version(self) -> int:
        """As in `Cluster`, also while some partition is away."""
        with self._lock:
            return self._membership.cluster_version

    @property
    def retry_after_s(self) -> float:
        """When an instance that waits for a partition asks again."""
        with self._lock:
            return self._membership.retry_after_s

    def restore(self, spec: InstanceSpec) -> Restore | None:
        """What a parameter server that is not ready is to begin with; None: not known yet."""
        with self._transactions.begin():
            keeper = self._membership.next_to(spec) if self.spec.ps_standby else None
            return self._placement.restore(copy.copy(keeper))

    def cluster(self) -> Cluster | None:
        """The parameter servers, or None until all are up."""
        with self._lock:
            partitions = self._membership.partitions()
            if partitions is None:
                return None
            version = self._membership.cluster_version
            servers = tuple(copy.copy(one) for one in partitions)
            return Cluster(servers, self._placement.routing, version)

    def heartbeat(
        self, spec: InstanceSpec, grants: Sequence[int], loss: float | None, waits: bool = True
    ) -> bool:
        """A sign of life, and the leases that are still worked on."""
        with self._transactions.begin(waits):
            if not self._membership.is_current(spec):
                return False
            self._membership.handle(membership_events.Heard(spec), self._clock.now())
            if spec.role is Role.WORKER:
                self._confirm(spec, grants)
                self._handle(ledger_events.LeasesHeld(spec.index, spec.incarnation, tuple(grants)))
                if loss is not None:
                    self._losses[spec.index] = loss
            return True

    def _confirm(self, spec: InstanceSpec, grants: Sequence[int]) -> None:
        """Of what a worker was granted before this master came, free what it says nothing of."""
        if spec in self._to_confirm:
            self._to_confirm.discard(spec)
            held = self._ledger.grants_of(spec.index)
            old = {grant for grant in held if grant < self._incarnation * GRANTS_PER_MASTER}
            if old - set(grants):
                self._handle(ledger_events.GrantsReturned(tuple(sorted(old - set(grants)))))

    def lease(self, spec: InstanceSpec, request: int, waits: bool = True) -> Action | None:
        """Grant, Wait or NoMoreTasks; None if the worker is not a current incarnation."""
        with self._transactions.begin(waits):
            if self.outcome is not None:
                return ledger_events.NoMoreTasks()
            if not self._membership.is_current(spec):
                return None
            if self._membership.is_leaving(spec):
                return ledger_events.NoMoreTasks()
            event = ledger_events.LeaseRequested(spec.index, spec.incarnation, request)
            return self._handle(event)[-1]

    @property
    def pin_over(self) -> int:
        """The newest pin that nobody needs any more; 0 for none."""
        with self._lock:
            return self._ledger.rounds.over

    def report(self, event: ledger_events.TaskReport, waits: bool = True) -> None:
        """A worker says of a task that it is done, that it failed, or that it has to begin anew."""
        with self._transactions.begin(waits):
            if self.outcome is None:
                self._handle(event)

    def give_back(self, spec: InstanceSpec, grants: Sequence[int], goodbye: bool) -> None:
        """A worker returns leases unharmed, and may say that it leaves."""
        with self._transactions.begin():
            if goodbye:
                self._membership.handle(membership_events.Leaving(spec), self._clock.now())
            self._handle(ledger_events.GrantsReturned(tuple(grants)))

    def scale(self, num_workers: int) -> None:
        """Run another number of workers from now on."""
        with self._transactions.begin():
            text = f"scaling to {count_of(num_workers, 'worker')}"
            self._note("scaled", {"num_workers": num_workers}, text=text)
            event = membership_events.Scaled(num_workers)
            self._carry_out_membership(self._membership.handle(event, self._clock.now()))

    def rescale(self, num_ps: int) -> str:
        """Run another number of parameter servers after the next checkpoint; or say why not."""
        with self._transactions.begin():
            refused = self._placement.refuse(num_ps)
            if not self.plan.checkpoints or self._ledger.phase not in _RESCALED_IN:
                refused = "only a job that trains can have another number of parameter servers"
            if not refused:
                text = f"rescaling to {count_of(num_ps, 'parameter server')}"
                self._note(ASKED, {"num_ps": num_ps}, text=text)
                self._placement.ask(num_ps)
                self.checkpoint_wanted.set()
            return refused

    # --------------------------------------------------------------- checkpoints

    @property
    def clock(self) -> float:
        """Seconds of the job's running time."""
        with self._lock:
            return self._clock.now()

    def checkpoint_state(self) -> tuple[str, int]:
        """Why nothing goes on without a checkpoint, empty where all does; steps of training."""
        with self._lock:
            if self.outcome is not None or self._ledger.phase is not TaskKind.TRAINING:
                return self._ledger.checkpoint_wanted, 0
            rescales = "rescale" if self._placement.wanted is not None else ""
            return self._ledger.checkpoint_wanted or rescales, self._ledger.steps_done

    def begin_checkpoint(self, number: int) -> CheckpointMoment | None:
        """What a checkpoint is to be begun with; None where no partition can be asked now.

        Its number is never used again, by any master.
        """
        with self._transactions.begin():
            cluster = self.cluster()
            if cluster is None or self.outcome is not None:
                return None
            self._note(BEGUN, {"number": number})
            tasks = [definition(task) for task in self._ledger.undone_definitions]
            return CheckpointMoment(cluster, self._journal.last_number, tasks)

    def commit_checkpoint(self, checkpoint: CommittedCheckpoint, cluster_version: int) -> bool:
        """Write down that a checkpoint is there, durably; its files are.

        Returns:
          False where a partition was lost since the version of the cluster that it is of: what that
          partition begins with is not this checkpoint, and nobody may rely on it.
        """
        with self._transactions.begin():
            if self.outcome is not None or self._membership.cluster_version != cluster_version:
                return False
            is_told = checkpoint.reason in ("steps", "secs")
            self._note(
                COMMITTED,
                dataclasses.asdict(checkpoint),
                text=str(checkpoint) if is_told else "",
            )
            self._placement.commit(checkpoint)
            self._handle(ledger_events.CheckpointCommitted(checkpoint.number, checkpoint.closed))
            if self._placement.wanted is not None and self._ledger.phase is TaskKind.TRAINING:
                self._place(self._placement.wanted)
            return True

    @property
    def committed(self) -> CommittedCheckpoint | None:
        """The last checkpoint, None where there is none."""
        return self._placement.committed

    @property
    def placement(self) -> Placement:
        """What partitions begin with; only who takes checkpoints may trust one."""
        return self._placement

    def older_checkpoints(self) -> list[CommittedCheckpoint]:
        """Those that nothing is lost by going back to, newest first."""
        with self._lock:
            is_known = self._ledger.can_go_back_to
            older = self._placement.older()
            return [one for one in older if self.plan.lanes or is_known(one.number)]

    def doubt_checkpoint(self, number: int, why: str) -> None:
        """A parameter server cannot restore what it was told to: it is looked into."""
        with self._transactions.begin():
            if self.outcome is None and self._placement.doubt(number):
                logger.warning("checkpoint %d cannot be restored: %s", number, why)
                self.checkpoint_wanted.set()

    def fall_back(self, older: CommittedCheckpoint, why: str) -> None:
        """Have an older checkpoint take the place of the last one, which is damaged."""
        with self._transactions.begin():
            last = self.committed
            if self.outcome is not None or last is None:
                return
            self._transactions.note(damaged(last.number, why, older.number))
            self._placement.fall_back(older.number)
            if self.plan.lanes:  # All partitions have to be at one step.
                self._place(self._placement.wanted or self._placement.routing.num_partitions)
            else:
                self._handle(ledger_events.FellBack(older.number, older.closed))

    def _place(self, num_ps: int) -> None:
        """Stop all partitions, and launch so many from the last checkpoint."""
        assert self.committed is not None
        of_copies = self._placement.place(num_ps, self._clock.now())
        version = self._placement.routing.version
        body = {"num_ps": num_ps, "routing_version": version, "checkpoint": self.committed.number}
        self._note(PLACED, body)
        self._transactions.note(*of_copies)
        if self.plan.lanes:
            self._roll_back()
        else:
            self._handle(ledger_events.PartitionsPlaced(num_ps))
        placed = membership_events.Placed(num_ps)
        self._carry_out_membership(self._membership.handle(placed, self._clock.now()))

    def checkpoint_failed(
        self, number: int, why: str, is_loud: bool = True, is_away: bool = False
    ) -> None:
        """Write down that a checkpoint was given up; training goes on from the one before.

        A job that cannot write its first one ends; not soon where a store is only away.
        """
        with self._transactions.begin():
            if self.outcome is not None:
                return
            waits, away_at = self._ledger.checkpoint_wanted, self.clock if is_away else None
            text, is_final = self._placement.failed(number, why, waits, is_loud, away_at)
            self._note(FAILED if is_loud else RETRIED, {"number": number, "reason": why}, text)
            if is_final:
                self.end(Outcome("failed", f"checkpoint_dir '{self.spec.checkpoint_root}': {text}"))

    # -------------------------------------------------------------- carrying out

    def _carry_out_membership(self, actions: Sequence[membership_events.Action]) -> None:
        """Carry out what membership decided; the backend, which may be slow, is asked later."""
        for action in actions:
            if isinstance(action, membership_events.Launch):
                self._transactions.note(launched(action))
                self._transactions.ask_backend(action)
            elif isinstance(action, membership_events.Adopt):
                self._adopted = action.specs
            elif isinstance(action, membership_events.Stop):
                self._transactions.ask_backend(action)
            elif isinstance(action, membership_events.WorkerGone):
                self._worker_gone(action)
            elif isinstance(action, membership_events.PartitionUp):
                self._partition_up(action)
            elif isinstance(action, membership_events.PartitionLost):
                spec = action.spec
                text = f"{spec} is gone: {action.reason}"
                self._note("gone", {**body_of(spec), "reason": action.reason}, text=text)
                self._handle(ledger_events.PartitionLost(spec.index))
            elif isinstance(action, membership_events.RollBack):
                self._roll_back()
            elif isinstance(action, membership_events.GiveUp):
                self.end(Outcome("failed", action.message + action.log_tail))

    def _partition_up(self, action: membership_events.PartitionUp) -> None:
        spec = action.spec
        event = ledger_events.PartitionStarted(spec.index, spec.incarnation, action.closed)
        followed = self._handle(event)
        if action.restored_from:
            again = sum(isinstance(one, ledger_events.Requeued) for one in followed)
            self._transactions.note(restored(spec, action.restored_from, again))
        if self._membership.partitions() is not None:
            self._transactions.note(*self._placement.all_are_up(self._clock.now()))

    def _roll_back(self) -> None:
        """Sync mode: go back to the last checkpoint, from which all partitions begin again."""
        checkpoint = self.committed
        if checkpoint is None:  # Nothing was trained: initial values are set again.
            return
        ids = self._ledger.ids_used
        text = f"training goes on from {checkpoint}"
        body = {"entry": checkpoint.entry, "checkpoint": checkpoint.number}
        self._note(ROLLED_BACK, body, text=text)
        self._journal.wait_for(checkpoint.entry)
        self._recorded = fold(self.plan, self._journal.entries(), checkpoint.entry)
        self._handle(ledger_events.RolledBack(*ids))
        # There may have been more of them, or fewer, when the checkpoint was begun.
        num_ps = self._placement.routing.num_partitions
        self._handle(ledger_events.PartitionsPlaced(num_ps))
        self._handle(ledger_events.CheckpointCommitted(checkpoint.number, checkpoint.closed))

    def _worker_gone(self, action: membership_events.WorkerGone) -> None:
        spec, reason = action.spec, action.reason
        self._losses.pop(spec.index, None)
        self._note("gone", {**body_of(spec), "reason": reason}, text=f"{spec} is gone: {reason}")
        self._handle(ledger_events.WorkerLost(spec.index, spec.incarnation, reason))

    # ------------------------------------------------------------------ answers

    def messages(self, after: int) -> list[tuple[int, str]]:
        """What happened after message `after`, oldest first, as (number, text)."""
        with self._lock:
            return self._messages.after(after)

    def snapshot(self) -> Snapshot:
        """What the job looks like now."""
        with self._lock:
            state = self.outcome.state if self.outcome else "running"
            losses = list(self._losses.values())
            return Snapshot.of(state, self._ledger, self._membership, losses)

    def training_granted(self) -> tuple[int, int]:
        """Records and tasks of training that were granted, all epochs: what the audit expects."""
        with self._lock:
            return self._ledger.training_granted()

    @property
    def tasks_restarted(self) -> int:
        """Tasks that are trained at least once, as the input function is not deterministic."""
        with self._lock:
            return self._ledger.num_restarted

    @property
    def relaunches(self) -> int:
        """Instances that were replaced so far."""
        return self._membership.relaunches

    def look(self, view: Callable[[Ledger, Membership], T]) -> T:
        """What a view, which changes nothing, finds in the ledger and the membership."""
        with self._lock:
            return view(self._ledger, self._membership)
