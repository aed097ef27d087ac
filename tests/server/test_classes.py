"""Devices that hold different folders of classes train one model of all."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import client.training
from common.config.run import RunConfig, Scalar
from common.data import ImageData
from common.errors import UserError
from server.app import federate
from server.record.history import read_rows
from server.setting import prepare
from server.state.checkpoint import checkpoints, load_checkpoint
from simulations.archive.record import read_run
from simulations.engine.processes import free_ports
from simulations.results.sample import sample_run
from tests.engines import BIN, ROOT, TINY, as_words, superlink, wait_for
from tests.local_grid import LocalGrid

RUN: dict[str, Scalar] = {
    **TINY,
    "data": "clients",
    "image-shape": "1x8x8",
    "evaluation.features": "untrained",
    "model.num-classes": 3,
    "fleet": "1x2",
}
GREYS = {"cat": 0, "dog": 100, "owl": 200, "snake": 250}


def _folder(path: Path, **classes: int) -> str:
    """Make a folder of so many pictures of each class, all of its own grey."""
    for name, count in classes.items():
        (path / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), GREYS[name]).save(path / name / f"{number}.png")
    return f"folder:{path}"


def _grid(config: RunConfig, *sources: str) -> LocalGrid:
    grid = LocalGrid(config)
    for node, number in grid.nodes.items():
        grid.contexts[node].node_config = {
            **{"partition-id": number, "device-name": f"farm{number}"},
            "data": sources[number],
        }
    return grid


def test_each_device_s_labels_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[tuple[int, int]]] = []
    train = client.training.train_locally

    def watched(values: Any, submodel: Any, data: ImageData, *others: Any) -> Any:
        levels = np.asarray(data.stored[:, 0, 0, 0])
        seen.append(set(zip(levels.tolist(), data.labels.tolist(), strict=True)))
        return train(values, submodel, data, *others)

    monkeypatch.setattr(client.training, "train_locally", watched)
    config = RunConfig.from_flat({**RUN, "rounds": 1})
    # Neither has the first class, each has another that the other lacks.
    first = _folder(tmp_path / "a", owl=10, dog=10)
    second = _folder(tmp_path / "b", dog=10, cat=15)
    federate(_grid(config, first, second), config, tmp_path / "run")
    assert seen == [{(100, 1), (200, 2)}, {(0, 0), (100, 1)}]
    assert json.loads((tmp_path / "run" / "data.json").read_text())["classes"] == [
        *("cat", "dog", "owl")
    ]
    rows = json.loads((tmp_path / "run" / "fleet.json").read_text())
    assert [row["classes"] for row in rows] == [["dog", "owl"], ["cat", "dog"]]
    # A class that only comes later is none of this run, nor is the order of before forgotten.
    more = config.model_copy(update={"rounds": 2, "start_timeout": 1.0})
    third = _folder(tmp_path / "c", snake=10, cat=10)
    with pytest.raises(UserError, match=r"device farm1: it has the class 'snake'.* cat, dog, owl"):
        federate(_grid(more, second, third), more, tmp_path / "run")
    seen.clear()
    federate(_grid(more, second, _folder(tmp_path / "d", owl=10)), more, tmp_path / "run")
    assert seen == [{(0, 0), (100, 1)}, {(200, 2)}]


def test_the_data_of_the_server_say_what_classes_are_called(tmp_path: Path) -> None:
    data = _folder(tmp_path / "all", cat=10, dog=10, owl=10)
    config = RunConfig.from_flat({**RUN, "data": data, "evaluation.features": "classifier"})
    own = [_folder(tmp_path / "a", owl=10), _folder(tmp_path / "b", snake=10)]
    config = config.model_copy(update={"start_timeout": 1.0})
    with pytest.raises(UserError, match=r"device farm1: it has the class 'snake'.* cat, dog, owl"):
        federate(_grid(config, *own), config, tmp_path / "run")
    # Who is not conditional on classes does not ask.
    plain = config.model_copy(
        update={"model": config.model.model_copy(update={"num_classes": 0}), "rounds": 1}
    )
    federate(_grid(plain, *own), plain, tmp_path / "plain")


def test_pictures_without_classes_are_none_of_a_conditional_run(tmp_path: Path) -> None:
    config = RunConfig.from_flat({**RUN, "start-timeout": 1.0})
    folder = Path(_folder(tmp_path / "a", cat=9).partition(":")[2]) / "cat"
    other = _folder(tmp_path / "b", cat=9)
    flat = "device farm0: data: nothing says of which class an image of .*/a/cat is"
    with pytest.raises(UserError, match=flat):
        federate(_grid(config, f"folder:{folder}", other), config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_devices_agree_on_the_names_of_classes(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ports = iter(free_ports(8))
    config = RunConfig.from_flat({**RUN, "fleet": "auto"})

    def rows() -> list[dict[str, Any]]:
        history = run_dir / "history.jsonl"
        return read_rows(history) if history.exists() else []

    def refused() -> dict[str, str]:
        fleet = json.loads((run_dir / "fleet.json").read_text())
        return {row["device"]: row["refused"] for row in fleet if "refused" in row}

    def counts() -> dict[str, int]:
        last = checkpoints(run_dir / "checkpoints")[-1]
        sets = load_checkpoint(last, config, prepare(config).layout).reference.sets
        return {name: each.count for name, each in sets.items() if name.startswith("class")}

    with superlink(tmp_path) as (processes, port):

        def join(name: str, **classes: int) -> subprocess.Popen[bytes]:
            return processes.start(
                *("scorequilt", "join", f"127.0.0.1:{port}", "--insecure", "--no-preload"),
                *("--name", name, "--port", str(next(ports))),
                *("--data", _folder(tmp_path / name, **classes)),
            )

        def start(rounds: int) -> subprocess.Popen[bytes]:
            fleet: dict[str, Scalar] = {"fleet": "auto", "min-clients": 2, "rounds": rounds}
            changes = {**RUN, **fleet, "run-dir": str(run_dir)}
            return processes.start(
                *(str(BIN / "flwr"), "run", str(ROOT), "--stream"),
                *("--run-config", as_words(changes)),
            )

        join("barn", owl=10, dog=5)
        field = join("field", cat=15, dog=5)
        run = start(rounds=5)
        wait_for(lambda: rows() or run.poll() is not None)
        join("zoo", snake=10, cat=10)
        wait_for(lambda: "zoo" in refused() or run.poll() is not None, 600)
        assert run.wait() == 0
        # A fifth of each is held out; each class counts whoever has it, under one number.
        assert counts() == {"class 0": 12, "class 1": 8, "class 2": 8}
        assert refused()["zoo"].startswith("it has the class 'snake', which this run does not know")
        # Where the run goes on, a device comes that has one class alone, and one is gone.
        field.terminate()
        field.wait()
        join("yard", cat=20)
        assert start(rounds=6).wait() == 0
        assert counts() == {"class 0": 12 + 16, "class 1": 8, "class 2": 8}
    assert not (run_dir / "failure.txt").exists()
    assert read_run(run_dir).setting.about.classes == ("cat", "dog", "owl")
    log = (tmp_path / "output.txt").read_text()
    assert "the server does not take this device: it has the class 'snake'" in log
    assert sample_run(run_dir, 2, class_label=2)
