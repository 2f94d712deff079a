"""What an instance should be, and what it is now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What an instance is for."""

    MASTER = "master"
    PS = "ps"
    WORKER = "worker"


class State(StrEnum):
    """The life of an instance.

    LAUNCHING until it registers, a parameter server as ready; WAITING in place of that while it is
    asked for and cannot start; RUNNING while it is heard from; STOPPING after it was told to leave;
    GONE at the end. A replacement keeps role and index and has the next incarnation.
    """

    LAUNCHING = "launching"
    WAITING = "waiting"
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


@dataclass(frozen=True)
class Needs:
    """What an instance needs beside what its role's options say.

    memory_factor: of those with less memory than this one ran out.
    """

    memory_factor: float = 1.0


@dataclass
class Instance:
    """What an instance is now.

    heard: when it last gave a sign of life, in seconds. started: its process or pod has begun to
    run. registered: it has said that it is there. was_ready: it has been RUNNING. reason: why it is
    gone, or waits. stopped: what the job has ended it for; empty where it runs, or ended by itself.
    launched: when it was asked for. room_since: since when it waits for room; error_since: for what
    only somebody can mend; None where it does not.
    """

    spec: InstanceSpec
    needs: Needs = Needs()
    state: State = State.LAUNCHING
    pid: int = 0
    address: str = ""
    heard: float = 0.0
    started: bool = False
    registered: bool = False
    was_ready: bool = False
    where: str = ""
    reason: str = ""
    stopped: str = ""
    launched: float = 0.0
    room_since: float | None = None
    error_since: float | None = None

    @property
    def is_starting(self) -> bool:
        """Whether it was asked for and is not ready yet."""
        return self.state in (State.LAUNCHING, State.WAITING)

    @property
    def is_placed(self) -> bool:
        """Whether there is room for it, as far as is known."""
        has_room = self.state is State.WAITING and not self.waits_for_room
        return has_room or self.started or self.registered

    @property
    def waits_for_room(self) -> bool:
        """Whether no machine has room for it."""
        return self.state is State.WAITING and self.room_since is not None
