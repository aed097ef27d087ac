"""How well each client, and each width class, is served over the rounds."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from simulations.archive.record import RunRecord
from simulations.pictures.style import COLOURS, styled

Losses = Mapping[int, Mapping[str, float]]
"""By round and client, a loss."""


@styled
def clients_figure(run: RunRecord) -> Figure:
    """Draw training losses by client, and where clients judge the losses on held-out images.

    On the left every client is a line in the colour of its width; on the right are the least,
    median and worst of each width.
    """
    rates = {
        partition: row["rate"]
        for each in run.rows
        for partition, row in each.get("by_client", {}).items()
        if "rate" in row
    }
    kinds = {"training loss": _training(run), "loss on images held out": _held_out(run, rates)}
    shown = {name: losses for name, losses in kinds.items() if any(losses.values())}
    figure = Figure(figsize=(9, 3.4 * max(1, len(shown))), layout="constrained")
    figure.suptitle(f"{run.name}: who is served")
    panels = figure.subplots(max(1, len(shown)), 2, squeeze=False)
    for (name, losses), (each, spread) in zip(shown.items(), panels, strict=True):
        _draw_each(each, losses, rates)
        _draw_spread(spread, losses, rates)
        for axes in (each, spread):
            axes.set(xlabel="round", ylabel=name, yscale="log")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        each.set_title("every client")
        spread.set_title("least, median and worst of each width")
        spread.legend(fontsize=8)
    return figure


def _training(run: RunRecord) -> dict[int, dict[str, float]]:
    return {
        row["round"]: {
            partition: did["loss"]
            for partition, did in row.get("by_client", {}).items()
            if did.get("loss") is not None
        }
        for row in run.rows
    }


def _held_out(run: RunRecord, rates: Mapping[str, str]) -> dict[int, dict[str, float]]:
    """Return what each client says of its own width."""
    return {
        row["round"]: {
            partition: losses[rates[partition]]
            for partition, losses in row.get("held_out_by_client", {}).items()
            if losses.get(rates.get(partition, "")) is not None
        }
        for row in run.rows
    }


def _draw_each(axes: Axes, losses: Losses, rates: Mapping[str, str]) -> None:
    colours = _colours(rates)
    for partition in sorted(rates, key=int):
        points = [(r, by[partition]) for r, by in losses.items() if partition in by]
        if points:
            rounds, values = zip(*points, strict=True)
            axes.plot(rounds, values, "-", lw=1, alpha=0.7, color=colours[rates[partition]])


def _draw_spread(axes: Axes, losses: Losses, rates: Mapping[str, str]) -> None:
    for rate, colour in _colours(rates).items():
        among = [partition for partition in rates if rates[partition] == rate]
        rows = [(r, [by[p] for p in among if p in by]) for r, by in losses.items()]
        rows = [(r, values) for r, values in rows if values]
        if not rows:
            continue
        rounds = [r for r, _ in rows]
        low, middle, high = (
            [float(pick(values)) for _, values in rows] for pick in (np.min, np.median, np.max)
        )
        axes.fill_between(rounds, low, high, color=colour, alpha=0.2, lw=0)
        label = f"rate {rate}: {len(among)} client{'s' if len(among) > 1 else ''}"
        axes.plot(rounds, middle, "-o", ms=3, color=colour, label=label)


def _colours(rates: Mapping[str, str]) -> dict[str, str]:
    widths: Sequence[str] = sorted({*rates.values()}, key=Fraction, reverse=True)
    return {rate: COLOURS[place % len(COLOURS)] for place, rate in enumerate(widths)}
