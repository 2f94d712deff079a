"""A model with statistics that training changes and a loss that regularization adds to."""

from __future__ import annotations

import clicks
import keras


class Normalized(clicks.Clicks):
    """Dense, batch normalization with L2; the optimizer is chosen by name."""

    def __init__(self, context=None, optimizer="SGD"):
        super().__init__(context)
        self.optimizer = optimizer

    def create_model(self):
        ids = keras.Input([3], dtype="int64", name="ids")
        number = keras.Input([1], name="number")
        digits = keras.ops.cast(keras.ops.mod(ids, 7), "float32")
        hidden = keras.layers.Concatenate()([digits, number])
        # A bias before a normalization has no gradient but rounding, which Adam makes steps of.
        dense = keras.layers.Dense(
            8, use_bias=False, kernel_regularizer=keras.regularizers.L2(0.03)
        )
        hidden = dense(hidden)
        hidden = keras.activations.relu(keras.layers.BatchNormalization(momentum=0.9)(hidden))
        return keras.Model({"ids": ids, "number": number}, keras.layers.Dense(1)(hidden))

    def create_optimizer(self, lr=0.02):
        return getattr(keras.optimizers, self.optimizer)(lr)
