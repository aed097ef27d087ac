"""Hosts of a federation in tests: each a network namespace with a cable of its own to the server.

Making them takes root; where the kernel refuses, a test that needs them says why it is skipped.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli_w

from common.config.run import Scalar
from simulations.deployment.certificates import make_certificates
from simulations.engine.home import ENVIRONMENT
from simulations.engine.processes import Processes
from tests.engines import BIN, ROOT, as_words, engine, wait_for

PORT = 8000
SCOREQUILT = "from scorequilt.__main__ import main; main()"


def ip(*words: str) -> None:
    """Run the system's program of that name."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def _network(name: str, clients: int) -> Iterator[None]:
    """Make a namespace for the server and one for each client, and a cable between the two."""
    hosts = [f"{name}s", *(f"{name}{client}" for client in range(clients))]
    try:
        for host in hosts:
            ip("netns", "add", host)
            ip("-n", host, "link", "set", "lo", "up")
        for client in range(clients):
            here, there = f"{name}v{client}", f"{name}w{client}"
            ends = ("link", "add", here, "netns", hosts[0], "type", "veth")
            ip(*ends, "peer", "name", there, "netns", hosts[1 + client])
            ours, theirs = f"10.231.{client}.1/24", f"10.231.{client}.2/24"
            ip("-n", hosts[0], "addr", "add", ours, "dev", here)
            ip("-n", hosts[1 + client], "addr", "add", theirs, "dev", there)
            ip("-n", hosts[0], "link", "set", here, "up")
            ip("-n", hosts[1 + client], "link", "set", there, "up")
        yield
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "del", host)


@dataclass(frozen=True)
class Hosts:
    """A server and devices, each on a host of its own, over TLS and with a key each.

    Attributes:
        names: What the devices are called, which are numbered in this order.
        folder: Where everything lies that processes of all hosts read and write.
        certs: Where their certificates and keys lie.
        processes: Which a test may start more of.
        output: The file that all of them write to.
    """

    names: Sequence[str]
    folder: Path
    certs: Path
    processes: Processes
    output: Path
    _network: str

    def address(self, client: int) -> str:
        """Return where a device finds the server."""
        return f"10.231.{client}.1"

    def plug(self, client: int, state: str) -> None:
        """Set the server's end of a device's cable "up" or "down"."""
        ip("-n", f"{self._network}s", "link", "set", f"{self._network}v{client}", state)

    def on(self, host: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a command on host "s", the server, or that of the device of a number."""
        return self.processes.start("ip", "netns", "exec", self._network + host, *command)

    def scorequilt(
        self, host: str, *words: str, program: str = SCOREQUILT
    ) -> subprocess.Popen[bytes]:
        """Start a command of ours on a host."""
        return self.on(host, sys.executable, "-c", program, *words)

    def serve(self) -> float:
        """Start the server's end and let it know all keys; return the seconds that this took.

        They say how fast programs start on this machine as it is now.
        """
        self.scorequilt("s", "serve", "--certs", str(self.certs), "--port", str(PORT))
        wait_for(lambda: any(word in self.output.read_text() for word in ("SuperLink", "API")))

        def register(key: str) -> subprocess.Popen[bytes]:
            return self.on("s", "flwr", "supernode", "register", key, "farm")

        keys = [str(self.certs / "nodes" / f"{name}.pub") for name in self.names]
        # All at once, since each takes seconds to start; again where the SuperLink was not ready.
        pending = {key: register(key) for key in keys}

        def registered() -> bool:
            for key, command in list(pending.items()):
                if command.poll() == 0:
                    del pending[key]
                elif command.poll() is not None:
                    pending[key] = register(key)
            return not pending

        began = time.monotonic()
        wait_for(registered, 600)
        return time.monotonic() - began

    def join(
        self, client: int, *options: str, program: str = SCOREQUILT
    ) -> subprocess.Popen[bytes]:
        """Start a device, with whatever key and name the options say."""
        where = f"{self.address(client)}:{PORT}"
        return self.scorequilt(str(client), "join", where, *options, program=program)

    def member(
        self, client: int, *options: str, program: str = SCOREQUILT
    ) -> subprocess.Popen[bytes]:
        """Start a device with its own key and name."""
        key = self.certs / "nodes" / f"{self.names[client]}.key"
        own = ("--certs", str(self.certs), "--key", str(key), "--name", self.names[client])
        return self.join(client, *own, *options, program=program)

    def run(self, changes: dict[str, Scalar]) -> subprocess.Popen[bytes]:
        """Start a run with these configuration keys."""
        words = ("flwr", "run", str(ROOT), "farm", "--stream", "--run-config", as_words(changes))
        return self.on("s", *words)


@contextmanager
def hosts(folder: Path, names: Sequence[str], **variables: str) -> Iterator[Hosts]:
    """Yield hosts, on which nothing runs yet; whatever a test starts there ends with it.

    Args:
        folder: For everything they read and write.
        names: What the devices are called.
        variables: Of the environment of all processes.
    """
    if shutil.which("ip") is None:
        pytest.skip("there is no program 'ip'")
    network = f"q{os.getpid() % 100000}"
    made = _network(network, len(names))
    try:
        made.__enter__()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the kernel refuses network namespaces: {error.stderr.strip()}")
    try:
        certs, home = folder / "certs", folder / "flwr"
        addresses = [f"10.231.{client}.1" for client in range(len(names))]
        make_certificates(certs, ["127.0.0.1", *addresses], list(names))
        home.mkdir()
        connection = {
            "address": f"127.0.0.1:{PORT}",
            "root-certificates": str(certs / "ca.crt"),
        }
        superlinks = {"default": "farm", "farm": connection}
        (home / "config.toml").write_text(tomli_w.dumps({"superlink": superlinks}))
        environment = {
            **ENVIRONMENT,
            "HOME": str(folder),
            "FLWR_HOME": str(home),
            "NO_PROXY": "*",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            **variables,
        }
        with engine(folder, environment) as (processes, output):
            yield Hosts(names, folder, certs, processes, output, network)
    finally:
        made.__exit__(None, None, None)
