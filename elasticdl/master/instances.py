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

    LAUNCHING until it registers, a parameter server as ready; RUNNING while it is heard from;
    STOPPING after it was told to leave; GONE at the end. A replacement keeps role and index and has
    the next incarnation.
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
    """What an instance is now.

    heard: when it last gave a sign of life, in seconds. registered: it has said that it is there.
    stopped: what the job has ended it for; empty where it runs, or ended by itself.
    """

    spec: InstanceSpec
    state: State = State.LAUNCHING
    pid: int = 0
    address: str = ""
    heard: float = 0.0
    registered: bool = False
    reason: str = ""
    log_path: str = ""
    stopped: str = ""
