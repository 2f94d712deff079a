"""What a job's instances spend their time on: put together by the master, kept in a file."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from elasticdl.master.bottleneck import Bottleneck, busy_share, find_bottleneck, shares_of
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.phases import PHASES, Figures, Phase, Spent

logger = logging.getLogger(__name__)

FILE_NAME = "figures.json"
WINDOW_S = 20.0
SAVE_S = 5.0
ROLES = tuple(role.value for role in (Role.WORKER, Role.PS, Role.MASTER))

Described = Mapping[str, Any]


@dataclass
class _Seat:
    """All lives of one index of a role: what the newest counted, and those before it together.

    samples: of the newest life, when it said so and what; the last `WINDOW_S`, and one before.
    """

    incarnation: int
    now: Figures
    before: Figures
    samples: deque[tuple[float, Figures]] = field(default_factory=deque)

    def note(self, incarnation: int, figures: Figures, at: float) -> None:
        if incarnation < self.incarnation:
            return
        if incarnation > self.incarnation:
            self.before += self.now
            self.samples.clear()
        self.incarnation, self.now = incarnation, figures
        self.samples.append((at, figures))
        while len(self.samples) > 2 and self.samples[1][0] <= at - WINDOW_S:
            self.samples.popleft()

    def recent(self, now: float) -> Figures | None:
        """What it counted lately; None where it was not heard lately."""
        if len(self.samples) < 2 or self.samples[-1][0] < now - WINDOW_S:
            return None
        return self.samples[-1][1] - self.samples[0][1]


class JobFigures:
    """The figures of all instances of a job, those of lives that are over included. Thread-safe.

    A master that is relaunched begins with what the one before it saved; what was counted since is
    told again by every instance that lives.

    Args:
      path: of the file.
      incarnation: of this master.
      is_sync: whether workers wait for each other.
      clock: in seconds.
      on_saved: called, now and then, when the file is new.
    """

    def __init__(
        self,
        path: Path,
        incarnation: int = 1,
        is_sync: bool = False,
        clock: Callable[[], float] = time.monotonic,
        on_saved: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._on_saved = on_saved
        self._incarnation = incarnation
        self._is_sync = is_sync
        self._clock = clock
        self._lock = threading.Lock()
        self._saving = threading.Lock()
        self._seats: dict[tuple[str, int], _Seat] = {}
        self._saved_at = clock()
        for one in read_figures(path).get("instances", []):
            now, before = _of_json(one["now"]), _of_json(one["before"])
            self._seats[one["role"], one["index"]] = _Seat(one["incarnation"], now, before)
        # What masters before knew of.
        self._known = {place: seat.before + seat.now for place, seat in self._seats.items()}

    def note(self, spec: InstanceSpec, figures: Figures) -> None:
        """An instance says what it counted so far."""
        with self._lock:
            self._note(spec.role.value, spec.index, spec.incarnation, figures, self._clock())

    def save_if_due(self) -> None:
        """Save, if that was some seconds ago: it takes a while, in whatever thread it is."""
        now = self._clock()
        if now - self._saved_at >= SAVE_S:
            self._saved_at = now
            self.save()
            self._on_saved()

    def _note(self, role: str, index: int, incarnation: int, figures: Figures, now: float) -> None:
        seat = self._seats.setdefault((role, index), _Seat(incarnation, Figures(), Figures()))
        seat.note(incarnation, figures, now)

    def save(self) -> None:
        """Write the file, for the next master and for whoever asks when the job is over."""
        described = self.describe()
        unfinished = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        with self._saving:
            try:
                unfinished.write_text(json.dumps(described) + "\n")
                os.replace(unfinished, self._path)
            except OSError as error:
                logger.warning("%s is not written: %s", self._path, error)

    def of_this_master(self) -> dict[str, Figures]:
        """By role, what was counted beyond what masters before knew of: it never becomes less."""
        with self._lock:
            self._note_own()
            found: dict[str, Figures] = {}
            for (role, index), seat in sorted(self._seats.items()):
                counted = seat.before + seat.now - self._known.get((role, index), Figures())
                found[role] = found.get(role, Figures()) + counted
            return found

    def _note_own(self) -> None:
        own = PHASES.figures("master")
        self._note("master", 0, self._incarnation, own, self._clock())

    def describe(self) -> dict[str, Any]:
        """Return plain values.

        Returns:
          ``recent`` and ``total``: each what `summary` makes, of the last seconds and of the whole
          job; ``instances``: of each index of a role what its life counted, and those before.
        """
        now = self._clock()
        with self._lock:
            self._note_own()
            seats = [
                (role, index, seat.incarnation, seat.now, seat.before, seat.recent(now))
                for (role, index), seat in sorted(self._seats.items())
            ]
        lately: dict[str, list[Figures]] = {role: [] for role in ROLES}
        ever: dict[str, list[Figures]] = {role: [] for role in ROLES}
        instances = []
        for role, index, incarnation, counted, before, recent in seats:
            ever[role].append(before + counted)
            if recent is not None:
                lately[role].append(recent)
            instances.append(
                {
                    "role": role,
                    "index": index,
                    "incarnation": incarnation,
                    "now": _to_json(counted),
                    "before": _to_json(before),
                }
            )
        return {
            "recent": summary(lately, self._is_sync),
            "total": summary(ever, self._is_sync),
            "instances": instances,
        }


def summary(figures: Mapping[str, Sequence[Figures]], is_sync: bool) -> dict[str, Any]:
    """Put together what the instances of each role counted.

    Returns:
      ``steps``: how many; ``bottleneck``: phase, share and text, or None; ``roles``: by name, how
      many instances, seconds of wall clock and processor in all, and by phase how often it was,
      ``seconds`` it took wherever it ran, ``path_seconds`` the training waited for it, and
      ``share``: of the workers' time, or of that of a parameter server or master that is at it.
    """
    workers = figures.get("worker", ())
    found = find_bottleneck(workers, figures.get("ps", ()), is_sync)
    return {
        "steps": sum(one.of(Phase.STEP).count for one in workers),
        "bottleneck": _bottleneck_json(found),
        "roles": {role: _role(some) for role, some in figures.items() if some},
    }


def _bottleneck_json(found: Bottleneck | None) -> dict[str, Any] | None:
    return None if found is None else {**asdict(found), "phase": found.phase.value}


def _role(some: Sequence[Figures]) -> dict[str, Any]:
    total = sum(some, Figures())
    shares = shares_of(some)
    described: dict[str, Any] = {
        "instances": len(some),
        "wall_s": total.wall_ns / 1e9,
        "cpu_s": total.cpu_s,
        "busy_share": max(map(busy_share, some)),
        "phases": {},
    }
    for phase, one in total.phases.items():
        share = one.ns / total.wall_ns if total.wall_ns > 0 else 0.0
        if phase.role == "worker":
            share = shares.get(phase, 0.0)
        described["phases"][phase.value] = {
            "count": one.count,
            "seconds": one.ns / 1e9,
            "path_seconds": one.path_ns / 1e9,
            "share": share,
        }
    return described


def _to_json(figures: Figures) -> dict[str, Any]:
    phases = {
        phase.value: [one.count, one.ns, one.path_ns] for phase, one in figures.phases.items()
    }
    return {"wall_ns": figures.wall_ns, "cpu_s": figures.cpu_s, "phases": phases}


def _of_json(body: Mapping[str, Any]) -> Figures:
    known = {phase.value: phase for phase in Phase}
    phases = {
        known[name]: Spent(*counted) for name, counted in body["phases"].items() if name in known
    }
    return Figures(body["wall_ns"], body["cpu_s"], phases)


def read_figures(path: Path) -> Described:
    """Return what a master saved; nothing where none did, or it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
