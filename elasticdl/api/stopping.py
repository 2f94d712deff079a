"""Ctrl-C and SIGTERM before a command has anything to clean up: one line, and the end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@contextmanager
def stopping_at_once(name: str) -> Iterator[None]:
    """End the process at Ctrl-C or SIGTERM while modules are imported.

    An exception in the middle of an import would show as a traceback through somebody's module, or
    be lost in an extension's. Outside of the main thread, where no signal arrives, nothing changes.

    Args:
      name: the command, as it is to be shown.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"{name}: stopped\n".encode())
        os._exit(EXIT_CODES[signal.Signals(number)])

    before = {}
    try:
        for number in EXIT_CODES:
            if signal.getsignal(number) is not signal.SIG_IGN:  # As under nohup.
                before[number] = signal.signal(number, end)
    except ValueError:
        pass
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
