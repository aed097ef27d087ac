"""The norm check: honest updates pass, outliers are shortened or refused."""

import math
from fractions import Fraction

import numpy as np
import pytest

from common.submodels import extract, full_submodel
from common.wire.records import WireError
from server.aggregation.norms import DEVIATIONS, FEWEST, WINDOW, NormCheck, Norms, norms_after
from tests.layouts import chain_layout

LAYOUT = chain_layout()
FULL = full_submodel(LAYOUT)
BEFORE = extract(np.random.default_rng(0).standard_normal(LAYOUT.size, dtype=np.float32), FULL)


def _update(norm: float) -> np.ndarray:
    change = np.ones(LAYOUT.size)
    return (BEFORE + change * (norm / np.linalg.norm(change))).astype(np.float32)


def _check(mode: str, norms: list[float]) -> NormCheck:
    return NormCheck(mode, [{"1": tuple(norms)}])


def test_the_limit_is_the_median_and_deviations_of_the_logarithms() -> None:
    norms = [1.0, 2.0, 4.0, 8.0, 16.0]
    sigma = 1.4826 * math.log(2)
    expected = 4 * math.exp(DEVIATIONS * sigma)
    assert _check("clip", norms).limit("1") == pytest.approx(expected)
    assert _check("clip", [3.0] * 9).limit("1") == pytest.approx(6.0)
    # One in five that lies does not shift it.
    assert _check("clip", [3.0] * 8 + [1e6] * 2).limit("1") == pytest.approx(6.0)


def test_rates_are_apart_and_nothing_is_judged_before_enough_is_known() -> None:
    check = _check("reject", [1.0] * (FEWEST - 1))
    assert check.limit("1") == math.inf
    assert _check("reject", [1.0] * FEWEST).limit("1/2") == math.inf
    _, norm = check.checked(_update(900.0), BEFORE, FULL, Fraction(1))
    assert norm == pytest.approx(900, rel=1e-3)


def test_an_outlier_is_refused_or_shortened_to_the_limit_in_its_own_direction() -> None:
    check = _check("reject", [1.0] * 9)
    with pytest.raises(WireError, match=r"an update of norm 50, where rate 1 has at most 2") as no:
        check.checked(_update(50.0), BEFORE, FULL, Fraction(1))
    assert no.value.reason == "norm"
    values, norm = check.checked(_update(1.9), BEFORE, FULL, Fraction(1))
    assert values.tobytes() == _update(1.9).tobytes()
    clipped, norm = _check("clip", [1.0] * 9).checked(_update(50.0), BEFORE, FULL, Fraction(1))
    assert norm == pytest.approx(2)
    np.testing.assert_allclose(clipped - BEFORE, (_update(50.0) - BEFORE) / 25, rtol=1e-3)


def test_values_that_are_no_numbers_are_refused_before_they_are_measured() -> None:
    with pytest.raises(ValueError, match="not finite"):
        _check("clip", [1.0] * 9).checked(_update(math.inf), BEFORE, FULL, Fraction(1))


def test_only_the_last_rounds_that_had_norms_enter_the_estimate() -> None:
    norms: list[Norms] = [{}, *({"1": (float(i),) * 4} for i in range(1, 10)), {}]
    window: tuple[Norms, ...] = ()
    for each in norms:
        window = norms_after(window, each)
    assert window == tuple(norms[10 - WINDOW : 10])
    assert NormCheck("clip", window).limit("1") < NormCheck("clip", norms[9:10]).limit("1")
