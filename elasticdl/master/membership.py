"""Membership: which instances should run, which do, and what to do about the difference.

Pure, as the ledger is: `actions = membership.handle(event, now)`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

HEARTBEAT_S = 1.0
# Signals by which the instance's own code crashed; any other signal is somebody else's doing.
CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
)


class Role(StrEnum):
    """What an instance is for."""

    MASTER = "master"
    PS = "ps"
    WORKER = "worker"


class State(StrEnum):
    """The life of an instance.

    LAUNCHING until it registers; RUNNING while it is heard from; STOPPING after it was told to
    leave; GONE at the end. A replacement keeps role and index and has the next incarnation.
    """

    LAUNCHING = "launching"
    RUNNING = "running"
    STOPPING = "stopping"
    GONE = "gone"


@dataclass(frozen=True)
class InstanceSpec:
    """What an instance should be."""

    role: Role
    index: int
    incarnation: int

    def __str__(self) -> str:
        name = "parameter server" if self.role is Role.PS else self.role.value
        return f"{name} {self.index}"


@dataclass
class Instance:
    """What an instance is now. `heard` is when it last gave a sign of life, in seconds."""

    spec: InstanceSpec
    state: State = State.LAUNCHING
    pid: int = 0
    address: str = ""
    heard: float = 0.0
    registered: bool = False
    reason: str = ""
    log_path: str = ""


# ---------------------------------------------------------------------- events


@dataclass(frozen=True)
class Event:
    """Something that happened to instances."""


@dataclass(frozen=True)
class Registered(Event):
    """The instance itself says that it is up."""

    spec: InstanceSpec
    address: str = ""
    pid: int = 0


@dataclass(frozen=True)
class Heard(Event):
    """A sign of life."""

    spec: InstanceSpec


@dataclass(frozen=True)
class Exited(Event):
    """The backend saw it end. Negative exit codes are signals."""

    spec: InstanceSpec
    exit_code: int
    log_path: str = ""


@dataclass(frozen=True)
class Leaving(Event):
    """It says goodbye: its end is no crash."""

    spec: InstanceSpec


@dataclass(frozen=True)
class Scaled(Event):
    """Somebody wants another number of workers."""

    num_workers: int


@dataclass(frozen=True)
class Progressed(Event):
    """A task was done: whatever crashed before is not a crash loop."""


@dataclass(frozen=True)
class JobOver(Event):
    """Nobody is replaced any more."""


@dataclass(frozen=True)
class Tick(Event):
    """Time passes: instances that were not heard from are given up."""


# --------------------------------------------------------------------- actions


@dataclass(frozen=True)
class Action:
    """Something to be carried out by others."""


@dataclass(frozen=True)
class Launch(Action):
    """Start this instance."""

    spec: InstanceSpec


@dataclass(frozen=True)
class Stop(Action):
    """End an instance: with SIGTERM and `grace_s` seconds, or at once where that is 0."""

    spec: InstanceSpec
    grace_s: float


@dataclass(frozen=True)
class WorkerGone(Action):
    """Its leases are to be granted to others."""

    spec: InstanceSpec
    reason: str


@dataclass(frozen=True)
class PartitionUp(Action):
    """A parameter server serves at this address."""

    spec: InstanceSpec
    address: str


@dataclass(frozen=True)
class GiveUp(Action):
    """The job cannot go on."""

    message: str
    log_path: str = ""


def describe_exit(exit_code: int) -> str:
    """Return how a process ended, in words."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return f"killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"killed by signal {-exit_code}"


@dataclass
class _Slot:
    """The present incarnation of a role and index, and when its replacement is due."""

    instance: Instance
    relaunch_at: float | None = None


