"""Trimmed means and medians: by hand, against the plain mean, in any order, under attack."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import RunConfig
from common.submodels import MaskedSubmodel, Submodel, by_coordinate, extract, full_submodel
from server.aggregation import robust
from server.aggregation.fold import Aggregate
from server.aggregation.mean import CoverageFold
from server.aggregation.robust import MEDIAN, RobustFold, fold_for
from tests.layouts import chain_layout, submodels

LAYOUT = chain_layout()
FULL = full_submodel(LAYOUT)
THETA = np.random.default_rng(0).standard_normal(LAYOUT.size, dtype=np.float32)
Update = tuple[np.ndarray, Submodel, float]


def _fold(updates: list[Update], trim: float | None) -> Aggregate:
    total = sum(weight for *_, weight in updates)
    fold = CoverageFold(LAYOUT, total) if trim is None else RobustFold(LAYOUT, total, trim)
    for full, submodel, weight in updates:
        fold.add(extract(full, submodel), submodel, weight, images=7)
    return fold.finish(THETA)


def _averaging(kind: str, trim: float) -> RunConfig:
    return RunConfig.from_flat({"aggregation": kind, "trim": trim, "reply-memory": 0.5})


def _constant(*values: float, weight: float = 1.0) -> list[Update]:
    return [(np.full(LAYOUT.size, value, np.float32), FULL, weight) for value in values]


def _drawn(seed: int, masks: list[Submodel]) -> list[Update]:
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal(LAYOUT.size, dtype=np.float32), each, rng.uniform(0.5, 9))
        for each in masks
    ]


def test_by_hand() -> None:
    assert set(_fold(_constant(1, 2, 3, 4, 500), 0.2).theta) == {3}
    assert set(_fold(_constant(1, 2, 3, 4, 500), 0.4).theta) == {3}
    assert set(_fold(_constant(1, 2, 6), 0.2).theta) == {3}  # a fifth of three is none
    assert set(_fold(_constant(1, 2, 6, 500), MEDIAN).theta) == {4}
    assert set(_fold(_constant(-9, 2, 500), MEDIAN).theta) == {2}
    heavy = [*_constant(1), *_constant(2, weight=3.0), *_constant(6), *_constant(9, -9)]
    # Left are 1, 2 (three times) and 6.
    assert set(_fold(heavy, 0.2).theta) == {np.float32(13 / 5)}
    # However heavy a client is, it is one voice in a median.
    assert set(_fold([*_constant(1, 2), *_constant(500, weight=1e6)], MEDIAN).theta) == {2}


@given(st.lists(submodels(LAYOUT), min_size=1, max_size=5), st.integers(0, 99))
def test_without_trimming_it_is_the_coverage_average_bit_for_bit(
    masks: list[Submodel], seed: int
) -> None:
    updates = _drawn(seed, masks)
    plain, trimmed = _fold(updates, None), _fold(updates, 0.0)
    assert trimmed.theta.tobytes() == plain.theta.tobytes()
    np.testing.assert_array_equal(trimmed.counts, plain.counts)
    np.testing.assert_array_equal(trimmed.images, plain.images)


@given(st.lists(submodels(LAYOUT), min_size=1, max_size=7), st.sampled_from([0.1, 0.34, MEDIAN]))
def test_each_coordinate_is_trimmed_by_how_many_trained_it(
    masks: list[Submodel], trim: float
) -> None:
    updates = [(full, mask, 1.0) for full, mask, _ in _drawn(3, masks)]
    got = _fold(updates, trim).theta
    columns: list[list[float]] = [[] for _ in range(LAYOUT.size)]
    for full, mask, _ in updates:
        for i in extract(np.arange(LAYOUT.size, dtype=np.float32), mask).astype(int):
            columns[i].append(float(full[i]))
    for i, column in enumerate(columns):
        if not column:
            assert got[i].tobytes() == THETA[i].tobytes()
            continue
        drop = min(int(trim * len(column) + 1e-9), (len(column) - 1) // 2)
        kept = sorted(column)[drop : len(column) - drop]
        assert got[i] == pytest.approx(np.mean(kept), abs=1e-6)


def test_any_order_of_replies_gives_the_same_bits_also_with_equal_values() -> None:
    updates = _drawn(5, [FULL] * 4)
    updates[1] = (updates[0][0], FULL, 2.0)  # equal values, unequal weights, at the edge
    for trim in (0.25, MEDIAN):
        results = {_fold(list(order), trim).theta.tobytes() for order in permutations(updates)}
        assert len(results) == 1


@given(st.lists(submodels(LAYOUT), min_size=1, max_size=4))
def test_tiles_change_no_bit(masks: list[Submodel]) -> None:
    updates = _drawn(1, masks)
    whole = _fold(updates, 0.2).theta
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robust, "TILE", 8)
        assert _fold(updates, 0.2).theta.tobytes() == whole.tobytes()


@pytest.mark.parametrize("trim", [0.2, MEDIAN])
def test_a_fifth_of_hostile_clients_cannot_leave_the_range_of_the_honest(trim: float) -> None:
    honest = _drawn(2, [FULL] * 8)
    hostile = [(np.full(LAYOUT.size, sign * 1000, np.float32), FULL, 1.0) for sign in (1, -1)]
    got = _fold([*honest, *hostile], trim).theta
    values = np.stack([full for full, *_ in honest])
    assert (got >= values.min(0)).all()
    assert (got <= values.max(0)).all()


def test_clients_of_weight_zero_do_not_vote_and_nothing_trained_is_nothing_changed() -> None:
    updates = [*_constant(1, 2, 3), *_constant(900, 900, 900, weight=0.0)]
    assert set(_fold(updates, MEDIAN).theta) == {2}
    assert RobustFold(LAYOUT, 1.0, 0.2).finish(THETA).theta.tobytes() == THETA.tobytes()


def test_what_is_not_an_update_is_refused() -> None:
    for fold in (
        fold_for(LAYOUT, 2.0, _averaging(kind, 0.1)) for kind in ("mean", "trimmed", "median")
    ):
        with pytest.raises(ValueError, match="not finite"):
            fold.add(np.full(LAYOUT.size, np.nan, np.float32), FULL, 1.0, 1)
        with pytest.raises(ValueError, match="weight 3"):
            fold.add(THETA, FULL, 3.0, 1)
    with pytest.raises(ValueError, match="positive number"):
        fold_for(LAYOUT, 0.0, _averaging("trimmed", 0.1))


def test_single_coordinates_are_trimmed_alike() -> None:
    """A masked submodel is one more way to cover a coordinate or not."""
    layout = by_coordinate(LAYOUT)
    rng = np.random.default_rng(4)
    updates = [
        (full, MaskedSubmodel(layout, rng.random(LAYOUT.size) < 0.6), weight)
        for full, _, weight in _drawn(4, [FULL] * 5)
    ]
    folds = [fold_for(layout, 50.0, _averaging(kind, 0.0)) for kind in ("mean", "trimmed")]
    for fold in folds:
        for full, submodel, weight in updates:
            fold.add(full[submodel.mask], submodel, weight, images=7)
    plain, trimmed = (fold.finish(THETA) for fold in folds)
    assert trimmed.theta.tobytes() == plain.theta.tobytes()
    np.testing.assert_array_equal(trimmed.images, plain.images)
