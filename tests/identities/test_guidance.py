"""Classifier-free guidance where both scores are known: a Gaussian for each class."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from common.diffusion.denoising import guided
from common.diffusion.process import CLOCKS, Denoiser, alpha, clock_grid, sigma
from common.diffusion.samplers import sample

MEANS = torch.tensor([[1.0, 0.5], [-1.0, 0.0], [0.0, -1.5]], dtype=torch.float64)
DEVIATIONS = torch.tensor([[0.6, 0.3], [0.4, 0.8], [0.5, 0.5]], dtype=torch.float64)
SHARES = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
NONE = len(MEANS)


def _classes(t: Tensor) -> Independent:
    """p_t(x | c) of every class."""
    spread = (alpha(t) ** 2 * DEVIATIONS**2 + sigma(t) ** 2).sqrt()
    return Independent(Normal(alpha(t) * MEANS, spread), 1)


def _mixture(t: Tensor) -> MixtureSameFamily:
    return MixtureSameFamily(Categorical(SHARES), _classes(t))


def exact_eps(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
    """The noise that the conditional score says, or for the null class the mixture's."""
    score = torch.empty_like(x)
    for i, (point, label) in enumerate(zip(x, class_labels.tolist(), strict=True)):
        if label < NONE:
            p = _classes(t).base_dist
            score[i] = (p.loc[label] - point) / p.scale[label] ** 2
        else:
            weights = torch.softmax(SHARES.log() + _classes(t).log_prob(point), 0)
            p = _classes(t).base_dist
            score[i] = (weights[:, None] * (p.loc - point) / p.scale**2).sum(0)
    return -sigma(t) * score


def power_score(x: Tensor, t: Tensor, label: int, weight: float) -> Tensor:
    """The gradient of log p(x | c)^(1 + w) / p(x)^w, by automatic differentiation."""
    x = x.clone().requires_grad_()
    given = _classes(t).log_prob(x[:, None])[:, label]
    total = ((1 + weight) * given - weight * _mixture(t).log_prob(x)).sum()
    return torch.autograd.grad(total, x)[0]


@pytest.mark.parametrize("weight", [0.0, 0.7, 4.0])
@pytest.mark.parametrize("time", [0.05, 0.8])
def test_the_guided_score_is_that_of_the_sharpened_density(weight: float, time: float) -> None:
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor(time, dtype=torch.float64)
    for label in range(NONE):
        eps = guided(exact_eps, NONE, weight)(x, t, class_labels=torch.full((5,), label))
        torch.testing.assert_close(-eps / sigma(t), power_score(x, t, label, weight))


def test_one_call_answers_for_both_and_every_image_keeps_its_own_time_and_label() -> None:
    calls: list[int] = []

    def denoiser(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        calls.append(len(x))
        return x * t[:, None] + class_labels[:, None]

    x = torch.tensor([[1.0], [2.0]])
    t, labels = torch.tensor([0.5, 0.25]), torch.tensor([3, 4])
    eps = guided(denoiser, 10, 2.0)(x, t, class_labels=labels)
    torch.testing.assert_close(eps[:, 0], torch.tensor([0.5 + 9 - 20, 0.5 + 12 - 20]))
    assert calls == [4]


def test_guided_samples_of_two_gaussians_have_the_mean_that_the_flow_has() -> None:
    """With Gaussians for both, the guided flow is linear, so that its mean solves an ODE."""
    mean, variance, weight = 1.0, 0.25, 1.5
    grid = clock_grid(CLOCKS["cosine"], 400, 1e-3)

    def eps(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        # Class 0 is N(1, 1/4), the null class N(0, 1), whose score is -x at every time.
        own = sigma(t) * (x - alpha(t) * mean) / (alpha(t) ** 2 * variance + sigma(t) ** 2)
        return torch.where(class_labels[:, None] == 0, own, sigma(t) * x)

    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.zeros(2000, dtype=torch.int64)
    guide: Denoiser = guided(eps, 1, weight)
    drawn = sample("heun", guide, grid, noise, denoise=False, class_labels=labels)

    # dx/dt = -x - score by hand, for the mean and the slope of the linear map, in small steps.
    centre, slope = 0.0, 1.0
    fine = clock_grid(CLOCKS["cosine"], 40_000, 1e-3).tolist()
    for t, s in pairwise(fine):
        a = math.exp(-t)
        v = a * a * variance + 1 - a * a
        gain = -1 + (1 + weight) / v - weight
        shift = -(1 + weight) * a * mean / v
        centre += (s - t) * (gain * centre + shift)
        slope += (s - t) * gain * slope
    torch.testing.assert_close(drawn, centre + slope * noise, rtol=0, atol=2e-3)
    assert centre > 1.1, "beyond the class's own mean, away from the null class"
