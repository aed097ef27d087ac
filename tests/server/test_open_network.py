"""Hosts that nobody has counted train what the server has no image of, over TLS with keys.

Three devices with folders of different pictures begin; a fourth joins in a later round, one leaves,
and one whose images have another shape is refused by itself.
"""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest
from diffusers import UNet2DModel
from PIL import Image

from common.data import load_dataset
from server.record.history import Row, read_rows
from simulations.archive.record import read_run
from simulations.results.clients import clients_of
from simulations.results.export import export_run
from tests.engines import TINY, linux, wait_for
from tests.hosts import hosts

NAMES = ("barn", "field", "yard", "meadow", "odd")
CLASSES = (range(0, 3), range(3, 5), range(5, 8), range(8, 10))
ROUNDS = 9
HELD_BACK = 100
"""Moments of fewer pictures than this the device in the yard does not tell."""
RUN = {
    **TINY,
    "rounds": ROUNDS,
    "data": "clients",
    "image-shape": "1x8x8",
    "evaluation.features": "untrained",
    "fleet": "auto 1 1/2",
    "min-clients": 3,
    "policy": "static",
    "round-timeout": 600,
    "start-timeout": 600,
}


def _pictures(folder: Path, classes: range, count: int) -> str:
    """Write pictures of some digits, and return the source that a device names."""
    digits = load_dataset("digits").train
    folder.mkdir()
    for place in np.flatnonzero(np.isin(digits.labels, classes))[:count]:
        levels = ((digits.images[place, 0] + 1) * 127.5).round().astype(np.uint8)
        Image.fromarray(levels).save(folder / f"{place}.png")
    return f"folder:{folder}"


@linux
@pytest.mark.slow
@pytest.mark.timeout(2400)  # each message starts a process that imports torch
def test_hosts_come_and_go_and_the_server_has_no_image(tmp_path: Path) -> None:
    run_dir, cache = tmp_path / "run", tmp_path / "cache"
    sources = [
        _pictures(tmp_path / name, classes, 50 + 10 * client)
        for client, (name, classes) in enumerate(zip(NAMES, CLASSES, strict=False))
    ]
    np.savez(tmp_path / "odd.npz", images=np.zeros((30, 3, 16, 16), np.uint8))
    sources.append(f"npz:{tmp_path / 'odd.npz'}")
    options = [
        (),
        ("--model-rate", "1/2"),
        ("--least-images", str(HELD_BACK)),
        ("--model-rate", "1/2"),
        (),
    ]

    def rows() -> list[Row]:
        return read_rows(run_dir / "history.jsonl")

    def events(row: Row) -> dict[str, str]:
        return {names[int(who)]: what for who, what in row["fleet_events"].items()}

    with hosts(tmp_path, NAMES, SCOREQUILT_CACHE=str(cache)) as farm:

        def join(client: int) -> None:
            # A process for each message: rounds take longer than a device needs to join.
            words = ("--data", sources[client], "--no-preload", *options[client])
            devices[client] = farm.member(client, *words)

        devices: dict[int, Popen[bytes]] = {}
        farm.serve()
        for client in (0, 1, 2, 4):
            join(client)
        run = farm.run({**RUN, "run-dir": str(run_dir)})

        def until(condition: Callable[[], object]) -> None:
            wait_for(lambda: run.poll() is not None or condition(), 1200)
            assert run.poll() is None, "the run has ended"

        until(lambda: len(rows()) > 2)  # two rounds are complete
        join(3)
        until(lambda: any("joined" in row["fleet_events"].values() for row in rows()))
        until(lambda: rows()[-1]["clients_replied"] == 4)
        devices[0].terminate()
        assert run.wait() == 0
    told = rows()
    numbers = json.loads((run_dir / "numbers.json").read_text())
    fleet = json.loads((run_dir / "fleet.json").read_text())
    assert all(known.startswith("key ") for known in numbers)
    names = {row["partition"]: row.get("device", "barn") for row in fleet if "partition" in row}
    assert sorted(names.values()) == sorted(NAMES[:4])
    assert names[3] == "meadow", "it came last"
    # Who comes and goes, and who is not taken.
    assert [row["round"] for row in told] == list(range(ROUNDS + 1))
    came = [row["round"] for row in told if events(row).get("meadow") == "joined"]
    gone = [row["round"] for row in told if events(row).get("barn") == "left"]
    assert len(came) == 1
    assert came[0] >= 3
    assert gone
    assert gone[0] > came[0]
    assert [row["clients_replied"] for row in told[1 : came[0]]] == [3] * (came[0] - 1)
    assert told[-1]["clients_replied"] == 3
    refused = [row for row in fleet if "refused" in row]
    assert [row["device"] for row in refused] == ["odd"]
    assert refused[0]["refused"] == "it has images of 3x16x16, the run of 1x8x8"
    log = (tmp_path / "output.txt").read_text()
    assert log.count("not taken: device odd: it has images of 3x16x16") == 1
    assert "the server does not take this device: it has images of 3x16x16" in log
    # Distances are to what barn and field have told, and from its coming on the meadow.
    held = [0.8 * each for each in (50, 60, 80)]
    assert all(row["frechet_ema"] > 0 for row in told)
    assert told[0]["reference_images"] == pytest.approx(sum(held[:2]), abs=6)
    assert told[-1]["reference_images"] == pytest.approx(sum(held), abs=9)
    clients = clients_of(read_run(run_dir))
    assert {client.device for client in clients} >= {"field", "yard", "meadow"}
    judged = [row["held_out_by_client"] for row in told]
    by = {name: str(number) for number, name in names.items()}
    assert all(row.get(by["field"]) for row in judged[1:])
    assert judged[came[0]][by["meadow"]].keys() == {"1/2"}
    assert judged[1][by["barn"]].keys() == {"1", "1/2"}
    assert all(loss > 0 for row in judged for each in row.values() for loss in each.values())
    summary = json.loads((run_dir / "summary.json").read_text())
    assert set(summary["memorisation"]) == {by[name] for name in ("field", "yard", "meadow")}
    assert (run_dir / "samples" / "final.png").is_file()
    export_run(run_dir)
    model = UNet2DModel.from_pretrained(run_dir / "model" / "unet")
    assert model.config.sample_size == 8
