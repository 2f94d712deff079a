"""The two-phase step: the same numbers as Keras in one pass, or an error before launch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.element_spec import element_spec
from elasticdl.model.keras_api import IS_LEGACY, keras, tf_variable
from elasticdl.model.mode import Mode
from elasticdl.worker.two_phase import TwoPhaseModel
from tests.model_zoos import MNIST, contract_of, general

FEATURES = {
    "i": tf.constant([[1, 5], [2**40, 1], [-3, 5]], tf.int64),
    "v": tf.ragged.constant([[7, 8, 7], [], [1]], dtype=tf.int64).to_sparse(),
    "x": tf.constant(np.random.default_rng(0).normal(size=(3, 3)), tf.float32),
}
LABELS = tf.constant([1.0, -1.0, 0.5])


def model_of(directory: Path, model: str, seed: int = 0) -> TwoPhaseModel:
    contract = contract_of(directory, general(model), seed=seed)
    spec = element_spec(contract, Mode.TRAINING)
    return TwoPhaseModel(contract, spec.features, spec.labels, seed)


def pulled(model: TwoPhaseModel, features=FEATURES) -> SimpleNamespace:
    """Return the values a worker would have pulled for these features."""
    distinct = [np.unique(each.numpy(), return_inverse=True) for each in model.collect(features)]
    return SimpleNamespace(
        ids=[ids for ids, _ in distinct],
        dense=model.initial_dense(),
        rows=[
            table.initializer.rows(ids, table.dim)
            for table, (ids, _) in zip(model.table_definitions, distinct, strict=True)
        ],
        inverses=[inverse.astype(np.int32) for _, inverse in distinct],
    )


def step(model: TwoPhaseModel, at: SimpleNamespace, step_seed: int = 0):
    return model.train_step(FEATURES, LABELS, at.dense, at.rows, at.inverses, step_seed)


SUBCLASSED = """
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.user = Embedding(4, name="user")
        self.item = Embedding(4, combiner="{combiner}", name="item")
        self.hidden = keras.layers.Dense(5, activation="tanh", kernel_regularizer="l2")
        self.out = keras.layers.Dense(1)

    def call(self, features):
        twice = self.user(features["i"][:, 0]) * self.user(features["i"][:, 1])
        item = self.item(features["v"])
        return self.out(self.hidden(tf.concat([twice, item, features["x"]], axis=1)))


def create_model():
    return Net()
"""


@pytest.mark.parametrize("combiner", ["sum", "mean", "sqrtn"])
def test_gradients_equal_those_of_an_ordinary_keras_model(tmp_path: Path, combiner: str) -> None:
    model = model_of(tmp_path, SUBCLASSED.format(combiner=combiner))
    at = pulled(model)
    result = step(model, at)

    # The same model with Keras's own embeddings over the distinct ids, in one pass.
    tables = {
        table.name: keras.layers.Embedding(len(ids), table.dim, weights=[rows])
        for table, ids, rows in zip(model.table_definitions, at.ids, at.rows, strict=True)
    }
    layers = {layer.name: layer for layer in model.model.layers}
    ids = {table.name: ids for table, ids in zip(model.table_definitions, at.ids, strict=True)}
    divide = {"sum": lambda n: 1.0, "mean": float, "sqrtn": np.sqrt}[combiner]
    with tf.GradientTape() as tape:
        user = tables["user"](np.searchsorted(ids["user"], FEATURES["i"].numpy()))
        pooled = [
            tf.reduce_sum(tables["item"](np.searchsorted(ids["item"], each)), axis=0)
            / divide(len(each))
            if len(each)
            else tf.zeros(4)
            for each in ([7, 8, 7], [], [1])
        ]
        joined = tf.concat([user[:, 0] * user[:, 1], tf.stack(pooled), FEATURES["x"]], axis=1)
        hidden = layers["dense"](joined)
        outputs = layers["dense_1"](hidden)
        loss = tf.reduce_mean(tf.square(outputs[:, 0] - LABELS))
        loss += 0.01 * tf.reduce_sum(tf.square(layers["dense"].kernel))
    names = [table.name for table in model.table_definitions]
    watched = [tf_variable(each) for each in model.model.trainable_variables]
    dense, rows = tape.gradient(loss, (watched, [tf_variable(tables[n].embeddings) for n in names]))

    assert result.finite
    assert result.loss == pytest.approx(float(loss), rel=1e-5)
    np.testing.assert_allclose(
        result.dense_gradients, np.concatenate([np.ravel(g) for g in dense]), rtol=1e-4, atol=1e-6
    )
    for ours, theirs in zip(result.row_gradients, rows, strict=True):
        np.testing.assert_allclose(ours, tf.convert_to_tensor(theirs), rtol=1e-4, atol=1e-6)


def test_a_layer_used_twice_is_one_table_whose_calls_follow_each_other(tmp_path: Path) -> None:
    model = model_of(tmp_path, SUBCLASSED.format(combiner="sum"))
    assert [table.name for table in model.table_definitions] == ["user", "item"]
    user, item = (each.numpy().tolist() for each in model.collect(FEATURES))
    assert user == [1, 2**40, -3, 5, 1, 5]
    assert item == [7, 8, 7, 1]


FUNCTIONAL = """
def create_model():
    i = keras.Input((2,), dtype="int64", name="i")
    v = keras.Input((None,), dtype="int64", sparse=True, name="v")
    x = keras.Input((3,), name="x")
    joined = keras.layers.Concatenate()(
        [Embedding(4, combiner="mean")(i), Embedding(4, combiner="sum")(v), x]
    )
    return keras.Model({"i": i, "v": v, "x": x}, keras.layers.Dense(1)(joined))
