"""Commands about a run before there is one: what it will cover, and what it will cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[str, typer.Argument(metavar="[PRESET|FILE.toml]", help="The configuration.")]
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
    from simulations.archive.configs import load_config
    from simulations.planning.coverage import layer_table, plan_coverage, report

    config = load_config(source, list(overrides or []))
    plan = plan_coverage(config, rounds or config.rounds)
    typer.echo(report(plan, config))
    if layers:
        typer.echo(layer_table(plan))
    if out is not None:
        from simulations.pictures.coverage import coverage_figure
        from simulations.pictures.style import save_figure

        title = f"policy {config.policy}, fleet {config.fleet}, {plan.rounds} rounds"
        figure = coverage_figure(plan.layout, plan.counts, plan.rounds, plan.rows, title)
        typer.echo(save_figure(figure, out))


def cost(
    source: Source = "digits",
    overrides: Overrides = None,
    rates: Annotated[
        str | None, typer.Option(help="Such as '1 1/2 1/4'; default all that the model allows.")
    ] = None,
    fit_memory: Annotated[
        str | None, typer.Option(help="Also name the largest rate within this, as 200MiB.")
    ] = None,
    fit_step: Annotated[
        float | None, typer.Option(min=0, help="… whose step takes this part of the full one's.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Say what training costs a client at each model rate, and which rate fits a budget."""
    import math

    from rich.console import Console
    from rich.progress import Progress

    from common.errors import UserError
    from common.files import parse_bytes
    from server.setting import outlined
    from simulations.archive.configs import load_config
    from simulations.planning.cost import fit_rate, measure_costs, rates_of_interest, table

    config = load_config(source, list(overrides or []))
    memory = math.inf if fit_memory is None else parse_bytes("--fit-memory", fit_memory)
    setting = outlined(config)
    shape = setting.image_shape
    wanted = rates_of_interest(config, setting.layout.atom, rates)
    console = Console(stderr=True)
    hidden = quiet or not console.is_terminal
    # Drawn between measurements, not by a thread whose work would be measured, too.
    with Progress(console=console, transient=True, disable=hidden, auto_refresh=False) as bar:
        task = bar.add_task("timing", total=None)
        costs = measure_costs(
            config, shape, wanted,
            lambda done, total: bar.update(task, completed=done, total=total, refresh=True),
        )  # fmt: skip
    typer.echo(
        f"batch of {config.batch_size}, images {'x'.join(map(str, shape))}, one thread; a "
        "multiply-add is two operations"
    )
    typer.echo(table(costs))
    if fit_memory is None and fit_step is None:
        return
    budget = math.inf if fit_step is None else fit_step * costs[0].step_seconds
    rate = fit_rate(costs, memory, budget)
    if rate is None:
        raise UserError(
            f"fit-rate: not even rate {costs[-1].rate} is within the budget; give more memory or "
            "time, or make model.widths or batch-size smaller"
        )
    typer.echo(f"fit-rate: {rate}")
