"""Runs the benchmarks, one after the other, and writes down what they found.

    python -m benchmarks.suite
    python -m benchmarks.suite --only=kernels,recordio --output=output/before.json

Meant for less than 20 minutes on 2 cores. The result is one file for each
model of processor, ``benchmarks/results/<model>.json``: machine, versions, and the figures of every
benchmark, each with what it has to be; the pictures of `docs/performance.md` are drawn from it.
``python -m benchmarks.compare`` says how two such files differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bar_chart import MISSED, OTHERS, OURS, Bar, draw
from benchmarks.figures import Figure, number_text
from benchmarks.machine import describe_machine

RESULTS = Path("benchmarks/results")
PICTURES = Path("docs/pictures")
BENCHMARKS = {
    "peers": "--rounds=1 --seconds=6 --warm_up=4 --forms=ready,parsed "
    "--only=ours_async_apart,ours_async_2,ours_sync_2,ceiling,fit,tf_keras_fit,pss_2",
    "wire": "",
    "kernels": "--rounds=31",
    "recordio": "--rounds=3",
    "checkpoint": "--rounds=2",
    "scheduler": "--lease_rounds=2 --minibatch_s=0.05 --storms=1",
    "start": "",
}
"""What is run, and how, so that all of it ends in time."""

QUICK = {
    "start": "--runs=1",
    "wire": "--check --only=tcp,streams",
    "peers": "--rounds=1 --seconds=1 --warm_up=1 --minibatches=16 --forms=ready --only=ceiling",
    "scheduler": "--workers=20 --partitions=2 --records=300000 --storms=1 --lease_rounds=1 "
    "--lease_workers=20",
}
_LONGEST_S = 900.0
_MOST_DRAWN = 2.0


def run(name: str, options: Sequence[str]) -> dict[str, Any]:
    """Run a benchmark; return what it found, as its JSON has it."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "result.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *options, f"--json={path}"]
        subprocess.run(command, check=True, timeout=_LONGEST_S)
        result: dict[str, Any] = json.loads(path.read_text())
        return result


def figures_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a benchmark's result by name, those of `benchmarks.peers` too."""
    if "contestants" not in result:
        found: dict[str, Any] = result.get("figures", {})
        return found
    figures = []
    for name, each in result["contestants"].items():
        figures.append(Figure(name, each["samples_per_s"], "samples/s"))
        figures += [
            Figure(f"{name}, {role}", used, "CPU s/M samples", less_is_better=True)
            for role, used in each["cpu_seconds_per_million"].items()
        ]
    figures += [
        Figure(each["text"], each["median"], at_least=each["target"]) for each in result["ratios"]
    ]
    return {each.name: each.as_dict() for each in figures}


def measure(only: Sequence[str], quick: bool) -> dict[str, Any]:
    """Run benchmarks; return the whole result. One that fails is told of, and left out."""
    began = time.monotonic()
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "load_before": os.getloadavg()[0],
        "benchmarks": {},
        "failed": [],
    }
    for name in only:
        if importlib.util.find_spec(f"benchmarks.{name}") is None:
            continue
        options = QUICK.get(name, "--quick") if quick else BENCHMARKS[name]
        started = time.monotonic()
        try:
            found = run(name, options.split())
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            result["failed"].append(name)
            continue
        result["benchmarks"][name] = {
            "options": options,
            "seconds": round(time.monotonic() - started, 1),
            "figures": figures_of(found),
        }
    result["seconds"] = round(time.monotonic() - began, 1)
    return result


def file_name(cpu: str) -> str:
    """Return the name of the file of a model of processor."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", cpu.replace("(R)", "").replace("(TM)", "")).strip("-")


def pictures(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the pictures of a result, SVG by name."""
    cpu, cores = result["machine"]["cpu"], result["machine"]["cores"]
    drawn = {}
    speeds = {
        name: each["value"]
        for name, each in result["benchmarks"].get("peers", {}).get("figures", {}).items()
        if each["unit"] == "samples/s"
    }
    if speeds:
        bars = [
            Bar(name, value, f"{value:,.0f}", OURS if name.startswith("ours") else OTHERS)
            for name, value in sorted(speeds.items(), key=lambda item: -item[1])
        ]
        drawn["peers.svg"] = draw(f"DeepFM, samples/s: {cpu}, {cores} cores", bars)
    bars = [
        _target_bar(f"{benchmark}: {name}", each)
        for benchmark, found in result["benchmarks"].items()
        for name, each in found["figures"].items()
        if each["at_least"] is not None or each["at_most"] is not None
    ]
    if bars:
        title = f"what was found / what is to be: {cpu}, {cores} cores"
        drawn["targets.svg"] = draw(title, bars, mark=1.0, most=_MOST_DRAWN)
    return drawn


def _target_bar(name: str, figure: Mapping[str, Any]) -> Bar:
    """Draw how far a figure is: 1 is just right, more is better."""
    value, at_least, at_most = figure["value"], figure["at_least"], figure["at_most"]
    length = value / at_least if at_least is not None else at_most / max(value, 1e-9)
    demand = f"≥ {number_text(at_least)}" if at_least is not None else f"≤ {number_text(at_most)}"
    text = f"{number_text(value)} ({demand})"
    return Bar(name, length, text, OURS if figure["is_met"] else MISSED)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="some of them")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether they run at all")
    parser.add_argument("--output", type=Path, help=f"in place of a file in {RESULTS}")
    parser.add_argument("--pictures", type=Path, help=f"where to draw; {PICTURES} for all of them")
    given = parser.parse_args(words)
    only = given.only.split(",")
    for each in only:
        if each not in BENCHMARKS:
            parser.error(f"--only '{each}': not one of {', '.join(BENCHMARKS)}")
    result = measure(only, given.quick)
    path = given.output or RESULTS / f"{file_name(result['machine']['cpu'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    is_whole = given.output is None and only == list(BENCHMARKS)
    place = given.pictures or (PICTURES if is_whole else None)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        for name, text in pictures(result).items():
            (place / name).write_text(text)
    print(f"{path}: {result['seconds']:,.0f} s")
    return int(bool(result["failed"]))


if __name__ == "__main__":
    raise SystemExit(main())
