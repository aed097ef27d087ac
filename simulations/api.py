"""What the command line does, as functions: what `import scorequilt` offers.

Each is a thin layer over what the command of the same name calls. A configuration is a preset's
name, a path ending in ``.toml``, a mapping of keys to values or a `RunConfig`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig, Scalar
from common.errors import UserError
from server.record.history import Row
from server.setting import prepare
from simulations.about import version
from simulations.archive.configs import Source, load_config, preset_names
from simulations.archive.directory import RUNS, find_run
from simulations.archive.record import read_run
from simulations.launch import deliver, new_run, resumed_run, simulate
from simulations.planning.cost import Cost, measure_costs, rates_of_interest
from simulations.planning.coverage import Plan, plan_coverage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__version__ = version()
__all__ = [
    "Cost",
    "Plan",
    "Run",
    "RunConfig",
    "UserError",
    "__version__",
    "config",
    "cost",
    "coverage",
    "open_run",
    "presets",
    "resume",
    "run",
]


@dataclass(frozen=True)
class Run:
    """A run directory, finished or not.

    Attributes:
        path: The directory.
    """

    path: Path

    @property
    def config(self) -> RunConfig:
        """Its configuration."""
        return read_run(self.path).config

    @property
    def history(self) -> list[Row]:
        """A row per round, round 0 before training: ``pandas.DataFrame(run.history)``."""
        return read_run(self.path).rows

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` says, empty before the run's end."""
        return read_run(self.path).summary

    def sample(self, count: int = 64, **options: Any) -> Float32[np.ndarray, "N C H W"]:
        """Return images drawn from the run's weights, in [-1, 1].

        Args:
            count: How many.
            options: `sampler`, `evaluations` or `steps`, `rate`, `class_label`, `guidance`, `seed`,
                `raw`, `round` and `progress`, as for `scorequilt sample`.

        Raises:
            UserError: An argument is out of range or there are no weights yet; the line names it.
        """
        from simulations.results.sample import draw_images

        images, _ = draw_images(self.path, count, **options)
        drawn: Float32[np.ndarray, "N C H W"] = images.numpy()
        return drawn

    def plot(self, *others: Run) -> Figure:
        """Return how the run converges, with other runs laid over it, as a Matplotlib figure.

        Raises:
            UserError: There is no complete round yet.
        """
        from simulations.pictures.runs import convergence, with_rounds

        return convergence([with_rounds(each.path) for each in (self, *others)])

    def export(self, out: Path | str | None = None, round: str | None = None) -> Path:
        """Write the averaged weights as a folder that opens in diffusers, and return where.

        Args:
            out: The folder; ``model`` in the run if None.
            round: A round whose checkpoint is kept, or ``best``; the last if None.

        Raises:
            UserError: There are no weights yet, or the folder cannot be written.
        """
        from simulations.results.export import export_run

        target = Path(out) if out is not None else self.path / "model"
        export_run(self.path, target, round)
        return target


def config(source: Source = "digits", **changes: Scalar) -> RunConfig:
    """Return a configuration with some keys replaced.

    Args:
        source: A preset, a file, keys or a configuration.
        changes: Keys with ``_`` for ``-``; those of tables as ``**{"model.widths": "8,16"}``.

    Raises:
        UserError: There is no such preset, file or key, or a value is not allowed.
    """
    return load_config(source, [f"{_key(key)}={_text(value)}" for key, value in changes.items()])


def run(
    source: Source = "digits",
    *,
    run_dir: Path | str | None = None,
    runs: Path | str = RUNS,
    progress: Callable[[str], None] | None = None,
    **changes: Scalar,
) -> Run:
    """Simulate a federation on this machine, wait for its end and return the run.

    Args:
        source: A preset, a file, keys or a configuration.
        run_dir: Where to write; else below `runs`, by the run's name.
        runs: The folder of runs.
        progress: Called about five times a second with "starting", "running" or "stopping".
        changes: As for `config`.

    Raises:
        UserError: The configuration is wrong or the run failed; the line says how to go on.
        KeyboardInterrupt: It was stopped, and nothing of it still runs.
    """
    launch = new_run(config(source, **changes), [], _path(run_dir), Path(runs))
    return _finished(simulate(launch, progress).target)


def resume(
    name: Path | str,
    *,
    runs: Path | str = RUNS,
    progress: Callable[[str], None] | None = None,
    **changes: Scalar,
) -> Run:
    """Take up a run where it stopped, wait for its end and return it.

    Arguments and errors are those of `run`; `name` is a directory or a name below `runs`.
    """
    words = [f"{_key(key)}={_text(value)}" for key, value in changes.items()]
    return _finished(simulate(resumed_run(str(name), words, Path(runs)), progress).target)


def open_run(name: Path | str = "latest", runs: Path | str = RUNS) -> Run:
    """Return a run that is there already, by its directory or its name below `runs`.

    Raises:
        UserError: There is none.
    """
    return Run(find_run(str(name), Path(runs)))


def coverage(source: Source = "digits", rounds: int | None = None, **changes: Scalar) -> Plan:
    """Count, before a run and without training, how often each part of the model is trained.

    Args:
        source: A preset, a file, keys or a configuration.
        rounds: The run's if None.
        changes: As for `config`.

    Raises:
        UserError: The fleet, the policy and the model do not fit together.
    """
    wanted = config(source, **changes)
    return plan_coverage(wanted, rounds or wanted.rounds)


def cost(source: Source = "digits", rates: str | None = None, **changes: Scalar) -> list[Cost]:
    """Return what training costs a client at each model rate, the largest first.

    Args:
        source: A preset, a file, keys or a configuration.
        rates: Such as ``"1 1/2 1/4"``; all that the model allows if None.
        changes: As for `config`.

    Raises:
        UserError: The configuration is wrong, or a rate does not fit the model's atoms.
    """
    wanted = config(source, **changes)
    setting = prepare(wanted)
    measured = rates_of_interest(wanted, setting.layout.atom, rates)
    return measure_costs(wanted, setting.image_shape, measured)


def presets() -> list[str]:
    """Return the names of the configurations that come with the program."""
    return preset_names()


def _finished(target: Path) -> Run:
    deliver(target)
    return Run(target)


def _key(name: str) -> str:
    return name.replace("_", "-")


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _path(text: Path | str | None) -> Path | None:
    return None if text is None else Path(text)
