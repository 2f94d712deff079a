"""What happened to a job, as its journal tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from elasticdl.job_spec import resolve_job_dir
from elasticdl.master.cluster_state import BEGUN, COMMITTED, CommittedCheckpoint
from elasticdl.master.journal import read_journal
from elasticdl.master.membership import InstanceSpec, Role
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
from elasticdl.master.recovery import spec_of
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
      text: what happened, and why.
      body: the same for programs.
    """

    number: int
    time: float
    kind: str
    text: str
    body: Body

    def __str__(self) -> str:
        at = datetime.fromtimestamp(self.time).astimezone().isoformat(" ", "milliseconds")
        first, *more = self.text.splitlines()
        return f"{at}  {self.kind:<17}  {first}{' …' if more else ''}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, the names of the event's own first."""
        own = {"number": self.number, "time": self.time, "kind": self.kind, "text": self.text}
        return {**own, **{name: value for name, value in self.body.items() if name not in own}}


def events(job: str) -> Iterator[JobEvent]:
    """Yield what happened to a job so far, in order, also while it runs.

    Raises:
      UsageError: there is no such job.
      JobError: its journal cannot be read.
    """
    ended: set[InstanceSpec] = set()
    for entry in read_journal(resolve_job_dir(job)):
        kind, body = entry.kind, entry.body
        if kind == "exited":
            ended.add(spec_of(body))
        elif kind == "gone" and spec_of(body) in ended:
            continue  # A death is told once.
        if kind == EVENT:
            if body["type"] != "TaskFailed":
                continue  # What follows from the others has entries of its own.
            kind = "raised"
        tell = _TEXTS.get(kind)
        if tell is not None:
            yield JobEvent(entry.number, entry.time, kind, tell(body), body)


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
    "started": lambda body: f"{_name(body)}: process {body['pid']}",
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
    "checkpoint_failed": lambda body: f"checkpoint {body['number']} failed: {body['reason']}",
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
