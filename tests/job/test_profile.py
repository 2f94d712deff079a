"""Where the time of whole jobs goes: the trace, the table, the verdict."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from elasticdl.api import jobs
from elasticdl.api.command_line import main
from elasticdl.api.profile import profile_of
from tests.job.real_jobs import wait_until

PATH = ("step", "parse", "read", "lease", "collect", "pull_wait", "push_wait", "barrier_wait")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", [[], ["--consistency=sync"]], ids=["async", "sync"])
def test_a_profile_has_every_role_and_its_sums_are_within_the_time_there_was(start, mode, capsys):
    job = start("--profile=true", *mode)
    assert job.wait() == 0, job.terminal()
    terminal = job.terminal()
    assert "profile: " in terminal
    assert "bottleneck: " in terminal
    trace = json.loads((profile_of(job.directory) / "trace.json").read_text())
    names = {
        one["pid"]: one["args"]["name"]
        for one in trace["traceEvents"]
        if one["name"] == "process_name"
    }
    done = defaultdict(set)
    spans = defaultdict(list)
    for one in trace["traceEvents"]:
        if one["ph"] == "X":
            done[names[one["pid"]]].add(one["name"])
            spans[one["pid"], one["tid"]].append((one["ts"], one["ts"] + one["dur"], one["name"]))
    assert {"worker 0", "worker 1", "ps 0", "ps 1", "master"} == set(names.values())
    # One worker may have come to train all lanes.
    trained = done["worker 0"] | done["worker 1"]
    assert {"lease", "read", "parse", "collect", "trace", "step", "pull_wait"} <= trained
    assert ("barrier_wait" in trained) == bool(mode)
    assert {"gather", "apply"} <= done["ps 0"] & done["ps 1"]
    assert {"grant", "journal"} <= done["master"]
    for of_thread in spans.values():  # A thread does one thing at a time.
        of_thread.sort()
        for (_, ended, _), (began, _, _) in pairwise(of_thread):
            assert began >= ended - 1.0  # microseconds

    figures = json.loads((job.directory / "figures.json").read_text())
    result = json.loads((job.directory / "result.json").read_text())
    assert result["figures"]["steps"] > 0
    for one in figures["instances"]:
        phases, wall_ns = one["now"]["phases"], one["now"]["wall_ns"]
        if one["role"] == "worker" and "step" in phases:
            path_ns = sum(phases[name][2] for name in PATH if name in phases)
            assert 0 < wall_ns < result["seconds"] * 1e9
            # In sync mode both lanes of a worker may wait at a time, if it came to have both.
            assert path_ns <= (2 if mode else 1) * wall_ns
        elif one["role"] == "ps":
            assert phases["gather"][1] + phases["apply"][1] <= wall_ns
    assert main(["jobs", "status", str(job.directory)]) == 0
    shown = capsys.readouterr().out
    assert "succeeded" in shown
    assert "a minibatch: " in shown
    table = (profile_of(job.directory) / "table.txt").read_text()
    assert "bottleneck: " in table
    job.assert_nothing_is_left()


@pytest.mark.timeout(600)
def test_an_input_function_that_takes_its_time_is_the_verdict_also_while_it_runs(start, capsys):
    job = start("--model_def=slow_input.SlowInput", "--num_epochs=2", records=1600)
    # The first steps say little: what a busy machine made them wait for may stand out for a while.
    wait_until("the verdict", lambda: job.running("worker") and _recent(job.directory) == "parse")
    assert main(["jobs", "status", str(job.directory)]) == 0
    assert "bottleneck: workers wait for input" in capsys.readouterr().out
    assert job.wait() == 0, job.terminal()
    assert "bottleneck: workers wait for input" in job.terminal()
    assert not profile_of(job.directory).exists()
    assert jobs.status(str(job.directory))["total"]["bottleneck"]["phase"] == "parse"


def _recent(job: Path) -> str | None:
    """What limits a job now."""
    return (jobs.status(str(job))["recent"].get("bottleneck") or {}).get("phase")
