"""`scorequilt theory pruning`: what the floor of the gradient has to do with w² and Γ."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.figure import Figure

from common.seeding import SERVER, rng_for
from simulations.pictures.style import styled
from simulations.theory.experiments.convergence import MIXED, Case
from simulations.theory.pruned import dropped, masks_of
from simulations.theory.report import Cell, Estimate, Finding, Table, bootstrap
from simulations.theory.toy import full_gradient, problem, squared_norm

RATE = 0.05


@dataclass(frozen=True)
class Floor:
    """Where a case ends: squared gradient norms and w² of its runs, and its coverage.

    `gamma` is the theory's, the least number of clients on a weight in any round; `average` is the
    least over weights of their mean number over rounds, which is what policies that move even out.
    """

    case: Case
    norms: Float64[np.ndarray, "R"]
    dropped: Float64[np.ndarray, "R"]
    density: float
    gamma: int
    average: float


def run(quick: bool, seed: int) -> Finding:
    """Train fleets of several widths and policies with vanishing steps and see where they end."""
    rounds, runs = (32, 3) if quick else (600, 8)
    cases = _cases()[:: 6 if quick else 1]
    floors = [floor(case, rounds, runs, seed) for case in cases]
    return Finding("pruning", _draw(floors), [_table(floors, rounds, runs, seed)])


def _cases() -> list[Case]:
    cases = [Case("dense", "1x8")]
    for fleet in ("3/4x8", "1/2x8", "1/4x8", MIXED):
        name = "mixed" if fleet == MIXED else fleet
        cases += [
            Case(f"{name} {policy}", fleet, policy)
            for policy in ("static", "rolling", "random", "balanced")
        ]
        cases.append(Case(f"{name} balanced, scaler", fleet, scaler=True))
    cases += [Case(f"1/2x{n} balanced", f"1/2x{n}") for n in (4, 16)]
    cases += [Case(f"1x{n} 1/2x{8 - n} static", f"1x{n} 1/2x{8 - n}", "static") for n in (1, 2, 4)]
    return cases


def floor(case: Case, rounds: int, runs: int, seed: int) -> Floor:
    """Train a case with a step size that falls to 0 by a cosine."""
    found = case.train(seed, runs, rounds, lambda q: RATE * (1 + math.cos(math.pi * q / rounds)))
    masks = masks_of(case.fleet, case.policy, seed, case.scaler)
    gradients = full_gradient(found.theta, problem(masks.shape[1], case.alpha, seed))
    kept = masks > 0
    return Floor(
        case,
        squared_norm(gradients),
        dropped(found.theta, masks),
        float(kept.double().mean()),
        int(kept.sum(1).min()),
        float(kept.sum(1).double().mean(0).min()),
    )


def _table(floors: list[Floor], rounds: int, runs: int, seed: int) -> Table:
    rng = rng_for(seed, 0, SERVER, "bootstrap of floors")
    rows: list[list[Cell | Estimate]] = [
        [
            each.case.label,
            each.density,
            each.gamma,
            each.average,
            float(each.dropped.mean()),
            bootstrap(lambda rows: float(rows.mean()), each.norms, rng),
        ]
        for each in floors
    ]
    title = (
        f"‖∇F‖² after {rounds} rounds of 4 local steps, step size falling from {2 * RATE} to 0 by "
        f"a cosine; {runs} runs; Γ is the least number of clients on a weight, in any round and by "
        "the mean over rounds"
    )
    columns = ["fleet", "density", "Γ", "Γ on average", "w²", "‖∇F‖² at the end"]
    return Table(title, columns, rows)


def shape_constant(floors: list[Floor]) -> float:
    """Return the c whose c w² fits the floors of pruned runs best in ratio."""
    pruned = [each for each in floors if each.dropped.mean() > 1e-6]
    ratios = [each.norms.mean() / each.dropped.mean() for each in pruned]
    return float(torch.tensor(ratios).log().mean().exp())


@styled
def _draw(floors: list[Floor]) -> Figure:
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    policies = ("static", "rolling", "random", "balanced")
    for each in floors:
        case, height = each.case, float(each.norms.mean())
        colour = "k" if case.label == "dense" else f"C{policies.index(case.policy)}"
        marker = "s" if case.scaler else "o"
        for axes, x in ((left, float(each.dropped.mean())), (right, each.average)):
            axes.plot(x, height, marker, color=colour, ms=5, alpha=0.8)
        if case.policy in ("static", "balanced"):
            left.annotate(case.label, (float(each.dropped.mean()), height), fontsize=5)
    plain = [each for each in floors if not each.case.scaler]
    c, shares = shape_constant(plain), np.linspace(0.02, 0.9, 50)
    left.plot(
        shares, c * shares, "k:", lw=1, label=f"shape only: c w², c = {c:.2g} fitted to circles"
    )
    for i, policy in enumerate(policies):
        left.plot([], [], "o", color=f"C{i}", label=policy)
    left.plot([], [], "s", color="C3", label="balanced, with the scaler")
    left.plot([], [], "o", color="k", label="dense")
    left.set(yscale="log", xlabel="w² at the end", ylabel="‖∇F‖² at the end")
    left.set_title("floor and pruning error")
    left.legend(fontsize=7)
    right.set(yscale="log", xlabel="Γ on average over rounds", ylabel="‖∇F‖² at the end")
    right.set_title("floor and coverage")
    return figure
