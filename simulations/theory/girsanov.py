"""The three errors of any score on any known law, by drawing paths, with intervals."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from common.diffusion import Denoiser, Grid, KnownLaw, perturb, sigma
from simulations.theory.report import Estimate, mean_interval


@dataclass(frozen=True)
class ErrorEstimates:
    """Estimates of `exact.Errors` and of the bound that they add up to."""

    initial: Estimate
    score: Estimate
    discretisation: Estimate
    path: Estimate
    girsanov: Estimate


@torch.no_grad()
def estimate_errors(
    law: KnownLaw,
    grid: Grid,
    count: int,
    generator: torch.Generator,
    denoiser: Denoiser | None = None,
) -> ErrorEstimates:
    """Estimate what `exact.Errors` names, without bias.

    Each of `count` independent paths adds, for every step, one time drawn uniformly within it. The
    initial divergence is the mean of e^r - 1 - r, r = log N(x; 0, I) - log q_T(x), at draws x of
    q_T: each term is positive, so that small divergences are not lost in noise.

    Args:
        law: The data.
        grid: The sampler's times.
        count: Paths.
        generator: Draws them.
        denoiser: The score to judge, asked in float32 as in training; None is the exact one.
    """
    x0, _ = law.draw(count, generator)
    totals = {key: torch.zeros(count, dtype=torch.float64) for key in ("score", "disc", "path")}
    for t, s in pairwise(grid.tolist()):
        share = torch.rand(count, generator=generator, dtype=torch.float64)
        within, gamma = s + (t - s) * share, t - s
        x_within = perturb(x0, within, _noise(x0, generator))
        x_t = perturb(x_within, t - within, _noise(x0, generator))
        time = torch.tensor(t, dtype=torch.float64)
        true_within, true_t = law.score(x_within, within), law.score(x_t, time)
        model = true_t
        if denoiser is not None:
            model = -denoiser(x_t.float(), time).double() / sigma(t)
        totals["score"] += gamma * _squares(model - true_t)
        totals["disc"] += gamma * _squares(true_within - true_t)
        totals["path"] += gamma * _squares(model - true_within)
    horizon = grid[0]
    x = perturb(x0, horizon, _noise(x0, generator))
    normal = -(x.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2
    r = normal - law.log_prob(x, horizon)
    initial = torch.where(r.abs() < 1e-5, r.square() / 2, torch.expm1(r) - r)
    return ErrorEstimates(
        *(
            mean_interval(each.numpy())
            for each in (initial, *totals.values(), initial + totals["path"])
        )
    )


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype)


def _squares(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)
