"""Kinds of images: what the feature classifier learns to tell apart.

Where a data set has classes they are its kinds. A flat folder of pictures has none, and a
classifier of one class learns nothing; then images are grouped by what they look like, and the
groups are the kinds: clusters as labels (Caron et al. 2018, "Deep Clustering for Unsupervised
Learning of Visual Features"), here of small copies of the images and once. Clusters are told apart
by what is coarse, so blurred copies are one kind more: to know these, fine detail has to be seen.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64
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

    def lesson(self, train: ImageData) -> ImageData:
        """Return what the classifier learns from: the training images as the kinds they are.

        With clusters as many blurred copies follow, of all strengths, as a kind K.
        """
        if not self.clustered:
            return train
        sharp = torch.from_numpy(train.images)
        copies = [blurred(sharp[first::4], 1 + first) for first in range(4)]
        images = torch.cat([sharp, *copies]).numpy()
        extra = np.full(len(images) - len(train), self.count, dtype=np.int64)
        labels = np.concatenate([self.train, extra])
        return replace(train, images=images, labels=labels, num_classes=self.count + 1)


def kinds_of(splits: Splits) -> Kinds:
    """Return a data set's classes, or clusters of its images where it has but one class.

    The same for equal data: seeds are fixed, and SciPy's k-means computes on one thread.
    """
    train, test = splits
    if train.num_classes > 1:
        return Kinds(train.num_classes, train.labels, test.labels, False)
    count = min(MOST, max(1, len(train) // IMAGES_EACH))
    small = _small(train.images)
    centres = min(
        (_centres(small, count, start) for start in range(STARTS)),
        key=lambda found: float(cdist(small, found).min(axis=1).sum()),
    )
    near = [cdist(points, centres).argmin(axis=1) for points in (small, _small(test.images))]
    # A cluster may have lost all its images to others; kinds are those that are left.
    left = np.unique(near[0])
    distances = cdist(_small(test.images), centres[left])
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


def _small(images: np.ndarray) -> Float64[np.ndarray, "N D"]:
    height, width = (min(side, SIDE) for side in images.shape[2:])
    small = functional.adaptive_avg_pool2d(torch.from_numpy(images), (height, width))
    return small.flatten(1).double().numpy()
