"""One line of an instance's log, as it is written and as people read it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

ERRORS = ("ERROR", "CRITICAL")
OUTPUT = "OUTPUT"
"""The level of what was printed, not logged."""

_BEGIN = '{"time": "'
_LONGEST_FIELD = 1000
_RAW_ERROR = re.compile(
    r"^(Traceback \(most recent call last\):|Fatal Python error: |terminate called )"
    r"|^F\d{4} \d\d:\d\d|: F [\w/.]+:\d+\]|\bCheck failed: "
)


@dataclass(frozen=True)
class LogLine:
    """What an instance said at a moment.

    Attributes:
      time: of it, ISO 8601, with its zone; empty for what was printed before anything was logged.
        What was printed has the time of the last line before.
      role: `master`, `ps`, `worker` or `supervisor`.
      index: which of the role.
      incarnation: which life of it.
      level: `DEBUG` to `CRITICAL`, or `OUTPUT`: printed, by the model's code or a library.
      event: what happened.
      logger: who says so: a module.
      fields: numbers and names of the event.
      traceback: of an exception.
    """

    time: str
    role: str
    index: int
    incarnation: int
    level: str
    event: str
    logger: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    traceback: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; of what is empty, only what every line has."""
        own: dict[str, Any] = {
            "time": self.time,
            "role": self.role,
            "index": self.index,
            "incarnation": self.incarnation,
            "level": self.level,
            "event": self.event,
        }
        more = {"logger": self.logger, "fields": self.fields, "traceback": self.traceback}
        return own | {name: value for name, value in more.items() if value}

    def to_line(self) -> str:
        """The line of the file."""
        return json.dumps(self.to_json(), ensure_ascii=False, default=str)

    def __str__(self) -> str:
        at = self.time
        if at:
            moment = datetime.fromisoformat(at).astimezone()
            at = moment.isoformat(" ", "milliseconds")
        told = " ".join(f"{name}={_shown(value)}" for name, value in self.fields.items())
        what = f"{self.event}  {told}" if told else self.event
        head = f"{at:<29}  {self.instance:<10}  {self.level:<8}  {what}"
        return f"{head}\n{self.traceback.rstrip()}" if self.traceback else head

    @property
    def instance(self) -> str:
        """Who says so, in a word: `worker-1.2` is worker 1 in its 2nd incarnation."""
        return instance_name(self.role, self.index, self.incarnation)

    @property
    def is_error(self) -> bool:
        """Whether it tells of an error: logged as one, or printed by who dies of it."""
        if self.level == OUTPUT:
            return _RAW_ERROR.search(self.event) is not None
        return self.level in ERRORS

    @classmethod
    def of_line(cls, text: str) -> LogLine | None:
        """Read a line of a file; None where it was printed by somebody else."""
        if not text.startswith(_BEGIN):
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


def instance_name(role: str, index: int, incarnation: int) -> str:
    """Name an instance: `worker-1.2`; of a master or supervisor there is one at a time."""
    return f"{role}-{index}.{incarnation}" if role in ("ps", "worker") else role


def begins_in(text: str) -> int:
    """Where an event's line begins in a line of a file: after what was printed without an end."""
    return text.find(_BEGIN)


def fields(**values: Any) -> dict[str, Any]:
    """What a log call takes as `extra`: numbers and names of its event."""
    return {"fields": values}


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of an event's fields that are short."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, bool | int | float | None)
        or len(json.dumps(value, default=str)) <= _LONGEST_FIELD
    }


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r"[\s=]", text) else text
