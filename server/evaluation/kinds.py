"""Kinds of images: what the feature classifier learns to tell apart.

Where a data set has classes they are its kinds. A flat folder of pictures has none, and a
classifier of one class learns nothing; then images are grouped by what they look like, and the
groups are the kinds: clusters as labels (Caron et al. 2018, "Deep Clustering for Unsupervised
Learning of Visual Features"), here of small copies of the images and once. Clusters are told apart
by what is coarse, so blurred copies are one kind more: to know these, fine detail has to be seen.
"""

import hashlib
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.cluster.vq import kmeans2
from scipy.spatial.distance import cdist
from torch.nn import functional

from common.data import ImageData, Splits
from common.features import blurred
from common.seeding import SERVER, rng_for

SIDE = 8
"""Images are grouped as they look at no more than so many pixels a side."""

MOST, IMAGES_EACH = 20, 10
"""Clusters at most, and images that there are to each at least, on average."""

STARTS, STEPS = 4, 30

STRENGTHS = 4
"""Of the blur, which are so many passes at most."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """Which kind each image is of.

    Attributes:
        count: K, at least 1.
        train: Those of the training images, 0 … K-1.
        test: Those of the held-out images.
        clustered: Whether they are clusters and not the data's own classes.
    """

    count: int
    train: Int64[np.ndarray, " N"]
    test: Int64[np.ndarray, " M"]
    clustered: bool

    def lesson(self, train: ImageData) -> "ImageData | Lesson":
        """Return what the classifier learns from: the training images as the kinds they are.

        With clusters as many blurred copies follow, of all strengths, as a kind K.
        """
        return Lesson(train, self) if self.clustered else train


class Lesson:
    """Images without classes as a classifier learns them: clusters, and blurred copies as a kind.

    The first N are the training images, the next N their blurred copies: of every fourth image
    those that were averaged once, then of the ones after these those that were twice, and so on.

    Attributes:
        name, image_shape, flippable: the data's.
        labels: (2N,), the cluster of each, K of the copies.
        num_classes: K + 1.
    """

    def __init__(self, train: ImageData, kinds: Kinds) -> None:
        self._train = train
        self.name, self.image_shape, self.flippable = train.name, train.image_shape, train.flippable
        places = np.arange(len(train))
        copies = [places[first::STRENGTHS] for first in range(STRENGTHS)]
        self._places = np.concatenate([places, *copies])
        passes = [np.full(len(each), 1 + first) for first, each in enumerate(copies)]
        self._passes = np.concatenate([np.zeros_like(places), *passes])
        blurry = np.full(len(train), kinds.count, dtype=np.int64)
        self.labels = np.concatenate([kinds.train, blurry])
        self.num_classes = kinds.count + 1

    def __len__(self) -> int:
        return len(self.labels)

    def values(self, places: Int64[np.ndarray, " M"]) -> Float32[np.ndarray, "M C H W"]:
        """Some of the images, in [-1, 1]."""
        images = self._train.values(self._places[places])
        for passes in range(1, 1 + STRENGTHS):
            these = self._passes[places] == passes
            if these.any():
                images[these] = blurred(torch.from_numpy(images[these]), passes).numpy()
        return images

    def digest(self) -> str:
        """The SHA-256 of all that determines the lesson."""
        key = (self._train.digest(), self.labels.tobytes(), STRENGTHS)
        return hashlib.sha256(repr(key).encode()).hexdigest()


def kinds_of(splits: Splits) -> Kinds:
    """Return a data set's classes, or clusters of its images where it has but one class.

    The same for equal data: seeds are fixed, and SciPy's k-means computes on one thread.
    """
    train, test = splits
    if train.num_classes > 1:
        return Kinds(train.num_classes, train.labels, test.labels, False)
    count = min(MOST, max(1, len(train) // IMAGES_EACH))
    small = _small(train)
    centres = min(
        (_centres(small, count, start) for start in range(STARTS)),
        key=lambda found: float(cdist(small, found).min(axis=1).sum()),
    )
    near = [cdist(points, centres).argmin(axis=1) for points in (small, _small(test))]
    # A cluster may have lost all its images to others; kinds are those that are left.
    left = np.unique(near[0])
    distances = cdist(_small(test), centres[left])
    return Kinds(
        len(left), np.searchsorted(left, near[0]), distances.argmin(axis=1).astype(np.int64), True
    )


def _centres(points: Float64[np.ndarray, "N D"], count: int, start: int) -> np.ndarray:
    rng = rng_for(start, 0, SERVER, "clusters")
    chosen = points[rng.choice(len(points), count, replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clusters that lose all their images, which go below
        centres, _ = kmeans2(points, chosen, iter=STEPS, minit="matrix", missing="warn")
    return centres


def _small(data: ImageData) -> Float64[np.ndarray, "N D"]:
    height, width = (min(side, SIDE) for side in data.image_shape[1:])
    parts = [
        functional.adaptive_avg_pool2d(torch.from_numpy(images), (height, width))
        for images in data.batches()
    ]
    return torch.cat(parts).flatten(1).double().numpy()
