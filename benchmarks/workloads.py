"""The models that benchmarks train, with their data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path("data")
MODEL_ZOO = "model_zoo"


@dataclass(frozen=True)
class Workload:
    """A model and what it is trained on.

    Attributes:
      model_def: as ``--model_def`` names it, in the project's own zoo.
      make_data: writes ``train`` and ``test`` under a directory.
      minibatch_size: records in a minibatch.
      num_epochs: how often the data is read.
      metric: what tells how good the model is on ``test``; more is better.
      params: of the model's constructor.
      data_version: raised where ``make_data`` makes other data, so that none made before is used.
    """

    model_def: str
    make_data: Callable[[Path], object]
    minibatch_size: int
    num_epochs: int
    metric: str
    params: dict[str, Any] = field(default_factory=dict)
    data_version: int = 1

    @property
    def params_text(self) -> str:
        """The parameters as ``--params`` takes them."""
        return ", ".join(f"{name}={value!r}" for name, value in self.params.items())

    def prepare(self, name: str) -> Path:
        """Make the data unless it is there; return its directory.

        Args:
          name: of the directory among those of the benchmarks, to which the version is added.
        """
        directory = DATA / "benchmarks" / f"{name}_v{self.data_version}"
        if not (directory / "complete").exists():
            self.make_data(directory)
            (directory / "complete").touch()
        return directory


def _make_mnist(output: Path) -> None:
    from model_zoo.mnist.make_data import make

    make(output)


def _make_ctr(output: Path) -> None:
    from model_zoo.ctr.make_data import make

    make(output)


WORKLOADS = {
    "mnist": Workload(
        "mnist.MnistElasticDLSpec",
        _make_mnist,
        minibatch_size=32,
        num_epochs=10,
        metric="accuracy",
    ),
    "deepfm": Workload(
        "ctr.DeepFM",
        _make_ctr,
        minibatch_size=1024,
        num_epochs=3,
        metric="auc",
        params={"embedding_dim": 16},
        data_version=2,
    ),
}
