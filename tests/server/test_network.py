"""A federation of hosts with addresses of their own, over TLS, while the network fails.

Every host is a network namespace that the test makes: a server and three clients, each on a cable
of its own. That takes root; where the kernel refuses, the test says why it is skipped.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import tomli_w

from common.config.fleet import parse_fleet
from common.config.run import RunConfig
from common.data.datasets import load_dataset, load_partition
from server.evaluation.build import evaluator_for
from server.record.history import Row, read_rows
from simulations.deployment.certificates import make_certificates
from simulations.engine.home import ENVIRONMENT
from tests.engines import BIN, ROOT, as_words, descendants, engine, linux, tiny, wait_for

PORT = 8000
ROUNDS = 10
CLIENTS = 3
SCOREQUILT = "from simulations.cli import main; main()"
DEVICE = """
import os, sys
from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli.flower_supernode import flower_supernode
from simulations.cli import main

def become(program, command, environment):
    os.environ.update(environment)
    sys.argv = command
    flower_supernode()

for module in (heartbeat, fleet_http_connection):
    module.HEARTBEAT_DEFAULT_INTERVAL = 10
os.execvpe = become
main()
"""
"""`scorequilt join` whose SuperNode says every few seconds that it lives, so a lost one is missed
after 20 seconds, not after 60: what Flower allows at least, though it has no option for it."""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _server_address(client: int) -> str:
    return f"10.231.{client}.1"


def _prepare(config: RunConfig) -> None:
    """Fill the cache with what every process of the run would otherwise make or wait for."""
    clients = len(parse_fleet(config.fleet))
    load_partition(config.data, config.partition, config.partition_alpha, clients, 0, config.seed)
    evaluator_for(config, load_dataset(config.data))


@contextmanager
def network(name: str) -> Iterator[None]:
    """Make a namespace for the server and one for each client, and a cable between the two."""
    hosts = [f"{name}s", *(f"{name}{client}" for client in range(CLIENTS))]
    try:
        for host in hosts:
            _ip("netns", "add", host)
            _ip("-n", host, "link", "set", "lo", "up")
        for client in range(CLIENTS):
            here, there = f"{name}v{client}", f"{name}w{client}"
            ends = ("link", "add", here, "netns", hosts[0], "type", "veth")
            _ip(*ends, "peer", "name", there, "netns", hosts[1 + client])
            ours, theirs = f"{_server_address(client)}/24", f"10.231.{client}.2/24"
            _ip("-n", hosts[0], "addr", "add", ours, "dev", here)
            _ip("-n", hosts[1 + client], "addr", "add", theirs, "dev", there)
            _ip("-n", hosts[0], "link", "set", here, "up")
            _ip("-n", hosts[1 + client], "link", "set", there, "up")
        yield
    finally:
        for host in hosts:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", host)


@pytest.fixture
def hosts() -> Iterator[str]:
    if shutil.which("ip") is None:
        pytest.skip("there is no program 'ip'")
    name = f"q{os.getpid() % 100000}"
    made = network(name)
    try:
        made.__enter__()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the kernel refuses network namespaces: {error.stderr.strip()}")
    yield name
    made.__exit__(None, None, None)


@linux
@pytest.mark.slow
@pytest.mark.timeout(1800)  # each message starts a process that imports torch
def test_a_federation_of_hosts_outlives_its_network(tmp_path: Path, hosts: str) -> None:
    """One client joins late, one is cut off in a round and comes back, one is killed."""
    certs, other = tmp_path / "certs", tmp_path / "other"
    addresses = [_server_address(client) for client in range(CLIENTS)]
    names = [str(client) for client in range(CLIENTS)]
    make_certificates(certs, ["127.0.0.1", *addresses], names)
    make_certificates(other, ["127.0.0.1"], ["unknown"])
    home = tmp_path / "flwr"
    home.mkdir()
    ca = str(certs / "ca.crt")
    connection = {"address": f"127.0.0.1:{PORT}", "root-certificates": ca}
    superlinks = {"default": "farm", "farm": connection}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": superlinks}))
    variables = {
        **ENVIRONMENT,
        "HOME": str(tmp_path),
        "FLWR_HOME": str(home),
        "NO_PROXY": "*",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    run_dir = tmp_path / "run"
    config = tiny(fleet="1x1 1/2x2", rounds=ROUNDS, evaluate_every=100)

    def rows() -> list[Row]:
        return read_rows(run_dir / "history.jsonl")[1:]

    with engine(tmp_path, variables) as (processes, output):

        def on(host: str, *command: str) -> subprocess.Popen[bytes]:
            return processes.start("ip", "netns", "exec", hosts + host, *command)

        def scorequilt(
            host: str, *words: str, program: str = SCOREQUILT
        ) -> subprocess.Popen[bytes]:
            return on(host, sys.executable, "-c", program, *words)

        def join(client: int, *options: str, program: str = SCOREQUILT) -> subprocess.Popen[bytes]:
            where = ("join", f"{addresses[client]}:{PORT}", "--partition-id", str(client))
            return scorequilt(str(client), *where, *options, program=program)

        def member(client: int) -> subprocess.Popen[bytes]:
            key = str(certs / "nodes" / f"{client}.key")
            name = ("--name", f"device {client}")
            options = ("--certs", str(certs), "--key", key, *name)
            return join(client, *options, program=DEVICE)

        scorequilt("s", "serve", "--certs", str(certs), "--port", str(PORT))
        wait_for(
            lambda: "Starting Flower SuperLink" in output.read_text() or "API" in output.read_text()
        )
        keys = [str(certs / "nodes" / f"{client}.pub") for client in range(CLIENTS)]

        def register(key: str) -> subprocess.Popen[bytes]:
            return on("s", "flwr", "supernode", "register", key, "farm")

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
        pace = time.monotonic() - began  # of programs that start on this machine as it is now
        _prepare(config)
        members = [member(0), member(1)]
        # Whoever got in as client 2 would be asked: nobody else answers for it yet.
        impostor = ("--name", "impostor", "--port", "9100")
        unknown = str(other / "nodes" / "unknown.key")
        join(2, "--certs", str(certs), "--key", unknown, *impostor)
        own = str(certs / "nodes" / "2.key")
        join(2, "--certs", str(other), "--key", own, *impostor[:3], "9101")
        join(2, "--insecure", *impostor[:3], "9102")
        changes = {
            **config.to_flat(),
            "min-replies": 2,
            # A round waits until a lost client is noticed, so that how many rounds go by meanwhile
            # does not depend on how fast the machine is.
            "close-early": False,
            # Long enough for two clients to answer: the run does not wait longer for the third.
            "start-timeout": 10 + 5 * pace,
            "round-timeout": 240,
            "run-dir": str(run_dir),
        }
        words = ("flwr", "run", str(ROOT), "farm", "--stream", "--run-config", as_words(changes))
        run = on("s", *words)

        def until(condition: Callable[[Row], bool]) -> None:
            def met() -> bool:
                assert run.poll() is None, "the run has ended"
                return any(map(condition, rows()))

            wait_for(met, 1200)

        # Round 1 has begun.
        wait_for(lambda: run.poll() is not None or read_rows(run_dir / "history.jsonl"))
        members.append(member(2))
        until(lambda row: row["fleet_events"].get("2") == "joined" and row["clients_asked"] == 3)
        cable = f"{hosts}v0"
        _ip("-n", f"{hosts}s", "link", "set", cable, "down")
        until(lambda row: row["fleet_events"].get("0") == "left")
        _ip("-n", f"{hosts}s", "link", "set", cable, "up")
        until(lambda row: row["fleet_events"].get("0") == "joined")
        for process in descendants(members[1].pid):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert run.wait() == 0
    told = rows()
    assert [row["round"] for row in told] == list(range(1, ROUNDS + 1))
    assert told[0]["clients_absent"] == 1
    assert (told[0]["clients_asked"], told[0]["clients_replied"]) == (2, 2)
    assert all(row["clients_replied"] >= 2 for row in told)
    # Client 0 was cut off in a round, noticed, and came back; client 1 was killed after that.
    events = [(row["round"], row["fleet_events"].get("0")) for row in told]
    left, back = (next(n for n, event in events if event == what) for what in ("left", "joined"))
    assert left < back
    after = [row for row in told if row["round"] >= back]
    assert any(row["rejections"].get("1") or row["fleet_events"].get("1") for row in after)
    fleet = json.loads((run_dir / "fleet.json").read_text())
    assert [row["device"] for row in fleet] == [f"device {client}" for client in range(CLIENTS)]
    assert "impostor" not in (run_dir / "history.jsonl").read_text()
