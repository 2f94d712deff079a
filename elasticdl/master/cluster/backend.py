"""What the master asks of whatever runs its instances, and what it is told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Needs

LOG_TAIL_BYTES = 4000


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

    is_error: waiting alone does not help. for_room: no machine has room for it.
    """

    spec: InstanceSpec
    why: str
    is_error: bool
    for_room: bool = False


@dataclass(frozen=True)
class InstanceEnded:
    """It ended, or is not there any more."""

    spec: InstanceSpec
    end: End


BackendEvent = InstanceStarted | InstanceWaits | InstanceEnded


class Backend(Protocol):
    """Runs instances. Thread-safe; launching or stopping the same instance twice is once."""

    def launch(self, spec: InstanceSpec, needs: Needs) -> None:
        """Start an instance; its end, also its failure to start, comes as an event.

        An exception ends the job: what is away for a while is waited for, or tried again.
        """
        ...

    def adopt(self, specs: Sequence[InstanceSpec]) -> None:
        """Take over all that a former master launched, or was about to: once, before `watch`.

        None of them is ever made again: of who is not there, an end is told.
        """
        ...

    def stop(self, spec: InstanceSpec, grace_s: float) -> None:
        """End an instance: politely, then by force after `grace_s` seconds; 0 for at once."""
        ...

    def watch(self, on_event: Callable[[BackendEvent], None]) -> None:
        """Call `on_event` for each event, in order, from a thread of the backend's own."""
        ...

    def log_tail(self, spec: InstanceSpec, most_bytes: int = LOG_TAIL_BYTES) -> str:
        """The last lines that an instance printed, or nothing; this may take seconds."""
        ...

    def clean_up(self) -> None:
        """Remove what the job leaves: its result is written."""
        ...

    def close(self) -> None:
        """Stop watching."""
        ...
