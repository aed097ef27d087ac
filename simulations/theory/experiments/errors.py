"""`scorequilt theory errors`: the three errors apart, beside the divergence that they bound."""

import math

import torch
from matplotlib.figure import Figure

from common.diffusion import (
    LAWS,
    Denoiser,
    GaussianField,
    GaussianMixture,
    KnownLaw,
    TwoPoint,
    coefficients,
    kappa_grid,
)
from common.seeding import SERVER, rng_for, torch_generator
from simulations.pictures.style import styled
from simulations.theory.exact import EXACT, Gaussian, Mistake, kl, modes, sampled, w2
from simulations.theory.girsanov import ErrorEstimates, estimate_errors
from simulations.theory.line import kl_on_line, w2_on_line
from simulations.theory.report import Cell, Estimate, Finding, Table

SIDE, HORIZON, DELTA, KAPPA = 8, 3.0, 1e-3, 0.1
VISIBLE = 1e-9
MISTAKES = (EXACT, Mistake(relative=0.1))


def run(quick: bool, seed: int) -> Finding:
    """Estimate the errors of every known law, with the exact score and one a tenth too large."""
    paths = 100 if quick else 1000
    laws = {f"{name}{SIDE}": build(SIDE) for name, build in LAWS.items()}
    laws[f"pair{SIDE}"] = pair(SIDE)
    rows, bars = [], {}
    for name, law in laws.items():
        for mistake in MISTAKES:
            if quick and mistake != EXACT:
                continue
            generator = torch_generator(rng_for(seed, 0, SERVER, f"errors of {name}"))
            denoiser = None if mistake == EXACT else mistaken(law, mistake)
            grid = kappa_grid(HORIZON, DELTA, KAPPA)
            found = estimate_errors(law, grid, paths, generator, denoiser)
            divergence, distance = measured(law, mistake)
            label = name if mistake == EXACT else f"{name}, score × {1 + mistake.relative:g}"
            parts: list[Cell | Estimate] = [found.initial, found.score, found.discretisation]
            rows.append([label, *parts, found.girsanov, divergence, distance])
            bars[label] = found, divergence
    title = (
        f"d = {SIDE**2}, T = {HORIZON:g}, κ = {KAPPA}, δ = {DELTA}, {len(grid) - 1} steps of the "
        f"exponential integrator, {paths} paths; in nats"
    )
    columns = ["data and score", "initial", "score", "discretisation", "Girsanov sum", "KL", "W2"]
    return Finding("errors", _draw(bars), [Table(title, columns, rows)])


def pair(side: int) -> GaussianMixture:
    """Return two components around plus and minus one image, a tenth of the variance within."""
    mean = math.sqrt(0.9) * torch.ones(1, 1, side, side, dtype=torch.float64)
    return GaussianMixture(torch.cat([mean, -mean]), 0.1)


def mistaken(law: KnownLaw, mistake: Mistake) -> Denoiser:
    """Return the exact denoiser with a mistake."""

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        _, s = coefficients(x, t)
        return (1 + mistake.relative) * law.denoiser(x, t) - s * mistake.shift

    return denoise


def measured(law: KnownLaw, mistake: Mistake) -> tuple[Cell, Cell]:
    """Return KL(q_δ ‖ p) and W2 where they can be computed, and a dash where not.

    A Gaussian's are exact. A product's are d times those of a value. Two components differ along
    one direction only; in the d - 1 others they are one Gaussian.
    """
    grid = kappa_grid(HORIZON, DELTA, KAPPA)
    if isinstance(law, GaussianField):
        data = modes(law)
        ours = sampled("exponential", data, grid, mistake)
        return kl(data.at(DELTA), ours), w2(data.at(DELTA), ours)
    if isinstance(law, TwoPoint):
        value = TwoPoint(1)
        each = kl_on_line(value, grid, mistaken(value, mistake))
        return law.values * each, math.sqrt(law.values) * w2_on_line(
            value, grid, mistaken(value, mistake)
        )
    if isinstance(law, GaussianMixture) and law.num_classes == 2:
        length = law.means.flatten(1).norm(dim=1).reshape(2, 1, 1, 1)
        along = GaussianMixture(
            length * torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1), law.variance
        )
        rest = torch.tensor([law.variance], dtype=torch.float64)
        across = Gaussian(torch.zeros_like(rest), rest, torch.full_like(rest, law.values - 1))
        ours = sampled("exponential", across, grid, mistake)
        each = kl_on_line(along, grid, mistaken(along, mistake))
        return each + kl(across.at(DELTA), ours), "–"
    return "–", "–"


@styled
def _draw(bars: dict[str, tuple[ErrorEstimates, Cell]]) -> Figure:
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    series = {
        "initial": lambda e: e.initial,
        "score": lambda e: e.score,
        "discretisation": lambda e: e.discretisation,
        "Girsanov sum, an upper bound": lambda e: e.girsanov,
    }
    for i, (label, read) in enumerate(series.items()):
        for y, (found, _) in enumerate(bars.values()):
            each = read(found)
            if each.value > VISIBLE:
                spread = [[max(0.0, each.value - each.low)], [each.high - each.value]]
                axes.errorbar(
                    each.value, y + 0.1 * (i - 2), xerr=spread, fmt="o", ms=5, color=f"C{i}",
                    label=label,
                )  # fmt: skip
    for y, (_, divergence) in enumerate(bars.values()):
        if isinstance(divergence, float):
            axes.plot(divergence, y + 0.2, "kx", ms=8, label="KL, computed")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(handles.values(), handles.keys(), fontsize=8)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="nats", title=f"the errors apart, d = {SIDE**2}")
    return figure
