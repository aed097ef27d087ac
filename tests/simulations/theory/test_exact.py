"""Laws, errors and divergences where closed forms or a second way to compute them are known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.diffusion.known import GaussianField, TwoPoint, power_spectrum
from common.diffusion.process import kappa_grid
from common.diffusion.samplers import SAMPLERS, sample
from simulations.theory.exact import (
    EXACT,
    Gaussian,
    Mistake,
    errors,
    isotropic,
    kl,
    modes,
    sampled,
    w2,
)
from simulations.theory.experiments import dimension, steps
from simulations.theory.line import kl_on_line, w2_on_line

GRID = kappa_grid(3.0, 1e-3, 0.1)


def gaussian(mean: list[float], variance: list[float]) -> Gaussian:
    m, v = (torch.tensor(each, dtype=torch.float64) for each in (mean, variance))
    return Gaussian(m, v, torch.ones_like(m))


def test_divergence_and_distance_agree_with_torch_and_with_a_calculation_by_hand() -> None:
    p, q = gaussian([1.0, -2.0], [0.5, 2.0]), gaussian([0.5, 0.0], [1.5, 0.3])
    normals = [torch.distributions.Normal(each.mean, each.variance.sqrt()) for each in (p, q)]
    expected = torch.distributions.kl_divergence(*normals).sum()
    assert kl(p, q) == pytest.approx(float(expected), rel=1e-12)
    assert kl(p, p) == w2(p, p) == 0
    assert w2(gaussian([3.0], [4.0]), gaussian([0.0], [1.0])) == pytest.approx(math.hypot(3, 1))


def test_modes_are_a_field_with_equal_frequencies_counted_once() -> None:
    law = modes(GaussianField(power_spectrum(8, 1.0), mean=2.0))
    assert law.dimension == 64
    assert float(law.count @ law.variance) == pytest.approx(64)
    assert float(law.count @ law.mean**2) == pytest.approx(4 * 64)
    assert len(modes(GaussianField(power_spectrum(8, 0.0))).count) == 1


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_law_of_a_sampler_is_that_of_its_samples(name: str) -> None:
    field = GaussianField(power_spectrum(2, 1.0), mean=0.5)
    grid, generator = kappa_grid(2.0, 1e-2, 0.5), torch.Generator().manual_seed(0)
    noise = torch.randn(40_000, 1, 2, 2, generator=generator, dtype=torch.float64)
    x = sample(name, field.denoiser, grid, noise, generator, denoise=False)
    law = sampled(name, modes(field), grid)
    second = (x - x.mean(0)).square().flatten(1).sum(1).mean()
    assert float(law.count @ law.variance) == pytest.approx(float(second), rel=0.02)
    assert float(law.mean.abs().max()) / 2 == pytest.approx(float(x.mean()), abs=0.02)


def test_half_the_step_means_a_quarter_of_the_divergence_and_none_in_the_limit() -> None:
    data = isotropic(4, mean=0.3, null=0.5)
    values = [
        kl(data.at(1e-3), sampled("exponential", data, kappa_grid(8.0, 1e-3, kappa)))
        for kappa in (0.04, 0.02)
    ]
    assert math.log2(values[0] / values[1]) == pytest.approx(2, abs=0.15)
    assert values[1] < 4e-4


@settings(max_examples=12)
@given(st.lists(st.floats(0, 9), min_size=1, max_size=3), st.floats(-1, 1), st.floats(-0.3, 0.3))
def test_the_girsanov_sum_is_never_below_the_divergence(
    variances: list[float], mean: float, mistake: float
) -> None:
    data = gaussian([mean] * len(variances), variances)
    grid = kappa_grid(2.0, 1e-2, 0.3)
    for each in (EXACT, Mistake(relative=mistake), Mistake(shift=mistake)):
        found = errors(data, grid, each)
        assert kl(data.at(1e-2), sampled("exponential", data, grid, each)) <= found.girsanov
        assert found.path >= 0
        assert found.discretisation >= 0


def test_the_score_error_is_what_was_put_in() -> None:
    white, steps_total = isotropic(10), float(GRID[0] - GRID[-1])
    assert errors(white, GRID, Mistake(shift=0.2)).score == pytest.approx(10 * 0.04 * steps_total)
    assert errors(white, GRID, Mistake(relative=0.1)).score == pytest.approx(0.1 * steps_total)
    exact = errors(white, GRID)
    assert exact.score == 0
    assert exact.path == exact.discretisation
    assert exact.initial == pytest.approx(0, abs=1e-12)
    shifted = errors(isotropic(10, mean=2.0), GRID)
    assert shifted.initial == pytest.approx(10 * 4 * math.exp(-6) / 2)


def test_quadrature_on_a_line_agrees_with_the_exact_gaussian() -> None:
    field = GaussianField(torch.tensor([[0.3]], dtype=torch.float64), mean=0.4)
    data = gaussian([0.4], [0.3])
    law = sampled("exponential", data, GRID)
    assert kl_on_line(field, GRID) == pytest.approx(kl(data.at(1e-3), law), rel=1e-6)
    assert w2_on_line(field, GRID) == pytest.approx(w2(data.at(1e-3), law), rel=0.01)


def test_the_table_of_one_value_of_plus_or_minus_one() -> None:
    grids = [kappa_grid(4.0, 1e-3, kappa) for kappa in steps.KAPPAS]
    assert [len(grid) - 1 for grid in grids] == [24, 53, 103, 202, 499]
    values = [kl_on_line(TwoPoint(1), grid) for grid in grids[:3]]
    assert values == pytest.approx([0.03295, 0.00788, 0.00219], abs=5e-6)


def test_exact_scores_err_linearly_in_the_dimension() -> None:
    groups = dimension.exact_lines(dimension.SIDES).values()
    lines = {line.label: line for group in groups for line in group}
    assert lines["N(0, I), KL"].dimensions == [16, 64, 256, 1024, 4096]
    for label in (
        "N(0, I), KL",
        "half the eigenvalues 0, KL",
        "spectrum 1/(1+k²), KL",
        "values ±1, KL",
        "N(0, I), ddim (deterministic), KL",
        "N(0, I), Girsanov sum at T = 4 for all d",
    ):
        assert lines[label].slope.value == pytest.approx(1, abs=0.05), label
