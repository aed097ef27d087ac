"""Commands that list what can be named: presets, runs and keys."""

from __future__ import annotations

import typer

from simulations.archive.directory import RUNS


def presets() -> None:
    """List the configurations that come with the program, and what each is for."""
    from simulations.archive.configs import preset_names, preset_purpose

    names = preset_names()
    width = max(map(len, names))
    for name in names:
        typer.echo(f"{name:<{width}}  {preset_purpose(name)}")


def runs() -> None:
    """List the runs below runs/: rounds done, last distance, the width that samples best."""
    from rich.console import Console
    from rich.table import Table

    from common.errors import UserError
    from simulations.archive.record import read_run

    table = Table("run", "rounds", "Fréchet EMA", "best rate", "policy", "fleet", "data", box=None)
    for folder in sorted(RUNS.glob("*")):
        if folder.is_symlink() or not (folder / "config.toml").is_file():
            continue
        try:
            run = read_run(folder)
            config, rows, summary = run.config, run.rows, run.summary
        except UserError as error:
            table.add_row(folder.name, f"cannot be read: {error}")
            continue
        done = rows[-1]["round"] if rows else 0
        _, distances = run.series("frechet_ema")
        table.add_row(
            folder.name,
            f"{done}/{config.rounds}",
            f"{distances[-1]:.4g}" if distances else "",
            summary.get("best_rate") or "",
            *(config.policy, config.fleet, config.data),
        )
    if not table.row_count:
        raise UserError(f"there is no run below {RUNS.absolute()}; start one: scorequilt run")
    Console().print(table)


def keys() -> None:
    """List every key that --set takes, its default, and what it may be."""
    from simulations.archive.keys import described

    found = described()
    name, default = (max(len(each[i]) for each in found) for i in (0, 1))
    for each in found:
        typer.echo(f"{each[0]:<{name}}  {each[1]:<{default}}  {each[2]}".rstrip())
    typer.echo("docs/configuration.md says what each does")
