"""Data sets and how they are dealt out to clients.

Building a data set or a partition imports scikit-learn or flwr-datasets, which takes seconds; both
are therefore built once and cached, and a client that starts on a warm cache imports neither.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from common.errors import UserError
from common.files import cached_arrays
from common.seeding import SERVER, rng_for, torch_generator

HELD_OUT_DIGITS = 360
KNOWN_IMAGES = 4096, 1024
# Each photograph is cut into 2 x 4 cells; the right-hand columns of every cell are held out, so
# that train and held-out patches show the same scenery without sharing a pixel.
CELL_ROWS, CELL_COLUMNS = 2, 4
HELD_OUT_COLUMNS = 48
PATCH_STRIDE = 8
# Part of the cache keys: raise it when what is built below changes.
CACHE_FORMAT = 1


@dataclass(frozen=True)
class ImageData:
    """Labelled images.

    Attributes:
        images: (N, C, H, W) in [-1, 1]; those of a known law hardly ever reach beyond.
        labels: (N,) in [0, num_classes).
        num_classes: how many classes the data set has, whether or not all occur here.
        name: the data set's name in the configuration.
        flippable: whether a horizontal mirror image is as likely as the image itself.
    """

    images: Float32[np.ndarray, "N C H W"]
    labels: Int64[np.ndarray, " N"]
    num_classes: int
    name: str
    flippable: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def select(self, indices: Int64[np.ndarray, " M"]) -> "ImageData":
        """The images at `indices`, in that order."""
        return ImageData(
            self.images[indices], self.labels[indices], self.num_classes, self.name, self.flippable
        )


class Splits(NamedTuple):
    """A data set's training images and the images no client ever sees."""

    train: ImageData
    test: ImageData


class _Raw(NamedTuple):
    """A data set as it is cached: intensities from 0 to `white`, which become -1 to 1."""

    train_images: UInt8[np.ndarray, "N C H W"]
    train_labels: Int64[np.ndarray, " N"]
    test_images: UInt8[np.ndarray, "M C H W"]
    test_labels: Int64[np.ndarray, " M"]


_Indices = Int64[np.ndarray, " _"]


class _Builder(NamedTuple):
    build: Callable[[], _Raw]
    white: int
    num_classes: int
    flippable: bool


def load_dataset(name: str) -> Splits:
    """The data set called `name`, from the cache where it has been prepared before.

    - `digits`: scikit-learn's 1797 handwritten digits, 1x8x8, 10 classes; a fixed stratified split
      into 1437 for training and 360 held out.
    - `patches16`, `patches32`: colour patches of scikit-learn's two photographs at a stride of 8
      pixels. The class is photograph and coarse position, 2 x (2 x 4); held-out patches come from
      strips of the photographs that no training patch touches. 5200 and 4048 training patches.
    - a law of `common.known` and a side, such as `gaussian-field8`: draws of it, whose score is
      known; 4096 for training and 1024 held out, 1xSxS.

    Raises:
        UserError: no such data set, or the cache folder cannot be written.
    """
    if name not in DATASETS:
        return _known(name)
    builder = DATASETS[name]
    key = {"data": name, "format": CACHE_FORMAT, **_versions("scikit-learn", "numpy", "pillow")}
    cached = cached_arrays(f"data-{name}", key, lambda: builder.build()._asdict())
    raw = _Raw(**cached)

    def scaled(images: UInt8[np.ndarray, "N C H W"], labels: np.ndarray) -> ImageData:
        values = images.astype(np.float32) * np.float32(2 / builder.white) - np.float32(1)
        return ImageData(values, labels, builder.num_classes, name, builder.flippable)

    return Splits(
        scaled(raw.train_images, raw.train_labels), scaled(raw.test_images, raw.test_labels)
    )


def _known(name: str) -> Splits:
    from common.known import LAWS, known_law

    law = known_law(name)
    if law is None:
        laws = ", ".join(f"{each}8" for each in LAWS)
        raise UserError(
            f"data: no data set {name!r}; choose one of {', '.join(DATASETS)}, or a known law with "
            f"its side: {laws}"
        )
    drawn, labels = law.draw(sum(KNOWN_IMAGES), torch_generator(rng_for(0, 0, SERVER, name)))
    whole = ImageData(drawn.float().numpy(), labels.numpy(), law.num_classes, name)
    train, test = np.split(np.arange(len(whole)), KNOWN_IMAGES[:1])
    return Splits(whole.select(train), whole.select(test))


