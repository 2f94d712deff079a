"""Initial embedding rows: which Keras initializers have a form by id, and that form in TensorFlow.

A table has no fixed number of rows, so the initial value of a row is a pure function of (seed, id,
column). `elasticdl.ps.initializers` computes it on the parameter servers; `initial_rows` is the
same arithmetic in TensorFlow operations, so that an exported model answers for unseen ids alike.
"""

from __future__ import annotations

import hashlib
import math

import tensorflow as tf

from elasticdl.errors import UsageError
from elasticdl.model.keras_api import initializer_seed, keras
from elasticdl.ps.initializers import RowInitializer

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_TRUNCATED_STDDEV = 0.87962566103423978  # of a normal distribution cut at two deviations
_PHI_MINUS_2 = 0.022750131948179195  # the normal distribution's mass below −2


def row_initializer(
    initializer: keras.initializers.Initializer,
    table: str,
    seed: int,
    shape: tuple[int, int] | None = None,
) -> RowInitializer:
    """Return the form by id of a Keras initializer.

    Args:
      initializer: as given to the layer.
      table: name of the table; tables with equal seeds still start differently.
      seed: the job's seed, used where the initializer was given none of its own.
      shape: of the table, where it has a fixed number of rows.

    Raises:
      UsageError: the initializer needs the table's shape, which has no fixed number of rows.
    """
    config = initializer.get_config()
    own_seed = initializer_seed(initializer)
    digest = hashlib.sha256(f"{seed if own_seed is None else own_seed}/{table}".encode()).digest()
    table_seed = int.from_bytes(digest[:8], "little") >> 1
    kinds = keras.initializers
    if isinstance(initializer, kinds.Zeros):
        return RowInitializer("zeros", table_seed, 0.0, 0.0)
    if isinstance(initializer, kinds.Ones):
        return RowInitializer("constant", table_seed, 1.0, 0.0)
    if isinstance(initializer, kinds.Constant) and isinstance(config["value"], int | float):
        return RowInitializer("constant", table_seed, float(config["value"]), 0.0)
    if type(initializer) is kinds.RandomUniform:
        return RowInitializer("uniform", table_seed, config["minval"], config["maxval"])
    if type(initializer) is kinds.RandomNormal:
        return RowInitializer("normal", table_seed, config["mean"], config["stddev"])
    if type(initializer) is kinds.TruncatedNormal:
        return RowInitializer("truncated_normal", table_seed, config["mean"], config["stddev"])
    is_scaling = type(initializer).__call__ is kinds.VarianceScaling.__call__
    if shape is not None and is_scaling:
        return _variance_scaling(initializer, table_seed, shape)
    raise UsageError(
        f"layer '{table}': embeddings_initializer '{type(initializer).__name__}' has no form by "
        "id, as a table has no fixed number of rows; use RandomUniform, RandomNormal, "
        "TruncatedNormal, Zeros, Ones or Constant"
    )


def _variance_scaling(
    initializer: keras.initializers.VarianceScaling, seed: int, shape: tuple[int, int]
) -> RowInitializer:
    fan_in, fan_out = shape
    fan = {"fan_in": fan_in, "fan_out": fan_out}.get(initializer.mode, (fan_in + fan_out) / 2)
    variance = initializer.scale / max(1.0, fan)
    if initializer.distribution == "uniform":
        limit = math.sqrt(3.0 * variance)
        return RowInitializer("uniform", seed, -limit, limit)
    if initializer.distribution == "untruncated_normal":
        return RowInitializer("normal", seed, 0.0, math.sqrt(variance))
    return RowInitializer("truncated_normal", seed, 0.0, math.sqrt(variance) / _TRUNCATED_STDDEV)


def initial_rows(initializer: RowInitializer, ids: tf.Tensor, dim: int) -> tf.Tensor:
    """Return the initial rows of some ids, float32 ``[n, dim]``, for int64 ids ``[n]``."""
    shape = tf.stack([tf.size(ids), dim])
    if initializer.kind == "zeros":
        return tf.zeros(shape)
    if initializer.kind == "constant":
        return tf.fill(shape, tf.constant(initializer.a, tf.float32))
    u = _uniform(initializer.seed, ids, dim)
    a, b = tf.constant(initializer.a, tf.float64), tf.constant(initializer.b, tf.float64)
    if initializer.kind == "uniform":
        return tf.cast(a + (b - a) * u, tf.float32)
    if initializer.kind == "truncated_normal":
        u = _PHI_MINUS_2 + u * (1.0 - 2.0 * _PHI_MINUS_2)
    return tf.cast(a + b * tf.math.ndtri(u), tf.float32)


def _uniform(seed: int, ids: tf.Tensor, dim: int) -> tf.Tensor:
    """Return the random numbers in (0, 1) of each id and column, float64 ``[n, dim]``."""
    of_seed = _splitmix64(tf.constant(seed % (1 << 64), tf.uint64))
    of_id = _splitmix64(tf.bitwise.bitwise_xor(tf.bitcast(ids, tf.uint64), of_seed))
    x = _splitmix64(of_id[:, tf.newaxis] + tf.cast(tf.range(dim), tf.uint64))
    return (tf.cast(_shift(x, 11), tf.float64) + 0.5) * 2.0**-53


def _splitmix64(z: tf.Tensor) -> tf.Tensor:
    z = z + tf.constant(_GOLDEN, tf.uint64)
    z = tf.bitwise.bitwise_xor(z, _shift(z, 30)) * tf.constant(_MIX_1, tf.uint64)
    z = tf.bitwise.bitwise_xor(z, _shift(z, 27)) * tf.constant(_MIX_2, tf.uint64)
    return tf.bitwise.bitwise_xor(z, _shift(z, 31))


def _shift(z: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(z, tf.constant(bits, tf.uint64))
