"""What a sweep leaves in its folder besides the runs: tables in CSV and Markdown, and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.files import atomic_write
from simulations.archive.record import RunRecord, read_run
from simulations.pictures.curves import pareto_figure
from simulations.pictures.runs import convergence
from simulations.pictures.style import save_figure
from simulations.sweep.plan import SEED, Plan
from simulations.sweep.state import finished
from simulations.sweep.table import as_csv, as_markdown, lines_of


def write_results(plan: Plan, folder: Path) -> list[Path]:
    """Write what the finished runs of a sweep come to, and return the files."""
    paths = [folder / run.name for run in plan.runs]
    done = [path for path in paths if (path / "config.toml").is_file() and finished(path)]
    runs = {path.name: read_run(path) for path in done}
    lines = lines_of(plan, runs)
    tables = {"summary.csv": as_csv(lines), "summary.md": as_markdown(lines)}
    for name, text in tables.items():
        atomic_write(folder / name, text.encode())
    written = [folder / name for name in tables]
    return [*written, *_draw(plan, runs, folder / "plots")] if runs else written


def _draw(plan: Plan, runs: Mapping[str, RunRecord], folder: Path) -> list[Path]:
    """Draw curves and Pareto fronts of the finished runs, under the names of the sweep's file."""
    labels = {
        run.name: ", ".join(label for axis, label in run.labels.items() if axis != SEED)
        for run in plan.runs
    }
    shown = list(runs.values())
    figures = {
        "convergence.png": convergence(shown, labels),
        "pareto-bytes.png": pareto_figure(shown, "bytes", labels=labels),
        "pareto-flops.png": pareto_figure(shown, "flops", labels=labels),
    }
    return [save_figure(figure, folder / name) for name, figure in figures.items()]
