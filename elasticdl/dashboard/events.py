"""What happened to a job, as its journal tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from elasticdl.masking import masked
from elasticdl.master.cluster_state import BEGUN, COMMITTED, FAILED, RETRIED, CommittedCheckpoint
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.journal import Entry, read_journal
from elasticdl.master.placement import (
    ASKED,
    DAMAGED,
    NOT_RESCALED,
    PLACED,
    RESCALED,
    RESTORED,
    STANDBY,
    damaged,
    restored,
    standby,
)
from elasticdl.master.recorded_ledger import EVENT, MASTER, ROLLED_BACK
from elasticdl.master.recovery import WAITS, spec_of
from elasticdl.master.story import leased_twice
from elasticdl.master.wording import count_of

Body = Mapping[str, Any]


@dataclass(frozen=True)
class JobEvent:
    """One thing that happened.

    Attributes:
      number: of the journal's entry.
      time: seconds since the epoch.
      kind: in a word.
      text: what happened, and why, without passwords (`masked`).
      body: the same for programs, as the journal has it.
      mark: what stands for it on an axis of time: `death`, `join`, `checkpoint`, `evaluation`,
        `rescale` or `master`; None for nothing.
    """

    number: int
    time: float
    kind: str
    text: str
    body: Body
    mark: str | None = None

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.time).astimezone().isoformat(" ", "milliseconds")
        first, *more = self.text.splitlines()
        return f"{at}  {self.kind:<17}  {first}{' …' if more else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain values without passwords, the names of the event's own first."""
        own = {"number": self.number, "time": self.time, "kind": self.kind, "text": self.text}
        own["mark"] = self.mark
        rest = {name: value for name, value in self.body.items() if name not in own}
        return {**own, **masked(rest)}


class JobEvents:
    """The events of one job, read on as its journal grows. Not thread-safe.

    Args:
      job_dir: the job's directory.

    Attributes:
      last: number of the last entry read; 0 for none.
      started: when the process of each instance began, in seconds since 1970.
    """

    def __init__(self, job_dir: str | Path) -> None:
        self.last = 0
        self.started: dict[InstanceSpec, float] = {}
        self._job_dir = job_dir
        self._exited: set[InstanceSpec] = set()
        self._has_ended = False
        self._evaluates = False

    def read(self, with_tasks: bool = True) -> Iterator[JobEvent]:
        """Yield those that were not read so far, in order.

        Args:
          with_tasks: also definitions, leases and ends of single tasks, of which there are many.

        Raises:
          JobError: the journal cannot be read.
        """
        kinds = [kind for kind in _READ if with_tasks or kind not in OF_TASKS]
        for entry in read_journal(self._job_dir, kinds, after=self.last):
            self.last = entry.number
            event = self._event(entry)
            if event is not None:
                yield event

    def _event(self, entry: Entry) -> JobEvent | None:
        kind, body = entry.kind, entry.body
        if kind == "started":
            self.started[spec_of(body)] = entry.time
        elif kind == "exited":
            self._exited.add(spec_of(body))
        elif kind == "gone" and spec_of(body) in self._exited:
            return None  # A death is told once.
        elif kind == EVENT:
            if body["type"] != "TaskFailed":
                return None  # What follows from the others has entries of its own.
            kind = "raised"
        elif kind in ("ended", MASTER):
            self._has_ended = kind == "ended"
        elif kind == "round":
            self._evaluates = body["evaluates"]
        text, mark = masked(_TEXTS[kind](body)), self._mark(entry)
        return JobEvent(entry.number, entry.time, kind, text, body, mark)

    def _mark(self, entry: Entry) -> str | None:
        """What stands on the axis of time for it; None for nothing."""
        kind, body = entry.kind, entry.body
        if kind in ("exited", "gone"):
            was_wanted = body["reason"].startswith("stopped, as")
            return None if was_wanted or self._has_ended else "death"
        if kind == "registered":
            return "join" if body["ready"] else None
        if kind == "evaluated":
            return "evaluation" if self._evaluates else None
        return _MARKS.get(kind)


def _name(body: Body) -> str:
    spec = spec_of(dict(body))
    name = "master" if spec.role is Role.MASTER else str(spec)
    return f"{name}, incarnation {spec.incarnation}"


def _master(body: Body) -> str:
    what = f"master, incarnation {body['incarnation']}"
    if body["resumed"]:
        return f"{what}: the job is resumed; every instance of before is gone"
    return f"{what} {'begins' if body['incarnation'] == 1 else 'goes on from the journal'}"


def _are(number: int, noun: str) -> str:
    return f"{count_of(number, noun)} {'is' if number == 1 else 'are'}"


def _round(body: Body) -> str:
    again = f" again: {body['again']}" if "again" in body else ""
    return f"round {body['number']} begins ({body['reason']}){again}"


