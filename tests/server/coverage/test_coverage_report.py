"""The coverage report against masks written out coordinate by coordinate."""

import math

import numpy as np
import pytest

from common.submodels import CompactSubmodel, Layout, Submodel, scatter
from server.coverage.report import by_layer, course_summary, mask_changes, round_summary
from tests.layouts import chain_layout

CLIENTS, ROUNDS = 4, 6


def _fleet(layout: Layout) -> list[list[Submodel | None]]:
    """Return each round's submodels, None for clients that did not take part."""
    rng = np.random.default_rng(0)

    def draw() -> Submodel:
        k = int(rng.integers(1, 3))
        chosen = {
            name: np.stack([rng.permutation(4)[:k] for _ in range(axis.size // 4)])
            for name, axis in layout.axes.items()
        }
        return CompactSubmodel.from_positions(layout, k, chosen)

    return [[draw() if rng.random() < 0.7 else None for _ in range(CLIENTS)] for _ in range(ROUNDS)]


def _mask(submodel: Submodel) -> np.ndarray:
    mask = np.zeros(submodel.layout.size, np.float32)
    scatter(np.ones(submodel.size, np.float32), submodel, into=mask)
    return mask > 0


def _coverage(layout: Layout, per_coordinate: np.ndarray) -> np.ndarray:
    """Return a value of every coordinate as a coverage vector."""
    vector = np.empty(layout.coverage_size, np.int64)
    for parameter, view in layout.coverage_views(vector):
        whole = layout.view(per_coordinate, parameter)
        view[...] = whole[tuple(slice(0, n) for n in parameter.coverage_shape)]
    return vector


def test_every_figure_is_what_the_masks_say() -> None:
    layout = chain_layout(atom=4)
    counts, last = np.zeros(layout.size, int), np.zeros(layout.size, int)
    held: dict[int, np.ndarray] = {}
    bits = np.zeros((CLIENTS, len(next(s for s in _fleet(layout)[0] if s).bitmask())), np.uint8)
    updates = 0
    for round, submodels in enumerate(_fleet(layout), start=1):
        masks = {i: _mask(s) for i, s in enumerate(submodels) if s}
        news = {i: m & ~held[i] for i, m in masks.items() if i in held}
        once = sum(masks.values(), np.zeros(layout.size, int))
        counts += once
        last[once > 0] = round
        updates += len(masks)
        now = np.stack([np.frombuffer(s.bitmask(), np.uint8) for s in submodels if s])
        change, changes = mask_changes(layout, bits[list(masks)], now)
        bits[list(masks)] = now
        held |= masks
        if news:
            expected = np.mean([new.sum() / masks[i].sum() for i, new in news.items()])
            assert change == pytest.approx(expected)
        else:
            assert math.isnan(change)
            assert np.isnan(changes).all()

        covered = _coverage(layout, once)
        assert round_summary(layout, covered) == {
            "gamma_min": once.min(),
            "uncovered_fraction": pytest.approx((once == 0).mean()),
        }
        vectors = _coverage(layout, counts), _coverage(layout, last)
        assert course_summary(layout, round, *vectors) == {
            "never_covered_fraction": pytest.approx((counts == 0).mean()),
            "updates_min": counts.min(),
            "updates_median": np.sort(counts)[(layout.size - 1) // 2],
            "updates_max": counts.max(),
            "staleness_mean": pytest.approx((round - last).mean()),
            "staleness_max": (round - last).max(),
        }
        table = by_layer(layout, round, updates, *vectors, changes)
        for parameter in layout.parameters:
            span = parameter.span
            row = table[parameter.name]
            assert row["coordinates"] == parameter.size
            assert row["density"] == pytest.approx(counts[span].sum() / parameter.size / updates)
            assert row["updates_max"] == counts[span].max()
            assert row["staleness_max"] == round - last[span].min()
            if news:
                shares = [new[span].sum() / masks[i][span].sum() for i, new in news.items()]
                assert row["mask_change"] == pytest.approx(np.mean(shares))


def test_before_any_update_nothing_is_covered_and_nothing_divided_by_zero() -> None:
    layout = chain_layout()
    nothing = np.zeros(layout.coverage_size, np.int64)
    course = course_summary(layout, 0, nothing, nothing)
    assert course["never_covered_fraction"] == 1
    assert course["staleness_max"] == 0
    changes = np.full(len(layout.parameters), math.nan)
    table = by_layer(layout, 0, 0, nothing, nothing, changes)
    assert all(math.isnan(row["density"]) for row in table.values())
