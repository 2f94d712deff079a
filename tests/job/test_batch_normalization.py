"""Batch normalization by rule R8: one worker computes what Keras alone computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

import elasticdl
from elasticdl.data import example
from elasticdl.data.recordio import Writer, read_range
from elasticdl.model.contract import load_contract
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from elasticdl.model.trained_model import load_model
from tests.model_zoos import write_zoo

RECORDS, MINIBATCH = 160, 16

SPEC = """
    import tensorflow as tf
    from tensorflow import keras

    from elasticdl import ElasticDLSpec


    class Normalized(ElasticDLSpec):
        def create_model(self):
            init = keras.initializers.RandomNormal(seed=7)
            return keras.Sequential([
                keras.Input([6]),
                keras.layers.Dense(8, kernel_initializer=init),
                keras.layers.BatchNormalization(momentum=0.8),
                keras.layers.Activation("relu"),
                keras.layers.Dense(1, kernel_initializer=init, kernel_regularizer="l2"),
            ])

        def create_optimizer(self):
            return keras.optimizers.SGD(0.1, momentum=0.9)

        def create_loss(self, outputs, labels):
            return tf.reduce_mean(tf.square(outputs[:, 0] - labels))

        def create_metrics(self, mode, outputs, labels, predictions):
            return {}

        def create_dataset(self, dataset, mode):
            def parse(record):
                parsed = tf.io.parse_single_example(record, {
                    "x": tf.io.FixedLenFeature([6], tf.float32),
                    "y": tf.io.FixedLenFeature([], tf.float32),
                })
                return parsed["x"], parsed["y"]

            return dataset.map(parse)
"""


def test_one_worker_keeps_the_statistics_and_weights_that_keras_keeps(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    random = np.random.default_rng(0)
    data = str(tmp_path / "x.recordio")
    with Writer(data) as writer:
        for x in random.normal(2.0, 3.0, (RECORDS, 6)).astype(np.float32):
            writer.write(example.encode({"x": x, "y": np.float32(np.sin(x).sum())}))
    zoo = str(write_zoo(tmp_path / "zoo", {"bn.py": SPEC}))
    result = elasticdl.train(
        model_zoo=zoo,
        model_def="bn.Normalized",
        data=data,
        output=str(tmp_path / "out"),
        num_workers=0,
        num_ps=3,
        num_epochs=2,
        minibatch_size=MINIBATCH,
        records_per_task=RECORDS,
        shuffle=False,
        staleness=0,
        quiet=True,
    )
    trained = load_model(result.output)

    contract = load_contract(ModelSource(zoo, "bn.Normalized"), Mode.TRAINING)
    plain = contract.create_model()
    untrained = [each.copy() for each in plain.get_weights()]
    plain.compile(
        contract.create_optimizer(),
        lambda labels, outputs: contract.loss(outputs, tf.reshape(labels, [-1])),
    )
    decoded = [example.decode(each) for each in read_range(data, 0, RECORDS)]
    x = np.stack([each["x"] for each in decoded]).astype(np.float32)
    y = np.stack([each["y"] for each in decoded]).astype(np.float32).reshape(-1)
    plain.fit(x, y, batch_size=MINIBATCH, epochs=2, shuffle=False, verbose=0)

    assert len(trained.get_weights()) == len(plain.get_weights())
    pairs = zip(trained.weights, trained.get_weights(), plain.get_weights(), untrained, strict=True)
    for variable, ours, theirs, before in pairs:
        np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=variable.path)
        if "moving" in variable.path:
            assert np.abs(ours - before).max() > 0.1, variable.path
    np.testing.assert_allclose(
        trained(tf.constant(x), training=False), plain(x, training=False), atol=1e-3
    )
