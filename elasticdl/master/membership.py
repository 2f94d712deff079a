"""Membership: which instances should run, which do, and what to do about the difference.

Pure, as the ledger is: `actions = membership.handle(event, now)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import Instance, InstanceSpec, Needs, Role, State
from elasticdl.master.membership_events import (
    Action,
    Adopt,
    AllHeard,
    Ended,
    Event,
    GiveUp,
    Heard,
    JobOver,
    Launch,
    Leaving,
    PartitionLost,
    PartitionUp,
    Placed,
    Progressed,
    Registered,
    RollBack,
    Scaled,
    Started,
    Stop,
    Tick,
    Waiting,
    WorkerGone,
)
from elasticdl.master.replacement import Memory, Replacement
from elasticdl.master.wording import there_are_now

HEARTBEAT_S = 1.0
# Of all workers that wait for a partition together; a master hears their signs of life as well.
MOST_POLLS_PER_S = 5000
# So many workers, or a quarter of all, may wait for room at a time.
FEWEST_UNPLACED = 4
# After which a partition that waits for room gets that of a worker, and then of another one: a
# creation that a quota refused is tried again that late.
ROOM_S = 10.0
NEXT_ROOM_S = 30.0
_ROOM = "a parameter server needed its room"


@dataclass(frozen=True)
class _Partitions:
    """The present instances by index, whether all are there and run, and how far they have come."""

    present: list[Instance]
    are_complete: bool
    ages: int


_MOST_AGES = 1 << 40
# How far an incarnation of a partition has come.
_AGES = {State.LAUNCHING: 0, State.WAITING: 0, State.RUNNING: 1, State.STOPPING: 1, State.GONE: 2}


class Membership:
    """The instances of a job, the master itself left out.

    Args:
      num_workers: workers wanted.
      num_ps: partitions.
      silence_s: an instance not heard from for so long is killed and replaced.
      start_s: how long an instance may take to register, from when it began to run.
      most_crashes: crashes of a role in a row, with no task done between, that fail the job.
      restart_together: partitions are at one version: where one is lost, all of them begin again.
      start_deadline_s: how long nobody may work for want of what only somebody can mend.
      waits_for_room: there may be none for a worker; then few are asked for at a time.
      memory: what those get that ran out of it.
      gives_room: whether the worker of an index makes room for a partition that waits for some.
    """

    def __init__(
        self,
        num_workers: int,
        num_ps: int,
        silence_s: float = 30.0,
        start_s: float = 180.0,
        most_crashes: int = 5,
        restart_together: bool = False,
        start_deadline_s: float = 120.0,
        waits_for_room: bool = False,
        memory: Memory | None = None,
        gives_room: Callable[[int], bool] = lambda index: True,
    ) -> None:
        self.num_workers = num_workers
        self.num_ps = num_ps
        self.relaunches = 0
        self._silence_s = silence_s
        self._start_s = start_s
        self._restart_together = restart_together
        self._start_deadline_s = start_deadline_s
        self._waits_for_room = waits_for_room
        self._gives_room = gives_room
        # When a worker last had room that a partition was given.
        self._gave_room_at = float("-inf")
        # When the last task was done.
        self._progressed_at = 0.0
        self._num_placements = 0
        # Whether all partitions have been up since they were launched together.
        self._were_complete = False
        self._over = False
        # The present incarnation of each role and index.
        self._present: dict[tuple[Role, int], Instance] = {}
        self._replacement = Replacement(most_crashes, memory or Memory())
        # What was ended by the job, and is still to be seen to end: what for.
        self._stopped: dict[InstanceSpec, str] = {}
        # The present partitions, whether all of them run, and their ages; None: to be looked up.
        self._partitions: _Partitions | None = None
        self._handlers: dict[type[Event], Callable[[Any, float], list[Action]]] = {
            Registered: self._registered,
            Heard: self._heard,
            Waiting: self._waiting,
            Started: self._started,
            Ended: self._ended,
            Leaving: self._leaving,
            Scaled: self._scaled,
            Placed: self._placed,
            Progressed: self._progressed,
            AllHeard: self._all_heard,
            JobOver: self._job_over,
            Tick: self._tick,
        }

    def start(self, now: float) -> list[Action]:
        """Launch everything for the first time."""
        why = "the job begins"
        servers = [InstanceSpec(Role.PS, index, 1) for index in range(self.num_ps)]
        return [self._launch(spec, now, why) for spec in servers] + self._fill_workers(now, why)

    # ------------------------------------------------- what another master has done

    def was_launched(self, spec: InstanceSpec, now: float, needs: Needs | None = None) -> None:
        """A master before this one launched an instance, or was about to."""
        if needs is not None:
            self._replacement.has_needed(spec.role, needs)
        self._launch(spec, now, "")
        self.relaunches += spec.incarnation > 1

    def was_lost(self, spec: InstanceSpec, reason: str) -> None:
        """A master before this one saw an instance end, or gave it up."""
        if self.is_current(spec):
            self._enter(self._present[spec.role, spec.index], State.GONE, reason)
            self._stopped[spec] = reason

    def were_placed(self, num_ps: int) -> list[InstanceSpec]:
        """The partitions are so many from now on, and none of them is up; return who was."""
        running = [one for one in self._servers() if one.state is not State.GONE]
        for instance in running:
            self._end(instance, State.GONE, there_are_now(num_ps, "parameter server"))
        self._replacement.forget(Role.PS)
        self.num_ps = num_ps
        self._num_placements += 1
        self._partitions = None
        self._were_complete = False
        return [one.spec for one in running]

    def all_were_lost(self, reason: str) -> None:
        """Every instance of before is gone."""
        self._were_complete = False
        for instance in self._present.values():
            if instance.state is not State.GONE:
                self._enter(instance, State.GONE, reason)
                instance.stopped = reason

    def go_on(self, now: float) -> list[Action]:
        """Take over from another master.

        What that one launched, or was about to, is adopted: to be made again under its incarnation
        it might be empty, or be there twice.
        """
        there = [one.spec for one in self.instances() if one.state is not State.GONE]
        actions: list[Action] = [Adopt(tuple(there))] if there else []
        for (role, index), instance in sorted(self._present.items()):
            instance.heard = now
            if role is Role.WORKER and index >= self.num_workers:
                if instance.state is not State.GONE:
                    self._end(instance, State.STOPPING, self._workers_now())
                    actions.append(Stop(instance.spec, grace_s=15.0))
            elif role is Role.PS and index >= self.num_ps:
                continue
            elif instance.state is State.GONE:
                self._replacement.at(instance, now)
        for index in range(self.num_ps):
            if (Role.PS, index) not in self._present:
                actions.append(self._launch_next(index, now))
        return actions + self._fill_workers(now, self._workers_now()) + self._relaunch_due(now)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Change the membership as `event` says and return what is to be done."""
        return self._handlers[type(event)](event, now)

    # ------------------------------------------------------------ what it knows

    def is_current(self, spec: InstanceSpec) -> bool:
        """Whether this incarnation is the present one, and not gone."""
        instance = self._present.get((spec.role, spec.index))
        return instance is not None and instance.spec == spec and instance.state != State.GONE

    def is_news(self, event: Registered) -> bool:
        """Whether a current instance has not said this before."""
        if not self.is_current(event.spec):
            return False
        instance = self._present[event.spec.role, event.spec.index]
        is_up = event.ready and instance.is_starting
        return is_up or not instance.registered

    def is_leaving(self, spec: InstanceSpec) -> bool:
        """Whether this instance was told to leave, or says that it does."""
        return (
            self.is_current(spec) and self._present[spec.role, spec.index].state is State.STOPPING
        )

    def can_wait(self, spec: InstanceSpec) -> bool:
        """Whether this instance is asked for, and has not begun to run as far as is known."""
        if not self.is_current(spec):
            return False
        instance = self._present[spec.role, spec.index]
        return instance.is_starting and not (instance.started or instance.registered)

    def why_stopped(self, spec: InstanceSpec) -> str:
        """What an instance, whose end was not seen so far, was ended for; empty where by itself."""
        return self._stopped.get(spec, "")

    def instances(self) -> list[Instance]:
        """The present instance of every role and index."""
        return [instance for _, instance in sorted(self._present.items())]

    def _servers(self) -> list[Instance]:
        """The present instances of the partitions, by index."""
        return self._look_up().present

    def _look_up(self) -> _Partitions:
        """What there is to know of the partitions: asked for with every sign of life."""
        if self._partitions is None:
            places = (self._present.get((Role.PS, index)) for index in range(self.num_ps))
            present = [instance for instance in places if instance is not None]
            self._partitions = _Partitions(
                present,
                len(present) == self.num_ps and all(s.state is State.RUNNING for s in present),
                sum(3 * one.spec.incarnation + _AGES[one.state] for one in present),
            )
        return self._partitions

    def partitions(self) -> list[Instance] | None:
        """The running parameter servers by index, or None until all are running."""
        known = self._look_up()
        return known.present if known.are_complete else None

    def next_to(self, partition: InstanceSpec) -> Instance | None:
        """The next parameter server, the first after the last, if it is another and is running."""
        following = self._present.get((Role.PS, (partition.index + 1) % self.num_ps))
        is_there = following is not None and following.state is State.RUNNING
        return following if is_there and self.num_ps > 1 else None

    @property
    def cluster_version(self) -> int:
        """Grows whenever a partition comes, goes or moves; the same for the same partitions."""
        return self._num_placements * _MOST_AGES + self._look_up().ages

    @property
    def retry_after_s(self) -> float:
        """When whoever waits for a partition asks again: the more workers there are, the later."""
        return self.num_workers / MOST_POLLS_PER_S

    # ------------------------------------------------------------------ events

    def _enter(self, instance: Instance, state: State, reason: str = "") -> None:
        """Let an instance go on to another state; `reason` as before where it is empty."""
        instance.state = state
        instance.reason = reason or instance.reason
        if instance.spec.role is Role.PS:
            self._partitions = None

    def _end(self, instance: Instance, state: State, why: str) -> None:
        """Let an instance leave, or be gone, though nothing has happened to it."""
        self._enter(instance, state, f"stopped, as {why}")
        instance.stopped = self._stopped[instance.spec] = why

    def _workers_now(self) -> str:
        return there_are_now(self.num_workers, "worker")

    def _launch(self, spec: InstanceSpec, now: float, why: str, replaces: bool = False) -> Action:
        if spec.role is Role.PS:
            self._partitions = None
        before = self._present.get((spec.role, spec.index))
        needs = self._replacement.needs(spec.role)
        self._present[spec.role, spec.index] = Instance(spec, needs, heard=now, launched=now)
        self._replacement.launched(spec)
        has_more = before is not None and needs.memory_factor > before.needs.memory_factor
        memory = self._replacement.memory_of(spec.role, needs) if has_more else ""
        return Launch(spec, needs, why, replaces, memory)

    def _num_to_ask_for(self) -> int:
        """How many more workers may be asked for now: none that takes a partition's room."""
        if not self._waits_for_room:
            return self.num_workers
        if any(one.waits_for_room for one in self._servers()):
            return 0
        workers = (one for one in self._present.values() if one.spec.role is Role.WORKER)
        unplaced = sum(one.is_starting and not one.is_placed for one in workers)
        return max(0, max(FEWEST_UNPLACED, self.num_workers // 4) - unplaced)

    def _fill_workers(self, now: float, why: str) -> list[Action]:
        actions: list[Action] = []
        most = self._num_to_ask_for()
        for index in range(self.num_workers):
            instance = self._present.get((Role.WORKER, index))
            if instance is None:
                if len(actions) < most:
                    actions.append(self._launch(InstanceSpec(Role.WORKER, index, 1), now, why))
            elif instance.state is State.GONE:
                self._replacement.at(instance, now, unless_due=True)
        return actions

    def _registered(self, event: Registered, now: float) -> list[Action]:
        if not self.is_current(event.spec):
            return []
        instance = self._present[event.spec.role, event.spec.index]
        instance.heard = now
        instance.address, instance.pid = event.address, event.pid
        instance.registered = True
        if not event.ready or not instance.is_starting:
            return []
        self._enter(instance, State.RUNNING)
        instance.reason, instance.was_ready = "", True
        if event.spec.role is not Role.PS:
            return []
        self._were_complete |= self.partitions() is not None
        return [PartitionUp(event.spec, event.address, event.closed, event.restored_from)]

    def _heard(self, event: Heard, now: float) -> list[Action]:
        if self.is_current(event.spec):
            self._present[event.spec.role, event.spec.index].heard = now
        return []

    def _leaving(self, event: Leaving, now: float) -> list[Action]:
        if self.is_current(event.spec):
            self._enter(self._present[event.spec.role, event.spec.index], State.STOPPING)
        return []

    def _all_heard(self, event: AllHeard, now: float) -> list[Action]:
        for instance in self._present.values():
            instance.heard = now
        return []

    def _waiting(self, event: Waiting, now: float) -> list[Action]:
        if self.can_wait(event.spec):
            instance = self._present[event.spec.role, event.spec.index]
            self._enter(instance, State.WAITING, event.why)
            instance.room_since = _since(event.for_room, instance.room_since, now)
            instance.error_since = _since(event.is_error, instance.error_since, now)
        return []

    def _started(self, event: Started, now: float) -> list[Action]:
        if self.is_current(event.spec):
            instance = self._present[event.spec.role, event.spec.index]
            instance.started, instance.where, instance.heard = True, event.where, now
            instance.room_since = instance.error_since = None
            if instance.state is State.WAITING:
                self._enter(instance, State.LAUNCHING)
                instance.reason = ""
        return []

    def _ended(self, event: Ended, now: float) -> list[Action]:
        self._stopped.pop(event.spec, None)
        if not self.is_current(event.spec):
            return []
        instance = self._present[event.spec.role, event.spec.index]
        was_stopping = instance.state is State.STOPPING
        how = "" if instance.stopped else event.end.describe()
        self._enter(instance, State.GONE, how)
        if self._over:
            return []
        end = End(Cause.DELETED) if was_stopping else event.end  # It has not crashed.
        if event.spec.role is Role.PS:
            return self._partition_gone(event.spec, end, now)
        actions: list[Action] = [WorkerGone(event.spec, instance.reason)]
        if event.spec.index >= self.num_workers:
            return actions
        return actions + self._replace(instance, end, now)

    def _replace(self, instance: Instance, end: End, now: float) -> list[Action]:
        """Replace whoever was lost at once, or later; nobody where the job cannot go on so."""
        given_up = self._replacement.lost(instance, end, now)
        if given_up:
            return [GiveUp(given_up, end.log_tail)]
        return self._relaunch_due(now)

    def _partition_gone(self, spec: InstanceSpec, end: End, now: float) -> list[Action]:
        """Launch a partition again; where all are at one version, and have moved, all of them."""
        instance = self._present[Role.PS, spec.index]
        actions: list[Action] = [PartitionLost(spec, instance.reason)]
        if not self._restart_together or not self._were_complete:
            return actions + self._replace(instance, end, now)
        self._were_complete = False
        others = [
            other
            for other in self._servers()
            if other is not instance and other.state is not State.GONE
        ]
        for other in others:
            self._end(other, State.GONE, f"all begin again with {spec}")
            actions.append(Stop(other.spec, grace_s=0))
            actions.append(PartitionLost(other.spec, other.reason))
            self._replacement.at(other, now)
        return [*actions, RollBack(), *self._replace(instance, end, now)]

    def _relaunch_due(self, now: float) -> list[Action]:
        if self._over:
            return []
        actions: list[Action] = []
        most = self._num_to_ask_for()
        for role, index in self._replacement.due(now):
            before = self._present[role, index]
            if role is Role.WORKER:
                if index >= self.num_workers:
                    continue
                if not most:
                    self._replacement.at(before, now)
                    continue
                most -= 1
            self.relaunches += 1
            why = before.stopped or f"in place of one that was lost ({before.reason})"
            spec = InstanceSpec(role, index, before.spec.incarnation + 1)
            actions.append(self._launch(spec, now, why, replaces=not before.stopped))
        return actions

    def _scaled(self, event: Scaled, now: float) -> list[Action]:
        if self._over:
            return []
        self.num_workers = event.num_workers
        actions: list[Action] = []
        for instance in self.instances():
            if instance.spec.role is not Role.WORKER:
                continue
            if instance.spec.index < event.num_workers:
                instance.stopped = instance.stopped and self._workers_now()  # It is wanted again.
            elif instance.is_starting or instance.state is State.RUNNING:
                self._end(instance, State.STOPPING, self._workers_now())
                actions.append(Stop(instance.spec, grace_s=15.0))
        return actions + self._fill_workers(now, self._workers_now()) + self._relaunch_due(now)

    def _placed(self, event: Placed, now: float) -> list[Action]:
        if self._over:
            return []
        stops = [Stop(spec, grace_s=0) for spec in self.were_placed(event.num_ps)]
        return [*stops, *(self._launch_next(index, now) for index in range(event.num_ps))]

    def _launch_next(self, index: int, now: float) -> Action:
        """Launch a partition under an incarnation that its index never had."""
        before = self._present.get((Role.PS, index))
        spec = InstanceSpec(Role.PS, index, 1 if before is None else before.spec.incarnation + 1)
        return self._launch(spec, now, there_are_now(self.num_ps, "parameter server"))

    def _progressed(self, event: Progressed, now: float) -> list[Action]:
        self._replacement.progressed()
        self._progressed_at = now
        return []

    def _job_over(self, event: JobOver, now: float) -> list[Action]:
        self._over = True
        return []

    def _tick(self, event: Tick, now: float) -> list[Action]:
        if self._over:
            return []
        actions = self._given_up_waiting(now) + self._room_made(now)
        for instance in list(self._present.values()):
            # No clock runs for whoever waits until it can start.
            if instance.state is State.GONE or not (instance.started or instance.registered):
                continue
            patience_s = self._silence_s if instance.registered else self._start_s
            if now - instance.heard <= patience_s:
                continue
            self._enter(instance, State.GONE, f"not heard from for {now - instance.heard:.0f} s")
            self._stopped[instance.spec] = f"it was {instance.reason}"
            actions.append(Stop(instance.spec, grace_s=0))
            if instance.spec.role is Role.PS:
                actions += self._partition_gone(instance.spec, End(Cause.NODE_LOST), now)
                continue
            actions.append(WorkerGone(instance.spec, instance.reason))
            if instance.spec.index < self.num_workers:
                self._replacement.at(instance, now)
        actions += self._relaunch_due(now)
        if self._waits_for_room:  # There may be some for those that were not asked for so far.
            actions += self._fill_workers(now, self._workers_now())
        return actions

    def _room_made(self, now: float) -> list[Action]:
        """Stop a worker whose room a partition needs: without that one, nobody works.

        Who waits for room as well would take it; and so would who is asked for meanwhile.
        """
        since = [one.room_since or 0.0 for one in self._servers() if one.waits_for_room]
        if not since or now - min(since) < ROOM_S:
            return []
        if any(one.state is State.STOPPING and one.stopped == _ROOM for one in self.instances()):
            self._gave_room_at = now
        if now - self._gave_room_at < NEXT_ROOM_S:
            return []
        workers = [
            one
            for one in self.instances()
            if one.spec.role is Role.WORKER
            and (one.is_starting or one.state is State.RUNNING)
            and self._gives_room(one.spec.index)
        ]
        placed = [one for one in workers if one.is_placed]
        if not placed:
            return []
        self._gave_room_at = now
        youngest = max(placed, key=lambda one: (one.launched, one.spec.index))
        actions: list[Action] = []
        for one in [*(one for one in workers if one.waits_for_room), youngest]:
            self._end(one, State.STOPPING, _ROOM)
            actions.append(Stop(one.spec, grace_s=15.0 if one is youngest else 0))
        return actions

    def _given_up_waiting(self, now: float) -> list[Action]:
        """End a job in which nobody has worked for long, and somebody waits in vain."""
        can_work = self._look_up().are_complete and any(
            one.spec.role is Role.WORKER and one.state is State.RUNNING
            for one in self._present.values()
        )
        if can_work:
            return []
        for instance in self.instances():
            since = instance.error_since
            if since is None or instance.state is not State.WAITING:
                continue
            waited_s = now - max(since, self._progressed_at)
            if waited_s > self._start_deadline_s:
                message = f"{instance.spec} could not start for {waited_s:.0f} s: {instance.reason}"
                return [GiveUp(message)]
        return []


def _since(does: bool, since: float | None, now: float) -> float | None:
    """Since when somebody does something, None where not, as it was known before."""
    if not does:
        return None
    return now if since is None else since
