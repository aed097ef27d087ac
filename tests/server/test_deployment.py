"""The app on a deployed federation: a SuperLink and SuperNodes, each a process of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common.config.fleet import parse_fleet
from server.record.history import read_rows
from simulations.engine.processes import free_ports
from tests.engines import (
    BIN,
    ROOT,
    TINY,
    as_words,
    assert_all_replied,
    in_process,
    mentioning,
    outcome,
    superlink,
    tiny,
    wait_for,
)


@pytest.mark.slow
@pytest.mark.timeout(600)  # each message starts a process that imports torch
def test_a_deployed_federation_gives_the_bits_of_a_run_in_one_process(tmp_path: Path) -> None:
    # In round 2 clients add what they kept in round 1, in another process by then.
    keeping = {"codec": "int8", "policy": "static"}
    config = tiny(**keeping)
    clients = len(parse_fleet(config.fleet))
    run_dir = tmp_path / "run"
    with superlink(tmp_path) as (processes, port):
        # Connected in another order than their partitions': node ids say nothing.
        for partition, own_port in reversed(list(enumerate(free_ports(clients)))):
            processes.start(
                *("scorequilt", "join", f"127.0.0.1:{port}", "--insecure"),
                *("--partition-id", str(partition), "--port", str(own_port)),
                # Tasks are forks on one device and fresh processes on the other.
                "--preload" if partition == 0 else "--no-preload",
            )
        changes = {**TINY, **keeping, "run-dir": str(run_dir)}
        run = processes.start(
            *(str(BIN / "flwr"), "run", str(ROOT), "--stream", "--run-config", as_words(changes)),
        )
        assert run.wait() == 0
        assert _fork_servers(tmp_path) == 1
    assert _fork_servers(tmp_path) == 0
    assert not (run_dir / "failure.txt").exists()
    assert_all_replied(run_dir, config)
    assert outcome(run_dir, config) == in_process(config, tmp_path / "in-process")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_devices_with_names_and_no_numbers_come_and_go(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ports = iter(free_ports(8))

    def rows() -> list[dict[str, Any]]:
        history = run_dir / "history.jsonl"
        return read_rows(history) if history.exists() else []

    def events() -> dict[str, str]:
        return {who: what for row in rows() for who, what in row["fleet_events"].items()}

    with superlink(tmp_path) as (processes, port):

        def join(name: str, *options: str) -> subprocess.Popen[bytes]:
            return processes.start(
                *("scorequilt", "join", f"127.0.0.1:{port}", "--insecure", "--no-preload"),
                *("--name", name, "--port", str(next(ports)), *options),
            )

        def start(rounds: int) -> subprocess.Popen[bytes]:
            fleet = {"fleet": "auto", "min-clients": 3, "rounds": rounds}
            changes = {**TINY, **fleet, "evaluate-every": 99, "run-dir": str(run_dir)}
            return processes.start(
                *(str(BIN / "flwr"), "run", str(ROOT), "--stream"),
                *("--run-config", as_words(changes)),
            )

        devices = {name: join(name) for name in ("barn", "field", "yard")}
        join("odd", "--model-rate", "3")
        run = start(rounds=12)
        wait_for(lambda: rows() or run.poll() is not None)
        join("meadow")
        wait_for(lambda: events().get("3") == "joined" or run.poll() is not None)
        devices["barn"].terminate()
        assert run.wait() == 0
        numbers = json.loads((run_dir / "numbers.json").read_text())
        fleet = json.loads((run_dir / "fleet.json").read_text())
        assert {*numbers} == {f"name {each}" for each in (*devices, "meadow")}
        assert numbers["name meadow"] == 3
        assert events() == {"3": "joined", str(numbers["name barn"]): "left"}
        assert max(row["clients_replied"] for row in rows()[1:]) == 4
        refused = {row["device"]: row["refused"] for row in fleet if "refused" in row}
        assert refused["odd"].startswith("model-rate: '3' in the node's configuration")
        # The server starts again, and a device as another node.
        devices["field"].terminate()
        devices["field"].wait()
        join("field")
        assert start(rounds=13).wait() == 0
        assert json.loads((run_dir / "numbers.json").read_text()) == numbers
        assert rows()[-1]["round"] == 13
        assert rows()[-1]["clients_replied"] == 3
    log = (tmp_path / "output.txt").read_text()
    assert "the server does not take this device: model-rate: '3'" in log


def _fork_servers(folder: Path) -> int:
    """Return how many devices of the test's have one."""
    return sum("forkserver.py serve" in line for line in mentioning(str(folder)).values())
