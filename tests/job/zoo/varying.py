"""Inputs that are not the same each time they are read."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from clicks import Clicks


class Varying(Clicks):
    """Leaves out some records, other ones each time."""

    def create_dataset(self, dataset, mode):
        def keep(*element):
            return tf.numpy_function(lambda: np.random.default_rng().random() < 0.8, [], tf.bool)

        return super().create_dataset(dataset.filter(keep), mode)
