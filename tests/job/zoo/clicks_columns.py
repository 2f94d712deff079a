"""The clicks model over data that has columns: batches in, or single rows by unbatching them."""

from __future__ import annotations

import tensorflow as tf

from elasticdl import Mode

from .clicks import Clicks


def parse(columns, mode):
    ids = columns["ids"] if "ids" in columns else tf.stack([columns[f"id{i}"] for i in range(3)], 1)
    if isinstance(ids, tf.RaggedTensor):
        ids = ids.to_tensor(shape=[None, 3])
    features = {"ids": ids, "number": tf.reshape(columns["number"], [-1, 1])}
    if mode is Mode.PREDICTION:
        return features
    return features, tf.cast(columns["label"], tf.float32)


class Batches(Clicks):
    def create_dataset(self, dataset, mode):
        return dataset.map(lambda columns: parse(columns, mode))


class Rows(Clicks):
    """Row by row, with a filter."""

    def create_dataset(self, dataset, mode):
        rows = dataset.unbatch().filter(lambda columns: columns["row"] <= self.drop_above)
        rows = rows.map(lambda columns: {name: value[None] for name, value in columns.items()})
        return rows.map(lambda columns: parse(columns, mode)).unbatch()


class Masked(Clicks):
    """A filter inside of batches, which makes them smaller."""

    def create_dataset(self, dataset, mode):
        def keep(columns):
            mask = columns["row"] <= self.drop_above
            return {name: tf.ragged.boolean_mask(value, mask) for name, value in columns.items()}

        return dataset.map(keep).map(lambda columns: parse(columns, mode))
