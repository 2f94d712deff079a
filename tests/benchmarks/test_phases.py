"""The benchmark of what counting costs."""

from __future__ import annotations

from benchmarks.phases import measure, minibatch_of
from elasticdl.phases import Phase, Phases


def test_a_minibatch_of_the_benchmark_counts_what_one_of_a_worker_does():
    phases = Phases()
    minibatch = minibatch_of(phases, num_ps=2)
    for _ in range(3):
        minibatch()
    figures = phases.figures("worker")
    counts = {phase: spent.count for phase, spent in figures.phases.items()}
    assert counts == {
        Phase.PARSE: 3,
        Phase.COLLECT: 6,
        Phase.TRACE: 1,
        Phase.STEP: 2,
        Phase.PULL_WAIT: 3,
        Phase.PUSH_WAIT: 6,
        Phase.PUSH: 6,
    }


def test_it_measures_with_and_without_a_trace():
    found = measure(num_ps=1, rounds=1, minibatches=50)
    assert found["counted_us"] > 0
    assert found["traced_us"] > 0
