"""Sampling the posterior of degraded images, with a denoiser for the prior.

Degradations are those of `simulations.restoration.degradations`, whose names are used here too; the
process is that of `common.diffusion.process`.

Shape letters: n images, d values of an image, m values of an observation.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from common.diffusion import (
    Denoiser,
    Grid,
    Images,
    alpha,
    coefficients,
    edm_sigma,
    sample,
    t_of_edm_sigma,
)
from simulations.restoration.degradations import Degradation, Observed, normal_like

SWEEPS, SWEEP_STEPS = 20, 4
FIRST_COUPLING = 0.4
"""The coupling of the first sweep, in units of which black and white are 2 apart."""


@torch.no_grad()
def posterior_sample(
    denoiser: Denoiser,
    degradation: Degradation,
    observed: Observed,
    covariance: Float64[Tensor, "d d"],
    grid: Grid,
    noise: Images,
    generator: torch.Generator,
    sweeps: int = SWEEPS,
    sweep_steps: int = SWEEP_STEPS,
) -> Images:
    """Draw an image for each observation from the posterior p(x | y) under the denoiser's prior.

    It starts with pseudo-inverse guidance (ΠGDM, Song et al. 2023) in which the data's covariance
    says how uncertain x_0 is given x_t (Rissanen et al. 2025, "Free Hunch"), as in
    `pseudoinverse_guided`. For a Gaussian prior of that covariance the start is exact, on any grid.
    Sweeps of a split Gibbs sampler then correct it for other priors: DPnP (Xu & Chi 2024,
    algorithm 1), also PnP-DM (Wu et al. 2024). With z = x + eta n they draw z given x and y, and x
    given z, which is denoising. There eta must go to 0; here `split` counts the noise of z towards
    that of y, so that at eta = sigma / |A| the posterior itself is what sweeps leave unchanged. The
    first half of them comes down to that eta from FIRST_COUPLING, where images change more in a
    sweep.

    Observations that are images in white noise need neither start nor Gibbs: there z is known, and
    one pass of denoising from it, in as many steps as the grid has, is a draw.

    Args:
        denoiser: Of images (n, C, H, W) in noise's dtype.
        degradation: What happened to the images.
        observed: (n, m).
        covariance: (d, d), positive definite, about that of the images.
        grid: Decreasing times from the horizon to a delta; there all denoising ends.
        noise: (n, C, H, W), a draw from N(0, I).
        generator: Of all later draws.
        sweeps: How many; with none the result is the start.
        sweep_steps: Calls of the denoiser in a sweep, at least 2.

    Returns:
        (n, C, H, W) in noise's dtype. `evaluations` says how many calls that took.
    """
    x = noise.double()
    last = degradation.sigma / degradation.norm
    etas = couplings(last, sweeps)
    if degradation.is_denoising:
        etas, sweep_steps = [last], len(grid)
    else:
        start = pseudoinverse_guided(
            denoiser, degradation, observed, covariance, generator, noise.dtype
        )
        x = sample("ancestral", start, grid, x, generator)
    prior = pseudoinverse_guided(denoiser, None, None, covariance, generator, noise.dtype)
    floor = edm_sigma(float(grid[-1]))
    for eta in etas:
        z = split(degradation, observed, x, eta, generator)
        ends = math.log10(eta), math.log10(min(floor, eta / 3))
        times = t_of_edm_sigma(torch.logspace(*ends, sweep_steps, dtype=torch.float64))
        x = sample("ancestral", prior, times, alpha(times[0]) * z, generator)
    return x.to(noise.dtype)


def evaluations(
    degradation: Degradation, grid: Grid, sweeps: int = SWEEPS, sweep_steps: int = SWEEP_STEPS
) -> int:
    """Return how often `posterior_sample` calls the denoiser."""
    return len(grid) + (0 if degradation.is_denoising else sweeps * sweep_steps)


def couplings(last: float, sweeps: int) -> list[float]:
    """Return the eta of each sweep: geometrically down to `last` in the first half of them."""
    first, falling = max(last, FIRST_COUPLING), max(1, sweeps // 2)
    return [last * (first / last) ** max(0.0, 1 - i / falling) for i in range(sweeps)]


def pseudoinverse_guided(
    denoiser: Denoiser,
    degradation: Degradation | None,
    observed: Observed | None,
    covariance: Float64[Tensor, "d d"],
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Denoiser:
    """Return the noise that points from x_t to a draw of x_0 given x_t, and y where there is one.

    The draw is from N(D + P A'(y - b - A D) / sigma^2, P) with D the predicted image and
    P = (C^-1 + A'A / sigma^2 + alpha_t^2 / sigma_t^2)^-1, which is the law of x_0 given x_t and y
    when the prior's covariance is C and D its posterior mean. So the `ancestral` sampler, which
    takes the image it is pointed to as x_0, is exact then for steps of any length; a mean in place
    of the draw would lose P's share of the variance (Bao et al. 2022, "Analytic-DPM", theorem 1,
    put it back as a multiple of I).
    """
    precision = torch.linalg.inv(covariance)
    if degradation is not None:
        precision = precision + degradation.matrix.T @ degradation.matrix / degradation.sigma**2
    values, vectors = torch.linalg.eigh((precision + precision.T) / 2)

    def conditioned(x: Tensor, t: Tensor) -> Tensor:
        a, s = coefficients(x, t)
        image = ((x - s * denoiser(x.to(dtype), t).double()) / a).flatten(1)
        variances = 1 / (values + edm_sigma(float(t)) ** -2)
        shift = variances.sqrt() * normal_like(image, generator)
        if degradation is not None and observed is not None:
            residual = observed - degradation.offset - degradation.apply(image)
            pull = degradation.adjoint(residual) / degradation.sigma**2
            shift = shift + (pull @ vectors) * variances
        image = (image + shift @ vectors.T).reshape(x.shape)
        return (x - a * image) / s

    return conditioned


def split(
    degradation: Degradation, observed: Observed, x: Images, eta: float, generator: torch.Generator
) -> Images:
    """Draw z given x and y, where z = x + eta n and y = A z + b + what noise is left to y.

    What is left has covariance R = sigma^2 I - eta^2 A A', which is one as long as eta is at most
    sigma / |A|: then y given x is what it is without z, so the law of x is not changed. Above that
    y is taken to be noisier, eta |A|, and R = |A|^2 eta^2 I - eta^2 A A'. By Matheron's rule the
    draw is z' + eta^2 A' (eta^2 A A' + R)^-1 (y - y'), with z' and y' drawn without regard to y.
    """
    total = max(degradation.sigma, eta * degradation.norm) ** 2
    values, vectors = degradation.spectrum
    drawn = (x + eta * normal_like(x, generator)).flatten(1)
    left = (total - eta**2 * values).clamp(min=0)  # the eigenvalues of R
    rest = (normal_like(observed, generator) * left.sqrt()) @ vectors.T
    residual = observed - degradation.offset - degradation.apply(drawn) - rest
    return (drawn + eta**2 / total * degradation.adjoint(residual)).reshape(x.shape)
