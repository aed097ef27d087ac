"""What a run leaves to use: pictures sampled from its weights, and a model that diffusers opens."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from common.config import RunConfig
from common.data import ImageData, load_dataset
from common.denoising import clipped, guided, submodel_denoiser
from common.diffusers_format import export_pipeline
from common.errors import UserError
from common.process import CLOCKS, DELTA, GRIDS, Denoiser
from common.samplers import SAMPLERS, sample
from common.seeding import SERVER, rng_for, torch_generator
from common.submodel import Layout, full_submodel, narrowed
from common.unet import layout_of
from server.checkpoint import best_round, checkpoints, load_checkpoint, round_of
from server.history import read_rows
from server.pictures import save_grid
from server.state import ServerState
from simulations.experiments import load_config

BATCH = 256
"""Images that the network sees at once."""


@dataclass(frozen=True)
class TrainedRun:
    """One of a run's checkpoints and what is needed to use it.

    Attributes:
        config: The run's configuration.
        layout: The full model's layout.
        state: The state after a round.
        train: The training images.
        summary: What `summary.json` says, empty before the run's end.
    """

    config: RunConfig
    layout: Layout
    state: ServerState
    train: ImageData
    summary: dict[str, Any]


def read_trained_run(run_dir: Path, round: str | None = None) -> TrainedRun:
    """Read a run directory, finished or not.

    Args:
        run_dir: The run directory.
        round: A round whose checkpoint is kept, as a number or as ``best``, the one whose averaged
            weights sampled best; None is the last complete one.

    Raises:
        UserError: It is not a run directory, has no checkpoint yet or none of this round, or a file
            in it is damaged.
    """
    if not (run_dir / "config.toml").is_file():
        raise UserError(f"{run_dir}: not a run directory (it has no config.toml)")
    config = load_config(str(run_dir / "config.toml"))
    found = checkpoints(run_dir / "checkpoints")
    if not found:
        raise UserError(f"{run_dir}: no checkpoint yet; wait for the first round to complete")
    train = load_dataset(config.data, config.shape).train
    layout = layout_of(config.model, train.image_shape[0])
    state = load_checkpoint(_of_round(run_dir, found, round), config, layout)
    path = run_dir / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return TrainedRun(config, layout, state, train, summary)


def _of_round(run_dir: Path, found: list[Path], round: str | None) -> Path:
    """Return the checkpoint of a round, the newest if none is named."""
    if round is None:
        return found[-1]
    wanted = str(best_round(read_rows(run_dir / "history.jsonl"))) if round == "best" else round
    kept = {str(round_of(path)): path for path in found}
    if wanted not in kept:
        which = f"best, which is {wanted}," if round == "best" else wanted
        raise UserError(
            f"round: {run_dir} has no checkpoint of round {which} but of {', '.join(kept)}"
        )
    return kept[wanted]


def sample_run(
    run_dir: Path,
    count: int,
    sampler: str | None = None,
    evaluations: int | None = None,
    rate: str | Fraction | None = None,
    class_label: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    out: Path | None = None,
    raw: bool = False,
    progress: Callable[[int, int], None] | None = None,
    steps: int | None = None,
    round: str | None = None,
) -> str:
    """Sample images from a run's weights and write them as one picture.

    Args:
        run_dir: The run directory.
        count: How many images, at least 1.
        sampler: One of `SAMPLERS`; the run's own if None.
        evaluations: Network evaluations per image, at least 1; the run's own if None.
        rate: Model rate of the width to sample from; if None the one that the run's summary found
            to sample best, or the full width before the run's end.
        class_label: The class of all images; None draws classes as frequent as in training.
        guidance: Weight of classifier-free guidance, at least 0, for which every evaluation of the
            sampler asks the network twice; the run's own if None.
        seed: Of noise, classes and the sampler, 0 or greater. The same call gives the same picture.
        out: A PNG file; ``samples/drawn.png`` in the run if None.
        raw: Take the last round's weights, not their moving average. Of several averages it is
            the one that the summary found best at this width, before the run's end the first.
        progress: Called with the network's calls done and in total.
        steps: The sampler's steps, at least 1, in place of `evaluations`.
        round: As in `read_trained_run`.

    Returns:
        A line that says what was written where.

    Raises:
        UserError: An argument is out of range or does not go with the run, or its directory cannot
            be read; the line names it.
    """
    least = {"count": (count, 1), "evaluations": (evaluations, 1), "steps": (steps, 1)}
    for key, (value, minimum) in (least | {"seed": (seed, 0), "guidance": (guidance, 0)}).items():
        if value is not None and not minimum <= value < math.inf:
            raise UserError(f"{key}: must be at least {minimum}, not {value}")
    if steps is not None and evaluations is not None:
        raise UserError("steps: say these or evaluations, not both")
    run = read_trained_run(run_dir, round)
    sampler = sampler or run.config.evaluation.sampler
    if sampler not in SAMPLERS:
        raise UserError(f"sampler: '{sampler}' is not one of {', '.join(SAMPLERS)}")
    budget = evaluations or run.config.evaluation.evaluations
    steps = steps or SAMPLERS[sampler].steps_for(budget)
    chosen = parse_rate(run.summary.get("best_rate", "1") if rate is None else rate)
    weight = run.config.evaluation.guidance if guidance is None else guidance
    averaged, which = averaged_weights(run, chosen)
    denoiser = _denoiser(run, run.state.theta if raw else averaged, chosen, weight)
    labels = _labels(run, count, class_label, seed)
    grid = GRIDS[run.config.evaluation.grid](CLOCKS[run.config.clock], steps, DELTA)
    noise = torch.randn(count, *run.train.image_shape, generator=_generator(seed, "sample-noise"))
    steered = _generator(seed, "sample-sampler")
    images = sample(sampler, denoiser, grid, noise, steered, BATCH, progress, **labels)
    out = out or run_dir / "samples" / "drawn.png"
    save_grid(images, out)
    weights, used = "last" if raw else which, SAMPLERS[sampler].evaluations(steps)
    return (
        f"{out}: {count} images from the {weights} weights of round {run.state.round} at rate "
        f"{chosen}, {sampler} in {used} evaluations{f' guided by {weight:g}' if weight else ''}"
    )


def export_run(run_dir: Path, out: Path | None = None, round: str | None = None) -> str:
    """Write the averaged weights, at full width, as a folder that diffusers opens.

    Args:
        run_dir: The run directory.
        out: The folder; ``model`` in the run if None. An earlier export there is replaced.
        round: As in `read_trained_run`.

    Returns:
        Lines that say what was written where, and what to know about it.

    Raises:
        UserError: The run cannot be read, or the folder not written or holding something else.
    """
    run = read_trained_run(run_dir, round)
    out = out or run_dir / "model"
    channels, height, width = run.train.image_shape
    size = height if height == width else (height, width)
    averaged, which = averaged_weights(run, Fraction(1))
    export_pipeline(out, run.config, averaged, channels, size)
    lines = [f"{out}: the {which} weights of round {run.state.round} at full width"]
    best, widths = run.summary.get("best_rate", "1"), run.summary.get("widths", {})
    scores = [widths.get(rate, {}).get("frechet_ema") for rate in (best, "1")]
    if best != "1" and None not in scores:
        lines.append(
            f"rate {best} sampled better in the run (Fréchet distance {scores[0]:.4g}, full width "
            f"{scores[1]:.4g}); scorequilt sample --rate {best} draws from it"
        )
    if run.config.model.num_classes:
        lines.append("DDPMPipeline passes no class labels; call its unet with class_labels")
    return "\n".join(lines)


def verdict(run_dir: Path) -> str:
    """Say in one line what a finished run amounts to: its best width against noise and real images.

    Raises:
        UserError: The run cannot be read or has no summary yet.
    """
    summary = read_trained_run(run_dir).summary
    if not summary:
        raise UserError(f"{run_dir}: no summary yet; wait for the last round to complete")
    return (
        f"samples best at rate {summary['best_rate']}: Fréchet classifier distance "
        f"{summary['frechet_ema']:.4g}, which is {summary['frechet_fraction_of_noise']:.1%} of "
        f"pure noise ({summary['frechet_noise']:.4g}); held-out images read "
        f"{summary['frechet_held_out'] / summary['frechet_noise']:.1%}"
    )


def averaged_weights(run: TrainedRun, rate: Fraction) -> tuple[Float32[np.ndarray, "P"], str]:
    """Return the moving average that the summary found best at a width, else the first; named."""
    half_lives = [str(half_life) for half_life in run.config.ema.half_life]
    best = run.summary.get("widths", {}).get(str(rate), {}).get("half_life")
    chosen = half_lives.index(best) if best in half_lives else 0
    several = f" (half-life {half_lives[chosen]})" if len(half_lives) > 1 else ""
    return run.state.emas[chosen], f"averaged{several}"


def _denoiser(
    run: TrainedRun, theta: Float32[np.ndarray, "P"], rate: Fraction, guidance: float
) -> Denoiser:
    """Return the width by which the run was judged: the first positions of every atom."""
    if guidance and not run.config.model.label_dropout:
        raise UserError(
            "guidance: the run's network has not learned without labels; train one with "
            "model.label-dropout"
        )
    submodel = narrowed(full_submodel(run.layout), run.layout.kept_per_atom(rate))
    denoiser = submodel_denoiser(run.config, theta, submodel, run.train.image_shape[0])
    if guidance:
        denoiser = guided(denoiser, run.config.model.num_classes, guidance)
    return clipped(denoiser) if run.config.evaluation.clip else denoiser


def _labels(run: TrainedRun, count: int, label: int | None, seed: int) -> dict[str, Any]:
    """Return the denoiser's keyword arguments: nothing for an unconditional model."""
    classes = run.config.model.num_classes
    if label is not None and not 0 <= label < classes:
        reason = f"not in 0 … {classes - 1}" if classes else "given to a model without classes"
        raise UserError(f"class: {label} is {reason}")
    if not classes:
        return {}
    drawn = rng_for(seed, 0, SERVER, "sample-labels").choice(run.train.labels, count)
    return {"class_labels": torch.from_numpy(drawn if label is None else np.full(count, label))}


def parse_rate(text: str | Fraction) -> Fraction:
    """Return a rate as written, such as "1/2".

    Raises:
        UserError: The text is not a fraction.
    """
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"rate: '{text}' is not a fraction such as 1/2") from None


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch_generator(rng_for(seed, 0, SERVER, purpose))
