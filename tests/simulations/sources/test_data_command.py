"""`scorequilt data`: what each client would hold, before anything is trained."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.data.datasets import load_partition
from simulations import cli
from simulations.pictures.holdings import MOST_CLASSES, classes_figure
from simulations.sources.look import COLUMNS


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def _data(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["data", *words])


def _rows(stdout: str) -> list[list[str]]:
    lines = [line.split("│")[1:-1] for line in stdout.split("\n") if "│" in line]
    return [[cell.strip() for cell in cells] for cells in lines]


def test_it_shows_what_every_client_of_a_run_will_hold(tmp_path: Path) -> None:
    words = ["--set", "partition=dirichlet", "--set", "partition-alpha=0.1", "--set", "seed=3"]
    result = _data("digits", *words)
    assert result.exit_code == 0, result.stderr
    rows = _rows(result.stdout)
    assert len(rows) == 8
    rates = ["1", "1", "1/2", "1/2", "1/2", "1/4", "1/4", "1/4"]
    for i, (name, rate, images, classes, values, mean, shape) in enumerate(rows):
        part = load_partition("digits", "dirichlet", 0.1, 8, i, 3)
        assert (name, rate, shape) == (f"client {i}", rates[i], "1x8x8")
        assert images == str(len(part))
        present = np.unique(part.labels)
        expected = ", ".join(map(str, present)) if len(present) <= 5 else f"{len(present)} of 10"
        assert classes == expected
        assert values == "-1.00 … 1.00"
        assert mean == f"{part.images.mean():.2f}"
    dealt = "digits, dealt out dirichlet (alpha 0.1): 1,437 images, 360 held out; black is -1"
    assert dealt in result.stdout
    with Image.open("data-look/pictures.png") as opened:
        sheet = np.asarray(opened)
    side = sheet.shape[1] / (COLUMNS * 9 - 1)
    assert sheet.shape == (round((8 * 9 - 1) * side), round((COLUMNS * 9 - 1) * side), 3)
    first = load_partition("digits", "dirichlet", 0.1, 8, 0, 3).images[0, 0]
    seen = sheet[: round(8 * side), : round(8 * side), 0][4::8, 4::8]
    np.testing.assert_allclose(seen, (first + 1) * 127.5, atol=0.51)
    assert Path("data-look/classes.png").stat().st_size > 5000


def test_a_device_sees_its_own_before_it_joins(tmp_path: Path) -> None:
    for label, count in (("barn", 3), ("owl", 2)):
        (tmp_path / "own" / label).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (20, 10), (128, 128, 128)).save(tmp_path / "own" / label / f"{i}.png")
    (tmp_path / "own" / "owl" / "torn.png").write_bytes(b"torn")
    (tmp_path / "own" / "owl" / "torn too.png").write_bytes(b"torn")
    result = _data("folder:own", "--image-shape", "3,8,8", "--out", "here")
    assert result.exit_code == 0, result.stderr
    assert _rows(result.stdout) == [
        ["this device", "5", "barn, owl", "0.00 … 0.00", "0.00", "3x8x8"]
    ]
    assert "\n2 skipped: cannot be read as a picture (of no kind that is read" in result.stdout
    with Image.open("here/pictures.png") as sheet:
        assert sheet.width > 5 * 64


def test_a_device_sees_what_it_would_train_on_and_as_the_run_reads_it(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        (tmp_path / "own" / split / "owl").mkdir(parents=True)
        for i in range(count):
            Image.new("L", (16, 8), 255).save(tmp_path / "own" / split / "owl" / f"{i}.png")
    for words, least in (((), "1.00"), (("--set", "pictures.fit=pad"), "-1.00")):
        result = _data("folder:own", "--image-shape", "1,8,8", *words)
        assert result.exit_code == 0, result.stderr
        ((_, images, classes, values, *_),) = _rows(result.stdout)
        assert (images, classes, values) == ("3", "owl", f"{least} … 1.00")
        assert "3 images, 2 held out" in result.stdout


def test_classes_of_a_set_of_the_literature_have_their_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))
    held = io.BytesIO()
    Image.new("RGB", (32, 32)).save(held, "PNG")
    kinds = datasets.ClassLabel(names=["plane", "car"])
    features = datasets.Features({"img": datasets.Image(), "label": kinds})
    rows = {"img": [{"bytes": held.getvalue(), "path": None}] * 10, "label": [0, 1] * 5}
    part = datasets.Dataset.from_dict(rows, features=features)
    both = datasets.DatasetDict(train=part, test=part)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: both)
    words = ("digits", "--set", "data=cifar10", "--set", "fleet=1x1", "--set", "image-shape=")
    result = _data(*words)
    assert result.exit_code == 0, result.stderr
    ((_, _, images, classes, *_),) = _rows(result.stdout)
    assert (images, classes) == ("10", "plane, car")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("folder:nowhere", "--image-shape", "3,8,8"), "there is no folder"),
        (("folder:.",), "image-shape: say to which shape"),
        (("folder:.", "--image-shape", "three"), "image-shape"),
        (("folder:.", "--image-shape", "3,8,8"), "no picture is in the folder"),
        (("folder:.", "--set", "rounds=3"), "--set: changes a run's configuration"),
        (("no-such-preset",), "no-such-preset"),
        (("digits", "--set", "fleet=1x2000"), "2000 clients cannot share"),
    ],
)
def test_mistakes_are_one_line_and_draw_nothing(words: tuple[str, ...], named: str) -> None:
    result = _data(*words)
    assert result.exit_code == 2
    assert named in result.stderr
    assert not Path("data-look").exists()


def test_many_classes_are_drawn_by_their_size_and_the_rest_as_one() -> None:
    counts = np.arange(50, dtype=np.int64).reshape(2, 25)
    figure = classes_figure(counts, ["a", "b"], [str(i) for i in range(25)], "many")
    (axes,) = figure.axes
    bars = {each.get_label(): [bar.get_width() for bar in each] for each in axes.containers}
    assert len(bars) == MOST_CLASSES + 1
    assert bars["5 others"] == [counts[0, :5].sum(), counts[1, :5].sum()]
    assert bars["24"] == [24, 49]
