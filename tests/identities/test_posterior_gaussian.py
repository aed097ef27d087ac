"""Posterior sampling where the answer is known: a correlated Gaussian prior.

The exact denoiser is linear then, and the posterior of a linear observation is Gaussian with a mean
and a covariance in closed form. 4,000 draws know a mean to 0.016 of its deviations, a deviation to
0.011 of itself, and the eigenvalues of a whitened 16 x 16 covariance, which are 1, to 0.13.
"""

import pytest
import torch
from torch import Tensor

from common.diffusion.process import CLOCKS, alpha, edm_grid, sigma
from simulations.restoration.degradations import Degradation, averaging, inpainting, noising
from simulations.restoration.posterior import couplings, posterior_sample, split

SHAPE = (1, 4, 4)
DRAWS = 4000
PLACES = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).double()
# Smooth images: neighbours are alike.
COVARIANCE = 0.5 * torch.exp(-(torch.cdist(PLACES, PLACES) ** 2) / 4) + 0.02 * torch.eye(16)
MEAN = 0.3 * torch.sin(torch.arange(16.0).double())
VALUES, VECTORS = torch.linalg.eigh(COVARIANCE)
KNOWN = torch.ones(4, 4, dtype=torch.bool)
KNOWN[1:3, 1:3] = False
# Neither orthogonal rows nor equal singular values.
BLUR = torch.exp(-(torch.cdist(PLACES, PLACES) ** 2))[:10]

DEGRADATIONS = {
    "denoise": noising(SHAPE, 0.3),
    "lowlight": noising(SHAPE, 0.1, gain=0.4),
    "inpaint": inpainting(SHAPE, KNOWN, 0.1),
    "superres": averaging(SHAPE, 2, 0.1),
    "blur": Degradation(BLUR / BLUR.sum(1, keepdim=True), 0.1, 0.2, SHAPE),
}


def exact_eps(x: Tensor, t: Tensor) -> Tensor:
    """The exact noise prediction for images N(MEAN, COVARIANCE)."""
    rotated = (x.flatten(1) - alpha(t) * MEAN) @ VECTORS
    scaled = rotated * sigma(t) / (alpha(t) ** 2 * VALUES + sigma(t) ** 2)
    return (scaled @ VECTORS.T).reshape(x.shape)


def prior_draws(count: int, generator: torch.Generator) -> Tensor:
    z = torch.randn(count, 16, generator=generator, dtype=torch.float64)
    return (MEAN + (z * VALUES.sqrt()) @ VECTORS.T).reshape(-1, *SHAPE)


def posterior(degradation: Degradation, y: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and covariance of N(m + K (y - A m - b), C - K A C), K = C A' (A C A' + s² I)^-1."""
    a, (m, _) = degradation.matrix, degradation.matrix.shape
    noised = a @ COVARIANCE @ a.T + degradation.sigma**2 * torch.eye(m, dtype=torch.float64)
    gain = torch.linalg.solve(noised, a @ COVARIANCE).T
    mean = MEAN + gain @ (y - a @ MEAN - degradation.offset)
    return mean, COVARIANCE - gain @ a @ COVARIANCE


def deviations(x: Tensor, mean: Tensor, covariance: Tensor) -> tuple[float, float]:
    """How far the law of x is from N(mean, covariance): means in deviations, and 1 - eigenvalues.

    The eigenvalues are those of the sample covariance where `covariance` is the identity.
    """
    x = x.flatten(1)
    off = ((x.mean(0) - mean) / covariance.diag().sqrt()).abs().max()
    white = torch.linalg.inv(torch.linalg.cholesky(covariance))
    eigenvalues = torch.linalg.eigvalsh(white @ torch.cov(x.T) @ white.T)
    return float(off), float((eigenvalues - 1).abs().max())


def restored(
    name: str, covariance: Tensor, num_steps: int, sweeps: int, sweep_steps: int = 4
) -> tuple[float, float]:
    """Draw from the posterior of one observation, and compare."""
    degradation = DEGRADATIONS[name]
    generator = torch.Generator().manual_seed(0)
    y = degradation.observe(prior_draws(1, generator), generator)
    noise = torch.randn(DRAWS, *SHAPE, generator=generator, dtype=torch.float64)
    grid = edm_grid(CLOCKS["cosine"], num_steps, 2e-4)
    x = posterior_sample(
        exact_eps, degradation, y.expand(DRAWS, -1), covariance, grid, noise, generator,
        sweeps, sweep_steps,
    )  # fmt: skip
    return deviations(x, *posterior(degradation, y[0]))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_the_start_is_exact_in_a_few_long_steps(name: str) -> None:
    mean, covariance = restored(name, COVARIANCE, num_steps=5, sweeps=0)
    assert mean < 0.06
    assert covariance < 0.16


@pytest.mark.parametrize("name", ["inpaint", "superres", "blur"])
def test_sweeps_keep_the_posterior(name: str) -> None:
    """Up to what coming down from a larger coupling in ten sweeps leaves behind."""
    mean, covariance = restored(name, COVARIANCE, num_steps=5, sweeps=20)
    assert mean < 0.12
    assert covariance < 0.2


def test_sweeps_mend_a_start_with_a_wrong_covariance() -> None:
    wrong = 0.5 * torch.eye(16, dtype=torch.float64)
    start = restored("superres", wrong, num_steps=10, sweeps=0)
    mended = restored("superres", wrong, num_steps=10, sweeps=15, sweep_steps=12)
    assert start[0] > 0.15
    assert mended[0] < 0.08
    assert start[1] > 0.4
    assert mended[1] < 0.25


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_splitting_leaves_the_joint_law_of_image_and_observation(name: str) -> None:
    """With x from the prior and y given x, z is x + eta n, and y is A z + b + noise of its own."""
    degradation = DEGRADATIONS[name]
    generator = torch.Generator().manual_seed(1)
    x = prior_draws(DRAWS, generator)
    y = degradation.observe(x, generator)
    eta = 0.9 * degradation.sigma / degradation.norm
    z = split(degradation, y, x, eta, generator)
    x, z = x.flatten(1), z.flatten(1)
    noise = (z - x) / eta
    identity = torch.eye(16, dtype=torch.float64)
    mean, covariance = deviations(noise, torch.zeros(16, dtype=torch.float64), identity)
    assert mean < 0.06
    assert covariance < 0.16
    rest = y - degradation.apply(z) - degradation.offset
    a, total = degradation.matrix, degradation.sigma**2
    expected = total * torch.eye(len(a), dtype=torch.float64) - eta**2 * a @ a.T
    torch.testing.assert_close(rest.T @ rest / DRAWS, expected, rtol=0, atol=0.06 * total)
    for one, other in [(noise, x), (rest / degradation.sigma, x), (rest / degradation.sigma, z)]:
        assert (one.T @ (other - MEAN) / DRAWS).abs().max() < 0.06


def test_couplings_come_down_to_the_last_and_stay() -> None:
    assert couplings(0.1, 4) == pytest.approx([0.4, 0.2, 0.1, 0.1])
    assert couplings(0.7, 3) == pytest.approx([0.7] * 3)
    assert couplings(0.1, 0) == []
