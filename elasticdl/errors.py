"""The errors people see, and the exit code each one ends a command with."""

from __future__ import annotations


class ElasticDLError(Exception):
    """Base of every error this package raises on purpose: one clear line for the user."""

    exit_code = 1


class UsageError(ElasticDLError):
    """What the user asked for cannot be done; known before anything was launched."""

    exit_code = 2


class DataError(UsageError):
    """A data file is missing, truncated, corrupted or hostile; names file, offset and chunk."""


class JobError(ElasticDLError):
    """A job that was launched could not be finished."""


class StillRunning(JobError):
    """A job that was waited for had not ended in time; it goes on."""

    exit_code = 124


class UserCodeError(JobError):
    """The user's model code raised; carries the traceback of that code.

    Args:
      message: one line: which function, on what input, raised what.
      traceback_text: the formatted traceback, frames of this package left out.
    """

    def __init__(self, message: str, traceback_text: str = "") -> None:
        super().__init__(message)
        self.traceback_text = traceback_text


class Detached(KeyboardInterrupt):
    """Ctrl-C was pressed, and the job goes on: says how it is followed and ended."""
