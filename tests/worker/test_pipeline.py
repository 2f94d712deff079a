"""The input pipeline: every minibatch of every task, in order, and an end for each."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from elasticdl.data.example import encode
from elasticdl.errors import UserCodeError
from elasticdl.model.contract import Contract
from elasticdl.model.mode import Mode
from elasticdl.worker.digests import minibatch_digest
from elasticdl.worker.pipeline import Minibatch, TaskEnd, TaskPipeline
from tests.model_zoos import contract_of

SPEC = """
import tensorflow as tf
from elasticdl import ElasticDLSpec, Mode

TRACES = []

class Spec(ElasticDLSpec):
    def create_model(self):
        return tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1)])
    def create_optimizer(self):
        return tf.keras.optimizers.SGD()
    def create_loss(self, outputs, labels):
        return tf.reduce_mean(outputs)
    def create_dataset(self, dataset, mode):
        TRACES.append(mode)
        def parse(record):
            n = tf.io.parse_single_example(record, {"n": tf.io.FixedLenFeature([], tf.int64)})["n"]
            return {"n": n, "copies": tf.repeat(n, 1)}, n
        dataset = dataset.map(parse)
        return dataset.map(lambda features, labels: features) if mode == Mode.PREDICTION else (
            dataset.filter(lambda features, label: label >= 0)
        )
"""


def records(*numbers: int) -> list[bytes]:
    return [encode({"n": np.array([number])}) for number in numbers]


def pipeline_of(contract: Contract, mode: Mode = Mode.TRAINING, size: int = 4) -> TaskPipeline:
    return TaskPipeline(contract, mode, size, collect=lambda features: (features["n"] * 10,))


def summary(pipeline: TaskPipeline) -> list[tuple]:
    """Return what comes out: (task, k, labels) of minibatches, (task, n) of ends, errors' text."""
    seen: list[tuple] = []
    while True:
        try:
            item = next(pipeline)
        except StopIteration:
            return seen
        except UserCodeError as error:
            seen.append((str(error),))
            continue
        if isinstance(item, TaskEnd):
            seen.append((item.task_id, item.num_minibatches))
        else:
            assert item.num_records == len(item.features["n"])
            np.testing.assert_array_equal(item.ids[0], item.features["n"] * 10)
            seen.append((item.task_id, item.k, item.features["n"].numpy().tolist()))


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    return contract_of(tmp_path, SPEC)


def test_tasks_come_out_in_order_each_followed_by_its_end(contract: Contract) -> None:
    pipeline = pipeline_of(contract)
    pipeline.put(7, records(*range(10)))
    pipeline.put(3, records(1, 2))
    pipeline.close()
    assert summary(pipeline) == [
        (7, 0, [0, 1, 2, 3]),
        (7, 1, [4, 5, 6, 7]),
        (7, 2, [8, 9]),
        (7, 3),
        (3, 0, [1, 2]),
        (3, 1),
    ]


def test_the_first_minibatch_and_the_limit_count_from_the_start_of_the_task(
    contract: Contract,
) -> None:
    pipeline = pipeline_of(contract)
    pipeline.put(0, records(*range(10)), first_minibatch=1)
    pipeline.put(1, records(*range(10)), first_minibatch=1, max_minibatches=2)
    pipeline.put(2, records(*range(10)), first_minibatch=3)
    pipeline.put(3, records(*range(10)), max_minibatches=0)
    pipeline.close()
    assert summary(pipeline) == [
        (0, 1, [4, 5, 6, 7]),
        (0, 2, [8, 9]),
        (0, 3),
        (1, 1, [4, 5, 6, 7]),
        (1, 2),
        (2, 3),
        (3, 0),
    ]


def ends(pipeline: TaskPipeline) -> list[TaskEnd]:
    return [item for item in pipeline if isinstance(item, TaskEnd)]


def test_the_end_tells_all_records_made_and_whether_there_were_more(contract: Contract) -> None:
    pipeline = pipeline_of(contract)
    pipeline.put(0, records(*range(10)), first_minibatch=2)
    pipeline.put(1, records(*range(10)), max_minibatches=2)
    pipeline.put(2, records(*range(8)), max_minibatches=2)
    pipeline.put(3, records(-1, 1, -1), max_minibatches=2)
    pipeline.put(4, [*records(*range(8)), b"not an example"], max_minibatches=2)
    pipeline.close()
    assert ends(pipeline) == [
        TaskEnd(0, 3, num_records=10),
        TaskEnd(1, 2, num_records=8, is_cut=True),
        TaskEnd(2, 2, num_records=8),
        TaskEnd(3, 1, num_records=1),
        TaskEnd(4, 2, num_records=8, is_cut=True),
    ]


def test_filtered_records_make_no_minibatch(contract: Contract) -> None:
    pipeline = pipeline_of(contract)
    pipeline.put(0, records(-1, 1, -1, 2, -1))
    pipeline.put(1, records(-1, -1))
    pipeline.put(2, [])
    pipeline.close()
    assert summary(pipeline) == [(0, 0, [1, 2]), (0, 1), (1, 0), (2, 0)]


def test_the_end_of_a_task_does_not_wait_for_the_next_task(contract: Contract) -> None:
    pipeline = pipeline_of(contract)
    pipeline.put(0, records(1))
    assert isinstance(next(pipeline), Minibatch)
    assert next(pipeline) == TaskEnd(0, 1, num_records=1)
    threading.Timer(0.05, lambda: (pipeline.put(1, records(2)), pipeline.close())).start()
    assert summary(pipeline) == [(1, 0, [2]), (1, 1)]


