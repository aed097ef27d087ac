"""Pictures of coverage: layer by layer, pair by pair of positions, and round by round."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Int64
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from common.submodels import Layout
from simulations.pictures.style import styled

MAPS = 9


@styled
def coverage_figure(
    layout: Layout,
    counts: Int64[np.ndarray, " coverage"],
    rounds: int,
    rows: Sequence[Mapping[str, Any]],
    title: str,
) -> Figure:
    """Draw how often each layer was trained: its range, its pairs of positions, and the course.

    A map has a row for each position of an output channel within its atom and a column for each
    position of an input channel; a cell is the mean over all weights that join the two. A cell of
    zero is a part of the layer that no client ever trained.

    Args:
        layout: The full model's layout.
        counts: Client updates of each coordinate, as a coverage vector.
        rounds: The rounds that they are from.
        rows: The history's rows of these rounds.
        title: What it is about.
    """
    parts = [(p, v / max(1, rounds)) for p, v in layout.coverage_views(counts)]
    weights = [(p, v) for p, v in parts if len(p.shape) > 1]
    height = 0.17 * len(weights) + 2
    whole = Figure(figsize=(14, height + 2.4), layout="constrained")
    figure, below = cast(list[SubFigure], whole.subfigures(2, 1, height_ratios=(height, 2.4)))
    left, right = cast(list[SubFigure], figure.subfigures(1, 2, width_ratios=(1, 1.15)))
    axes = left.subplots()
    for y, (_, each) in enumerate(weights):
        axes.plot([each.min(), each.max()], [y, y], "-", color="C0", lw=4, alpha=0.4)
        axes.plot(each.mean(), y, "o", ms=4, color="C0")
        if (each == 0).any():
            axes.plot(0, y, "x", ms=7, color="C3")
    names = [p.name.removesuffix(".weight") for p, _ in weights]
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(left=-0.2)
    axes.set_xlabel("clients per round (line: range over weights, dot: mean, cross: some never)")
    whole.suptitle(title)
    square = [(p, v) for p, v in weights if all(p.channels[:2])]
    largest = sorted(square, key=lambda part: -part[0].size)[:MAPS]
    top = max(float(v.max()) for _, v in weights) or 1.0
    maps = right.subplots(3, MAPS // 3, squeeze=False).ravel()
    for place, (parameter, each) in zip(maps, largest, strict=False):
        pairs = _position_pairs(each, layout.atom)
        image = place.imshow(pairs, vmin=0, vmax=top, cmap="viridis")
        for (row, column), value in np.ndenumerate(pairs):
            colour = "black" if value > top / 2 else "white"
            place.text(column, row, f"{value:.2g}", ha="center", va="center", color=colour)
        place.set_title(parameter.name.removesuffix(".weight"), fontsize=6)
        place.grid(visible=False)
        place.set(xticks=range(layout.atom), yticks=range(layout.atom))
        place.tick_params(labelsize=6)
    right.supxlabel("position of the input channel in its atom", fontsize=8)
    right.supylabel("position of the output channel in its atom", fontsize=8)
    right.colorbar(image, ax=list(maps), label="clients per round", shrink=0.8)
    _course(below, rows)
    return whole


def _course(figure: SubFigure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the coverage of a run round by round."""
    kept = [row for row in rows if "updates_min" in row]
    curves = (
        ("updates of a coordinate", ("updates_min", "updates_median", "updates_max")),
        ("part of the model", ("never_covered_fraction", "uncovered_fraction", "mask_change")),
        ("rounds since last trained", ("staleness_mean", "staleness_max")),
    )
    for axes, (label, keys) in zip(figure.subplots(1, len(curves)), curves, strict=True):
        flat = []
        for key in keys:
            found = [(row["round"], row[key]) for row in kept if row[key] is not None]
            if any(value for _, value in found):
                axes.plot(*zip(*found, strict=True), "-o", ms=2, label=key)
            elif found:  # a line along the axis shows nothing, and looks as if something were amiss
                flat.append(f"{key}: 0 in every round")
        axes.set(xlabel="round", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(flat) < len(keys):
            axes.plot([], [], " ", label="\n".join(flat)) if flat else None
            axes.legend(fontsize=7)
        else:
            axes.text(0.5, 0.5, "\n".join(flat), ha="center", va="center")
            axes.set(xticks=[], yticks=[])


def _position_pairs(counts: np.ndarray, atom: int) -> np.ndarray:
    """Average a layer's counts (out, in, …) over its atoms to (atom, atom)."""
    rows, columns = counts.shape[:2]
    return counts.reshape(rows // atom, atom, columns // atom, atom, -1).mean((0, 2, 4))
