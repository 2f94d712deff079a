"""What the benchmark of elastic jobs counts and draws, and the service that it asks."""

from __future__ import annotations

import socket
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from benchmarks.area_plot import Panel, draw
from benchmarks.cluster_usage import (
    Sample,
    fit,
    mean_requested,
    mean_used,
    steps,
    used_by_window,
)
from benchmarks.elastic_cluster import (
    ALONE,
    ELASTIC,
    GANG,
    TOGETHER,
    figures_of_jobs,
    figures_of_service,
    p99_by_window,
    picture_of_jobs,
    picture_of_service,
)
from benchmarks.latency_service import load, quantile
from tests.cluster.processes import wait_until

SAMPLES = [
    Sample(100.0, {"first": 1.0}, 10.0),
    Sample(102.0, {"first": 1.0, "second": 0.5}, 12.0),
    Sample(103.0, {}, 14.0),
]


def test_pods_fit_where_each_finds_a_node() -> None:
    free = {"a": 0.5, "b": 0.3}
    assert fit([0.2, 0.2, 0.3], free)
    assert not fit([0.4, 0.4], free)
    assert fit([], {})
    assert not fit([0.1], {})


def test_means_are_over_time() -> None:
    assert mean_requested(SAMPLES) == pytest.approx((2 * 1.0 + 1 * 1.5) / 3)
    assert mean_used(SAMPLES) == pytest.approx(4 / 3)


def test_steps_are_where_other_cores_are_requested() -> None:
    same = Sample(101.0, {"first": 1.0}, 11.0)
    told = steps([SAMPLES[0], same, *SAMPLES[1:]], began=100.0)
    # The last one tells until when the last step held.
    assert [one["at_s"] for one in told] == [0.0, 2.0, 3.0, 3.0]
    assert [one["requested"] for one in told[:3]] == [one.requested for one in SAMPLES]


def test_use_is_told_of_spans_of_seconds() -> None:
    samples = [Sample(100.0 + at, {}, 2.0 * at) for at in range(12)]
    assert used_by_window(samples, began=100.0) == [(2.5, 2.0), (7.5, 2.0)]


def test_answers_are_slow_in_the_span_in_which_they_were_asked_for() -> None:
    asked = [(0.5, 10.0), (4.0, 30.0), (7.0, 12.0)]
    assert p99_by_window(asked) == [(2.5, 30.0), (7.5, 12.0)]


def test_a_quantile_is_one_of_the_values() -> None:
    assert quantile(range(100), 0.99) == 99
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([7.0], 0.99) == 7.0


def test_areas_lie_upon_each_other() -> None:
    panel = Panel("cores", "cores", [0.0, 5.0, 10.0], {"a": [1, 2, 0], "b": [1, 1, 3]}, mark=4.0)
    assert panel.most == 4.0
    tree = ET.fromstring(draw("two", [panel]))
    areas = [one for one in tree.iter() if one.get("class") == "area"]
    lowest = [[float(point.split(",")[1]) for point in one.get("points").split()] for one in areas]
    # What "b" begins upon is what "a" ends with.
    assert set(lowest[0][: len(lowest[0]) // 2]) == set(lowest[1][len(lowest[1]) // 2 :])
    assert len([one for one in tree.iter() if one.get("class") == "mark"]) == 1


def a_run(**more: object) -> dict:
    used = [(2.5, 1.25), (7.5, 1.0)]
    return {"allocatable": 1.5, "steps": steps(SAMPLES, 100.0), "used_by_window": used, **more}


def test_two_jobs_are_compared_with_gang_scheduling() -> None:
    found = {
        GANG: a_run(total_s=800.0, mean_requested=1.0, mean_used=0.8),
        ELASTIC: a_run(total_s=600.0, mean_requested=1.3, mean_used=1.0),
    }
    figures = {one.name: one for one in figures_of_jobs(found)}
    assert figures["two jobs: total, elastic/gang"].value == 0.75
    assert figures["two jobs: cores requested, elastic/gang"].value == 1.3
    assert all(one.is_met for one in figures.values())
    assert "elastic: 600 s, 1.30 of 1.50 cores" in picture_of_jobs(found)


def test_a_service_is_compared_with_itself_alone() -> None:
    latencies = p99_by_window([(0.5, 10.0), (7.0, 12.0)])
    alone = a_run(
        p50_ms=4.0, p99_ms=10.0, used=0.2, requested=0.4, ready_s=[1.0], p99_by_window=latencies
    )
    more = {"p99_ms": 13.0, "used": 1.4, "requested": 1.5, "errors": ["refused"]}
    found = {ALONE: alone, TOGETHER: {**alone, **more}}
    figures = {one.name: one for one in figures_of_service(found)}
    assert not figures["service: p99, with a job/alone"].is_met
    assert figures["service with a job: not answered"].value == 1
    assert not figures["service with a job: not answered"].is_met
    assert figures["service with a job: cores used/allocatable"].is_met
    assert figures["service alone: p99/median"].is_met
    assert "with a job: p99 13.0 ms" in picture_of_service(found)
    stood_still = figures_of_service(
        {ALONE: {**alone, "p99_ms": 4800.0}, TOGETHER: found[TOGETHER]}
    )
    assert "service alone: p99/median" in [one.name for one in stood_still if not one.is_met]


def test_answers_are_timed_from_when_they_were_asked_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.latency_service", "serve", f"--port={port}"]
    served = subprocess.Popen(command)
    try:

        def listens() -> bool:
            with socket.socket() as tried:
                return tried.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listens, "the service listens", 30)
        heard = load(f"http://127.0.0.1:{port}/", per_s=50.0, secs=0.5, seed=1)
        served.terminate()
        assert served.wait(30) == 0
    finally:
        served.kill()
        served.wait()
    assert heard["errors"] == []
    assert len(heard["latencies"]) > 10
    assert all(took > 0 for _, took in heard["latencies"])
    nobody = load(f"http://127.0.0.1:{port}/", per_s=50.0, secs=0.2, seed=1)
    assert nobody["latencies"] == []
    assert "refused" in nobody["errors"][0]
