"""The app on a deployed federation: a SuperLink and SuperNodes, each a process of its own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.fleet import parse_fleet
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


def _fork_servers(folder: Path) -> int:
    """Return how many devices of the test's have one."""
    return sum("forkserver.py serve" in line for line in mentioning(str(folder)).values())
