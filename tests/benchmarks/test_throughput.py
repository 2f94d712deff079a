import time

import numpy as np
import pytest

from benchmarks.throughput import Run, Settings, show, summarize
from benchmarks.workloads import WORKLOADS
from elasticdl.data import recordio
from elasticdl.data.example import encode


def test_the_median_run_counts():
    runs = [Run(1000, training_seconds=t, whole_seconds=2 * t) for t in (1.0, 2.0, 50.0)]
    summary = summarize(runs)
    assert summary["samples_per_s"] == pytest.approx(500)
    assert summary["whole_samples_per_s"] == pytest.approx(250)
    assert summary["training_seconds"] == 2.0


def test_the_table_says_what_its_columns_include(capsys):
    runs = summarize([Run(1000, training_seconds=1.0, whole_seconds=2.0)])
    settings = Settings("mnist", 32, 1, num_workers=2, num_ps=1, runs=1)
    machine = {"cpu": "a processor", "cores": 2}
    result = {
        "job": runs,
        "sync": runs,
        "fit": runs,
        "ratio": 1.0,
        "whole_ratio": 1.0,
        "machine": machine,
    }
    show({**result, "settings": vars(settings)})
    shown = capsys.readouterr().out
    assert "--consistency=sync" in shown
    assert "training: of the job, first task granted to last one closed" in shown
    assert "of fit, model.fit alone" in shown
    assert "whole:" in shown


def test_reading_records_and_building_the_model_are_no_part_of_fits_training(tmp_path, monkeypatch):
    from benchmarks import fit

    with recordio.Writer(tmp_path / "a.recordio") as writer:
        for label in range(8):
            writer.write(encode({"image": np.zeros(784, np.float32), "label": label}))
    scanner = recordio.Scanner

    def slow_scanner(path):
        time.sleep(0.5)
        return scanner(path)

    monkeypatch.setattr(recordio, "Scanner", slow_scanner)
    result = fit.fit(WORKLOADS["mnist"], str(tmp_path / "*.recordio"), 4, num_epochs=1)
    assert result.records == 8
    assert 0 < result.training_seconds < result.call_seconds - 0.5
