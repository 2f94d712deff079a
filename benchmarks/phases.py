"""What it costs to count where a worker's time goes, and to trace it: microseconds a minibatch.

Does what a worker does for each minibatch, with nothing in between: every wait, also those that a
worker whose input keeps up never has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.machine import describe_machine
from elasticdl.phases import Phase, Phases, Track
from elasticdl.trace_file import TraceFile

MINIBATCHES = 5_000


def minibatch_of(phases: Phases, num_ps: int) -> Callable[[], None]:
    """Return what counts one minibatch of async mode."""
    preparing, starving = Track(phases), Track(None)

    def minibatch() -> None:
        with phases.waiting_for_minibatch(preparing, starving):
            with preparing.measure(Phase.PARSE, starving):
                pass
            for phase in (Phase.COLLECT, Phase.PUSH_WAIT, Phase.COLLECT):
                with preparing.measure(phase):
                    pass
        with phases.on_path(Phase.PULL_WAIT):
            pass
        with phases.step("train"):
            pass
        with phases.on_path(Phase.PUSH_WAIT):
            pass
        for _ in range(num_ps):
            with phases.measure(Phase.PUSH):
                pass

    return minibatch


def microseconds(phases: Phases, num_ps: int, minibatches: int) -> float:
    """Return the processor time that one minibatch costs."""
    minibatch = minibatch_of(phases, num_ps)
    for _ in range(100):
        minibatch()
    began = process_time()
    for _ in range(minibatches):
        minibatch()
    return 1e6 * (process_time() - began) / minibatches


def measure(num_ps: int, rounds: int, minibatches: int = MINIBATCHES) -> dict[str, Any]:
    """Return medians of some rounds, with and without a trace by turns."""
    counted, traced = [], []
    with tempfile.TemporaryDirectory() as directory:
        for number in range(rounds):
            counted.append(microseconds(Phases(), num_ps, minibatches))
            phases = Phases()
            phases.trace_to(TraceFile(Path(directory), f"worker-{number}.1"))
            traced.append(microseconds(phases, num_ps, minibatches))
            phases.close()
    return {
        "machine": describe_machine(),
        "counted_us": statistics.median(counted),
        "traced_us": statistics.median(traced),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phases", description=__doc__)
    parser.add_argument("--num_ps", type=int, default=1, help="parameter servers pushed to")
    parser.add_argument("--rounds", type=int, default=7, help="of which medians are taken")
    parser.add_argument("--step_ms", type=float, default=5.0, help="a step, to compare with")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    given = parser.parse_args()
    found = measure(given.num_ps, given.rounds)
    for name, what in (("counted_us", "counting"), ("traced_us", "counting and tracing")):
        share = found[name] / (1e3 * given.step_ms)
        print(f"{what}: {found[name]:.1f} µs a minibatch, {share:.2%} of {given.step_ms:g} ms")
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
