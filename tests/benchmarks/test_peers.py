import os

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.peers import data, quality, ratios
from benchmarks.peers.clicks import Clicks
from benchmarks.peers.contestant import Answer, Request, measure, run_together
from benchmarks.peers.datasets import endless
from benchmarks.peers.job import FILES, options, speeds_of
from benchmarks.peers.step import clicks_step, zoo_step
from benchmarks.peers.workloads import WORKLOADS
from elasticdl.data.readers import open_reader
from elasticdl.data.schema import arrays_of
from elasticdl.job_spec import JobSpec
from elasticdl.master.journal import Entry
from elasticdl.model.mode import Mode

SIZE = 8


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("peers")
    clicks = Clicks()
    train, test = (clicks.minibatches(count, SIZE, seed) for count, seed in ((3, 1), (1, 2)))
    data.write(directory, SIZE, train, test)
    return directory


def test_a_minibatch_of_clicks_has_about_9_600_distinct_ids():
    minibatches = Clicks().minibatches(20, 1024, 1)
    distinct = [len(np.unique(each["categorical"])) for each in minibatches]
    assert 9_500 < np.mean(distinct) < 9_800


def test_all_forms_hold_the_same_records_and_a_job_reads_them_alike(directory):
    expected = list(data.read_minibatches(directory))
    together = {name: np.concatenate([one[name] for one in expected]) for name in expected[0]}
    reader = open_reader(str(directory / "train.arrow"), 1 << 28)
    rows = reader.read(0, 3 * SIZE, reader.schema())
    arrow = dict(zip(together, arrays_of(rows, reader.schema(), "here"), strict=True))
    workload = WORKLOADS["deepfm"]
    contract = workload.contract()
    records = open_reader(str(directory / "train.recordio"), 1 << 28).read(0, 3 * SIZE, ())
    parsed = contract.dataset(tf.data.Dataset.from_tensor_slices(records), Mode.TRAINING)
    ready = contract.dataset(tf.data.Dataset.from_tensors(arrow), Mode.TRAINING)
    for dataset in (parsed.batch(3 * SIZE), ready):
        features, labels = next(iter(dataset))
        for name, values in {**features, "label": labels}.items():
            np.testing.assert_array_equal(values, together[name])


@pytest.mark.parametrize("form", FILES)
def test_a_jobs_options_are_those_of_elasticdl_train(directory, form):
    given = options(Request("deepfm", str(directory), form, 0, 0, num_workers=2), "async")
    spec = JobSpec.resolve("train", {**given, "output": "there"})
    assert (spec.staleness, spec.num_ps, spec.shuffle) == (2, 1, False)


def test_the_step_alone_is_timed_without_its_warm_up(directory):
    step, calls = clicks_step(Request("deepfm", str(directory), "ready", 0, 0)), []

    def counted():
        calls.append(step())

    found = measure(counted, Request("deepfm", str(directory), "ready", 0.05, 0.05), SIZE)
    loss, of_variables, of_rows = calls[0]
    assert float(loss) == pytest.approx(np.log(2), abs=1.0)
    assert len(of_variables) == 8
    assert of_rows.shape[1] == 16
    assert 0 < found.samples < len(calls) * SIZE


def test_processes_that_are_measured_together_add_up(directory):
    core = min(os.sched_getaffinity(0))
    request = Request("deepfm", str(directory), "ready", 0.1, 0.5, cores=(core,))
    found = run_together("benchmarks.peers.step", [request, request])
    # Each has half of the core at most, so that together they use about all of it.
    assert found.samples > 2 * WORKLOADS["deepfm"].minibatch_size
    assert 0 < found.cpu_seconds["process"] < 1.5 * found.seconds


def test_speed_is_that_of_each_workers_whole_tasks():
    tasks = [[task, "TRAINING", 0, "file", 0, 100, 0, "", None] for task in range(9)]
    entries = [Entry(1, 0.0, "tasks", {"tasks": tasks})]

    def closed(task, worker, at):
        entries.append(Entry(0, at - 1, "granted", {"task": task, "worker": worker}))
        entries.append(Entry(0, at, "done", {"task": task, "kind": "TRAINING"}))

    for number in range(4):
        closed(number, worker=0, at=10.0 + number)  # 100 records a second
        closed(4 + number, worker=1, at=10.5 + 2 * number)  # 50 a second
    closed(8, worker=2, at=12.0)  # too few to tell
    assert speeds_of(entries, 9.0, 20.0) == {0: pytest.approx(100), 1: pytest.approx(50)}
    assert speeds_of(entries, 11.5, 13.5) == {}


def test_processor_time_is_told_per_million_samples():
    told = Answer(2_000_000, 10.0, {"ps": 4.0}).as_dict()
    assert told == {"samples_per_s": 200_000, "cpu_seconds_per_million": {"ps": 2.0}}


def test_a_ratio_is_the_median_over_the_rounds_and_the_best_of_each_side_counts():
    rounds = {
        "ours_async_1": [60.0, 60.0, 60.0],
        "ours_async_2": [90.0, 60.0, 90.0],
        "ceiling_all_cores": [100.0, 120.0, 180.0],
        "pss_1": [10.0, 10.0, 10.0],
        "pss_2": [20.0, 50.0, 20.0],
    }
    shared, pss = ratios.ratios(rounds, {"sharing": 0.65})
    assert (shared.median, shared.lowest, shared.highest) == (0.5, 0.5, 0.9)
    assert not shared.is_met
    assert (pss.median, pss.target, pss.is_met) == (4.5, None, True)
    assert "ours_async_2 / pss_2" in pss.text


@pytest.mark.parametrize("form", ["ready", "parsed"])
def test_others_train_on_the_same_minibatches_in_the_same_order(directory, form):
    given = endless(Request("deepfm", str(directory), form, 0, 0))
    expected = list(data.read_minibatches(directory))
    for (features, labels), minibatch in zip(given.take(6), expected * 2, strict=True):
        for name, values in {**features, "label": labels}.items():
            np.testing.assert_array_equal(values, minibatch[name])


@pytest.mark.parametrize("model", ["census", "mnist", "resnet"])
def test_models_of_the_zoo_take_columns_that_are_ready(tmp_path, model):
    workload = WORKLOADS[model]
    workload.make(tmp_path, 2)
    layout = data.Layout.load(tmp_path)
    assert (layout.minibatch_size, layout.num_minibatches) == (workload.minibatch_size, 2)
    loss, gradients = zoo_step(Request(model, str(tmp_path), "ready", 0, 0))()
    assert np.isfinite(float(loss))
    assert all(each is not None for each in gradients)


def test_a_job_is_as_good_unless_the_comparison_says_worse():
    def compared(verdict):
        others = {"ours_async": {"verdict": "same"}, "keras_fit": {"verdict": "worse"}}
        return {"next_to_keras_fit": {**others, "ours_sync": {"verdict": verdict}}}

    assert quality.is_met(compared("unclear"))
    assert not quality.is_met(compared("worse"))


def test_bfloat16_on_the_wire_may_change_the_quality_by_a_thousandth_either_way():
    assert quality.is_wire_met({"changes": {"async": -0.0009, "sync": 0.001}})
    assert not quality.is_wire_met({"changes": {"async": -0.0011, "sync": 0.0}})
    assert not quality.is_wire_met({"changes": {"async": 0.0, "sync": 0.0011}})
