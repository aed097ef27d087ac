"""One panel each: distance and loss against what training took, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from statistics import fmean
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from simulations.archive.courses import AGAINST
from simulations.archive.record import RunRecord
from simulations.pictures.groups import Curve, distances, grouped, incomparable
from simulations.pictures.style import COLOURS, GREY, LINE, MARKERS, legend, panel, styled

DISTANCE = "Fréchet classifier distance"
Labels = Mapping[str, str] | None


@styled
def distance_figure(
    runs: Sequence[RunRecord],
    against: str = "rounds",
    axes: Axes | None = None,
    labels: Labels = None,
) -> Figure:
    """Draw the distance of averaged weights; the width that samples best is the thick curve.

    Runs that are the same but for the seed are one curve, their mean, in a band from the least to
    the largest. What an earlier version's history does not have of the best width is a star.

    Args:
        runs: At least one.
        against: A key of `AGAINST`.
        axes: Where to draw; a new figure if None.
        labels: What to call groups, by the name of a run's directory.
    """
    ours = axes is None
    figure, axes = panel(axes)
    groups = grouped(runs, labels)
    alone = len(groups) == 1
    others = False
    for number, group in enumerate(groups):
        best, *widths = group.widths() or [Fraction(1)]
        curves = {rate: group.curve(against, _of_width(rate)) for rate in (best, *widths)}
        main = best if len(curves[best].x) > 1 else max(curves, key=lambda r: len(curves[r].x))
        for place, rate in enumerate([main, *(each for each in curves if each != main)]):
            name = f"rate {rate}" + (", the best" if rate == best and len(curves) > 1 else "")
            named = None if rate != main else f"{group.title}: rate {rate}"
            label = name if alone else named
            colour = place if alone else number
            if rate == main:
                _draw(axes, curves[rate], colour, label, main=True)
            elif rate == best:
                _star(axes, curves[rate], colour, name if alone else None)
            else:
                _draw(axes, curves[rate], colour, label, main=False)
                others = True
        if alone:
            raw = group.curve(against, _column("frechet"))
            axes.plot(raw.x, raw.mean, ":", lw=1, color=GREY, label="last weights, rate 1")
    if others and not alone:
        axes.plot([], [], "-", lw=0.8, color=GREY, label="thin: other widths")
    _reference_lines(axes, runs)
    axes.set(yscale="log", ylabel=DISTANCE)
    _finish(axes, runs, against, "sample quality")
    legend(figure, axes, below=ours and not alone)
    return figure


@styled
def loss_figure(
    runs: Sequence[RunRecord],
    against: str = "rounds",
    axes: Axes | None = None,
    labels: Labels = None,
) -> Figure:
    """Draw the loss on held-out images, and thin that of the clients' training.

    Args:
        runs: At least one.
        against: A key of `AGAINST`.
        axes: Where to draw; a new figure if None.
        labels: What to call groups, by the name of a run's directory.
    """
    ours = axes is None
    figure, axes = panel(axes)
    groups = grouped(runs, labels)
    alone = len(groups) == 1
    for number, group in enumerate(groups):
        held_out, training = (
            group.curve(against, _column(key)) for key in ("held_out_loss", "loss")
        )
        _draw(axes, held_out, number, "held-out images" if alone else group.title, main=True)
        label = "clients' training" if alone else None
        axes.plot(training.x, training.mean, ":", lw=1.2, color=_colour(number), label=label)
    if not alone:
        axes.plot([], [], ":", lw=1.2, color=GREY, label="dotted: clients' training")
    axes.set(yscale="log", ylabel="denoising loss per pixel")
    _finish(axes, (), against, "loss")
    legend(figure, axes, below=ours and not alone)
    return figure


@styled
def pareto_figure(
    runs: Sequence[RunRecord],
    cost: str = "bytes",
    axes: Axes | None = None,
    labels: Labels = None,
) -> Figure:
    """Draw what runs came to at their end against what they took, and who is beaten by nobody.

    A point is the mean over seeds of the distance at the width that samples best, its bars reach
    from the least to the largest. The line joins points than which none is both better and cheaper.

    Args:
        runs: At least one.
        cost: A key of `AGAINST`.
        axes: Where to draw; a new figure if None.
        labels: What to call groups, by the name of a run's directory.
    """
    ours = axes is None
    figure, axes = panel(axes)
    points = []
    for number, group in enumerate(grouped(runs, labels)):
        for rate in group.widths()[:1]:
            curve = group.curve(cost, _of_width(rate))
            x, y, low, high = curve.x[-1], curve.mean[-1], curve.low[-1], curve.high[-1]
            bars = [[y - low], [high - y]]
            style: dict[str, Any] = {
                "fmt": MARKERS[number % len(MARKERS)],
                "color": _colour(number),
            }
            label = f"{group.title}: rate {rate}"
            axes.errorbar(x, y, yerr=bars, ms=6, capsize=2, lw=1, label=label, **style)
            if math.isfinite(x):
                points.append((x, y))
    best = front(points)
    axes.plot(*zip(*best, strict=True), "-", lw=1, color=GREY, zorder=1) if best else None
    axes.set(xscale="log", yscale="log", ylabel=DISTANCE)
    _finish(axes, runs, cost, "quality by cost")
    legend(figure, axes, below=ours)
    return figure


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points than which none is at most as far along one axis and less far on the other.

    Args:
        points: Pairs of which less is better, both ways.
    """
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not kept or y < kept[-1][1]:
            kept.append((x, y))
    return kept


