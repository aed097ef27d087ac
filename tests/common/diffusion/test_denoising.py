"""Training times, the loss and the three things a network may predict."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.diffusion import denoising, process
from common.diffusion.denoising import LOSS_WEIGHTS, PREDICTIONS
from common.diffusion.process import CLOCKS, Clock

clocks = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())
times = st.floats(1e-4, 5.0)


@clocks
def test_times_on_the_clock_are_uniform_in_u(clock: Clock) -> None:
    t = denoising.sample_times(clock, 20_000, torch.Generator().manual_seed(0), delta=1e-3)
    low = clock.u_of_t(1e-3)
    assert t.min() >= 1e-3
    assert t.max() <= clock.horizon
    share = ((clock.u_of_t(t) - low) / (1 - low)).sort().values
    assert (share - torch.linspace(0, 1, 20_000)).abs().max() < 1.63 / math.sqrt(20_000)


def test_log_normal_times_are_edm_s() -> None:
    clock = CLOCKS["cosine"]
    t = denoising.sample_times(clock, 50_000, torch.Generator().manual_seed(0), "log-normal", 1e-6)
    log_ratio = process.edm_sigma(t).log()
    assert log_ratio.mean().item() == pytest.approx(-1.2, abs=0.03)
    assert log_ratio.std().item() == pytest.approx(1.2, abs=0.03)


def test_sample_times_refuses_an_unknown_distribution() -> None:
    with pytest.raises(ValueError, match="'clock' or 'log-normal'"):
        denoising.sample_times(CLOCKS["linear"], 2, torch.Generator(), "flat")


def test_loss_weights() -> None:
    t = torch.tensor([1e-3, 0.5, 3.0], dtype=torch.float64)
    snr = (process.alpha(t) / process.sigma(t)) ** 2
    torch.testing.assert_close(LOSS_WEIGHTS["uniform"](t), torch.ones_like(t))
    torch.testing.assert_close(LOSS_WEIGHTS["min-snr"](t), snr.clamp(max=5) / snr)
    torch.testing.assert_close(LOSS_WEIGHTS["score"](t), 1 / (1 - torch.exp(-2 * t)))


@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(t=times, seed=st.integers(0, 1000))
def test_predictions_convert_both_ways(prediction: str, t: float, seed: int) -> None:
    x, output = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64, generator=_seeded(seed))
    when = torch.tensor([t, 0.7, 2.0], dtype=torch.float64)
    eps = denoising.to_eps(prediction, output, x, when)
    torch.testing.assert_close(denoising.from_eps(prediction, eps, x, when), output)


@given(t=times, seed=st.integers(0, 1000))
def test_predictions_mean_what_they_say(t: float, seed: int) -> None:
    x0, noise = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64, generator=_seeded(seed))
    when = torch.tensor(t, dtype=torch.float64)
    x = process.perturb(x0, when, noise)
    truth = {"eps": noise, "x0": x0, "v": process.alpha(t) * noise - process.sigma(t) * x0}
    assert truth.keys() == PREDICTIONS.keys()
    for prediction, output in truth.items():
        torch.testing.assert_close(denoising.to_eps(prediction, output, x, when), noise)


def test_eps_denoiser_gives_the_network_its_timestep_in_its_own_precision() -> None:
    clock = CLOCKS["cosine"]
    seen: list[Tensor] = []

    def network(x: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        seen.append(timestep)
        return x + class_labels.reshape(-1, 1)

    denoiser = denoising.eps_denoiser(network, clock, "v")
    x, labels = torch.ones(3, 2), torch.tensor([0.0, 1.0, 2.0])
    t = torch.tensor(clock.t_of_u(0.5), dtype=torch.float64)
    eps = denoiser(x, t, class_labels=labels)
    torch.testing.assert_close(seen[0], torch.full((3,), 499.0))
    torch.testing.assert_close(eps, denoising.to_eps("v", x + labels[:, None], x, t))
    denoiser(x, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64), class_labels=labels)
    assert seen[1].shape == (3,)


@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_denoising_loss_is_the_weighted_squared_error_of_each_example(weight: str) -> None:
    x0, noise = torch.randn(2, 3, 1, 2, 2, generator=_seeded(1))
    t = torch.tensor([0.01, 0.5, 3.0], dtype=torch.float64)
    loss = denoising.denoising_loss(lambda x, t: torch.zeros_like(x), x0, t, noise, weight)
    expected = LOSS_WEIGHTS[weight](t).float() * noise.square().mean((1, 2, 3))
    torch.testing.assert_close(loss, expected)


def test_denoising_loss_is_least_at_the_posterior_mean_of_the_noise() -> None:
    """For data N(0, 1) the best guess of the noise is sigma x, and leaves alpha^2 of variance."""
    x0, noise = torch.randn(2, 40_000, 1, generator=_seeded(2))
    t = torch.full((40_000,), 0.3, dtype=torch.float64)
    losses = {
        scale: denoising.denoising_loss(lambda x, t: scale * x, x0, t, noise).mean().item()  # noqa: B023
        for scale in (process.sigma(0.3) - 0.1, process.sigma(0.3), process.sigma(0.3) + 0.1)
    }
    assert min(losses, key=lambda scale: losses[scale]) == process.sigma(0.3)
    assert losses[process.sigma(0.3)] == pytest.approx(process.alpha(0.3) ** 2, rel=0.03)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
