import pytest

from benchmarks.throughput import Run, summarize


def test_the_median_run_counts():
    runs = [Run(1000, training_seconds=t, whole_seconds=2 * t) for t in (1.0, 2.0, 50.0)]
    summary = summarize(runs)
    assert summary["samples_per_s"] == pytest.approx(500)
    assert summary["whole_samples_per_s"] == pytest.approx(250)
    assert summary["training_seconds"] == 2.0
