"""What `model.evaluate` of Keras says of a trained model on clicks."""

from __future__ import annotations

import glob

import keras
import numpy as np

from elasticdl import load_model
from elasticdl.data import example
from elasticdl.data.recordio import Scanner


def keras_evaluate(path: str, data: str, minibatch_size: int) -> dict[str, float]:
    """Load a trained model of `regularized.Regularized` and let Keras evaluate it."""
    model = load_model(path)
    model.compile(
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.AUC(from_logits=True, num_thresholds=50, name="auc"),
            keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy"),
        ],
    )
    examples = [
        example.decode(record) for file in sorted(glob.glob(data)) for record in Scanner(file)
    ]
    features = {
        "ids": np.stack([one["ids"] for one in examples]),
        "number": np.stack([one["number"] for one in examples]),
    }
    labels = np.array([float(one["label"][0]) for one in examples], np.float32)[:, None]
    logs = model.evaluate(features, labels, batch_size=minibatch_size, return_dict=True, verbose=0)
    return {name: float(value) for name, value in logs.items()}
