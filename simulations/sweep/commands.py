"""The command `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulations.archive.directory import RUNS

if TYPE_CHECKING:
    from simulations.sweep.plan import Plan, PlannedRun


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.toml", help="What to run (docs/sweeps.md).")
    ],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; default the cores by the key threads.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder, not runs/NAME.")] = None,
    only_list: Annotated[
        bool, typer.Option("--list", help="Only say which runs there are, and how far.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Run every combination that a file asks for; finished runs stay, stopped ones go on."""
    from server.record.lock import only_writer
    from simulations.sweep.plan import read_plan
    from simulations.sweep.state import unfinished
    from simulations.sweep.table import check_columns

    plan = read_plan(file)
    check_columns(plan.columns)
    folder = (out or RUNS / plan.name).absolute()
    left = unfinished(plan, folder, file)
    if only_list:
        names = {run.name for run in left}
        for run in plan.runs:
            typer.echo(f"{run.name}  {_stands(folder, run, run.name in names)}")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder, patience=5.0):
        _run(plan, left, folder, file, jobs, quiet)


def _run(
    plan: Plan, left: list[PlannedRun], folder: Path, file: Path, jobs: int | None, quiet: bool
) -> None:
    from rich.console import Console

    from common.resources import cores
    from simulations.sweep.execute import execute
    from simulations.sweep.progress import SweepProgress
    from simulations.sweep.results import write_results

    most_threads = max((run.config.threads for run in left), default=1)
    at_once = jobs or max(1, cores() // most_threads)
    try:
        with SweepProgress(left, len(plan.runs), folder, Console(stderr=True), quiet) as progress:
            failures = execute(left, folder, at_once, progress.look)
    except KeyboardInterrupt:
        typer.echo(f"stopped; go on with: scorequilt sweep {file}", err=True)
        raise typer.Exit(130) from None
    for path in write_results(plan, folder):
        typer.echo(path)
    for name, why in failures.items():
        typer.echo(f"failed: {name}: {why}", err=True)
    done = len(plan.runs) - len(failures)
    typer.echo(f"{folder}  {done} of {len(plan.runs)} runs are finished")
    if failures:
        raise typer.Exit(1)


def _stands(folder: Path, run: PlannedRun, is_left: bool) -> str:
    from server.record.history import read_rows

    if not is_left:
        return "finished"
    rows = read_rows(folder / run.name / "history.jsonl")
    return f"round {rows[-1]['round']} of {run.config.rounds}" if rows else "to be started"
