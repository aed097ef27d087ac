"""Laws on a line: the density of a sampler's output by quadrature, step by step."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from common.diffusion import Denoiser, Grid, KnownLaw
from simulations.theory.exact import step

Points = Float64[np.ndarray, "n"]
NEGLIGIBLE = 1e-25
POINTS_PER_DEVIATION = 4
REACH = 9  # deviations; what lies further adds less than 1e-17 of itself
BLOCK = 64


def density_of_samples(denoiser: Denoiser, grid: Grid) -> tuple[Points, Points]:
    """Return the density of the exponential integrator's output at equidistant points.

    A step maps a density to ∫ p(x) N(y; mean(x), c²) dx. Four points to a deviation c make the
    trapezoid rule exact to rounding for what has been smoothed by a Gaussian that wide.
    """
    x = np.arange(-9, 9, 0.02)
    p = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    for t, s in pairwise(grid.tolist()):
        images = torch.from_numpy(x).reshape(-1, 1, 1, 1)
        mean, c = step("exponential", denoiser, t, s, images)
        centre = mean.numpy().ravel()
        h = c / POINTS_PER_DEVIATION
        y = np.arange(centre.min() - REACH * c, centre.max() + REACH * c, h)
        density = np.concatenate([
            _smoothed(part, centre, p * (x[1] - x[0]), c)
            for part in np.array_split(y, 1 + len(y) // BLOCK)
        ])  # fmt: skip
        heavy = np.flatnonzero(density > NEGLIGIBLE)
        within = slice(int(heavy[0]), int(heavy[-1]) + 1)
        x, p = y[within], density[within]
    return x, p


def _smoothed(
    y: Float64[np.ndarray, "points"], centre: Points, mass: Points, c: float
) -> Float64[np.ndarray, "points"]:
    """Return Σ mass N(y; centre, c²), from those centres alone that reach a block of points."""
    near = (centre > y[0] - REACH * c) & (centre < y[-1] + REACH * c)
    kernel = np.exp(-(((y[:, None] - centre[near]) / c) ** 2) / 2)
    smoothed: Float64[np.ndarray, " points"] = kernel @ mass[near] / (c * np.sqrt(2 * np.pi))
    return smoothed


def kl_on_line(law: KnownLaw, grid: Grid, denoiser: Denoiser | None = None) -> float:
    """Return KL(q_δ ‖ p) of the exponential integrator for a law of single values."""
    x, p = density_of_samples(denoiser or law.denoiser, grid)
    log_q = _log_density(law, x, grid[-1])
    q = np.exp(log_q)
    return float(np.sum(q * (log_q - np.log(p)) + p - q) * (x[1] - x[0]))


def w2_on_line(law: KnownLaw, grid: Grid, denoiser: Denoiser | None = None) -> float:
    """Return the 2-Wasserstein distance of the same two laws, from their quantiles."""
    x, p = density_of_samples(denoiser or law.denoiser, grid)
    q = np.exp(_log_density(law, x, grid[-1]))
    levels = (np.arange(20_000) + 0.5) / 20_000
    ours, theirs = (np.interp(levels, np.cumsum(f) / f.sum(), x) for f in (p, q))
    return float(np.sqrt(np.mean((ours - theirs) ** 2)))


def _log_density(law: KnownLaw, x: Points, t: Tensor) -> Points:
    density: Points = law.log_prob(torch.from_numpy(x).reshape(-1, 1, 1, 1), t).numpy()
    return density
