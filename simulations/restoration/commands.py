"""The command that repairs pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulations.archive.arguments import RunArgument
from simulations.archive.directory import find_run


def restore(
    run: RunArgument,
    images: Annotated[str, typer.Argument(help="A picture, a folder of them, or `held-out`.")],
    task: Annotated[str, typer.Option(help="denoise, inpaint, superres or lowlight.")],
    sigma: Annotated[float, typer.Option(help="Noise to add; black and white are 2 apart.")] = 0.2,
    factor: Annotated[
        int, typer.Option(help="How much smaller (superres) or darker (lowlight).")
    ] = 2,
    draws: Annotated[int, typer.Option(help="Restorations to average for each image.")] = 8,
    count: Annotated[int, typer.Option("-n", "--count", help="Images to take at most.")] = 64,
    class_label: Annotated[
        str | None, typer.Option("--class", help="Of all images, by name or number.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed, another noise.")] = 0,
    already_damaged: Annotated[
        bool,
        typer.Option(
            "--already-damaged", help="Repair the images as they are: --sigma says their noise."
        ),
    ] = False,
    mask: Annotated[
        Path | None,
        typer.Option(help="With --already-damaged and inpaint: black where pixels are lost."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder; default restored/TASK or repaired/TASK in RUN.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Degrade images, restore them with a run's weights, and measure what that gains."""
    folder = find_run(run)
    from rich.console import Console
    from rich.progress import Progress

    from common.errors import UserError
    from simulations.restoration.repair import repair
    from simulations.restoration.restore import restore_run

    if mask is not None and not already_damaged:
        raise UserError("mask: goes with --already-damaged; inpaint alone removes a central square")

    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden) as bar:
        progress = bar.add_task("restoring", total=None)

        def update(done: int, total: int) -> None:
            bar.update(progress, completed=done, total=total)

        if already_damaged:
            lines = repair(
                folder, images, task, sigma, factor, mask, draws, count, class_label, seed, out,
                update,
            )  # fmt: skip
        else:
            lines = restore_run(
                folder, images, task, sigma, factor, draws, count, class_label, seed, out, update
            )
    typer.echo(lines)
