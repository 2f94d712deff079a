"""Whether a master is the one master of its job."""

from __future__ import annotations

from typing import Protocol


class Tenure(Protocol):
    """A master's claim to be its job's only one. Thread-safe.

    While it is not sure, another master may act: nothing leaves this one until it is sure again.
    """

    @property
    def incarnation(self) -> int:
        """Which master of the job this is."""
        ...

    def is_sure(self) -> bool:
        """Whether no other master can act now."""
        ...

    def wait_until_sure(self) -> None:
        """Return once it is; a master that was replaced never gets there, and ends."""
        ...

    def release(self) -> None:
        """Let the next master begin at once: this one is never sure again."""
        ...


class LocalTenure:
    """Of a master whose supervisor runs one at a time: it is sure as long as it lives."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation

    def is_sure(self) -> bool:
        return True

    def wait_until_sure(self) -> None:
        pass

    def release(self) -> None:
        pass
