"""The logs in a job's directory, read: in order, their end, as they grow, their first error."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from elasticdl.logs.line import OUTPUT, LogLine, begins_in, instance_name
from elasticdl.masking import masked

LOGS = "logs"
KEPT = 4
"""Older pieces of a log beside the one that is written."""

_FIRST_ERROR = ".first_error"
_NAME = re.compile(r"(master|supervisor|spares|(ps|worker)-(\d+)\.(\d+))\.log")
_MAYBE_ERROR = re.compile(
    rb'"level": "(ERROR|CRITICAL)"|Traceback|Fatal Python|terminate called|Check failed|^F\d|: F ',
    re.MULTILINE,
)
_MOST_OF_A_LINE = 1 << 20
_MOST_OF_AN_ERROR = 200
_READ_BYTES = 1 << 16


def log_path(job_dir: str | Path, role: str, index: int, incarnation: int) -> Path:
    """Where an instance's log is; every incarnation of the master writes the same."""
    return Path(job_dir) / LOGS / f"{instance_name(role, index, incarnation)}.log"


def piece(path: Path, number: int) -> Path:
    """A piece of a log: 0 is the one that is written, the oldest has the highest number."""
    return path.with_name(f"{path.name}.{number}") if number else path


@dataclass(frozen=True)
class InstanceLog:
    """The log of one instance, in all its pieces.

    Attributes:
      role, index, incarnation: of the instance; 0 and 0 for the master's, which all its
        incarnations write, and the supervisor's.
      path: of the piece that is written.
    """

    role: str
    index: int
    incarnation: int
    path: Path

    def pieces(self) -> list[Path]:
        """Those that there are, the oldest first."""
        found = [piece(self.path, number) for number in range(KEPT, -1, -1)]
        return [one for one in found if one.exists()]

    def lines(self) -> Iterator[LogLine]:
        """All that is there, in order; of a line without an end, what there is."""
        return self._lines_of(self.pieces())

    def _lines_of(self, pieces: Sequence[Path]) -> Iterator[LogLine]:
        reader = self._reader()
        for path in pieces:
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                while data := file.readline(_MOST_OF_A_LINE):
                    yield from reader.read(data)

    def last_lines(self, most_bytes: int) -> list[LogLine]:
        """Return those of its last bytes."""
        data = b""
        for path in reversed(self.pieces()):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - (most_bytes - len(data))))
                is_cut = file.tell() > 0
                found = file.read(most_bytes - len(data))
                if is_cut:  # A line that began before, unless there is nothing else.
                    found = found.partition(b"\n")[2] or found
                data = found + data
                if is_cut or len(data) >= most_bytes:
                    break
        reader = self._reader()
        return [one for text in data.splitlines(keepends=True) for one in reader.read(text)]

    def first_error(self) -> LogLine | None:
        """Return the first error that the instance told of, in whichever piece; None: no error.

        What Python or a library printed when it died counts; then `traceback` is the rest of it,
        as it is where an error announces with a colon what was printed after it: stacks.
        """
        kept = self.path.with_name(f"{self.path.name}{_FIRST_ERROR}")
        with contextlib.suppress(OSError):
            found = LogLine.of_line(kept.read_text(errors="replace"))
            if found is not None:
                return found
        for path in self.pieces():
            with contextlib.suppress(FileNotFoundError):
                if _MAYBE_ERROR.search(path.read_bytes()) is None:
                    continue
                found = first_error_in(self._lines_of([path]))
                if found is not None:
                    return found
        return None

    def follower(self) -> Follower:
        """Reads it as it grows."""
        return Follower(self)

    def _reader(self) -> LineReader:
        return LineReader(LogLine("", self.role, self.index, self.incarnation, OUTPUT, ""))


