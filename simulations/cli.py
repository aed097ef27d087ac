"""The command line: thin commands over the rest, imported only when they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from common.errors import UserError
from simulations.about import version
from simulations.archive import commands as archive
from simulations.deployment import commands as deployment
from simulations.launch import deliver, new_run, resumed_run, simulate
from simulations.planning import commands as planning
from simulations.restoration import commands as restoration
from simulations.results import commands as results
from simulations.sources import commands as sources
from simulations.sweep import commands as sweep
from simulations.theory.cli import app as theory
from simulations.trackers.arguments import TrackOption
from simulations.watch import watch

NOT_ON_DEVICES = {
    "ray": "scorequilt",
    "matplotlib": "scorequilt-slim[plot]",
    **dict.fromkeys(("numba", "sklearn", "scipy", "torchmetrics"), "scorequilt-slim[server]"),
}
"""What the slim distribution does without, and which one brings it."""


def _missing(command: str, module: str) -> str:
    brings = NOT_ON_DEVICES[module]
    return f"scorequilt: {command} needs {module}, which is not installed: pip install '{brings}'"


class _Group(TyperGroup):
    """Prints what a user can mend as one line and exits with code 2; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command that `ctx` names."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"scorequilt: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None
        except ModuleNotFoundError as error:
            if (module := (error.name or "").split(".")[0]) not in NOT_ON_DEVICES:
                raise
            typer.echo(_missing(ctx.invoked_subcommand or "", module), err=True)
            raise typer.Exit(2) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(theory, name="theory")


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"scorequilt {version()}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train one diffusion model across devices that cannot all hold it."""


@app.command()
def run(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[PRESET|FILE.toml]", help="What to run; default digits."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key; repeat.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on where this run stopped.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Where to write, not runs/NAME.")] = None,
    track: TrackOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Simulate a federation on this machine (default: the preset `digits`)."""
    changes = list(overrides or [])
    if resume is None:
        launch = new_run(
            source or "digits", changes, run_dir, tell=lambda line: typer.echo(line, err=True)
        )
    elif source is None and run_dir is None:
        launch = resumed_run(resume, changes)
    else:
        raise UserError("--resume goes on in the run's own directory: give no preset or folder")

    # Slow to import, and nothing above needs it.
    from rich.console import Console

    from server.record.history import read_rows
    from simulations.engine.progress import Progress
    from simulations.trackers.follow import tracking

    if resume is None and launch.target.name != launch.config.name:
        typer.echo(f"writing to {launch.target}", err=True)
    console, history = Console(stderr=True), launch.target / "history.jsonl"
    trackers = tracking(track, launch.target, launch.config, console)
    trackers.skip(read_rows(history))
    progress = Progress(history, launch.config.rounds, console, quiet, trackers.rows)
    try:
        with trackers:
            with progress:
                launch = simulate(launch, progress.update)
            for line in deliver(launch.target):
                typer.echo(line)
    except KeyboardInterrupt:
        typer.echo(f"stopped; go on with: {launch.resuming}", err=True)
        raise typer.Exit(130) from None
    if failures := progress.failures():
        typer.echo(failures, err=True)
    typer.echo(f"{launch.target}  {progress.figures()}  {launch.seconds:.0f} s")


app.command()(archive.presets)
app.command()(archive.runs)
app.command()(archive.keys)
app.command()(watch)
app.command()(sweep.sweep)
app.command()(sources.init)
app.command()(sources.data)
app.command()(sources.cache)
app.command()(planning.coverage)
app.command()(planning.cost)
app.command()(deployment.certs)
app.command()(deployment.serve)
app.command()(deployment.join)
app.command()(deployment.register)
app.command()(deployment.submit)
app.command()(deployment.doctor)
app.command()(results.plot)
app.command()(results.sample)
app.command()(results.evaluate)
app.command()(results.clients)
app.command()(results.features)
app.command()(results.export)
app.command()(restoration.restore)


def main() -> None:
    """Run the console script."""
    # We only write files. A notebook's backend in the environment would fail on import.
    os.environ["MPLBACKEND"] = "Agg"
    app(prog_name="scorequilt")


if __name__ == "__main__":
    main()
