"""`scorequilt theory dimension`: is the error linear in the dimension?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from common.diffusion import DELTA, LAWS, GaussianField, Grid, TwoPoint, kappa_grid, power_spectrum
from common.seeding import SERVER, rng_for, torch_generator
from simulations.pictures.style import styled
from simulations.theory.exact import EXACT, Gaussian, Mistake, errors, isotropic, kl, modes, sampled
from simulations.theory.federation import averaged_denoiser, federation, images_of, small_config
from simulations.theory.girsanov import ErrorEstimates, estimate_errors
from simulations.theory.line import kl_on_line
from simulations.theory.report import Cell, Estimate, Finding, Table, slope

SIDES = (4, 8, 16, 32, 64)
LEARNED_SIDES = (2, 4, 8, 16)
KAPPA, TARGET = 0.1, 0.25


@dataclass(frozen=True)
class Line:
    """An error by dimension."""

    label: str
    dimensions: Sequence[int]
    values: Sequence[float]

    @property
    def slope(self) -> Estimate:
        """The power of d."""
        return slope(self.dimensions, self.values)


def run(quick: bool, seed: int) -> Finding:
    """Fit the power of d for exact, mistaken and learned scores, and for several covariances."""
    sides = SIDES[:3] if quick else SIDES
    exact = exact_lines(sides)
    learned = _learned(LEARNED_SIDES[:3] if quick else LEARNED_SIDES, quick, seed)
    columns = ["data, score, what", *(f"d = {side**2}" for side in sides), "power of d"]
    rows: list[list[Cell | Estimate]] = [
        [line.label, *line.values, line.slope] for group in exact.values() for line in group
    ]
    title = f"κ = {KAPPA}, T = log(d/{TARGET})/2, δ = {DELTA}; in nats, computed, nothing drawn"
    return Finding(
        "dimension", _draw(exact, learned), [Table(title, columns, rows), _learned_table(learned)]
    )


def grid_for(dimension: int) -> Grid:
    """Return the times for a dimension, with the corollary's horizon (Benton et al. 2024)."""
    return kappa_grid(max(1.0, math.log(dimension / TARGET) / 2), DELTA, KAPPA)


def exact_lines(sides: Sequence[int]) -> dict[str, list[Line]]:
    """Return, by panel, errors that can be computed in every dimension."""
    dimensions = [side**2 for side in sides]
    grids = [grid_for(d) for d in dimensions]
    white = [isotropic(d) for d in dimensions]
    shifted = [modes(GaussianField(power_spectrum(side, 0.0), mean=1.0)) for side in sides]
    singular = [isotropic(d, null=0.5) for d in dimensions]
    field, cut, steep = (
        [modes(GaussianField(power_spectrum(side, exponent, kept))) for side in sides]
        for exponent, kept in ((1.0, 1.0), (1.0, 0.5), (2.0, 1.0))
    )

    def divergence(
        label: str, laws: list[Gaussian], sampler: str = "exponential", mistake: Mistake = EXACT
    ) -> Line:
        values = [
            kl(law.at(DELTA), sampled(sampler, law, grid, mistake))
            for law, grid in zip(laws, grids, strict=True)
        ]
        return Line(label, dimensions, values)

    def bound(label: str, laws: list[Gaussian], mistake: Mistake = EXACT) -> Line:
        values = [
            errors(law, grid, mistake).girsanov for law, grid in zip(laws, grids, strict=True)
        ]
        return Line(label, dimensions, values)

    points = [d * kl_on_line(TwoPoint(1), grid) for d, grid in zip(dimensions, grids, strict=True)]
    large, moved = Mistake(relative=0.1), Mistake(shift=0.05)
    fixed = [errors(law, kappa_grid(4.0, DELTA, KAPPA)).girsanov for law in white]
    return {
        "covariances, exact score": [
            divergence("N(0, I), KL", white),
            divergence("N(1, I), KL", shifted),
            divergence("half the eigenvalues 0, KL", singular),
            divergence("spectrum 1/(1+k²), KL", field),
            divergence("the same, upper half of frequencies 0, KL", cut),
            divergence("spectrum 1/(1+k²)², KL", steep),
            Line("values ±1, KL", dimensions, points),
            bound("N(0, I), Girsanov sum", white),
            Line("N(0, I), Girsanov sum at T = 4 for all d", dimensions, fixed),
            bound("half the eigenvalues 0, Girsanov sum", singular),
        ],
        "mistaken scores and other samplers": [
            divergence("N(0, I), score × 1.1, KL", white, mistake=large),
            bound("N(0, I), score × 1.1, Girsanov sum", white, large),
            divergence("N(0, I), score + 0.05, KL", white, mistake=moved),
            divergence("spectrum 1/(1+k²), score × 1.1, KL", field, mistake=large),
            divergence("N(0, I), ancestral, KL", white, "ancestral"),
            divergence("N(0, I), ddim (deterministic), KL", white, "ddim"),
            divergence("spectrum 1/(1+k²), ddim, KL", field, "ddim"),
            divergence("half the eigenvalues 0, ddim, KL", singular, "ddim"),
            divergence("half the eigenvalues 0, dpmpp2m, KL", singular, "dpmpp2m"),
        ],
    }


