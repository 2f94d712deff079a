"""Make the census data set: 30,162 people of the UCI Adult data, a fifth held out.

``adult.data.gz`` lies beside this file: the rows without missing values of "Adult" by Barry Becker
and Ronny Kohavi, UCI Machine Learning Repository, 1996, https://doi.org/10.24432/C5XW20, under
CC BY 4.0. An Example has a feature for each column: int64 for numbers, bytes for words, and `label`
(int64): whether the income is above $50,000 a year.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np

from model_zoo import recipe

PEOPLE = Path(__file__).parent / "adult.data.gz"
HELD_OUT = 0.2


def read() -> dict[str, np.ndarray]:
    """Return the columns of the data, and `label`, in the file's order."""
    with gzip.open(PEOPLE, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = {}
    for name in rows[0]:
        values = [row[name].strip() for row in rows]
        is_number = all(value.isdigit() for value in values)
        columns[name] = np.array(values, np.int64 if is_number else object)
    columns["label"] = (columns.pop("income") == ">50K").astype(np.int64)
    return columns


def make(output: Path) -> tuple[int, int]:
    """Write ``train`` and ``test`` under a directory.

    Returns:
      how many people there are to train on, and how many are held out.
    """
    columns = read()
    train, test = recipe.hold_out(columns["label"], HELD_OUT)
    for name, rows, num_shards in (("train", train, 4), ("test", test, 1)):
        recipe.write(output / name, {k: v[rows] for k, v in columns.items()}, num_shards)
    return len(train), len(test)


def main() -> None:
    """Run the command line."""
    output: Path = recipe.parser(__doc__, "census").parse_args().output
    num_train, num_test = make(output)
    print(f"{output}: {num_train:,} people to train on, {num_test:,} held out")


if __name__ == "__main__":
    main()
