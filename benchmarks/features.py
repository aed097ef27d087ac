"""`python -m benchmarks.features`: whether features that know no labels rank images rightly.

*Rank*: thirty sets of digits of different quality (noise, blur, kinds missing, pure noise among
them, faded, shifted, all by degrees) are put in order by the label-free features of the same digits
in one flat folder, by those of the untrained network that all clients can have, and by those of the
labelled classifier; Spearman's correlation with the last says how far the others agree. With the
run directory of a run on digits its samples are judged as well, of every checkpoint and every
width; with `--rounds` a run of so many is trained for it, all of whose checkpoints are kept.

*Order*: flat folders of 60 to 6000 patches of photographs; what the check at a run's start finds on
them, as multiples of the undamaged images' distance.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import torch
import typer
from scipy.stats import spearmanr
from sklearn.datasets import load_sample_images
from torch import Tensor

from benchmarks.harness import Result
from common.config import RunConfig
from common.data import ImageData, Splits, load_dataset
from common.features import blurred
from server.evaluation.build import evaluator_for
from server.evaluation.evaluator import Evaluator
from server.record.recorder import Recorder
from server.state import checkpoints, load_checkpoint
from simulations.archive.record import read_run
from simulations.engine.inline import run_inline

COUNTS = 60, 200, 600, 2000, 6000
SIDE = 16
KINDS = "labelled", "label_free", "untrained"


def flat(splits: Splits) -> Splits:
    """Return the same images without their classes."""
    one = (
        replace(part, labels=np.zeros_like(part.labels), num_classes=1, name=f"flat-{part.name}")
        for part in splits
    )
    return Splits(*one)


def degraded(images: Tensor, labels: np.ndarray) -> dict[str, Tensor]:
    """Return thirty sets of as many images, each damaged in a way and by a degree of its own."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    sets = {f"noise {s}": images + s * noise for s in (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)}
    sets |= {f"blur {n}": blurred(images, n) for n in (1, 2, 3, 4, 6, 8)}
    for count in (1, 2, 3, 5, 7, 9):
        left = np.flatnonzero(labels < count)
        sets[f"kinds {count}"] = images[torch.from_numpy(np.resize(left, len(images)))]
    for share in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0):
        pure = torch.arange(len(images)) < share * len(images)
        sets[f"pure noise {share}"] = torch.where(pure[:, None, None, None], noise, images)
    sets |= {f"faded {gain}": gain * images for gain in (0.9, 0.8, 0.6, 0.4)}
    sets |= {f"shifted {n}": images.roll(n, 3) for n in (1, 2)}
    return {name: each.clamp(-1, 1) for name, each in sets.items()}


def sampled(run_dir: Path, evaluator: Evaluator) -> dict[str, Tensor]:
    """Return samples of every kept checkpoint and every width of its fleet."""
    run = read_run(run_dir)
    found = {}
    for path in checkpoints(run.path / "checkpoints"):
        state = load_checkpoint(path, run.config, run.setting.layout)
        for rate in sorted(set(run.config.client_rates)):
            for name, weights in (("raw", state.theta), ("averaged", state.ema)):
                images = evaluator.sample(run.setting.denoiser(weights, rate))
                found[f"round {state.round}, {rate}, {name}"] = images
    return found


def trained(run_dir: Path, rounds: int) -> None:
    """Train on digits and keep the checkpoint of every round, from one that has learned nothing."""
    config = RunConfig(
        rounds=rounds, local_steps=20, evaluate_every=rounds + 1, fleet="1x1 1/2x1 1/4x1"
    )
    with patch.object(Recorder, "discard_old", lambda _: None):
        run_inline(config, run_dir)


def ranks(run_dir: Path | None) -> Iterator[Result]:
    """Compare label-free distances with the labelled classifier's."""
    splits = load_dataset("digits")
    config = RunConfig() if run_dir is None else read_run(run_dir).config
    labelled, free = evaluator_for(config, splits), evaluator_for(config, flat(splits))
    plain = evaluator_for(untrained(config), splits)
    parts = {"damages": degraded(torch.from_numpy(splits.test.images), splits.test.labels)}
    if run_dir is not None:
        parts["samples"] = sampled(run_dir, labelled)
    for part, sets in parts.items():
        pairs = []
        for name, images in sets.items():
            pairs.append([each.frechet(images) for each in (labelled, free, plain)])
            for kind, distance in zip(
                ("labelled", "label_free", "untrained"), pairs[-1], strict=True
            ):
                yield Result("features", name, kind, distance)
        yield Result("features", part, "sets", len(pairs))
        known, clusters, random = zip(*pairs, strict=True)
        yield Result("features", part, "rank_correlation", float(spearmanr(known, clusters)[0]))
        yield Result(
            "features", part, "rank_correlation_untrained", float(spearmanr(known, random)[0])
        )


def untrained(config: RunConfig) -> RunConfig:
    """Return the configuration with the features that every client can have."""
    evaluation = config.evaluation.model_copy(update={"features": "untrained"})
    return config.model_copy(update={"evaluation": evaluation})


def patches(count: int) -> Splits:
    """Return so many random patches of photographs in one flat folder, a fifth held out."""
    rng = np.random.default_rng(count)
    photographs = load_sample_images().images
    found = []
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        top, left = (int(rng.integers(edge - SIDE + 1)) for edge in photograph.shape[:2])
        found.append(photograph[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1))
    data = ImageData(np.stack(found), np.zeros(count, np.int64), 1, f"patches-{count}", True)
    places = np.arange(count)
    return Splits(data.select(places[places % 5 < 4]), data.select(places[places % 5 == 4]))


def orders() -> Iterator[Result]:
    """Ask the check what it makes of flat folders of patches."""
    for count in COUNTS:
        images = patches(count)
        for kind, config in (("", RunConfig()), (", untrained", untrained(RunConfig()))):
            check, case = evaluator_for(config, images).check, f"{count} patches{kind}"
            undamaged = check.distances["undamaged"]
            for name, distance in check.distances.items():
                yield Result("features", case, name, distance / undamaged)
            yield Result("features", case, "passed", float(check.passed))


def main(
    run: Annotated[Path | None, typer.Option(help="A run on digits, to judge its samples.")] = None,
    rounds: Annotated[int, typer.Option(help="Train one of so many rounds into --run first.")] = 0,
) -> None:
    """Print one JSON object per line."""
    if run is not None and rounds:
        trained(run, rounds)
    for part in (ranks(run), orders()):
        for result in part:
            print(json.dumps(result.as_json()), flush=True)


if __name__ == "__main__":
    typer.run(main)
