"""How replies are held, tiled and shared among threads changes no bit of the average."""

from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.submodels import CompactSubmodel, extract
from server.aggregation.mean import CoverageFold
from server.loops import tiles
from tests.layouts import chain_layout, submodels

LAYOUT = chain_layout()
RNG = np.random.default_rng(0)
THETA = RNG.standard_normal(LAYOUT.size, dtype=np.float32)


def _plainly(
    replies: list[tuple[NDArray[np.float32], CompactSubmodel, float]], total: float
) -> NDArray[np.float32]:
    """Return the average as its definition reads, on masked copies of the whole model."""
    sums, weights = np.zeros((2, LAYOUT.size))
    for full, submodel, weight in replies:
        mask = np.zeros(LAYOUT.size)
        for parameter in LAYOUT.parameters:
            LAYOUT.view(mask, parameter)[submodel.index(parameter)] = 1
        share = np.round(weight / total * 2**42) / 2**42
        sums += mask * np.round(full * np.float64(share) * 2**42) / 2**42
        weights += mask * share
    factors = np.divide(1, weights, out=np.zeros(LAYOUT.size), where=weights > 0)
    return np.where(weights > 0, (sums * factors).astype(np.float32), THETA)


@given(
    st.lists(submodels(LAYOUT), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), min_size=1, max_size=9),
    st.sampled_from([0.0, 0.5, 99.0]),
    st.sampled_from([1, 24, 1 << 17]),
    st.integers(1, 3),
)
def test_every_way_to_fold_gives_the_plain_average(
    cohorts: list[CompactSubmodel], chosen: list[int], waiting: float, tile: int, threads: int
) -> None:
    replies = [
        (RNG.standard_normal(LAYOUT.size, dtype=np.float32), cohorts[which % len(cohorts)], 1.0 + i)
        for i, which in enumerate(chosen)
    ]
    total = 2 + sum(weight for *_, weight in replies)
    fold = CoverageFold(LAYOUT, total, waiting)
    with (
        patch.object(tiles, "TILE", tile),
        patch.object(tiles, "THREAD", 1),
        patch("server.loops.tiles.cores", return_value=threads),
    ):
        for full, submodel, weight in replies:
            fold.add(extract(full, submodel), submodel, weight, images=1)
        got = fold.finish(THETA)
    # To the bit: compiled loops round where the source says so, and nowhere else.
    assert got.theta.tobytes() == _plainly(replies, total).tobytes()
    same = CoverageFold(LAYOUT, total, 99.0)
    for full, submodel, weight in replies:
        same.add(extract(full, submodel), submodel, weight, images=1)
    assert same.finish(THETA).theta.tobytes() == got.theta.tobytes()
