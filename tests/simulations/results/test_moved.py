"""A run directory on another machine, where the pictures are not."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from common.config.run import RunConfig
from common.errors import UserError
from server.app import federate
from server.evaluation.stored import LEFT_OUT
from server.record.about import read_about
from server.record.resolved import write_config
from simulations import cli
from simulations.archive.record import read_run
from simulations.results.evaluate import evaluate_run
from tests.federations import tiny_with
from tests.local_grid import LocalGrid

KEPT = ("frechet", "frechet_to_noise", "frechet_reference", "classes", "classifier", "round")


def _pictures(folder: Path) -> None:
    """Digits in ten folders."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:600], digits.target, strict=False)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        levels = (image * 15).astype(np.uint8)
        Image.fromarray(levels).save(folder / str(label) / f"{i:03}.png")


def _used(run: Path, out: Path) -> dict[str, bytes]:
    """What one does with a run, and everything that comes of it."""
    out.mkdir()
    restored = out.parent / f"restored-{out.name}"
    for words in (
        ("sample", str(run), "-n", "9", "--out", str(out / "a.png"), "--seed", "4"),
        ("sample", str(run), "-n", "9", "--out", str(out / "b.png"), "--guidance", "1"),
        ("export", str(run), "--out", str(out / "model")),
        ("plot", str(run)),
        (
            *("restore", str(run), str(run / "samples" / "final.png"), "--task", "inpaint"),
            *("--out", str(restored), "--draws", "2", "--class", "3"),
        ),
    ):
        result = CliRunner().invoke(
            cli.app, [*words, *(["--quiet"] if words[0] in ("sample", "restore") else [])]
        )
        assert result.exit_code == 0, result.stderr
    shutil.copytree(run / "plots", out / "plots")
    shutil.copy(restored / "before-after.png", out / "restored.png")
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of a run with its pictures, and the run after it was moved away from them."""
    base = tmp_path_factory.mktemp("moved")
    _pictures(base / "in")
    model = tiny_with().model.model_copy(update={"num_classes": 10, "label_dropout": 0.2})
    config = RunConfig.model_validate(
        tiny_with(data=f"folder:{base / 'in'}", image_shape="1x8x8", rounds=1, model=model)
    )
    run = base / "run"
    run.mkdir()
    write_config(config, run)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        federate(LocalGrid(config), config, run)
    judged, before = evaluate_run(run), _used(run, base / "before")
    shutil.rmtree(base / "in")
    (base / "elsewhere").mkdir()
    run = run.rename(base / "elsewhere" / "run")
    return {"run": run, "before": before, "judged": judged, "base": base}


@pytest.fixture(autouse=True)
def _another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))


def test_a_run_is_of_use_where_its_pictures_are_not_and_gives_the_same(
    moved: dict[str, Any],
) -> None:
    after = _used(moved["run"], moved["base"] / "after")
    assert after == moved["before"]
    assert len(after) > 6


def test_it_is_judged_by_what_it_has_kept_and_says_what_is_left_out(moved: dict[str, Any]) -> None:
    result = evaluate_run(moved["run"])
    for key in KEPT:
        assert result[key] == moved["judged"][key], key
    assert np.isfinite(result["frechet"])
    gone = set(moved["judged"]) - set(result)
    named = {key for key in gone if not key.startswith(LEFT_OUT)}
    assert named == {"classes_train"}
    assert "there is no folder" in result["why"]
    shown = CliRunner().invoke(cli.app, ["evaluate", str(moved["run"])])
    assert shown.exit_code == 0, shown.stderr
    assert "left out: kernel, precision, recall" in " ".join(shown.stdout.split())
    assert json.loads((moved["run"] / "evaluation.json").read_text())["left_out"] == list(LEFT_OUT)


def test_data_json_says_what_kind_of_images_there_are(moved: dict[str, Any]) -> None:
    kind = read_about(moved["run"])
    assert kind is not None
    assert kind.image_shape == (1, 8, 8)
    assert (kind.num_classes, kind.train, kind.held_out) == (10, 484, 116)
    assert kind.classes == tuple(map(str, range(10)))


def test_data_json_of_before_classes_had_names_is_read(
    moved: dict[str, Any], tmp_path: Path
) -> None:
    tree = json.loads((moved["run"] / "data.json").read_text())
    del tree["classes"]
    (tmp_path / "data.json").write_text(json.dumps(tree))
    kind = read_about(tmp_path)
    assert kind is not None
    assert (kind.num_classes, kind.classes) == (10, ())


@pytest.mark.parametrize("name", ["data.json", "reference.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"image_shape": "x"}'])
def test_what_is_damaged_is_one_line(
    moved: dict[str, Any], name: str, content: bytes, tmp_path: Path
) -> None:
    run = shutil.copytree(moved["run"], tmp_path / "run")
    (run / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: cannot be read") as caught:
        evaluate_run(run)
    assert "\n" not in str(caught.value)


def test_a_run_of_a_version_before_still_asks_for_its_pictures(
    moved: dict[str, Any], tmp_path: Path
) -> None:
    run = shutil.copytree(moved["run"], tmp_path / "run")
    for name in ("data.json", "reference.safetensors"):
        (run / name).unlink()
    with pytest.raises(UserError, match="there is no folder"):
        read_run(run).state()
