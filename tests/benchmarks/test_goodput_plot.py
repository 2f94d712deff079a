"""The picture of a job's goodput: what it shows, and that any browser can read it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.goodput_plot import BIN_S, Panel, draw

SVG = "{http://www.w3.org/2000/svg}"


def samples_of(*speeds: float) -> list[tuple[float, int]]:
    """A sample a second, of jobs that count so many records in each span of the plot."""
    seconds = int(BIN_S)
    counted, samples = 0, [(0.0, 0)]
    for number in range(len(speeds) * seconds):
        counted += int(speeds[number // seconds])
        samples.append((number + 1.0, counted))
    return samples


def test_speeds_are_of_spans_of_time_and_show_a_pause():
    panel = Panel("", samples_of(100, 100, 0, 40), [])
    assert [speed for _, speed in panel.speeds()] == [100, 100, 0, 40]
    assert [at for at, _ in panel.speeds()] == [BIN_S * (n + 0.5) for n in range(4)]


def test_a_new_master_that_does_not_know_the_last_records_makes_no_speed_of_its_own():
    panel = Panel("", [(0.0, 0), (2.0, 200), (4.0, 150), (6.0, 200), (8.0, 300)], [])
    assert [speed for _, speed in panel.speeds()] == [100, 0, 0, 50]


def test_every_job_is_drawn_with_its_kills_where_they_were():
    panels = [
        Panel("undisturbed", samples_of(*10 * [100]), []),
        Panel("kills & spares", samples_of(*5 * [100, 0]), [(5.0, "worker"), (10.0, "ps")]),
    ]
    root = ElementTree.fromstring(draw(panels, "a <model>", usual_per_s=100))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"a <model>", "undisturbed", "kills & spares"} <= set(texts)
    lines = [one for one in root.iter(f"{SVG}polyline") if one.get("class") == "speed"]
    points = [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in lines
    ]
    assert [len(one) for one in points] == [10, 10]
    steady, disturbed = ([y for _, y in one] for one in points)
    assert len(set(steady)) == 1
    assert len(set(disturbed[::2])) == len(set(disturbed[1::2])) == 1
    assert disturbed[0] < disturbed[1], "a pause is below, and y grows downwards"
    kills = [one for one in root.iter(f"{SVG}line") if one.get("class") == "kill"]
    assert [kill.find(f"{SVG}title").text for kill in kills] == [
        "5.0 s: a worker",
        "10.0 s: a parameter server",
    ]
    (first, _), (last, _) = points[1][0], points[1][-1]
    at_s = [20 * (float(kill.get("x1")) - first) / (last - first) for kill in kills]
    assert at_s[1] - at_s[0] == pytest.approx(5.0 * 20 / (20 - BIN_S), abs=0.1)


def test_jobs_that_counted_nothing_are_drawn_too():
    draw([Panel("", [(0.0, 5), (3.0, 5)], [])], "", usual_per_s=0.0)
