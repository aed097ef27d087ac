"""The app on a deployed federation: a SuperLink and SuperNodes, each a process of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.config.fleet import parse_fleet
from common.config.run import Scalar
from common.data import load_dataset
from server.record.history import read_rows
from simulations.archive.record import read_run
from simulations.engine.processes import free_ports
from simulations.results.clients import clients_of
from simulations.results.export import export_run
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
@pytest.mark.timeout(600)
def test_three_devices_train_and_judge_a_model_whose_server_has_no_image(tmp_path: Path) -> None:
    """Three folders of different pictures, and nothing but numbers of them on the server."""
    config = tiny(**NO_IMAGES)
    run_dir, digits = tmp_path / "run", load_dataset("digits").train
    with superlink(tmp_path) as (processes, port):
        for partition, own_port in enumerate(free_ports(3)):
            folder = tmp_path / f"pictures{partition}"
            folder.mkdir()
            for place in np.flatnonzero(digits.labels % 3 == partition)[:60]:
                levels = ((digits.images[place, 0] + 1) * 127.5).round().astype(np.uint8)
                Image.fromarray(levels).save(folder / f"{place}.png")
            processes.start(
                *("scorequilt", "join", f"127.0.0.1:{port}", "--insecure"),
                *("--partition-id", str(partition), "--port", str(own_port)),
                *("--name", f"farm{partition}", "--data", f"folder:{folder}"),
                *(("--least-images", "100") if partition == 2 else ()),
            )
        changes = {**TINY, **NO_IMAGES, "run-dir": str(run_dir)}
        run = processes.start(
            *(str(BIN / "flwr"), "run", str(ROOT), "--stream", "--run-config", as_words(changes)),
        )
        assert run.wait() == 0
    assert not (run_dir / "failure.txt").exists()
    rows = read_rows(run_dir / "history.jsonl")
    assert len(rows) == config.rounds + 1
    for row in rows:
        assert row["frechet_ema"] > 0
        assert row["reference_images"] == 2 * 48
        assert row["survey_failures"] == {}
    assert set(rows[-1]["held_out_by_client"]) == {"0", "1", "2"}
    clients = clients_of(read_run(run_dir))
    assert [client.device for client in clients] == ["farm0", "farm1", "farm2"]
    assert all(client.held_out for client in clients)
    export_run(run_dir)
    assert (run_dir / "model" / "unet" / "config.json").is_file()


NO_IMAGES = {
    "data": "clients",
    "image-shape": "1x8x8",
    "evaluation.features": "untrained",
    "fleet": "1x1 1/2x2",
    "policy": "static",
}


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
            fleet: dict[str, Scalar] = {"fleet": "auto", "min-clients": 3, "rounds": rounds}
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
