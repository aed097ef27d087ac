"""`python -m benchmarks NAME`: measure, and print a table or one JSON object per line."""

import json
from collections.abc import Callable, Iterator
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import aggregation, client, evaluation, overhead, startup, training, wire
from benchmarks.harness import Result, machine, versions

BENCHMARKS: dict[str, Callable[[], Iterator[Result]]] = {
    "client": client.run,
    "aggregation": aggregation.run,
    "wire": wire.run,
    "training": training.run,
    "startup": startup.run,
    "evaluation": evaluation.run,
    "overhead": overhead.quick,
}


def main(
    name: Annotated[
        str,
        typer.Argument(help="Which benchmark.", click_type=click.Choice([*BENCHMARKS, "all"])),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per line as results come in.")
    ] = False,
) -> None:
    """Measure what ScoreQuilt costs on this machine. Nothing is downloaded."""
    console = Console()
    for chosen in BENCHMARKS if name == "all" else [name]:
        results = BENCHMARKS[chosen]()
        if as_json:
            for result in results:
                print(json.dumps(result.as_json()), flush=True)
            continue
        with console.status(f"{chosen} …"):
            table = _table(chosen, list(results))
        console.print(table)
    if not as_json:
        console.print(f"{machine()}; " + ", ".join(f"{k} {v}" for k, v in versions().items()))


def _table(title: str, results: list[Result]) -> Table:
    """Return a row for each result, so that no terminal is too narrow for their names."""
    table = Table(title=title, title_justify="left")
    for name in ("case", "metric"):
        table.add_column(name, overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("unit")
    before = ""
    for result in results:
        case = "" if result.case == before else result.case
        before = result.case
        table.add_row(case, result.metric, f"{result.value:,.4g}", result.unit)
    return table


if __name__ == "__main__":
    typer.run(main)