def _started(body: Body) -> str:
    where = body.get("where")
    return f"{_name(body)}: {f'runs on {where}' if where else 'process ' + str(body['pid'])}"


def _registered(body: Body) -> str:
    address = f" at {body['address']}" if body["address"] else ""
    return f"{_name(body)}{address}: {'is up' if body['ready'] else 'asks what to restore'}"


def _defined(body: Body) -> str:
    tasks = body["tasks"]
    first, last = tasks[0], tasks[-1]
    which = f"task {first[0]}" if first == last else f"tasks {first[0]} to {last[0]}"
    return f"{which} ({first[1].lower()}, epoch {first[2] + 1})"


def _granted(body: Body) -> str:
    if "straggler" in body:
        return leased_twice(body)
    limit = body["max_minibatches"]
    rate = body["learning_rate"]
    told = [f"at most {limit} minibatches"] if limit is not None else []
    told += [f"learning rate {rate:g}"] if rate is not None else []
    terms = f", {', '.join(told)}" if told else ""
    kind = body["kind"].lower()
    return f"task {body['task']} ({kind}) is leased to worker {body['worker']}{terms}"


def _decided(body: Body) -> str:
    value = "" if body["value"] is None else f" {body['value']}"
    return f"{body['kind'].replace('_', ' ')}{value}: {body['reason']}"


def _evaluated(body: Body) -> str:
    numbers = ", ".join(f"{name} {value:.6g}" for name, value in body["metrics"].items())
    return f"round {body['number']}: {numbers or 'of training alone'}"


def _restored(body: Body) -> str:
    spec = InstanceSpec(Role.PS, body["index"], body["incarnation"])
    return restored(spec, body["source"], body["tasks_again"]).text


def _ended(body: Body) -> str:
    reason = body["error"].splitlines()
    return f"the job {body['state']}{f': {reason[0]}' if reason else ''}"


_TEXTS: dict[str, Callable[[Body], str]] = {
    MASTER: _master,
    "launch": lambda body: f"{_name(body)}: {body['reason']}",
    WAITS: lambda body: f"{_name(body)} waits: {body['reason']}",
    "started": _started,
    "registered": _registered,
    "exited": lambda body: f"{_name(body)}: {body['reason']}",
    "gone": lambda body: f"{_name(body)} is given up: {body['reason']}",
    "scaled": lambda body: f"{_are(body['num_workers'], 'worker')} wanted",
    "tasks": _defined,
    "granted": _granted,
    "restarted": lambda body: (
        f"task {body['task']} begins anew (attempt {body['attempt']}): its minibatches are others"
    ),
    "requeued": lambda body: f"task {body['task']} will be leased again: {body['reason']}",
    "raised": lambda body: f"the model's code raised: {body['message']}",
    "done": lambda body: f"task {body['task']} ({body['kind'].lower()})",
    "epoch": lambda body: f"every task of epoch {body['epoch'] + 1} is done",
    "phase": lambda body: f"{body['kind'].lower()} is over",
    "round": _round,
    "evaluated": _evaluated,
    "decided": _decided,
    BEGUN: lambda body: f"checkpoint {body['number']} is begun",
    COMMITTED: lambda body: f"{CommittedCheckpoint.of_entry(dict(body))}: {body['reason']}",
    FAILED: lambda body: f"checkpoint {body['number']} failed: {body['reason']}",
    RETRIED: lambda body: f"checkpoint {body['number']} is given up: {body['reason']}",
    DAMAGED: lambda body: damaged(body["number"], body["reason"], body["instead"]).text,
    ROLLED_BACK: lambda body: f"training goes on from checkpoint {body['checkpoint']}",
    ASKED: lambda body: f"{_are(body['num_ps'], 'parameter server')} wanted",
    PLACED: lambda body: (
        f"the groups are placed on {count_of(body['num_ps'], 'parameter server')}, from checkpoint "
        f"{body['checkpoint']}"
    ),
    RESCALED: lambda body: (
        f"{_are(body['num_ps'], 'parameter server')} up after {body['pause_s']:.1f} s"
    ),
    NOT_RESCALED: lambda body: (
        f"not rescaled to {count_of(body['num_ps'], 'parameter server')}: {body['reason']}"
    ),
    RESTORED: _restored,
    STANDBY: lambda body: standby(body["is_kept"]).text,
    "ended": _ended,
}

MARKS = ("death", "join", "checkpoint", "evaluation", "rescale", "master")
_READ = [*(kind for kind in _TEXTS if kind != "raised"), EVENT]
OF_TASKS = frozenset({"tasks", "granted", "requeued", "done"})
"""Kinds of events of which there are as many as tasks."""
_MARKS = {
    COMMITTED: "checkpoint",
    "scaled": "rescale",
    RESCALED: "rescale",
    MASTER: "master",
}
