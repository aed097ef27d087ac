"""How figures look, and how they are written.

Colours are those of Okabe and Ito (2008), which colour-blind people can tell apart; markers and
dashes tell curves apart where there is no colour. A panel is drawn to be read at the width of a
column of text.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from common.errors import UserError
from common.files import atomic_write

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#777777"

PANEL = (4.4, 3.3)
"""Inches of one panel."""

FIGURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")
"""What a figure can be written as."""

LINE = 60
"""Letters of a line of a legend."""

LINE_HEIGHT = 0.17
"""Inches of one."""

DOTS = 160
"""Pixels of an inch."""

STYLE: Any = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.framealpha": 0.7,
    "lines.markersize": 4,
    "grid.alpha": 0.3,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}

_P = ParamSpec("_P")
_T = TypeVar("_T")


def styled(draw: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a function draw in our style, and leave everybody else's as it is."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def legend(figure: Figure, axes: Axes, below: bool) -> None:
    """Name the curves of axes: on them, or below all of the figure where there are long names."""
    if not below:
        axes.legend()
        return
    handles, labels = axes.get_legend_handles_labels()
    columns = 3 if figure.get_figwidth() > 2 * PANEL[0] else 1
    texts = [fill(label, LINE) for label in labels]
    lines = sum(1 + text.count("\n") for text in texts) / columns
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * lines)
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, frameon=False)


def panel(axes: Axes | None) -> tuple[Figure, Axes]:
    """Return axes to draw on and the figure that they are on: new ones if there are none."""
    if axes is None:
        figure = Figure(figsize=PANEL, layout="constrained")
        return figure, figure.subplots()
    figure = axes.figure if isinstance(axes.figure, Figure) else axes.figure.figure
    return figure, axes


@styled
def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the suffix, atomically, and return where.

    Raises:
        UserError: The suffix is none of `FIGURES`.
    """
    check_format(path)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Names of any script: what the font lacks is drawn as boxes, and tables have it right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format=path.suffix.lower().removeprefix("."), dpi=DOTS)
    atomic_write(path, buffer.getvalue())
    return path


def check_format(path: Path) -> None:
    """Refuse a path that no figure can be written to.

    Raises:
        UserError: The suffix is none of `FIGURES`.
    """
    if path.suffix.lower() not in FIGURES:
        raise UserError(f"out: {path} ends in none of {', '.join(FIGURES)}")
