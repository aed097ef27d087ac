"""The app on a deployed federation: a SuperLink and SuperNodes, each a process of its own."""

from pathlib import Path

import pytest

from common.config.fleet import parse_fleet
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


def _fork_servers(folder: Path) -> int:
    """Return how many devices of the test's have one."""
    return sum("forkserver.py serve" in line for line in mentioning(str(folder)).values())
