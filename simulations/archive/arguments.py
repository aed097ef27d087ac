"""How runs are named on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

Run = Annotated[str, typer.Argument(help="A run directory, or its name below runs/.")]


Round = Annotated[
    str | None,
    typer.Option("--round", metavar="N|best", help="A kept checkpoint's; default the last."),
]
