"""Pack the garments that come with the project: ``python -m tools.pack_garments FASHION_MNIST OUT.png``.

FASHION_MNIST is the folder of the four original files. Per class, the first 450 images of the training files are taken
and the first 50 of the test files. OUT.png is one gray picture, 100 garments wide and 50 high, without loss. Garments
are counted column by column. Their classes take turns, and the training images come first: so garment k is of class
k mod 10, and the last 500 are those of the test files. Rows of one class are what packs best.
"""

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES, TRAIN_PER_CLASS, TEST_PER_CLASS = 10, 450, 50
ROWS = 50

Bytes = NDArray[np.uint8]


def read_idx(path: Path) -> Bytes:
    """Read a packed file of the MNIST family: two zeros, the type, the number of sizes, the sizes, the bytes."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)


def in_turn(folder: Path, half: str, per_class: int) -> Bytes:
    """Return the first images of every class, one class after the other in turn, (N, 28, 28)."""
    images = read_idx(folder / f"{half}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{half}-labels-idx1-ubyte.gz")
    chosen = np.stack([np.flatnonzero(labels == label)[:per_class] for label in range(CLASSES)], axis=1)
    return images[chosen.ravel()]


def sheet(folder: Path) -> Image.Image:
    """Lay out the garments."""
    images = np.concatenate([in_turn(folder, "train", TRAIN_PER_CLASS), in_turn(folder, "t10k", TEST_PER_CLASS)])
    height, width = images.shape[1:]
    return Image.fromarray(images.reshape(-1, ROWS, height, width).transpose(1, 2, 0, 3).reshape(ROWS * height, -1))


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("folder", type=Path, help="where the four packed files are")
    parser.add_argument("out", type=Path)
    options = parser.parse_args(arguments)
    sheet(options.folder).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
