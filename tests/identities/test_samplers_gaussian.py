"""Samplers where the answer is known: Gaussian data, and two points on a line.

For Gaussian data the exact score is linear, so one step of a sampler is x -> a x + b + c z. Reading
a, b and c off the sampler itself gives the law of its output without sampling noise.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from common.diffusion.denoising import PREDICTIONS, eps_denoiser, from_eps
from common.diffusion.process import CLOCKS, Denoiser, alpha, clock_grid, kappa_grid, sigma
from common.diffusion.samplers import SAMPLERS, sample

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
COVARIANCE = torch.tensor(
    [[1.5, 0.6, -0.2], [0.6, 0.5, 0.1], [-0.2, 0.1, 0.3]], dtype=torch.float64
)


def gaussian_eps(x: Tensor, t: Tensor) -> Tensor:
    """The exact noise prediction for data N(MEAN, COVARIANCE)."""
    noised = alpha(t) ** 2 * COVARIANCE + sigma(t) ** 2 * torch.eye(3, dtype=torch.float64)
    return sigma(t) * torch.linalg.solve(noised, (x - alpha(t) * MEAN).T).T


@pytest.mark.parametrize("name", SAMPLERS)
def test_recovers_mean_and_covariance(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    grid = clock_grid(CLOCKS["cosine"], 200, 1e-3)
    x = sample(name, gaussian_eps, grid, noise, generator, denoise=False)
    # 20,000 draws know a mean to 0.007 and a covariance to 0.01 deviations of the coordinate.
    noised = alpha(1e-3) ** 2 * COVARIANCE + sigma(1e-3) ** 2 * torch.eye(3)
    torch.testing.assert_close(x.mean(0), alpha(1e-3) * MEAN, rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(x.T), noised, rtol=0, atol=0.08)


def affine_step(name: str, eps: Denoiser, t: float, s: float) -> tuple[float, float, float]:
    """Read a, b, c of the step x -> a x + b + c z from t to s off the sampler."""
    grid = torch.tensor([t, s], dtype=torch.float64)
    x = torch.zeros(2, 1, dtype=torch.float64)
    z = torch.randn(2, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64)

    def run(x: Tensor) -> Tensor:
        return SAMPLERS[name].run(eps, grid, x, torch.Generator().manual_seed(7))

    at_zero, at_one = run(x), run(x + 1)
    c = float((at_zero[0] - at_zero[1]) / (z[0] - z[1]))
    return float((at_one - at_zero)[0]), float(at_zero[0] - c * z[0]), c


def moments(name: str, num_steps: int, mean: float, variance: float) -> tuple[float, float]:
    """The mean and variance of a sampler's output at time 0.01 for data N(mean, variance).

    `dpmpp2m` has memory, so a step alone does not define it; but it draws nothing, so that all its
    steps together are one affine map.
    """

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return sigma(t) * (x - alpha(t) * mean) / (alpha(t) ** 2 * variance + sigma(t) ** 2)

    grid = clock_grid(CLOCKS["cosine"], num_steps, 1e-2).tolist()
    # From the true law at the horizon, so that only the steps err.
    m, v = alpha(grid[0]) * mean, alpha(grid[0]) ** 2 * variance + sigma(grid[0]) ** 2
    if name == "dpmpp2m":
        ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        at_zero, at_one = SAMPLERS[name].run(eps, torch.tensor(grid, dtype=torch.float64), ends)
        a = float(at_one - at_zero)
        return a * m + float(at_zero), a * a * v
    for t, s in pairwise(grid):
        a, b, c = affine_step(name, eps, t, s)
        m, v = a * m + b, a * a * v + c * c
    return m, v


@pytest.mark.parametrize("name", SAMPLERS)
def test_order_of_the_law(name: str) -> None:
    """Weak order: mean and variance converge like 1/steps, 1/steps^2 for heun and dpmpp2m."""
    mean, variance = 0.8, 0.3
    true_mean = alpha(1e-2) * mean
    true_variance = alpha(1e-2) ** 2 * variance + sigma(1e-2) ** 2
    errors = []
    for num_steps in (200, 800):
        m, v = moments(name, num_steps, mean, variance)
        errors.append((abs(m - true_mean), abs(v - true_variance)))
    order = 2 if name in ("heun", "dpmpp2m") else 1
    for coarse, fine in zip(*errors, strict=True):
        if coarse > 1e-12:  # DDPM's and DDIM's mean may be exact
            assert math.log(coarse / fine) / math.log(4) == pytest.approx(order, abs=0.3)
    assert max(errors[1]) < 0.02


def widths(points: Tensor) -> Tensor:
    """The weights of the trapezoidal rule on sorted points."""
    gaps = torch.nn.functional.pad(points.diff(), (1, 1))
    return (gaps[1:] + gaps[:-1]) / 2


def carried(name: str, eps: Denoiser, grid: Tensor, points: Tensor, density: Tensor) -> Tensor:
    """Carry a density on a line of sorted points through a stochastic sampler, by quadrature."""
    width = widths(points)
    for t, s in pairwise(grid):
        # Two points at one place part by their noise alone, which gives its size.
        doubled = torch.cat([points, points[:1]])[:, None]
        z = torch.randn(doubled.shape, generator=_seeded(), dtype=torch.float64)
        out = SAMPLERS[name].run(eps, torch.stack([t, s]), doubled, _seeded())
        c = float((out[0] - out[-1]) / (z[0] - z[-1]))
        centres = (out - c * z)[:-1, 0]
        kernel = torch.exp(-((points[:, None] - centres) / c).square() / 2)
        density = kernel @ (density * width) / (c * math.sqrt(2 * math.pi))
    return density


@pytest.mark.parametrize(("kappa", "steps", "kl"), [(0.5, 24, 0.03295), (0.2, 53, 0.00788)])
def test_exponential_sampler_on_two_points(kappa: float, steps: int, kl: float) -> None:
    """KL from the truth at delta to the sampler's law, for X_0 = -1 or 1, T = 4, delta = 1e-3.

    The law is carried from step to step by quadrature on a line of points. Histograms of 400,000
    samples agree, up to the upward bias that many bins give such an estimate.
    """

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return (x - alpha(t) * torch.tanh(alpha(t) * x / sigma(t) ** 2)) / sigma(t)

    # Fine near the two points, where the last steps are short, coarse as far as the first ones go.
    fine = torch.arange(0.2, 1.8, 0.006, dtype=torch.float64)
    coarse = torch.linspace(-10, 10, 1201, dtype=torch.float64)
    points = torch.cat([coarse[(coarse.abs() - 1).abs() > 0.8], fine, -fine]).sort().values
    width = widths(points)
    grid = kappa_grid(4.0, 1e-3, kappa)
    assert len(grid) == steps + 1
    start = torch.exp(-points.square() / 2) / math.sqrt(2 * math.pi)
    density = carried("exponential", eps, grid, points, start)
    a, spread = alpha(1e-3), sigma(1e-3)
    bumps = [torch.exp(-((points - sign * a) / spread).square() / 2) for sign in (-1, 1)]
    truth = (bumps[0] + bumps[1]) / (2 * spread * math.sqrt(2 * math.pi))
    mass = (width @ density).item()
    assert mass == pytest.approx(1, abs=1e-3)
    log_ratio = truth.clamp(min=1e-300).log() - (density / mass).clamp(min=1e-300).log()
    assert (width @ (truth * log_ratio)).item() == pytest.approx(kl, rel=0.005)


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(11)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_the_same_from_every_prediction(name: str) -> None:
    clock, noise = CLOCKS["cosine"], torch.randn(6, 3, generator=_seeded(), dtype=torch.float64)
    drawn = {}
    for prediction in PREDICTIONS:

        def network(x: Tensor, timestep: Tensor, prediction: str = prediction) -> Tensor:
            t = clock.t_of_u((timestep[0] + 1) / 1000)
            return from_eps(prediction, gaussian_eps(x, t), x, t)

        denoiser = eps_denoiser(network, clock, prediction)
        grid = clock_grid(clock, 12, 1e-3)
        drawn[prediction] = sample(name, denoiser, grid, noise, _seeded())
    expected = sample(name, gaussian_eps, grid, noise, _seeded())
    for images in drawn.values():
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-8)
