import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.submodels.layout import Axis, Layout, Parameter
from server.loops.kernels import read_only, scale
from server.loops.tables import factors_of
from server.loops.tiles import each_tile
from tests.layouts import chain_layout

LAYOUT = chain_layout()


# The first three parameters end with neighbours that share a number.
@pytest.mark.parametrize("layout", [LAYOUT, Layout(LAYOUT.parameters[:3], LAYOUT.atom)])
@given(st.integers(0, LAYOUT.size - 1), st.integers(1, LAYOUT.size), st.booleans())
def test_every_coordinate_meets_its_number(
    layout: Layout, first: int, size: int, alike: bool
) -> None:
    """On any stretch of the model, with the numbers of all atoms or of one for all."""
    rng = np.random.default_rng(first)
    first %= layout.size
    numbers = rng.integers(0, 3, layout.coverage_size).astype(np.float64)
    expected, parts = np.zeros(layout.size), []
    for parameter, view in layout.coverage_views(numbers):
        if alike and parameter.channels[0]:
            view[...] = np.tile(
                view[: layout.atom], (len(view) // layout.atom,) + (1,) * (view.ndim - 1)
            )
        parts.append((view[: layout.atom] if alike and parameter.channels[0] else view).ravel())
        layout.view(expected, parameter)[...] = view
    values = rng.normal(size=layout.size)[first : first + size]
    expected = expected[first : first + size]
    default = read_only(np.full(values.size, 7, np.float32))
    out = np.empty(values.size, np.float32)
    scale(values, first, *factors_of(LAYOUT, parts), default, out)
    np.testing.assert_array_equal(
        out, np.where(expected != 0, (values * expected).astype(np.float32), 7)
    )


def test_a_dimension_without_channels_between_two_with_some_is_refused() -> None:
    axis = Axis("a", 4)
    layout = Layout((Parameter("odd", (4, 3, 4), ((axis,), (), (axis,)), 0),), 4)
    with pytest.raises(ValueError, match="odd: dimensions without channels"):
        factors_of(layout, [np.ones(16)])


@pytest.mark.parametrize("threads", [1, 3])
def test_work_is_done_once_everywhere_and_errors_come_out(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.loops.tiles.TILE", 7)
    monkeypatch.setattr("server.loops.tiles.THREAD", 10)
    monkeypatch.setattr("server.loops.tiles.cores", lambda: threads)
    done = np.zeros(100, int)

    def add(tile: slice) -> int:
        done[tile] += 1
        return tile.stop - tile.start

    assert sorted(each_tile(100, add)) == [2, *[7] * 14]
    assert (done == 1).all()

    def fail(tile: slice) -> None:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        each_tile(100, fail)
