"""Where a job's time goes: the lines and the table of it, and with --profile the trace."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from elasticdl.api.table import table_lines
from elasticdl.data.atomic_file import atomic_file
from elasticdl.master.job_figures import FILE_NAME, read_figures
from elasticdl.phases import Phase
from elasticdl.trace_file import PARTS, PROFILE

TRACE_FILE = "trace.json"
TABLE_FILE = "table.txt"
_ROLES = ("worker", "ps", "master")

Durations = Mapping[tuple[str, str], list[float]]


def bottleneck_line(summary: Mapping[str, Any]) -> str:
    """Say what limits a job, in one line; empty where too little was done to tell."""
    found = summary.get("bottleneck")
    return f"bottleneck: {found['text']}" if found else ""


def minibatch_line(summary: Mapping[str, Any]) -> str:
    """Say what a minibatch's time goes into, the largest first; empty where none was trained."""
    steps, phases = summary.get("steps", 0), _phases(summary, "worker")
    if not steps:
        return ""
    parts = [
        (one["share"], f"{_words(name)} {1e3 * one['path_seconds'] / steps:.1f} ms")
        for name, one in phases.items()
        if one["share"] >= 0.01
    ]
    told = ", ".join(f"{text} ({share:.0%})" for share, text in sorted(parts, reverse=True))
    return f"a minibatch: {told}" if told else ""


def phase_rows(
    summary: Mapping[str, Any], durations: Durations | None = None
) -> list[dict[str, Any]]:
    """Make a table's rows: for each role and phase, what it took in all and by minibatch.

    Args:
      summary: as `elasticdl.master.job_figures.summary` makes it.
      durations: milliseconds of single ones by role and phase, as the trace has them.
    """
    steps = max(1, summary.get("steps", 0))
    rows = []
    for role in _ROLES:
        phases = _phases(summary, role)
        for phase in (one for one in Phase if one.value in phases):
            counted = phases[phase.value]
            row = {
                "role": role,
                "phase": str(phase),
                "times": f"{counted['count']:,}",
                "seconds": f"{counted['seconds']:.2f}",
                "ms_a_minibatch": f"{1e3 * counted['seconds'] / steps:.3f}",
                "training_waits_ms": _waited(phase, counted, steps),
                "share": f"{counted['share']:.0%}",
            }
            if durations is not None:
                some = sorted(durations.get((role, phase.value), []))
                row["median_ms"] = f"{statistics.median(some):.3f}" if some else None
                row["95%_ms"] = f"{some[int(0.95 * (len(some) - 1))]:.3f}" if some else None
            rows.append(row)
    return rows


def _waited(phase: Phase, counted: Mapping[str, Any], steps: int) -> str | None:
    return f"{1e3 * counted['path_seconds'] / steps:.3f}" if phase.role == "worker" else None


def _phases(summary: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    return summary.get("roles", {}).get(role, {}).get("phases", {})


def _words(name: str) -> str:
    return name.replace("_", " ")


def profile_of(job_dir: str | Path) -> Path:
    """The directory of a job's profile."""
    return Path(job_dir) / PROFILE


def write_profile(job_dir: str | Path) -> None:
    """Put together what the instances of a job wrote, once they have ended: trace and table."""
    directory = profile_of(job_dir)
    parts = _parts(directory / PARTS)
    if not parts:
        return
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    began = min((one["ts"] for path in parts for one in _events(path) if "ts" in one), default=0.0)
    with atomic_file(directory / TRACE_FILE) as path, path.open("w") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        known: dict[str, int] = {}
        for part in parts:
            name, role = _instance(part), part.name.partition("-")[0]
            if name not in known:
                known[name] = len(known) + 1
                args: dict[str, Any] = {"name": _shown(name)}
                file.write(f"{json.dumps(_metadata('process_name', known[name], args))},\n")
                args = {"sort_index": known[name]}
                file.write(f"{json.dumps(_metadata('process_sort_index', known[name], args))},\n")
            for event in _events(part):
                event["pid"] = known[name]
                if "ts" in event:
                    event["ts"] = round(event["ts"] - began, 3)
                    durations[role, event["name"]].append(event["dur"] / 1e3)
                file.write(f"{json.dumps(event)},\n")
        file.write(f"{json.dumps(_metadata('trace_end', 0, {}))}\n]}}\n")
    summary = read_figures(Path(job_dir) / FILE_NAME).get("total", {})
    lines = [*filter(None, [bottleneck_line(summary), minibatch_line(summary)]), ""]
    if rows := phase_rows(summary, durations):
        lines += table_lines(rows)
    with atomic_file(directory / TABLE_FILE) as path:
        path.write_text("\n".join(lines) + "\n")


def _parts(directory: Path) -> list[Path]:
    """All segments: of workers first, then of parameter servers, in order."""

    def order(path: Path) -> tuple[int, list[int]]:
        role, _, numbers = path.name.removesuffix(".jsonl").partition("-")
        return _ROLES.index(role), [int(one) for one in numbers.split(".")]

    return sorted(directory.glob("*-*.*.*.jsonl"), key=order)


def _instance(part: Path) -> str:
    """`worker-0.1` of `worker-0.1.2.jsonl`."""
    return part.name.removesuffix(".jsonl").rpartition(".")[0]


def _shown(name: str) -> str:
    role, _, numbers = name.partition("-")
    index, _, incarnation = numbers.partition(".")
    which = role if role == "master" else f"{role} {index}"
    return which if incarnation == "1" else f"{which}, incarnation {incarnation}"


def _metadata(name: str, pid: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": pid, "args": args}


def _events(part: Path) -> Iterator[dict[str, Any]]:
    """Yield a segment's events; the last line of a process that was killed may be torn."""
    with part.open(errors="replace") as file:
        for line in file:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event
