"""Pictures that are damaged already: repaired, with nothing known of how they were before."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from common.data import open_picture
from common.diffusion import CLOCKS, edm_grid
from common.errors import UserError
from common.files import write_json
from server.record.pictures import save_grid, save_images
from simulations.restoration.degradations import Degradation, Observed, Shape, inpainting
from simulations.restoration.images import Pictures, read_as_they_are
from simulations.restoration.restore import (
    DELTA,
    SHOWN,
    STEPS,
    draw_posterior,
    labels_of,
    opened,
)
from simulations.restoration.tasks import TASKS

SUSPECT = 1.3
"""How many times the noise that was said what is left over may be, or the other way round."""


def repair(
    run_dir: Path,
    source: str,
    task: str,
    sigma: float,
    factor: int = 2,
    mask: Path | None = None,
    draws: int = 8,
    count: int = 64,
    class_label: str | int | None = None,
    seed: int = 0,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Repair damaged pictures with a run's averaged weights.

    Writes the mean of the draws for each picture into ``repaired/``, `before-after.png` with the
    first ones, and `restore.json`. There, `left_over` is what the repaired pictures, damaged in the
    way that was described, differ from the given ones by, in units of sigma: near 1 if sigma is
    right. It is the means over draws, so that averaging does not count.

    Args:
        run_dir: The run directory.
        source: A picture, a folder of pictures or a source such as ``npz:FILE``, of exactly the
            run's size; for `superres` of that divided by the factor.
        task: One of `TASKS`: what has happened to the pictures.
        sigma: Deviation of the noise in them, black and white being 2 apart, in [0.02, 2].
        factor: How much smaller (`superres`) or darker (`lowlight`) they are.
        mask: For `inpaint` a picture of the run's size: what is black in it is lost.
        draws: As in `restore_run`, as are the others.
        count: How many pictures to take at most.
        class_label: The pictures' class, by name or number.
        seed: Of the draws.
        out: The folder to write to; ``repaired/TASK`` in the run if None.
        progress: Called with the network's calls done and in total.

    Returns:
        Lines that say what was written where.

    Raises:
        UserError: An argument is out of range, does not go with the run or the task, or a picture
            cannot be read or has another size; the line names it.
    """
    run, state, shape = opened(run_dir, task, sigma, factor, draws, count, seed)
    if (mask is None) == (task == "inpaint"):
        raise UserError(
            "mask: name a picture that is black where pixels are lost"
            if mask is None
            else f"mask: {task} has none"
        )
    channels, height, width = shape
    size = (height // factor, width // factor) if task == "superres" else (height, width)
    images = read_as_they_are(source, (channels, *size), count, run.setting.about.depth)
    lost = _damage(task, shape, sigma, factor, mask)
    observed = _observed(lost, images, task)
    labels = labels_of(run, Pictures(images, None, 0), class_label)
    grid = edm_grid(CLOCKS[run.config.clock], STEPS, DELTA)
    drawn = draw_posterior(run, state, lost, observed, labels, grid, draws, seed, progress)
    drawn = drawn.clamp(-1, 1)
    repaired = drawn.mean(dim=0)
    left_over = _left_over(lost, observed, drawn)
    out = out or run_dir / "repaired" / task
    save_images(repaired, out / "repaired")
    rows = [each[:SHOWN] for each in (lost.as_images(observed), drawn[0], repaired)]
    save_grid(torch.cat(rows), out / "before-after.png", columns=len(rows[0]))
    settings = {"task": task, "sigma": sigma, "factor": factor, "draws": draws, "seed": seed}
    report = {
        **settings,
        "source": source,
        "mask": None if mask is None else str(mask),
        "images": len(images),
        "round": state.round,
        "left_over": left_over,
    }
    write_json(out / "restore.json", report)
    lines = [
        f"{out}: {len(images)} images, {task}; rows: as they came, one draw, repaired;"
        f" single files in {out / 'repaired'}"
    ]
    if not 1 / SUSPECT <= left_over <= SUSPECT:
        lines.append(
            f"what is left over is {left_over:.2g} times the noise that --sigma says; about"
            f" {sigma * left_over:.2g} would fit, if the damage is as described"
        )
    return "\n".join(lines)


def _damage(task: str, shape: Shape, sigma: float, factor: int, mask: Path | None) -> Degradation:
    if mask is None:
        return TASKS[task].degradation(shape, sigma, factor)
    return inpainting(shape, _known(mask, shape), sigma)


def _known(mask: Path, shape: Shape) -> Bool[Tensor, "H W"]:
    """Return which pixels a mask leaves."""
    picture = open_picture(mask, 1)
    if picture.size != (shape[2], shape[1]):
        raise UserError(
            f"mask: {mask} has {picture.width}x{picture.height} pixels, the run's images have"
            f" {shape[2]}x{shape[1]}"
        )
    known = torch.from_numpy(np.asarray(picture) >= 128)
    if not known.any() or known.all():
        which = "everything" if not known.any() else "nothing"
        raise UserError(f"mask: by {mask} {which} is lost; black is what is lost")
    return known


def _observed(lost: Degradation, images: Tensor, task: str) -> Observed:
    """Return pictures as observations: what of them the damage has left."""
    flat = images.flatten(1).double()
    return lost.apply(flat) if task == "inpaint" else flat


def _left_over(lost: Degradation, observed: Observed, drawn: Tensor) -> float:
    """Return the root mean square of what single draws do not explain, in units of sigma."""
    flat: Float64[Tensor, "all d"] = drawn.flatten(0, 1).flatten(1).double()
    given = observed.repeat(len(drawn), 1)
    rest = (given - lost.apply(flat) - lost.offset) / lost.sigma
    return float(rest.square().mean().sqrt())
