"""The command line: thin commands over the rest, imported only when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from common.errors import UserError
from simulations import deployment, planning
from simulations.rundir import RUNS, find_run, link_latest, resolve_run_dir, write_config
from simulations.theory.cli import app as theory

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
Run = Annotated[str, typer.Argument(help="A run directory, or its name below runs/.")]
Round = Annotated[
    str | None,
    typer.Option("--round", metavar="N|best", help="A kept checkpoint's; default the last."),
]


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
    source: Annotated[str | None, typer.Argument(metavar="[PRESET|FILE.toml]")] = None,
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
    from common.config import parse_fleet
    from server.checkpoint import checkpoints
    from server.lock import only_writer
    from server.preflight import preflight
    from simulations.experiments import load_config

    changes = list(overrides or [])
    if resume is not None:
        if source is not None or run_dir is not None:
            raise UserError("--resume goes on in the run's own directory: give no preset or folder")
        target = find_run(resume)
        with only_writer(target):  # what a killed run has left may need some seconds to end
            pass
        config = load_config(str(target / "config.toml"), changes)
        preflight(config, resumed=bool(checkpoints(target / "checkpoints")))
    else:
        if run_dir is not None:
            changes.append(f"run-dir={run_dir.absolute()}")
        config = load_config(source or "digits", changes)
        preflight(config)
        target = resolve_run_dir(config, RUNS)
    write_config(config, target)
    if target.is_relative_to(RUNS.absolute()):
        link_latest(target, RUNS)

    # Slow to import, and nothing above needs it.
    from rich.console import Console

    from simulations.progress import Progress
    from simulations.run import RunFailed, run_simulation

    resuming = f"go on with: scorequilt run --resume {target}"
    progress = Progress(target / "history.jsonl", config.rounds, Console(stderr=True), quiet)
    try:
        with progress:
            result = run_simulation(
                config.to_flat(), len(parse_fleet(config.fleet)), PROJECT, target, progress.update
            )
    except KeyboardInterrupt:
        typer.echo(f"stopped; {resuming}", err=True)
        raise typer.Exit(130) from None
    except RunFailed as error:
        raise UserError(f"{error}; {resuming}") from None
    _deliver(target)
    typer.echo(f"{target}  {progress.figures()}  {result.seconds:.0f} s")


def _deliver(run_dir: Path) -> None:
    """Draw a finished run's pictures, write its model and say what it amounts to."""
    from simulations.plots import draw_run
    from simulations.products import export_run, verdict

    for picture in draw_run(run_dir):
        typer.echo(picture)
    typer.echo(export_run(run_dir))
    typer.echo(verdict(run_dir))


app.command()(planning.coverage)
app.command()(planning.cost)
app.command()(deployment.certs)
app.command()(deployment.serve)
app.command()(deployment.join)


@app.command()
def plot(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="Picture that compares several runs.")] = Path(
        "comparison.png"
    ),
) -> None:
    """Draw a run's pictures again, and compare several runs."""
    folders = [find_run(each) for each in runs]
    from simulations.plots import draw_comparison, draw_run

    for folder in folders:
        for picture in draw_run(folder):
            typer.echo(picture)
    if len(folders) > 1:
        typer.echo(draw_comparison(folders, out))


@app.command()
def sample(
    run: Run,
    count: Annotated[int, typer.Option("-n", "--count", help="Images to draw.")] = 64,
    sampler: Annotated[str | None, typer.Option(help="A sampler; default the run's.")] = None,
    evaluations: Annotated[
        int | None, typer.Option(help="Network evaluations per image; default the run's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the sampler, in place of evaluations.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(help="Width, such as 1/2; default the one that samples best.")
    ] = None,
    class_label: Annotated[int | None, typer.Option("--class", help="Of all images.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Weight of classifier-free guidance; default the run's.")
    ] = None,
    round: Round = None,
    seed: Annotated[int, typer.Option(help="Another seed, other images.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Last weights, not averaged ones.")] = False,
    out: Annotated[Path | None, typer.Option(help="A PNG file; default in the run.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Draw images from a run's weights."""
    folder = find_run(run)
    from rich.console import Console
    from rich.progress import Progress

    from simulations.products import sample_run

    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("sampling", total=None)
        line = sample_run(
            folder, count, sampler, evaluations, rate, class_label, guidance, seed, out, raw,
            lambda done, total: bar.update(task, completed=done, total=total),
            steps, round,
        )  # fmt: skip
    typer.echo(line)


@app.command()
def restore(
    run: Run,
    images: Annotated[str, typer.Argument(help="A picture, a folder of them, or `held-out`.")],
    task: Annotated[str, typer.Option(help="denoise, inpaint, superres or lowlight.")],
    sigma: Annotated[float, typer.Option(help="Noise to add; black and white are 2 apart.")] = 0.2,
    factor: Annotated[
        int, typer.Option(help="How much smaller (superres) or darker (lowlight).")
    ] = 2,
    draws: Annotated[int, typer.Option(help="Restorations to average for each image.")] = 8,
    count: Annotated[int, typer.Option("-n", "--count", help="Images to take at most.")] = 64,
    class_label: Annotated[int | None, typer.Option("--class", help="Of all images.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another noise.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A folder; default RUN/restored/TASK.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Degrade images, restore them with a run's weights, and measure what that gains."""
    folder = find_run(run)
    from rich.console import Console
    from rich.progress import Progress

    from simulations.restore import restore_run

    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden) as bar:
        progress = bar.add_task("restoring", total=None)
        lines = restore_run(
            folder, images, task, sigma, factor, draws, count, class_label, seed, out,
            lambda done, total: bar.update(progress, completed=done, total=total),
        )  # fmt: skip
    typer.echo(lines)


@app.command()
def evaluate(
    run: Run,
    rate: Annotated[
        str | None, typer.Option(help="Width, such as 1/2; default the one that samples best.")
    ] = None,
    round: Round = None,
    full: Annotated[bool, typer.Option("--full", help="Bits per value, too.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Last weights, not averaged ones.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No tables.")] = False,
) -> None:
    """Judge a run's weights by every measure; write evaluation.json and plots/nearest.png."""
    folder = find_run(run)
    from rich.console import Console

    from simulations.evaluate import evaluate_run, tables

    result = evaluate_run(folder, rate, full, raw, round)
    if not quiet:
        Console().print(*tables(result), sep="\n")
    typer.echo(folder / "evaluation.json")


@app.command()
def export(
    run: Run,
    out: Annotated[Path | None, typer.Option(help="A folder; default RUN/model.")] = None,
    round: Round = None,
) -> None:
    """Write a run's averaged weights as a model that opens in diffusers."""
    folder = find_run(run)
    from simulations.products import export_run

    typer.echo(export_run(folder, out, round))


def main() -> None:
    """Run the console script."""
    app(prog_name="scorequilt")


if __name__ == "__main__":
    main()
