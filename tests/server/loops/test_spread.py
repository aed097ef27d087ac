from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.submodels.layout import Axis, Layout, Parameter
from server.loops.kernels import compiled, read_only, scale
from server.loops.tables import spread_out
from server.loops.tiles import each_part, each_tile, in_order
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
    scale(values, first, *spread_out(layout, parts), default, out)
    np.testing.assert_array_equal(
        out, np.where(expected != 0, (values * expected).astype(np.float32), 7)
    )


def test_a_dimension_without_channels_between_two_with_some_is_refused() -> None:
    axis = Axis("a", 4)
    layout = Layout((Parameter("odd", (4, 3, 4), ((axis,), (), (axis,)), 0),), 4)
    with pytest.raises(ValueError, match="odd: dimensions without channels"):
        spread_out(layout, [np.ones(16)])


def _tile_by_tile(size: int, work: Callable[[slice], None]) -> None:
    each_tile(size, lambda tile, _: work(tile))


def _one_after_the_other(size: int, work: Callable[[slice], None]) -> None:
    tiles = [tile for tile, _ in in_order(size, work)]
    assert [i for tile in tiles for i in range(tile.start, tile.stop)] == list(range(size))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("spread", [each_part, _tile_by_tile, _one_after_the_other])
def test_work_is_done_once_everywhere_and_errors_come_out(
    spread: Callable[[int, Callable[[slice], None]], None],
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.loops.tiles.TILE", 7)
    monkeypatch.setattr("server.loops.tiles.THREAD", 10)
    monkeypatch.setattr("os.cpu_count", lambda: threads)
    done = np.zeros(100, int)

    def add(tile: slice) -> None:
        done[tile] += 1

    spread(100, add)
    assert (done == 1).all()

    def fail(tile: slice) -> None:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        spread(100, fail)


def test_loops_are_compiled_also_where_machine_code_cannot_be_kept() -> None:
    names: dict[str, Any] = {}
    exec("def twice(x):\n    return 2 * x", names)  # a function from no file has no folder
    assert compiled(names["twice"])(21) == 42
