"""The command line: thin commands over the rest, imported only when they are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from common.data.named import NAMED
from common.errors import UserError
from simulations.archive.directory import RUNS, find_run, link_latest, resolve_run_dir
from simulations.deployment import commands as deployment
from simulations.planning import commands as planning
from simulations.restoration import commands as restoration
from simulations.results import commands as results
from simulations.sources import commands as sources
from simulations.sweep import commands as sweep
from simulations.theory.cli import app as theory
from simulations.trackers.arguments import TrackOption
from simulations.watch import watch

PROJECT = Path(__file__).resolve().parents[1]


class _Group(TyperGroup):
    """Prints what a user can mend as one line and exits with code 2; bugs keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Invoke the command that `ctx` names."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            typer.echo(f"scorequilt: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.add_typer(theory, name="theory")


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"scorequilt {version('scorequilt')}")
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
    from server.preflight import preflight
    from server.record.history import read_rows
    from server.record.lock import only_writer
    from server.record.resolved import write_config
    from server.state import checkpoints
    from simulations.archive.configs import check_simulated, load_config

    changes = list(overrides or [])
    if resume is not None:
        if source is not None or run_dir is not None:
            raise UserError("--resume goes on in the run's own directory: give no preset or folder")
        target = find_run(resume)
        with only_writer(target):  # what a killed run has left may need some seconds to end
            pass
        config = load_config(str(target / "config.toml"), changes)
        check_simulated(config)
        preflight(config, resumed=bool(checkpoints(target / "checkpoints")))
    else:
        if run_dir is not None:
            changes.append(f"run-dir={run_dir.absolute()}")
        config = load_config(source or "digits", changes)
        check_simulated(config)
        if config.data in NAMED:  # it may be long until there are images, and longer after that
            from simulations.planning.ahead import said_ahead

            typer.echo(said_ahead(config), err=True)
        preflight(config)
        target = resolve_run_dir(config, RUNS)
    write_config(config, target)
    if target.is_relative_to(RUNS.absolute()):
        link_latest(target, RUNS)

    # Slow to import, and nothing above needs it.
    from rich.console import Console

    from simulations.engine.progress import Progress
    from simulations.engine.simulate import RunFailed, run_simulation
    from simulations.trackers.follow import tracking

    resuming = f"go on with: scorequilt run --resume {target}"
    console = Console(stderr=True)
    trackers = tracking(track, target, config, console)
    history = target / "history.jsonl"
    trackers.skip(read_rows(history))
    progress = Progress(history, config.rounds, console, quiet, trackers.rows)
    try:
        with trackers:
            with progress:
                result = run_simulation(
                    config.to_flat(), len(config.client_rates), PROJECT, target, progress.update
                )
            _deliver(target)
    except KeyboardInterrupt:
        typer.echo(f"stopped; {resuming}", err=True)
        raise typer.Exit(130) from None
    except RunFailed as error:
        raise UserError(f"{error}; {resuming}") from None
    if failures := progress.failures():
        typer.echo(failures, err=True)
    typer.echo(f"{target}  {progress.figures()}  {result.seconds:.0f} s")


def _deliver(run_dir: Path) -> None:
    """Draw a finished run's pictures, write its model and say what it amounts to."""
    from simulations.archive.record import verdict
    from simulations.pictures.runs import draw_run
    from simulations.results.export import export_run

    for picture in draw_run(run_dir):
        typer.echo(picture)
    typer.echo(export_run(run_dir))
    typer.echo(verdict(run_dir))


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
