"""The trace and the table that are made of what instances wrote."""

from __future__ import annotations

import json
import threading
from time import perf_counter_ns

from elasticdl.api.profile import (
    bottleneck_line,
    minibatch_line,
    phase_rows,
    profile_of,
    write_profile,
)
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_figures import FILE_NAME, JobFigures
from elasticdl.phases import Figures, Phase, Spent
from elasticdl.trace_file import TraceFile

MS = 1_000_000
WORKER = Figures(
    100 * MS,
    0.1,
    {Phase.STEP: Spent(20, 60 * MS, 60 * MS), Phase.PULL_WAIT: Spent(20, 30 * MS, 30 * MS)},
)
SERVER = Figures(100 * MS, 0.1, {Phase.GATHER: Spent(20, 30 * MS), Phase.APPLY: Spent(20, 40 * MS)})


def write_events(trace: TraceFile, count: int, name: str = "step") -> None:
    for _ in range(count):
        began = perf_counter_ns()
        trace.add(name, "worker", began, began + MS)


def events_of(directory) -> list[dict]:
    trace = json.loads((profile_of(directory) / "trace.json").read_text())
    return trace["traceEvents"]


def save_figures(directory) -> None:
    figures = JobFigures(directory / FILE_NAME)
    figures.note(InstanceSpec(Role.WORKER, 0, 1), WORKER)
    figures.note(InstanceSpec(Role.PS, 0, 1), SERVER)
    figures.save()


def test_the_trace_has_the_events_of_every_instance_under_its_name(tmp_path):
    for name in ("worker-0.1", "worker-0.2", "ps-0.1", "master-0.1"):
        trace = TraceFile(tmp_path, name)
        write_events(trace, 3)
        thread = threading.Thread(target=write_events, args=(trace, 2, "read"), name="leases")
        thread.start()
        thread.join()
        trace.close()
    write_profile(tmp_path)
    events = events_of(tmp_path)
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(names.values()) == ["master", "ps 0", "worker 0", "worker 0, incarnation 2"]
    done = [event for event in events if event["ph"] == "X"]
    assert len(done) == 4 * 5
    assert {event["pid"] for event in done} == set(names)
    assert min(event["ts"] for event in done) == 0
    threads = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert threads.count("leases") == 4


def test_a_long_trace_keeps_its_beginning_and_its_end(tmp_path):
    trace = TraceFile(tmp_path, "worker-0.1", most_events=10)
    for number in range(1000):
        write_events(trace, 1, f"{number}")
    trace.close()
    parts = list((profile_of(tmp_path) / "parts").iterdir())
    assert len(parts) == 3
    write_profile(tmp_path)
    kept = [int(event["name"]) for event in events_of(tmp_path) if event["ph"] == "X"]
    assert kept == [*range(10), *range(980, 1000)]


def test_a_line_that_a_killed_process_did_not_finish_is_left_out(tmp_path):
    trace = TraceFile(tmp_path, "worker-0.1")
    write_events(trace, 2)
    trace.close()
    (part,) = (profile_of(tmp_path) / "parts").iterdir()
    part.write_text(part.read_text() + '{"name":"step","cat":"wor')
    write_profile(tmp_path)
    assert len([event for event in events_of(tmp_path) if event["ph"] == "X"]) == 2


def test_a_trace_goes_on_when_the_job_does(tmp_path):
    for incarnation in (1, 2):
        trace = TraceFile(tmp_path, f"worker-0.{incarnation}")
        write_events(trace, 2)
        trace.close()
        write_profile(tmp_path)
    assert len([event for event in events_of(tmp_path) if event["ph"] == "X"]) == 4


def test_the_table_says_what_a_minibatch_takes_in_every_role(tmp_path):
    trace = TraceFile(tmp_path, "worker-0.1")
    write_events(trace, 3)
    trace.close()
    save_figures(tmp_path)
    write_profile(tmp_path)
    table = (profile_of(tmp_path) / "table.txt").read_text().splitlines()
    assert table[0].startswith("bottleneck: the step itself (67% of the workers’ time)")
    assert table[1] == "a minibatch: step 3.0 ms (67%), pull wait 1.5 ms (33%)"
    cells = [line.split() for line in table[4:]]
    assert ["worker", "step", "20", "0.06", "3.000", "3.000", "67%", "1.000", "1.000"] in cells
    assert ["ps", "apply", "20", "0.04", "2.000", "40%"] in cells


def test_nothing_is_said_of_a_job_that_has_done_nothing(tmp_path):
    write_profile(tmp_path)
    assert not profile_of(tmp_path).exists()
    assert (bottleneck_line({}), minibatch_line({}), phase_rows({})) == ("", "", [])
