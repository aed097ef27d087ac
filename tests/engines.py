"""Real engines in tests: a tiny run, what became of it, and nothing left when a test ends."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import tomli_w

from common.config.fleet import parse_fleet
from common.config.run import RunConfig, Scalar
from common.network.unet import layout_of
from server.app import federate
from server.record.history import read_rows
from server.state.checkpoint import checkpoints, load_checkpoint
from server.state.reference import Reference
from simulations.engine.home import ENVIRONMENT, temporary_home, write_connection
from simulations.engine.processes import Processes, free_ports, running
from simulations.engine.simulate import _wait_for_port
from tests.local_grid import LocalGrid

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
TINY: dict[str, Scalar] = {
    "name": "tiny",
    "rounds": 2,
    "local-steps": 2,
    "batch-size": 8,
    "fleet": "1x1 1/2x1",
    "policy": "rolling",
    "model.widths": "8,16",
    "model.groups": 2,
    "evaluation.samples": 64,
    "evaluation.evaluations": 2,
}
KINDS: dict[str, dict[str, Scalar]] = {
    "plain": {},
    "judged": {"evaluation.by": "clients", "evaluation.features": "untrained"},
    # Who is drawn is as secret as the noise, and so is part of what a killed run must find again.
    "private": {"privacy.noise-multiplier": 1, "weighting": "uniform", "clients-per-round": 1},
}
"""Runs that differ in what they carry on: of the server alone, judged by clients, private."""

TIMES = ("seconds_train", "seconds_aggregate", "seconds_evaluate", "seconds_slowest")
linux = pytest.mark.skipif(sys.platform != "linux", reason="tried on Linux alone")


def tiny(**changes: Scalar) -> RunConfig:
    """Return the tiny configuration with some fields replaced."""
    return RunConfig.from_flat(TINY).model_copy(update=changes)


def tiny_kind(kind: str, **changes: Scalar) -> RunConfig:
    """Return the tiny configuration of one of `KINDS`, with some fields replaced."""
    return RunConfig.from_flat(TINY | KINDS[kind]).model_copy(update=changes)


def write_toml(config: RunConfig, folder: Path) -> Path:
    """Write a configuration as a user's file."""
    path = folder / f"{config.name}.toml"
    path.write_text(tomli_w.dumps(config.to_tree()))
    return path


def outcome(run_dir: Path, config: RunConfig) -> dict[str, object]:
    """Return what a run amounts to: its last state, bit for bit, and its history but for times."""
    last = checkpoints(run_dir / "checkpoints")[-1]
    state = load_checkpoint(last, config, layout_of(config.model, 1))
    rows = read_rows(run_dir / "history.jsonl")
    return {
        "round": state.round,
        **{key: _digest(value) for key, value in vars(state).items() if key != "round"},
        "rows": [{k: v for k, v in row.items() if k not in TIMES} for row in rows],
    }


def _digest(value: object) -> object:
    """Return what two equal parts of a state have in common: an array's bits, else the value."""
    if isinstance(value, Reference):
        sets = {name: _digest(each.vector()) for name, each in value.sets.items()}
        return sets, value.given, dict(value.withheld)
    return hashlib.sha256(value.tobytes()).hexdigest() if isinstance(value, np.ndarray) else value


def in_process(config: RunConfig, run_dir: Path) -> dict[str, object]:
    """Return the outcome of the same run in this process, without any engine."""
    federate(LocalGrid(config), config, run_dir)
    return outcome(run_dir, config)


def assert_all_replied(run_dir: Path, config: RunConfig) -> None:
    """Check that the history has every round and that nobody failed in any."""
    rows = read_rows(run_dir / "history.jsonl")
    assert [row["round"] for row in rows] == list(range(config.rounds + 1))
    clients = len(parse_fleet(config.fleet))
    assert [row["clients_replied"] for row in rows[1:]] == [clients] * config.rounds


@contextmanager
def engine(
    folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Processes, Path]]:
    """Yield processes to start commands with, in `folder`, and the file they all write to."""
    path = folder / "output.txt"
    mark = {"SCOREQUILT_TEST": str(folder)}
    try:
        with (
            path.open("ab") as log,
            Processes({**os.environ, **mark, **(environment or {})}, folder, log) as processes,
        ):
            yield processes, path
    finally:
        # Orphans of a child that was killed; there are some only where a test fails.
        for process in mentioning(f"SCOREQUILT_TEST={folder}"):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        print(path.read_text()[-8000:])  # pytest shows it if the test fails


@contextmanager
def superlink(folder: Path, *options: str) -> Iterator[tuple[Processes, int]]:
    """Start a SuperLink that `flwr`, among the processes yielded, uses unless told otherwise.

    HOME is `folder` for all of them. Also yields the SuperLink's port.
    """
    with temporary_home() as home:
        (port,) = free_ports(1)
        write_connection(Path(home), port)
        variables = {
            **ENVIRONMENT,
            "HOME": str(folder),
            "FLWR_HOME": home,
            "RAY_TMPDIR": home,
            # Flower starts its own programs by name.
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        with engine(folder, variables) as (processes, _):
            address = ("--host", "127.0.0.1", "--port", str(port))
            processes.start("flower-superlink", "--insecure", *address, *options)
            _wait_for_port(port, processes, lambda phase: None)
            yield processes, port


def as_words(config: Mapping[str, Scalar]) -> str:
    """Write configuration keys as one argument of `flwr run --run-config`."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in config.items())


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def descendants(pid: int) -> set[psutil.Process]:
    """Return the descendants of a process, itself included."""
    process = psutil.Process(pid)
    return {process, *process.children(recursive=True)}


def alive(family: set[psutil.Process]) -> dict[psutil.Process, str]:
    """Return which of `family` still run, with their command lines."""
    return {process: _command(process) for process in family & running().keys()}


def mentioning(text: str) -> dict[psutil.Process, str]:
    """Return the processes with `text` in their command line or environment, ourselves excepted."""
    return {
        process: _command(process)
        for process in running()
        if process.pid != os.getpid() and (text in _command(process) or text in _variables(process))
    }


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _variables(process: psutil.Process) -> str:
    try:
        return " ".join(f"{name}={value}" for name, value in process.environ().items())
    except (psutil.Error, OSError):
        return ""
