"""Make CIFAR-10, or where it cannot be downloaded, images of ten drawn shapes in its form.

CIFAR-10 (Krizhevsky, 2009) is downloaded from its home page, 163 MB, and its checksum is compared.
The shapes are no substitute for it as a measure of a model: they show that a network learns. They
are of any colours, sizes and places, with noise; a class is the shape alone.

An Example has `image` (bytes: 32 x 32 x 3 values of 0 to 255, by row, column, channel) and `label`
(int64, 0 to 9).
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from model_zoo import recipe

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
SIZE = 32
_TIMEOUT_S = 20

# Whether a point at (x, y), from -1 to 1 within the shape's square, is of the shape.
SHAPES: tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], ...] = (
    lambda x, y: x**2 + y**2 < 1,  # disc
    lambda x, y: abs(x**2 + y**2 - 0.75) < 0.25,  # ring
    lambda x, y: np.maximum(abs(x), abs(y)) < 0.85,  # square
    lambda x, y: abs(np.maximum(abs(x), abs(y)) - 0.75) < 0.2,  # frame
    lambda x, y: (abs(x) < (y + 1) / 2) & (y < 1),  # triangle
    lambda x, y: (np.minimum(abs(x), abs(y)) < 0.25) & (np.maximum(abs(x), abs(y)) < 1),  # plus
    lambda x, y: (abs(abs(x) - abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),  # cross
    lambda x, y: (np.sin(7 * y) > 0) & (np.maximum(abs(x), abs(y)) < 1),  # lines across
    lambda x, y: (np.sin(7 * x) > 0) & (np.maximum(abs(x), abs(y)) < 1),  # lines upright
    lambda x, y: (np.sin(7 * x) * np.sin(7 * y) > 0) & (np.maximum(abs(x), abs(y)) < 1),  # checks
)


def draw(num_images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw shapes: uint8 ``[n, 32, 32, 3]`` and their labels."""
    labels = rng.integers(0, len(SHAPES), num_images)
    images = np.empty((num_images, SIZE, SIZE, 3), np.uint8)
    row, column = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    for image, label in zip(images, labels, strict=True):
        radius = rng.uniform(8, 13)
        middle = rng.uniform(radius, SIZE - radius, 2)
        inside = SHAPES[label]((column - middle[0]) / radius, (row - middle[1]) / radius)
        background, colour = rng.uniform(0, 255, (2, 3))
        while abs(background - colour).max() < 80:
            colour = rng.uniform(0, 255, 3)
        values = np.where(inside[..., None], colour, background)
        values += rng.normal(0, 20, values.shape)
        image[:] = values.clip(0, 255).round()
    return images, labels


def download() -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """Download CIFAR-10.

    Returns:
      images, as uint8 ``[n, 32, 32, 3]``, and labels by "train" and "test"; the bytes loaded.

    Raises:
      OSError: it cannot be reached, or is not what it should be.
    """
    with urllib.request.urlopen(URL, timeout=_TIMEOUT_S) as response:
        archive = response.read()
    if hashlib.md5(archive, usedforsecurity=False).hexdigest() != MD5:
        raise OSError(f"{URL}: its checksum is not the known one")
    batches: dict[str, list[dict[bytes, Any]]] = {"train": [], "test": []}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in sorted(tar.getmembers(), key=lambda each: each.name):
            kind = Path(member.name).name.partition("_batch")[0]
            file = tar.extractfile(member)
            if file is not None and kind in ("data", "test"):
                part = "test" if kind == "test" else "train"
                # Safe: the bytes are those of the known checksum.
                batches[part].append(pickle.load(file, encoding="bytes"))
    return {
        part: (
            np.concatenate([each[b"data"] for each in parts])
            .reshape(-1, 3, SIZE, SIZE)
            .transpose(0, 2, 3, 1),
            np.concatenate([each[b"labels"] for each in parts]),
        )
        for part, parts in batches.items()
    }, len(archive)


def write(output: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Write ``train`` or ``test`` under a directory."""
    columns: dict[str, recipe.Column] = {
        "image": [image.tobytes() for image in images],
        "label": labels.astype(np.int64),
    }
    recipe.write(output / part, columns, num_shards=4 if part == "train" else 1)


def make_shapes(output: Path, num_images: int = 10_000, seed: int = 0) -> None:
    """Write drawn shapes: ``train``, and ``test`` of a fifth as many, under a directory."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", num_images), ("test", num_images // 5)):
        write(output, part, *draw(count, rng))


def main() -> None:
    """Run the command line."""
    parser = recipe.parser(__doc__, "cifar10")
    parser.add_argument(
        "--source",
        choices=("auto", "cifar10", "shapes"),
        default="auto",
        help="auto: CIFAR-10, or shapes where it cannot be downloaded",
    )
    parser.add_argument("--num_images", type=int, default=10_000, help="shapes to train on")
    parser.add_argument("--seed", type=int, default=0, help="of the shapes")
    given = parser.parse_args()
    if given.source != "shapes":
        try:
            parts, num_bytes = download()
        except OSError as error:
            if given.source == "cifar10":
                raise SystemExit(f"CIFAR-10 cannot be downloaded: {error}") from None
            print(f"CIFAR-10 cannot be downloaded ({error}): drawing shapes instead")
        else:
            for part, (images, labels) in parts.items():
                write(given.output, part, images, labels)
            print(f"{given.output}: CIFAR-10, {num_bytes:,} bytes, 50,000 images to train on")
            return
    make_shapes(given.output, given.num_images, given.seed)
    print(
        f"{given.output}: {given.num_images:,} drawn shapes to train on, "
        f"{given.num_images // 5:,} held out; this is not CIFAR-10"
    )


if __name__ == "__main__":
    main()
