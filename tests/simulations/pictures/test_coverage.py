"""The picture of coverage shows each layer's counts, pairs of positions, and the course."""

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from simulations.pictures.coverage import coverage_figure
from tests.layouts import chain_layout
from tests.simulations.pictures.test_runs import ROWS

LAYOUT = chain_layout(atom=2, atoms=2)
ROUNDS = 4


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    counts = np.zeros(LAYOUT.coverage_size, np.int64)
    for parameter, view in LAYOUT.coverage_views(counts):
        if parameter.name == "first":
            view[...] = np.array([8, 4, 2, 0])[:, None]
        if parameter.name == "second":  # 4 outputs, 4 inputs, atoms of 2
            view[...] = np.arange(16).reshape(4, 4, 1)
        if parameter.name == "joined":
            view[...] = 40
    return counts


@pytest.fixture(scope="module")
def figure(counts: np.ndarray) -> Figure:
    return coverage_figure(LAYOUT, counts, ROUNDS, ROWS, "what it is about")


def _axes(figure: Figure, label: str) -> Axes:
    (found,) = (a for a in figure.axes if label in (a.get_xlabel(), a.get_ylabel(), a.get_title()))
    return found


def _numbers(line: Any) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def test_every_layer_has_its_range_its_mean_and_a_cross_if_part_of_it_is_never_trained(
    figure: Figure,
) -> None:
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["first", "second", "joined", "last"], "weights alone"
    drawn = [_numbers(line) for line in axes.get_lines()]
    expected = {  # in clients per round
        "first": [([0.0, 2.0], [0, 0]), (3.5 / 4, 0), (0, 0)],
        "second": [([0.0, 15 / 4], [1, 1]), (7.5 / 4, 1), (0, 1)],
        "joined": [([10.0, 10.0], [2, 2]), (10.0, 2)],
        "last": [([0.0, 0.0], [3, 3]), (0.0, 3), (0, 3)],
    }
    flat = [each for layer in expected.values() for each in layer]
    assert [(x, y) if len(x) > 1 else (x[0], y[0]) for x, y in drawn] == flat


def test_a_map_s_cells_are_means_over_the_weights_that_join_two_positions(figure: Figure) -> None:
    shown = {
        axes.get_title(): np.asarray(image.get_array())
        for axes in figure.axes
        for image in axes.get_children()
        if isinstance(image, AxesImage)
    }
    # Only where channels run both ways.
    assert sorted(shown) == ["joined", "second"]
    # Position 0 are channels 0 and 2: (0 + 2 + 8 + 10) / 4 = 5.
    np.testing.assert_array_equal(shown["second"] * ROUNDS, [[5, 6], [9, 10]])
    np.testing.assert_array_equal(shown["joined"] * ROUNDS, [[40, 40], [40, 40]])
    texts = [text.get_text() for text in _axes(figure, "second").texts]
    assert texts == ["1.2", "1.5", "2.2", "2.5"]


def test_the_course_shows_the_history_s_columns_under_their_names(figure: Figure) -> None:
    panels = {
        "updates of a coordinate": ("updates_min", "updates_median", "updates_max"),
        "part of the model": ("never_covered_fraction", "uncovered_fraction", "mask_change"),
        "rounds since last trained": ("staleness_mean", "staleness_max"),
    }
    for label, keys in panels.items():
        axes = _axes(figure, label)
        assert [line.get_label() for line in axes.get_lines()] == list(keys)
        for line in axes.get_lines():
            known = [row for row in ROWS if row[str(line.get_label())] is not None]
            assert _numbers(line) == (
                [row["round"] for row in known],
                [row[str(line.get_label())] for row in known],
            )
