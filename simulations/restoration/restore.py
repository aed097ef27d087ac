"""Restore degraded images with a run's weights, and measure by how much that beats filtering."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torchmetrics.functional.image.psnr import peak_signal_noise_ratio
from torchmetrics.functional.image.ssim import structural_similarity_index_measure

from common.data.classes import numbered, said_classes
from common.diffusion import CLOCKS, Grid, edm_grid, for_sampling
from common.errors import UserError
from common.files import write_json
from common.network import images_at_once
from common.seeding import SERVER, rng_for, torch_generator
from server.evaluation.pixels import MOST_VALUES
from server.record.pictures import save_grid
from server.state import ServerState
from simulations.archive.record import RunRecord, read_run
from simulations.restoration.degradations import Degradation, Shape
from simulations.restoration.images import Pictures, read_images
from simulations.restoration.posterior import evaluations, posterior_sample
from simulations.restoration.tasks import TASKS, Task, gaussian_filter

STEPS, DELTA = 20, 2e-4  # at DELTA the noise has a deviation of 0.02
LEAST_SIGMA, MOST_SIGMA = 0.02, 2.0
RIDGE = 1e-3  # keeps pixels that never vary from making the covariance singular
SHOWN = 16

Images = Float[Tensor, "n C H W"]


def restore_run(
    run_dir: Path,
    source: str,
    task: str,
    sigma: float = 0.2,
    factor: int = 2,
    draws: int = 8,
    count: int = 64,
    class_label: str | int | None = None,
    seed: int = 0,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Degrade images, restore them with a run's averaged weights, and say how good that is.

    Writes `before-after.png` with the first images, and `restore.json` with the peak
    signal-to-noise ratio in dB and the structural similarity (Wang et al. 2004), means over the
    images, of what is left of them, of the baseline, of one draw from the posterior, and of the
    mean of all draws, the estimate of least squared error. The baseline has the filter widths that
    are best for these very images. `error_over_spread` is 1 when the truth is as far from the mean
    of the draws as another draw would be.

    Args:
        run_dir: The run directory.
        source: A picture, a folder of pictures, or ``held-out`` for the run's own test images.
        task: One of `TASKS`.
        sigma: Deviation of the noise, black and white being 2 apart, in [0.02, 2].
        factor: See `TASKS`; at least 2, and for `superres` a divisor of height and width.
        draws: Draws from the posterior for each image, at least 1.
        count: How many images to take at most, at least 1.
        class_label: The images' class, by name or number, for a model that has classes. If None,
            one that has learned without labels, too, is given none; another takes those of
            held-out images and must be told for others.
        seed: Of the noise and the draws, 0 or greater.
        out: The folder to write to; ``restored/TASK`` in the run if None.
        progress: Called with the network's calls done and in total.

    Returns:
        Lines that say what was written where, and the ratios.

    Raises:
        UserError: An argument is out of range or does not go with the run, or a file cannot be
            read; the line names it.
    """
    run, state, shape = opened(run_dir, task, sigma, factor, draws, count, seed)
    about = run.setting.about
    pictures = read_images(source, shape, count, about.depth, lambda: run.setting.splits.test)
    lost = TASKS[task].degradation(shape, sigma, factor)
    observed = lost.observe(pictures.images, _generator(seed, "restore-noise"))

    started = time.perf_counter()
    labels = labels_of(run, pictures, class_label)
    grid = edm_grid(CLOCKS[run.config.clock], STEPS, DELTA)
    drawn = draw_posterior(run, state, lost, observed, labels, grid, draws, seed, progress)
    seconds = time.perf_counter() - started
    widths, baseline = _best_baseline(TASKS[task], lost, observed, factor, pictures.images)
    images = {
        "degraded": lost.as_images(observed),
        "baseline": baseline,
        "draw": drawn[0],
        "restored": drawn.clamp(-1, 1).mean(dim=0),
    }
    scores = {name: _scores(each, pictures.images) for name, each in images.items()}
    out = out or run_dir / "restored" / task
    shown = torch.cat([each[:SHOWN] for each in (pictures.images, *images.values())])
    save_grid(shown, out / "before-after.png", columns=min(SHOWN, len(pictures.images)))
    settings = {"task": task, "sigma": sigma, "factor": factor, "draws": draws, "seed": seed}
    report: dict[str, Any] = {
        **settings,
        "source": source,
        "images": len(pictures.images),
        "fitted": pictures.fitted,
        "round": state.round,
        "evaluations_per_draw": evaluations(lost, grid),
        "seconds": seconds,
        "baseline": TASKS[task].baseline_name,
        "baseline_widths": widths,
        "error_over_spread": _error_over_spread(drawn, pictures.images),
        "psnr": {name: psnr for name, (psnr, _) in scores.items()},
        "ssim": {name: ssim for name, (_, ssim) in scores.items()},
    }
    write_json(out / "restore.json", report)
    lines = [f"{out}: {len(pictures.images)} images, {task}; rows: the truth, {', '.join(images)}"]
    if pictures.fitted:
        lines.append(f"{pictures.fitted} of them cropped and resized to {shape[2]}x{shape[1]}")
    figures = (f"{name} {psnr:.2f} dB ({ssim:.3f})" for name, (psnr, ssim) in scores.items())
    lines.append(f"PSNR (SSIM): {', '.join(figures)}")
    return "\n".join(lines)


