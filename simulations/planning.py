"""Commands about a run before there is one: what it will cover, and what it will cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(metavar="[PRESET|FILE.toml]")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a key; repeat.")
]


def coverage(
    source: Source = "digits",
    rounds: Annotated[int | None, typer.Option(min=1, help="Default: the run's.")] = None,
    overrides: Overrides = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also a line for every layer.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also draw a picture.")] = None,
) -> None:
    """Count, before a run and without training, how often each part of the model is trained."""
    from simulations.coverage import layer_table, plan_coverage, report
    from simulations.experiments import load_config

    config = load_config(source, list(overrides or []))
    plan = plan_coverage(config, rounds or config.rounds)
    typer.echo(report(plan, config))
    if layers:
        typer.echo(layer_table(plan))
    if out is not None:
        from simulations.coverage_plots import coverage_figure
        from simulations.plots import save_figure

        title = f"policy {config.policy}, fleet {config.fleet}, {plan.rounds} rounds"
        figure = coverage_figure(plan.layout, plan.counts, plan.rounds, plan.rows, title)
        typer.echo(save_figure(figure, out))
