"""The figures of all instances of a job, through deaths and another master."""

from __future__ import annotations

import json

import pytest

from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.job_figures import WINDOW_S, JobFigures, read_figures
from elasticdl.phases import Figures, Phase, Spent

S = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def worker(index: int = 0, incarnation: int = 1) -> InstanceSpec:
    return InstanceSpec(Role.WORKER, index, incarnation)


def counted(steps: int, step_s: int, parse_s: int = 0) -> Figures:
    phases = {Phase.STEP: Spent(steps, step_s * S, step_s * S)}
    if parse_s:
        phases[Phase.PARSE] = Spent(steps, parse_s * S, parse_s * S)
    return Figures((step_s + parse_s) * S, 1.0, phases)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def figures(tmp_path, clock) -> JobFigures:
    return JobFigures(tmp_path / "figures.json", clock=clock)


def test_what_a_worker_that_died_did_is_counted_with_what_its_successor_does(figures):
    figures.note(worker(0, 1), counted(100, 10))
    figures.note(worker(0, 2), counted(1, 1))
    figures.note(worker(0, 2), counted(50, 5))
    figures.note(worker(0, 1), counted(999, 99))  # It came late.
    figures.note(worker(1, 1), counted(7, 1))
    total = figures.describe()["total"]
    assert total["steps"] == 157
    assert total["roles"]["worker"]["instances"] == 2
    assert total["roles"]["worker"]["phases"]["step"]["seconds"] == pytest.approx(16)


def test_what_a_master_counts_begins_at_nothing_and_never_becomes_less(tmp_path, clock):
    def steps(figures: JobFigures) -> int:
        return figures.of_this_master()["worker"].of(Phase.STEP).count

    path = tmp_path / "figures.json"
    first = JobFigures(path, 1, clock=clock)
    first.note(worker(0, 1), counted(100, 10))
    first.note(worker(1, 1), counted(40, 4))
    assert steps(first) == 140
    first.save()
    first.note(worker(0, 1), counted(120, 12))  # It is killed before it saves that.
    second = JobFigures(path, 2, clock=clock)
    told = [steps(second)]
    for spec, figures in (
        (worker(1, 1), counted(45, 5)),
        (worker(0, 2), counted(3, 1)),  # The life before it was never heard again.
        (worker(1, 1), counted(50, 5)),
    ):
        second.note(spec, figures)
        told.append(steps(second))
    assert told == [0, 5, 8, 13]
    assert second.describe()["total"]["steps"] == 153, "the job's own figures go on"
    before = second.of_this_master()["master"]
    assert second.of_this_master()["master"].wall_ns >= before.wall_ns >= 0


def test_the_last_seconds_have_a_bottleneck_of_their_own(figures, clock):
    figures.note(worker(), counted(1000, 100))
    clock.now += 1.0
    figures.note(worker(), counted(1020, 101, parse_s=19))
    described = figures.describe()
    assert described["total"]["bottleneck"]["phase"] == "step"
    assert described["recent"]["bottleneck"]["phase"] == "parse"
    assert described["recent"]["bottleneck"]["share"] == pytest.approx(0.95)
    clock.now += WINDOW_S + 1.0  # Nobody was heard of.
    assert figures.describe()["recent"]["bottleneck"] is None


def test_the_last_seconds_are_no_longer_than_the_window(figures, clock):
    for second in range(100):
        figures.note(worker(), counted(10 * second, second))
        clock.now += 1.0
    steps = figures.describe()["recent"]["steps"]
    assert 10 * WINDOW_S - 10 <= steps <= 10 * WINDOW_S + 10


def test_a_master_that_was_relaunched_goes_on_with_what_was_saved(figures, clock, tmp_path):
    figures.note(worker(0, 1), counted(100, 10))
    figures.note(worker(0, 2), counted(40, 4))
    figures.save()
    again = JobFigures(tmp_path / "figures.json", incarnation=2, clock=clock)
    assert again.describe()["total"]["steps"] == 140
    again.note(worker(0, 2), counted(60, 6))  # All of its life, as it lives on.
    assert again.describe()["total"]["steps"] == 160
    again.note(worker(0, 3), counted(5, 1))
    assert again.describe()["total"]["steps"] == 165


def test_they_are_saved_now_and_then_and_a_file_that_is_damaged_is_begun_anew(
    figures, clock, tmp_path
):
    path = tmp_path / "figures.json"
    figures.note(worker(), counted(100, 10))
    figures.save_if_due()
    assert not path.exists()
    clock.now += 60.0
    figures.note(worker(), counted(200, 20))
    figures.save_if_due()
    assert read_figures(path)["total"]["steps"] == 200
    path.write_text('{"instances": [{"ro')
    assert JobFigures(path, clock=clock).describe()["total"]["steps"] == 0


def test_they_are_plain_values(figures):
    figures.note(worker(), counted(100, 10))
    figures.note(InstanceSpec(Role.PS, 0, 1), Figures(10 * S, 1.0, {Phase.APPLY: Spent(9, S, 0)}))
    described = json.loads(json.dumps(figures.describe()))
    apply = described["total"]["roles"]["ps"]["phases"]["apply"]
    assert apply == {"count": 9, "seconds": 1.0, "path_seconds": 0.0, "share": pytest.approx(0.1)}
