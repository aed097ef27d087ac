"""How far each run of a sweep is, and what forbids to go on with it."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from server.preflight import preflight
from server.state import checkpoints
from simulations.archive.configs import check_simulated
from simulations.archive.directory import occupied
from simulations.archive.record import read_run
from simulations.sweep.plan import Plan, PlannedRun


def unfinished(plan: Plan, folder: Path, file: Path) -> list[PlannedRun]:
    """Return the runs that are to be started or gone on with, once nothing forbids any of them.

    Args:
        plan: The sweep's.
        folder: Its folder, which need not be there.
        file: Its file, to be named.

    Raises:
        UserError: A configuration does not fit its data or its model, or a run's folder has begun
            with another configuration, or holds something else.
    """
    if (folder / "config.toml").exists():
        raise UserError(f"{folder} is a run; give the sweep another name")
    left = []
    for run in plan.runs:
        path = folder / run.name
        if occupied(path):
            _check_same(run, path, file)
            if finished(path):
                continue
        try:
            check_simulated(run.config)
            preflight(run.config, resumed=bool(checkpoints(path / "checkpoints")))
        except UserError as error:
            raise UserError(f"{file}: run {run.name}: {error}") from None
        left.append(run)
    return left


def finished(path: Path) -> bool:
    """Say whether a run directory holds a run that has come to its end.

    Raises:
        UserError: It cannot be read.
    """
    run = read_run(path)
    return run.summary.get("rounds") == run.config.rounds


def _check_same(run: PlannedRun, path: Path, file: Path) -> None:
    begun = read_run(path).config.to_flat()
    wanted = run.config.to_flat()
    for key, value in wanted.items():
        if begun[key] != value and key != "run-dir":
            raise UserError(
                f"{file}: {key} of run {run.name} is {value!r}, but {path} has begun with "
                f"{begun[key]!r}; give the sweep another name, or move that folder away"
            )
