"""The process, its clocks and its grids."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from common.diffusion import process
from common.diffusion.process import CLOCKS, GRIDS, Clock

clocks = pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())
times = st.floats(1e-4, 5.0)


@given(times)
def test_alpha_and_sigma_keep_unit_variance(t: float) -> None:
    assert process.alpha(t) ** 2 + process.sigma(t) ** 2 == pytest.approx(1, abs=1e-15)
    assert process.edm_sigma(t) == pytest.approx(process.sigma(t) / process.alpha(t), rel=1e-12)
    assert process.t_of_edm_sigma(process.edm_sigma(t)) == pytest.approx(t, rel=1e-12)


def test_sigma_keeps_its_digits_at_small_times() -> None:
    assert process.sigma(1e-18) == pytest.approx(math.sqrt(2) * 1e-9, rel=1e-12)


def test_functions_of_time_give_back_what_they_are_given() -> None:
    assert isinstance(process.alpha(0.5), float)
    out = process.sigma(torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert out.dtype == torch.float64
    assert out.tolist() == [process.sigma(0.5), process.sigma(1.0)]


def test_perturb_has_the_mean_and_deviation_of_the_transition() -> None:
    t = torch.tensor([0.0, math.log(2)], dtype=torch.float64)
    x0, noise = torch.full((2, 1, 2, 2), 4.0), torch.full((2, 1, 2, 2), 2.0)
    x = process.perturb(x0, t, noise)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[0], x0[0])
    torch.testing.assert_close(x[1], torch.full((1, 2, 2), 2.0 + math.sqrt(3)))


@clocks
@given(u=st.floats(0, 1))
def test_clock_inverts(clock: Clock, u: float) -> None:
    assert clock.u_of_t(clock.t_of_u(u)) == pytest.approx(u, abs=1e-12)


@clocks
def test_clock_runs_from_zero_to_the_horizon_and_increases(clock: Clock) -> None:
    t = clock.t_of_u(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert t[0] == 0
    assert t[-1].item() == pytest.approx(clock.horizon)
    assert (t.diff() > 0).all()


def test_horizons() -> None:
    assert CLOCKS["linear"].horizon == pytest.approx(5.025)  # half the mean of 0.1 and 20
    assert CLOCKS["cosine"].horizon == pytest.approx(5)


def test_linear_clock_is_ddpm_s_discrete_schedule() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    discrete = -torch.log(torch.cumprod(1 - betas, 0)) / 2
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(CLOCKS["linear"].t_of_u(u), discrete, rtol=0.03, atol=5e-5)


def test_cosine_clock_s_angle_is_linear_in_u() -> None:
    clock = CLOCKS["cosine"]
    angles = [math.acos(process.alpha(clock.t_of_u(u))) for u in (0.25, 0.5, 0.75, 1.0)]
    assert angles == pytest.approx([angles[3] * share for share in (0.25, 0.5, 0.75, 1)])


@clocks
def test_timestep_is_that_of_diffusers(clock: Clock) -> None:
    assert clock.timestep_of_t(clock.t_of_u(0.001)) == pytest.approx(0, abs=1e-9)
    assert clock.timestep_of_t(clock.horizon) == pytest.approx(999)


@clocks
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("num_steps", [1, 7])
def test_grid_falls_from_the_horizon_to_delta(clock: Clock, kind: str, num_steps: int) -> None:
    grid = GRIDS[kind](clock, num_steps, 1e-3)
    assert grid.dtype == torch.float64
    assert grid.shape == (num_steps + 1,)
    assert (grid[0].item(), grid[-1].item()) == (clock.horizon, 1e-3)
    assert (grid.diff() < 0).all()


@pytest.mark.parametrize("make", GRIDS.values())
@pytest.mark.parametrize(("num_steps", "delta"), [(0, 1e-3), (5, 0.0), (5, 6.0)])
def test_grid_refuses_what_it_cannot_build(
    make: Callable[[Clock, int, float], Tensor], num_steps: int, delta: float
) -> None:
    with pytest.raises(ValueError, match="num_steps >= 1"):
        make(CLOCKS["linear"], num_steps, delta)


def test_grids_are_even_where_they_say() -> None:
    clock = CLOCKS["linear"]
    for even in (
        clock.u_of_t(process.clock_grid(clock, 10, 1e-3)),
        process.edm_sigma(process.edm_grid(clock, 10, 1e-3)) ** (1 / 7),
        process.edm_sigma(process.log_snr_grid(clock, 10, 1e-3)).log(),
    ):
        torch.testing.assert_close(even.diff(), even.diff().mean().expand(10))


@pytest.mark.parametrize(
    ("kappa", "steps"), [(0.5, 24), (0.2, 53), (0.1, 103), (0.05, 202), (0.02, 499)]
)
def test_kappa_grid_takes_the_documented_number_of_steps(kappa: float, steps: int) -> None:
    assert len(process.kappa_grid(4.0, 1e-3, kappa)) == steps + 1


def test_kappa_grid_is_not_lengthened_by_rounding() -> None:
    assert (1.3 - 1) / 0.1 > 3
    assert len(process.kappa_grid(1.3, 0.5, 0.1)) == 3 + 8 + 1


@given(st.floats(0.01, 6), st.floats(1e-5, 0.009), st.floats(0.02, 2))
def test_kappa_grid_meets_its_condition(horizon: float, delta: float, kappa: float) -> None:
    grid = process.kappa_grid(horizon, delta, kappa)
    assert (grid[0].item(), grid[-1].item()) == (horizon, delta)
    assert (grid.diff() < 0).all()
    assert (grid[:-1] - grid[1:] <= kappa * grid[1:].clamp(max=1) + 1e-9).all()


def test_kappa_grid_refuses_what_it_cannot_build() -> None:
    for horizon, delta, kappa in [(4.0, 1e-3, 0.0), (4.0, 1.0, 0.1), (0.5, 0.6, 0.1)]:
        with pytest.raises(ValueError, match="kappa > 0"):
            process.kappa_grid(horizon, delta, kappa)


@clocks
@given(num_steps=st.integers(1, 60))
def test_the_least_kappa_grid_meets_the_condition_with_the_least_kappa(
    clock: Clock, num_steps: int
) -> None:
    grid = process.least_kappa_grid(clock, num_steps)
    needed = ((grid[:-1] - grid[1:]) / grid[1:].clamp(max=1)).max().item()
    with_less = process.kappa_grid(clock.horizon, process.DELTA, needed * 0.999)
    assert len(with_less) > len(grid)
    if num_steps > 1:
        again = process.kappa_grid(clock.horizon, process.DELTA, needed * (1 + 1e-6))
        assert len(again) <= len(grid)
