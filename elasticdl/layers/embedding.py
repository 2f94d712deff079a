"""An embedding over ids without bound, whose rows live on the parameter servers."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.layers.combiners import COMBINERS, combine_axis, combine_segments
from elasticdl.layers.lookup_context import current_context
from elasticdl.layers.row_initializers import row_initializer
from elasticdl.layers.table_layer import TableLayer
from elasticdl.model.keras_api import keras
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.lifetime_rules import LifetimeRules


@keras.saving.register_keras_serializable(package="elasticdl")
class Embedding(TableLayer, keras.layers.Layer):
    """Turns integer ids into vectors; any int64 is an id, and no vocabulary size is needed.

    The rows live on the parameter servers. Ids may be a dense tensor, a ``tf.RaggedTensor`` or a
    ``tf.SparseTensor``. Without a combiner every id has its own vector: ids ``[batch, n]`` give
    ``[batch, n, output_dim]``. With one, the vectors along the last axis become one:
    ``[batch, output_dim]``, zeros where there are no ids. Sparse ids need a combiner.

    A layer is one table, named as the layer; calling it several times looks up the same table.

    Args:
      output_dim: length of a vector.
      combiner: None, "sum", "mean" or "sqrtn" (the sum over the square root of how many).
      embeddings_initializer: Keras initializer of a new id's vector, or its name; one of
        RandomUniform, RandomNormal, TruncatedNormal, Zeros, Ones, Constant.
      embeddings_regularizer: Keras regularizer, or its name, of the rows a minibatch looks up, each
        distinct one once; other rows stay as they are.
      admission_count: in how many minibatches an id must have been, the present one included, to
        have a row that is trained; before, its gradients are dropped and counted.
      max_rows: rows of the table; the one that was not updated for longest makes room.
      evict_after_steps: a row goes once so many updates came without it.
      name: name of the layer and of its table.

    Raises:
      UsageError: an argument is wrong; ids are not integers.
    """

    def __init__(
        self,
        output_dim: int,
        combiner: str | None = None,
        embeddings_initializer: str | keras.initializers.Initializer = "uniform",
        embeddings_regularizer: str | keras.regularizers.Regularizer | None = None,
        admission_count: int = 1,
        max_rows: int | None = None,
        evict_after_steps: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if isinstance(output_dim, bool) or not isinstance(output_dim, int) or output_dim < 1:
            raise UsageError(
                f"layer '{self.name}': output_dim {output_dim!r} is not a positive integer"
            )
        if combiner is not None and combiner not in COMBINERS:
            raise UsageError(
                f"layer '{self.name}': combiner '{combiner}' is unknown; "
                f"use None, {', '.join(map(repr, COMBINERS))}"
            )
        self.output_dim = output_dim
        self.combiner = combiner
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        given = {
            "admission_count": admission_count,
            "max_rows": max_rows,
            "evict_after_steps": evict_after_steps,
        }
        for option, value in given.items():
            if value is not None and (type(value) is not int or value < 1):
                raise UsageError(
                    f"layer '{self.name}': {option} {value!r} is not a positive integer"
                )
        self.lifetime_rules = LifetimeRules(admission_count, max_rows or 0, evict_after_steps or 0)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)

    @property
    def table_name(self) -> str:
        """The layer's name."""
        return self.name

    def row_initializer(self, seed: int) -> RowInitializer:
        """Return what computes a new id's row in a job with this seed."""
        return row_initializer(self.embeddings_initializer, self.name, seed)

    def build(self, input_shape: Any) -> None:
        """Create nothing: the rows are not variables of this process."""
        self.built = True

    def call(self, ids: Any) -> Any:
        """Look up the rows of ids and combine them."""
        if not ids.dtype.is_integer:
            raise self._error(
                f"ids are {ids.dtype.name}, not integers; cast them in create_dataset, and where "
                "the layer is the first of a Sequential model, begin it with "
                "keras.Input(shape, dtype='int64')"
            )
        if isinstance(ids, tf.RaggedTensor):
            return self._of_ragged(ids) if self.combiner is None else self._combine_ragged(ids)
        if isinstance(ids, tf.SparseTensor):
            return self._combine_sparse(ids)
        rows = self._of_dense(ids)
        return rows if self.combiner is None else combine_axis(rows, self.combiner)

    def _autographed_call(self) -> Any:
        # tf_keras would convert `call`, and wrap the errors it raises.
        return self.call

    def compute_output_spec(self, ids: Any) -> keras.KerasTensor:
        """Return the shape of the vectors for symbolic ids, ragged where they are."""
        ragged = bool(getattr(ids, "ragged", False))
        if getattr(ids, "sparse", False) and self.combiner is None:
            raise self._error("sparse ids need a combiner: 'sum', 'mean' or 'sqrtn'")
        if self.combiner is not None:
            ragged = ragged and len(ids.shape) > 2
        return keras.KerasTensor(
            self.compute_output_shape(ids.shape), dtype=self.compute_dtype, ragged=ragged
        )

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the vectors for ids of a shape."""
        kept = input_shape if self.combiner is None else input_shape[:-1]
        return (*kept, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "output_dim": self.output_dim,
            "combiner": self.combiner,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "admission_count": self.lifetime_rules.admission_count,
            "max_rows": self.lifetime_rules.max_rows or None,
            "evict_after_steps": self.lifetime_rules.evict_after_steps or None,
        }

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the rows of flat ids."""
        return tf.cast(self.table_rows(tf.cast(ids, tf.int64)), self.compute_dtype)

    def _of_dense(self, ids: tf.Tensor) -> tf.Tensor:
        rows = self._rows(tf.reshape(ids, [-1]))
        shape = [*ids.shape.as_list(), self.output_dim]
        if shape.count(None) <= 1:
            return tf.reshape(rows, [-1 if size is None else size for size in shape])
        vectors = tf.reshape(rows, tf.concat([tf.shape(ids), [self.output_dim]], axis=0))
        return tf.ensure_shape(vectors, shape)

    def _of_ragged(self, ids: tf.RaggedTensor) -> tf.RaggedTensor:
        return ids.with_flat_values(self._of_dense(ids.flat_values))

    def _combine_ragged(self, ids: tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        assert self.combiner is not None
        if ids.ragged_rank > 1:
            return ids.with_values(self._combine_ragged(ids.values))
        if ids.flat_values.shape.rank > 1:
            return ids.with_values(combine_axis(self._of_dense(ids.values), self.combiner))
        vectors = combine_segments(
            self._rows(ids.values), ids.value_rowids(), ids.nrows(), self.combiner
        )
        return tf.ensure_shape(vectors, [ids.shape[0], self.output_dim])

    def _combine_sparse(self, ids: tf.SparseTensor) -> tf.Tensor:
        if self.combiner is None:
            raise self._error("sparse ids need a combiner: 'sum', 'mean' or 'sqrtn'")
        kept = ids.dense_shape[:-1]
        strides = tf.math.cumprod(kept, exclusive=True, reverse=True)
        segment_of_id = tf.reduce_sum(ids.indices[:, :-1] * strides, axis=1)
        vectors = combine_segments(
            self._rows(ids.values), segment_of_id, tf.reduce_prod(kept), self.combiner
        )
        if ids.shape.rank != 2:
            vectors = tf.reshape(vectors, tf.concat([kept, [self.output_dim]], axis=0))
        return tf.ensure_shape(vectors, [*ids.shape[:-1], self.output_dim])

    def _error(self, what: str) -> UsageError:
        error = UsageError(f"layer '{self.name}': {what}")
        context = current_context()
        return error if context is None else context.fail(error)
