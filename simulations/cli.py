"""The command line: thin commands over the rest, imported only when they are called."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from common.config import CLIENTS, RunConfig
from common.errors import UserError
from simulations.about import PROJECT, version
from simulations.archive.directory import RUNS, find_run, link_latest, resolve_run_dir
from simulations.deployment import commands as deployment
from simulations.planning import commands as planning
from simulations.restoration import commands as restoration
from simulations.results import commands as results
from simulations.sources import commands as sources
from simulations.theory.cli import app as theory

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


app = typer.Typer(
    cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
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
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Simulate a federation on this machine (default: the preset `digits`)."""
    if find_spec("ray") is None:
        raise ModuleNotFoundError(name="ray")
    from server.preflight import preflight
    from server.record.lock import only_writer
    from server.record.resolved import write_config
    from server.state import checkpoints
    from simulations.archive.configs import load_config

    changes = list(overrides or [])
    if resume is not None:
        if source is not None or run_dir is not None:
            raise UserError("--resume goes on in the run's own directory: give no preset or folder")
        target = find_run(resume)
        with only_writer(target):  # what a killed run has left may need some seconds to end
            pass
        config = load_config(str(target / "config.toml"), changes)
        _check_simulated(config)
        preflight(config, resumed=bool(checkpoints(target / "checkpoints")))
    else:
        if run_dir is not None:
            changes.append(f"run-dir={run_dir.absolute()}")
        config = load_config(source or "digits", changes)
        _check_simulated(config)
        preflight(config)
        target = resolve_run_dir(config, RUNS)
    write_config(config, target)
    if target.is_relative_to(RUNS.absolute()):
        link_latest(target, RUNS)

    # Slow to import, and nothing above needs it.
    from rich.console import Console

    from simulations.engine.progress import Progress
    from simulations.engine.simulate import RunFailed, run_simulation

    resuming = f"go on with: scorequilt run --resume {target}"
    progress = Progress(target / "history.jsonl", config.rounds, Console(stderr=True), quiet)
    try:
        with progress:
            result = run_simulation(
                config.to_flat(), len(config.client_rates), PROJECT, target, progress.update
            )
    except KeyboardInterrupt:
        typer.echo(f"stopped; {resuming}", err=True)
        raise typer.Exit(130) from None
    except RunFailed as error:
        raise UserError(f"{error}; {resuming}") from None
    _deliver(target)
    if failures := progress.failures():
        typer.echo(failures, err=True)
    typer.echo(f"{target}  {progress.figures()}  {result.seconds:.0f} s")


def _check_simulated(config: RunConfig) -> None:
    """Refuse clients that a simulation cannot have.

    Raises:
        UserError: They are to have images of their own, or are fewer than a round needs, or more
            than may come.
    """
    if config.data == CLIENTS:
        raise UserError(
            "data: simulated clients have no images of their own; name a data set, and let "
            "clients judge with evaluation.by=clients"
        )
    if not config.auto:
        return
    clients = config.simulation_clients
    if not config.min_clients <= clients <= config.max_clients:
        raise UserError(
            f"simulation-clients: {clients} is not from min-clients={config.min_clients} to "
            f"max-clients={config.max_clients}"
        )


def _deliver(run_dir: Path) -> None:
    """Draw a finished run's pictures, write its model and say what it amounts to."""
    from simulations.archive.record import verdict
    from simulations.pictures.runs import draw_run
    from simulations.results.export import export_run

    for picture in draw_run(run_dir):
        typer.echo(picture)
    typer.echo(export_run(run_dir))
    typer.echo(verdict(run_dir))


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
