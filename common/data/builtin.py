"""The data sets that come with scikit-learn, cut to what a run trains on and is judged by."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from common.data.pictures import Shape

HELD_OUT_DIGITS = 360
# Each photograph is cut into 2 x 4 cells; the right-hand columns of every cell are held out, so
# that train and held-out patches show the same scenery without sharing a pixel.
CELL_ROWS, CELL_COLUMNS = 2, 4
HELD_OUT_COLUMNS = 48
PATCH_STRIDE = 8


class Raw(NamedTuple):
    """A data set as it is cached: intensities from 0 to `white`, which become -1 to 1."""

    train_images: UInt8[np.ndarray, "N C H W"]
    train_labels: Int64[np.ndarray, " N"]
    test_images: UInt8[np.ndarray, "M C H W"]
    test_labels: Int64[np.ndarray, " M"]


class Builder(NamedTuple):
    """How a data set is made, and what is known of it before."""

    build: Callable[[], Raw]
    shape: Shape
    white: int
    num_classes: int
    flippable: bool


def _digits() -> Raw:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT_DIGITS, stratify=labels, random_state=0
    )
    return Raw(images[train], labels[train], images[test], labels[test])


def _patches(size: int) -> Raw:
    from sklearn.datasets import load_sample_images

    cut: list[list[np.ndarray]] = [[], []]
    labels: list[list[int]] = [[], []]
    for photograph_index, photograph in enumerate(load_sample_images().images):
        height, width = photograph.shape[0] // CELL_ROWS, photograph.shape[1] // CELL_COLUMNS
        for cell in range(CELL_ROWS * CELL_COLUMNS):
            top, left = cell // CELL_COLUMNS * height, cell % CELL_COLUMNS * width
            area = photograph[top : top + height, left : left + width]
            for split, strip in enumerate(np.split(area, [width - HELD_OUT_COLUMNS], axis=1)):
                windows = np.lib.stride_tricks.sliding_window_view(strip, (size, size), (0, 1))
                patches = windows[::PATCH_STRIDE, ::PATCH_STRIDE].reshape(-1, 3, size, size)
                cut[split].append(patches)
                labels[split] += [photograph_index * CELL_ROWS * CELL_COLUMNS + cell] * len(patches)
    (train, test), (train_labels, test_labels) = map(np.concatenate, cut), map(np.array, labels)
    return Raw(train, train_labels, test, test_labels)


DATASETS: Mapping[str, Builder] = {
    "digits": Builder(_digits, (1, 8, 8), white=16, num_classes=10, flippable=False),
    "patches16": Builder(lambda: _patches(16), (3, 16, 16), 255, 16, flippable=True),
    "patches32": Builder(lambda: _patches(32), (3, 32, 32), 255, 16, flippable=True),
}
