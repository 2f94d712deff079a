"""Model zoos for tests: the published kind of definition, and a way to write others."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

from elasticdl.model.contract import Contract, load_contract
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource

MNIST = """
    import tensorflow as tf

    from elasticdl import ElasticDLSpec
    from elasticdl.python.common.constants import Mode


    class MnistElasticDLSpec(ElasticDLSpec):
        def __init__(self, context=None, hidden_units=(10,)):
            super().__init__(context)
            self.hidden_units = hidden_units

        def create_model(self):
            inputs = tf.keras.Input(shape=(4, 4), name="image")
            x = tf.keras.layers.Flatten()(inputs)
            for units in self.hidden_units:
                x = tf.keras.layers.Dense(units, activation="relu")(x)
            return tf.keras.Model(inputs=inputs, outputs=tf.keras.layers.Dense(10)(x))

        def create_optimizer(self, lr=0.1):
            return tf.keras.optimizers.SGD(lr)

        def create_loss(self, outputs, labels):
            return tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(logits=outputs, labels=labels)
            )

        def create_metrics(self, mode, outputs, labels, predictions):
            right = tf.equal(tf.argmax(outputs, 1, output_type=tf.int32), tf.cast(labels, tf.int32))
            return {"accuracy": tf.reduce_mean(tf.cast(right, tf.float32))}

        def create_dataset(self, dataset, mode):
            def parse(record):
                features = {"image": tf.io.FixedLenFeature([4, 4], tf.float32)}
                if mode != Mode.PREDICTION:
                    features["label"] = tf.io.FixedLenFeature([], tf.int64)
                example = tf.io.parse_single_example(record, features)
                if mode == Mode.PREDICTION:
                    return {"image": example["image"]}
                return {"image": example["image"]}, example["label"]

            return dataset.map(parse)
"""

# A definition of one model class; {model} is its create_model, the rest suits any model of one
# output over features i (dense int64), v (varying length) and x (float).
GENERAL = """
    import tensorflow as tf
    from tensorflow import keras

    from elasticdl import ElasticDLSpec
    from elasticdl.layers import Embedding

    {model}

    class Spec(ElasticDLSpec):
        def create_model(self):
            return create_model()

        def create_optimizer(self, learning_rate=0.1):
            return tf.keras.optimizers.Adagrad(learning_rate)

        def create_loss(self, outputs, labels):
            return tf.reduce_mean(tf.square(tf.reshape(outputs, [-1]) - labels))

        def create_metrics(self, mode, outputs, labels, predictions):
            return {{}}

        def create_dataset(self, dataset, mode):
            def parse(record):
                example = tf.io.parse_single_example(
                    record,
                    {{
                        "i": tf.io.FixedLenFeature([2], tf.int64),
                        "v": tf.io.VarLenFeature(tf.int64),
                        "x": tf.io.FixedLenFeature([3], tf.float32),
                        "y": tf.io.FixedLenFeature([], tf.float32),
                    }},
                )
                return example, example.pop("y")

            return dataset.map(parse)
"""


def write_zoo(directory: Path, files: dict[str, str]) -> Path:
    """Write Python files, by path, into a directory and return it."""
    for name, code in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(code))
    return directory


def general(model: str) -> str:
    """Return the code of a definition around the code of a ``create_model`` function."""
    return dedent(GENERAL).format(model=dedent(model))


def contract_of(
    directory: Path,
    code: str,
    name: str = "Spec",
    params: str = "",
    mode: Mode = Mode.TRAINING,
    seed: int = 0,
    **options: Any,
) -> Contract:
    """Write one definition into a zoo and load it."""
    write_zoo(directory, {"definition.py": code})
    source = ModelSource(str(directory), f"definition.{name}", params, seed=seed, **options)
    return load_contract(source, mode)
