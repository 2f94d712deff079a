"""A whole job in one thread: the real coordinator, the real progress of groups, and processes.

The coordinator is the real one with all its parts: ledger, membership, placement, journal's fold.
Only the journal's file, the clock and the processes are of this model, and so what happens, and in
what order, is up to whoever drives it. Whoever asks a master that dies then is told `ReplyLost`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import operator
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from elasticdl.job_spec import JobSpec
from elasticdl.master import ledger_events as events
from elasticdl.master.cluster.backend import (
    BackendEvent,
    InstanceEnded,
    InstanceStarted,
    InstanceWaits,
)
from elasticdl.master.cluster_state import (
    BEGUN,
    CheckpointMoment,
    Cluster,
    CommittedCheckpoint,
    Restore,
)
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.ledger import Ledger
from elasticdl.master.membership_events import Launch, Registered
from elasticdl.master.recovery import recovered_from
from elasticdl.master.tasks import JobPlan, Task, TaskKind
from elasticdl.ps.progress import CLOSED, GroupProgress, Progress
from tests.master.job_surroundings import JournalInMemory, ModelClock
from tests.master.test_coordinator import Recorder

NUM_GROUPS = 4
KILLED = -9
Answer = TypeVar("Answer")


class ReplyLost(Exception):
    """The master died before it had answered; what it was told it may have written down, or not."""


@dataclass
class History:
    """What one group has applied: how many minibatches of each task, and the tasks it closed."""

    minibatches: dict[int, int] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    records: int = 0

    def copy(self) -> History:
        return History(dict(self.minibatches), set(self.closed), self.records)


@dataclass
class Server:
    """A parameter server's process. It is told what to restore, does so, and is ready then."""

    spec: InstanceSpec
    restore: Restore | None = None
    groups: list[int] = field(default_factory=list)
    progress: Progress | None = None
    histories: list[History] = field(default_factory=list)
    is_initialized: bool = False
    is_ready: bool = False
    closed: tuple[tuple[int, int], ...] | None = None

    @property
    def is_registered(self) -> bool:
        return self.restore is not None


@dataclass
class Work:
    """A held task: the minibatch to push next, and the partitions that have not acknowledged it."""

    task: Task
    grant: int
    sizes: list[int]
    k: int
    waiting: list[int]


@dataclass
class Worker:
    """A worker's process; `cluster` is what it is connected to."""

    spec: InstanceSpec
    is_registered: bool = False
    request: int = 0
    cluster: Cluster | None = None
    held: list[Work] = field(default_factory=list)


Part = dict[int, tuple[GroupProgress, History]]
"""By group."""


@dataclass
class Snapshot:
    """A checkpoint under way: the parts of the partitions that have written theirs."""

    number: int
    moment: CheckpointMoment
    parts: dict[int, Part] = field(default_factory=dict)


