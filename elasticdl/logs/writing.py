"""Writes an instance's log, and sets it aside when it has become large.

Everything that a process writes to standard output and error goes to one file: lines of events,
what the model's code prints, what a crashing library says. The kernel has it when a call returns,
so a process that is killed loses nothing. When the file has become large the process renames it
and puts a new one in place of both at once (`dup2`); whatever is written meanwhile, by any thread
or a child of the process, is in one of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from elasticdl.logs.files import KEPT, keep_first_error, piece
from elasticdl.logs.line import LogLine, plain
from elasticdl.masking import masked

LOOK_S = 1.0
_PACKAGE = "elasticdl."
_OUT, _ERROR = 1, 2

logger = logging.getLogger(__name__)


class Handler(logging.Handler):
    """Writes each event as one line, in one call, to standard error.

    Args:
      role, index, incarnation: whose events they are.
    """

    def __init__(self, role: str, index: int, incarnation: int) -> None:
        super().__init__()
        self._who = (role, index, incarnation)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one; a full disk stops nobody."""
        try:
            line = self.line_of(record).to_line()
        except Exception:
            self.handleError(record)
            return
        with contextlib.suppress(OSError):
            os.write(_ERROR, line.encode(errors="replace") + b"\n")

    def line_of(self, record: logging.LogRecord) -> LogLine:
        """What the record is to be written as, without passwords (`masked`)."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")
        trace = ""
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
        return LogLine(
            at,
            *self._who,
            level=record.levelname,
            event=masked(record.getMessage()),
            logger=record.name.removeprefix(_PACKAGE),
            fields=masked(plain(getattr(record, "fields", {}))),
            traceback=masked(trace or getattr(record, "traceback", "")),
        )


def start_log(role: str, index: int, incarnation: int, level: int) -> None:
    """Write this process's events to standard error from now on, and what it dies of.

    Args:
      level: the least important that are written.
    """
    root = logging.getLogger()
    root.addHandler(Handler(role, index, incarnation))
    root.setLevel(level)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def keep_small(path: Path, most_bytes: int) -> None:
    """Set this process's log aside whenever it is large, from now on, in a thread of its own.

    Args:
      path: the log, to which standard output and error go; where they do not, as in a terminal,
        there is nothing to do.
      most_bytes: how large it may become.
    """
    rotation = Rotation(path, most_bytes)
    if rotation.is_ours():
        threading.Thread(target=rotation.watch, name="log", daemon=True).start()


class Rotation:
    """Sets this process's log aside when it is large: `NAME.log.1` is the latest of those.

    Args:
      path: the log.
      most_bytes: how large it may become; what is printed until it is looked at again goes beyond.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self._path = path
        self._most_bytes = most_bytes

    def is_ours(self) -> bool:
        """Whether standard output and error go to the log."""
        try:
            files = [os.fstat(_OUT), os.fstat(_ERROR), os.stat(self._path)]
        except OSError:
            return False
        return len({(one.st_dev, one.st_ino) for one in files}) == 1

    def watch(self) -> None:
        """Look at it once a second, for good."""
        while True:
            time.sleep(LOOK_S)
            try:
                self.look()
            except OSError as error:  # A full disk, or a directory that was removed.
                logger.warning("the log is not set aside: %s", error)
                return

    def look(self) -> None:
        """Set the log aside if it has become large."""
        if os.fstat(_ERROR).st_size < self._most_bytes or not self.is_ours():
            return
        keep_first_error(self._path)
        for number in range(KEPT, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(piece(self._path, number - 1), piece(self._path, number))
        log = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for standard in (_OUT, _ERROR):
            os.dup2(log, standard)
        os.close(log)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logger.critical("this process ends: %r", error, exc_info=(kind, error, trace))


def _uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is None or issubclass(given.exc_type, SystemExit):
        return
    name = given.thread.name if given.thread else "?"
    info = (given.exc_type, given.exc_value, given.exc_traceback)
    logger.error("the thread '%s' ends: %r", name, given.exc_value, exc_info=info)
