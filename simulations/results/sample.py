"""Pictures sampled from a run's weights."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from common.diffusion import CLOCKS, DELTA, GRIDS, SAMPLERS, for_sampling, sample
from common.errors import UserError
from common.network import images_at_once
from common.seeding import SERVER, rng_for, torch_generator
from server.record.pictures import check_images_path, save_images
from simulations.archive.record import RunRecord, read_run


def sample_run(
    run_dir: Path,
    count: int,
    sampler: str | None = None,
    evaluations: int | None = None,
    rate: str | Fraction | None = None,
    class_label: str | int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    out: Path | None = None,
    raw: bool = False,
    progress: Callable[[int, int], None] | None = None,
    steps: int | None = None,
    round: str | None = None,
) -> str:
    """Sample images from a run's weights and write them as a sheet, as files or as an array.

    Args:
        run_dir: The run directory.
        count: How many images, at least 1.
        sampler: One of `SAMPLERS`; the run's own if None.
        evaluations: Network evaluations per image, at least 1; the run's own if None.
        rate: Model rate of the width to sample from; if None the one that the run's summary found
            to sample best, or the full width before the run's end.
        class_label: The class of all images, by name or number; None draws classes as frequent as
            in training.
        guidance: Weight of classifier-free guidance, at least 0, for which every evaluation of the
            sampler asks the network twice; the run's own if None.
        seed: Of noise, classes and the sampler, 0 or greater. The same call gives the same picture.
        out: A sheet of all, ``.npz`` or a folder (`save_images`); ``samples/drawn.png`` if None.
        raw: Take the last round's weights, not their moving average. Of several averages it is
            the one that the summary found best at this width, before the run's end the first.
        progress: Called with the network's calls done and in total.
        steps: The sampler's steps, at least 1, in place of `evaluations`.
        round: As in `RunRecord.state`.

    Returns:
        A line that says what was written where.

    Raises:
        UserError: An argument is out of range or does not go with the run, or its directory cannot
            be read; the line names it.
    """
    out = out or run_dir / "samples" / "drawn.png"
    check_images_path(out)
    images, said = draw_images(
        run_dir, count, sampler, evaluations, rate, class_label, guidance, seed, raw, progress,
        steps, round,
    )  # fmt: skip
    save_images(images, out)
    return f"{out}: {said}"


def draw_images(
    run_dir: Path,
    count: int,
    sampler: str | None = None,
    evaluations: int | None = None,
    rate: str | Fraction | None = None,
    class_label: str | int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    raw: bool = False,
    progress: Callable[[int, int], None] | None = None,
    steps: int | None = None,
    round: str | None = None,
) -> tuple[Float32[Tensor, "N C H W"], str]:
    """Return images sampled from a run's weights, in [-1, 1], and a line that says of what.

    Arguments and errors are those of `sample_run`.
    """
    least = {"count": (count, 1), "evaluations": (evaluations, 1), "steps": (steps, 1)}
    for key, (value, minimum) in (least | {"seed": (seed, 0), "guidance": (guidance, 0)}).items():
        if value is not None and not minimum <= value < math.inf:
            raise UserError(f"{key}: must be at least {minimum}, not {value}")
    if steps is not None and evaluations is not None:
        raise UserError("steps: say these or evaluations, not both")
    run = read_run(run_dir)
    state = run.state(round)
    sampler = sampler or run.config.evaluation.sampler
    if sampler not in SAMPLERS:
        raise UserError(f"sampler: '{sampler}' is not one of {', '.join(SAMPLERS)}")
    budget = evaluations or run.config.evaluation.evaluations
    steps = steps or SAMPLERS[sampler].steps_for(budget)
    chosen = run.rate(rate)
    weight = run.config.evaluation.guidance if guidance is None else guidance
    if weight and not run.config.model.label_dropout:
        raise UserError(
            "guidance: the run's network has not learned without labels; train one with "
            "model.label-dropout"
        )
    averaged, which = run.averaged(state, chosen)
    denoiser = for_sampling(
        run.setting.denoiser(state.theta if raw else averaged, chosen),
        clip=run.config.evaluation.clip,
        guidance=weight,
        null_class=run.config.model.num_classes,
    )
    labels = _labels(run, count, class_label, seed)
    grid = GRIDS[run.config.evaluation.grid](CLOCKS[run.config.clock], steps, DELTA)
    noise = torch.randn(count, *run.setting.image_shape, generator=_generator(seed, "sample-noise"))
    steered = _generator(seed, "sample-sampler")
    size = images_at_once(run.config.model, run.setting.image_shape)
    images = sample(sampler, denoiser, grid, noise, steered, size, progress, **labels)
    weights, used = "last" if raw else which, SAMPLERS[sampler].evaluations(steps)
    return images, (
        f"{count} images from the {weights} weights of round {state.round} at rate "
        f"{chosen}, {sampler} in {used} evaluations{f' guided by {weight:g}' if weight else ''}"
    )


def _labels(run: RunRecord, count: int, asked: str | int | None, seed: int) -> dict[str, Any]:
    """Return the denoiser's keyword arguments: nothing for an unconditional model."""
    label = None if asked is None else run.class_of(asked)
    if not run.config.model.num_classes:
        return {}
    drawn = rng_for(seed, 0, SERVER, "sample-labels").choice(run.train_labels, count)
    return {"class_labels": torch.from_numpy(drawn if label is None else np.full(count, label))}


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch_generator(rng_for(seed, 0, SERVER, purpose))
