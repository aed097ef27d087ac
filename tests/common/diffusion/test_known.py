"""The known laws: score and density agree, and draws follow the density."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.datasets import load_dataset
from common.diffusion.known import (
    DEVIATION,
    LAWS,
    GaussianField,
    KnownLaw,
    cosine_basis,
    known_law,
    power_spectrum,
    scaled,
)
from common.diffusion.process import CLOCKS, clock_grid
from common.diffusion.samplers import sample
from common.errors import UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=LAWS)
def law(request: pytest.FixtureRequest) -> KnownLaw:
    return LAWS[request.param](4)


@pytest.mark.parametrize("t", [0.01, 0.3, 2.0])
def test_the_score_is_the_gradient_of_the_density(law: KnownLaw, t: float) -> None:
    x = law.sample(5, generator(), t).requires_grad_()
    times = torch.tensor(t).double().expand(5)
    (gradient,) = torch.autograd.grad(law.log_prob(x, times).sum(), x)
    torch.testing.assert_close(law.score(x.detach(), times), gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("t", [0.05, 0.5])
def test_draws_follow_the_density(law: KnownLaw, t: float) -> None:
    """Stein: E[f(x) · s(x) + div f(x)] = 0 for any f, and a wrong scale of either shows."""
    n, time = 20_000, torch.tensor(t).double()
    x = law.sample(n, generator(), t)
    s = law.score(x, time)
    identities: list[Tensor] = [s, (x * s + 1), x.tanh() * s + 1 - x.tanh() ** 2]
    for terms in identities:
        sums = terms.flatten(1).sum(1)
        assert abs(float(sums.mean())) < 4 * float(sums.std()) / math.sqrt(n)


def test_the_density_integrates_to_one() -> None:
    axis = torch.linspace(-6, 6, 41, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis, axis)[:, None].view(-1, 1, 2, 2)
    for build in LAWS.values():
        total = build(2).log_prob(grid, torch.tensor(0.3).double()).exp().sum()
        assert float(total) * float(axis[1] - axis[0]) ** 4 == pytest.approx(1, abs=2e-3)


def test_variances_are_one_on_average_and_singular_means_what_it_says() -> None:
    for build in LAWS.values():
        x = build(8).sample(4000, generator(1))
        assert float(x.square().mean()) == pytest.approx(1, abs=0.03)
    covariance = torch.cov(LAWS["gaussian-singular"](4).sample(4000, generator(2)).flatten(1).T)
    assert int(torch.linalg.matrix_rank(covariance, rtol=1e-9)) == 8
    basis = cosine_basis(5)
    torch.testing.assert_close(basis @ basis.T, torch.eye(5).double())


def test_the_mean_is_seen() -> None:
    law = GaussianField(power_spectrum(2, 0.0), mean=3.0)
    x = law.sample(4000, generator(), 0.5)
    assert float(x.mean()) == pytest.approx(3 * math.exp(-0.5), abs=0.05)
    shifted = law.score(x, torch.tensor(0.5).double()).mean()
    assert abs(float(shifted)) < 0.05


@pytest.mark.parametrize("name", LAWS)
def test_scaling_scales_the_draws(name: str) -> None:
    law = LAWS[name](4)
    small = scaled(law, 0.5)
    torch.testing.assert_close(small.draw(3, generator())[0], 0.5 * law.draw(3, generator())[0])
    x, t = small.sample(3, generator(3), 0.1).requires_grad_(), torch.tensor(0.1).double()
    (gradient,) = torch.autograd.grad(small.log_prob(x, t).sum(), x)
    torch.testing.assert_close(small.score(x.detach(), t), gradient)


def test_samplers_take_the_exact_denoiser() -> None:
    law = LAWS["mixture"](4)
    noise = torch.randn(2000, 1, 4, 4, generator=generator(), dtype=torch.float64)
    x = sample("ddim", law.denoiser, clock_grid(CLOCKS["cosine"], 60), noise)
    assert float(law.score(x, torch.tensor(0.1).double()).mean()) == pytest.approx(0, abs=0.2)
    near = torch.cdist(x.flatten(1), law.means.flatten(1)).min(1).values  # type: ignore[attr-defined]
    assert float(near.square().mean()) / 16 == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("name", LAWS)
def test_they_are_data_sets_of_the_app(name: str) -> None:
    train, test = load_dataset(f"{name}8")
    law = known_law(f"{name}8")
    assert law is not None
    assert (train.images.shape, test.images.shape) == ((4096, 1, 8, 8), (1024, 1, 8, 8))
    assert train.num_classes == law.num_classes == len(set(train.labels))
    assert train.images.std() == pytest.approx(DEVIATION, rel=0.05)
    assert float((np.abs(train.images) > 1).mean()) < 2e-3
    np.testing.assert_array_equal(train.images, load_dataset(f"{name}8").train.images)
    assert not np.array_equal(train.images[:1024], test.images)


def test_other_names_and_sides_are_refused() -> None:
    with pytest.raises(UserError, match="gaussian-field8"):
        load_dataset("gaussian-feild8")
    with pytest.raises(UserError, match="2 to 64"):
        load_dataset("two-point65")
