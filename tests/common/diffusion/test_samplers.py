"""Samplers: order of convergence, agreement with diffusers, batching, budgets and errors."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from common.diffusion import process, samplers
from common.diffusion.denoising import eps_denoiser
from common.diffusion.process import CLOCKS, alpha, clock_grid, sigma
from common.diffusion.samplers import SAMPLERS, sample
from common.errors import UserError

DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if not sampler.stochastic]
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.stochastic]


def mixture_eps(x: Tensor, t: Tensor) -> Tensor:
    """The exact noise prediction for three Gaussians of unequal weight and width in the plane."""
    means = torch.tensor([[1.5, 0.0], [-1.0, 1.0], [-0.5, -1.5]], dtype=x.dtype)
    variances = torch.tensor([0.10, 0.20, 0.05], dtype=x.dtype)
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=x.dtype)
    a, s = alpha(t).to(x.dtype), sigma(t).to(x.dtype)
    spread = a**2 * variances + s**2
    offset = x[:, None, :] - a * means
    log_density = weights.log() - spread.log() - offset.square().sum(-1) / (2 * spread)
    share = log_density.softmax(1)
    return s * (share[..., None] * offset / spread[:, None]).sum(1)


def noise_of(n: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("name", "order"), {"ddim": 1, "euler": 1, "heun": 2, "dpmpp2m": 2}.items()
)
def test_order_of_convergence(name: str, order: int) -> None:
    """Against a far finer solution of the same ODE from the same noise, by the log-log slope."""
    clock, delta, x = CLOCKS["cosine"], 1e-2, noise_of(64, 2)
    fine = samplers.heun(mixture_eps, clock_grid(clock, 3000, delta), x)
    counts = [100, 200, 400]
    errors = []
    for num_steps in counts:
        coarse = SAMPLERS[name].run(mixture_eps, clock_grid(clock, num_steps, delta), x)
        errors.append((coarse - fine).square().mean().sqrt().item())
    slope = math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])
    assert slope == pytest.approx(order, abs=0.3)


def toy_network(x: Tensor, timestep: Tensor) -> Tensor:
    """Smooth in both arguments, mixing values and not linear, as a network would be."""
    phase = (timestep / 1000).reshape(-1, *[1] * (x.ndim - 1))
    return torch.tanh(x.roll(1, -1) + phase) + 0.5 * x


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
@pytest.mark.parametrize("clock_name", CLOCKS)
@pytest.mark.parametrize("name", ["ddim", "dpmpp2m"])
def test_agrees_with_diffusers_step_by_step(name: str, clock_name: str) -> None:
    clock = CLOCKS[clock_name]
    u = torch.arange(0, 1001, dtype=torch.float64) / 1000
    betas = -torch.expm1(-2 * clock.t_of_u(u).diff())
    if name == "ddim":
        scheduler = DDIMScheduler(
            trained_betas=betas.numpy(), clip_sample=False, timestep_spacing="trailing"
        )
    else:
        scheduler = DPMSolverMultistepScheduler(
            trained_betas=betas.numpy(), algorithm_type="dpmsolver++", solver_order=2,
            timestep_spacing="trailing",
        )  # fmt: skip
    scheduler.set_timesteps(20)
    timesteps = scheduler.timesteps
    grid = clock.t_of_u((timesteps.double() + 1) / 1000)
    denoiser = eps_denoiser(toy_network, clock)
    noise = noise_of(4, 3, 8, 8, dtype=torch.float32)

    x = noise
    for i, timestep in enumerate(timesteps):
        x = scheduler.step(toy_network(x, timestep.float().expand(4)), timestep, x).prev_sample
        # A scheduler's last step goes to time 0, which is what `denoise` does at the grid's end.
        last = i == len(timesteps) - 1
        ours = sample(name, denoiser, grid[: i + 2], noise, denoise=last)
        torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_ddim_with_eta_one_is_ancestral() -> None:
    grid, x = clock_grid(CLOCKS["linear"], 10), noise_of(8, 2)
    outputs = [
        samplers.ddim(mixture_eps, grid, x, torch.Generator().manual_seed(3), eta=1.0),
        samplers.ancestral(mixture_eps, grid, x, torch.Generator().manual_seed(3)),
    ]
    torch.testing.assert_close(outputs[0], outputs[1])


def test_ddim_is_euler_s_rule_in_edm_coordinates() -> None:
    grid, x = clock_grid(CLOCKS["linear"], 10), noise_of(8, 2)
    y = x / alpha(float(grid[0]))
    for t, s in pairwise(grid):
        step = process.edm_sigma(s) - process.edm_sigma(t)
        y = y + step * mixture_eps(alpha(t) * y, t)
    torch.testing.assert_close(samplers.ddim(mixture_eps, grid, x), alpha(float(grid[-1])) * y)


def test_euler_takes_the_slope_where_it_stands() -> None:
    t, s, x = 0.5, 0.2, noise_of(3, 2)
    out = samplers.euler(lambda x, t: 3 * x, torch.tensor([t, s], dtype=torch.float64), x)
    torch.testing.assert_close(out, x + (s - t) * (3 * x / math.sqrt(1 - math.exp(-2 * t)) - x))


@pytest.mark.parametrize("name", SAMPLERS)
def test_images_do_not_depend_on_the_batch_size(name: str) -> None:
    grid, x = clock_grid(CLOCKS["linear"], 6), noise_of(10, 2)
    outputs = [
        sample(name, mixture_eps, grid, x, torch.Generator().manual_seed(1), batch_size=size)
        for size in (None, 3, 1)
    ]
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(outputs[2], outputs[0])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("denoise", [True, False])
def test_evaluations_are_as_announced(name: str, denoise: bool) -> None:
    calls: list[int] = []
    shown: list[tuple[int, int]] = []

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        return torch.zeros_like(x)

    sample(
        name, denoiser, clock_grid(CLOCKS["linear"], 5), noise_of(7, 2), torch.Generator(),
        batch_size=4, progress=lambda done, total: shown.append((done, total)), denoise=denoise,
    )  # fmt: skip
    total = 2 * SAMPLERS[name].evaluations(5, denoise)
    assert calls == [4, 3] * (total // 2)
    assert shown == [(i + 1, total) for i in range(total)]


def test_steps_for_a_budget() -> None:
    assert SAMPLERS["dpmpp2m"].steps_for(20) == 19
    assert SAMPLERS["dpmpp2m"].steps_for(20, denoise=False) == 20
    assert SAMPLERS["heun"].steps_for(20) == 9
    assert SAMPLERS["heun"].steps_for(1) == 1


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_leave_the_generator_alone(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    sample(name, mixture_eps, clock_grid(CLOCKS["linear"], 3), noise_of(2, 2), generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_samplers_want_a_generator(name: str) -> None:
    with pytest.raises(ValueError, match="generator"):
        sample(name, mixture_eps, clock_grid(CLOCKS["linear"], 3), noise_of(2, 2))


@pytest.mark.parametrize("name", SAMPLERS)
def test_denoiser_works_in_the_noise_s_precision_and_sees_float64_times(name: str) -> None:
    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        assert t.dtype == torch.float64
        assert t.shape == ()
        return mixture_eps(x, t)

    noise = noise_of(2, 2, dtype=torch.float32)
    out = sample(name, denoiser, clock_grid(CLOCKS["linear"], 3), noise, torch.Generator())
    assert out.dtype == torch.float32


def test_labels_are_cut_like_the_images() -> None:
    def denoiser(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        assert len(class_labels) == len(x)
        # The noise of an image that is its label everywhere.
        return (x - alpha(t) * class_labels[:, None].to(x)) / sigma(t)

    labels = torch.arange(5)
    grid = clock_grid(CLOCKS["linear"], 4)
    out = sample("ddim", denoiser, grid, noise_of(5, 2), batch_size=2, class_labels=labels)
    torch.testing.assert_close(out, labels[:, None].double().expand(5, 2))


def test_denoise_removes_the_noise_that_stopping_early_leaves() -> None:
    """Data at the origin: samples at delta have deviation sigma(delta), their denoised images 0."""

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        return x / sigma(t)

    grid, x = clock_grid(CLOCKS["linear"], 20, 1e-2), noise_of(500, 2)
    run: Callable[[bool], Tensor] = lambda denoise: sample(  # noqa: E731
        "ancestral", denoiser, grid, x, torch.Generator().manual_seed(0), denoise=denoise
    )
    assert run(False).std().item() == pytest.approx(sigma(1e-2), rel=0.1)
    assert run(True).abs().max() < 1e-9


def test_unknown_sampler_is_named() -> None:
    with pytest.raises(UserError, match="sampler 'magic' is unknown: use one of exponential"):
        sample("magic", mixture_eps, clock_grid(CLOCKS["linear"], 3), noise_of(2, 2))
