"""Jobs in which Keras's own embeddings are tables: the same model comes out as without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import elasticdl
from elasticdl.data import example
from elasticdl.data.recordio import Writer, read_range
from elasticdl.errors import UsageError, UserCodeError
from elasticdl.model.contract import load_contract
from elasticdl.model.element_spec import element_spec
from elasticdl.model.keras_api import IS_LEGACY
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource
from elasticdl.model.trained_model import load_model, load_parameters
from elasticdl.worker.two_phase import TwoPhaseModel
from tests.model_zoos import write_zoo

RECORDS = 320
WORDS = 50

SPEC = """
    import numpy as np
    import tensorflow as tf
    from tensorflow import keras

    from elasticdl import ElasticDLSpec

    MATRIX = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)


    class Words(ElasticDLSpec):
        def __init__(self, context=None, optimizer="sgd", kind="weights"):
            super().__init__(context)
            self.optimizer = optimizer
            self.kind = kind

        def create_model(self):
            given = {
                "weights": dict(weights=[MATRIX]),
                "constant": dict(embeddings_initializer=keras.initializers.Constant(MATRIX)),
                "frozen": dict(weights=[MATRIX], trainable=False),
                "uniform": dict(),
                "constraint": dict(embeddings_constraint="max_norm"),
                "tied": dict(weights=[MATRIX]),
                "set_all": dict(),
                "regularized": dict(weights=[MATRIX], embeddings_regularizer="l2"),
            }[self.kind]
            words = keras.Input([5], dtype="int64", name="words")
            embedding = keras.layers.Embedding(50, 4, mask_zero=True, name="embedding", **given)
            x = keras.layers.GlobalAveragePooling1D()(embedding(words))
            if self.kind == "tied":
                x = keras.layers.Lambda(
                    lambda y: tf.matmul(y, embedding.embeddings, transpose_b=True) / 50
                )(x)
            dense = keras.layers.Dense(1, kernel_initializer="ones")
            model = keras.Model(words, dense(x))
            if self.kind == "set_all":
                model.set_weights([MATRIX, np.ones([4, 1]), np.zeros([1])])
            return model

        def create_optimizer(self):
            return keras.optimizers.get({"class_name": self.optimizer,
                                         "config": {"learning_rate": 0.1}})

        def create_loss(self, outputs, labels):
            return tf.reduce_mean(tf.square(outputs[:, 0] - labels))

        def create_metrics(self, mode, outputs, labels, predictions):
            return {}

        def create_dataset(self, dataset, mode):
            def parse(record):
                parsed = tf.io.parse_single_example(record, {
                    "words": tf.io.FixedLenFeature([5], tf.int64),
                    "y": tf.io.FixedLenFeature([], tf.float32),
                })
                return {"words": parsed["words"]}, parsed["y"]

            return dataset.map(parse)