def _of_width(rate: Fraction) -> Callable[[RunRecord], Mapping[int, float]]:
    return lambda run: distances(run).get(rate, {})


def _column(key: str) -> Callable[[RunRecord], Mapping[int, float]]:
    return lambda run: dict(zip(*run.series(key), strict=True))


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _draw(axes: Axes, curve: Curve, number: int, label: str | None, main: bool) -> None:
    style: dict[str, Any] = {"lw": 0.8, "alpha": 0.6}
    if main or len(curve.x) == 1:
        marker, every = MARKERS[number % len(MARKERS)], max(1, len(curve.x) // 8)
        style = {"lw": 1.8, "marker": marker, "ms": 4, "markevery": every}
    # Past the last colour, dashes tell a curve from the one that has its colour.
    dashes = ("-", "--", "-.")[number // len(COLOURS) % 3]
    axes.plot(curve.x, curve.mean, dashes, color=_colour(number), label=label, **style)
    if main and list(curve.low) != list(curve.high):
        axes.fill_between(curve.x, curve.low, curve.high, color=_colour(number), alpha=0.18, lw=0)


def _star(axes: Axes, curve: Curve, number: int, label: str | None) -> None:
    axes.plot(curve.x, curve.mean, "*", ms=11, color=_colour(number), mec="white", label=label)


def _reference_lines(axes: Axes, runs: Sequence[RunRecord]) -> None:
    """Mark what pure noise and real held-out images score, where this is the same for all runs."""
    known = [run.summary for run in runs if run.summary.get("frechet_noise") is not None]
    if not known or incomparable(runs):
        return
    for key, name, dashes in (
        ("frechet_noise", "pure noise", "-."),
        ("frechet_held_out", "held-out images", "--"),
    ):
        level = fmean(summary[key] for summary in known)
        axes.axhline(level, color=GREY, lw=1, ls=dashes, label=name)


def _finish(axes: Axes, judged: Sequence[RunRecord], against: str, title: str) -> None:
    """Label axes, and say where distances of `judged` cannot be compared."""
    label = AGAINST[against]
    if against == "epsilon":
        deltas = sorted({run.config.privacy.delta for run in judged if run.config.privacy.on})
        label = f"ε at δ = {', '.join(f'{delta:g}' for delta in deltas)}"
    axes.set(xlabel=label, title=title)
    if against == "rounds":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if why := incomparable(judged) if judged else "":
        axes.set_title(fill(f"{title}: {why}", LINE), color=COLOURS[1], fontsize=8)
