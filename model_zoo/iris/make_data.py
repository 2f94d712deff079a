"""Split the 150 flowers of iris.recordio into four fifths to train on and a fifth held out.

``iris.recordio`` lies beside this file: Fisher's measurements of 1936, public domain. An Example
has `sepal_length`, `sepal_width`, `petal_length`, `petal_width` (float32, cm) and `label` (int64,
0 to 2).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from elasticdl.data import example, recordio
from model_zoo import recipe

FLOWERS = Path(__file__).parent / "iris.recordio"
HELD_OUT = 0.2


def make(output: Path) -> tuple[int, int]:
    """Write ``train/iris.recordio`` and ``test/iris.recordio`` under a directory.

    Returns:
      how many flowers there are to train on, and how many are held out.
    """
    records = list(recordio.Scanner(FLOWERS))
    labels = np.array([int(example.decode(record)["label"][0]) for record in records])
    train, test = recipe.hold_out(labels, HELD_OUT)
    for name, rows in (("train", train), ("test", test)):
        (output / name).mkdir(parents=True, exist_ok=True)
        with recordio.Writer(output / name / "iris.recordio") as writer:
            for row in rows:
                writer.write(records[row])
    return len(train), len(test)


def main() -> None:
    """Run the command line."""
    output: Path = recipe.parser(__doc__, "iris").parse_args().output
    num_train, num_test = make(output)
    print(f"{output}: {num_train} flowers to train on, {num_test} held out")


if __name__ == "__main__":
    main()
