"""`scorequilt theory convergence`: how fast gradients fall under pruning, and to what floor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.figure import Figure

from common.seeding import SERVER, rng_for, torch_generator
from simulations.pictures.style import styled
from simulations.theory.pruned import Trained, masks_of, pruned_drift, train
from simulations.theory.report import Cell, Estimate, Finding, Table, bootstrap
from simulations.theory.toy import initial, problem, squared_norm

LOCAL_STEPS, MIXED = 4, "1x2 1/2x3 1/4x3"
Norms = Float64[np.ndarray, "R x"]
"""Squared gradient norms of R runs at some abscissae."""


@dataclass(frozen=True)
class Case:
    """A fleet, how it is pruned, and whether its data are dealt unevenly (Dirichlet)."""

    label: str
    fleet: str
    policy: str = "balanced"
    scaler: bool = False
    alpha: float = 0.0

    def train(
        self, seed: int, runs: int, rounds: int, rate: Callable[[int], float],
        local_steps: int = LOCAL_STEPS, theta: torch.Tensor | None = None,
    ) -> Trained:  # fmt: skip
        """Train R runs of this case, from fresh weights unless given."""
        masks = masks_of(self.fleet, self.policy, seed, self.scaler)
        data = problem(masks.shape[1], self.alpha, seed)
        generator = torch_generator(rng_for(seed, rounds, SERVER, self.label))
        start = initial(runs, seed) if theta is None else theta
        return train(data, masks, start, rate, rounds, local_steps, generator)

    def drift(self, theta: torch.Tensor, seed: int) -> Float64[np.ndarray, "R"]:
        """Return the squared norm of the mean step that pruned clients would take."""
        masks = masks_of(self.fleet, self.policy, seed, self.scaler)
        return squared_norm(pruned_drift(theta, problem(masks.shape[1], self.alpha, seed), masks))


DENSE = Case("dense", "1x8")
CASES = (
    DENSE,
    Case("dense, Dirichlet 0.1", "1x8", alpha=0.1),
    Case("3/4x8 balanced", "3/4x8"),
    Case("1/2x8 balanced", "1/2x8"),
    Case("mixed static", MIXED, "static"),
    Case("mixed static, Dirichlet 0.1", MIXED, "static", alpha=0.1),
    Case("mixed static, scaler", MIXED, "static", scaler=True),
    Case("1/2x8 balanced, scaler", "1/2x8", scaler=True),
)


def run(quick: bool, seed: int) -> Finding:
    """Fit rates and floors over rounds, step sizes, pruning, local steps, clients, schedules."""
    cases = CASES[::4] if quick else CASES
    runs = 3 if quick else 8
    rounds = (8, 16, 32) if quick else (16, 32, 64, 128, 256, 512)
    rates = (0.1, 0.05, 0.025) if quick else (0.1, 0.05, 0.025, 0.0125)
    by_rounds = {case: _over_rounds(case, rounds, runs, seed) for case in cases}
    by_rate = {case: _over_rates(case, rates, runs, seed, quick) for case in cases}
    tables = [
        _rounds_table(by_rounds, rounds, seed),
        _rates_table(by_rate, rates, seed),
        _choices_table(8 if quick else 256, runs, seed),
    ]
    norms = {case: norms for case, (norms, _) in by_rate.items()}
    return Finding("convergence", _draw(by_rounds, rounds, norms, rates), tables)


def _over_rounds(case: Case, rounds: Sequence[int], runs: int, seed: int) -> Norms:
    """Return each run's average squared gradient norm when Q rounds are trained at c/√(QE)."""
    averages = []
    for total in rounds:
        rate = constant(0.8 / math.sqrt(total * LOCAL_STEPS))  # 0.1 at Q = 16
        found = case.train(seed, runs, total, rate)
        averages.append(found.average)
    return np.stack(averages, 1)


def _over_rates(
    case: Case, rates: Sequence[float], runs: int, seed: int, quick: bool
) -> tuple[Norms, Float64[np.ndarray, "R"]]:
    """Return each run's squared gradient norm where it settles, by step size, and its drift there.

    All start where long training at the first rate has led, and then go on for equal times: the
    smaller the steps, the more of them. The second half is averaged.
    """
    settled = case.train(seed, runs, 16 if quick else 800, constant(rates[0])).theta
    norms = []
    for rate in rates:
        total = round((0.5 if quick else 8) / rate)
        found = case.train(seed, runs, total, constant(rate), theta=settled)
        norms.append(found.end(0.5))
    return np.stack(norms, 1), case.drift(found.theta, seed)


def constant(rate: float) -> Callable[[int], float]:
    """Return the schedule that never changes."""
    return lambda _: rate


def power(x: Sequence[float | int], norms: Norms) -> float:
    """Return the slope of log mean norm on log x."""
    return float(np.polyfit(np.log(x), np.log(norms.mean(0)), 1)[0])


