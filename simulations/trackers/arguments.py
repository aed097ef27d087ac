"""How trackers are named on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="tensorboard (the default), wandb, mlflow, trackio, none; repeat.",
    ),
]