def _learned(sides: Sequence[int], quick: bool, seed: int) -> dict[int, ErrorEstimates]:
    """Train a pruned fleet on a Gaussian field of each side and estimate its errors."""
    found = {}
    for side in sides:
        law = LAWS["gaussian-field"](side)
        config = small_config(seed, **({"rounds": 1, "local_steps": 1} if quick else {}))
        *_, last = federation(config, images_of(law, 256 if quick else 4096, seed))
        generator = torch_generator(rng_for(seed, 0, SERVER, f"paths of side {side}"))
        denoiser = averaged_denoiser(config, last.state)
        paths = 16 if quick else 64
        found[side**2] = estimate_errors(law, grid_for(side**2), paths, generator, denoiser)
    return found


def _learned_table(learned: dict[int, ErrorEstimates]) -> Table:
    rows: list[list[Cell | Estimate]] = [
        [d, e.initial, e.score, e.discretisation, e.girsanov] for d, e in learned.items()
    ]
    d = list(learned)
    rows.append([
        "power of d", "",
        slope(d, [float(e.score) for e in learned.values()]),
        slope(d, [float(e.discretisation) for e in learned.values()]),
        slope(d, [float(e.girsanov) for e in learned.values()]),
    ])  # fmt: skip
    title = (
        "Spectrum 1/(1+k²), score learned by the fleet 1x2 1/2x3 1/4x3 (`static`), one UNet and "
        "one number of steps for all d; nats, upper bounds of KL only"
    )
    return Table(title, ["d", "initial", "score", "discretisation", "Girsanov sum"], rows)


@styled
def _draw(exact: dict[str, list[Line]], learned: dict[int, ErrorEstimates]) -> Figure:
    figure = Figure(figsize=(14, 7), layout="constrained")
    *panels, last = figure.subplots(1, 3)
    for axes, (title, lines) in zip(panels, exact.items(), strict=True):
        for line in lines:
            label = f"{line.label}: {line.slope.value:.2f}"
            axes.plot(line.dimensions, line.values, "-o", ms=3, label=label)
        axes.set_title(f"{title} (power of d)", fontsize=10)
    d = list(learned)
    for name, parts in {
        "score error": [e.score for e in learned.values()],
        "discretisation": [e.discretisation for e in learned.values()],
        "Girsanov sum": [e.girsanov for e in learned.values()],
    }.items():
        values = [part.value for part in parts]
        spread = [[p.value - p.low for p in parts], [p.high - p.value for p in parts]]
        label = f"{name}: {slope(d, values).value:.2f}"
        last.errorbar(d, values, yerr=spread, fmt="-o", ms=3, label=label)
    last.set_title("score learned by a pruned fleet (power of d)", fontsize=10)
    for axes in (*panels, last):
        axes.set(xscale="log", yscale="log", xlabel="d", ylabel="nats")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    return figure
