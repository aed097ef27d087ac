"""What is said to a server that runs already: which devices may join, and what to train.

Both use Flower's own command line, with a folder of its own for the time of the call: nothing has
to be written into `~/.flwr/config.toml`, and the app that is sent is the one installed here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from common.config import RunConfig
from common.errors import UserError
from simulations.about import PROJECT
from simulations.engine.home import CONNECTION, ENVIRONMENT, connect, stage, temporary_home

PORT = 8000


def register(server: str, authority: Path | None, nodes: Path) -> int:
    """Register the public keys of devices at a server; return how many are new to it.

    Args:
        server: Its address; the port is 8000 if it names none.
        authority: The authority's certificate, None for plain text.
        nodes: A folder of public keys, NAME.pub.

    Raises:
        UserError: There is no key, or the server cannot be reached or refuses one.
    """
    keys = sorted(nodes.glob("*.pub"))
    if not keys:
        raise UserError(f"--certs: there is no NAME.pub in {nodes}; scorequilt certs makes them")
    new = 0
    with _home(server, authority) as (home, environment):
        for key in keys:
            words = ["flwr", "supernode", "register", str(key.absolute()), CONNECTION]
            done = subprocess.run(words, cwd=home, env=environment, capture_output=True, text=True)
            said = done.stdout + done.stderr
            # Who is registered already stays so, and more devices can be added later.
            if done.returncode and "already" not in said:
                raise UserError(f"{server}: {key.stem} was not registered: {_last_line(said)}")
            new += not done.returncode
    return new


def submit(server: str, authority: Path | None, config: RunConfig, stream: bool) -> int:
    """Send the app and a configuration to a server and have it run; return Flower's exit code.

    Args:
        server: Its address; the port is 8000 if it names none.
        authority: The authority's certificate, None for plain text.
        config: The configuration; its paths are the server's.
        stream: Show the run's log until its end.
    """
    with _home(server, authority) as (home, environment):
        stage(PROJECT, home / "app")
        text = tomli_w.dumps(config.to_flat())
        (home / "run.toml").write_text(text, encoding="utf-8")
        words = ["flwr", "run", str(home / "app"), CONNECTION]
        words += ["--run-config", str(home / "run.toml"), *(["--stream"] if stream else [])]
        return subprocess.run(words, cwd=home, env=environment).returncode


@contextmanager
def _home(server: str, authority: Path | None) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield a folder for Flower that knows the server, and the variables of its commands."""
    with temporary_home() as made:
        home = Path(made)
        connect(home, with_port(server), None if authority is None else authority.absolute())
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        yield home, {**os.environ, **ENVIRONMENT, "PATH": path, "FLWR_HOME": made}


def with_port(server: str) -> str:
    """Return an address with its port; IPv6 addresses stand in brackets."""
    return server if ":" in server.rpartition("]")[2] else f"{server}:{PORT}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "flwr ended without a word"
