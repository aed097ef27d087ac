import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.submodels import CompactSubmodel, Submodel, extract, full_submodel
from server.aggregation.fold import MAX_ABS, Aggregate
from server.aggregation.mean import CoverageFold
from tests.layouts import chain_layout, submodels

LAYOUT = chain_layout()
RNG = np.random.default_rng(0)
THETA = RNG.standard_normal(LAYOUT.size, dtype=np.float32)


def _updates(count: int, layout_size: int = LAYOUT.size) -> list[np.ndarray]:
    return [RNG.standard_normal(layout_size, dtype=np.float32) for _ in range(count)]


def _fold(
    updates: list[tuple[np.ndarray, Submodel, float]], total: float | None = None
) -> Aggregate:
    fold = CoverageFold(LAYOUT, total or sum(weight for *_, weight in updates))
    for full, submodel, weight in updates:
        fold.add(extract(full, submodel), submodel, weight, images=7)
    return fold.finish(THETA)


def _one_position(position: int) -> CompactSubmodel:
    positions = {name: np.array([position]) for name in LAYOUT.axes}
    return CompactSubmodel.from_positions(LAYOUT, 1, positions)


def test_by_hand() -> None:
    """Two clients at rate 1/4 and one full: every kind of coordinate computed on paper."""
    narrow, full = _one_position(2), full_submodel(LAYOUT)
    ones = np.ones(LAYOUT.size, np.float32)
    got = _fold([(4 * ones, narrow, 1.0), (8 * ones, narrow, 2.0), (16 * ones, full, 1.0)])
    expected = np.full(LAYOUT.size, 16, np.float32)
    # (1·4 + 2·8 + 1·16) / 4 = 9 where all three trained.
    covered = extract(np.arange(LAYOUT.size, dtype=np.float32), narrow).astype(int)
    expected[covered] = 9
    np.testing.assert_array_equal(got.theta, expected)
    for parameter, count in LAYOUT.coverage_views(got.counts):
        three = np.zeros(parameter.coverage_shape, bool)
        three[narrow.coverage_index(parameter)] = True
        np.testing.assert_array_equal(count, np.where(three, 3, 1))
    np.testing.assert_array_equal(got.images, 7 * got.counts)


@given(st.lists(st.floats(0.5, 1000), min_size=1, max_size=5))
def test_full_submodels_give_federated_averaging(weights: list[float]) -> None:
    updates = _updates(len(weights))
    got = _fold([(u, full_submodel(LAYOUT), w) for u, w in zip(updates, weights, strict=True)])
    stacked = np.stack(updates).astype(np.float64)
    expected = np.average(stacked, axis=0, weights=weights)
    # Half a unit in the last place of float32 for values up to 4, plus the rounding to 2^-42.
    np.testing.assert_allclose(got.theta, expected, rtol=6e-8, atol=2**-40)


@given(st.lists(submodels(LAYOUT), min_size=3, max_size=3), st.data())
def test_any_order_of_arrival_gives_the_same_bits(
    chosen: list[Submodel], data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 500), min_size=3, max_size=3))
    scale = data.draw(st.sampled_from([1e-6, 1.0, 200.0]))
    updates = [
        (np.float32(scale) * update, submodel, weight)
        for update, submodel, weight in zip(_updates(3), chosen, weights, strict=True)
    ]
    total = sum(weights)
    results = {_fold(list(order), total).theta.tobytes() for order in permutations(updates)}
    assert len(results) == 1