def load_partition(
    data: str, partition: str, alpha: float, num_partitions: int, partition_id: int, seed: int
) -> ImageData:
    """The training images of client `partition_id` of `num_partitions`.

    Raises:
        UserError: as `load_dataset` and `partition_indices`, or no such partition.
    """
    if not 0 <= partition_id < num_partitions:
        raise UserError(f"partition-id {partition_id} is not in 0..{num_partitions - 1}")
    train = load_dataset(data).train
    key = {
        "labels": hashlib.sha256(train.labels.tobytes()).hexdigest(),
        "partition": partition,
        "alpha": float(alpha) if partition == "dirichlet" else None,
        "num_partitions": num_partitions,
        "seed": seed,
        "format": CACHE_FORMAT,
        **_versions("flwr-datasets", "numpy"),
    }

    def build() -> dict[str, np.ndarray]:
        parts = partition_indices(train.labels, partition, num_partitions, alpha, seed)
        ends = np.cumsum([len(part) for part in parts])
        return {"indices": np.concatenate(parts), "ends": ends}

    cached = cached_arrays(f"partition-{data}", key, build)
    return train.select(np.split(cached["indices"], cached["ends"][:-1])[partition_id])


def partition_indices(
    labels: Int64[np.ndarray, " N"], kind: str, num_partitions: int, alpha: float, seed: int
) -> list[_Indices]:
    """Deal N images out to clients; every image goes to exactly one.

    `iid` shuffles and cuts into equal parts. `dirichlet` splits each class by proportions drawn
    from Dir(alpha) over the clients (Yurochkin et al. 2019); a client it leaves without an image
    is given one of the largest client's, since an empty client could not take part. `classes` gives
    class c to the clients n with n = c modulo the number of clients or of classes, whichever is
    smaller: nobody else sees it.

    Returns:
        `num_partitions` arrays of at least one index each.

    Raises:
        UserError: an unknown kind, or fewer images than clients, or alpha not positive.
    """
    if kind not in PARTITIONS:
        raise UserError(f"partition: no kind {kind!r}; choose one of {', '.join(PARTITIONS)}")
    if not 1 <= num_partitions <= len(labels):
        raise UserError(
            f"fleet: {num_partitions} clients cannot share the {len(labels)} images of data;"
            f" name 1 to {len(labels)} clients in fleet"
        )
    if kind == "dirichlet" and not 0 < alpha < np.inf:
        raise UserError(f"partition-alpha: {alpha} is not a positive number")
    rng = rng_for(seed, 0, SERVER, "partition")
    order = rng.permutation(len(labels))
    if kind == "classes":
        parts = _by_class(labels, order, num_partitions)
    else:
        parts = _by_flower(labels, order, kind, num_partitions, alpha, int(rng.integers(2**31)))
    for i, part in enumerate(parts):
        if len(part) == 0:
            largest = max(range(num_partitions), key=lambda j: len(parts[j]))
            parts[i], parts[largest] = parts[largest][-1:], parts[largest][:-1]
    return parts


PARTITIONS = ("iid", "dirichlet", "classes")


def _by_class(labels: _Indices, order: _Indices, num_partitions: int) -> list[_Indices]:
    """Deal whole classes out; clients that hold the same classes share them evenly."""
    groups = min(int(labels.max()) + 1, num_partitions)
    parts: list[_Indices] = []
    for client in range(num_partitions):
        theirs = order[labels[order] % groups == client % groups]
        sharing = len(range(client % groups, num_partitions, groups))
        parts.append(theirs[client // groups :: sharing])
    return parts


def _by_flower(
    labels: _Indices, order: _Indices, kind: str, num_partitions: int, alpha: float, seed: int
) -> list[_Indices]:
    """Deal images out with flwr-datasets, in memory, so nothing is ever looked up on a hub."""
    import datasets
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner

    partitioner: Any = IidPartitioner(num_partitions)
    if kind == "dirichlet":
        partitioner = DirichletPartitioner(
            num_partitions,
            partition_by="label",
            alpha=float(alpha),
            min_partition_size=0,
            seed=seed,
        )
    partitioner.dataset = datasets.Dataset.from_dict({"index": order, "label": labels[order]})
    return [
        np.asarray(partitioner.load_partition(i)["index"], dtype=np.int64)
        for i in range(num_partitions)
    ]


def _digits() -> _Raw:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT_DIGITS, stratify=labels, random_state=0
    )
    return _Raw(images[train], labels[train], images[test], labels[test])


def _patches(size: int) -> _Raw:
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
    return _Raw(train, train_labels, test, test_labels)


DATASETS: Mapping[str, _Builder] = {
    "digits": _Builder(_digits, white=16, num_classes=10, flippable=False),
    "patches16": _Builder(lambda: _patches(16), white=255, num_classes=16, flippable=True),
    "patches32": _Builder(lambda: _patches(32), white=255, num_classes=16, flippable=True),
}


def _versions(*distributions: str) -> dict[str, str]:
    return {name: version(name) for name in distributions}
