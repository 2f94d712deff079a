"""Which parameters, and how many epochs, does a model of the zoo learn best with?

Asked of a tenth of its training data, drawn at random and held out; the test data, by which the
model is judged in the end, is not read. What differs by less than the noise, which is the standard
deviation over the seeds, is as good.

    python -m benchmarks.choose cifar10 --params learning_rate=0.01 --params learning_rate=0.03
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.quality import CONSISTENCIES, Settings, run_job
from benchmarks.workloads import Workload
from benchmarks.zoo import SIZES, prepare, workloads
from elasticdl.data import recordio
from elasticdl.model.params import parse_params

HELD_OUT = 0.1


def hold_out(workload: Workload, size: str) -> Path:
    """Split the training records of a model's data; return where `train` and `test` of them are."""
    model = workload.model_def.partition(".")[0]

    def split(output: Path) -> None:
        paths = sorted((prepare(workload, size) / "train").glob("*.recordio"))
        records = [record for path in paths for record in recordio.Scanner(path)]
        rows = np.random.default_rng(0).permutation(len(records))
        held_out, kept = np.split(rows, [round(HELD_OUT * len(records))])
        parts = {"train": [records[i] for i in kept], "test": [records[i] for i in held_out]}
        if model in _AS_TEST_DATA:
            parts["test"] = _AS_TEST_DATA[model](parts["test"], parts["train"])
        for part, chosen in parts.items():
            (output / part).mkdir(parents=True, exist_ok=True)
            with recordio.Writer(output / part / "0.recordio") as writer:
                for record in chosen:
                    writer.write(record)

    return replace(workload, make_data=split).prepare(f"choose_{size}_{model}")


def _among_others(held_out: list[bytes], kept: list[bytes]) -> list[bytes]:
    from model_zoo.two_tower.make_data import among_others

    return among_others(held_out, kept)


# Where records to measure a model on are not of the same form as those to train it on.
_AS_TEST_DATA: dict[str, Callable[[list[bytes], list[bytes]], list[bytes]]] = {
    "two_tower": _among_others
}


def measure(workload: Workload, data: Path, settings: Settings) -> list[float]:
    """Train with every seed; return the metric on what is held out."""
    return [
        run_job(workload, data, seed, settings, settings.consistencies[0])
        for seed in range(settings.seeds)
    ]


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=workloads("full"))
    parser.add_argument("--size", choices=SIZES, default="full", help="of the data")
    parser.add_argument("--params", action="append", help="as of elasticdl train; once or more")
    parser.add_argument("--num_epochs", type=int, action="append", help="once or more")
    parser.add_argument("--seeds", type=int, default=3, help="of each, 2 or more")
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--num_ps", type=int, default=1)
    parser.add_argument("--consistency", choices=CONSISTENCIES, default="async")
    given = parser.parse_args(words)
    if given.seeds < 2:
        parser.error(f"--seeds {given.seeds}: noise needs 2 or more")
    settings = Settings(
        given.size, given.seeds, given.num_workers, given.num_ps, (given.consistency,)
    )
    workload = workloads(given.size)[given.model]
    data = hold_out(workload, given.size)
    print(f"{workload.model_def}: {workload.metric} on {HELD_OUT:.0%} of the training data")
    candidates = itertools.product(
        given.params or [workload.params_text], given.num_epochs or [workload.num_epochs]
    )
    for params, num_epochs in candidates:
        candidate = replace(workload, params=parse_params(params), num_epochs=num_epochs)
        values = measure(candidate, data, settings)
        print(
            f"{statistics.fmean(values):.4f}, noise {statistics.stdev(values):.4f}: "
            f"{num_epochs} epochs, {params or 'as it is'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