class Membership:
    """The instances of a job, the master itself left out.

    Args:
      num_workers: workers wanted.
      num_ps: partitions, fixed for the job's life.
      silence_s: an instance not heard from for so long is killed and replaced.
      start_s: how long an instance may take to register.
      most_crashes: crashes of workers in a row, with no task done between, that fail the job.
    """

    def __init__(
        self,
        num_workers: int,
        num_ps: int,
        silence_s: float = 30.0,
        start_s: float = 180.0,
        most_crashes: int = 5,
    ) -> None:
        self.num_workers = num_workers
        self.num_ps = num_ps
        self.relaunches = 0
        self._silence_s = silence_s
        self._start_s = start_s
        self._most_crashes = most_crashes
        self._crashes = 0
        self._over = False
        self._slots: dict[tuple[Role, int], _Slot] = {}
        self._handlers: dict[type[Event], Callable[[Any, float], list[Action]]] = {
            Registered: self._registered,
            Heard: self._heard,
            Exited: self._exited,
            Leaving: self._leaving,
            Scaled: self._scaled,
            Progressed: self._progressed,
            JobOver: self._job_over,
            Tick: self._tick,
        }

    def start(self, now: float) -> list[Action]:
        """Launch everything for the first time."""
        actions = [self._launch(Role.PS, index, 1, now) for index in range(self.num_ps)]
        return actions + self._fill_workers(now)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Change the membership as `event` says and return what is to be done."""
        return self._handlers[type(event)](event, now)

    # ------------------------------------------------------------ what it knows

    def is_current(self, spec: InstanceSpec) -> bool:
        """Whether this incarnation is the present one, and not gone."""
        slot = self._slots.get((spec.role, spec.index))
        return slot is not None and slot.instance.spec == spec and slot.instance.state != State.GONE

    def is_registered(self, spec: InstanceSpec) -> bool:
        """Whether this instance has said that it is up."""
        return self.is_current(spec) and self._slots[spec.role, spec.index].instance.registered

    def is_leaving(self, spec: InstanceSpec) -> bool:
        """Whether this instance was told to leave, or says that it does."""
        return (
            self.is_current(spec)
            and self._slots[spec.role, spec.index].instance.state is State.STOPPING
        )

    def instances(self) -> list[Instance]:
        """The present instance of every role and index."""
        return [slot.instance for _, slot in sorted(self._slots.items())]

    def partitions(self) -> list[Instance] | None:
        """The running parameter servers by index, or None until all are running."""
        servers = [instance for instance in self.instances() if instance.spec.role is Role.PS]
        if len(servers) < self.num_ps or any(s.state is not State.RUNNING for s in servers):
            return None
        return servers

    # ------------------------------------------------------------------ events

    def _launch(self, role: Role, index: int, incarnation: int, now: float) -> Action:
        spec = InstanceSpec(role, index, incarnation)
        self._slots[role, index] = _Slot(Instance(spec, heard=now))
        return Launch(spec)

    def _fill_workers(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for index in range(self.num_workers):
            slot = self._slots.get((Role.WORKER, index))
            if slot is None:
                actions.append(self._launch(Role.WORKER, index, 1, now))
            elif slot.instance.state is State.GONE and slot.relaunch_at is None:
                slot.relaunch_at = now
        return actions

    def _registered(self, event: Registered, now: float) -> list[Action]:
        if not self.is_current(event.spec):
            return []
        instance = self._slots[event.spec.role, event.spec.index].instance
        instance.heard = now
        instance.address, instance.pid = event.address, event.pid
        if instance.registered:
            return []
        instance.registered = True
        if instance.state is State.LAUNCHING:
            instance.state = State.RUNNING
        return [PartitionUp(event.spec, event.address)] if event.spec.role is Role.PS else []

    def _heard(self, event: Heard, now: float) -> list[Action]:
        if self.is_current(event.spec):
            self._slots[event.spec.role, event.spec.index].instance.heard = now
        return []

    def _leaving(self, event: Leaving, now: float) -> list[Action]:
        if self.is_current(event.spec):
            self._slots[event.spec.role, event.spec.index].instance.state = State.STOPPING
        return []

    def _exited(self, event: Exited, now: float) -> list[Action]:
        if not self.is_current(event.spec):
            return []
        slot = self._slots[event.spec.role, event.spec.index]
        instance = slot.instance
        was_stopping = instance.state is State.STOPPING
        instance.state, instance.reason = State.GONE, describe_exit(event.exit_code)
        instance.log_path = event.log_path
        if self._over:
            return []
        if event.spec.role is Role.PS:
            return [
                GiveUp(
                    f"{event.spec} was lost ({instance.reason}) and what it had learned with it",
                    event.log_path,
                )
            ]
        actions: list[Action] = [WorkerGone(event.spec, instance.reason)]
        wanted = event.spec.index < self.num_workers
        if not wanted:
            return actions
        if not was_stopping and (event.exit_code >= 0 or -event.exit_code in CRASHES):
            self._crashes += 1
            if self._crashes >= self._most_crashes:
                return [
                    *actions,
                    GiveUp(
                        f"workers crashed {self._crashes} times in a row with no task done "
                        f"between; {event.spec} last: {instance.reason}",
                        event.log_path,
                    ),
                ]
            # A crash is retried ever more slowly; a preempted worker is replaced at once.
            slot.relaunch_at = now + 0.5 * 2 ** (self._crashes - 1)
            return actions
        slot.relaunch_at = now
        return actions + self._relaunch_due(now)

    def _relaunch_due(self, now: float) -> list[Action]:
        actions: list[Action] = []
        for (role, index), slot in list(self._slots.items()):
            if slot.relaunch_at is not None and slot.relaunch_at <= now and not self._over:
                slot.relaunch_at = None
                if role is Role.WORKER and index >= self.num_workers:
                    continue
                self.relaunches += 1
                actions.append(self._launch(role, index, slot.instance.spec.incarnation + 1, now))
        return actions

    def _scaled(self, event: Scaled, now: float) -> list[Action]:
        if self._over:
            return []
        self.num_workers = event.num_workers
        actions = self._fill_workers(now) + self._relaunch_due(now)
        for instance in self.instances():
            spec = instance.spec
            leaves = spec.role is Role.WORKER and spec.index >= event.num_workers
            if leaves and instance.state in (State.LAUNCHING, State.RUNNING):
                instance.state = State.STOPPING
                actions.append(Stop(spec, grace_s=15.0))
        return actions

    def _progressed(self, event: Progressed, now: float) -> list[Action]:
        self._crashes = 0
        return []

    def _job_over(self, event: JobOver, now: float) -> list[Action]:
        self._over = True
        return []

    def _tick(self, event: Tick, now: float) -> list[Action]:
        if self._over:
            return []
        actions: list[Action] = []
        for instance in self.instances():
            if instance.state is State.GONE:
                continue
            patience_s = self._silence_s if instance.registered else self._start_s
            if now - instance.heard <= patience_s:
                continue
            instance.reason = f"not heard from for {now - instance.heard:.0f} s"
            if instance.spec.role is Role.PS:
                actions.append(GiveUp(f"{instance.spec}: {instance.reason}", instance.log_path))
                continue
            instance.state = State.GONE
            actions.append(Stop(instance.spec, grace_s=0))
            actions.append(WorkerGone(instance.spec, instance.reason))
            if instance.spec.index < self.num_workers:
                self._slots[Role.WORKER, instance.spec.index].relaunch_at = now
        return actions + self._relaunch_due(now)