class JobModel:
    """One job; every method is something that may happen to it.

    Args:
      plan: what it is to do.
      num_workers: at the start.
      num_ps: partitions at the start.
      is_cluster: the processes are pods. Nobody remembers them for the master: of who vanished
        while it was away it hears nothing, and what is asked for twice may be there twice.
    """

    def __init__(
        self, plan: JobPlan, num_workers: int, num_ps: int, is_cluster: bool = False
    ) -> None:
        self.plan = plan
        self.time = 0.0
        self.spec = JobSpec(
            command="train",
            job_dir="model",
            num_workers=num_workers,
            num_ps=num_ps,
            lease_s=plan.lease_s,
        ).model_copy(
            update={
                "num_bucket_groups": NUM_GROUPS,
                "cluster": "kubernetes" if is_cluster else "local",
            }
        )
        self.session = 1
        self.incarnation = 1
        self.dies = ""
        self.processes: dict[InstanceSpec, Server | Worker] = {}
        self.is_cluster = is_cluster
        # Pods that wait; whether there is room for more.
        self.pending: list[InstanceSpec] = []
        self.has_room = True
        # What the supervisor remembers, and of that what the master was not told.
        self.events: list[BackendEvent] = []
        self.untold: list[BackendEvent] = []
        self.snapshot: Snapshot | None = None
        self.checkpoints: dict[str, Part] = {}
        self.old_pushes: list[tuple[InstanceSpec, Work]] = []
        self.old_reports: list[events.TaskReport] = []
        self.definitions: dict[int, tuple[Any, ...]] = {}
        self.journal = JournalInMemory()
        self.backend = Recorder()
        self.master = Coordinator(
            self.spec,
            plan,
            self.backend,
            self.journal,
            self.incarnation,
            str(self.session),
            clock=functools.partial(ModelClock, lambda: self.time),
        )

    # ------------------------------------------------------------------ the master

    @property
    def ledger(self) -> Ledger:
        return self.master._ledger

    @property
    def is_over(self) -> bool:
        return self.master.outcome is not None

    def ask(self, call: Callable[[Coordinator], Answer]) -> Answer:
        """Ask the master something; it may die of it.

        Raises:
          ReplyLost: it did.
        """
        dies, self.dies = self.dies, ""
        before = self.journal.last_number
        answer = call(self.master)
        if dies:
            self.restart_master(before if dies == "unwritten" else self.journal.last_number)
            raise ReplyLost
        return answer

    def restart_master(self, kept: int | None = None, resumes: bool = False) -> None:
        """Kill the master, and launch another, which finds the first entries of the journal."""
        if self.is_over:
            return
        self.journal = JournalInMemory(self.journal.written[:kept])
        self.session += resumes
        self.incarnation += 1
        recovered = recovered_from(self.journal.written, "model")
        assert recovered is not None
        self.snapshot = None
        self.master = Coordinator(
            self.spec,
            recovered.plan,
            self.backend,
            self.journal,
            self.incarnation,
            str(self.session),
            recovered,
            functools.partial(ModelClock, lambda: self.time),
        )
        committed = self.master.committed
        kept_path = "" if committed is None else committed.path
        self.checkpoints = {
            path: part for path, part in self.checkpoints.items() if path <= kept_path
        }
        # Who watches the processes tells of all again; of pods, there are those that are there.
        self.untold = [] if self.is_cluster else list(self.events)
        self.adopt(self.master._adopted)

    def resume(self) -> None:
        """All processes are killed at once, and the job is resumed."""
        self.processes.clear()
        self.events.clear()
        self.pending.clear()
        self.restart_master(resumes=True)

    def pass_time(
        self, seconds: float, silent: Iterable[int] = (), drops_leases: bool = False
    ) -> None:
        """Let time pass; then all but some processes give a sign of life.

        Args:
          silent: positions of those that do not.
          drops_leases: workers do not say which leases they hold.
        """
        self.time += seconds
        quiet = set(silent)
        for position, (spec, process) in enumerate(list(self.processes.items())):
            if position in quiet or not process.is_registered:
                continue
            held = process.held if isinstance(process, Worker) and not drops_leases else []
            grants = [work.grant for work in held]
            if not self.ask(lambda master, s=spec, g=grants: master.heartbeat(s, g, None)):  # type: ignore[misc]
                self.end_process(spec)
        self.ask(lambda master: master.tick())

    # --------------------------------------------------------------- the processes

    def carry_out(self, most: int = 1 << 30) -> None:
        """Let the backend do what it was asked for, and tell of what ended."""
        waiting = self.master._requests._waiting
        while most and not waiting.empty():
            _, request = waiting.get_nowait()
            most -= 1
            if not isinstance(request, Launch):
                self.end_process(request.spec, -15)
            else:
                self.launch(request.spec)
        while most and self.untold:
            most -= 1
            first = self.untold[0]
            self.ask(operator.methodcaller("_on_backend_event", first))
            self.untold.remove(first)

    def tell(self, event: BackendEvent) -> None:
        self.events.append(event)
        self.untold.append(event)

    def launch(self, spec: InstanceSpec) -> None:
        """Start a process, once; ask for a pod, which has no memory of one that was there."""
        if spec in self.processes or spec in self.pending:
            return
        if not self.is_cluster and any(one.spec == spec for one in self.events):
            return
        if self.is_cluster and not self.has_room:
            self.pending.append(spec)
            self.tell(InstanceWaits(spec, "no room", False, for_room=True))
            return
        self.processes[spec] = Server(spec) if spec.role is Role.PS else Worker(spec)
        self.tell(InstanceStarted(spec, 1))

    def adopt(self, specs: Iterable[InstanceSpec]) -> None:
        """Tell how those are that a former master launched, or was about to; make none of them."""
        for spec in specs:
            if not self.is_cluster:
                self.launch(spec)
            elif spec in self.processes:
                self.tell(InstanceStarted(spec, 1))
            elif spec in self.pending:
                self.tell(InstanceWaits(spec, "no room", False, for_room=True))
            else:
                self.tell(InstanceEnded(spec, End(Cause.DELETED)))

    def room_comes(self) -> None:
        """There is room for all who wait."""
        self.has_room = True
        pending, self.pending = self.pending, []
        for spec in pending:
            self.launch(spec)

    def vanish(self, spec: InstanceSpec) -> None:
        """Delete a pod while there is no master; nobody will tell of it."""
        self.processes.pop(spec, None)

    def end_process(self, spec: InstanceSpec, exit_code: int = KILLED) -> None:
        self.end(spec, End.of_exit_code(exit_code))

    def end(self, spec: InstanceSpec, end: End) -> None:
        """End a process or a pod, also one that waits."""
        if spec in self.pending:
            self.pending.remove(spec)
            self.tell(InstanceEnded(spec, End(Cause.DELETED)))
        elif self.processes.pop(spec, None) is not None:
            self.tell(InstanceEnded(spec, end))

    def all_of(self, role: Role) -> list[Any]:
        return [one for spec, one in self.processes.items() if spec.role is role]

    # --------------------------------------------------------------- the partitions

    def join(self, server: Server) -> None:
        """Let a partition that was launched do the next thing on its way to be ready."""
        spec = server.spec
        if server.restore is None:
            hello = Registered(spec, f"host:{spec.index}", 1, ready=False)
            if not self.ask(lambda master: master.register(hello)):
                self.end_process(spec)
                return
            server.restore = self.ask(lambda master: master.restore(spec))
        elif server.progress is None:
            self._load(server, server.restore)
        elif not server.is_ready:
            ready = Registered(spec, f"host:{spec.index}", 1, closed=server.closed)
            if self.ask(lambda master: master.register(ready)):
                server.is_ready = True
            else:
                self.end_process(spec)

    def _load(self, server: Server, restore: Restore) -> None:
        server.groups = [int(one) for one in restore.routing.groups_of(server.spec.index)]
        if not restore.checkpoint:
            server.progress = Progress(len(server.groups))
            server.histories = [History() for _ in server.groups]
            return
        saved = self.checkpoints[restore.checkpoint]
        server.progress = Progress.of_groups([saved[group][0] for group in server.groups])
        server.histories = [saved[group][1].copy() for group in server.groups]
        server.is_initialized = True
        server.closed = tuple(server.progress.closed.intervals)

    def deliver(self, spec: InstanceSpec, work: Work) -> bool:
        """Let a partition have a minibatch, or a closing frame; False where nobody answers."""
        server = self.processes.get(spec)
        if not isinstance(server, Server) or server.progress is None or not server.is_ready:
            return False
        if work.task.kind is TaskKind.INITIALIZE:
            server.is_initialized = True
            return True
        assert server.is_initialized, "nothing is trained before there are initial values"
        progress, task, sizes, k = server.progress, work.task, work.sizes, work.k
        closes = k == len(sizes)
        decision = progress.decide(task.id, k, 0, k, closes)
        assert decision.in_order, decision
        assert not decision.differs, decision
        if closes:
            if decision.apply.any():
                is_limited = task.max_minibatches == k
                progress.close(decision, task.id, task.num_records, sum(sizes), is_limited)
        else:
            progress.drop_repeat(decision)
            if decision.apply.any():
                progress.advance(decision, task.id, task.epoch, sizes[k], 1.0, k + 1)
        for position in decision.apply.nonzero()[0]:
            history = server.histories[position]
            assert task.id not in history.closed, "applied twice"
            assert history.minibatches.get(task.id, 0) == k, "each once, and in order"
            if closes:
                history.closed.add(task.id)
            else:
                history.minibatches[task.id] = k + 1
                history.records += sizes[k]
        return True

    # ------------------------------------------------------------------ the workers

    def work(self, worker: Worker, which: int = 0, loses: str = "") -> None:
        """Let a worker do the next thing it has to.

        Args:
          which: of the tasks that it holds.
          loses: what is lost if this is a message: `request`, `reply`, or nothing.
        """
        spec = worker.spec
        if not worker.is_registered:
            worker.is_registered = self.ask(lambda master: master.register(Registered(spec, "", 1)))
            if not worker.is_registered:
                self.end_process(spec)
        elif worker.cluster is None:
            worker.cluster = self.ask(lambda master: master.cluster())
        elif not worker.held or which >= len(worker.held):
            self.lease(worker, loses)
        else:
            self.push(worker, self.first_of_lane(worker, worker.held[which]), loses)

    def lease(self, worker: Worker, loses: str = "") -> None:
        spec, request = worker.spec, worker.request
        if loses == "request":
            return
        answer = self.ask(lambda master: master.lease(spec, request))
        if answer is None or isinstance(answer, events.NoMoreTasks):
            self.end_process(spec, 0)
        elif loses != "reply":  # Else it asks again, with the same number.
            worker.request += 1
            if isinstance(answer, events.Grant):
                self.begin(worker, copy.copy(answer.task), answer.grant)

    def begin(self, worker: Worker, task: Task, grant: int) -> None:
        assert worker.cluster is not None
        known = (task.kind, task.shard, task.start, task.end, task.epoch, task.max_minibatches)
        if task.kind is TaskKind.TRAINING:
            assert self.definitions.setdefault(task.id, known) == known, "ids are never used twice"
        sizes = self.minibatch_sizes(task) if task.kind is TaskKind.TRAINING else []
        partitions = worker.cluster.partitions
        work = Work(task, grant, sizes, 0, list(range(len(partitions))))
        worker.held.append(work)
        servers = [self.processes.get(one.spec) for one in partitions]
        if not all(isinstance(one, Server) and one.is_ready for one in servers):
            self.reconnect(worker)
        elif task.kind is TaskKind.TRAINING:
            wanted = [one.progress.next(task.id) for one in servers]  # type: ignore[union-attr]
            work.k = 0 if min(wanted) == CLOSED else min(*wanted, len(sizes))

    def minibatch_sizes(self, task: Task) -> list[int]:
        """What the input function makes of a task: it drops some records."""
        chance = random.Random(f"{task.shard}/{task.start}/{task.epoch}")
        kept = task.num_records - chance.choice([0, 0, 0, 1, task.num_records])
        size = self.plan.minibatch_size
        sizes = [size] * (kept // size) + ([kept % size] if kept % size else [])
        return sizes if task.max_minibatches is None else sizes[: task.max_minibatches]

    def first_of_lane(self, worker: Worker, work: Work) -> Work:
        """The task to be done before this one, of those that a worker holds, or this one."""
        if work.task.lane is None:
            return work
        lane, epoch = work.task.lane.lane, work.task.epoch
        same = [
            one
            for one in worker.held
            if one.task.lane is not None and (one.task.lane.lane, one.task.epoch) == (lane, epoch)
        ]
        return min(same, key=lambda one: one.task.lane.position)  # type: ignore[union-attr]

    def is_early(self, work: Work) -> bool:
        """Whether the task before this one in its lane is not done, as partitions know."""
        place = work.task.lane
        return place is not None and any(
            one.lane.lane == place.lane
            and one.epoch == work.task.epoch
            and one.lane.position < place.position
            for one in self.ledger._tasks
            if one.lane is not None
        )

    def reconnect(self, worker: Worker) -> None:
        """A worker whose partition is gone gives all back, and asks for the cluster."""
        grants = [work.grant for work in worker.held]
        worker.held.clear()
        worker.cluster = None
        self.ask(lambda master: master.give_back(worker.spec, grants, False))

    def push(self, worker: Worker, work: Work, loses: str = "") -> None:
        """Send one message to a partition that has not acknowledged it, or report the task."""
        assert worker.cluster is not None
        kind, partitions = work.task.kind, worker.cluster.partitions
        if not work.waiting:
            self.report(worker, work, loses)
        elif kind is TaskKind.TRAINING and self.is_early(work):
            worker.held.remove(work)
            self.ask(lambda master: master.give_back(worker.spec, [work.grant], False))
        elif kind in (TaskKind.TRAINING, TaskKind.INITIALIZE):
            spec = partitions[work.waiting[0]].spec
            sent = copy.copy(work)
            if loses == "request":
                self.old_pushes.append((spec, sent))
            elif not self.deliver(spec, sent):
                self.reconnect(worker)
            elif loses == "reply":
                self.old_pushes.append((spec, sent))
            else:
                work.waiting = work.waiting[1:]
                if not work.waiting and work.k < len(work.sizes):
                    work.k, work.waiting = work.k + 1, list(range(len(partitions)))
        elif all(self.serves(one.spec) for one in partitions):
            if kind is TaskKind.EXPORT:
                self.check_export(worker.cluster)
            work.waiting = []
        else:
            self.reconnect(worker)

    def check_export(self, cluster: Cluster) -> None:
        """What is exported is the last checkpoint, which has everything."""
        incarnations = tuple(one.spec.incarnation for one in cluster.partitions)
        if incarnations != self.ledger._current_incarnations():
            return  # Of partitions that were replaced: nobody will take the result.
        assert self.master.committed is not None
        num_granted = self.ledger.training_granted()[1]
        for saved, _ in self.checkpoints[self.master.committed.path].values():
            assert len(saved.closed) == num_granted
            assert not saved.open

    def serves(self, spec: InstanceSpec) -> bool:
        server = self.processes.get(spec)
        return isinstance(server, Server) and server.is_initialized

    def report(self, worker: Worker, work: Work, loses: str) -> None:
        assert worker.cluster is not None
        done = events.TaskCompleted(
            work.task.id,
            tuple(one.spec.incarnation for one in worker.cluster.partitions),
            len(work.sizes),
            self.result(work.task),
        )
        self.old_reports.append(done)
        if loses == "request":
            return
        self.ask(lambda master: master.report(done))
        if loses != "reply":
            worker.held.remove(work)

    def result(self, task: Task) -> str:
        if task.kind is TaskKind.INITIALIZE:
            return json.dumps({"callbacks": [], "user_callbacks": False})
        if task.kind is TaskKind.EVALUATION:
            return json.dumps({"records": task.num_records})
        if task.kind is TaskKind.SUMMARIZE:
            return json.dumps({"metrics": {"loss": 1.0}, "logs": {"loss": 1.0, "val_loss": 1.0}})
        return json.dumps({"output": "here"}) if task.kind is TaskKind.EXPORT else ""

    # --------------------------------------------------------------- the checkpoints

    def begin_checkpoint(self) -> None:
        if self.snapshot is None:
            begun = [one.body["number"] for one in self.journal.written if one.kind == BEGUN]
            number = max(begun, default=0) + 1
            moment = self.ask(lambda master: master.begin_checkpoint(number))
            if moment is not None:
                self.snapshot = Snapshot(number, moment)

    def write_part(self, which: int = 0) -> None:
        """Let a partition take its part; in sync mode all do, as they are of one step."""
        if self.snapshot is None:
            return
        partitions = self.snapshot.moment.cluster.partitions
        waiting = [i for i in range(len(partitions)) if i not in self.snapshot.parts]
        if not self.plan.lanes and waiting:
            waiting = [waiting[which % len(waiting)]]
        for index in waiting:
            server = self.processes.get(partitions[index].spec)
            if not isinstance(server, Server) or not server.is_initialized:
                self.fail_checkpoint()
                return
            assert server.progress is not None
            self.snapshot.parts[index] = {
                group: (server.progress.group(position), server.histories[position].copy())
                for position, group in enumerate(server.groups)
            }

    def fail_checkpoint(self) -> None:
        snapshot, self.snapshot = self.snapshot, None
        if snapshot is not None:
            number = snapshot.number
            self.ask(lambda master: master.checkpoint_failed(number, "disk full", is_loud=False))

    def commit_checkpoint(self) -> None:
        """Have a checkpoint journaled, if all of its parts are there."""
        snapshot = self.snapshot
        if snapshot is None or len(snapshot.parts) < len(snapshot.moment.cluster.partitions):
            return
        whole = {group: one for part in snapshot.parts.values() for group, one in part.items()}
        assert sorted(whole) == list(range(NUM_GROUPS)), "every group is on one partition"
        closed = functools.reduce(operator.and_, (one.closed for one, _ in whole.values()))
        checkpoint = CommittedCheckpoint(
            number=snapshot.number,
            path=f"{snapshot.number:010}",
            entry=snapshot.moment.entry,
            steps=0,
            closed=tuple(closed.intervals),
            reason="steps",
            num_bytes=0,
            seconds=0.0,
        )
        self.snapshot = None
        self.checkpoints[checkpoint.path] = whole
        version = snapshot.moment.cluster.version
        if not self.ask(lambda master: master.commit_checkpoint(checkpoint, version)):
            del self.checkpoints[checkpoint.path]

    # ------------------------------------------------------------------- the end

    def finish(self) -> None:
        """Nothing bad happens any more, and everybody gets his turn: the job ends."""
        self.room_comes()
        for _ in range(400):
            if self.is_over:
                return
            with contextlib.suppress(ReplyLost):
                self.take_turns()
        raise AssertionError(f"the job did not end: {vars(self.ledger)}")

    def take_turns(self, messages: int = 8) -> None:
        """Let everybody do some of what is to be done; workers send some messages each."""
        self.carry_out()
        self.pass_time(0.5)
        if self.snapshot is not None or self.master.checkpoint_state()[0]:
            self.begin_checkpoint()
            for _ in range(NUM_GROUPS):
                self.write_part()
            self.commit_checkpoint()
        for server in self.all_of(Role.PS):
            if not server.is_ready and server.spec in self.processes:
                self.join(server)
        for worker in self.all_of(Role.WORKER):
            for _ in range(messages):
                if worker.spec in self.processes and not self.is_over:
                    self.work(worker)
