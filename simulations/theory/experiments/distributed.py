"""`scorequilt theory distributed`: one worker against fleets, on a score that is known."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.figure import Figure

from common.config import RunConfig
from common.diffusion import CLOCKS, DELTA, LAWS, Denoiser, KnownLaw, kappa_grid, log_snr_grid
from common.seeding import SERVER, rng_for, torch_generator
from simulations.pictures.style import styled
from simulations.theory.federation import (
    averaged_denoiser,
    federation,
    images_of,
    small_config,
    squared_gradient_norm,
)
from simulations.theory.girsanov import ErrorEstimates, estimate_errors
from simulations.theory.report import Cell, Estimate, Finding, Table, mean_interval

LAW, SIDE, LEVELS = "gaussian-field", 8, 8
MIXED, WORKERS = "1x2 1/2x3 1/4x3", 8


@dataclass
class Outcome:
    """What a way of training led to."""

    by_level: list[Estimate]
    errors: ErrorEstimates
    gradients: list[float] = field(default_factory=list)
    dropped: list[tuple[float, float]] = field(default_factory=list)


def run(quick: bool, seed: int) -> Finding:
    """Train each way with the same images and gradient steps and compare the scores."""
    ways = _ways(seed, quick)
    if quick:
        ways = dict(list(ways.items())[::3])
    law = LAWS[LAW](SIDE)
    levels = log_snr_grid(CLOCKS["cosine"], LEVELS - 1, 0.01)
    outcomes = {name: _train(config, law, levels, quick, seed) for name, config in ways.items()}
    steps = [
        config.rounds * config.local_steps * (1 if config.fleet == "1" else WORKERS)
        for config in ways.values()
    ]
    assert len(set(steps)) == 1
    return Finding("distributed", _draw(outcomes, levels), _tables(outcomes, levels, steps[0]))


def _ways(seed: int, quick: bool) -> dict[str, RunConfig]:
    size = {"rounds": 1, "local_steps": 1} if quick else {"rounds": 12, "local_steps": 15}
    base = small_config(seed, **size)

    def way(**changes: object) -> RunConfig:
        return base.model_copy(update=changes)

    uneven = {"partition": "dirichlet", "partition_alpha": 0.1}
    return {
        "one worker": way(fleet="1", local_steps=WORKERS * base.local_steps),
        "FedAvg, dense": way(fleet=f"1x{WORKERS}"),
        "mixed, static": way(fleet=MIXED),
        "mixed, balanced": way(fleet=MIXED, policy="balanced"),
        "1/2x8, balanced": way(fleet="1/2x8", policy="balanced"),
        "mixed, static, Dirichlet 0.1": way(fleet=MIXED, **uneven),
    }


def _train(
    config: RunConfig, law: KnownLaw, levels: torch.Tensor, quick: bool, seed: int
) -> Outcome:
    data = images_of(law, 256 if quick else 4096, seed)
    sample = data.select(np.arange(128 if quick else 256))
    gradients, dropped = [], []
    for each in federation(config, data):
        gradients.append(squared_gradient_norm(config, each.state.theta, sample))
        if each.pruning_errors:
            dropped.append((float(np.mean(each.pruning_errors)), max(each.pruning_errors)))
    denoiser = averaged_denoiser(config, each.state)
    generator = torch_generator(rng_for(seed, 0, SERVER, "levels"))
    count = 64 if quick else 1024
    by_level = [mean_interval(_error(denoiser, law, t, count, generator)) for t in levels]
    grid = kappa_grid(3.0, DELTA, 0.1)
    errors = estimate_errors(law, grid, 16 if quick else 64, generator, denoiser)
    return Outcome(by_level, errors, gradients, dropped)


@torch.no_grad()
def _error(
    denoiser: Denoiser, law: KnownLaw, t: torch.Tensor, count: int, generator: torch.Generator
) -> Float64[np.ndarray, "n"]:
    """Return ‖ε_θ - ε‖²/d at draws of X_t, ε being what the true score says."""
    x = law.sample(count, generator, float(t))
    wrong = denoiser(x.float(), t).double() - law.denoiser(x, t)
    squares: Float64[np.ndarray, n] = wrong.square().flatten(1).mean(1).numpy()
    return squares


def _tables(outcomes: dict[str, Outcome], levels: torch.Tensor, steps: int) -> list[Table]:
    title = (
        f"{LAW}{SIDE}, averaged weights of the full model after {steps} gradient steps in all: "
        "squared error of the predicted noise per value, by time t"
    )
    rows: list[list[Cell | Estimate]] = [
        [name, *(each.value for each in outcome.by_level)] for name, outcome in outcomes.items()
    ]
    by_level = Table(title, ["trained by", *(f"t = {float(t):.2g}" for t in levels)], rows)
    sums: list[list[Cell | Estimate]] = []
    for name, outcome in outcomes.items():
        mean, worst = outcome.dropped[-1]
        sums.append([
            name, outcome.errors.score, outcome.errors.girsanov, mean, worst,
            outcome.gradients[0], outcome.gradients[-1],
        ])  # fmt: skip
    columns = [
        "trained by", "score error, nats", "Girsanov sum", "w², mean of last round", "w², largest",
        "‖∇F‖², first", "‖∇F‖², last",
    ]  # fmt: skip
    return [
        by_level,
        Table("The same runs: κ = 0.1, T = 3, and the UNet's own w² and gradient", columns, sums),
    ]


@styled
def _draw(outcomes: dict[str, Outcome], levels: torch.Tensor) -> Figure:
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for name, outcome in outcomes.items():
        values = [each.value for each in outcome.by_level]
        spread = [
            [each.value - each.low for each in outcome.by_level],
            [each.high - each.value for each in outcome.by_level],
        ]
        left.errorbar(levels, values, yerr=spread, fmt="-o", ms=3, label=name)
        middle.plot(outcome.gradients, "-", label=name)
        if any(mean > 1e-6 for mean, _ in outcome.dropped):
            rounds = range(1, 1 + len(outcome.dropped))
            (line,) = right.plot(rounds, [mean for mean, _ in outcome.dropped], "-", label=name)
            right.plot(rounds, [most for _, most in outcome.dropped], ":", color=line.get_color())
    left.set(xscale="log", yscale="log", xlabel="time t", ylabel="squared error of ε per value")
    left.set_title("score error by noise level")
    left.legend(fontsize=7)
    middle.set(yscale="log", xlabel="round", ylabel="‖∇F‖², UNet, fixed images and noises")
    middle.set_title("gradient of the full model")
    right.set(xlabel="round", ylabel="w²: mean (line) and largest (dots)", ylim=(0, 1))
    right.set_title("pruning error")
    right.legend(fontsize=7)
    return figure
