import keras
import pytest
import tensorflow as tf

from benchmarks.fit import evaluate, fit, fit_late
from benchmarks.workloads import Workload


@pytest.mark.parametrize("model", ["MnistElasticDLSpec", "mnist_functional", "MnistModel"])
def test_fit_trains_models_of_every_contract(tmp_path, model):
    mnist = pytest.importorskip("model_zoo.mnist.make_data", reason="the zoo extra is missing")
    mnist.make(tmp_path)
    workload = Workload(f"mnist.{model}", mnist.make, 32, 1, "accuracy")
    fitted = fit(workload, str(tmp_path / "train" / "*.recordio"), 32, 1)
    assert fitted.records == 4500
    assert evaluate(fitted, str(tmp_path / "test" / "*.recordio"))["accuracy"] >= 0.8


@pytest.mark.parametrize("late", [0, 1, 3])
def test_a_late_gradient_is_of_the_parameters_before_as_many_others(late):
    inputs = keras.Input((1,))
    outputs = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.25), loss="mse")
    ones = tf.ones([10, 1])
    loss = fit_late(model, tf.data.Dataset.from_tensor_slices((ones, ones)).batch(1), 1, late)

    weights = [0.0] * (late + 1)  # what the first gradients are of
    for step in range(10):
        weights.append(weights[-1] - 0.25 * 2 * (weights[step] - 1))
    assert float(model.layers[-1].kernel[0, 0]) == pytest.approx(weights[-1], abs=1e-6)
    assert loss == pytest.approx(sum((w - 1) ** 2 for w in weights[:10]) / 10, abs=1e-6)
