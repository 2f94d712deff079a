"""What the master asks of whatever runs its instances: launch, stop, watch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from elasticdl.master.membership import InstanceSpec


@dataclass(frozen=True)
class InstanceStarted:
    """The instance's process or pod runs; it has not registered yet."""

    spec: InstanceSpec
    pid: int


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
