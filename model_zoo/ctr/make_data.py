"""Make click-through data shaped as Criteo's, from a hidden model that is known.

A record has 13 counts and 26 categorical ids. Ids are any int64, drawn by Zipf's law from fields of
10 to ``largest_field`` values. Whether it was clicked is drawn from the hidden model's probability:
a logistic function of the numbers, a weight per id, and products of hidden vectors of ids. Products
are of every seventh field: of real clicks too, few pairs of fields carry most of what pairs say
(Pan et al., "Field-weighted Factorization Machines", WWW 2018). As the probabilities are known, so
is the best AUC that a model can reach but by chance, and that of a model without products.

An Example has `numeric` (13 float32), `categorical` (26 int64) and `label` (int64, 0 or 1).
"""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from elasticdl.data import example, recordio

NUM_NUMERIC = 13
NUM_CATEGORICAL = 26
_BLOCK = 65536  # records drawn at a time
_APART = 7  # fields from one whose ids have products to the next
_DIM = 2  # of the vectors whose products they are
_INTERACTION = 0.8  # standard deviation of what products add to the log-odds


@dataclass(frozen=True)
class Records:
    """Some records, by column.

    Attributes:
      numeric: counts, float32 ``[n, 13]``.
      categorical: ids, int64 ``[n, 26]``; an id belongs to one field only.
      probability: of a click, by the hidden model, float64 ``[n]``.
      additive: log-odds by the hidden model without its products, float64 ``[n]``.
      label: whether it was clicked, int64 ``[n]``.
    """

    numeric: np.ndarray
    categorical: np.ndarray
    probability: np.ndarray
    additive: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Reachable:
    """What models can reach on some records, but by chance.

    Attributes:
      best: AUC of the hidden model's probabilities.
      additive: AUC of its log-odds without the products of ids: of the best linear model.
    """

    best: float
    additive: float


