"""Make interactions of users and items, drawn from a hidden model that is known.

Users and items have hidden vectors; a user takes an item with a probability in proportion to the
item's popularity times exp(user · item). A tenth of the interactions is held out. With each of them
go 99 other items, drawn by how often items are taken: a model should rank the one that was taken
before them. As the hidden vectors are known, so is the best recall that any model can expect.

An Example has `user` (int64) and `items` (int64: the one taken; held out, the others behind it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from elasticdl.data import example
from model_zoo import recipe

NUM_OTHERS = 99
_DIM = 6
_BLOCK = 4096  # records drawn at a time


@dataclass(frozen=True)
class Interactions:
    """Who took what.

    Attributes:
      user: index of the user, int64 ``[n]``.
      items: indices of the item taken and, behind it, of others, int64 ``[n, 1 + others]``.
    """

    user: np.ndarray
    items: np.ndarray


class HiddenModel:
    """What interactions are drawn from.

    Args:
      seed: another seed is another world; training and test data need the same.
      num_users: how many there are.
      num_items: how many there are.
    """

    def __init__(self, seed: int = 0, num_users: int = 400, num_items: int = 400) -> None:
        rng = np.random.default_rng(seed)
        self.users = rng.normal(0, 1, (num_users, _DIM))
        self.items = rng.normal(0, 1, (num_items, _DIM))
        popularity = 1 / np.arange(1, num_items + 1) ** 0.5
        chances = popularity * np.exp(self.users @ self.items.T)
        chances /= chances.sum(axis=1, keepdims=True)
        self._cumulative = np.cumsum(chances, axis=1)
        self._taken = chances.mean(axis=0)  # users are drawn alike
        self._user_ids = rng.permutation(2**62 + np.arange(num_users) * 7919)
        self._item_ids = rng.permutation(-(2**62) + np.arange(num_items) * 104729)

    def draw(self, num_records: int, num_others: int, rng: np.random.Generator) -> Interactions:
        """Draw interactions, each with other items that were not the one taken."""
        user = rng.integers(0, len(self.users), num_records)
        point = rng.random(num_records)
        taken = np.empty(num_records, np.int64)
        for start in range(0, num_records, _BLOCK):
            block = slice(start, start + _BLOCK)
            taken[block] = (self._cumulative[user[block]] < point[block, None]).sum(axis=1)
        taken = np.minimum(taken, len(self.items) - 1)
        others = rng.choice(len(self.items), (num_records, num_others), p=self._taken)
        while (same := others == taken[:, None]).any():
            others[same] = rng.choice(len(self.items), int(same.sum()), p=self._taken)
        return Interactions(user, np.concatenate([taken[:, None], others], axis=1))

    def best_recall(self, interactions: Interactions, k: int = 10) -> float:
        """Return the share of interactions of which the true model ranks the item among k."""
        # Others are drawn by popularity, so it says nothing about which one was taken.
        scores = np.log(self._chances(interactions)) - np.log(self._taken[interactions.items])
        ahead = (scores[:, 1:] >= scores[:, :1]).sum(axis=1)
        return float((ahead < k).mean())

    def write(self, interactions: Interactions, directory: Path, num_shards: int) -> None:
        """Write RecordIO files, with ids from all of int64 for the indices."""
        columns = {
            "user": self._user_ids[interactions.user],
            "items": self._item_ids[interactions.items],
        }
        recipe.write(directory, columns, num_shards)

    def _chances(self, interactions: Interactions) -> np.ndarray:
        """The probability of each item, by the record's user."""
        chances = np.diff(self._cumulative, axis=1, prepend=0)
        return chances[interactions.user[:, None], interactions.items]


def make(output: Path, num_records: int = 40_000, seed: int = 0) -> float:
    """Write ``train`` and ``test`` under a directory.

    Args:
      output: the directory.
      num_records: interactions to train on; a tenth as many are held out besides.
      seed: of the hidden model and of the draw.

    Returns:
      the recall at 10 that the hidden model itself has on the held-out interactions.
    """
    hidden = HiddenModel(seed)
    rng = np.random.default_rng([seed, 1])
    test = hidden.draw(num_records // 10, NUM_OTHERS, rng)
    hidden.write(hidden.draw(num_records, 0, rng), output / "train", num_shards=4)
    hidden.write(test, output / "test", num_shards=1)
    return hidden.best_recall(test)


def among_others(held_out: Sequence[bytes], kept: Sequence[bytes], seed: int = 0) -> list[bytes]:
    """Return records of ``train`` in the form of ``test``, with others to rank their items among.

    Args:
      held_out: the records, that the model is not trained on.
      kept: the other records of ``train``; other items are drawn by how often they occur there.
      seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    items = np.array([example.decode(record)["items"][0] for record in kept])
    made = []
    for record in held_out:
        features = example.decode(record)
        others = rng.choice(items[items != features["items"][0]], NUM_OTHERS)
        features["items"] = np.concatenate([features["items"], others])
        made.append(example.encode(features))
    return made


def main() -> None:
    """Run the command line."""
    parser = recipe.parser(__doc__, "two_tower")
    parser.add_argument("--num_records", type=int, default=40_000, help="to train on")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    best = make(given.output, given.num_records, given.seed)
    print(
        f"{given.output}: {given.num_records:,} interactions to train on, "
        f"{given.num_records // 10:,} held out; best possible recall at 10 {best:.4f}"
    )


if __name__ == "__main__":
    main()
