"""Exponential moving averages of the weights, coordinate by coordinate."""

import numpy as np
from jaxtyping import Float32, Float64, Int64

from server.loops import TILE, Factors, each_tile, read_only, scale


def pull_of(
    trained: Int64[np.ndarray, "n"], seen: Int64[np.ndarray, "m n"], half_life: int, ramp: float
) -> Float64[np.ndarray, "m n"]:
    """Return how much of the way to the weights an average goes in a round, from 0 to 1.

    An average counts its half-life in images (Karras et al. 2022, appendix F.3), and in those that
    trained *that coordinate*: one that nobody covered does not move, one that few covered moves
    less. The half-life is at most `ramp` times the images seen so far, so that the average does not
    cling to the initial weights; a half-life of 0 turns averaging off.
    """
    capped = np.minimum(half_life, ramp * seen).clip(min=1e-9)
    return 1.0 - np.exp2(-trained / capped)


def averaged(
    emas: Float32[np.ndarray, "E P"], theta: Float32[np.ndarray, "P"], pulls: list[Factors]
) -> Float32[np.ndarray, "E P"]:
    """Return the moving averages after a round."""
    moved = np.empty_like(emas)
    for new, ema, pull in zip(moved, emas, pulls, strict=True):
        _move(new, ema, theta, pull)
    return moved


def _move(
    new: Float32[np.ndarray, "P"],
    ema: Float32[np.ndarray, "P"],
    theta: Float32[np.ndarray, "P"],
    pull: Factors,
) -> None:
    """Write an average that has moved towards the weights."""
    nothing = read_only(np.zeros(min(TILE, theta.size), np.float32))

    def work(tile: slice) -> None:
        gap = np.subtract(theta[tile], ema[tile], dtype=np.float64)
        scale(gap, tile.start, *pull, nothing[: gap.size], new[tile])
        # A correction, so that what is not pulled keeps its value bit for bit.
        new[tile] += ema[tile]

    each_tile(theta.size, work)
