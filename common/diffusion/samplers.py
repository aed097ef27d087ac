"""Samplers: pure functions of a denoiser, a decreasing grid of times, and noise.

Each takes `noise` (n, ...), a draw of X at time grid[0], to a draw at grid[-1]. They step in
float64 and call the denoiser in noise's dtype. Times, alpha and sigma are those of
`common.diffusion.process`; `t` is the time before a step, `s` the time after it, lower case x the
image, `eps` the predicted noise and D the predicted image. A denoiser is asked at one time for all
images, so any sampler works with any grid: a grid is where a sampler's quality is decided.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from common.diffusion.process import Denoiser, Grid, Images, alpha, edm_sigma, sigma
from common.errors import UserError


@runtime_checkable  # so that the tests may check shapes and types as they run
class SampleFunction(Protocol):
    """The signature every sampler shares; deterministic ones ignore the generator."""

    def __call__(
        self,
        denoiser: Denoiser,
        grid: Grid,
        noise: Images,
        generator: torch.Generator | None = None,
    ) -> Images:
        """Return a draw at grid[-1] from one at grid[0], in noise's dtype."""


def _steps(grid: Grid) -> list[tuple[float, float]]:
    return list(pairwise(grid.tolist()))


def _ask(denoiser: Denoiser, x: Tensor, t: float, dtype: torch.dtype) -> Tensor:
    return denoiser(x.to(dtype), torch.tensor(t, dtype=torch.float64)).to(torch.float64)


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        raise ValueError("this sampler adds noise: give it a generator")
    # Drawn where the generator lives, so that a CPU generator gives the same images on a GPU.
    draw = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=generator.device)
    return draw.to(x.device)


def exponential(
    denoiser: Denoiser, grid: Grid, noise: Images, generator: torch.Generator | None = None
) -> Images:
    """Integrate the reverse SDE exactly for a score held fixed over each step.

    The exponential integrator of Benton et al. (2024), section 2, whose error bound is for
    `kappa_grid`. Its noise exceeds the posterior's, so it wants smaller steps than `ancestral`.
    Raises ValueError without a generator.
    """
    x = noise.to(torch.float64)
    for t, s in _steps(grid):
        score = -_ask(denoiser, x, t, noise.dtype) / sigma(t)
        gamma = t - s
        x = math.exp(gamma) * x + 2 * math.expm1(gamma) * score
        x = x + math.sqrt(math.expm1(2 * gamma)) * _normal_like(x, generator)
    return x.to(noise.dtype)


def ancestral(
    denoiser: Denoiser, grid: Grid, noise: Images, generator: torch.Generator | None = None
) -> Images:
    """Draw from the posterior q(x_s | x_t, x_0) at the predicted x_0.

    DDPM, Ho et al. (2020), algorithm 2, with the smaller of its two variances (equation 7's
    beta-tilde), for steps of any length. Raises ValueError without a generator.
    """
    x = noise.to(torch.float64)
    for t, s in _steps(grid):
        eps = _ask(denoiser, x, t, noise.dtype)
        beta = -math.expm1(-2 * (t - s))  # 1 - alpha_t^2 / alpha_s^2
        x = math.exp(t - s) * (x - beta / sigma(t) * eps)
        x = x + sigma(s) / sigma(t) * math.sqrt(beta) * _normal_like(x, generator)
    return x.to(noise.dtype)


def ddim(
    denoiser: Denoiser,
    grid: Grid,
    noise: Images,
    generator: torch.Generator | None = None,
    eta: float = 0.0,
) -> Images:
    """Point from the predicted x_0 back to time s along the predicted noise.

    DDIM, Song et al. (2021), equation 12, with its equation 16's deviation times eta in [0, 1]:
    eta 0 is deterministic and is Euler's rule for x/alpha in sigma/alpha, eta 1 is `ancestral`.
    Raises ValueError when eta > 0 without a generator.
    """
    x = noise.to(torch.float64)
    for t, s in _steps(grid):
        eps = _ask(denoiser, x, t, noise.dtype)
        x0 = (x - sigma(t) * eps) / alpha(t)
        spread = eta * sigma(s) / sigma(t) * math.sqrt(-math.expm1(-2 * (t - s)))
        x = alpha(s) * x0 + math.sqrt(max(sigma(s) ** 2 - spread**2, 0.0)) * eps
        if eta > 0:
            x = x + spread * _normal_like(x, generator)
    return x.to(noise.dtype)


def euler(
    denoiser: Denoiser, grid: Grid, noise: Images, generator: torch.Generator | None = None
) -> Images:
    """Follow the probability-flow ODE dx/dt = -x + eps/sigma by Euler's rule in t.

    Karras et al. (2022), algorithm 1 without its correction, at this process' sigma(t) and s(t).
    It is here for comparison: the same rule in better coordinates is `ddim`.
    """
    x = noise.to(torch.float64)
    for t, s in _steps(grid):
        x = x + (s - t) * (_ask(denoiser, x, t, noise.dtype) / sigma(t) - x)
    return x.to(noise.dtype)


