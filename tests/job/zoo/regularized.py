"""A model whose loss is more than that of its outputs, with state and metrics of several kinds."""

from __future__ import annotations

import clicks
import keras


class Activity(keras.layers.Layer):
    """Adds a loss that depends on the minibatch."""

    def call(self, inputs):
        self.add_loss(0.01 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


class Regularized(clicks.Clicks):
    """Regularized weights, an added loss, batch normalization and dropout."""

    def create_model(self):
        ids = keras.Input([3], dtype="int64", name="ids")
        number = keras.Input([1], name="number")
        rows = keras.layers.Flatten()(clicks.Embedding(self.dim, name="rows")(ids))
        hidden = keras.layers.Concatenate()([rows, number])
        hidden = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(0.03))(hidden)
        hidden = keras.layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = keras.layers.Dropout(0.2)(Activity()(keras.activations.relu(hidden)))
        return keras.Model({"ids": ids, "number": number}, keras.layers.Dense(1)(hidden))

    def create_metrics(self, mode, outputs, labels, predictions):
        # As model.compile(metrics=…) would have them.
        auc = keras.metrics.AUC(from_logits=True, num_thresholds=50)
        auc.update_state(labels, outputs)
        accuracy = keras.metrics.BinaryAccuracy(threshold=0.0)
        accuracy.update_state(labels[:, None], outputs)
        return {"auc": auc, "accuracy": accuracy}
