"""Commands about the pictures that a run is to learn."""

from __future__ import annotations

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
