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
      params: of the model's constructor.
    """

    model_def: str
    make_data: Callable[[Path], object]
    minibatch_size: int
    num_epochs: int
    params: dict[str, Any] = field(default_factory=dict)


def _make_mnist(output: Path) -> None:
    from model_zoo.mnist.make_data import make

    make(output)


def _make_ctr(output: Path) -> None:
    from model_zoo.ctr.make_data import make

    make(output)


WORKLOADS = {
    "mnist": Workload("mnist.MnistElasticDLSpec", _make_mnist, minibatch_size=32, num_epochs=10),
    "deepfm": Workload(
        "ctr.DeepFM", _make_ctr, minibatch_size=1024, num_epochs=3, params={"embedding_dim": 16}
    ),
}


def prepare(name: str) -> str:
    """Make a workload's data unless it is there; return the pattern of its training files."""
    directory = DATA / "benchmarks" / name
    if not (directory / "complete").exists():
        WORKLOADS[name].make_data(directory)
        (directory / "complete").touch()
    return str(directory / "train" / "*.recordio")
