"""What a private Flower needs: a folder of its own, the app in it, and commands to start it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from simulations.engine.processes import ALLOCATOR

APP_FOLDERS = ("common", "server", "client")
CONNECTION = "private"

ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.05",  # seconds; the default waits up to one
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leaves a GPU visible to clients that claim none
    "PYTHONUNBUFFERED": "1",  # the log is there when something dies
    "MPLBACKEND": "Agg",  # a notebook's is unknown to Matplotlib where its kernel is not installed
}

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "ws_proxy", "wss_proxy")
"""Not for the engine: all it speaks to is on this machine, which a proxy would look for elsewhere,
and httpx refuses a SOCKS proxy even where `no_proxy` exempts every address."""


@contextmanager
def temporary_home() -> Iterator[str]:
    """Make a folder for Flower and Ray that goes when the context is left."""
    # Ray's sockets lie below and their paths may have 100 characters: macOS' folder is too long.
    short = tempfile.gettempdir() if len(tempfile.gettempdir()) < 20 else "/tmp"
    home = tempfile.mkdtemp(prefix="sq-", dir=short)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def engine_variables(home: Path, threads: int, ray_port: int) -> dict[str, str]:
    """Return the variables of all of the engine's processes."""
    ours = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
    # Flower starts its own programs by name.
    path = os.pathsep.join([str(Path(sys.executable).parent), ours.get("PATH", "")])
    # It runs the apps in a folder apart, where a relative path of the user's means nothing.
    modules = [part for part in ours.get("PYTHONPATH", "").split(os.pathsep) if part]
    if modules:
        ours["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in modules)
    return {
        **ALLOCATOR,
        **ours,
        **ENVIRONMENT,
        "PATH": path,
        "FLWR_HOME": str(home),
        "OMP_NUM_THREADS": str(threads),
        "RAY_ADDRESS": f"127.0.0.1:{ray_port}",
    }


def superlink_command(port: int) -> list[str]:
    """Return how to start a SuperLink that simulates."""
    options = ["--simulation", "--insecure", "--disable-runtime-dependency-installation"]
    return ["flower-superlink", *options, "--host", "127.0.0.1", "--port", str(port)]


def ray_command(home: Path, ports: list[int], cpus: int) -> list[str]:
    """Return how to start Ray on this machine alone.

    It has free ports where Ray would fix them, so that runs can overlap.
    """
    names = ("port", "ray-client-server-port", "dashboard-agent-listen-port")
    return [
        *("ray", "start", "--head", "--block", f"--num-cpus={cpus}", f"--temp-dir={home / 'ray'}"),
        *(f"--{name}={port}" for name, port in zip(names, ports, strict=True)),
        # No web page and no autoscaler: each is one more process that imports for seconds.
        *("--include-dashboard=false", "--no-monitor", "--disable-usage-stats"),
    ]


def stage(app_dir: Path, target: Path) -> None:
    """Copy what the app consists of: Flower walks its whole folder, and a .venv there takes 5 s."""
    target.mkdir()
    text = (app_dir / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)
    for key in ("fab-include", "fab-exclude"):
        # A pattern that matches nothing is an error, and here most of the tree is missing.
        project["tool"]["flwr"]["app"].pop(key, None)
    (target / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
    for name in APP_FOLDERS:
        if (app_dir / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(app_dir / name, target / name, ignore=ignored)


def write_connection(home: Path, port: int) -> None:
    """Write down how Flower's commands reach the SuperLink on a port of this machine."""
    connect(home, f"127.0.0.1:{port}", None)


def connect(home: Path, address: str, authority: Path | None) -> None:
    """Write down how Flower's commands reach a SuperLink.

    Args:
        home: Flower's folder.
        address: The SuperLink's, with its port.
        authority: The certificate that its own is signed with; None is plain text.
    """
    connection: dict[str, str | bool] = {"address": address}
    connection |= {"insecure": True} if authority is None else {"root-certificates": str(authority)}
    config = {"superlink": {"default": CONNECTION, CONNECTION: connection}}
    (home / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