def opened(
    run_dir: Path, task: str, sigma: float, factor: int, draws: int, count: int, seed: int
) -> tuple[RunRecord, ServerState, Shape]:
    """Check what was asked for and return the run, its last state and the shape of its images.

    Raises:
        UserError: As `restore_run`.
    """
    if task not in TASKS:
        raise UserError(f"task: '{task}' is not one of {', '.join(TASKS)}")
    if not LEAST_SIGMA <= sigma <= MOST_SIGMA:
        raise UserError(f"sigma: must lie in {LEAST_SIGMA:g} … {MOST_SIGMA:g}, not {sigma:g}")
    least = [("factor", factor, 2), ("draws", draws, 1), ("count", count, 1), ("seed", seed, 0)]
    for key, value, minimum in least:
        if value < minimum:
            raise UserError(f"{key}: must be at least {minimum}, not {value}")
    run = read_run(run_dir)
    state = run.state()
    shape = run.setting.image_shape
    if math.prod(shape) > MOST_VALUES:
        raise UserError(f"{run_dir}: its images have over {MOST_VALUES} values, too many for this")
    if task == "superres" and (shape[1] % factor or shape[2] % factor):
        raise UserError(f"factor: {factor} does not divide the run's {shape[2]}x{shape[1]} pixels")
    return run, state, shape


def draw_posterior(
    run: RunRecord,
    state: ServerState,
    lost: Degradation,
    observed: Float64[Tensor, "n m"],
    labels: dict[str, Tensor],
    grid: Grid,
    draws: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Float[Tensor, "draws n C H W"]:
    """Return draws from the posterior of every observation."""
    rate = run.rate()
    weights, _ = run.averaged(state, rate)
    clip = run.config.evaluation.clip
    denoiser = for_sampling(run.setting.denoiser(weights, rate), clip=clip)
    covariance = torch.from_numpy(run.covariance)
    covariance = covariance + RIDGE * torch.eye(len(covariance), dtype=torch.float64)
    observed = observed.repeat(draws, 1)
    labels = {key: value.repeat(draws) for key, value in labels.items()}
    generator = _generator(seed, "restore-draws")
    noise = torch.randn(len(observed), *lost.shape, generator=generator)
    batch = images_at_once(run.config.model, run.setting.image_shape)
    starts = range(0, len(observed), batch)
    total = evaluations(lost, grid) * len(starts)
    done = 0

    def batched(x: Tensor, t: Tensor) -> Tensor:
        nonlocal done
        parts = []
        for i in starts:
            cut = {key: value[i : i + batch] for key, value in labels.items()}
            parts.append(denoiser(x[i : i + batch], t, **cut))
            done += 1
            if progress is not None:
                progress(done, total)
        return torch.cat(parts)

    images = posterior_sample(batched, lost, observed, covariance, grid, noise, generator)
    return images.unflatten(0, (draws, -1))


def labels_of(run: RunRecord, pictures: Pictures, asked: str | int | None) -> dict[str, Tensor]:
    """Return the denoiser's keyword arguments: nothing for an unconditional model."""
    classes = run.config.model.num_classes
    label = None if asked is None else run.class_of(asked)
    if not classes:
        return {}
    if label is None and run.config.model.label_dropout:
        label = classes  # the null class
    elif label is None:
        if pictures.labels is None:
            known = said_classes(run.setting.about.classes or numbered(classes))
            raise UserError(f"class: say which of this model's classes the images show: {known}")
        return {"class_labels": pictures.labels}
    return {"class_labels": torch.full((len(pictures.images),), label)}


def _best_baseline(
    task: Task, lost: Degradation, observed: Tensor, factor: int, truth: Images
) -> tuple[tuple[float, float], Images]:
    """Return the widths of both filters that are best in hindsight, and what they give."""
    tried = [
        ((width, after), gaussian_filter(task.baseline(lost, observed, factor, width), after))
        for width in task.widths
        for after in task.afterwards
    ]
    return max(tried, key=lambda each: _scores(each[1], truth)[0])


def _scores(images: Images, truth: Images) -> tuple[float, float]:
    """Return the means over images of PSNR in dB and of SSIM; the range is [-1, 1]."""
    ours, theirs = (images.clamp(-1, 1) + 1) / 2, (truth + 1) / 2
    psnr = peak_signal_noise_ratio(ours, theirs, data_range=1.0, dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(ours, theirs, data_range=1.0)
    return float(psnr), float(ssim)


def _error_over_spread(drawn: Float[Tensor, "draws n C H W"], truth: Images) -> float | None:
    """Return the squared distance of the truth from the mean draw over what one more draw has."""
    if len(drawn) < 2:
        return None
    error = (drawn.mean(dim=0) - truth).square().mean()
    return float(error / (drawn.var(dim=0).mean() * (1 + 1 / len(drawn))))


def _generator(seed: int, purpose: str) -> torch.Generator:
    return torch_generator(rng_for(seed, 0, SERVER, purpose))