class HiddenModel:
    """What clicks are drawn from.

    Args:
      seed: another seed is another world; training and test data need the same.
      zipf: exponent of the ids' frequencies, > 0.
      largest_field: distinct ids of the largest field, >= 10.
    """

    def __init__(self, seed: int = 0, zipf: float = 1.2, largest_field: int = 100_000) -> None:
        rng = np.random.default_rng(seed)
        self._sizes = np.geomspace(10, largest_field, NUM_CATEGORICAL).astype(np.int64)
        self._cumulative, self._weights, self._vectors = [], [], []
        for field, size in enumerate(self._sizes):
            rank = np.arange(1, size + 1)
            frequency = rank**-zipf / (rank**-zipf).sum()
            self._cumulative.append(np.cumsum(frequency))
            # Rare ids say less, as otherwise no model could learn what they say.
            strength = 1 / (1 + rank / 20)
            self._weights.append(rng.normal(0, 0.35, size) * strength)
            vectors = rng.normal(0, 1, (size, _DIM)) * strength[:, None] * (field % _APART == 0)
            # Their mean is 0, so that products say nothing about one id alone.
            self._vectors.append(vectors - frequency @ vectors)
        scale = math.sqrt(_INTERACTION / self._deviation_of_products())
        self._vectors = [vectors * scale for vectors in self._vectors]
        self._numeric_weights = rng.normal(0, 0.25, NUM_NUMERIC)
        self._seed = np.uint64(seed)

    def _deviation_of_products(self) -> float:
        """Return the standard deviation of the sum of all products, as fields are independent."""
        variance, below = 0.0, np.zeros((_DIM, _DIM))
        for vectors, cumulative in zip(self._vectors, self._cumulative, strict=True):
            covariance = (vectors.T * np.diff(cumulative, prepend=0)) @ vectors
            variance += (covariance * below).sum()
            below += covariance
        return math.sqrt(variance)

    def draw(self, num_records: int, rng: np.random.Generator) -> Records:
        """Draw records."""
        numeric = rng.lognormal(1.0, 1.0, (num_records, NUM_NUMERIC)).astype(np.float32).round()
        logit = -1.2 + (np.log1p(numeric) - 1.4) @ self._numeric_weights
        categorical = np.empty((num_records, NUM_CATEGORICAL), np.int64)
        total = np.zeros((num_records, _DIM))
        squares = np.zeros((num_records, _DIM))
        for field, cumulative in enumerate(self._cumulative):
            index = np.searchsorted(cumulative, rng.random(num_records))
            index = np.minimum(index, len(cumulative) - 1)
            categorical[:, field] = self._ids(field, index)
            logit += self._weights[field][index]
            vectors = self._vectors[field][index]
            total += vectors
            squares += vectors**2
        products = 0.5 * (total**2 - squares).sum(axis=1)  # of every pair of fields
        probability = 1 / (1 + np.exp(-(logit + products)))
        label = (rng.random(num_records) < probability).astype(np.int64)
        return Records(numeric, categorical, probability, logit, label)

    def _ids(self, field: int, index: np.ndarray) -> np.ndarray:
        """Spread (field, index) over all of int64, one to one."""
        z = (
            (np.uint64(field) << np.uint64(40))
            + index.astype(np.uint64)
            + (self._seed << np.uint64(48))
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))).view(np.int64)


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the chance that a clicked record has a higher score than one that is not.

    Ties count half.

    Args:
      scores: ``[n]``, the higher the more likely a click.
      labels: 1 for a click, else 0, ``[n]``.
    """
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[group]  # from 1; the mean of those it ties with
    num_clicked = int(labels.sum())
    below = rank[labels == 1].sum() - num_clicked * (num_clicked + 1) / 2
    return float(below / (num_clicked * (len(labels) - num_clicked)))


def generate(
    path: str | os.PathLike[str],
    num_records: int,
    seed: int,
    model: HiddenModel | None = None,
) -> Reachable:
    """Write a RecordIO file of Examples.

    Args:
      path: the file.
      num_records: how many records.
      seed: of the draw; the same seed and model give the same file.
      model: what the clicks are drawn from; HiddenModel() unless given.

    Returns:
      what models can reach on these records.
    """
    hidden = model or HiddenModel()
    rng = np.random.default_rng(seed)
    probabilities, additive, labels = [], [], []
    with recordio.Writer(path) as writer:
        for start in range(0, num_records, _BLOCK):
            records = hidden.draw(min(_BLOCK, num_records - start), rng)
            probabilities.append(records.probability)
            additive.append(records.additive)
            labels.append(records.label)
            for numeric, categorical, clicked in zip(
                records.numeric, records.categorical, records.label, strict=True
            ):
                features = {"numeric": numeric, "categorical": categorical, "label": clicked}
                writer.write(example.encode(features))
    label = np.concatenate(labels)
    best, linear = (auc(np.concatenate(parts), label) for parts in (probabilities, additive))
    return Reachable(best, linear)


def make(
    output: Path,
    num_records: int = 200_000,
    num_test_records: int = 20_000,
    num_shards: int = 8,
    seed: int = 0,
    model: HiddenModel | None = None,
) -> Reachable:
    """Write ``train``, in ``num_shards`` files, and ``test`` under a directory.

    Returns:
      what models can reach on the test records.
    """
    hidden = model or HiddenModel(seed)
    train, test = output / "train", output / "test"
    train.mkdir(parents=True, exist_ok=True)
    test.mkdir(parents=True, exist_ok=True)
    first_seed = seed * 1_000_003  # far from those of the next seed
    for shard, rows in enumerate(np.array_split(np.arange(num_records), num_shards)):
        path = train / f"{shard:05d}-of-{num_shards:05d}.recordio"
        generate(path, len(rows), first_seed + shard, hidden)
    path = test / "00000-of-00001.recordio"
    return generate(path, num_test_records, first_seed + num_shards, hidden)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("data/ctr"), metavar="DIR")
    parser.add_argument("--num_records", type=int, default=200_000, help="to train on")
    parser.add_argument("--num_test_records", type=int, default=20_000)
    parser.add_argument("--num_shards", type=int, default=8, help="files to train on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--zipf", type=float, default=1.2, help="exponent of the ids' frequencies")
    parser.add_argument("--largest_field", type=int, default=100_000, help="distinct ids of it")
    given = parser.parse_args()
    reachable = make(
        given.output,
        given.num_records,
        given.num_test_records,
        given.num_shards,
        given.seed,
        HiddenModel(given.seed, given.zipf, given.largest_field),
    )
    print(
        f"{given.output}: {given.num_records:,} records to train on, "
        f"{given.num_test_records:,} held out; best possible AUC {reachable.best:.4f}, "
        f"of a linear model {reachable.additive:.4f}"
    )


if __name__ == "__main__":
    main()
