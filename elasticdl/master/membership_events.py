"""What happens to a job's instances, and what the membership has others do about it."""

from __future__ import annotations

from dataclasses import dataclass, field

from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Needs

# ---------------------------------------------------------------------- events


@dataclass(frozen=True)
class Event:
    """Something that happened to instances."""


@dataclass(frozen=True)
class Registered(Event):
    """The instance itself says that it is there.

    ready: it is up; a parameter server says so once it has restored what it was told to. closed: a
    ready parameter server's tasks that all its groups have closed, as half-open intervals; None
    where it is empty. restored_from: what it has these from.
    """

    spec: InstanceSpec
    address: str = ""
    pid: int = 0
    ready: bool = True
    closed: tuple[tuple[int, int], ...] | None = None
    restored_from: str = ""


@dataclass(frozen=True)
class Heard(Event):
    """A sign of life."""

    spec: InstanceSpec


@dataclass(frozen=True)
class Waiting(Event):
    """The backend says that it cannot start yet, and why: as `InstanceWaits`."""

    spec: InstanceSpec
    why: str
    is_error: bool = False
    for_room: bool = False


@dataclass(frozen=True)
class Started(Event):
    """The backend saw it begin to run: from now on it may take so long to register."""

    spec: InstanceSpec
    where: str = ""


@dataclass(frozen=True)
class Ended(Event):
    """The backend saw it end, or not find it any more."""

    spec: InstanceSpec
    end: End


@dataclass(frozen=True)
class Leaving(Event):
    """It says goodbye: its end is no crash."""

    spec: InstanceSpec


@dataclass(frozen=True)
class Scaled(Event):
    """Somebody wants another number of workers."""

    num_workers: int


@dataclass(frozen=True)
class Placed(Event):
    """All partitions are to begin anew, as so many as this, from one checkpoint."""

    num_ps: int


@dataclass(frozen=True)
class Progressed(Event):
    """A task was done: whatever crashed before is not a crash loop."""


@dataclass(frozen=True)
class AllHeard(Event):
    """Nobody could be heard for a while, and whose fault that was: the master's own."""


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
    """Start this instance, for the first time.

    reason: why. replaces: it is in the place of one that was lost. memory: what it has, where that
    is more than the one before had.
    """

    spec: InstanceSpec
    needs: Needs = field(default_factory=Needs)
    reason: str = field(default="", compare=False)
    replaces: bool = field(default=False, compare=False)
    memory: str = field(default="", compare=False)


@dataclass(frozen=True)
class Adopt(Action):
    """Take over these, which a former master launched, or was about to."""

    specs: tuple[InstanceSpec, ...]


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
    """A parameter server serves at this address; `closed` and `restored_from` as it registered."""

    spec: InstanceSpec
    address: str
    closed: tuple[tuple[int, int], ...] | None = None
    restored_from: str = ""


@dataclass(frozen=True)
class PartitionLost(Action):
    """What a parameter server held is gone; a next incarnation restores it."""

    spec: InstanceSpec
    reason: str


@dataclass(frozen=True)
class RollBack(Action):
    """All partitions begin again from the last checkpoint, and the ledger goes back to it."""


@dataclass(frozen=True)
class GiveUp(Action):
    """The job cannot go on; `log_tail` as in `End`."""

    message: str
    log_tail: str = ""