"""


def write_words(path: Path, upper: int = WORDS - 10) -> str:
    random = np.random.default_rng(0)
    with Writer(str(path)) as writer:
        for _ in range(RECORDS):
            words = random.integers(1, upper, 5)
            words[random.integers(1, 5) :] = 0
            y = float(np.sin(words).sum())
            writer.write(example.encode({"words": words, "y": np.float32(y)}))
    return str(path)


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    return write_words(tmp_path_factory.mktemp("words") / "words.recordio")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))


def train(tmp_path: Path, words: str, threshold: int, params: str, **options):
    zoo = write_zoo(tmp_path / "zoo", {"words.py": SPEC})
    return elasticdl.train(
        model_zoo=str(zoo),
        model_def="words.Words",
        data=words,
        output=str(tmp_path / f"out{threshold}"),
        embedding_threshold_bytes=threshold,
        params=params,
        num_workers=0,
        num_ps=3,
        minibatch_size=16,
        staleness=0,
        quiet=True,
        **options,
    )


def weights(path: str) -> list[np.ndarray]:
    return load_model(path).get_weights()


@pytest.mark.parametrize("kind", ["weights", "constant"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad"])
def test_a_table_trains_as_the_matrix_does(tmp_path, words, optimizer, kind):
    params = f"optimizer={optimizer}, kind={kind}"
    hosted = train(tmp_path, words, 0, params, num_epochs=2).output
    dense = train(tmp_path, words, -1, params, num_epochs=2).output
    assert set(load_parameters(hosted).tables) == {"embedding/embeddings"}
    assert not load_parameters(dense).tables
    for ours, theirs in zip(weights(hosted), weights(dense), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    start = np.random.default_rng(3).normal(size=(WORDS, 4))
    moved = np.abs(weights(hosted)[0] - start).max(axis=1) > 1e-4
    assert moved[1:40].all()
    assert not moved[40:].any()


def test_the_trained_model_predicts_as_plain_keras_wherever_it_is_asked(tmp_path, words):
    path = train(tmp_path, words, 0, "kind=uniform").output
    last = WORDS - 1 if IS_LEGACY else -1
    ids = np.array([[1, 2, 3, 0, 0], [45, 49, last, 7, 0]], np.int64)  # some were never trained
    model = load_model(path)
    assert "Hosted" not in str({type(layer) for layer in model.layers})
    matrix, kernel, bias = model.get_weights()
    assert matrix.shape == (WORDS, 4)
    mask = (ids != 0)[..., np.newaxis]
    by_hand = (matrix[ids] * mask).sum(1) / mask.sum(1) @ kernel + bias
    np.testing.assert_allclose(model.predict(ids, verbose=0), by_hand, atol=1e-6)
    serve = tf.saved_model.load(f"{path}/saved_model").signatures["serving_default"]
    np.testing.assert_allclose(
        next(iter(serve(words=tf.constant(ids)).values())), by_hand, atol=1e-6
    )
    result = elasticdl.predict(
        trained_model=path,
        data=words,
        output=str(tmp_path / "p.csv"),
        num_workers=0,
        num_ps=2,
        quiet=True,
    )
    predicted = np.loadtxt(result.output, delimiter=",", skiprows=1)
    batch = np.stack([example.decode(each)["words"] for each in read_range(words, 0, RECORDS)])
    np.testing.assert_allclose(predicted, model.predict(batch, verbose=0)[:, 0], atol=1e-6)


def test_a_frozen_table_is_looked_up_and_stays_as_it_was(tmp_path, words):
    path = train(tmp_path, words, 0, "kind=frozen").output
    matrix = load_parameters(path).tables["embedding/embeddings"]
    expected = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    np.testing.assert_array_equal(matrix.rows, expected)
    assert len(weights(path)) == 3


def test_a_regularizer_shrinks_the_rows_a_minibatch_looks_up_as_in_keras(tmp_path, words):
    regularized = load_parameters(train(tmp_path, words, 0, "kind=regularized", max_steps=1).output)
    (tmp_path / "b").mkdir()
    without = load_parameters(train(tmp_path / "b", words, 0, "kind=weights", max_steps=1).output)
    start = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    ours, plain = (each.tables["embedding/embeddings"].rows for each in (regularized, without))
    touched = np.abs(plain - start).max(axis=1) > 0
    assert 10 < touched.sum() < 50
    # w -= learning_rate * 2 * l2 * w, of the rows looked up and of no others.
    np.testing.assert_allclose(ours[touched], (plain - 0.1 * 0.02 * start)[touched], atol=1e-6)
    looked_up = np.abs(ours - start).max(axis=1) > 0
    assert looked_up.sum() in (touched.sum(), touched.sum() + 1)  # and the masked row 0


@pytest.mark.parametrize("kind", ["tied", "set_all"])
def test_a_matrix_the_model_needs_whole_stays_local_and_is_warned_of(tmp_path, words, kind):
    path = train(tmp_path, words, 0, f"kind={kind}").output
    parameters = load_parameters(path)
    assert not parameters.tables
    assert parameters.dense["embedding/embeddings"].shape == (50, 4)
    source = ModelSource(
        str(tmp_path / "zoo"), "words.Words", f"kind={kind}", embedding_threshold_bytes=0
    )
    contract = load_contract(source, Mode.TRAINING)
    spec = element_spec(contract, Mode.TRAINING)
    (warning,) = TwoPhaseModel(contract, spec.features, spec.labels, 0).warnings
    assert "layer 'embedding': its matrix of 800 bytes is pulled and pushed whole" in warning


def test_a_constraint_is_an_error_before_launch(tmp_path, words):
    for threshold in (0, -1):
        with pytest.raises(UsageError, match=r"'embedding/embeddings': .*MaxNorm.*leave it out"):
            train(tmp_path, words, threshold, "kind=constraint")


def test_an_id_outside_names_layer_id_and_where(tmp_path):
    data = write_words(tmp_path / "wrong.recordio", upper=WORDS + 5)
    with pytest.raises(UserCodeError, match=r"layer 'embedding': an id is not in \[0, 50\): 5\d"):
        train(tmp_path, data, 0, "kind=uniform")


def test_the_job_of_a_trained_model_remembers_the_threshold(tmp_path, words):
    path = train(tmp_path, words, 100, "kind=uniform").output
    result = elasticdl.evaluate(trained_model=path, data=words, num_workers=0, quiet=True)
    assert np.isfinite(result.metrics["loss"])
    assert json.loads((Path(path) / "schema.json").read_text())["inputs"][0]["name"] == "words"
