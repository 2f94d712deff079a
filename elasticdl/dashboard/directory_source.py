"""What a job's directory tells of it: while it runs, when it was lost, and long after its end."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.dashboard.events import OF_TASKS, JobEvent, JobEvents
from elasticdl.dashboard.finite import finite
from elasticdl.dashboard.health import find_health
from elasticdl.dashboard.live_source import events_of
from elasticdl.dashboard.source import (
    MOST_EVENTS,
    Values,
    describe_events,
    describe_history,
    describe_job,
    describe_log,
    now,
    numbers,
)
from elasticdl.dashboard.state import (
    InstanceNow,
    LedgerNow,
    bottleneck_text,
    describe_instance,
    describe_phases,
    imbalance_of,
)
from elasticdl.errors import JobError
from elasticdl.job_spec import JobSpec
from elasticdl.master.file_lock import own_file
from elasticdl.master.history import COLUMNS, read_history
from elasticdl.master.job_figures import FILE_NAME as FIGURES_FILE
from elasticdl.master.job_figures import read_figures
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.master.job_view import Snapshot, learning_rate
from elasticdl.master.journal import FILE_NAME as JOURNAL_FILE
from elasticdl.master.journal import LOCK_NAME
from elasticdl.master.membership import Membership
from elasticdl.master.recovery import Recovered, recover
from elasticdl.master.tasks import TaskKind

NOT_RUNNING = "the job does not run any more"


@dataclass(frozen=True)
class _Story:
    """What was read of a journal up to an entry, and the events that tell it.

    trouble: why that is not all, where it is not.
    """

    last: int
    recovered: Recovered | None
    events: list[JobEvent]
    journal: JobEvents
    trouble: str = ""


class DirectorySource:
    """A job's directory; see `Source`. It is read again when its journal has grown.

    Args:
      job_dir: the directory, wherever it is now.
      is_running: whoever asks knows that the job runs, though nobody here writes its journal.

    Raises:
      UsageError: it has no job's description.
    """

    def __init__(self, job_dir: str | Path, is_running: bool = False) -> None:
        self._directory = Path(job_dir)
        self._is_known_to_run = is_running
        self._spec = JobSpec.load(job_dir)
        self._lock = threading.Lock()
        self._journal = JobEvents(job_dir)
        self._events: list[JobEvent] = []
        self._known: _Story | None = None

    def job(self) -> Values:
        story = self._read()
        began = story.events[0].time if story.events else self._directory.stat().st_ctime
        return describe_job(self._spec, began)

    def _read(self) -> _Story:
        with self._lock:
            known = self._known or _Story(0, None, [], self._journal)
            if not (self._directory / JOURNAL_FILE).exists():  # It was not launched so far.
                return known
            try:
                for one in self._journal.read():
                    if one.kind not in OF_TASKS or "straggler" in one.body:
                        self._events.append(one)
                if known.last != self._journal.last:
                    last, recovered = self._journal.last, recover(self._directory)
                    known = _Story(last, recovered, list(self._events), self._journal)
                    self._known = known
            except JobError as error:
                trouble = f"what follows is not all there is: {error}"
                return dataclasses.replace(known, events=list(self._events), trouble=trouble)
            return known

    def _is_running(self) -> bool:
        """Whether a master writes its journal, here or elsewhere."""
        if self._is_known_to_run:
            return True
        path = self._directory / LOCK_NAME
        if not path.exists():
            return False
        try:
            owned = own_file(path)
        except JobError:  # Somebody else's directory.
            return False
        if owned is None:
            return True
        owned.close()
        return False

    def _result(self) -> dict[str, Any]:
        try:
            return json.loads((self._directory / RESULT_FILE).read_text())
        except (OSError, ValueError):
            return {}

    def state(self) -> Values:
        story, result = self._read(), self._result()
        state = result.get("state") or ("running" if self._is_running() else "lost")
        is_over = state != "running"
        not_begun = "" if is_over else TaskKind.INITIALIZE.name.lower()
        at = now()
        if is_over and story.events:
            at = story.events[-1].time
        rows = read_history(self._directory)[1]
        last = dict(zip(COLUMNS, rows[-1], strict=False)) if rows else {}
        speed = result.get("records_per_s", last.get("records_per_s") or 0.0)
        found = self._ledger_now(story, state, speed, result)
        instances = (
            []
            if found is None
            else [
                InstanceNow(
                    one.spec,
                    "gone" if is_over else one.state,
                    one.pid,
                    one.reason or (NOT_RUNNING if is_over else ""),
                    story.journal.started.get(one.spec, 0.0),
                )
                for one in found.instances
            ]
        )
        figures = read_figures(self._directory / FIGURES_FILE)
        times = result.get("figures") or figures.get("total") or {}
        partitions = result.get("partitions", [])
        metrics = [one.body["metrics"] for one in story.events if one.mark == "evaluation"]
        rate = last.get("learning_rate")
        if rate is None and story.recovered is not None:
            ledger = story.recovered.recorded.ledger
            rate = learning_rate(ledger, Membership(1, 1))
        values: Values = {
            "at": at,
            "state": state,
            "phase": found.snapshot.phase if found is not None else not_begun,
            "error": result.get("error", ""),
            "traceback": result.get("traceback", ""),
            "progress": found.progress if found is not None else _NO_PROGRESS,
            "loss": last.get("loss"),
            "learning_rate": rate,
            "metrics": numbers(result.get("metrics") or (metrics[-1] if metrics else {})),
            "training_seconds": result.get("training_seconds", 0.0),
            "output": result.get("output"),
            "bottleneck": bottleneck_text(times),
            "phases": describe_phases(times),
            "workers_wanted": found.snapshot.target_workers if found is not None else 0,
            "ps_wanted": found.ps_wanted if found is not None else 0,
            "instances": [describe_instance(one, self._directory, at) for one in instances],
            "tasks": found.tasks if found is not None else _NO_TASKS,
            "partitions": partitions,
            "imbalance": imbalance_of(partitions),
            "audit": result.get("audit") or None,
        }
        values["health"] = find_health(values, story.events, 0.0, [], self._spec.min_workers)
        if story.trouble:
            values["health"].insert(0, {"level": "error", "text": story.trouble})
        return finite(values)

    def _ledger_now(
        self, story: _Story, state: str, speed: float, result: dict[str, Any]
    ) -> LedgerNow | None:
        recovered = story.recovered
        if recovered is None:
            return None
        recorded = recovered.recorded
        ledger, told = recorded.ledger, recorded.story
        membership = Membership(max(1, self._spec.num_workers), self._spec.num_ps)
        recovered.restore(membership, 0.0)
        losses: Sequence[float] = ()
        seconds = result.get("training_seconds") or told.training_time(recorded.clock)
        snapshot = Snapshot.of(state, ledger, membership, losses)
        # Nothing is to come of a job that does not run.
        to_come = speed if state == "running" else 0.0
        found = LedgerNow.of(ledger, membership, told, snapshot, to_come, seconds)
        found.progress["records_per_s"] = speed
        return found

    def history(self, after: float = 0.0) -> Values:
        interval_s, rows = read_history(self._directory)
        found = [one for one in self._read().events if one.mark == "evaluation"]
        return describe_history(interval_s, [one for one in rows if one[0] > after], found, after)

    def events(
        self,
        after: int = 0,
        limit: int = MOST_EVENTS,
        with_tasks: bool = False,
        newest: bool = False,
    ) -> Values:
        found = events_of(self._directory, after) if with_tasks else self._read().events
        return describe_events(found, after, limit, newest)

    def log(self, role: str, index: int, incarnation: int | None, most_bytes: int) -> Values:
        return describe_log(self._directory, role, index, incarnation, most_bytes)

    def counters(self) -> Values:
        return {}


_NO_PROGRESS: Values = {
    "epoch": 0,
    "num_epochs": 0,
    "records_done": 0,
    "records_expected": 0,
    "records_to_repeat": 0,
    "records_per_s": 0.0,
    "seconds_left": None,
    "epochs": [],
}
_NO_TASKS: Values = {"todo": 0, "leased": 0, "done": 0, "to_repeat": 0, "replayed": 0, "strip": []}
