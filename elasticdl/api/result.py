"""What a job says of itself while it runs (`JobStatus`) and when it has ended (`JobResult`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from elasticdl.dashboard.finite import finite


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands now.

    Args:
      state: ``starting``, ``training``, ``evaluating``, ``predicting``, ``exporting``, … in a word.
      epoch: the epoch under way, from 1; 0 before the first.
      num_epochs: epochs in all.
      records_done: records counted so far, over all epochs.
      records_expected: records to count in all; 0 while unknown.
      records_to_repeat: records that are trained again after a loss; they were counted before.
      loss: recent mean loss per record; None while unknown.
      records_per_s: recent speed.
      workers: workers alive.
      num_workers: workers wanted.
      ps: parameter servers alive.
      evaluation: the last evaluation's metrics, or None.
      message: the last event, e.g. ``worker 1 was lost; its task is leased again``.
      instances: role, index, incarnation and state of each.
      dashboard: its address, where there is one.
    """

    state: str
    epoch: int = 0
    num_epochs: int = 1
    records_done: int = 0
    records_expected: int = 0
    loss: float | None = None
    records_per_s: float = 0.0
    workers: int = 0
    num_workers: int = 0
    ps: int = 0
    evaluation: Mapping[str, float] | None = None
    message: str = ""
    instances: Sequence[tuple[str, int, int, str]] = ()
    dashboard: str = ""
    records_to_repeat: int = 0


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Args:
      job_name: the job's name.
      job_dir: where its journal, checkpoints and logs are.
      metrics: name to value, over all held-out (or evaluated) records; empty for predict.
      history: one dict an epoch: epoch, loss, records, seconds, and its evaluation's metrics.
      output: the trained model's directory or the predictions' file, if one was made.
      audit: the account of every record; see `audit_line`.
      seconds: from launch to end.
      training_seconds: from the first task granted to the last one closed.
      records_per_s: records counted per training second.
      figures: what the time went into: ``steps``, ``bottleneck``, and by role its phases.
    """

    job_name: str
    job_dir: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    output: str | None = None
    audit: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0
    records_per_s: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The result as plain values, ready for ``json.dumps``; what is not finite is None."""
        return finite(dataclasses.asdict(self))


_ALWAYS_TOLD = ("filtered", "skipped", "repeats_dropped", "lost")


def audit_line(audit: Mapping[str, Any]) -> str:
    """Say a job's audit in one line.

    Args:
      audit: ``records_expected``, ``applied_once`` (partition index to records),
        ``repeats_dropped``, ``filtered``, ``skipped``, ``lost``.
    """
    applied = {int(partition): int(n) for partition, n in audit["applied_once"].items()}
    counts = sorted(set(applied.values()))
    if not applied:
        apart = ("filtered", "skipped", "lost", "in_progress")
        counted = audit["records_expected"] - sum(audit.get(name, 0) for name in apart)
        once = f"{counted:,} counted once"
    elif len(counts) == 1:
        where = "1 partition" if len(applied) == 1 else f"each of {len(applied)} partitions"
        once = f"{counts[0]:,} applied once on {where}"
    else:
        each = ", ".join(f"{n:,} on partition {index}" for index, n in sorted(applied.items()))
        once = f"applied once: {each}"
    told = {
        "in_progress": "in progress",
        "filtered": "filtered",
        "added": "added",
        "skipped": "skipped",
        "beyond_max_steps": "beyond max_steps",
        "repeats_dropped": "repeats dropped",
        "repeated": "trained more than once",
        "lost": "lost",
    }
    rest = ", ".join(
        f"{audit[name]:,} {text}"
        for name, text in told.items()
        if name in _ALWAYS_TOLD or audit.get(name)
    )
    tables = "".join(
        f"; table {name}: {counts['rows']:,} rows{come_and_gone}"
        for name, counts in audit.get("tables", {}).items()
        if (come_and_gone := _row_counts(counts))
    )
    told_as_of = _as_of(audit["as_of"]) if "as_of" in audit else ""
    expected = f"{audit['records_expected']:,} records expected"
    return f"audit: {expected}, {once}, {rest}{tables}{told_as_of}"


def _as_of(moment: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(moment["time"]).astimezone().isoformat(" ", "seconds")
    number = moment["checkpoint"]
    return f"; as of {'the journal' if number is None else f'checkpoint {number}'}, {at}"


def _row_counts(counts: Mapping[str, int]) -> str:
    told = {
        "evicted_rows": "evicted",
        "candidates": "ids not admitted",
        "unadmitted_gradients": "of their gradients dropped",
    }
    return "".join(f", {counts[name]:,} {text}" for name, text in told.items() if counts.get(name))


def metrics_line(metrics: Mapping[str, float]) -> str:
    """Say metrics in one line, e.g. ``accuracy 0.9720, loss 0.0911``."""
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