def test_an_error_drops_the_rest_of_its_task_and_names_it(contract: Contract) -> None:
    pipeline = pipeline_of(contract, size=2)
    pipeline.put(5, [*records(0, 1, 2), b"not an example", *records(4, 5), b"nor this"])
    pipeline.put(6, records(1))
    pipeline.close()
    first, error, *rest = summary(pipeline)
    assert first == (5, 0, [0, 1])
    assert error[0].startswith("create_dataset of 'definition.Spec' in minibatch 1 of task 5: ")
    assert rest == [(6, 0, [1]), (6, 1)]


def test_an_error_of_python_code_carries_its_traceback(tmp_path: Path) -> None:
    code = SPEC.replace("TRACES = []", "TRACES = []\n\ndef halve(n):\n    return 1 // int(n)\n")
    code = code.replace(
        "        def parse(record):",
        "        def parse(record):\n            tf.py_function(halve, [0], tf.int64)",
    )
    pipeline = pipeline_of(contract_of(tmp_path, code))
    pipeline.put(1, records(0))
    pipeline.close()
    with pytest.raises(UserCodeError, match="task 1: ZeroDivisionError") as raised:
        next(pipeline)
    assert "definition.py" in raised.value.traceback_text
    assert "return 1 // int(n)" in raised.value.traceback_text
    assert "script_ops" not in raised.value.traceback_text


def test_values_of_another_shape_than_was_said_are_an_error(tmp_path: Path) -> None:
    untrue = """
            n = tf.ensure_shape(n, [])
            some = tf.numpy_function(lambda n: np.ones(5, np.float32), [n], tf.float32)
            some.set_shape([3])
            return {"n": n, "copies": some}, n
"""
    told = '            return {"n": n, "copies": tf.repeat(n, 1)}, n\n'
    spec = SPEC.replace(told, untrue).replace(
        "import tensorflow", "import numpy as np\nimport tensorflow"
    )
    pipeline = pipeline_of(contract_of(tmp_path, spec))
    pipeline.put(1, records(1, 2))
    pipeline.close()
    with pytest.raises(UserCodeError, match="does not match the expected shape"):
        next(pipeline)


def test_labels_are_absent_in_prediction(contract: Contract) -> None:
    pipeline = pipeline_of(contract, Mode.PREDICTION)
    pipeline.put(0, records(-1, 1))
    pipeline.close()
    minibatch = next(pipeline)
    assert isinstance(minibatch, Minibatch)
    assert minibatch.labels is None
    assert minibatch.features["n"].numpy().tolist() == [-1, 1]


def test_labels_in_prediction_are_ignored(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, SPEC.replace("mode == Mode.PREDICTION", "False"))
    pipeline = pipeline_of(contract, Mode.PREDICTION)
    pipeline.put(0, records(1))
    minibatch = next(pipeline)
    assert isinstance(minibatch, Minibatch)
    assert minibatch.labels is None
    pipeline.close()


def test_the_input_function_is_traced_once_for_all_tasks(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, SPEC)
    pipeline = pipeline_of(contract)
    traces = contract.owner.create_dataset.__globals__["TRACES"]
    before = len(traces)
    for task in range(5):
        pipeline.put(task, records(task))
    pipeline.close()
    assert len(summary(pipeline)) == 10
    assert len(traces) == before == 1


def test_a_shuffle_of_the_users_repeats_in_every_pipeline(tmp_path: Path) -> None:
    code = SPEC.replace("dataset = dataset.map(parse)", "dataset = dataset.shuffle(99).map(parse)")
    orders = []
    for _ in range(2):
        pipeline = pipeline_of(contract_of(tmp_path, code), size=20)
        pipeline.put(0, records(*range(20)))
        pipeline.close()
        orders.append(summary(pipeline))
    assert orders[0] == orders[1]
    assert orders[0][0][2] != list(range(20))


def test_a_report_that_quotes_bytes_is_an_error_like_any_other(contract: Contract) -> None:
    pipeline = pipeline_of(contract)
    pipeline.put(4, [b"\xec\x00\xff"])
    pipeline.put(5, records(1))
    pipeline.close()
    error, *rest = summary(pipeline)
    assert "task 4: " in error[0]
    assert rest == [(5, 0, [1]), (5, 1)]


def digests(contract: Contract, first: int, *numbers: int) -> tuple[list[tuple[int, int]], int]:
    pipeline = TaskPipeline(contract, Mode.TRAINING, 2, digests=True)
    pipeline.put(7, records(*numbers), first)
    pipeline.close()
    *minibatches, end = list(pipeline)
    return [(one.digest_before, one.digest_after) for one in minibatches], end.digest


def test_a_minibatch_tells_what_came_before_it_also_of_what_was_skipped(contract: Contract) -> None:
    whole, end = digests(contract, 0, 1, 2, 3, 4, 5)
    assert [before for before, _ in whole] == [0, *(after for _, after in whole[:-1])]
    assert end == whole[-1][1]
    assert digests(contract, 2, 1, 2, 3, 4, 5) == (whole[2:], end)
    others, other_end = digests(contract, 0, 1, 2, 4, 3, 5)
    assert others[0] == whole[0]
    assert len({end, other_end, whole[1][1], others[1][1]}) == 4


def test_a_digest_is_the_same_in_every_process_and_of_values_alone() -> None:
    ids = np.arange(9, dtype=np.int64)
    shifted = np.frombuffer(b"\0" + ids.tobytes(), np.uint8)[1:]
    assert (
        minibatch_digest((ids,), 9, 0) == minibatch_digest((shifted,), 9, 0) == 17835066506051393331
    )
    texts = [
        minibatch_digest(np.array(one, object), 2, 0) for one in ([b"a", b"bc"], [b"ab", b"c"])
    ]
    assert len({*texts, minibatch_digest((ids,), 9, 1), minibatch_digest((ids,), 8, 0)}) == 4
