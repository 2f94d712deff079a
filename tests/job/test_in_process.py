"""Whole jobs in this process: the same master, partitions and worker code, no sockets."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

import elasticdl
from elasticdl.api import jobs
from elasticdl.api.job_backends import PLACE
from elasticdl.api.result import audit_line
from elasticdl.data import example
from elasticdl.data.recordio import Scanner
from elasticdl.errors import JobError, UsageError, UserCodeError
from elasticdl.master.cluster.backend import InstanceEnded
from elasticdl.master.exits import End
from elasticdl.master.instances import InstanceSpec, Role
from elasticdl.master.master import Master
from elasticdl.model.source import read_definition
from elasticdl.model.trained_model import load_parameters
from tests.job.clicks_data import ZOO, write_clicks
from tests.job.real_jobs import wait_until

RECORDS = 600


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> str:
    return write_clicks(tmp_path_factory.mktemp("clicks"), RECORDS)


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path_factory.mktemp("home")))


def train(clicks: str, output, **options) -> elasticdl.api.result.JobResult:
    given = {
        "model_zoo": ZOO,
        "model_def": "clicks.Clicks",
        "data": clicks,
        "output": str(output),
        "num_workers": 0,
        "num_ps": 3,
        "minibatch_size": 32,
        "quiet": True,
    }
    return elasticdl.train(**{**given, **options})


@pytest.fixture(scope="module")
def trained(clicks, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("trained") / "model"
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELASTICDL_HOME", str(home))
        result = train(clicks, path, num_epochs=8, validation_data=clicks)
    assert result.metrics["auc"] > 0.8
    return str(path)


def test_every_record_is_counted_once_and_the_model_learns(clicks, tmp_path):
    result = train(clicks, tmp_path / "out", num_epochs=3, validation_data=clicks)
    assert result.audit["records_expected"] == 3 * RECORDS
    assert result.audit["applied_once"] == {str(index): 3 * RECORDS for index in range(3)}
    assert (result.audit["lost"], result.audit["filtered"], result.audit["skipped"]) == (0, 0, 0)
    assert result.audit == jobs.audit(result.job_name)
    assert [epoch["records"] for epoch in result.history] == [RECORDS] * 3
    losses = [epoch["loss"] for epoch in result.history]
    assert losses[-1] < losses[0]
    assert set(result.metrics) == {"loss", "auc", "accuracy"}


def test_schedules_weight_decay_and_clipping_work_in_a_job_and_change_no_account(clicks, tmp_path):
    result = train(
        clicks,
        tmp_path / "out",
        model_def="clicks.Scheduled",
        num_epochs=4,
        validation_data=clicks,
        staleness_aware_learning_rate=True,
    )
    assert result.audit["applied_once"] == {str(index): 4 * RECORDS for index in range(3)}
    assert (result.audit["lost"], result.audit["skipped"]) == (0, 0)
    losses = [epoch["loss"] for epoch in result.history]
    assert losses[-1] < losses[0]
    assert result.metrics["auc"] > 0.7


def test_a_model_of_a_repository_says_of_which_commit_it_is(clicks, tmp_path, capsys):
    zoo = tmp_path / "models"
    shutil.copytree(ZOO, zoo, ignore=shutil.ignore_patterns("__pycache__"))
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "models"], ["tag", "v1"]):
        subprocess.run(["git", *who, *words], cwd=zoo, check=True, timeout=60)
    url = f"file://{zoo}@v1"
    result = train(clicks, tmp_path / "out", model_zoo=url, quiet=False, max_steps=2)
    assert f"fetching {url}" in capsys.readouterr().out
    head = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(head, cwd=zoo, check=True, capture_output=True, timeout=60).stdout
    definition = read_definition(result.output)
    assert definition.zoo_commit == commit.decode().strip()
    assert definition.zoo_origin == f"file://{zoo}"
    shutil.rmtree(zoo)
    assert elasticdl.evaluate(
        trained_model=result.output, data=clicks, num_workers=0, quiet=True
    ).metrics


def test_filtered_records_are_told_from_lost_ones(clicks, tmp_path):
    result = train(clicks, tmp_path / "out", params="drop_above=449")
    assert result.audit["filtered"] == 150
    assert set(result.audit["applied_once"].values()) == {450}
    assert result.audit["lost"] == 0


def test_records_that_the_input_function_adds_are_counted(clicks, tmp_path):
    result = train(clicks, tmp_path / "out", model_def="clicks.Doubled")
    assert set(result.audit["applied_once"].values()) == {2 * RECORDS}
    assert (result.audit["added"], result.audit["lost"]) == (RECORDS, 0)


def test_max_steps_cannot_be_kept_where_records_are_added(clicks, tmp_path):
    with pytest.raises(JobError, match="max_steps counts on the records"):
        train(clicks, tmp_path / "out", model_def="clicks.Doubled", max_steps=1000)


def test_the_audit_of_an_evaluation_tells_what_was_filtered(clicks, tmp_path):
    options = {"params": "drop_above=449", "validation_data": clicks}
    trained = train(clicks, tmp_path / "out", **options)
    assert trained.audit["evaluation"]["filtered"] == 150
    for audit in (
        elasticdl.evaluate(
            trained_model=trained.output, data=clicks, num_workers=0, quiet=True
        ).audit,
        predict(trained.output, clicks, tmp_path / "p.csv").audit,
    ):
        assert (audit["records_expected"], audit["filtered"], audit["lost"]) == (RECORDS, 150, 0)


@pytest.mark.parametrize("max_steps", [2, 13, 1000])
def test_max_steps_are_exact(clicks, tmp_path, max_steps):
    result = train(clicks, tmp_path / "out", num_epochs=2, max_steps=max_steps, minibatch_size=50)
    assert result.audit["minibatches"] == min(max_steps, 2 * RECORDS // 50)
    assert set(result.audit["applied_once"].values()) == {result.audit["minibatches"] * 50}
    assert result.audit["lost"] == 0


def test_rows_are_admitted_and_evicted_alike_on_any_number_of_servers(clicks, tmp_path):
    params = "rules={'admission_count': 2, 'max_rows': 128, 'evict_after_steps': 9}"
    tables, trained = [], []
    for num_ps in (1, 3):
        out = tmp_path / str(num_ps)
        result = train(clicks, out, params=params, num_epochs=2, num_ps=num_ps, staleness=0)
        (counts,) = result.audit["tables"].values()
        tables.append({name: count for name, count in counts.items() if name != "num_bytes"})
        trained.append(load_parameters(str(out)).tables["rows"])
    assert tables[0] == tables[1]
    assert 0 < tables[0]["rows"] <= 128
    assert min(tables[0]["evicted_rows"], tables[0]["unadmitted_gradients"]) > 0
    np.testing.assert_array_equal(trained[0].ids, trained[1].ids)
    np.testing.assert_allclose(trained[0].rows, trained[1].rows, atol=1e-6)
    assert len(trained[0].ids) == tables[0]["rows"]
    line = audit_line(result.audit)
    assert f"; table rows: {tables[0]['rows']} rows, {tables[0]['evicted_rows']:,} evicted" in line


def test_fewer_rows_than_bucket_groups_are_an_error_before_launch(clicks, tmp_path):
    with pytest.raises(UsageError, match=r"layer 'rows': max_rows 63 .* 64 bucket groups"):
        train(clicks, tmp_path / "out", params="rules={'max_rows': 63}")


def test_a_minibatch_that_is_not_finite_stops_the_job(clicks, tmp_path):
    with pytest.raises(JobError, match=r"not finite.*--on_nan=skip"):
        train(clicks, tmp_path / "out", params="nan_at=333")
    assert not (tmp_path / "out").exists()


def test_or_is_skipped_and_counted(clicks, tmp_path):
    result = train(clicks, tmp_path / "out", params="nan_at=333", on_nan="skip")
    assert result.audit["skipped"] == 32
    assert set(result.audit["applied_once"].values()) == {RECORDS - 32}
    assert result.audit["lost"] == 0


def test_a_record_that_makes_the_input_function_raise_fails_the_job_by_name(clicks, tmp_path):
    with pytest.raises(UserCodeError, match=r"clicks-1.recordio, records \d+ to \d+.*3 times") as e:
        train(clicks, tmp_path / "out", params="fail_at=580")
    assert "a bad record" in e.value.traceback_text
    assert not (tmp_path / "out").exists()


def test_the_output_holds_a_model_already_and_is_kept(clicks, trained, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(trained, copy)
    with pytest.raises(UsageError, match="--overwrite"):
        train(clicks, copy)
    assert (copy / "trained_model.pb").read_bytes()
    train(clicks, copy, overwrite=True)
    assert not [one for one in tmp_path.iterdir() if one.name != "model"], "nothing is left beside"


def predict(trained: str, clicks: str, output, **options):
    return elasticdl.predict(
        trained_model=trained, data=clicks, output=str(output), num_workers=0, quiet=True, **options
    )


def test_predictions_are_in_input_order_in_every_format(clicks, trained, tmp_path):
    columns = {}
    for suffix in ("csv", "parquet", "recordio"):
        output = tmp_path / f"predictions.{suffix}"
        predict(trained, clicks, output, keep_columns="row,label", minibatch_size=50)
        if suffix == "csv":
            with output.open() as file:
                rows = list(csv.DictReader(file))
            assert [int(one["row"]) for one in rows] == list(range(RECORDS))
            columns[suffix] = [float(one["prediction"]) for one in rows]
        elif suffix == "parquet":
            table = pq.read_table(output)
            assert table.column("row").to_pylist() == list(range(RECORDS))
            columns[suffix] = table.column("prediction").to_pylist()
        else:
            examples = [example.decode(record) for record in Scanner(output)]
            assert [int(one["row"][0]) for one in examples] == list(range(RECORDS))
            columns[suffix] = [float(one["prediction"][0]) for one in examples]
    np.testing.assert_allclose(columns["csv"], columns["parquet"], rtol=1e-5)
    np.testing.assert_array_equal(columns["recordio"], columns["parquet"])


def test_evaluation_of_the_trained_model_agrees_with_training(clicks, trained, tmp_path):
    result = elasticdl.evaluate(
        trained_model=trained, data=clicks, num_workers=0, num_ps=2, quiet=True, minibatch_size=37
    )
    again = elasticdl.evaluate(trained_model=trained, data=clicks, num_workers=0, quiet=True)
    assert result.metrics == pytest.approx(again.metrics, abs=1e-6)
    assert result.metrics["auc"] > 0.8
    assert result.audit["records_expected"] == RECORDS
    assert result.audit["lost"] == 0


SERVE = """
import json, sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
features = json.load(open(sys.argv[2]))
outputs = model.signatures["serving_default"](
    ids=tf.constant(features["ids"], tf.int64), number=tf.constant(features["number"], tf.float32)
)
assert not [name for name in sys.modules if name.startswith("elasticdl")]
json.dump(next(iter(outputs.values())).numpy().ravel().tolist(), open(sys.argv[3], "w"))
"""


def test_the_trained_model_is_enough_by_itself(clicks, tmp_path):
    zoo = tmp_path / "zoo"
    shutil.copytree(ZOO, zoo)
    result = train(clicks, tmp_path / "model", model_zoo=str(zoo), num_epochs=2)
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(tmp_path / "model", moved)
    shutil.rmtree(zoo)
    shutil.rmtree(result.job_dir)

    data = write_clicks(tmp_path / "other", 50, num_files=1)
    predict(str(moved), data, tmp_path / "p.parquet")
    predicted = pq.read_table(tmp_path / "p.parquet").column("prediction").to_pylist()

    examples = [example.decode(record) for record in Scanner(data.replace("*", "clicks-0"))]
    features = {
        "ids": np.array([one["ids"] for one in examples]),
        "number": np.array([one["number"] for one in examples], np.float32),
    }
    model = elasticdl.load_model(str(moved))
    np.testing.assert_allclose(np.ravel(model(features)), predicted, atol=1e-6)

    (tmp_path / "features.json").write_text(
        json.dumps({name: value.tolist() for name, value in features.items()})
    )
    served = tmp_path / "served.json"
    arguments = [moved / "saved_model", tmp_path / "features.json", served]
    subprocess.run(
        [sys.executable, "-c", SERVE, *map(str, arguments)],
        check=True,
        cwd=tmp_path,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    np.testing.assert_allclose(json.loads(served.read_text()), predicted, atol=1e-6)


def parameters_of(path) -> dict[str, np.ndarray]:
    with np.load(path / "params.npz") as archive:
        return {name: archive[name] for name in archive.files}


def test_every_call_made_twice_has_the_effect_of_once(clicks, tmp_path, monkeypatch):
    undisturbed = train(clicks, tmp_path / "a", staleness=0, num_epochs=2, validation_data=clicks)
    monkeypatch.setenv("ELASTICDL_FAULTS", "duplicated=1")
    repeated = train(clicks, tmp_path / "b", staleness=0, num_epochs=2, validation_data=clicks)
    monkeypatch.setenv("ELASTICDL_FAULTS", "request_lost=0.2,reply_lost=0.2,in_flight=0.1,seed=11")
    lossy = train(clicks, tmp_path / "c", staleness=0, num_epochs=2, validation_data=clicks)
    for disturbed, output in ((repeated, "b"), (lossy, "c")):
        assert disturbed.metrics == undisturbed.metrics
        assert disturbed.audit["repeats_dropped"] > 0
        same = {"repeats_dropped": 0, **undisturbed.audit}
        assert {**disturbed.audit, "repeats_dropped": 0} == same
        expected, actual = parameters_of(tmp_path / "a"), parameters_of(tmp_path / output)
        assert expected.keys() == actual.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(actual[name], values, err_msg=name)


def test_a_job_on_many_partitions_equals_plain_keras_training(clicks, tmp_path):
    """One worker, no staleness, no shuffling: the same minibatches, Keras's own optimizer."""
    import keras
    import tensorflow as tf

    from tests.job.zoo.clicks import Clicks

    options = {"staleness": 0, "shuffle": False, "records_per_task": RECORDS, "minibatch_size": 50}
    train(clicks, tmp_path / "out", **options, seed=3)
    trained = parameters_of(tmp_path / "out")

    spec = Clicks()
    records = [
        record for index in range(2) for record in Scanner(clicks.replace("*", f"clicks-{index}"))
    ]
    dataset = spec.create_dataset(
        tf.data.Dataset.from_tensor_slices(records), elasticdl.Mode.TRAINING
    ).batch(50)
    # The same initial values: those of a model trained for no step at all.
    train(clicks, tmp_path / "initial", **options, seed=3, max_steps=1, params="lr=1e-30")
    initial = parameters_of(tmp_path / "initial")
    ids = trained["rows/ids"]
    position = {int(one): index for index, one in enumerate(ids)}
    first = elasticdl.load_model(str(tmp_path / "initial"))
    embedding = next(one for one in first._flatten_layers() if one.name == "rows")
    rows = tf.Variable(embedding(tf.constant(ids)))
    dense = {name: tf.Variable(value) for name, value in initial.items() if "/ids" not in name}
    dense.pop("rows/rows")
    kernels = [dense[name] for name in sorted(dense)]
    names = sorted(dense)
    optimizer = keras.optimizers.Adagrad(0.05)
    variables = [keras.Variable(one.numpy()) for one in (*kernels, rows)]
    optimizer.build(variables)
    for features, labels in dataset:
        index = np.vectorize(position.get)(features["ids"].numpy())
        with tf.GradientTape() as tape:
            values = dict(zip(names, [one.value for one in variables[:-1]], strict=True))
            looked_up = tf.reshape(tf.gather(variables[-1].value, index), [len(index), -1])
            hidden = tf.concat([looked_up, features["number"]], axis=1)
            hidden = tf.nn.relu(hidden @ values["dense/kernel"] + values["dense/bias"])
            outputs = hidden @ values["dense_1/kernel"] + values["dense_1/bias"]
            loss = spec.create_loss(outputs, labels)
        gradients = tape.gradient(loss, [one.value for one in variables])
        optimizer.apply([tf.convert_to_tensor(one) for one in gradients], variables)
    for name, variable in zip(names, variables[:-1], strict=True):
        np.testing.assert_allclose(trained[name], variable.numpy(), atol=2e-6, err_msg=name)
    np.testing.assert_allclose(trained["rows/rows"], variables[-1].numpy(), atol=2e-6)


