"""Commands about the pictures that a run is to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all of it.")] = False,
    shrink: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Delete what was unused for longest, down to a size."),
    ] = None,
) -> None:
    """Show what is kept so that it need not be prepared again, and delete it."""
    from rich.console import Console

    from common.errors import UserError
    from common.files import parse_bytes
    from simulations.sources.cache import cleared, table

    if clear and shrink is not None:
        raise UserError("--shrink: --clear deletes everything; give one of the two")
    if clear or shrink is not None:
        typer.echo(cleared(0 if shrink is None else parse_bytes("--shrink", shrink)))
    else:
        Console().print(table())


def data(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[PRESET|FILE.toml|SOURCE]",
            help="A configuration, or what one device holds, such as folder:PATH.",
        ),
    ] = "digits",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key; repeat.")
    ] = None,
    image_shape: Annotated[
        str, typer.Option(metavar="C,H,W", help="The run's, to which a device's are brought.")
    ] = "",
    out: Annotated[Path, typer.Option(help="The folder that pictures are written to.")] = Path(
        "data-look"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="No table.")] = False,
) -> None:
    """Show what each client would hold, or one device: a table, its pictures, its classes."""
    from rich.console import Console

    from common.data import OWN
    from common.errors import UserError
    from simulations.archive.configs import load_config
    from simulations.sources.look import draw, look_at_run, look_at_source, summary, table

    shape = image_shape.replace(",", "x")
    if source.startswith(OWN):
        if any(not each.strip().startswith("pictures.") for each in overrides or []):
            raise UserError(
                "--set: changes a run's configuration; for a device pictures.* alone counts of it"
            )
        given = load_config("digits", [f"image-shape={shape}", *(overrides or [])])
        look = look_at_source(source, given.shape, given.pictures)
    else:
        changes = [*(overrides or []), *([f"image-shape={shape}"] if shape else [])]
        look = look_at_run(load_config(source, changes))
    if not quiet:
        Console().print(table(look))
    typer.echo(summary(look))
    for path in draw(look, out):
        typer.echo(path)


def init(
    folder: Annotated[Path, typer.Argument(help="The folder of your pictures.")],
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default the folder's name, .toml.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the images in pixels, such as 64; default by the pictures'."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="How long training may take on this machine.")
    ] = 30.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Look at a folder of pictures and write a configuration that fits them, with its cost."""
    from rich.console import Console
    from rich.progress import Progress

    from simulations.sources.begin import begin, report

    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    # Drawn between measurements, not by a thread whose work would be measured, too.
    with Progress(console=console, transient=True, disable=hidden, auto_refresh=False) as bar:
        task = bar.add_task("looking and timing", total=None)
        found = begin(
            folder, out, size, minutes,
            lambda done, total: bar.update(task, completed=done, total=total, refresh=True),
        )  # fmt: skip
    typer.echo(report(found))
