"""What a master that runs knows of its job."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elasticdl.dashboard.events import MARKS, OF_TASKS, JobEvent, JobEvents
from elasticdl.dashboard.finite import finite
from elasticdl.dashboard.health import find_health, free_bytes
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
from elasticdl.masking import masked
from elasticdl.master.cluster_state import FAILED
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_files import RESULT_FILE
from elasticdl.master.job_view import learning_rate
from elasticdl.master.master import Master
from elasticdl.master.vitals import describe_partitions

FRESH_S = 0.9


class LiveSource:
    """The master's own; see `Source`. What it looks at, it looks at once a second for everybody.

    Args:
      spec: the job.
      master: of it.
      incarnation: of this master.
    """

    def __init__(self, spec: JobSpec, master: Master, incarnation: int) -> None:
        self._spec = spec
        self._master = master
        self._instance = InstanceSpec(Role.MASTER, 0, incarnation)
        self._began = time.time()
        self._lock = threading.Lock()
        self._state: Values = {}
        self._looked_at = -FRESH_S
        self._reading = threading.Lock()
        self._journal = JobEvents(master.state)
        self._events: deque[JobEvent] = deque(maxlen=MOST_EVENTS)
        self._evaluations: list[JobEvent] = []
        self._marks = Counter(dict.fromkeys(MARKS, 0))
        self._failures = 0
        self._last_checkpoint = 0.0

    def job(self) -> Values:
        return describe_job(self._spec, self._master.began)

    def state(self) -> Values:
        with self._lock:
            is_over = self._master.coordinator.outcome is not None
            has_end = self._state.get("audit") is not None
            if time.monotonic() - self._looked_at >= FRESH_S or (is_over and not has_end):
                self._state = finite(self._look())
                self._looked_at = time.monotonic()
            return self._state

    def _look(self) -> Values:
        events = self._read()
        master, coordinator = self._master, self._master.coordinator
        story, outcome, clock = coordinator.story, coordinator.outcome, coordinator.clock
        keeper, vitals = master.keeper, master.vitals
        training_seconds = story.training_seconds or story.training_time(clock)
        state = outcome.state if outcome is not None else "running"
        found = coordinator.look(
            lambda ledger, membership: LedgerNow.of(
                ledger,
                membership,
                story,
                coordinator.snapshot(),
                keeper.records_per_s,
                training_seconds,
            )
        )
        at = now()
        own = InstanceNow(self._instance, "running", os.getpid(), "", self._began)
        instances = [
            dataclasses.replace(
                one,
                vitals=vitals.of(one.spec),
                started=one.started or self._journal.started.get(one.spec, 0.0),
            )
            for one in (own, *found.instances)
        ]
        rates = [
            one.vitals.learning_rate
            for one in instances
            if one.vitals is not None and one.vitals.learning_rate is not None
        ]
        servers = [one.spec for one in instances if one.spec.role is Role.PS]
        partitions = describe_partitions(servers, vitals)
        figures = master.figures.describe()
        lately = figures["recent"]
        times = lately if lately.get("bottleneck") else figures["total"]
        last = story.evaluations[-1].metrics if story.evaluations else {}
        values: Values = {
            "at": at,
            "state": state,
            "phase": found.snapshot.phase,
            "error": outcome.error if outcome is not None else "",
            "traceback": outcome.traceback if outcome is not None else "",
            "progress": found.progress,
            "loss": found.snapshot.loss,
            "learning_rate": max(rates) if rates else coordinator.look(learning_rate),
            "metrics": numbers((outcome.metrics if outcome is not None else {}) or last),
            "training_seconds": training_seconds,
            "output": outcome.output if outcome is not None else None,
            "bottleneck": bottleneck_text(times),
            "phases": describe_phases(times),
            "workers_wanted": found.snapshot.target_workers,
            "ps_wanted": found.ps_wanted,
            "instances": [describe_instance(one, self._master.state, at) for one in instances],
            "tasks": found.tasks,
            "partitions": partitions,
            "imbalance": imbalance_of(partitions),
            "audit": self._audit(),
        }
        directories = [self._master.state, self._spec.checkpoint_root]
        values["health"] = find_health(
            values, events, keeper.stands_still_s, directories, self._spec.min_workers
        )
        return values

    def _audit(self) -> Any:
        try:
            return json.loads((Path(self._master.state) / RESULT_FILE).read_text()).get("audit")
        except (OSError, ValueError):
            return None

    def _read(self) -> Sequence[JobEvent]:
        """Read on in the journal; return the latest events."""
        with self._reading:
            try:
                for one in self._journal.read():
                    if one.kind not in OF_TASKS or "straggler" in one.body:
                        self._events.append(one)
                        self._failures += one.kind == FAILED
                        if one.mark is not None:
                            self._marks[one.mark] += 1
                        if one.mark == "checkpoint":
                            self._last_checkpoint = one.time
                        if one.mark == "evaluation":
                            self._evaluations.append(one)
            except JobError:  # A journal that is full or damaged ends the job; not this.
                pass
            return list(self._events)

    def history(self, after: float = 0.0) -> Values:
        self._read()
        history = self._master.history
        with self._reading:
            found = list(self._evaluations)
        return describe_history(history.interval_s, history.rows(after), found, after)

    def events(
        self,
        after: int = 0,
        limit: int = MOST_EVENTS,
        with_tasks: bool = False,
        newest: bool = False,
    ) -> Values:
        found = events_of(self._master.state, after) if with_tasks else self._read()
        return describe_events(found, after, limit, newest)

    def log(self, role: str, index: int, incarnation: int | None, most_bytes: int) -> Values:
        found = describe_log(self._master.state, role, index, incarnation, most_bytes)
        if not found["tail"]:
            tail = self._master.log_tail(role, index, incarnation, most_bytes)
            found["tail"] = masked(tail)
        return found

    def counters(self) -> Values:
        master, state = self._master, self.state()
        specs = [
            InstanceSpec(Role(one["role"]), one["index"], one["incarnation"])
            for one in state["instances"]
        ]
        heard = {spec: vitals for spec in specs if (vitals := master.vitals.of(spec)) is not None}
        with self._reading:
            marks = dict(self._marks)
        return {
            "stands_still_s": master.keeper.stands_still_s,
            "marks": marks,
            "checkpoint_failures": self._failures,
            "last_checkpoint": self._last_checkpoint or None,
            "disks": free_bytes([self._master.state, self._spec.checkpoint_root]),
            "cpu_s": {(spec.role.value, spec.index): one.cpu_s for spec, one in heard.items()},
            "refusals": {
                (spec.role.value, spec.index): one.refusals for spec, one in heard.items()
            },
            "partitions": {
                spec.index: {
                    "pulls": one.partition.counts.pulls,
                    "pushes": one.partition.counts.pushes,
                    "sent_bytes": one.partition.counts.sent_bytes,
                    "received_bytes": one.partition.counts.received_bytes,
                }
                for spec, one in heard.items()
                if one.partition is not None
            },
            "targets": [
                {"targets": [one.metrics_address]} for one in heard.values() if one.metrics_address
            ],
            "phases": [
                {"role": role, "phase": phase.value, "seconds": one.ns / 1e9, "count": one.count}
                for role, of_role in master.figures.of_this_master().items()
                for phase, one in of_role.phases.items()
            ],
        }


def events_of(job_dir: str | Path, after: int) -> list[JobEvent]:
    """Return the events after a number, those of single tasks included."""
    journal = JobEvents(job_dir)
    journal.last = after
    return list(journal.read())
