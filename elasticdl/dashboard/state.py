"""What the state of a job is made of, whoever knows it: a master, or the job's directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.dashboard.source import Values
from elasticdl.dashboard.tasks import describe_epochs, describe_tasks
from elasticdl.logs.files import log_path
from elasticdl.master.instances import InstanceSpec
from elasticdl.master.job_view import Snapshot
from elasticdl.master.ledger import Ledger
from elasticdl.master.membership import Membership
from elasticdl.master.story import Story
from elasticdl.master.vitals import InstanceVitals


@dataclass(frozen=True)
class InstanceNow:
    """One instance at one moment; `started` in seconds since 1970, 0 where that is not known."""

    spec: InstanceSpec
    state: str
    pid: int
    reason: str
    started: float = 0.0
    vitals: InstanceVitals | None = None


@dataclass(frozen=True)
class LedgerNow:
    """What the ledger and the membership say at one moment."""

    snapshot: Snapshot
    progress: Values
    tasks: Values
    instances: list[InstanceNow]
    ps_wanted: int

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        membership: Membership,
        story: Story,
        now: Snapshot,
        records_per_s: float,
        training_seconds: float,
    ) -> LedgerNow:
        """Look at a ledger and a membership, which nobody changes meanwhile."""
        left = now.records_expected - now.records_done + now.records_to_repeat
        has_speed = left > 0 and records_per_s > 0
        progress = {
            "epoch": now.epoch + 1,
            "num_epochs": ledger.plan.num_epochs,
            "records_done": now.records_done,
            "records_expected": now.records_expected,
            "records_to_repeat": now.records_to_repeat,
            "records_per_s": round(records_per_s, 3),
            "seconds_left": left / records_per_s if has_speed else None,
            "epochs": describe_epochs(ledger, story, records_per_s, training_seconds),
        }
        instances = [
            InstanceNow(one.spec, one.state.value, one.pid, one.reason) for one in now.instances
        ]
        return cls(now, progress, describe_tasks(ledger), instances, membership.num_ps)


def describe_instance(one: InstanceNow, job_dir: str | Path, at: float) -> Values:
    """Return one of `instances` of a state."""
    spec, vitals = one.spec, one.vitals
    is_alive = one.state != "gone"
    if not is_alive:
        vitals = None
    doing = vitals.doing if vitals is not None else ""
    return {
        "role": spec.role.value,
        "index": spec.index,
        "incarnation": spec.incarnation,
        "state": one.state,
        "pid": one.pid or None,
        "age_s": max(0.0, at - one.started) if one.started and is_alive else None,
        "cpu": None if vitals is None or vitals.cpu is None else round(vitals.cpu, 3),
        "memory_bytes": (vitals.memory_bytes or None) if vitals is not None else None,
        "doing": doing or ("starts" if one.state == "launching" else ""),
        "heard_s": None if vitals is None else round(vitals.heard_s, 3),
        "reason": one.reason,
        "log": str(log_path(job_dir, spec.role.value, spec.index, spec.incarnation)),
        "relaunches": spec.incarnation - 1,
    }


def describe_phases(figures: Mapping[str, Any]) -> list[Values]:
    """Return `phases` of a state, of what `elasticdl.master.job_figures` describes."""
    return [
        {
            "role": role,
            "phase": phase,
            "share": spent["share"],
            "ms": 1000 * spent["seconds"] / spent["count"] if spent["count"] else 0.0,
        }
        for role, of_role in figures.get("roles", {}).items()
        for phase, spent in of_role["phases"].items()
    ]


def bottleneck_text(figures: Mapping[str, Any]) -> str | None:
    """What limits the job, in words; None where too little is known."""
    found = figures.get("bottleneck")
    return None if found is None else found["text"]


def imbalance_of(partitions: Sequence[Values]) -> float | None:
    """The busiest partition's bytes a second over the mean; None of fewer than two, or idle."""
    rates = [one["bytes_per_s"] for one in partitions]
    if len(rates) < 2 or not sum(rates):
        return None
    return round(max(rates) * len(rates) / sum(rates), 3)
