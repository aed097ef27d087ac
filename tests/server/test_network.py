"""A federation of hosts with addresses of their own, over TLS, while the network fails.

A server and three clients, each a host (`tests.hosts`) on a cable of its own.
"""

import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from common.config.fleet import parse_fleet
from common.config.run import RunConfig
from common.data.datasets import load_dataset, load_partition
from server.evaluation.build import evaluator_for
from server.record.history import Row, read_rows
from simulations.deployment.certificates import make_certificates
from tests.engines import descendants, linux, tiny, wait_for
from tests.hosts import hosts

ROUNDS = 10
CLIENTS = 3
DEVICE = """
import os, sys
from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection
from flwr.supernode.cli.flower_supernode import flower_supernode
from scorequilt.__main__ import main

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


def _prepare(config: RunConfig) -> None:
    """Fill the cache with what every process of the run would otherwise make or wait for."""
    clients = len(parse_fleet(config.fleet))
    load_partition(config.data, config.partition, config.partition_alpha, clients, 0, config.seed)
    evaluator_for(config, load_dataset(config.data))


@linux
@pytest.mark.slow
@pytest.mark.timeout(1800)  # each message starts a process that imports torch
def test_a_federation_of_hosts_outlives_its_network(tmp_path: Path) -> None:
    """One client joins late, one is cut off in a round and comes back, one is killed."""
    other = tmp_path / "other"
    make_certificates(other, ["127.0.0.1"], ["unknown"])
    run_dir = tmp_path / "run"
    config = tiny(fleet="1x1 1/2x2", rounds=ROUNDS, evaluate_every=100)

    def rows() -> list[Row]:
        return read_rows(run_dir / "history.jsonl")[1:]

    with hosts(tmp_path, [f"device-{client}" for client in range(CLIENTS)]) as farm:

        def member(client: int) -> subprocess.Popen[bytes]:
            return farm.member(client, "--partition-id", str(client), program=DEVICE)

        pace = farm.serve()
        _prepare(config)
        members = [member(0), member(1)]
        # Whoever got in as client 2 would be asked: nobody else answers for it yet.
        third, own = ("--partition-id", "2"), str(farm.certs / "nodes" / "device-2.key")
        impostor, unknown = ("--name", "impostor"), str(other / "nodes" / "unknown.key")
        certs = ("--certs", str(farm.certs))
        farm.join(2, *third, *certs, "--key", unknown, *impostor, "--port", "9100")
        farm.join(2, *third, "--certs", str(other), "--key", own, *impostor, "--port", "9101")
        farm.join(2, *third, "--insecure", *impostor, "--port", "9102")
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
        run = farm.run(changes)

        def until(condition: Callable[[Row], bool]) -> None:
            def met() -> bool:
                assert run.poll() is None, "the run has ended"
                return any(map(condition, rows()))

            wait_for(met, 1200)

        # Round 1 has begun.
        wait_for(lambda: run.poll() is not None or read_rows(run_dir / "history.jsonl"))
        members.append(member(2))
        until(lambda row: row["fleet_events"].get("2") == "joined" and row["clients_asked"] == 3)
        farm.plug(0, "down")
        until(lambda row: row["fleet_events"].get("0") == "left")
        farm.plug(0, "up")
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
    assert [row["device"] for row in fleet] == [f"device-{client}" for client in range(CLIENTS)]
    assert "impostor" not in (run_dir / "history.jsonl").read_text()
