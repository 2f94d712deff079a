"""The models that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers import data
from benchmarks.peers.clicks import Clicks
from benchmarks.workloads import DATA, Workload
from benchmarks.zoo import workloads
from elasticdl.model.mode import Mode
from elasticdl.model.source import ModelSource

if TYPE_CHECKING:
    from elasticdl.model.contract import Contract

PEERS_ZOO = str(Path(__file__).parent / "zoo")


@dataclass(frozen=True)
class PeerWorkload:
    """A model and its data.

    Attributes:
      model_zoo: of the job.
      model_def: of the job; takes ready columns and Examples.
      minibatch_size: records in a minibatch.
      num_minibatches: of the data, which is read again and again.
      minibatches_per_task: of the job.
      make: writes a directory of so many minibatches to train on.
      targets: what ratios are to be at least, by keys of `benchmarks.peers.ratios.COMPARISONS`.
    """

    model_zoo: str
    model_def: str
    minibatch_size: int
    num_minibatches: int
    minibatches_per_task: int
    make: Callable[[Path, int], None]
    targets: Mapping[str, float] = field(default_factory=dict)

    def contract(self) -> Contract:
        """Return the model's definition, in a process that has TensorFlow."""
        from elasticdl.model.contract import load_contract

        return load_contract(ModelSource(self.model_zoo, self.model_def, ""), Mode.TRAINING)

    def prepare(self, name: str, num_minibatches: int | None = None) -> Path:
        """Make the data unless it is there; return its directory.

        Args:
          name: of the workload.
          num_minibatches: to make in place of its own number.
        """
        count = num_minibatches or self.num_minibatches
        directory = DATA / "benchmarks" / f"peers_{name}_{count}"
        if not (directory / "complete").exists():
            self.make(directory, count)
            (directory / "complete").touch()
        return directory


def _make_clicks(directory: Path, count: int) -> None:
    size, clicks = WORKLOADS["deepfm"].minibatch_size, Clicks()
    num_test = max(1, count // 8)
    train, test = clicks.minibatches(count, size, 1), clicks.minibatches(num_test, size, 2)
    data.write(directory, size, train, test)


def _make_of_zoo(workload: Workload, size: int) -> Callable[[Path, int], None]:
    def make(directory: Path, count: int) -> None:
        from benchmarks.peers.zoo_data import write

        write(workload, directory, size, count)

    return make


def _of_zoo(
    name: str,
    model_def: str,
    minibatches_per_task: int,
    targets: Mapping[str, float],
    **params: object,
) -> PeerWorkload:
    """Return a model of the zoo, trained in minibatches of the size that the zoo's README says."""
    workload = replace(workloads("small")[name], params=params)
    size = workload.minibatch_size
    return PeerWorkload(
        PEERS_ZOO,
        model_def,
        size,
        num_minibatches=128,
        minibatches_per_task=minibatches_per_task,
        make=_make_of_zoo(workload, size),
        targets=targets,
    )


WORKLOADS = {
    "deepfm": PeerWorkload(
        PEERS_ZOO,
        "clicks.Clicks",
        minibatch_size=1024,
        num_minibatches=512,
        minibatches_per_task=64,
        make=_make_clicks,
        targets={
            "apart": 0.80,
            "sharing": 0.65,
            "sharing_each": 0.65,
            "pss": 2.0,
            "pss_tuned": 2.0,
            "tf_keras_fit": 1.3,
            "fit": 3.5,
            "sync": 0.80,
        },
    ),
    "census": _of_zoo("census", "of_model_zoo.Census", 64, {}),
    "mnist": _of_zoo("mnist", "of_model_zoo.Digits", 64, {"sharing": 0.9, "sharing_each": 0.9}),
    "resnet": _of_zoo("cifar10", "of_model_zoo.Shapes", 8, {}, augment=False),
}
