"""Every model of the zoo, and how much of its data a comparison trains it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Size:
    """How much the models are trained on.

    Attributes:
      clicks: records of clicks to train on, once.
      shapes: drawn images to train on, 4 times.
      reviews: to train on, 5 times.
      interactions: of users and items, to train on, 8 times.
      mnist_epochs: how often the 4,500 digits are read.
      census_epochs: how often the 24,129 people are read.
    """

    clicks: int
    shapes: int
    reviews: int
    interactions: int
    mnist_epochs: int
    census_epochs: int


SIZES = {
    "small": Size(80_000, 1_200, 6_000, 20_000, 3, 2),
    "full": Size(400_000, 10_000, 8_000, 40_000, 12, 8),
}


def _making(model: str, function: str = "make", **options: Any) -> Callable[[Path], object]:
    """Return what makes a model's data by a function of its recipe."""

    def make(output: Path) -> object:
        recipe = import_module(f"model_zoo.{model}.make_data")
        return getattr(recipe, function)(output, **options)

    return make


def make_clicks(num_records: int, num_test_records: int = 20_000) -> Callable[[Path], object]:
    """Return what makes clicks on ids of few values, so that pairs of them can be learned."""

    def make(output: Path) -> object:
        from model_zoo.ctr.make_data import HiddenModel, make

        hidden = HiddenModel(largest_field=30)
        return make(output, num_records, num_test_records, num_shards=4, model=hidden)

    return make


def prepare(workload: Workload, size: str) -> Path:
    """Make a model's data unless it is there; return its directory."""
    # Models that share their recipe share its files.
    return workload.prepare(f"quality_{size}_{workload.model_def.partition('.')[0]}")


def workloads(size_name: str) -> dict[str, Workload]:
    """Return every model of the zoo by its name here, with its data and how it is trained."""
    size = SIZES[size_name]

    def mnist(name: str) -> Workload:
        epochs = size.mnist_epochs
        return Workload(f"mnist.{name}", _making("mnist"), 32, epochs, metric="accuracy")

    def clicks(name: str) -> Workload:
        return Workload(f"ctr.{name}", make_clicks(size.clicks), 256, 1, "auc", data_version=2)

    shapes = _making("cifar10", "make_shapes", num_images=size.shapes)
    reviews = _making("text", num_records=size.reviews)
    interactions = _making("two_tower", num_records=size.interactions)
    return {
        "iris": Workload("iris.IrisSpec", _making("iris"), 8, 30, metric="accuracy"),
        "mnist": mnist("MnistElasticDLSpec"),
        "mnist_functional": mnist("mnist_functional"),
        "mnist_subclassed": mnist("MnistModel"),
        "census": Workload(
            "census.WideAndDeep", _making("census"), 128, size.census_epochs, metric="auc"
        ),
        "wide_and_deep": clicks("WideAndDeep"),
        "deepfm": clicks("DeepFM"),
        "dcn_v2": clicks("DCNv2"),
        "cifar10": Workload("cifar10.ResNet", shapes, 32, 4, metric="accuracy"),
        "text": Workload("text.TextCNN", reviews, 64, 5, metric="accuracy"),
        "two_tower": Workload(
            "two_tower.TwoTowerSpec", interactions, 128, 8, metric="recall_at_10"
        ),
    }
