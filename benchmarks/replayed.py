"""`python -m benchmarks.replayed RUN...`: how near to a training image what is replayed comes.

Images that a width draws for the clients of wider ones leave the server, and come from weights that
other clients have trained. For every run directory: the root-mean-square difference per value to
the nearest training image of what each width draws after the last round, from fresh noise as a
round does it, beside that of held-out images, which nobody has trained on. Far below the latter is
a memory of somebody's image.
"""

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.harness import Result
from common.config import ReplayConfig
from server.evaluation.distances import nearest
from server.fleet import Client
from server.replay import Measured, Replayer
from server.setting import Setting
from simulations.archive.record import read_run

NEAR = 0.01
"""Of the images, those nearest to a training image, whose distance is given besides the mean."""


def compare(run_dir: Path) -> Iterator[Result]:
    """Yield the mean and the lowest distances of every width's images, and of held-out ones."""
    run = read_run(run_dir)
    train, test = run.setting.splits
    count = min(512, len(test))
    sets = {"held-out images": torch.from_numpy(test.values(slice(count)))}
    config = run.config.model_copy(update={"replay": ReplayConfig(images=count)})
    setting = Setting(config, run.setting.about, run.setting.splits)
    widths = config.widths(setting.layout.atom)
    for rate in widths[:-1]:
        sets[f"replayed from rate {rate}"] = _replayed(setting, run_dir, rate)
    for case, images in sets.items():
        distances, _ = nearest(images, map(torch.from_numpy, train.batches()))
        values = {"mean": float(distances.mean()), "lowest 1 %": float(distances.quantile(NEAR))}
        for metric, value in values.items():
            yield Result(run.name, case, metric, value)


def _replayed(setting: Setting, run_dir: Path, rate: Fraction) -> Tensor:
    """Return what a width draws after the last round, in [-1, 1]."""
    state = read_run(run_dir).state("last")
    known = Measured({Fraction(1): 0.5, rate: 0.25})
    weak = Client(node=1, partition=0, rate=rate, examples=1, index=0, count=1)
    strong = Client(node=2, partition=1, rate=Fraction(1), examples=1, index=0, count=1)
    drawn = Replayer(setting, lambda _: known).draw(state, [weak, strong])[Fraction(1)]
    return torch.from_numpy(drawn.images).float() / 127.5 - 1


def main(runs: Annotated[list[Path], typer.Argument(help="Run directories.")]) -> None:
    """Print one JSON object per line."""
    for run_dir in runs:
        for result in compare(run_dir):
            print(json.dumps(result.as_json()), flush=True)


if __name__ == "__main__":
    typer.run(main)
