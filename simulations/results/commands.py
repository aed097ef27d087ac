"""Commands over finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.errors import UserError
from simulations.archive.arguments import RoundOption, RunArgument
from simulations.archive.directory import find_run


def plot(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run directories, or names below runs/.")
    ],
    against: Annotated[
        str | None,
        typer.Option(help="Draw distance alone, against rounds, images, seconds, bytes or flops."),
    ] = None,
    pareto: Annotated[
        str | None, typer.Option(help="Draw what runs came to against bytes or flops.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Picture of several runs, or of what is asked for: .png, .pdf …")
    ] = Path("comparison.png"),
) -> None:
    """Draw a run's pictures again, and compare several runs: mean and range over seeds."""
    from simulations.archive.courses import AGAINST
    from simulations.archive.record import read_run
    from simulations.pictures.groups import incomparable
    from simulations.pictures.runs import draw_comparison, draw_run
    from simulations.pictures.style import check_format

    folders = [find_run(each) for each in runs]
    for name, choice in (("against", against), ("pareto", pareto)):
        if choice is not None and choice not in AGAINST:
            raise UserError(f"--{name}: '{choice}' is none of {', '.join(AGAINST)}")
    if against and pareto:
        raise UserError("--pareto: is a picture of its own; leave --against out")
    check_format(out)
    asked = against or pareto
    for folder in folders if not asked else ():
        for picture in draw_run(folder):
            typer.echo(picture)
    if len(folders) > 1 or asked:
        typer.echo(draw_comparison(folders, out, against, pareto))
        if why := incomparable([read_run(folder) for folder in folders]):
            typer.echo(why, err=True)


def sample(
    run: RunArgument,
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
    class_label: Annotated[
        str | None, typer.Option("--class", help="Of all images, by name or number.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Weight of classifier-free guidance; default the run's.")
    ] = None,
    round: RoundOption = None,
    seed: Annotated[int, typer.Option(help="Another seed, other images.")] = 0,
    raw: Annotated[bool, typer.Option("--raw", help="Last weights, not averaged ones.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="A sheet (.png, .jpg, .pdf …), .npz, or a folder for single files."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Draw images from a run's weights."""
    folder = find_run(run)
    from rich.console import Console
    from rich.progress import Progress

    from simulations.results.sample import sample_run

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


def evaluate(
    run: RunArgument,
    rate: Annotated[
        str | None, typer.Option(help="Width, such as 1/2; default the one that samples best.")
    ] = None,
    round: RoundOption = None,
    full: Annotated[bool, typer.Option("--full", help="Bits per value, too.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Last weights, not averaged ones.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No tables.")] = False,
) -> None:
    """Judge a run's weights by every measure; write evaluation.json and plots/nearest.png."""
    folder = find_run(run)
    from rich.console import Console

    from simulations.results.evaluate import evaluate_run, tables

    result = evaluate_run(folder, rate, full, raw, round)
    if not quiet:
        Console().print(*tables(result), sep="\n")
    typer.echo(folder / "evaluation.json")


def clients(run: RunArgument) -> None:
    """Show whom a run serves: every client's images, rounds, losses, bytes and failures."""
    folder = find_run(run)
    from rich.console import Console

    from simulations.archive.record import read_run
    from simulations.results.clients import clients_of, refused_by, table_of

    record = read_run(folder)
    Console().print(table_of(clients_of(record)))
    for line in refused_by(record):
        typer.echo(line)


def features(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A data set, as the key data.")],
    out: Annotated[Path, typer.Option(help="A .safetensors file.")],
    image_shape: Annotated[str, typer.Option(help="As the key image-shape.")] = "",
) -> None:
    """Train the classifier of a data set and write it, for runs that their clients judge."""
    from simulations.archive.configs import load_config
    from simulations.results.features import write_classifier

    config = load_config("digits", [f"data={data}", f"image-shape={image_shape}"])
    typer.echo(write_classifier(config, out))


def export(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="A folder; default RUN/model.")] = None,
    round: RoundOption = None,
    rate: Annotated[
        str | None, typer.Option(help="Width, such as 1/2; default the one that samples best.")
    ] = None,
) -> None:
    """Write a run's averaged weights as a model that opens in diffusers."""
    folder = find_run(run)
    from simulations.results.export import export_run

    typer.echo(export_run(folder, out, round, rate))
