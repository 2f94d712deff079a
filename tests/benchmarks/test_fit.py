import pytest

from benchmarks.fit import evaluate, fit
from benchmarks.workloads import Workload


@pytest.mark.parametrize("model", ["MnistElasticDLSpec", "mnist_functional", "MnistModel"])
def test_fit_trains_models_of_every_contract(tmp_path, model):
    mnist = pytest.importorskip("model_zoo.mnist.make_data", reason="the zoo extra is missing")
    mnist.make(tmp_path)
    workload = Workload(f"mnist.{model}", mnist.make, 32, 1, "accuracy")
    fitted = fit(workload, str(tmp_path / "train" / "*.recordio"), 32, 1)
    assert fitted.records == 4500
    assert evaluate(fitted, str(tmp_path / "test" / "*.recordio"))["accuracy"] >= 0.8
