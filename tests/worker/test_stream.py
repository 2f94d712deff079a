"""The stream of minibatches: which parameters each is given."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from elasticdl.data.example import encode
from elasticdl.model.contract import Contract
from elasticdl.model.mode import Mode
from elasticdl.proto import ps_pb2
from elasticdl.ps.client import StaleCluster
from elasticdl.ps.pulling import Pulled
from elasticdl.ps.push_queue import PushQueue
from elasticdl.worker.pipeline import TaskPipeline
from elasticdl.worker.stream import DenseUse, MinibatchStream, Prepared
from tests.model_zoos import contract_of
from tests.partitions import MODEL, Servers

NUM_MINIBATCHES = 12
SPEC = """
import tensorflow as tf
from elasticdl import ElasticDLSpec

class Spec(ElasticDLSpec):
    def create_model(self):
        return tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1)])
    def create_optimizer(self):
        return tf.keras.optimizers.SGD()
    def create_loss(self, outputs, labels):
        return tf.reduce_mean(outputs)
    def create_dataset(self, dataset, mode):
        parse = lambda record: tf.io.parse_single_example(
            record, {"n": tf.io.FixedLenFeature([], tf.int64)})["n"]
        return dataset.map(lambda record: (parse(record), parse(record)))
"""


def without_tables() -> ps_pb2.ModelDefinition:
    model = ps_pb2.ModelDefinition()
    model.CopyFrom(MODEL)
    del model.tables[:]
    return model


@pytest.fixture(params=["rows and dense", "dense alone"])
def servers(request: pytest.FixtureRequest) -> Servers:
    return Servers(2) if request.param == "rows and dense" else Servers(2, model=without_tables())


@pytest.fixture
def pipeline(tmp_path: Path, servers: Servers) -> TaskPipeline:
    tables = servers.layout.model.tables
    made = TaskPipeline(
        contract_of(tmp_path, SPEC),
        Mode.TRAINING,
        2,
        collect=(lambda n: (n,)) if tables else None,
    )
    made.put(9, [encode({"n": np.array([n])}) for n in range(2 * NUM_MINIBATCHES)])
    return made


def prepared(stream: MinibatchStream) -> Prepared:
    item = stream.next()
    assert isinstance(item, Prepared)
    return item


def all_of(stream: MinibatchStream) -> list[Prepared]:
    return [prepared(stream) for _ in range(NUM_MINIBATCHES)]


def push(servers: Servers, item: Prepared, index: int) -> None:
    """Push gradients of one, so that a pulled version says how many pushes it has seen."""
    rows = [np.ones((len(unique), 3), np.float32) for unique in item.lookup.unique]
    header = ps_pb2.PushHeader(task=9, k=item.minibatch.k, num_records=2)
    servers.client.push(index, header, item.lookup, rows, np.ones(287, np.float32))


def trained(servers: Servers, pipeline: TaskPipeline, staleness: int) -> list[Pulled]:
    """Return what every minibatch of a task was computed from, pushes going on beside it."""
    pushes = PushQueue(servers.client)
    stream = MinibatchStream(
        pipeline,
        servers.client,
        before_pull=lambda position: pushes.wait(position - staleness),
        most_ahead=staleness + 1,
        dense_use=DenseUse.within(staleness),
    )
    found = []
    for _ in range(NUM_MINIBATCHES):
        item = prepared(stream)
        found.append(item.pull.result())
        pushes.put(lambda index, item=item: push(servers, item, index))
    pushes.wait(NUM_MINIBATCHES)
    stream.close()
    pushes.close()
    return found


@pytest.mark.parametrize("staleness", [0, 1, 2, 3, 4, 7])
def test_each_minibatch_has_seen_all_pushes_but_as_many_as_the_staleness_says(
    servers: Servers, pipeline: TaskPipeline, staleness: int
) -> None:
    found = trained(servers, pipeline, staleness)

    for k, pulled in enumerate(found):
        assert min(pulled.versions) >= k - staleness
        assert pulled.dense is not None
        assert 0.5 * (k - staleness) <= np.max(np.arange(287) - pulled.dense)  # SGD of 0.5


@pytest.mark.parametrize(("staleness", "served"), [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)])
def test_a_pull_of_dense_variables_serves_as_many_minibatches_as_the_staleness_allows(
    servers: Servers, pipeline: TaskPipeline, staleness: int, served: int
) -> None:
    found = trained(servers, pipeline, staleness)

    assert len({id(pulled.dense) for pulled in found}) == NUM_MINIBATCHES // served


def test_dense_variables_that_do_not_change_are_pulled_once(
    servers: Servers, pipeline: TaskPipeline
) -> None:
    stream = MinibatchStream(pipeline, servers.client, dense_use=DenseUse.forever())

    found = [prepared(stream).pull.result() for _ in range(NUM_MINIBATCHES)]

    stream.close()
    assert len({id(pulled.dense) for pulled in found}) == 1
    assert all(len(rows) == 2 for pulled in found for rows in pulled.rows)


def test_dense_variables_of_long_ago_are_not_used_again(
    servers: Servers, pipeline: TaskPipeline
) -> None:
    stream = MinibatchStream(pipeline, servers.client, dense_use=DenseUse(5, seconds=-1.0))

    found = [prepared(stream).pull.result() for _ in range(NUM_MINIBATCHES)]

    stream.close()
    assert len({id(pulled.dense) for pulled in found}) == NUM_MINIBATCHES


def test_another_pin_has_dense_variables_of_its_own(tmp_path: Path) -> None:
    servers = Servers(2, model=without_tables())
    contract: Contract = contract_of(tmp_path, SPEC)
    pipeline = TaskPipeline(contract, Mode.EVALUATION, 2)
    stream = MinibatchStream(pipeline, servers.client, dense_use=DenseUse.forever())
    for pin, task in enumerate((7, 8), 1):
        servers.client.pin(pin)
        stream.put(task, [encode({"n": np.array([n])}) for n in range(4)], 0, None, pin)
        first, second = (prepared(stream).pull.result() for _ in range(2))
        stream.next()
        assert first.dense is not None
        assert first.dense is second.dense
        kernel = first.dense[:280]
        np.testing.assert_array_equal(kernel, np.arange(280) - 0.5 * (pin - 1))
        header = ps_pb2.PushHeader(task=9, k=pin - 1, num_records=2)
        for index in range(2):
            servers.client.push(
                index, header, servers.client.prepare([]), [], np.ones(287, np.float32)
            )
    stream.close()


def test_nothing_is_used_again_once_a_partition_is_another_one(
    servers: Servers, pipeline: TaskPipeline
) -> None:
    is_stale = threading.Event()
    client = servers.connect(servers.cluster, is_stale.is_set)
    stream = MinibatchStream(pipeline, client, most_ahead=1, dense_use=DenseUse.forever())
    prepared(stream)

    is_stale.set()

    with pytest.raises(StaleCluster):
        all_of(stream)
    stream.close()
