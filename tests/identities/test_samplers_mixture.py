"""Samplers on a mixture of Gaussians, whose score is known and not linear.

`tests/common/test_samplers.py` has the deterministic samplers' order there, path by path.
"""

import math

import pytest
import torch
from torch import Tensor

from common.diffusion.process import CLOCKS, alpha, clock_grid, sigma
from common.diffusion.samplers import SAMPLERS, sample
from tests.common.diffusion.test_samplers import STOCHASTIC, mixture_eps
from tests.identities.test_samplers_gaussian import carried, widths

WEIGHTS = torch.tensor([0.7, 0.3], dtype=torch.float64)
MEANS = torch.tensor([0.9, -1.2], dtype=torch.float64)
VARIANCES = torch.tensor([0.15, 0.3], dtype=torch.float64)


def components(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Each component's score, to sign, and weighted density, of two Gaussians noised to time t."""
    spread = alpha(t) ** 2 * VARIANCES + sigma(t) ** 2
    offset = x[:, None] - alpha(t) * MEANS
    normal = torch.exp(-offset.square() / (2 * spread)) / torch.sqrt(2 * math.pi * spread)
    return offset / spread, WEIGHTS * normal


def eps_on_a_line(x: Tensor, t: Tensor) -> Tensor:
    pull, density = components(x[:, 0], t)
    return sigma(t) * ((pull * density).sum(1) / density.sum(1))[:, None]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_laws_converge_like_one_over_steps(name: str) -> None:
    """In total variation as in the first two moments, by quadrature in place of draws."""
    points = torch.linspace(-12, 12, 801, dtype=torch.float64)
    width, end = widths(points), torch.tensor(1e-2, dtype=torch.float64)
    truth = components(points, end)[1].sum(1)
    errors = []
    for num_steps in (40, 160):
        grid = clock_grid(CLOCKS["cosine"], num_steps, float(end))
        # From the true law at the horizon, so that only the steps err.
        start = components(points, grid[0])[1].sum(1)
        law = carried(name, eps_on_a_line, grid, points, start)
        law = law / (width @ law)  # the first of few steps may leave the line
        gap = law - truth
        errors.append([gap.abs() @ width, (gap * points) @ width, (gap * points**2) @ width])
    for coarse, fine in zip(*errors, strict=True):
        order = math.log(abs(coarse / fine)) / math.log(4)
        assert order == pytest.approx(1, abs=0.3)
    assert errors[1][0] < 0.02


@pytest.mark.parametrize("name", SAMPLERS)
def test_recovers_mean_and_covariance_of_a_mixture(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(10_000, 2, generator=generator, dtype=torch.float64)
    grid = clock_grid(CLOCKS["cosine"], 200, 1e-3)
    x = sample(name, mixture_eps, grid, noise, generator)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.5]], dtype=torch.float64)
    within = (weights * torch.tensor([0.10, 0.20, 0.05], dtype=torch.float64)).sum()
    mean = weights @ means
    between = torch.einsum("k,ki,kj->ij", weights, means - mean, means - mean)
    # 10,000 draws know a mean to 0.012 and a covariance to 0.02; predicted images at the end lack
    # a hundredth of the components' own variance.
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.05)
    expected = between + within * torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(torch.cov(x.T), expected, rtol=0, atol=0.06)
