"""The benchmark of what watching costs."""

from __future__ import annotations

from benchmarks.watching import Watched, figures_of

ALONE = [Watched(1000.0, 10.0, 1.0, 0)] * 3


def met_with(samples_per_s: float, master_cpu_s: float, seen: int) -> list[bool]:
    watched = [Watched(samples_per_s, 10.0, master_cpu_s, seen)] * 3
    return [one.is_met for one in figures_of(watched, ALONE, cores=2) if one.demand]


def test_watching_that_takes_one_percent_of_the_machine_is_no_more_than_it_may() -> None:
    assert met_with(1000.0, 1.19, seen=20) == [True, True]
    assert met_with(1000.0, 1.21, seen=20) == [False, True]


def test_a_job_that_nobody_saw_was_not_watched() -> None:
    assert met_with(1000.0, 1.0, seen=0) == [True, False]


def test_figures_are_of_each_pair_of_jobs() -> None:
    watched = [Watched(n, 10.0, 1.1, 20) for n in (900.0, 990.0, 2000.0)]
    ratio, more, share, seen = figures_of(watched, ALONE, cores=2)
    assert (ratio.value, seen.value) == (0.99, 2.0)
    assert abs(more.value - 0.1) < 1e-9
    assert abs(share.value - 0.5) < 1e-9
