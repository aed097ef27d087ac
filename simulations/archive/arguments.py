"""How runs are named on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

RunArgument = Annotated[str, typer.Argument(help="A run directory, or its name below runs/.")]


RoundOption = Annotated[
    str | None,
    typer.Option(
        "--round",
        metavar="N|last|best",
        help="A kept checkpoint's; default the best of a finished run.",
    ),
]
