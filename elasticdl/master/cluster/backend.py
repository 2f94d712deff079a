"""What the master asks of whatever runs its instances: launch, stop, watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec


@dataclass(frozen=True)
class Needs:
    """What an instance needs beside what its role's options say.

    memory_factor: of those with less memory than this one ran out.
    """

    memory_factor: float = 1.0


@dataclass(frozen=True)
class InstanceStarted:
    """The instance's process or pod runs; it has not registered yet.

    where: the node that a pod runs on.
    """

    spec: InstanceSpec
    pid: int
    where: str = ""


@dataclass(frozen=True)
class InstanceWaits:
    """It is asked for and cannot start yet: for want of room, or of what somebody has to mend.

    is_error: waiting alone does not help.
    """

    spec: InstanceSpec
    why: str
    is_error: bool


@dataclass(frozen=True)
class InstanceEnded:
    """It ended, as a cluster tells it."""

    spec: InstanceSpec
    end: End


@dataclass(frozen=True)
class InstanceExited:
    """It ended. Negative exit codes are signals."""

    spec: InstanceSpec
    exit_code: int
    log_path: str


BackendEvent = InstanceStarted | InstanceExited


class Backend(Protocol):
    """Runs instances. Thread-safe; launching or stopping the same instance twice is once."""

    def launch(self, spec: InstanceSpec) -> None:
        """Start an instance; its end, also its failure to start, comes as an event."""
        ...

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        """End an instance: politely, then by force after `grace_s` seconds; 0 for at once."""
        ...

    def watch(self, on_event: Callable[[BackendEvent], None]) -> None:
        """Call `on_event` for each event, in order, from a thread of the backend's own."""
        ...

    def close(self) -> None:
        """Stop watching."""
        ...
