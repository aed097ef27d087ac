"""How likely a model finds images, by the change of variables along the probability-flow ODE.

Shape letters: B images of any shape with D values each, K directions.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from common.data import Splits
from common.diffusion import (
    DELTA,
    Clock,
    Denoiser,
    Grid,
    alpha,
    edm_grid,
    edm_sigma,
    t_of_edm_sigma,
)
from common.seeding import SERVER, rng_for, torch_generator

IMAGES, STEPS, BATCH = 64, 24, 64


def random_directions(
    x: Float[Tensor, "B *shape"], count: int, generator: torch.Generator
) -> Float64[Tensor, "K B *shape"]:
    """Return directions of independent signs: Hutchinson's trace estimate, without bias."""
    signs = torch.randint(0, 2, (count, *x.shape), generator=generator)
    return 2.0 * signs.double() - 1


def exact_directions(x: Float[Tensor, "B *shape"]) -> Float64[Tensor, "K B *shape"]:
    """Return K = D directions, one to a value, with which the trace is exact; for small images."""
    values = x[0].numel()
    basis = math.sqrt(values) * torch.eye(values, dtype=torch.float64)
    return basis.view(values, 1, *x.shape[1:]).expand(values, *x.shape)


def log_likelihood(
    denoiser: Denoiser,
    grid: Grid,
    x: Float[Tensor, "B *shape"],
    directions: Float64[Tensor, "K B *shape"],
    **labels: Tensor,
) -> Float64[Tensor, " B"]:
    """Return the log-density, in nats, that a model gives x at time grid[-1].

    Song et al. (2021), "Score-based generative modeling through SDEs", appendix D.2: the flow
    takes x to noise at grid[0], and the density changes by the trace of the flow's Jacobian, which
    is the mean of v·Jv over `directions`. As in `samplers.heun` the flow is dy/dr = eps in
    y = x/alpha and r = sigma/alpha, here by the classical Runge-Kutta rule: four evaluations, and
    4 K passes backward, for each step of the grid. Give it a denoiser that is not clipped.

    Args:
        denoiser: Asked in float32.
        grid: Decreasing times, as for a sampler.
        x: Points to judge.
        directions: From `exact_directions` or, fixed between models, `random_directions`.
        labels: For the denoiser, (B,).
    """
    values = x[0].numel()

    def flow(y: Tensor, r: float) -> tuple[Tensor, Tensor]:
        t = torch.tensor(t_of_edm_sigma(r), dtype=torch.float64)
        a = alpha(float(t))
        with torch.enable_grad():
            at = (a * y).float().requires_grad_()
            eps = denoiser(at, t, **labels)
            trace = torch.zeros(len(y), dtype=torch.float64)
            for i, v in enumerate(directions):
                last = i == len(directions) - 1
                (row,) = torch.autograd.grad(eps, at, v.to(eps), retain_graph=not last)
                trace += (row.double() * v).flatten(1).sum(1) / len(directions)
        return eps.detach().double(), a * trace

    y = x.double() / alpha(float(grid[-1]))
    growth = torch.zeros(len(x), dtype=torch.float64)
    levels = [edm_sigma(float(t)) for t in grid.flip(0)]
    for r, end in pairwise(levels):
        h = end - r
        (e1, g1), middle = flow(y, r), r + h / 2
        e2, g2 = flow(y + h / 2 * e1, middle)
        e3, g3 = flow(y + h / 2 * e2, middle)
        e4, g4 = flow(y + h * e3, end)
        y = y + h / 6 * (e1 + 2 * e2 + 2 * e3 + e4)
        growth = growth + h / 6 * (g1 + 2 * g2 + 2 * g3 + g4)
    first, last = alpha(float(grid[-1])), alpha(float(grid[0]))
    squares = (last * y).square().flatten(1).sum(1)
    noise = -(squares + values * math.log(2 * math.pi)) / 2
    return noise + growth + values * math.log(last / first)


def bits_per_dim(
    log_density: Float64[Tensor, " B"], values: int, spacing: float
) -> Float64[Tensor, " B"]:
    """Return bits per value of images whose values are `spacing` apart and were dequantised.

    Theis et al. (2016), section 3.1: uniform noise of one spacing makes of a density's mean an
    upper bound on the code length of the discrete image.
    """
    return -(log_density / values + math.log(spacing)) / math.log(2)


def held_out_bits(
    denoiser: Denoiser,
    splits: Splits,
    clock: Clock,
    seed: int,
    *,
    conditional: bool = False,
    exact: bool = False,
) -> dict[str, float]:
    """Return the code length of `IMAGES` held-out images, with choices and noise from the seed.

    It judges the law where sampling stops, whose last trace of noise it pays for, at the grey
    levels of the training images.

    Args:
        denoiser: Not clipped.
        splits: The data.
        clock: The run's.
        seed: The run's.
        conditional: Give the denoiser the images' labels.
        exact: Compute traces, as many passes backward as an image has values, instead of estimating
            them along one random direction for each image.

    Returns:
        The mean `bits_per_dim`, its standard error over images `bits_per_dim_error`, and
        `bits_per_dim_images`.
    """
    rng = rng_for(seed, 0, SERVER, "likelihood")
    held_out = splits.test.select(rng.permutation(len(splits.test))[:IMAGES])
    spacing = float(np.diff(splits.train.levels()).min())
    generator = torch_generator(rng)
    x = torch.from_numpy(held_out.images).double()
    x = x + spacing * (torch.rand(x.shape, generator=generator, dtype=torch.float64) - 0.5)
    directions = exact_directions(x) if exact else random_directions(x, 1, generator)
    a, values = alpha(DELTA), x[0].numel()
    parts = []
    for i in range(0, len(x), BATCH):
        part = slice(i, i + BATCH)
        labels = {"class_labels": torch.from_numpy(held_out.labels[part])} if conditional else {}
        # The law of X / alpha is that of the images and a little noise; that of X is shrunk, too.
        density = log_likelihood(
            denoiser, edm_grid(clock, STEPS), a * x[part], directions[:, part], **labels
        )
        parts.append(bits_per_dim(density + values * math.log(a), values, spacing))
    bits = torch.cat(parts)
    return {
        "bits_per_dim": float(bits.mean()),
        "bits_per_dim_error": float(bits.std() / math.sqrt(len(bits))),
        "bits_per_dim_images": len(bits),
    }
