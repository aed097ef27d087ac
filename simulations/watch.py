"""The command `watch`: a run that somebody else has started, wherever its server is."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from simulations.archive.arguments import RunArgument
from simulations.archive.directory import find_run
from simulations.trackers.arguments import TrackOption

TICK = 0.5
"""Seconds between two looks."""


def watch(
    run: RunArgument,
    track: TrackOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No view, only trackers.")] = False,
) -> None:
    """Show a run that goes on, of devices or simulated, until it ends; tell trackers of it."""
    folder = find_run(run)
    from rich.console import Console

    from server.record.lock import is_written
    from simulations.archive.record import read_run
    from simulations.engine.progress import Progress
    from simulations.trackers.follow import NONE, tracking

    config = read_run(folder).config
    console = Console(stderr=True)
    trackers = tracking(track or [NONE], folder, config, console)
    progress = Progress(folder / "history.jsonl", config.rounds, console, quiet, trackers.rows)
    trackers.rows(progress.rows)
    try:
        with trackers, progress:
            goes_on = True
            while goes_on:
                goes_on = is_written(folder)  # asked first: what is written then is still shown
                progress.update("running" if goes_on else "ended")
                time.sleep(TICK if goes_on else 0.0)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if failures := progress.failures():
        typer.echo(failures, err=True)
    typer.echo(f"{folder}  {progress.figures()}")
