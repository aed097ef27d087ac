"""`python -m benchmarks.kills FOLDER [--kind plain] [--kills 30]`: kill -9, resume, compare bits.

A tiny simulation of twelve rounds with Flower's real engine is killed at random instants and
resumed as a user does, until so many kills have hit; a run that reaches its end is compared with
one that nothing ever interrupted, and another begins. Victims are by turns the ServerApp, the
SuperLink, the command itself and the whole family of processes; instants are spread over start-up,
rounds, writing and the end. Kinds of runs are `tests.engines.KINDS`: of the server alone, judged by
its clients, and private ones, which here share a key, without which no two would be alike. Exits
with 1 if weights or history differ in a bit, if the command does not end by itself with one line
that says how to resume, or if it leaves a process behind. Linux.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in the run's own processes, for the same bits

import numpy as np
import psutil
import typer
from flwr.supercore.task_identity import TaskIdentity

from common.config import RunConfig
from common.files import write_json
from server.privacy.ledger import FOLDER, KEY_BYTES
from server.record.history import read_rows
from server.state import checkpoints, round_of
from tests.engines import (
    KINDS,
    ROOT,
    alive,
    descendants,
    in_process,
    outcome,
    tiny_kind,
    write_toml,
)

VICTIMS = ("ServerApp", "SuperLink", "command", "everything")
PROGRAMS = {"ServerApp": "flwr-simulation", "SuperLink": "flower-superlink"}
MOMENTS = ("start-up", "round", "writing", "round", "end")
"""When a run is killed, one after the other; then it may end, and another begins."""
ROUNDS = 12
SCOREQUILT = "from simulations.cli import main; main()"
LONGEST = 600.0
"""Seconds that anything may take."""


@dataclass
class Attempt:
    """One start of the command, to be killed or not.

    Args:
        run_dir: The run's directory.
        file: Its configuration.
    """

    run_dir: Path
    file: Path
    family: set[psutil.Process] = field(default_factory=set)

    def __post_init__(self) -> None:
        known = (self.run_dir / "config.toml").exists()
        again = ("--resume", str(self.run_dir))
        words = again if known else (str(self.file), "--run-dir", str(self.run_dir))
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCOREQUILT, "run", *words, "--quiet"],
            cwd=self.run_dir.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def wait_until(self, condition: Callable[[], object], pause: float = 0.01) -> bool:
        """Wait for a condition; False if the command ends before."""
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > self.started + LONGEST:
                raise SystemExit(f"nothing happens in {self.run_dir}")
            time.sleep(pause)
        return True

    def kill(self, victim: str) -> bool:
        """Kill a victim, as soon as there is one; False if the command ends before."""

        def found() -> list[psutil.Process]:
            with suppress(psutil.NoSuchProcess):
                self.family |= descendants(self.process.pid)
            if victim == "everything":
                return list(self.family)
            program = PROGRAMS.get(victim)
            # Between fork and exec a process is still called as its parent.
            named = [
                process
                for process, command in alive(self.family).items()
                if any(word.endswith(f"/{program}") for word in command.split())
            ]
            return named if program else [psutil.Process(self.process.pid)]

        if not self.wait_until(found) or self.process.poll() is not None:
            return False
        victims = found()
        for process in victims:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return bool(victims)

    def said(self) -> list[str]:
        """Return the lines that the command has printed, once it has ended."""
        assert self.process.stdout is not None
        said = self.process.stdout.read()
        return said.decode(errors="replace").splitlines()


def done(run_dir: Path) -> int:
    """Return the last round in the history, -1 before the first."""
    rows = read_rows(run_dir / "history.jsonl")
    return int(rows[-1]["round"]) if rows else -1


def place(run_dir: Path) -> str:
    """Say from the files what a run was doing when it was killed."""
    rows, saved = done(run_dir), checkpoints(run_dir / "checkpoints")
    complete = round_of(saved[-1]) if saved else -1
    drawn = max((int(p.stem[-4:]) for p in run_dir.glob("samples/round-*.png")), default=-1)
    if parts := [path.name.split(".")[1] for path in run_dir.rglob(".*.part")]:
        return f"writing {parts[0]}"
    if not (run_dir / "config.toml").exists():
        return "before anything"
    if rows > complete:
        return f"row {rows} written, checkpoint {rows} not"
    if drawn > rows:
        return f"round {drawn} sampled, not recorded"
    if rows == ROUNDS:
        return "summary and pictures" if (run_dir / "summary.json").exists() else "summing up"
    return f"round {complete + 1}" if complete >= 0 else "before round 0 was complete"


def await_moment(attempt: Attempt, moment: str, rng: np.random.Generator, pace: float) -> bool:
    """Wait for a random instant of a kind; False if the command ends before.

    Args:
        attempt: What runs.
        moment: One of `MOMENTS`.
        rng: Where chance comes from.
        pace: Seconds that start-up takes, as far as is known.
    """
    run_dir, begun = attempt.run_dir, done(attempt.run_dir)
    if moment == "start-up":
        delay = rng.uniform(0, pace)
        return attempt.wait_until(lambda: time.monotonic() > attempt.started + delay)
    target = min(ROUNDS - 1, begun + int(rng.integers(1, 4))) if moment != "end" else ROUNDS
    if not attempt.wait_until(lambda: done(run_dir) >= target):
        return False
    if moment == "writing":
        folder = run_dir / "checkpoints"

        def writes() -> bool:
            return next(folder.glob(".*.part"), None) is not None

        return attempt.wait_until(writes, 0)
    instant = time.monotonic() + rng.uniform(0, 2 if moment == "round" else pace / 3)
    return attempt.wait_until(lambda: time.monotonic() > instant)


def check_end(attempt: Attempt, victim: str) -> tuple[float, list[str]]:
    """Wait for the end of everything after a kill; return seconds, and what is wrong with it."""
    killed = time.monotonic()
    with suppress(subprocess.TimeoutExpired):
        # Flower starts a ServerApp again that dies before it has said that it runs.
        attempt.process.wait(LONGEST if victim == "ServerApp" else 120)
    ended = time.monotonic()
    while alive(attempt.family) and time.monotonic() < ended + 120:
        time.sleep(0.1)
    wrong = [f"left running: {command}" for command in alive(attempt.family).values()]
    for process in alive(attempt.family):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    seconds = time.monotonic() - killed
    if victim in PROGRAMS:
        lines, code = attempt.said(), attempt.process.wait()
        again = victim == "ServerApp" and code == 0
        if not again and (code != 2 or len(lines) != 1 or "--resume" not in lines[0]):
            wrong.append(f"code {attempt.process.returncode}, said {lines}")
    return seconds, wrong


def give_key(run_dir: Path, config: RunConfig) -> None:
    """Give a private run, before it begins, the key that all runs here have."""
    if config.privacy.on:
        path = run_dir / FOLDER / "key"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(KEY_BYTES))


def start_up(folder: Path, file: Path) -> float:
    """Return the seconds that this machine takes until a run has its first row."""
    attempt = Attempt(folder / "timed", file)
    assert attempt.wait_until(lambda: done(attempt.run_dir) >= 0)
    seconds = time.monotonic() - attempt.started
    attempt.kill("everything")
    check_end(attempt, "everything")
    return seconds


def compare(attempt: Attempt, config: RunConfig, expected: dict[str, object]) -> list[str]:
    """Wait for a run's end and say what of it differs from one that nothing interrupted."""
    if attempt.process.wait(LONGEST) != 0:
        return [f"code {attempt.process.returncode}, said {attempt.said()}"]
    found = outcome(attempt.run_dir, config)
    return [f"{key} differs" for key in expected if found.get(key) != expected[key]]


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}.")] = "plain",
    kills: Annotated[int, typer.Option(min=1, help="How often to kill.")] = 30,
    seed: Annotated[int, typer.Option(help="Of instants and victims.")] = 0,
) -> None:
    """Kill so many times and say what became of it."""
    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)  # Flower makes messages only in a process that has a run
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind} is none of {', '.join(KINDS)}")
    config: RunConfig = tiny_kind(kind, rounds=ROUNDS)
    file = write_toml(config, folder)
    give_key(folder / "uninterrupted", config)
    expected = in_process(config, folder / "uninterrupted")
    rng, pace, number = np.random.default_rng(seed), start_up(folder, file), 1
    victims: list[str] = []
    report: list[dict[str, object]] = []
    faults: list[str] = []
    while len(report) < kills:
        run_dir, hits = folder / f"run-{number}", 0
        give_key(run_dir, config)
        for moment in [*MOMENTS, None]:
            attempt = Attempt(run_dir, file)
            if moment is None or len(report) == kills:
                break
            if not await_moment(attempt, moment, rng, pace):
                break
            victims = victims or [VICTIMS[i] for i in rng.permutation(len(VICTIMS))]
            instant = time.monotonic() - attempt.started
            if not attempt.kill(victims[-1]):
                break
            victim, where = victims.pop(), place(run_dir)
            seconds, wrong = check_end(attempt, victim)
            faults += wrong
            hits += 1
            report.append(
                {"kill": len(report) + 1, "run": number, "victim": victim, "instant": instant}
                | {"where": where, "rounds": done(run_dir), "seconds_to_end": seconds}
                | {"wrong": wrong}
            )
            print(
                f"{len(report):3}  {run_dir.name:6}  {victim:10}  after {instant:5.1f} s  "
                f"{where}; all ended {seconds:.1f} s later {' '.join(wrong)}",
                flush=True,
            )
        differing = compare(attempt, config, expected)
        faults += [f"{run_dir.name}: {each}" for each in differing]
        verdict = "; ".join(differing) or "identical in every bit"
        print(f"     {run_dir.name}: complete after {hits} kills, {verdict}", flush=True)
        number += 1
    write_json(folder / "kills.json", {"kills": report, "faults": faults, "runs": number - 1})
    for fault in faults:
        print(fault)
    print(f"{len(report)} kills in {number - 1} runs, {len(faults)} faults")
    raise typer.Exit(bool(faults))


if __name__ == "__main__":
    typer.run(main)
