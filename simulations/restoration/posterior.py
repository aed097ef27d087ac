"""Restoring degraded images with a denoiser: linear degradations and posterior sampling.

An observation is y = A x + b + sigma n with n ~ N(0, I), for flattened images x. A is a matrix and
is decomposed as one, which images of at most 32 x 32 x 3 values allow; in return no approximation
is due to linear algebra. The process is that of `common.diffusion.process`.

Shape letters: n images, d values of an image, m values of an observation.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64
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

Shape = tuple[int, int, int]
Rows = Float64[Tensor, "n d"]
Observed = Float64[Tensor, "n m"]

SWEEPS, SWEEP_STEPS = 20, 4
FIRST_COUPLING = 0.4
"""The coupling of the first sweep, in units of which black and white are 2 apart."""


@dataclass(frozen=True)
class Degradation:
    """y = A x + b + sigma n.

    Attributes:
        matrix: A, (m, d) float64, of at most full rank.
        offset: b, the same for every value.
        sigma: The noise's deviation, greater than 0, in units of which black and white are 2 apart.
        shape: (C, H, W) of an image.
    """

    matrix: Float64[Tensor, "m d"]
    offset: float
    sigma: float
    shape: Shape

    def apply(self, x: Rows) -> Observed:
        """Return A x."""
        return x @ self.matrix.T

    def adjoint(self, y: Observed) -> Rows:
        """Return the transpose of A applied to y."""
        return y @ self.matrix

    def observe(self, images: Images, generator: torch.Generator) -> Observed:
        """Return a noisy observation of images (n, C, H, W)."""
        clean = self.apply(images.flatten(1).double()) + self.offset
        return clean + self.sigma * _normal_like(clean, generator)

    def as_images(self, y: Observed) -> Images:
        """Return observations as images, (n, C, H, W) float32, to look at.

        A pixel is the weighted mean of the values it went into, 0 (mid-grey) where it went nowhere.
        """
        weight = self.adjoint(torch.ones_like(y))
        seen = self.adjoint(y) / torch.where(weight == 0, 1.0, weight)
        return seen.float().unflatten(1, self.shape)

    @cached_property
    def spectrum(self) -> tuple[Float64[Tensor, " m"], Float64[Tensor, "m m"]]:
        """The eigenvalues of A A', ascending, and its eigenvectors."""
        values, vectors = torch.linalg.eigh(self.matrix @ self.matrix.T)
        return values.clamp(min=0), vectors

    @cached_property
    def norm(self) -> float:
        """|A|, the largest singular value of A."""
        return math.sqrt(self.spectrum[0][-1])

    @cached_property
    def is_denoising(self) -> bool:
        """Whether A is a multiple of an orthogonal matrix, so that y is an image in white noise."""
        rows, columns = self.matrix.shape
        lowest, highest = (float(self.spectrum[0][i]) for i in (0, -1))
        return rows == columns and math.isclose(lowest, highest, rel_tol=1e-9)


def noising(shape: Shape, sigma: float, gain: float = 1.0) -> Degradation:
    """Return y = x + sigma n, or with a gain in (0, 1) too little light: black stays at -1."""
    identity = torch.eye(math.prod(shape), dtype=torch.float64)
    return Degradation(gain * identity, gain - 1, sigma, shape)


def inpainting(shape: Shape, known: Bool[Tensor, "H W"], sigma: float) -> Degradation:
    """Return the observation of the `known` pixels, at least one, in all channels."""
    chosen = known.expand(shape).flatten()
    return Degradation(torch.eye(len(chosen), dtype=torch.float64)[chosen], 0.0, sigma, shape)


def averaging(shape: Shape, factor: int, sigma: float) -> Degradation:
    """Return the means over squares of `factor` pixels, whose super-resolution undoes them.

    Raises ValueError for a factor that does not divide height and width.
    """
    _, height, width = shape
    if height % factor or width % factor:
        raise ValueError(f"factor {factor} does not divide {height}x{width}")
    pixels = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    means = torch.nn.functional.avg_pool2d(pixels, factor)
    return Degradation(means.flatten(1).T.contiguous(), 0.0, sigma, shape)


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
        shift = variances.sqrt() * _normal_like(image, generator)
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
    drawn = (x + eta * _normal_like(x, generator)).flatten(1)
    left = (total - eta**2 * values).clamp(min=0)  # the eigenvalues of R
    rest = (_normal_like(observed, generator) * left.sqrt()) @ vectors.T
    residual = observed - degradation.offset - degradation.apply(drawn) - rest
    return (drawn + eta**2 / total * degradation.adjoint(residual)).reshape(x.shape)


def _normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype)