@given(st.lists(submodels(LAYOUT), min_size=1, max_size=3))
def test_uncovered_coordinates_keep_their_bits_and_covered_ones_do_not(
    chosen: list[CompactSubmodel],
) -> None:
    theta = THETA.copy()
    theta[::3] = np.float32(1e-30)  # small enough to be lost in any arithmetic
    fold = CoverageFold(LAYOUT, float(len(chosen)))
    covered = np.zeros(LAYOUT.size, np.float32)
    for submodel in chosen:
        fold.add(extract(theta + 5, submodel), submodel, 1.0, images=1)
        mask = np.zeros(LAYOUT.size, np.float32)
        for parameter in LAYOUT.parameters:
            LAYOUT.view(mask, parameter)[submodel.index(parameter)] = 1
        covered += mask
    new = fold.finish(theta).theta
    np.testing.assert_array_equal(new == theta, covered == 0)


def test_zero_weight_changes_nothing_and_is_never_nan() -> None:
    got = _fold([(100 + THETA, full_submodel(LAYOUT), 0.0)], total=1.0)
    assert got.theta.tobytes() == THETA.tobytes()


def test_a_single_client_is_copied() -> None:
    (update,) = _updates(1)
    got = _fold([(update, full_submodel(LAYOUT), 3.0)])
    np.testing.assert_allclose(got.theta, update, rtol=0, atol=2**-42)


def test_a_client_that_did_not_reply_lowers_no_coordinate() -> None:
    """Weights are shares of all clients asked, but the average is over those that replied."""
    (update,) = _updates(1)
    got = _fold([(update, full_submodel(LAYOUT), 3.0)], total=12.0)
    np.testing.assert_allclose(got.theta, update, rtol=0, atol=2**-39)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, MAX_ABS, -MAX_ABS])
@pytest.mark.parametrize("place", [0, 17, LAYOUT.size - 1])
def test_bad_values_are_refused_and_leave_no_trace(
    bad: float, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.loops.tiles.THREAD", 100)
    monkeypatch.setattr("server.loops.tiles.cores", lambda: 3)
    submodel = full_submodel(LAYOUT)
    fold = CoverageFold(LAYOUT, 2.0)
    values = THETA.copy()
    values[place] = bad
    with pytest.raises(ValueError, match="not finite or reach"):
        fold.add(values, submodel, 1.0, images=1)
    assert fold.finish(THETA).theta.tobytes() == THETA.tobytes()
    assert not fold.counts.any()


@pytest.mark.parametrize("weight", [-1.0, 2.5, np.nan])
def test_bad_weights_are_refused(weight: float) -> None:
    fold = CoverageFold(LAYOUT, 2.0)
    with pytest.raises(ValueError, match="weight"):
        fold.add(THETA, full_submodel(LAYOUT), weight, images=1)


@pytest.mark.parametrize("total", [0.0, -1.0, np.nan, np.inf])
def test_a_total_that_cannot_be_divided_by_is_refused(total: float) -> None:
    with pytest.raises(ValueError, match="sum to a positive number"):
        CoverageFold(LAYOUT, total)


def test_values_of_another_submodel_or_type_are_refused() -> None:
    fold = CoverageFold(LAYOUT, 1.0)
    with pytest.raises(ValueError, match=f"for {LAYOUT.size} coordinates"):
        fold.finish(THETA[:-1])
    with pytest.raises(ValueError, match="expected"):
        fold.add(THETA[:-1], full_submodel(LAYOUT), 1.0, images=1)


@pytest.mark.parametrize("waiting", [0.0, 1.0, 4.0])
def test_memory_does_not_grow_with_the_number_of_clients(waiting: float) -> None:
    layout = chain_layout(atoms=40)
    submodel = full_submodel(layout)
    model = 4 * layout.size
    tracemalloc.start()
    try:
        peaks = []
        for clients in (10, 40):
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            fold = CoverageFold(layout, float(clients), waiting)
            for _ in range(clients):
                fold.add(np.zeros(layout.size, np.float32), submodel, 1.0, images=1)
            fold.finish(np.zeros(layout.size, np.float32))
            peaks.append((tracemalloc.get_traced_memory()[1] - before) / model)
            del fold
    finally:
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    # Old and new weights, sums of twice the width and small things; or what waits in place of some.
    assert peaks[1] < waiting + 5
