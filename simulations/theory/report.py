"""What an experiment ends in: tables, a figure, slopes with their intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from matplotlib.figure import Figure
from scipy.stats import t as student

from common.files import atomic_write
from simulations.pictures.style import save_figure

Cell = str | float | int


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; `low` and `high` equal it where it is exact."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} … {self.high:.3g})"

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Table:
    """A table of a finding, a cell to a column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | Estimate]]

    def markdown(self) -> str:
        """Return it as Markdown under its title."""
        lines = [self.columns, ["---"] * len(self.columns)]
        body = [[_text(cell) for cell in row] for row in self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *body])
        return f"{self.title}\n\n{table}\n"


@dataclass(frozen=True)
class Finding:
    """A named experiment's figure and tables."""

    name: str
    figure: Figure
    tables: Sequence[Table]

    def markdown(self) -> str:
        """Return all tables."""
        return "\n".join(table.markdown() for table in self.tables)

    def write(self, folder: Path) -> list[Path]:
        """Write ``theory-NAME.png`` and ``theory-NAME.md`` and return where."""
        text = folder / f"theory-{self.name}.md"
        atomic_write(text, self.markdown().encode())
        return [save_figure(self.figure, folder / f"theory-{self.name}.png"), text]


Experiment = Callable[[bool, int], Finding]
"""From `quick` and a seed to what was found."""


def _text(cell: Cell | Estimate) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def slope(x: Sequence[float | int], y: Sequence[float | int]) -> Estimate:
    """Return the least-squares slope of log y on log x with Student's interval, n > 2 points."""
    u, v = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    centred = u - u.mean()
    value = float(centred @ v / (centred @ centred))
    residual = v - v.mean() - value * centred
    freedom = len(u) - 2
    error = float(np.sqrt(residual @ residual / freedom / (centred @ centred)))
    width = float(student.ppf(0.975, freedom)) * error
    return Estimate(value, value - width, value + width)


def mean_interval(draws: Float64[np.ndarray, "n"]) -> Estimate:
    """Return the mean of independent draws with its normal 95 % interval."""
    mean = float(draws.mean())
    width = 1.96 * float(draws.std(ddof=1)) / len(draws) ** 0.5
    return Estimate(mean, mean - width, mean + width)


def bootstrap(
    statistic: Callable[[Float64[np.ndarray, "n ..."]], float],
    draws: Float64[np.ndarray, "n ..."],
    rng: np.random.Generator,
    repeats: int = 400,
) -> Estimate:
    """Return a statistic of draws with its percentile interval (Efron 1979), resampling rows."""
    picked = rng.integers(len(draws), size=(repeats, len(draws)))
    values = [statistic(draws[rows]) for rows in picked]
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(statistic(draws), float(low), float(high))
