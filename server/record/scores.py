"""The scores of a state: those of a round, and the comparison of all widths at the end."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from common.submodels import submodel_of_rate
from server.evaluation.build import AnyEvaluator
from server.evaluation.evaluator import Evaluator
from server.evaluation.full import full_report
from server.policies import policy_named
from server.setting import Setting
from server.state import ServerState

Network = tuple[Float32[np.ndarray, "P"], Fraction]
"""Global weights and the model rate of the width to sample from."""


def sample_all(
    setting: Setting, evaluator: AnyEvaluator, networks: Sequence[Network]
) -> list[Tensor]:
    """Sample from several networks at once, each on a thread of its own and built there.

    One thread to a network uses two cores better than two threads inside every operation, which
    wait for each other some hundred times a step, and for anything else that runs.
    """
    workers = min(len(networks), os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda each: evaluator.sample(setting.denoiser(*each)), networks))


def round_scores(
    setting: Setting, evaluator: AnyEvaluator, state: ServerState
) -> tuple[dict[str, float], Tensor]:
    """Score the raw and the first averaged weights; return the latter's images as well."""
    full = Fraction(1)
    raw, images = sample_all(setting, evaluator, [(state.theta, full), (state.ema, full)])
    held_out = evaluator.held_out_loss(setting.denoiser(state.ema))
    scores = {
        "frechet": evaluator.frechet(raw),
        "frechet_ema": evaluator.frechet(images),
        "held_out_loss": held_out.mean,
        "held_out_score_loss": held_out.score,
    }
    return scores, images


def final_scores(
    setting: Setting,
    evaluator: AnyEvaluator,
    state: ServerState,
    best_round: int | None,
    widest: Fraction = Fraction(1),
) -> tuple[dict[str, Any], Tensor]:
    """Judge every width by every average; return `summary.json` and images of what samples best.

    Args:
        setting: The run's.
        evaluator: The run's.
        state: The state after the last round.
        widest: The largest rate that a client has trained; wider ones are not called best.
        best_round: The round whose averaged weights sampled best.
    """
    config = setting.config
    rates = sorted({Fraction(1), *_widths(setting)}, reverse=True)
    half_lives = [str(half_life) for half_life in config.ema.half_life]
    averages = dict(zip(half_lives, state.emas, strict=True))
    pairs = [(rate, half_life) for rate in rates for half_life in half_lives]
    networks = [(averages[half_life], rate) for rate, half_life in pairs]
    pictures = dict(zip(pairs, sample_all(setting, evaluator, networks), strict=True))
    frechet = {pair: evaluator.frechet(images) for pair, images in pictures.items()}
    widths: dict[Fraction, dict[str, Any]] = {}
    for rate in rates:
        scores = {half_life: frechet[rate, half_life] for half_life in half_lives}
        chosen = min(scores, key=lambda half_life: _nan_last(scores[half_life]))
        widths[rate] = {
            "frechet_ema": scores[chosen],
            "half_life": chosen,
            "frechet_by_half_life": scores,
            "parameters": submodel_of_rate(setting.layout, rate).size,
        }
    trained = [rate for rate in widths if rate <= widest] or list(widths)
    best = min(trained, key=lambda rate: _nan_last(widths[rate]["frechet_ema"]))
    half_life, distance = widths[best]["half_life"], widths[best]["frechet_ema"]
    images = pictures[best, half_life]
    denoiser = setting.denoiser(averages[half_life], best)
    summary = {
        "rounds": state.round,
        "best_round": best_round,
        "best_rate": None if math.isnan(distance) else str(best),
        "best_half_life": half_life,
        "frechet_ema": distance,
        "frechet_noise": evaluator.noise_baseline,
        "frechet_held_out": evaluator.reference,
        "frechet_fraction_of_noise": distance / evaluator.noise_baseline,
        "widths": {str(rate): row for rate, row in widths.items()},
        "samples": config.evaluation.samples,
        "classifier": evaluator.digest,
        "features": dict(evaluator.features),
        "held_out_loss_by_u": evaluator.held_out_loss(denoiser).by_u,
        "report": (
            full_report(evaluator, images)
            if isinstance(evaluator, Evaluator)
            else evaluator.report(images)
        ),
    }
    return summary, images


def _widths(setting: Setting) -> tuple[Fraction, ...]:
    """Return the widths that the fleet trains; masked submodels all have the full one."""
    masked = policy_named(setting.config.policy).single_weights
    return () if masked else setting.config.widths(setting.layout.atom)


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
