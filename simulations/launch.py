"""Starts a simulated run, for the command line and for Python alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shlex import quote

from common.config import RunConfig
from common.data.named import NAMED
from common.errors import UserError
from simulations.about import PROJECT
from simulations.archive.configs import Source, check_simulated, load_config
from simulations.archive.directory import RUNS, find_run, link_latest, resolve_run_dir


@dataclass(frozen=True)
class Launch:
    """A run that can start.

    Attributes:
        config: Its configuration, written down in `target`.
        target: Its directory, absolute.
        seconds: How long it took, start-up included; zero before.
    """

    config: RunConfig
    target: Path
    seconds: float = 0.0

    @property
    def resuming(self) -> str:
        """How to go on where it stopped, as a command that can be pasted."""
        return f"scorequilt run --resume {quote(str(self.target))}"


def new_run(
    source: Source,
    changes: Sequence[str],
    run_dir: Path | None,
    base: Path = RUNS,
    tell: Callable[[str], None] = lambda _: None,
) -> Launch:
    """Check a configuration and make the directory of its run.

    Args:
        source: As for `load_config`.
        changes: ``key=value``, each replacing a key.
        run_dir: Where to; else below `base`, by the run's name.
        base: The folder of runs, in which `latest` links to the newest.
        tell: Called with a line on what the run will take, where its images are yet to be fetched.

    Raises:
        UserError: Something about the configuration or the directory is wrong; the line names it.
        ModuleNotFoundError: This installation has nothing to simulate with.
    """
    _can_simulate()
    from server.preflight import preflight

    added = [] if run_dir is None else [f"run-dir={run_dir.absolute()}"]
    config = load_config(source, [*changes, *added])
    check_simulated(config)
    if config.data in NAMED:  # it may be long until there are images, and longer after that
        from simulations.planning.ahead import said_ahead

        tell(said_ahead(config))
    preflight(config)
    return _written(Launch(config, resolve_run_dir(config, base)), base)


def resumed_run(run: str, changes: Sequence[str], base: Path = RUNS) -> Launch:
    """Take up a run where it stopped.

    Args:
        run: Its directory, or its name below `base`.
        changes: ``key=value``, each replacing a key.
        base: The folder of runs.

    Raises:
        UserError: There is no such run, it goes on elsewhere, or its configuration cannot be used.
        ModuleNotFoundError: This installation has nothing to simulate with.
    """
    _can_simulate()
    from server.preflight import preflight
    from server.record.lock import only_writer
    from server.state import checkpoints

    target = find_run(run, base)
    with only_writer(target):  # what a killed run has left may need some seconds to end
        pass
    config = load_config(str(target / "config.toml"), changes)
    check_simulated(config)
    preflight(config, resumed=bool(checkpoints(target / "checkpoints")))
    return _written(Launch(config, target), base)


def simulate(launch: Launch, on_progress: Callable[[str], None] | None = None) -> Launch:
    """Carry a run out on this machine and return it with the time that it took.

    Args:
        launch: The run.
        on_progress: As for `run_simulation`.

    Raises:
        UserError: It did not come to its end; the line says why, and how to go on.
        KeyboardInterrupt: It was stopped.
    """
    from simulations.engine.simulate import RunFailed, run_simulation

    config, target = launch.config, launch.target
    try:
        result = run_simulation(
            config.to_flat(), len(config.client_rates), PROJECT, target, on_progress
        )
    except RunFailed as error:
        raise UserError(f"{error}; go on with: {launch.resuming}") from None
    return Launch(config, target, result.seconds)


def deliver(run_dir: Path) -> list[str]:
    """Draw a finished run's pictures, write its model and return what to say of it, line by line.

    Raises:
        UserError: The run cannot be read.
    """
    from simulations.archive.record import verdict
    from simulations.pictures.runs import draw_run
    from simulations.results.export import export_run

    pictures = [str(picture) for picture in draw_run(run_dir)]
    return [*pictures, export_run(run_dir), verdict(run_dir)]


def _written(launch: Launch, base: Path) -> Launch:
    from server.record.resolved import write_config

    write_config(launch.config, launch.target)
    if launch.target.is_relative_to(base.absolute()):
        link_latest(launch.target, base)
    return launch


def _can_simulate() -> None:
    if find_spec("ray") is None:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")
