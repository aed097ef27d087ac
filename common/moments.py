"""First and second moments of a set of features: what a Fréchet distance knows of its images.

They add up: those of two sets together are the sums of theirs, so a distance to the images of many
devices needs no image to leave one.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

ROUNDING = 1e-6
"""How far below zero the least variance may lie, as a share of all variance."""


@dataclass(frozen=True, eq=False)
class Moments:
    """How many points there are, their sum, and the sum of their outer products.

    Attributes:
        count: N, 0 or greater.
        sum: Over the points, of each of F features.
        products: Over the points, of each feature times each, symmetric.
    """

    count: int
    sum: Float64[np.ndarray, "F"]
    products: Float64[np.ndarray, "F F"]

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets together."""
        return Moments(
            self.count + other.count, self.sum + other.sum, self.products + other.products
        )

    def __sub__(self, part: "Moments") -> "Moments":
        """Return the moments of the set without a part of it."""
        return Moments(self.count - part.count, self.sum - part.sum, self.products - part.products)

    @property
    def mean(self) -> Float64[np.ndarray, "F"]:
        """The points' mean; of one point at least."""
        return self.sum / self.count

    @property
    def covariance(self) -> Float64[np.ndarray, "F F"]:
        """Their covariance, divided by N."""
        mean = self.mean
        return self.products / self.count - mean[:, None] * mean

    def vector(self) -> Float64[np.ndarray, "V"]:
        """Return all numbers in a row: the count, the sum, the upper triangle of the products."""
        upper = self.products[np.triu_indices(len(self.sum))]
        return np.concatenate([[float(self.count)], self.sum, upper])


def moments_of(features: Float64[np.ndarray, "N F"]) -> Moments:
    """Return the moments of some points."""
    products = features.T @ features
    return Moments(len(features), features.sum(axis=0), (products + products.T) / 2)


def vector_length(features: int) -> int:
    """Return the length of `Moments.vector` for so many features."""
    return 1 + features + features * (features + 1) // 2


def from_vector(vector: Float64[np.ndarray, "V"]) -> Moments:
    """Return the moments that `Moments.vector` wrote, whatever their numbers say.

    Raises:
        ValueError: No moments have so many numbers, or their count is no whole number from 0 on.
    """
    features = math.isqrt(2 * len(vector))
    features = next(
        (n for n in (features - 2, features - 1) if vector_length(n) == len(vector)), -1
    )
    if features < 0:
        raise ValueError(f"{vector.size} numbers are no moments")
    count = float(vector[0])
    if not (np.isfinite(count) and count >= 0 and count.is_integer()):
        raise ValueError(f"moments of {count} points")
    products = np.zeros((features, features))
    products[np.triu_indices(features)] = vector[1 + features :]
    products += np.triu(products, 1).T
    return Moments(int(count), vector[1 : 1 + features].copy(), products)


def fault_of(moments: Moments, bound: Float64[np.ndarray, "F"]) -> str:
    """Say in words why no points have these moments; empty if some may.

    Args:
        moments: Somebody's claim.
        bound: The largest size that each feature can have.
    """
    if not (np.isfinite(moments.sum).all() and np.isfinite(moments.products).all()):
        return "a moment is not finite"
    if moments.count < 1:
        return "they are of no image"
    if (abs(moments.mean) > bound).any():
        return "a mean is larger than the feature can be"
    covariance = moments.covariance
    spread = float(np.trace(covariance))
    if (np.diag(covariance) > bound**2).any():
        return "a variance is larger than the feature's can be"
    # Rounding is that of the products, from which the mean's square is taken away.
    allowed = ROUNDING * max(spread, float(np.trace(moments.products)) / moments.count)
    if np.linalg.eigvalsh(covariance)[0] < -allowed:
        return "a variance is negative"
    return ""
