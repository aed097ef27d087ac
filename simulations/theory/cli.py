"""`scorequilt theory`: a command for each experiment, and one for all."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from simulations.theory.report import Experiment

EXPERIMENTS = {
    "steps": "What larger steps cost, and how many the corollary asks for.",
    "errors": "Initial, score and discretisation error apart, beside the divergence they bound.",
    "dimension": "The error against the dimension, with exact, mistaken and learned scores.",
    "convergence": "Gradients under pruning against rounds and step size: rates and floors.",
    "pruning": "The floor against the pruning error w² and the coverage Γ.",
    "distributed": "One worker against fleets at equal steps: score error by noise level.",
}
"""What each of them shows, by the name of its module."""

app = typer.Typer(no_args_is_help=True, help="Measure what the theory claims.")


def experiment(name: str) -> Experiment:
    """Return an experiment by its name in EXPERIMENTS."""
    return cast("Experiment", import_module(f"simulations.theory.experiments.{name}").run)


def _run(names: list[str], out: Path, quick: bool, seed: int) -> None:
    for name in names:
        finding = experiment(name)(quick, seed)
        typer.echo(finding.markdown())
        for path in finding.write(out):
            typer.echo(path)


def _command(name: str, names: list[str], text: str) -> None:
    def command(
        out: Annotated[Path, typer.Option(help="Where figures and tables go.")] = Path(
            "runs/theory"
        ),
        quick: Annotated[bool, typer.Option("--quick", help="A rehearsal in seconds.")] = False,
        seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    ) -> None:
        _run(names, out, quick, seed)

    app.command(name, help=text)(command)


for _name, _text in EXPERIMENTS.items():
    _command(_name, [_name], _text)
_command("all", list(EXPERIMENTS), "Every experiment, one after another.")
