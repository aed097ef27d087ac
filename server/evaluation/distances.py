"""Distances between two sets of points that torchmetrics does not offer.

Shape letters: N and M points, F features.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

NEIGHBOURS = 5  # Naeem et al. (2020) recommend it


def manifold_scores(
    real: Float64[Tensor, "N F"], fake: Float64[Tensor, "M F"], neighbours: int
) -> dict[str, float]:
    """Precision, recall, density and coverage of `fake`, from k-nearest-neighbour balls.

    Around each point lies the ball that reaches its k-th nearest neighbour in its own set.
    `precision`: share of fake points in some real ball; `recall`: share of real points in some
    fake ball (Kynkäänniemi et al. 2019, equations 1-2). `density`: real balls around a fake
    point, over k, may exceed 1; `coverage`: share of real balls that hold a fake point (Naeem et
    al. 2020, equations 3-4). Compare at equal numbers of points only.
    """

    def distances(a: Tensor, b: Tensor) -> Tensor:
        # Through the matrix product a point would not be at distance 0 from itself.
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    def radii(points: Tensor) -> Tensor:
        # The nearest to a point is itself.
        return distances(points, points).kthvalue(neighbours + 1, dim=1).values

    between = distances(real, fake)
    in_real_ball = between <= radii(real)[:, None]
    in_fake_ball = between <= radii(fake)[None, :]
    return {
        "precision": float(in_real_ball.any(dim=0).double().mean()),
        "recall": float(in_fake_ball.any(dim=1).double().mean()),
        "density": float(in_real_ball.double().sum(dim=0).mean() / neighbours),
        "coverage": float(in_real_ball.any(dim=1).double().mean()),
    }


def nearest(
    images: Float[Tensor, "N *shape"], others: Iterable[Float[Tensor, "_ *shape"]]
) -> tuple[Float64[Tensor, " N"], Int64[Tensor, " N"]]:
    """Return each image's root-mean-square difference per value to the nearest other, and which.

    The others come in parts, none of them empty, that need not fit in memory together.
    """
    flat, before = images.flatten(1).double(), 0
    least = torch.full((len(flat),), math.inf, dtype=torch.float64)
    which = torch.zeros(len(flat), dtype=torch.int64)
    for part in others:
        theirs = part.flatten(1).double()
        rows = [torch.cdist(each, theirs).min(dim=1) for each in flat.split(256)]
        values, indices = (torch.cat(each) for each in zip(*rows, strict=True))
        which = torch.where(values < least, indices + before, which)
        least, before = torch.minimum(least, values), before + len(theirs)
    return least / math.sqrt(flat.shape[1]), which


def mean_nearest(
    images: Float[Tensor, "N *shape"], others: Iterable[Float[Tensor, "_ *shape"]]
) -> float:
    """Return the mean over `images` of the difference per value to the nearest other."""
    return float(nearest(images, others)[0].mean())


def wasserstein(images: Float[Tensor, "N *shape"], others: Float[Tensor, "N *shape"]) -> float:
    """Exact 2-Wasserstein distance of two equally large sets, over the root of values per image.

    That is the root-mean-square difference per value under the best matching of one set to the
    other. It falls slowly with N, so compare equal N only.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, for a final report alone
    from scipy.spatial.distance import cdist

    ours, theirs = (x.flatten(1).double().numpy() for x in (images, others))
    squared = cdist(ours, theirs, "sqeuclidean")
    return math.sqrt(squared[linear_sum_assignment(squared)].mean() / ours.shape[1])


def sliced_wasserstein(
    images: Float[Tensor, "N *shape"],
    others: Iterable[Float[Tensor, "_ *shape"]],
    projections: int,
    seed: int,
) -> float:
    """2-Wasserstein distance along random directions, the root of its mean square over them.

    The sliced distance of Bonneel et al. (2015), over `projections` directions drawn from `seed`.
    Along one direction the best matching is that of the quantiles; N and M may differ. The others
    come in parts, as in `nearest`.
    """
    # NumPy's older generator, whose draws the reports of earlier runs rest on.
    directions = np.random.RandomState(seed).randn(images[0].numel(), projections)
    directions /= np.linalg.norm(directions, axis=0)

    def projected(parts: Iterable[Tensor]) -> np.ndarray:
        each = [directions.T @ part.flatten(1).double().numpy().T for part in parts]
        return np.sort(np.concatenate(each, axis=1), axis=1)

    ours, theirs = projected([images]), projected(others)
    # Both quantile functions are constant between neighbouring multiples of 1/N and 1/M; in units
    # of 1/(N M) these are whole numbers.
    n, m = ours.shape[1], theirs.shape[1]
    ends = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))
    widths = np.diff(ends, prepend=0) / (n * m)
    gaps = ours[:, (ends - 1) // m] - theirs[:, (ends - 1) // n]
    return math.sqrt((gaps**2 @ widths).mean())