def heun(
    denoiser: Denoiser, grid: Grid, noise: Images, generator: torch.Generator | None = None
) -> Images:
    """Follow the probability-flow ODE dy/dr = eps, y = x/alpha, r = sigma/alpha, by Heun's rule.

    Karras et al. (2022), algorithm 1 with their sigma(t) = t, s(t) = 1 (algorithm 2 without
    churn): in y and r the flow of a single image is a straight line. Two evaluations a step.
    """
    y = noise.to(torch.float64) / alpha(float(grid[0]))
    for t, s in _steps(grid):
        length = edm_sigma(s) - edm_sigma(t)
        slope = _ask(denoiser, alpha(t) * y, t, noise.dtype)
        ahead = _ask(denoiser, alpha(s) * (y + length * slope), s, noise.dtype)
        y = y + length * (slope + ahead) / 2
    return (alpha(float(grid[-1])) * y).to(noise.dtype)


def dpmpp2m(
    denoiser: Denoiser, grid: Grid, noise: Images, generator: torch.Generator | None = None
) -> Images:
    """Extrapolate the predicted image linearly in log(alpha/sigma) from the last two steps.

    DPM-Solver++(2M), Lu et al. (2022), "DPM-Solver++", algorithm 2; the first step is first order.
    """
    x = noise.to(torch.float64)
    last_image, last_h = None, 0.0
    for t, s in _steps(grid):
        image = (x - sigma(t) * _ask(denoiser, x, t, noise.dtype)) / alpha(t)
        h = math.log(edm_sigma(t) / edm_sigma(s))
        target = image
        if last_image is not None:
            target = image + h / (2 * last_h) * (image - last_image)
        x = sigma(s) / sigma(t) * x - alpha(s) * math.expm1(-h) * target
        last_image, last_h = image, h
    return x.to(noise.dtype)


@dataclass(frozen=True)
class Sampler:
    """A sampler and what a caller must know to budget and seed it."""

    run: SampleFunction
    evaluations_per_step: int
    stochastic: bool

    def evaluations(self, num_steps: int, denoise: bool = True) -> int:
        """Return how often `sample` asks the denoiser for each image."""
        return num_steps * self.evaluations_per_step + denoise

    def steps_for(self, evaluations: int, denoise: bool = True) -> int:
        """Return the most steps, at least one, that fit a budget of evaluations per image."""
        return max(1, (evaluations - denoise) // self.evaluations_per_step)


SAMPLERS: dict[str, Sampler] = {
    "exponential": Sampler(exponential, 1, stochastic=True),
    "ancestral": Sampler(ancestral, 1, stochastic=True),
    "ddim": Sampler(ddim, 1, stochastic=False),
    "euler": Sampler(euler, 1, stochastic=False),
    "heun": Sampler(heun, 2, stochastic=False),
    "dpmpp2m": Sampler(dpmpp2m, 1, stochastic=False),
}


@torch.no_grad()
def sample(
    name: str,
    denoiser: Denoiser,
    grid: Grid,
    noise: Images,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    denoise: bool = True,
    **labels: Tensor,
) -> Images:
    """Run a sampler on all of noise, asking the denoiser for at most `batch_size` images at once.

    All images take a step together and only the denoiser sees batches, so the randomness, and up
    to rounding the images, do not depend on the batch size. `labels` (n,) are cut alike and go to
    the denoiser by name. `progress(done, total)` counts denoiser calls.

    `denoise` adds one evaluation at grid[-1] = delta and returns the image predicted there
    (Tweedie's formula; the step to 0 that ends the grids of EDM and DDIM). Without it, noise of
    deviation sigma(delta) stays on every value: too little to see, enough for feature distances
    to count. Leave it out to compare laws at delta, as the theory does.

    Raises UserError for an unknown sampler, ValueError for one that needs a generator and has none.
    """
    if name not in SAMPLERS:
        raise UserError(f"sampler {name!r} is unknown: use one of {', '.join(SAMPLERS)}")
    size = batch_size or len(noise)
    starts = range(0, len(noise), size)
    total = SAMPLERS[name].evaluations(len(grid) - 1, denoise) * len(starts)
    done = 0

    def batched(x: Tensor, t: Tensor) -> Tensor:
        nonlocal done
        parts = []
        for i in starts:
            cut = {key: value[i : i + size] for key, value in labels.items()}
            parts.append(denoiser(x[i : i + size], t, **cut))
            done += 1
            if progress is not None:
                progress(done, total)
        return torch.cat(parts)

    x = SAMPLERS[name].run(batched, grid, noise, generator)
    if denoise:
        t = float(grid[-1])
        x = (x - sigma(t) * batched(x, grid[-1])) / alpha(t)
    return x
