"""Pictures of runs: how they converge, what they covered, how one noise becomes an image."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from common.errors import UserError
from common.files import atomic_write
from simulations.archive.record import RunRecord, read_run
from simulations.pictures.clients import clients_figure
from simulations.pictures.coverage import coverage_figure

FIGURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")
"""What a figure can be written as."""

STRIP_ROUNDS = 12
mpl.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True})


def draw_run(path: Path) -> list[Path]:
    """Draw all pictures of one run into its folder ``plots`` and return their paths."""
    run, folder = with_rounds(path), path / "plots"
    drawn = [
        save_figure(convergence([run]), folder / "convergence.png"),
        save_figure(coverage(run), folder / "coverage.png"),
        save_figure(strip(run), folder / "strip.png"),
    ]
    if any(row.get("by_client") for row in run.rows):  # there was none in earlier versions
        drawn.append(save_figure(clients_figure(run), folder / "clients.png"))
    return drawn


def draw_comparison(paths: Sequence[Path], out: Path) -> Path:
    """Lay the convergence curves of several runs over each other."""
    return save_figure(convergence([with_rounds(path) for path in paths]), out)


def with_rounds(path: Path) -> RunRecord:
    """Open a run directory that holds something to draw.

    Raises:
        UserError: It is not a run directory, or has no complete round yet.
    """
    run = read_run(path)
    if not run.rows:
        raise UserError(f"{path}: no complete round yet, so there is nothing to draw")
    return run


def convergence(runs: Sequence[RunRecord]) -> Figure:
    """Draw Fréchet distance and loss against rounds, and distance against bytes sent.

    Of runs with differential privacy, which do not tell what they sent, it is against ε instead.
    """
    kinds = sorted({run.config.privacy.on for run in runs})
    figure = Figure(figsize=(13 / 3 * (2 + len(kinds)), 4), layout="constrained")
    distance, loss, *others = figure.subplots(1, 2 + len(kinds))
    costs = dict(zip(kinds, others, strict=True))
    for number, run in enumerate(runs):
        colour = f"C{number % 10}"
        label = run.name if len(runs) > 1 else "averaged weights"
        rounds, averaged = run.series("frechet_ema")
        distance.plot(rounds, averaged, "-o", ms=3, color=colour, label=label)
        raw_label = "last round's weights" if len(runs) == 1 else None
        distance.plot(*run.series("frechet"), "--", lw=1, alpha=0.6, color=colour, label=raw_label)
        held_out_label = run.name if len(runs) > 1 else "held-out images"
        loss.plot(*run.series("held_out_loss"), "-", color=colour, label=held_out_label)
        training_label = "clients' training" if len(runs) == 1 else None
        loss.plot(*run.series("loss"), ":", color=colour, label=training_label)
        at, axes = _cost(run), costs[run.config.privacy.on]
        axes.plot([at[r] for r in rounds], averaged, "-o", ms=3, color=colour, label=label)
    for axes in (distance, *others):
        _reference_lines(axes, runs[0])
        axes.set(yscale="log", ylabel="Fréchet classifier distance")
        axes.legend(fontsize=8)
    for axes in (distance, loss):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    distance.set(xlabel="round", title="sample quality")
    loss.set(xlabel="round", ylabel="denoising loss per pixel", yscale="log", title="loss")
    loss.legend(fontsize=8)
    if False in costs:
        title = "sample quality by traffic"
        costs[False].set(xlabel="MiB sent and received by all clients", title=title)
    if True in costs:
        deltas = sorted({run.config.privacy.delta for run in runs if run.config.privacy.on})
        spent = f"ε at δ = {', '.join(f'{delta:g}' for delta in deltas)}"
        costs[True].set(xlabel=spent, title="sample quality by privacy")
    return figure


def _cost(run: RunRecord) -> dict[int, float]:
    """Return by round what it took until then: ε with privacy, else MiB sent and received."""
    if run.config.privacy.on:
        spent = [math.nan if row["epsilon"] is None else row["epsilon"] for row in run.rows]
    else:
        spent = list(np.cumsum([row["bytes_up"] + row["bytes_down"] for row in run.rows]) / 2**20)
    return dict(zip((row["round"] for row in run.rows), spent, strict=True))


def _reference_lines(axes: Axes, run: RunRecord) -> None:
    """Mark what pure noise and real held-out images score."""
    if run.summary and run.summary["frechet_noise"] is not None:
        axes.axhline(run.summary["frechet_noise"], color="0.5", lw=1, ls="-.", label="pure noise")
        axes.axhline(run.summary["frechet_held_out"], color="0.5", lw=1, label="held-out images")


def coverage(run: RunRecord) -> Figure:
    """Draw how often each layer was trained in a run, and how that came about."""
    config, state = run.config, run.state()
    title = f"{run.name}: policy {config.policy}, fleet {config.fleet}, {state.round} rounds"
    return coverage_figure(run.setting.layout, state.counts, state.round, run.rows[1:], title)


def strip(run: RunRecord) -> Figure:
    """Draw the same noises after successive rounds: each column is one noise, each row a round."""
    pictures = sorted((run.path / "samples").glob("round-*.png"))
    if not pictures:
        raise UserError(f"{run.path}: no samples yet, so there is nothing to draw")
    chosen = np.unique(np.linspace(0, len(pictures) - 1, STRIP_ROUNDS).round().astype(int))
    side = run.setting.image_shape[1]
    figure = Figure(figsize=(6, 0.75 * len(chosen)), layout="constrained")
    rows = figure.subplots(len(chosen), 1, squeeze=False).ravel()
    for axes, i in zip(rows, chosen, strict=True):
        with Image.open(pictures[i]) as sheet:
            # Eight rows of images with a gap of one enlarged pixel between them; the first shows
            # the same eight noises in every round.
            pixel = sheet.height // (8 * side + 7)
            axes.imshow(np.asarray(sheet.crop((0, 0, sheet.width, side * pixel))))
        number = int(pictures[i].stem.split("-")[1])
        axes.set_ylabel(str(number), rotation=0, va="center", ha="right")
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
        axes.grid(visible=False)
    figure.suptitle("after each round, from the same noises", fontsize=9)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format of the suffix, atomically, and return where.

    Raises:
        UserError: The suffix is none of `FIGURES`.
    """
    if path.suffix.lower() not in FIGURES:
        raise UserError(f"out: {path} ends in none of {', '.join(FIGURES)}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower().removeprefix("."), dpi=110)
    atomic_write(path, buffer.getvalue())
    return path
