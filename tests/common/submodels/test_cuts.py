import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.submodels.cuts import MAX_PIECES, Cut, Cutout


def _cut(rng: np.random.Generator, units: int, unit: int, kept: int, alike: bool) -> Cut:
    """Return a cut that keeps the same positions of every unit, or of each its own."""
    rows = [np.sort(rng.permutation(unit)[:kept]) for _ in range(1 if alike else units)]
    inside = np.broadcast_to(np.stack(rows), (units, kept))
    positions = (inside + unit * np.arange(units)[:, None]).ravel()
    return Cut(size=units * unit, unit=unit, k=kept, positions=positions)


SHAPES = st.lists(
    st.tuples(
        st.integers(1, 9), st.sampled_from([(1, 1), (3, 2), (4, 1), (4, 3), (4, 4)]), st.booleans()
    ),
    min_size=1,
    max_size=3,
)


@given(SHAPES, st.integers(0, 2**32 - 1))
def test_pairs_and_runs_are_what_plain_indexing_selects(
    dimensions: list[tuple[int, tuple[int, int], bool]], seed: int
) -> None:
    """Each kept coordinate once."""
    rng = np.random.default_rng(seed)
    cutout = Cutout(tuple(_cut(rng, n, *unit, alike) for n, unit, alike in dimensions))
    shape = tuple(cut.size for cut in cutout.cuts)
    tensor = np.arange(np.prod(shape)).reshape(shape)
    block = tensor[np.ix_(*(cut.positions for cut in cutout.cuts))].ravel()
    hits = np.zeros(block.size, int)
    for (array, index, part), (_, _, hit) in zip(
        cutout.pairs(tensor.ravel(), block), cutout.pairs(tensor.ravel(), hits), strict=True
    ):
        np.testing.assert_array_equal(array[index], part)
        hit += 1
    assert (hits == 1).all()
    rows, runs = cutout.runs
    places = [row + i for row in rows for start, n, _ in runs for i in range(start, start + n)]
    np.testing.assert_array_equal(places, block)
    np.testing.assert_array_equal(runs[:, 2], np.cumsum(runs[:, 1]) - runs[:, 1])


@pytest.mark.parametrize(("kept", "pieces"), [([0, 1, 2], 1), ([0, 1, 3], 2), ([0, 2], 2)])
def test_units_alike_are_cut_by_slices(kept: list[int], pieces: int) -> None:
    positions = (np.array(kept) + 4 * np.arange(64)[:, None]).ravel()
    cut = Cut(size=256, unit=4, k=len(kept), positions=positions)
    nine = Cut(size=9, unit=1, k=1, positions=np.arange(9))
    size = len(positions) ** 2 * 9
    found = list(Cutout((cut, cut, nine)).pairs(np.zeros(256 * 256 * 9), np.zeros(size)))
    assert len(found) == pieces**2 <= MAX_PIECES
    assert all(np.shares_memory(array[index], array) for array, index, _ in found)
