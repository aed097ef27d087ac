"""Pictures of runs: how they converge, what they covered, how one noise becomes an image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from common.errors import UserError
from simulations.archive.record import RunRecord, read_run
from simulations.pictures.clients import clients_figure
from simulations.pictures.coverage import coverage_figure
from simulations.pictures.curves import distance_figure, loss_figure, pareto_figure
from simulations.pictures.groups import grouped
from simulations.pictures.style import PANEL, legend, save_figure, styled

STRIP_ROUNDS = 12


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


def draw_comparison(
    paths: Sequence[Path], out: Path, against: str | None = None, pareto: str | None = None
) -> Path:
    """Lay several runs over each other.

    Args:
        paths: Run directories.
        out: The picture.
        against: Draw distance against this alone, a key of `AGAINST`.
        pareto: Draw what runs came to against this cost, a key of `AGAINST`.
    """
    runs = [with_rounds(path) for path in paths]
    if pareto is not None:
        return save_figure(pareto_figure(runs, pareto), out)
    figure = convergence(runs) if against is None else distance_figure(runs, against)
    return save_figure(figure, out)


def with_rounds(path: Path) -> RunRecord:
    """Open a run directory that holds something to draw.

    Raises:
        UserError: It is not a run directory, or has no complete round yet.
    """
    run = read_run(path)
    if not run.rows:
        raise UserError(f"{path}: no complete round yet, so there is nothing to draw")
    return run


@styled
def convergence(runs: Sequence[RunRecord], labels: Mapping[str, str] | None = None) -> Figure:
    """Draw distance and loss against rounds, and distance against bytes sent.

    Of runs with differential privacy, which do not tell what they sent, it is against ε instead.

    Args:
        runs: At least one.
        labels: What to call groups, by the name of a run's directory.
    """
    kinds = sorted({run.config.privacy.on for run in runs})
    width, height = PANEL
    figure = Figure(figsize=(width * (2 + len(kinds)), height), layout="constrained")
    distance, loss, *costs = figure.subplots(1, 2 + len(kinds))
    distance_figure(runs, "rounds", distance, labels)
    loss_figure(runs, "rounds", loss, labels)
    several = len(grouped(runs, labels)) > 1
    for private, axes in zip(kinds, costs, strict=True):
        some = [run for run in runs if run.config.privacy.on == private]
        distance_figure(some, "epsilon" if private else "bytes", axes, labels)
        axes.set_title(f"sample quality by {'privacy' if private else 'traffic'}")
    for axes in (distance, loss, *costs) if several else ():
        axes.get_legend().remove()
    if several:
        legend(figure, distance, below=True)
    return figure


def coverage(run: RunRecord) -> Figure:
    """Draw how often each layer was trained in a run, and how that came about."""
    config, state = run.config, run.state("last")
    title = f"{run.name}: policy {config.policy}, fleet {config.fleet}, {state.round} rounds"
    return coverage_figure(run.setting.layout, state.counts, state.round, run.rows[1:], title)


@styled
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
