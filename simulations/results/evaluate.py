"""Judging a run anew: every distance of one width, and with `full` what takes longer."""

from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from common.config import CLIENTS
from common.data import Splits
from common.diffusion import SAMPLERS, Denoiser
from common.errors import UserError
from common.files import write_json
from server.evaluation.build import evaluator_for
from server.evaluation.distances import nearest
from server.evaluation.full import full_report
from server.evaluation.likelihood import held_out_bits
from server.evaluation.pooled import PooledEvaluator
from server.evaluation.stored import LEFT_OUT, StoredEvaluator
from server.record.about import read_kept
from server.record.pictures import save_grid
from server.state import Reference
from simulations.archive.record import RunRecord, read_run

NEAREST = "nearest.png"
SHOWN = 12


def evaluate_run(
    run_dir: Path,
    rate: str | None = None,
    full: bool = False,
    raw: bool = False,
    round: str | None = None,
) -> dict[str, Any]:
    """Sample a run's weights as the run itself does and write every score of them.

    The same call on the same checkpoint gives the same numbers. It also draws `plots/nearest.png`,
    samples and held-out images above the training images that are nearest to them.

    Args:
        run_dir: The run directory.
        rate: Model rate of the width to judge; None takes the summary's best, else the full width.
        full: Bits per value as well, which takes longer than everything else together.
        raw: Judge the round's own weights, not their moving average.
        round: A round as in `RunRecord.state`; None is the last.

    Where the images are not there, it judges by what the run has kept of them (`StoredEvaluator`)
    and names under `left_out` what that leaves out.

    Returns:
        What `evaluation.json` in the run then holds: what was judged, the keys of
        `full_report`, `held_out_loss`, `held_out_loss_by_u`, and with `full` the keys of
        `held_out_bits`.

    Raises:
        UserError: The run cannot be read, the rate does not fit its model, or there is nothing to
            judge by.
    """
    run = read_run(run_dir)
    config, state = run.config, run.state(round)
    chosen = run.rate(rate)
    averaged, which = run.averaged(state, chosen)
    denoiser = run.setting.denoiser(state.theta if raw else averaged, chosen)
    sampler = SAMPLERS[config.evaluation.sampler]
    result: dict[str, Any] = {
        "round": state.round,
        "rate": str(chosen),
        "weights": "last" if raw else which,
        "samples": config.evaluation.samples,
        "sampler": config.evaluation.sampler,
        "evaluations": sampler.evaluations(sampler.steps_for(config.evaluation.evaluations)),
    }
    try:
        splits = run.setting.splits
    except UserError as missing:
        result |= _by_what_is_kept(run, state.reference, denoiser, missing)
        write_json(run_dir / "evaluation.json", result)
        return result
    evaluator = evaluator_for(config, splits)
    held_out = evaluator.held_out_loss(denoiser)
    images = evaluator.sample(denoiser)
    result |= {
        "classifier": evaluator.digest,
        **full_report(evaluator, images),
        "held_out_loss": held_out.mean,
        "held_out_loss_by_u": held_out.by_u,
    }
    if full:
        conditional = config.model.num_classes > 0
        result |= held_out_bits(
            denoiser, splits, evaluator.clock, config.seed, conditional=conditional
        )
    write_json(run_dir / "evaluation.json", result)
    _draw_nearest(images, splits, run_dir / "plots" / NEAREST)
    return result


def _by_what_is_kept(
    run: RunRecord, reference: Reference, denoiser: Denoiser, missing: UserError
) -> dict[str, Any]:
    """Return the scores that take no image; `missing` says why there is none.

    Args:
        run: The run.
        reference: What clients had said of their images.
        denoiser: What is judged.
        missing: Why there are no images.
    """
    if run.config.data == CLIENTS:
        pooled = PooledEvaluator(run.config, run.setting.image_shape, reference)
        return {
            "classifier": pooled.digest,
            **pooled.report(pooled.sample(denoiser)),
            "left_out": list(LEFT_OUT),
            "why": str(missing),
        }
    if read_kept(run.path) is None:
        raise missing
    kind, kept = run.setting.about, run.kept
    evaluator = StoredEvaluator(
        run.config, kind.image_shape, kind.num_classes, kept.tensors, kept.scores
    )
    return {
        "classifier": evaluator.digest,
        **evaluator.report(evaluator.sample(denoiser)),
        "left_out": list(LEFT_OUT),
        "why": str(missing),
    }


def _draw_nearest(images: Tensor, splits: Splits, path: Path) -> None:
    """Draw the first samples, their nearest training images, held-out images, and theirs."""
    both = images[:SHOWN], torch.from_numpy(splits.test.values(slice(SHOWN)))
    rows = []
    for each in both:
        _, which = nearest(each, map(torch.from_numpy, splits.train.batches()))
        rows += [each, torch.from_numpy(splits.train.values(which.numpy()))]
    save_grid(torch.cat(rows), path, columns=len(both[0]))


def tables(result: dict[str, Any]) -> list[Table]:
    """Lay an evaluation out to be read: scores, then classes, then noise levels."""
    judged = (
        f"round {result['round']}, {result['weights']} weights at rate {result['rate']}, "
        f"{result['samples']} samples by {result['sampler']} in {result['evaluations']} evaluations"
    )
    scores = _table(judged, "score", "value", "real held-out images")
    beside = {
        "frechet": "frechet_reference",
        "wasserstein": "wasserstein_held_out",
        "nearest_train": "nearest_train_held_out",
        "bits_per_dim": "",
    }
    for key, value in result.items():
        if isinstance(value, float) and key not in beside.values():
            other = result.get(beside.get(key, ""))
            scores.add_row(key.replace("_", " "), _number(value), _number(other))
    scores.add_row("feature classifier", result["classifier"], "")
    if "left_out" in result:
        scores.caption = f"left out: {', '.join(result['left_out'])} ({result['why']})"
        scores.caption_justify = "left"
    if "by_class" not in result:  # not one finite image
        return [scores]
    classes = _table("by predicted class", "class", "share", "in training", "Fréchet", "held-out")
    for k, row in result["by_class"].items():
        shares = (result["classes"][int(k)], result["classes_train"][int(k)])
        distances = map(_number, (row["frechet"], row["frechet_held_out"]))
        classes.add_row(k, *(f"{share:.1%}" for share in shares), *distances)
    levels = _table("held-out loss by noise level", "u", "loss per value")
    for u, loss in result["held_out_loss_by_u"].items():
        levels.add_row(f"{float(u):.4f}", _number(loss))
    return [scores, classes, levels]


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
