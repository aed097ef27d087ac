"""`scorequilt theory steps`: what fewer steps cost, and how many the corollary asks for."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import brentq, nnls

from common.diffusion import DELTA, TwoPoint, kappa_grid
from simulations.pictures.style import styled
from simulations.theory.exact import Mistake, errors, isotropic, kl, sampled
from simulations.theory.line import kl_on_line
from simulations.theory.report import Cell, Estimate, Finding, Table, slope

HORIZON = 4.0
KAPPAS = (0.5, 0.2, 0.1, 0.05, 0.02)
FIRST_ESTIMATE = (0.0360, 0.0084, 0.0023, 0.0009, 0.0004)
"""KL for these from 400,000 samples, which the project started from."""
TARGET = 0.25
"""The epsilon² of the corollary, in nats."""


def run(quick: bool, seed: int) -> Finding:
    """Compare the divergence and its bound with the step's size, and steps with the dimension."""
    del seed  # nothing is drawn
    kappas = KAPPAS[:3] if quick else KAPPAS
    line, laws = _line(kappas), _laws(kappas)
    sides = (4, 8, 16) if quick else (4, 8, 16, 32, 64)
    needed = [_needed(side**2) for side in sides]
    return Finding(
        "steps",
        _draw(kappas, line, laws, needed),
        [
            _line_table(kappas, line),
            _law_table(kappas, laws),
            _needed_table(needed),
            _shape_table(kappas[:2] if quick else kappas[:4], sides[:2]),
        ],
    )


def _line(kappas: Sequence[float]) -> list[float]:
    return [kl_on_line(TwoPoint(1), kappa_grid(HORIZON, DELTA, kappa)) for kappa in kappas]


def _line_table(kappas: Sequence[float], line: list[float]) -> Table:
    rows = [
        [kappa, len(kappa_grid(HORIZON, DELTA, kappa)) - 1, first, divergence]
        for kappa, first, divergence in zip(kappas, FIRST_ESTIMATE, line, strict=False)
    ]
    columns = ["κ", "steps", "KL, first estimate from samples", "KL by quadrature"]
    return Table(f"One value of ±1, exact score, T = {HORIZON:g}, δ = {DELTA}", columns, rows)


Law = tuple[str, list[float], list[float]]
"""A name, and for each κ the divergence and the Girsanov sum per dimension."""


def _laws(kappas: Sequence[float]) -> list[Law]:
    found = []
    for name, data in (
        ("N(0, I)", isotropic(1)),
        ("half the eigenvalues 0", isotropic(2, null=0.5)),
    ):
        grids = [kappa_grid(HORIZON, DELTA, kappa) for kappa in kappas]
        ends = [kl(data.at(DELTA), sampled("exponential", data, grid)) for grid in grids]
        paths = [errors(data, grid).girsanov for grid in grids]
        each = data.dimension
        found.append((name, [e / each for e in ends], [p / each for p in paths]))
    return found


def _law_table(kappas: Sequence[float], laws: list[Law]) -> Table:
    rows: list[list[Cell | Estimate]] = []
    for name, ends, paths in laws:
        rows.append([name, "KL", *ends, slope(kappas, ends)])
        rows.append([name, "Girsanov sum", *paths, slope(kappas, paths)])
    columns = ["data", "per dimension", *(f"κ = {kappa}" for kappa in kappas), "power of κ"]
    return Table("Exact score, exponential integrator, nats per dimension", columns, rows)


Needed = tuple[int, float, int, int]
"""A dimension, its horizon, and the steps by the Girsanov sum and by the divergence."""


def _needed(dimension: int) -> Needed:
    """Return how many steps a dimension needs for TARGET, at the corollary's horizon."""
    horizon = math.log(dimension / TARGET) / 2
    data = isotropic(dimension, null=0.5)

    def bound(kappa: float) -> float:
        return errors(data, kappa_grid(horizon, DELTA, kappa)).girsanov

    def divergence(kappa: float) -> float:
        grid = kappa_grid(horizon, DELTA, kappa)
        return kl(data.at(DELTA), sampled("exponential", data, grid))

    coarsest = [
        _kappa_for(bound, 0.1 * TARGET / dimension, 1.0),
        _kappa_for(divergence, 0.02, 4.0),
    ]
    by_sum, by_end = (len(kappa_grid(horizon, DELTA, kappa)) - 1 for kappa in coarsest)
    return dimension, horizon, by_sum, by_end


def _kappa_for(error: Callable[[float], float], low: float, high: float) -> float:
    """Return the κ at which an error is TARGET, to a hundredth of itself."""

    def miss(log_kappa: float) -> float:
        return math.log(error(math.exp(log_kappa)) / TARGET)

    return math.exp(brentq(miss, math.log(low), math.log(high), xtol=0.01))