def test_a_parameter_server_that_dies_after_the_last_task_leaves_the_audit_whole(
    clicks, tmp_path, monkeypatch
):
    finish = Master.finish

    def lose_one_first(master: Master):
        lost = InstanceSpec(Role.PS, 1, 1)
        master.coordinator._on_backend_event(InstanceEnded(lost, End.of_exit_code(-signal.SIGKILL)))
        return finish(master)

    expected = train(clicks, tmp_path / "a", num_ps=2)
    monkeypatch.setattr(Master, "finish", lose_one_first)
    result = train(clicks, tmp_path / "b", num_ps=2)
    assert {**result.audit, "tables": {}} == {**expected.audit, "tables": {}}
    assert [one["records"] for one in result.history] == [
        one["records"] for one in expected.history
    ]


def test_it_tells_how_far_it_is_while_it_trains_and_is_found_and_stopped(start):
    job = start("--num_workers=0", "--num_epochs=1000")
    wait_until("progress", lambda: re.search(r"training, epoch .* records", job.terminal()))
    url = re.search(r"dashboard: (http://\S+)", job.terminal())[1]
    name = str(job.directory)
    assert PLACE.find(name).dashboard() == url
    wait_until("a task's end", job.records_done)
    status = jobs.status(name)
    assert status["progress"]["records_done"] > 0
    assert {one["role"] for one in status["instances"]} >= {"ps", "worker"}
    with pytest.raises(JobError, match="it is one process"):
        jobs.scale(name, num_workers=2)
    assert job.process.poll() is None
    jobs.stop(name)
    assert job.wait() == 1
    assert "stopped on request" in job.terminal()
    assert jobs.wait(name)["state"] == "stopped"


def test_its_events_are_told_while_it_trains(start):
    job = start("--num_workers=0", "--num_epochs=1000", "--json_events")
    wait_until("the end of an epoch", lambda: '"kind": "epoch"' in job.terminal())
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGINT)
    assert job.wait() == 130
