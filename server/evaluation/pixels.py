"""How the pixels of training images go together: what restoring pictures knows beforehand."""

import math

import numpy as np
import torch
from jaxtyping import Float32, Float64

from common.data import ImageData

MOST_VALUES = 32 * 32 * 3
"""Values of an image up to which this is of use, and small enough to be kept."""

IMAGES = 8192
"""Images that are looked at, spread over all."""


def pixel_covariance(train: ImageData) -> Float32[np.ndarray, " V"] | None:
    """Return the covariance of images' values, its upper triangle in a row; None if too large."""
    size = math.prod(train.image_shape)
    if size > MOST_VALUES or len(train) < 2:
        return None
    some = np.linspace(0, len(train) - 1, min(len(train), IMAGES)).astype(np.int64)
    whole = torch.cov(torch.from_numpy(train.values(some)).flatten(1).double().T)
    upper = whole.reshape(size, size).numpy()[np.triu_indices(size)]
    return upper.astype(np.float32)


def whole_covariance(
    upper: Float32[np.ndarray, " V"], size: int
) -> Float64[np.ndarray, "size size"]:
    """Return the matrix of which `pixel_covariance` gave the upper triangle.

    Raises:
        ValueError: It is not that of images of so many values.
    """
    if upper.shape != (size * (size + 1) // 2,) or not np.isfinite(upper).all():
        raise ValueError("it is no covariance of the run's images")
    whole = np.zeros((size, size))
    whole[np.triu_indices(size)] = upper
    return whole + np.triu(whole, 1).T
