"""The models that are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import data
from benchmarks.peers.clicks import Clicks
from benchmarks.workloads import DATA

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
      params: of the model's definition.
    """

    model_zoo: str
    model_def: str
    minibatch_size: int
    num_minibatches: int
    minibatches_per_task: int
    make: Callable[[Path, int], None]
    params: str = ""

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


WORKLOADS = {
    "deepfm": PeerWorkload(
        PEERS_ZOO,
        "clicks.Clicks",
        minibatch_size=1024,
        num_minibatches=512,
        minibatches_per_task=64,
        make=_make_clicks,
    ),
}