"""


def test_functional_models_build_without_data_and_alike_in_every_worker(tmp_path: Path) -> None:
    first, second = (model_of(tmp_path, FUNCTIONAL, seed=5) for _ in range(2))
    assert first.table_definitions == second.table_definitions
    assert first.variables == second.variables
    np.testing.assert_array_equal(first.initial_dense(), second.initial_dense())
    other = model_of(tmp_path, FUNCTIONAL, seed=6)
    assert (first.initial_dense() != other.initial_dense()).any()
    at = pulled(first)
    assert step(first, at).loss == step(second, at).loss


SEQUENTIAL = """
def create_model():
    return keras.Sequential(
        [Embedding(4, name="ids"), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
"""


def test_a_sequential_model_keeps_large_ids_exact(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, general(SEQUENTIAL))
    model = TwoPhaseModel(contract, tf.TensorSpec([None, 2], tf.int64), None, 0)
    (ids,) = model.collect(tf.constant([[2**53 + 1, 3]], tf.int64))
    assert ids.numpy().tolist() == [2**53 + 1, 3]


BATCH_NORMALIZED = """
def create_model():
    x = keras.Input((3,), name="x")
    i = keras.Input((2,), dtype="int64", name="i")
    v = keras.Input((None,), dtype="int64", sparse=True, name="v")
    h = keras.layers.BatchNormalization(momentum=0.9)(x)
    h = keras.layers.Dropout(0.5)(keras.layers.Dense(20)(h))
    return keras.Model({"i": i, "v": v, "x": x}, keras.layers.Dense(1)(h))
"""


def test_statistics_of_batch_normalization_leave_as_what_the_minibatch_adds(
    tmp_path: Path,
) -> None:
    model = model_of(tmp_path, BATCH_NORMALIZED)
    result = step(model, pulled(model))
    state = [each for each in model.variables if not each.trainable]
    assert [each.path.rpartition("/")[2] for each in state] == ["moving_mean", "moving_variance"]
    assert [each.momentum for each in state] == [0.9, 0.9]
    added = result.dense_gradients[-6:].reshape(2, 3)
    x = FEATURES["x"].numpy()
    np.testing.assert_allclose(added[0], 0.1 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(added[1], 0.1 * x.var(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(model.initial_dense(), pulled(model).dense)


CALLED_TWICE = """
class Counting(keras.layers.Layer):
    def build(self, shape):
        self.total = self.add_weight(name="total", shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.total.assign_add(1.0)
        return x

def create_model():
    x = keras.Input((3,), name="x")
    i = keras.Input((2,), dtype="int64", name="i")
    v = keras.Input((None,), dtype="int64", sparse=True, name="v")
    tower = keras.Sequential([keras.layers.BatchNormalization(momentum=0.9)])
    frozen = keras.layers.BatchNormalization(momentum=0.8, trainable=False)
    h = keras.layers.Add()([tower(x), tower(2.0 * x)])
    return keras.Model({"i": i, "v": v, "x": x}, keras.layers.Dense(1)(Counting()(frozen(h))))
"""


def test_state_called_twice_frozen_or_no_average_leaves_as_what_it_is(tmp_path: Path) -> None:
    model = model_of(tmp_path, CALLED_TWICE)
    at = pulled(model)
    sizes = np.cumsum([each.num_elements for each in model.variables])[:-1]
    result = step(model, at)
    parts = zip(
        model.variables,
        np.split(at.dense, sizes),
        np.split(result.dense_gradients, sizes),
        strict=True,
    )
    state = {
        (each.path.rpartition("/")[2], round(each.momentum, 6)): each.momentum * old + added
        for each, old, added in parts
        if not each.trainable
    }
    x = FEATURES["x"].numpy()
    mean, variance = x.mean(axis=0), x.var(axis=0)
    np.testing.assert_allclose(state["moving_mean", 0.81], 0.09 * mean + 0.1 * 2 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        state["moving_variance", 0.81], 0.81 + 0.09 * variance + 0.1 * 4 * variance, rtol=1e-4
    )
    np.testing.assert_array_equal(state["moving_mean", 1.0], 0.0)
    np.testing.assert_array_equal(state["moving_variance", 1.0], 1.0)
    assert state["total", 1.0] == 1.0


def test_dropout_repeats_for_the_same_step_and_differs_between_steps(tmp_path: Path) -> None:
    model = model_of(tmp_path, BATCH_NORMALIZED)
    at = pulled(model)
    losses = [step(model, at, step_seed).loss for step_seed in (1, 1, 2, 2**62)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_a_model_without_tables_takes_and_gives_empty_tuples(tmp_path: Path) -> None:
    contract = contract_of(tmp_path, MNIST, "MnistElasticDLSpec", "hidden_units=[5, 3], lr=0.5")
    spec = element_spec(contract, Mode.TRAINING)
    model = TwoPhaseModel(contract, spec.features, spec.labels, 0)
    features, labels = {"image": tf.zeros([6, 4, 4])}, tf.zeros([6], tf.int64)
    assert model.collect(features) == ()
    result = model.train_step(features, labels, model.initial_dense(), (), ())
    assert result.row_gradients == ()
    assert result.loss == pytest.approx(np.log(10), rel=1e-5)
    assert result.dense_gradients.shape == (model.num_dense,) == (16 * 5 + 5 + 18 + 40,)
    assert model.forward(features, model.initial_dense(), (), ()).shape == (6, 10)
    assert model.optimizer.config.learning_rate == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_says_so(tmp_path: Path, bad: float) -> None:
    model = model_of(tmp_path, SUBCLASSED.format(combiner="sum"))
    at = pulled(model)
    at.dense[-1] = bad
    assert not step(model, at).finite


NESTED = """
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.table = Embedding(4, combiner="sum")
        self.out = keras.layers.Dense(1)

    @tf.function
    def pooled(self, ids):
        if tf.size(ids) > 100:
            ids = ids[:0]
        return self.table(ids)

    @tf.function(jit_compile=True)
    def call(self, features):
        return self.out(self.pooled(features["i"]))


def create_model():
    return Net()
"""


def test_nested_functions_never_serve_a_trace_of_another_pass(tmp_path: Path) -> None:
    text = NESTED.replace(
        """        if tf.size(ids) > 100:
            ids = ids[:0]
""",
        "",
    )
    model = model_of(tmp_path, text)
    for _ in range(2):
        at = pulled(model)
        outputs = model.forward(FEATURES, at.dense, at.rows, at.inverses)
        assert (outputs.numpy() != 0).any()
        assert (step(model, at).row_gradients[0] != 0).any()
        assert [each.numpy().size for each in model.collect(FEATURES)] == [6]
    # Called by itself the layer has its own rows again.
    assert (model.model(FEATURES).numpy() != 0).any()


def test_collecting_runs_nothing_but_the_ids(tmp_path: Path) -> None:
    text = """
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = Embedding(4, combiner="sum")
            self.out = keras.layers.Dense(1)

        def call(self, features):
            tf.debugging.assert_greater(tf.reduce_sum(features["x"]), 1e9)
            return self.out(self.table(features["i"] + 1))

    def create_model():
        return Net()
    """
    model = model_of(tmp_path, text)
    (ids,) = model.collect(FEATURES)
    assert ids.numpy().tolist() == [2, 6, 2**40 + 1, 2, -2, 6]
    at = pulled(model)
    with pytest.raises(UserCodeError, match=r"definition\.Spec"):
        step(model, at)


CALL = """
class Net(keras.Model):
    def __init__(self):
        super().__init__()
        self.table = Embedding(4, name="table")
        self.other = Embedding(4, name="other")
        self.hidden = keras.layers.Dense(4)
        self.outside = tf.Variable(1.0)

    def call(self, features, training=False):
        {body}


def create_model():
    return Net()
"""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return self.table(tf.argmax(self.hidden(features['x']), 1))",
            "layer 'table': its ids depend on variable 'net/dense/",
        ),
        (
            "return self.table(tf.cast(self.other(features['i'])[:, 0, 0], tf.int64))",
            "layer 'table': its ids depend on the result of embedding layer 'other'",
        ),
        (
            "return tf.cond(tf.size(features['i']) > 0, lambda: self.table(features['i']), "
            "lambda: tf.zeros([3, 2, 4]))",
            "layer 'table': called under tf.cond",
        ),
        (
            "return tf.map_fn(self.table, features['i'], fn_output_signature=tf.float32)",
            "layer 'table': called under tf.cond, tf.while_loop, tf.map_fn",
        ),
        ("return self.table(features['x'])", "layer 'table': ids are float32, not integers"),
        pytest.param(
            "return self.hidden(self.table(features['i'][:, 0])) * self.outside",
            "the model uses it but does not own it",
            marks=pytest.mark.skipif(IS_LEGACY, reason="tf_keras owns every tf.Variable"),
        ),
        (
            "h = self.table(features['i']); "
            "return h + self.table(features['i']) if training else h",
            "layer 'table': called 1 times while ids are collected",
        ),
    ],
    ids=["trained", "embedding", "cond", "map_fn", "float", "foreign", "training"],
)
def test_what_cannot_be_split_is_an_error_that_says_why(
    tmp_path: Path, body: str, message: str
) -> None:
    def try_a_step() -> None:
        model = model_of(tmp_path, CALL.format(body=body))
        step(model, pulled(model))

    with pytest.raises(UsageError) as raised:
        try_a_step()
    assert message in str(raised.value)


def test_two_layers_of_one_name_are_an_error_saying_how_to_name_them(tmp_path: Path) -> None:
    text = """
    def create_model():
        i = keras.Input((2,), dtype="int64", name="i")
        class Pair(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.a, self.b = Embedding(4, name="e"), Embedding(4, name="e")
            def call(self, ids):
                return self.a(ids) + self.b(ids)
        return keras.Model(i, Pair()(i))
    """
    contract = contract_of(tmp_path, general(text))
    with pytest.raises(UsageError, match="layer 'e': 2 embedding layers have this name"):
        TwoPhaseModel(contract, tf.TensorSpec([None, 2], tf.int64), None, 0)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("tf.square(outputs[:, 0] - labels)", "returns a tensor of shape (None,), not a scalar"),
        ("None", "returns a NoneType; return a scalar float tensor"),
        ("tf.reduce_sum(tf.cast(labels, tf.int32))", "returns a int32 tensor"),
    ],
)
def test_a_loss_that_is_no_scalar_is_an_error(tmp_path: Path, loss: str, message: str) -> None:
    code = general(SUBCLASSED.format(combiner="sum"))
    code += f"    def create_loss(self, outputs, labels):\n        return {loss}\n"
    contract = contract_of(tmp_path, code)
    spec = element_spec(contract, Mode.TRAINING)
    model = TwoPhaseModel(contract, spec.features, spec.labels, 0)
    with pytest.raises(UsageError) as raised:
        step(model, pulled(model))
    assert message in str(raised.value)