class Follower:
    """Reads a log from its beginning, then what was added each time; also when it is set aside.

    Args:
      log: the log, there or not yet.
    """

    def __init__(self, log: InstanceLog) -> None:
        self._log = log
        self._reader = log._reader()
        self._file = -1
        self._unfinished = b""
        self._last: tuple[int, int] | None = None

    def read(self) -> Iterator[LogLine]:
        """Yield whole lines that are new."""
        while True:
            if self._file < 0 and not self._open_next():
                return
            while data := os.read(self._file, _READ_BYTES):
                *whole, self._unfinished = (self._unfinished + data).split(b"\n")
                for text in whole:
                    yield from self._reader.read(text)
            if not self._was_set_aside():
                return
            # What was written between the last read and its being set aside.
            while data := os.read(self._file, _READ_BYTES):
                self._unfinished += data
            for text in self._unfinished.splitlines():
                yield from self._reader.read(text)
            self._unfinished = b""
            self.close()

    def rest(self) -> Iterator[LogLine]:
        """Yield a last line that has no end, of an instance that has ended."""
        text, self._unfinished = self._unfinished, b""
        if text:
            yield from self._reader.read(text)

    def close(self) -> None:
        """Read no more of the piece."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _open_next(self) -> bool:
        """Open the piece after the last one that was read, at first the oldest; false for none."""
        opened: list[int] = []
        for path in self._log.pieces():
            with contextlib.suppress(FileNotFoundError):
                opened.append(os.open(path, os.O_RDONLY))
        known = [_identity(file) for file in opened]
        after = known.index(self._last) + 1 if self._last in known else 0
        wanted = opened[after] if after < len(opened) else None
        for file in opened:
            if file != wanted:
                os.close(file)
        if wanted is None:
            return False
        self._file, self._last = wanted, _identity(wanted)
        return True

    def _was_set_aside(self) -> bool:
        try:
            now = os.stat(self._log.path)
        except FileNotFoundError:
            return False  # Between two; or its directory was removed.
        return (now.st_dev, now.st_ino) != self._last


def _identity(file: int) -> tuple[int, int]:
    found = os.fstat(file)
    return found.st_dev, found.st_ino


class LineReader:
    """Makes lines of a log of lines of its files; `empty` says whose they are.

    What was printed is read without passwords; what was logged was written without.
    """

    def __init__(self, empty: LogLine) -> None:
        self._empty = empty

    def read(self, data: bytes) -> Iterator[LogLine]:
        text = data.decode(errors="replace").rstrip("\r\n")
        begins = begins_in(text)
        found = LogLine.of_line(text[begins:]) if begins >= 0 else None
        printed = text[:begins] if found is not None else text
        if printed.strip():
            yield replace(self._empty, event=masked(printed))
        if found is not None:
            self._empty = replace(self._empty, time=found.time)
            yield found


def find_logs(
    job_dir: str | Path, role: str | None = None, index: int | None = None
) -> list[InstanceLog]:
    """The logs of a job, of one role and index or all; by role, index and incarnation."""
    found = []
    with contextlib.suppress(OSError):
        for path in (Path(job_dir) / LOGS).iterdir():
            match = _NAME.fullmatch(path.name)
            if match is None:
                continue
            name = match[2] or match[1]
            log = InstanceLog(name, int(match[3] or 0), int(match[4] or 0), path)
            if role in (None, name) and index in (None, log.index):
                found.append(log)
    return sorted(found, key=lambda one: (one.role, one.index, one.incarnation))


def keep_first_error(path: Path) -> None:
    """Write a log's first error into a file of its own, if the piece that has it is to go next."""
    kept = path.with_name(f"{path.name}{_FIRST_ERROR}")
    match = _NAME.fullmatch(path.name)
    if not piece(path, KEPT).exists() or kept.exists() or match is None:
        return
    log = InstanceLog(match[2] or match[1], int(match[3] or 0), int(match[4] or 0), path)
    first = log.first_error()
    if first is not None:
        unfinished = kept.with_suffix(".tmp")
        unfinished.write_text(first.to_line() + "\n")
        os.replace(unfinished, kept)


def end_of_log(path: str | Path, most_bytes: int = 2000) -> str:
    """What to say of the log of an instance that died: its first error, and how it ends.

    Empty where there is no log.
    """
    path = Path(path)
    match = _NAME.fullmatch(path.name)
    if match is None:
        return ""
    log = InstanceLog(match[2] or match[1], int(match[3] or 0), int(match[4] or 0), path)
    last = log.last_lines(most_bytes)
    if not last:
        return ""
    first = log.first_error()
    told = "\n".join(map(str, last))
    if first is not None and str(first) not in told:
        told = f"{str(first)[:most_bytes]}\n…\n{told}"
    return f"; the end of {path}:\n{told}"


def first_error_in(lines: Iterator[LogLine]) -> LogLine | None:
    """Return the first of an instance's lines that tells of an error; None: no error.

    Its `traceback` has what was printed right after it where that belongs to it.
    """
    for line in lines:
        if line.is_error:
            announces = line.event.endswith(":") and not line.traceback
            has_rest = line.level == OUTPUT or announces
            return _with_rest(line, lines) if has_rest else line
    return None


def _with_rest(first: LogLine, lines: Iterator[LogLine]) -> LogLine:
    """What was printed right after the first line of an error: to the exception's own line."""
    rest = []
    for line in islice(lines, _MOST_OF_AN_ERROR):
        if line.level != OUTPUT:
            break
        rest.append(line.event)
        if first.event.startswith("Traceback") and not line.event.startswith((" ", "Traceback")):
            return replace(first, event=line.event, traceback="\n".join([first.event, *rest]))
    return replace(first, traceback="\n".join(rest))
