"""Estimates from draws, against closed forms; slopes and intervals, against what was put in."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config.run import RunConfig
from common.data.datasets import load_dataset
from common.diffusion.known import LAWS, GaussianField, power_spectrum
from common.diffusion.process import CLOCKS, kappa_grid
from server.app import federate
from server.state.checkpoint import checkpoints, load_checkpoint
from simulations.theory.exact import EXACT, Mistake, errors, kl, modes, sampled
from simulations.theory.experiments.errors import measured, mistaken, pair
from simulations.theory.federation import federation, squared_gradient_norm
from simulations.theory.girsanov import estimate_errors
from simulations.theory.report import Estimate, bootstrap, mean_interval, slope
from tests.federations import TINY
from tests.local_grid import LocalGrid


@pytest.mark.parametrize("mistake", [EXACT, Mistake(relative=0.3), Mistake(shift=0.5)])
def test_estimated_errors_agree_with_closed_forms(mistake: Mistake) -> None:
    law = GaussianField(power_spectrum(4, 1.0, kept=0.5), mean=0.5)
    grid, generator = kappa_grid(1.5, 1e-2, 0.4), torch.Generator().manual_seed(1)
    found = estimate_errors(law, grid, 4000, generator, mistaken(law, mistake))
    exact = errors(modes(law), grid, mistake)
    for name in ("initial", "score", "discretisation", "path", "girsanov"):
        estimate, truth = getattr(found, name), getattr(exact, name)
        half = (estimate.high - estimate.low) / 2
        # Twice the interval; and what float32, in which the score is asked, leaves of nothing.
        assert abs(estimate.value - truth) <= 2 * half + 1e-6, name
        assert half < 0.05 * exact.girsanov


def test_errors_vanish_as_steps_grow() -> None:
    law = LAWS["two-point"](2)
    sums = []
    for kappa in (0.4, 0.1):
        generator = torch.Generator().manual_seed(0)
        grid = kappa_grid(4.0, 1e-3, kappa)
        sums.append(float(estimate_errors(law, grid, 400, generator).girsanov))
    assert sums[1] == pytest.approx(sums[0] / 4, rel=0.3)


def test_a_pair_of_gaussians_has_a_divergence_below_its_girsanov_sum() -> None:
    law = pair(4)
    divergence, _ = measured(law, EXACT)
    assert isinstance(divergence, float)
    # Components that coincide are one Gaussian, whose divergence is known.
    law.means = 0 * law.means
    one, _ = measured(law, EXACT)
    grid = kappa_grid(3.0, 1e-3, 0.1)
    data = modes(GaussianField(0.1 * power_spectrum(4, 0.0)))
    assert one == pytest.approx(kl(data.at(1e-3), sampled("exponential", data, grid)), rel=1e-5)
    assert isinstance(one, float)
    assert 0 < one < 2 * divergence


def test_slopes_and_intervals() -> None:
    x = [1.0, 10.0, 100.0, 1000.0]
    exact = slope(x, [3 * each**1.5 for each in x])
    assert (exact.value, exact.low, exact.high) == pytest.approx((1.5, 1.5, 1.5))
    rough = slope(x, [3, 50, 2000, 300_000])
    assert rough.low < rough.value < rough.high
    assert rough.high - rough.low > 0.1
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        draws = rng.exponential(2.0, 60)
        simple = mean_interval(draws)
        again = bootstrap(lambda rows: float(rows.mean()), draws, rng, 200)
        assert simple.value == again.value
        assert again.high - again.low == pytest.approx(simple.high - simple.low, rel=0.5)
        inside += simple.low < 2 < simple.high
    assert inside > 175
    assert str(Estimate(1.0, 0.5, 2.0)) == "1 (0.5 … 2)"


def test_the_plain_loop_trains_the_bits_that_the_app_trains(tmp_path: Path) -> None:
    config: RunConfig = TINY
    federate(LocalGrid(config), config, tmp_path)
    *_, last = federation(config, load_dataset(config.data).train)
    from common.network.unet import layout_of

    saved = checkpoints(tmp_path / "checkpoints")[-1]
    state = load_checkpoint(saved, config, layout_of(config.model, 1))
    np.testing.assert_array_equal(last.state.theta, state.theta)
    np.testing.assert_array_equal(last.state.ema, state.ema)


def test_the_gradient_is_that_of_a_fixed_function() -> None:
    config = TINY.model_copy(update={"data": "gaussian-field4"})
    data = load_dataset("gaussian-field4").train.select(np.arange(64))
    start, *_, last = federation(config.model_copy(update={"fleet": "1x2"}), data)
    first = squared_gradient_norm(config, start.state.theta, data)
    assert first == squared_gradient_norm(config, start.state.theta, data)
    assert squared_gradient_norm(config, last.state.theta, data) < first
    assert CLOCKS[config.clock].horizon > 1


def test_a_learned_score_is_asked_in_single_precision() -> None:
    law = LAWS["gaussian-white"](2)

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        return torch.zeros_like(x)

    grid = kappa_grid(2.0, 1e-2, 0.5)
    found = estimate_errors(law, grid, 2000, torch.Generator().manual_seed(0), denoiser)
    total = float(grid[0] - grid[-1])  # E|s|² = d for white noise, at any time
    assert found.score.low < 4 * total < found.score.high
