"""Where the score is known, the probability-flow ODE finds the known likelihood."""

import math

import pytest
import torch
from torch import Tensor

from common.data.datasets import load_dataset
from common.diffusion.process import CLOCKS, DELTA, alpha, edm_grid, sigma
from server.evaluation.likelihood import (
    bits_per_dim,
    exact_directions,
    held_out_bits,
    log_likelihood,
    random_directions,
)

MEAN = torch.tensor([0.5, -1.0, 0.2, 0.0], dtype=torch.float64)
_ROTATION = torch.linalg.qr(
    torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
).Q
COVARIANCE = _ROTATION @ torch.diag(torch.tensor([0.01, 0.1, 0.5, 2.0]).double()) @ _ROTATION.T


def _at(t: float) -> torch.distributions.MultivariateNormal:
    covariance = alpha(t) ** 2 * COVARIANCE + sigma(t) ** 2 * torch.eye(4, dtype=torch.float64)
    return torch.distributions.MultivariateNormal(alpha(t) * MEAN, covariance)


def _denoiser(x: Tensor, t: Tensor) -> Tensor:
    law = _at(float(t))
    centred = x.flatten(1).double() - law.mean
    return (sigma(float(t)) * centred @ law.precision_matrix).view_as(x).to(x)


def _draws(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    law = _at(DELTA)
    return (law.mean + noise @ law.scale_tril.T).view(count, 1, 2, 2)


@pytest.mark.parametrize("clock", ["linear", "cosine"])
def test_a_gaussian_s_log_density_and_entropy_are_found(clock: str) -> None:
    x = _draws(400)
    found = log_likelihood(_denoiser, edm_grid(CLOCKS[clock], 24), x, exact_directions(x))
    expected = _at(DELTA).log_prob(x.flatten(1))
    # What is left is the step and that noise at the horizon is not quite standard normal.
    torch.testing.assert_close(found, expected, rtol=0, atol=0.04)
    assert float(found.mean() - expected.mean()) == pytest.approx(0, abs=3e-3)
    assert float(-found.mean()) == pytest.approx(float(_at(DELTA).entropy()), abs=0.15)


def test_the_error_falls_at_the_rule_s_fourth_order() -> None:
    x = _draws(50)
    expected = _at(DELTA).log_prob(x.flatten(1)).mean()
    errors = [
        float(
            log_likelihood(
                _denoiser, edm_grid(CLOCKS["cosine"], steps), x, exact_directions(x)
            ).mean()
            - expected
        )
        for steps in (8, 16)
    ]
    assert 3 < math.log2(errors[0] / errors[1]) < 5


def test_random_directions_give_the_exact_trace_on_average() -> None:
    x = _draws(2)
    grid = edm_grid(CLOCKS["cosine"], 6)
    exact = log_likelihood(_denoiser, grid, x, exact_directions(x))
    signs = random_directions(x, 300, torch.Generator().manual_seed(0))
    one = log_likelihood(_denoiser, grid, x, signs[:1])
    many = log_likelihood(_denoiser, grid, x, signs)
    assert not torch.allclose(one, exact, atol=0.05)
    torch.testing.assert_close(many, exact, rtol=0, atol=0.3)


def test_labels_reach_the_denoiser() -> None:
    def denoiser(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return x * class_labels.view(-1, 1, 1, 1)

    x = torch.ones(2, 1, 1, 1)
    grid = edm_grid(CLOCKS["cosine"], 4)
    found = log_likelihood(
        denoiser, grid, x, exact_directions(x), class_labels=torch.tensor([0, 1])
    )
    assert found[0] != found[1]


def test_bits_of_a_uniform_density_are_those_of_its_levels() -> None:
    # 17 equally likely levels 1/8 apart: the dequantised density is 8/17 on each value.
    density = torch.full((1,), 64 * math.log(8 / 17), dtype=torch.float64)
    assert float(bits_per_dim(density, 64, 1 / 8)) == pytest.approx(math.log2(17))


def test_held_out_digits_under_one_gaussian() -> None:
    """The flow of the training images' own Gaussian gives the bits of its density."""
    splits = load_dataset("digits")
    flat = torch.from_numpy(splits.train.images).flatten(1).double()
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    eigenvalues, vectors = torch.linalg.eigh(covariance)

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        a, s = alpha(float(t)), sigma(float(t))
        centred = (x.flatten(1).double() - a * mean) @ vectors
        return (s * (centred / (a * a * eigenvalues + s * s)) @ vectors.T).view_as(x).to(x)

    exact = held_out_bits(denoiser, splits, CLOCKS["cosine"], 0, exact=True)
    estimate = held_out_bits(denoiser, splits, CLOCKS["cosine"], 0)
    assert estimate == held_out_bits(denoiser, splits, CLOCKS["cosine"], 0)
    assert estimate["bits_per_dim"] == pytest.approx(exact["bits_per_dim"], abs=0.1)
    assert exact["bits_per_dim_images"] == 64
    r2 = (sigma(DELTA) / alpha(DELTA)) ** 2
    law = torch.distributions.MultivariateNormal(mean, covariance + r2 * torch.eye(64).double())
    held_out = torch.from_numpy(splits.test.images).flatten(1).double()
    noise = torch.rand(held_out.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    expected = bits_per_dim(law.log_prob(held_out + noise / 8), 64, 1 / 8)
    error = 4 * exact["bits_per_dim_error"]
    assert exact["bits_per_dim"] == pytest.approx(float(expected.mean()), abs=error)
