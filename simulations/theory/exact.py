"""Gaussian data under a linear score: laws, errors and divergences without drawing anything.

In the data's own basis every coordinate is a scalar Gaussian and a sampler's step is
x -> a x + b + c z. The three numbers are read off the sampler itself, so nothing about a sampler is
written twice. Equal coordinates are computed once: M modes, each of so many coordinates.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from common.diffusion import SAMPLERS, Denoiser, GaussianField, Grid, alpha, coefficients, sigma

Vector = Float64[Tensor, "M"]


@dataclass(frozen=True)
class Gaussian:
    """Independent coordinates: `count` of each mean and variance."""

    mean: Vector
    variance: Vector
    count: Vector

    @property
    def dimension(self) -> int:
        """The number d of coordinates."""
        return int(self.count.sum())

    def at(self, t: float) -> "Gaussian":
        """Return the law of X_t when this is that of X_0."""
        variance = alpha(t) ** 2 * self.variance + sigma(t) ** 2
        return Gaussian(alpha(t) * self.mean, variance, self.count)


def modes(law: GaussianField) -> Gaussian:
    """Return a field's law in its own basis."""
    mean = torch.zeros_like(law.spectrum)
    mean[0, 0] = law.mean * law.side
    pairs = torch.stack([mean.flatten(), law.spectrum.flatten()], 1)
    distinct, count = torch.unique(pairs, dim=0, return_counts=True)
    return Gaussian(distinct[:, 0], distinct[:, 1], count.double())


@dataclass(frozen=True)
class Mistake:
    """A score that errs by a known amount: (1 + relative) s(x, t) + shift in every coordinate."""

    relative: float = 0.0
    shift: float = 0.0


EXACT = Mistake()


def denoiser_of(data: Gaussian, mistake: Mistake = EXACT) -> Denoiser:
    """Return the noise that a score with this mistake predicts, for x (..., M)."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        a, s = coefficients(x, t)
        score = -(x - a * data.mean) / (a**2 * data.variance + s**2)
        return -s * ((1 + mistake.relative) * score + mistake.shift)

    return denoise


def step(
    sampler: str, denoiser: Denoiser, t: float, s: float, x: Float64[Tensor, "..."]
) -> tuple[Tensor, float]:
    """Return the mean of a sampler's step from t to s at each x, and the deviation of its noise."""
    grid, run = torch.tensor([t, s], dtype=torch.float64), SAMPLERS[sampler].run
    mean = run(denoiser, grid, x, _generator())
    if not SAMPLERS[sampler].stochastic:
        return mean, 0.0
    # From zero, with no noise predicted, all that a step returns is what it adds.
    added = run(lambda x, _: torch.zeros_like(x), grid, torch.zeros_like(x), _generator())
    z = torch.randn(x.shape, generator=_generator(), dtype=x.dtype)
    return mean - added, float((added * z).sum() / z.square().sum())


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def sampled(sampler: str, data: Gaussian, grid: Grid, mistake: Mistake = EXACT) -> Gaussian:
    """Return the law of a sampler's output at grid[-1], started from N(0, I)."""
    denoiser, m = denoiser_of(data, mistake), torch.zeros_like(data.mean)
    v, ends = torch.ones_like(m), torch.stack([torch.zeros_like(m), torch.ones_like(m)])
    if not SAMPLERS[sampler].stochastic:  # linear as a whole, also where a step has memory
        at_zero, at_one = SAMPLERS[sampler].run(denoiser, grid, ends)
        return Gaussian(at_zero, (at_one - at_zero) ** 2, data.count)
    for t, s in pairwise(grid.tolist()):
        (at_zero, at_one), c = step(sampler, denoiser, t, s, ends)
        a = at_one - at_zero
        m, v = a * m + at_zero, a**2 * v + c**2
    return Gaussian(m, v, data.count)


def kl(p: Gaussian, q: Gaussian) -> float:
    """Return KL(p ‖ q) in nats."""
    excess = p.variance / q.variance - 1
    each = (excess - torch.log1p(excess) + (p.mean - q.mean) ** 2 / q.variance) / 2
    return float(p.count @ each)


def w2(p: Gaussian, q: Gaussian) -> float:
    """Return the 2-Wasserstein distance."""
    squares = (p.mean - q.mean) ** 2 + (p.variance.sqrt() - q.variance.sqrt()) ** 2
    return float(p.count @ squares) ** 0.5


@dataclass(frozen=True)
class Errors:
    """The parts of the error of a sampler that holds the score over each step, in nats.

    `initial` is KL(q_T ‖ N(0, I)), `score` Σ γ_k E‖s_θ − s‖² on the grid, `discretisation`
    Σ ∫ E‖s(X_t, t) − s(X_{t_k}, t_k)‖² dt and `path` that of s(X_t, t) − s_θ(X_{t_k}, t_k), in
    which the two meet. By Girsanov's theorem KL(q_δ ‖ p) is at most `initial + path` for the
    sampler `exponential` (Benton et al. 2024, section 3).
    """

    initial: float
    score: float
    discretisation: float
    path: float

    @property
    def girsanov(self) -> float:
        """The upper bound of the divergence: of the whole path instead of its end."""
        return self.initial + self.path


def errors(data: Gaussian, grid: Grid, mistake: Mistake = EXACT) -> Errors:
    """Return the errors in closed form.

    With U = X - E X, variance V_t and Cov(U_t, U_k) = e^{-(t_k-t)} V_t for t < t_k, a step
    contributes γ b² + γ (1+r)²/V_k + ∫ dt/V_t - 2 (1+r) (1 - e^{-γ})/V_k to `path`.
    """
    t, s = grid[:-1, None], grid[1:, None]
    gamma, variance = t - s, 1 + torch.exp(-2 * t) * (data.variance - 1)
    # ∫ dt / V_t is half the logarithm of e^{2t} + λ - 1, written so as not to cancel.
    low, high = torch.expm1(2 * s), torch.expm1(2 * t)
    integral = torch.log1p((high - low) / (low + data.variance)) / 2

    def path(relative: float, shift: float) -> float:
        gain = 1 + relative
        each = gamma * shift**2 + (gamma * gain**2 + 2 * gain * torch.expm1(-gamma)) / variance
        return float(((each + integral) @ data.count).sum())

    score = gamma * (mistake.relative**2 / variance + mistake.shift**2)
    # With the mean in it the start is wrong by more than a variance.
    at_start = data.at(float(grid[0]))
    standard = Gaussian(torch.zeros_like(at_start.mean), torch.ones_like(at_start.mean), data.count)
    return Errors(
        kl(at_start, standard),
        float((score @ data.count).sum()),
        path(0.0, 0.0),
        path(mistake.relative, mistake.shift),
    )


def isotropic(dimension: int, mean: float = 0.0, null: float = 0.0) -> Gaussian:
    """Return a covariance with a share `null` of eigenvalues 0 and the rest equal, of mean 1."""
    zeros = round(null * dimension)
    counts = np.array([dimension - zeros, zeros])
    variances = np.array([dimension / (dimension - zeros), 0.0])
    some = counts > 0
    return Gaussian(
        torch.full((int(some.sum()),), mean, dtype=torch.float64),
        torch.from_numpy(variances[some]),
        torch.from_numpy(counts[some]).double(),
    )
