"""Daemons of the cluster: started, found again from any process, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_children: dict[int, subprocess.Popen[bytes]] = {}
_GONE_S = 30


def wait_until(is_so: Callable[[], object], what: str, deadline_s: float) -> None:
    """Wait until something is so.

    Raises:
      TimeoutError: it never was; the message says what.
    """
    end = time.monotonic() + deadline_s
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(0.1)


class Daemon:
    """One process that runs on, whoever started it.

    Args:
      directory: where it is written down, with its log.
      name: within the directory.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name, self.log = name, directory / f"{name}.log"
        self._file = directory / f"{name}.json"

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Start it, and write down how, so that it can be started again.

        Raises:
          RuntimeError: it runs.
        """
        if self.is_running():
            raise RuntimeError(f"{self.name} runs")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [str(part) for part in command]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                arguments,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _children[process.pid] = process
        self._write(
            {
                "pid": process.pid,
                "started": _started(process.pid),
                "command": arguments,
                "environment": dict(environment),
            }
        )

    def start_again(self) -> None:
        """Start it as it was started before."""
        known = self._read()
        self.start(known["command"], known["environment"])

    @property
    def pid(self) -> int:
        return self._read()["pid"]

    def is_running(self) -> bool:
        try:
            known = self._read()
        except (OSError, ValueError):
            return False
        if (child := _children.get(known["pid"])) is not None and child.poll() is not None:
            return False
        return known["started"] is not None and _started(known["pid"]) == known["started"]

    def kill(self, with_signal: int = signal.SIGKILL) -> None:
        """Kill it, if it runs, and wait until it is gone."""
        if not self.is_running():
            return
        os.kill(self.pid, with_signal)
        wait_until(lambda: not self.is_running(), f"the end of {self.name}", _GONE_S)

    def end_of_log(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError as error:
            return str(error)

    def _read(self) -> dict:
        return json.loads(self._file.read_text())

    def _write(self, known: dict) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(known))
        new.rename(self._file)


def _started(pid: int) -> int | None:
    """When a process began, by which it is told from a later one of its id; None: it has ended.

    Its first thread may end before others, which hold its files and ports until they do.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, threads, began = fields[0], int(fields[17]), int(fields[19])
    return None if state in "ZX" and threads <= 1 else began