def limit(x: Sequence[float | int], norms: Norms) -> float:
    """Return the value at 0 of the parabola through the mean norms, at least 0.

    Errors count relatively, so that the smallest x, where the norms may be small, decide.
    """
    mean = norms.mean(0)
    return max(0.0, float(np.polyfit(x, mean, 2, w=1 / mean)[2]))


def _rounds_table(by_rounds: dict[Case, Norms], rounds: Sequence[int], seed: int) -> Table:
    rng = rng_for(seed, 0, SERVER, "bootstrap over rounds")
    rows: list[list[Cell | Estimate]] = []
    half = len(rounds) // 2
    for case, norms in by_rounds.items():
        first, last = (
            bootstrap(partial(power, rounds[part]), norms[:, part], rng)
            for part in (slice(0, half + 1), slice(half - 1, None))
        )
        rows.append([case.label, *norms.mean(0).tolist(), first, last])
    columns = ["fleet", *(f"Q = {q}" for q in rounds), "power of Q, first half", "last half"]
    title = (
        f"Average over q < Q of ‖∇F(θ_q)‖², step 0.8/√(QE), E = {LOCAL_STEPS}, N = 8; exact "
        f"gradients, mean of {len(norms)} runs, bootstrap intervals"
    )
    return Table(title, columns, rows)


def _rates_table(
    by_rate: dict[Case, tuple[Norms, Float64[np.ndarray, "R"]]], rates: Sequence[float], seed: int
) -> Table:
    rng = rng_for(seed, 0, SERVER, "bootstrap over rates")
    rows: list[list[Cell | Estimate]] = []
    for case, (norms, drift) in by_rate.items():
        floor = bootstrap(partial(limit, rates), norms, rng)
        rows.append([case.label, *norms.mean(0).tolist(), floor, float(drift.mean())])
    columns = ["fleet", *(f"η = {rate}" for rate in rates), "floor at η → 0", "‖pruned drift‖²"]
    return Table("‖∇F‖² where training settles, by constant step size η", columns, rows)


def _choices_table(rounds: int, runs: int, seed: int) -> Table:
    """Compare local steps, clients and schedules, one at a time."""
    pruned = Case("mixed static", MIXED, "static")
    uneven = Case("dense, Dirichlet 0.1", "1x8", alpha=0.1)
    schedules: dict[str, Callable[[int], float]] = {
        "constant 0.1": constant(0.1),
        "0.1/√(1 + q/16)": lambda q: 0.1 / math.sqrt(1 + q / 16),
        "cosine from 0.1": lambda q: 0.05 * (1 + math.cos(math.pi * q / rounds)),
    }
    trained: list[tuple[str, Case, Trained]] = []
    for case in (DENSE, uneven, pruned):
        for steps in (1, 4, 16):
            total = rounds * LOCAL_STEPS // steps
            found = case.train(seed, runs, total, schedules["constant 0.1"], steps)
            trained.append((f"E = {steps}, QE = {rounds * LOCAL_STEPS}, constant 0.1", case, found))
        for name, rate in list(schedules.items())[1:]:
            found = case.train(seed, runs, rounds, rate)
            trained.append((f"E = {LOCAL_STEPS}, {name}", case, found))
    for clients in (2, 4, 16):
        case = Case("dense", f"1x{clients}")
        found = case.train(seed, runs, rounds, schedules["constant 0.1"])
        trained.append((f"N = {clients}, constant 0.1", case, found))
    rows: list[list[Cell | Estimate]] = []
    rng = rng_for(seed, 0, SERVER, "bootstrap of choices")
    for choice, case, found in trained:
        mean = bootstrap(lambda rows: float(rows.mean()), found.end(0.25), rng)
        rows.append([case.label, choice, mean])
    title = (
        f"‖∇F‖² over the last quarter of {rounds * LOCAL_STEPS} local steps; N = 8 where not said"
    )
    return Table(title, ["fleet", "choice", "‖∇F‖²"], rows)


@styled
def _draw(
    by_rounds: dict[Case, Norms],
    rounds: Sequence[int],
    by_rate: dict[Case, Norms],
    rates: Sequence[float],
) -> Figure:
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, x, found in ((left, rounds, by_rounds), (right, rates, by_rate)):
        for case, norms in found.items():
            mean = norms.mean(0)
            low, high = np.quantile(norms, [0.1, 0.9], axis=0)
            (line,) = axes.plot(x, mean, "-o", ms=3, label=case.label)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.set_xticks([], minor=True)
    shape = np.sqrt(rounds[0] / np.array(rounds)) * next(iter(by_rounds.values())).mean(0)[0]
    left.plot(rounds, shape, "k:", label="shape: 1/√Q")
    left.set(xlabel="rounds Q, step size c/√(QE)", ylabel="average of ‖∇F(θ_q)‖² over q < Q")
    right.set(xlabel="constant step size η", ylabel="‖∇F‖² where training settles")
    left.set_title("how fast gradients fall")
    right.set_title("does the floor vanish with the step size?")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure
