"""The scores of a state: those of a round, and the comparison of all widths at the end."""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from common.resources import cores
from common.submodels import submodel_of_rate
from server.evaluation.build import AnyEvaluator
from server.evaluation.evaluator import Evaluator
from server.evaluation.full import full_report
from server.policies import policy_named
from server.record.history import Best
from server.setting import Setting
from server.state import ServerState

Network = tuple[Float32[np.ndarray, "P"], Fraction]
"""Global weights and the model rate of the width to sample from."""


Pictures = dict[Fraction, Tensor]
"""Samples by model rate."""


def sample_all(
    setting: Setting, evaluator: AnyEvaluator, networks: Sequence[Network]
) -> list[Tensor]:
    """Sample from several networks at once, each on a thread of its own and built there.

    One thread to a network uses two cores better than two threads inside every operation, which
    wait for each other some hundred times a step, and for anything else that runs.
    """
    workers = max(1, min(len(networks), cores()))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda each: evaluator.sample(setting.denoiser(*each)), networks))


def round_scores(
    setting: Setting, evaluator: AnyEvaluator, state: ServerState
) -> tuple[dict[str, Any], Pictures]:
    """Score the weights, and every judged width of their first average.

    Returns:
        The history's columns, and what the widths of the average have sampled.
    """
    full, rates = Fraction(1), judged_widths(setting)
    averages = [(state.ema, rate) for rate in rates]
    raw, *pictures = sample_all(setting, evaluator, [(state.theta, full), *averages])
    frechet = dict(zip(rates, map(evaluator.frechet, pictures), strict=True))
    held_out = evaluator.held_out_loss(setting.denoiser(state.ema))
    scores = {
        "frechet": evaluator.frechet(raw),
        "frechet_ema": frechet[full],
        "frechet_by_width": {str(rate): distance for rate, distance in frechet.items()},
        "frechet_noise": evaluator.noise_baseline,
        "held_out_loss": held_out.mean,
        "held_out_score_loss": held_out.score,
    }
    return scores, dict(zip(rates, pictures, strict=True))


def final_scores(
    setting: Setting,
    evaluator: AnyEvaluator,
    state: ServerState,
    best: Best | None,
    widest: Fraction,
    earlier: Callable[[int], ServerState],
    sampled: Pictures,
) -> tuple[dict[str, Any], Tensor]:
    """Judge every width by every average; return `summary.json` and images of what samples best.

    That is one of these, or what sampled better after an earlier round.

    Args:
        setting: The run's.
        evaluator: The run's.
        state: The state after the last round.
        best: What sampled best by the history.
        widest: The largest rate that a client has trained; wider ones are not called best.
        earlier: Returns the state after an earlier round, that of `best`.
        sampled: What widths of the first average have sampled already.
    """
    config = setting.config
    rates = widths_of(setting)
    half_lives = [str(half_life) for half_life in config.ema.half_life]
    averages = dict(zip(half_lives, state.emas, strict=True))
    pairs = [(rate, half_life) for rate in rates for half_life in half_lives]
    pictures = {(rate, half_lives[0]): images for rate, images in sampled.items()}
    missing = [pair for pair in pairs if pair not in pictures]
    networks = [(averages[half_life], rate) for rate, half_life in missing]
    pictures |= zip(missing, sample_all(setting, evaluator, networks), strict=True)
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
    rate = min(trained, key=lambda rate: _nan_last(widths[rate]["frechet_ema"]))
    half_life, distance, round = widths[rate]["half_life"], widths[rate]["frechet_ema"], state.round
    denoiser, images = setting.denoiser(averages[half_life], rate), pictures[rate, half_life]
    if best is not None and best.round < state.round and best.distance < _nan_last(distance):
        half_life, (round, rate, distance) = half_lives[0], best
        denoiser = setting.denoiser(earlier(round).ema, rate)
        images = evaluator.sample(denoiser)
    known = not math.isnan(distance)
    summary = {
        "rounds": state.round,
        "best_round": round if known else None,
        "best_rate": str(rate) if known else None,
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


def widths_of(setting: Setting) -> list[Fraction]:
    """Return the full width and those that the fleet trains, from wide to narrow.

    Masked submodels all have the full one.
    """
    masked = policy_named(setting.config.policy).single_weights
    fleet = () if masked else setting.config.widths(setting.layout.atom)
    return sorted({Fraction(1), *fleet}, reverse=True)


def judged_widths(setting: Setting) -> list[Fraction]:
    """Return the widths that are judged every round, the full one first."""
    return widths_of(setting) if setting.config.evaluation.widths == "all" else [Fraction(1)]


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value
