"""Runs the Flower app on this machine: an engine of its own, one run, and nothing left behind.

The engine is a SuperLink that only this run knows (`flower-superlink --simulation`) and a Ray
cluster that its clients work in. Both start at the same time; by itself Flower starts Ray last,
which takes about three seconds longer. What Flower and Ray write goes to a temporary folder.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from common.config import Scalar
from common.errors import UserError
from simulations.engine.home import (
    CONNECTION,
    engine_variables,
    ray_command,
    stage,
    superlink_command,
    temporary_home,
    write_connection,
)
from simulations.engine.processes import Processes, free_ports, signals_interrupt

TICK = 0.2
START_LIMIT = 120.0
LAST_WORDS = 3.0
FAREWELL = 5.0
"""Seconds after the ServerApp's process in which `flwr run` should end, too.

Flower itself misses a ServerApp that was killed after a minute, and not always.
"""
SERVER_APP = "flwr-simulation"


class RunFailed(UserError):
    """The run did not complete; the message is the last error the ServerApp reported."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended: Flower's status, the end of its log, wall seconds including start-up."""

    status: str
    log_tail: str
    seconds: float


def run_simulation(
    config_flat: Mapping[str, Scalar],
    num_clients: int,
    app_dir: Path,
    run_dir: Path,
    on_progress: Callable[[str], None] | None = None,
) -> RunResult:
    """Run the app in `app_dir` with `num_clients` simulated clients and wait for its end.

    Our environment reaches the ServerApp and the clients, but for OMP_NUM_THREADS, which becomes
    the configuration's `threads`. As many clients work at once as that leaves CPUs for.

    Args:
        config_flat: keys that the app's pyproject declares; `run-dir` is set to `run_dir`.
        num_clients: simulated devices, at least 1.
        app_dir: the folder with the Flower app's `pyproject.toml`.
        run_dir: where the app writes; also gets `log.txt`, to which both apps' output is appended.
        on_progress: called about five times a second with what is going on: "starting", "running"
            or "stopping". Meant for reading `run_dir/history.jsonl`.

    Raises:
        RunFailed: the ServerApp raised or the engine broke. If the app left a `failure.txt` in
            `run_dir`, its first line is the message and the run is stopped soon after.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP, after everything has been stopped.
    """
    started = time.monotonic()
    notify = on_progress or (lambda phase: None)
    run_dir = run_dir.absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    failure = run_dir / "failure.txt"
    failure.unlink(missing_ok=True)
    log_path = run_dir / "log.txt"
    begin = log_path.stat().st_size if log_path.exists() else 0
    with ExitStack() as stack:
        stack.enter_context(signals_interrupt())
        home = Path(stack.enter_context(temporary_home()))
        log = stack.enter_context(log_path.open("ab"))
        threads = int(config_flat.get("threads", 1))
        workers = max(1, min(num_clients, cpus() // threads))
        ports = free_ports(4)
        environment = engine_variables(home, threads, ports[1])
        processes = stack.enter_context(Processes(environment, home, log))
        # Before Processes.__exit__, which takes a second or two.
        stack.callback(notify, "stopping")

        processes.start(*superlink_command(ports[0]))
        processes.start(*ray_command(home, ports[1:], workers * threads))
        stage(app_dir, home / "app")
        write_connection(home, ports[0])
        (home / "run.toml").write_text(
            tomli_w.dumps({**config_flat, "run-dir": str(run_dir)}), encoding="utf-8"
        )
        _wait_for_port(ports[0], processes, notify)

        federation = f"num-supernodes={num_clients} client-resources-num-cpus={threads}"
        submitted = processes.start(
            *("flwr", "run", str(home / "app"), CONNECTION, "--stream"),
            *("--run-config", str(home / "run.toml"), "--federation-config", federation),
        )
        failed_at, seen_at, looked_at = 0.0, 0.0, 0.0
        while submitted.poll() is None:
            notify("running")
            _check(processes, submitted)
            if time.monotonic() > looked_at + 1:  # it reads all of /proc
                looked_at = time.monotonic()
                if processes.runs(SERVER_APP):
                    seen_at = looked_at
                elif seen_at and looked_at > seen_at + FAREWELL:
                    break
            if failure.exists():
                failed_at = failed_at or time.monotonic()
                if time.monotonic() > failed_at + LAST_WORDS:
                    break
            time.sleep(TICK)
        notify("running")
        _check(processes, submitted)
        said = failure.read_text(encoding="utf-8").split("\n")[0] if failure.exists() else ""
        status, details = "failed", ""
        if submitted.returncode in (0, None) and not said:
            status, details = _status(environment, home)
            if submitted.returncode is None and status != "finished:completed":
                said = "the ServerApp was killed"
        text = _plain(log_path.read_bytes()[begin:])
        if status != "finished:completed":
            reason = said or _last_error(text) or details or f"the run ended as '{status}'"
            raise RunFailed(f"{reason} (log: {log_path})")
    return RunResult(status, text[-4000:], time.monotonic() - started)


def _wait_for_port(port: int, processes: Processes, notify: Callable[[str], None]) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        notify("starting")
        _check(processes)
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RunFailed(f"Flower's SuperLink did not start within {START_LIMIT:.0f} s")


def _check(processes: Processes, *may_end: subprocess.Popen[bytes]) -> None:
    for child in processes.ended():
        if child not in may_end:
            command = child.args if isinstance(child.args, list) else []
            name = "the SuperLink" if "flower-superlink" in command else "Ray"
            code = child.returncode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            raise RunFailed(f"the engine broke: {name} {how}; see log.txt of the run")


def _status(environment: Mapping[str, str], home: Path) -> tuple[str, str]:
    """Flower's status of the only run, such as "finished:completed", and what it says about it."""
    command = ["flwr", "ls", CONNECTION, "--format", "json"]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, timeout=120)
    with suppress(ValueError, LookupError):
        run = json.loads(done.stdout[done.stdout.index(b"{") :])["runs"][0]
        return str(run["status"]), str(run["status-details"])
    return "unknown", ""


def _plain(log: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", log.decode(errors="replace"))


def _last_error(text: str) -> str:
    """The last line that ends a traceback, or else the last that Flower logs as an error."""
    lines = re.findall(r"^(?:[a-z_]\w*\.)*([A-Z]\w*(?:Error|Exception)): (.+)$", text, re.MULTILINE)
    if not lines:
        logged = re.findall(r"^ERROR *: *(?!Exit Code)(\S.*)$", text, re.MULTILINE)
        return logged[-1] if logged else ""
    name, message = lines[-1]
    return message if name == "UserError" else f"{name}: {message}"


def cpus() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