def _needed_table(needed: list[Needed]) -> Table:
    rows: list[list[Cell | Estimate]] = [
        [d, horizon, steps, steps / _corollary(d, horizon), end]
        for d, horizon, steps, end in needed
    ]
    shape = [_corollary(d, horizon) for d, horizon, _, _ in needed]
    d, by_end = [each[0] for each in needed], [each[3] for each in needed]
    rows.append(
        ["power of the corollary's steps", "", slope(shape, [e[2] for e in needed]), "", ""]
    )
    rows.append(["power of d", "", slope(d, [e[2] for e in needed]), "", slope(d, by_end)])
    title = f"Steps until the error is ε² = {TARGET:g}, half the eigenvalues 0, T = log(d/ε²)/2"
    columns = [
        "d", "T", "steps by the Girsanov sum", "over d (T + log 1/δ)²/ε²", "steps by KL itself",
    ]  # fmt: skip
    return Table(title, columns, rows)


def _corollary(dimension: int, horizon: float) -> float:
    """Return d (T + log 1/δ)²/ε², the steps up to a constant (Benton et al. 2024, corollary 1)."""
    return dimension * (horizon + math.log(1 / DELTA)) ** 2 / TARGET


def _shape_table(kappas: Sequence[float], sides: Sequence[int]) -> Table:
    """Fit the constants of the bound's four terms to errors over many settings."""
    terms: list[list[float]] = []
    paths: list[float] = []
    ends: list[float] = []
    for d, kappa, horizon, relative in product(
        [side**2 for side in sides], kappas, (1.5, 3.0, 5.0), (0.0, 0.1, 0.3)
    ):
        grid, data = kappa_grid(horizon, DELTA, kappa), isotropic(d, mean=1.0, null=0.5)
        mistake = Mistake(relative)
        found = errors(data, grid, mistake)
        count = len(grid) - 1
        terms.append([
            found.score, kappa**2 * d * count, kappa * d * horizon, d * math.exp(-2 * horizon)
        ])  # fmt: skip
        paths.append(found.girsanov)
        ends.append(kl(data.at(DELTA), sampled("exponential", data, grid, mistake)))
    rows: list[list[Cell | Estimate]] = []
    for name, values in (("Girsanov sum", paths), ("KL", ends)):
        # Divided by the value, so that the fit is in ratio and small errors count as large ones.
        scaled = np.array(terms) / np.array(values)[:, None]
        constants, _ = nnls(scaled, np.ones(len(values)))
        ratio = scaled @ constants
        rows.append([name, *constants.tolist(), float(ratio.min()), float(ratio.max())])
    title = (
        f"The bound's shape: constants fitted to {len(paths)} settings of d, κ, T and the score's "
        "error, and the least and largest ratio of shape to value. A shape, not a bound"
    )
    columns = ["value", "of ε²", "of κ² d K", "of κ d T", "of d e^{-2T}", "least", "largest"]
    return Table(title, columns, rows)


@styled
def _draw(
    kappas: Sequence[float],
    line: list[float],
    laws: list[Law],
    needed: list[Needed],
) -> Figure:
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(kappas, line, "k-s", ms=4, label="one value of ±1: KL")
    for i, (name, ends, paths) in enumerate(laws):
        left.plot(kappas, ends, "-o", ms=4, color=f"C{i}", label=f"{name}: KL")
        left.plot(kappas, paths, "--o", ms=4, color=f"C{i}", label=f"{name}: Girsanov sum")
    top = max(max(paths) for _, _, paths in laws) / max(kappas)
    left.plot(kappas, [top * kappa for kappa in kappas], ":", color="0.4", label="shape: κ")
    bottom = line[0] / kappas[0] ** 2
    left.plot(kappas, [bottom * k**2 for k in kappas], "-.", color="0.4", label="shape: κ²")
    left.set(xscale="log", yscale="log", xlabel="κ", ylabel="nats per dimension")
    left.set_xticks(kappas, [str(kappa) for kappa in kappas])
    left.minorticks_off()
    left.set_title("what larger steps cost, exact score")
    left.legend(fontsize=7)
    d = np.array([each[0] for each in needed], float)
    by_sum, by_end = (np.array([each[i] for each in needed]) for i in (2, 3))
    right.plot(d, by_sum, "-o", ms=4, label="so that the Girsanov sum is ε²")
    right.plot(d, by_end, "-o", ms=4, label="so that KL itself is ε²")
    shape = np.array([_corollary(each[0], each[1]) for each in needed])
    right.plot(d, shape * by_sum[-1] / shape[-1], "k:", label="shape: d (T + log 1/δ)²")
    root = np.sqrt(shape)
    right.plot(d, root * by_end[-1] / root[-1], "k-.", label="shape: its square root")
    right.set(
        xscale="log", yscale="log", xlabel="d", ylabel="steps", title=f"steps for ε² = {TARGET:g}"
    )
    right.legend(fontsize=8)
    return figure
