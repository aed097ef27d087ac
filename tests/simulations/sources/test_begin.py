"""`scorequilt init`: from a folder of pictures to a configuration that runs as it is."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

from common.config.run import RunConfig
from server.preflight import preflight
from simulations import cli
from simulations.archive.configs import load_config
from simulations.planning.cost import Cost, measure_costs
from simulations.sources import begin as module
from simulations.sources.begin import LEAST_STEPS, MOST_STEPS, begin, report
from tests.engines import BIN, assert_all_replied


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Says that a step of any rate takes a tenth of a second; the list is asked with what."""
    asked: list[Any] = []

    def costs(config: RunConfig, shape: Any, rates: Any, progress: Any, repeats: int) -> list[Cost]:
        asked.append((config, shape))
        return [Cost(rate, 10, 10, 2**20, 2**20, 2**20, 0.1) for rate in rates]

    monkeypatch.setattr(module, "measure_costs", costs)
    monkeypatch.setattr("simulations.planning.cost.cores", lambda: 2)
    return asked


def _photographs(folder: Path, side: int, count: int = 60, mode: str = "RGB") -> Path:
    """Square pieces of scikit-learn's photographs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        photograph = load_sample_images().images[i % 2]
        top, left = (int(rng.integers(edge - 100)) for edge in photograph.shape[:2])
        piece = Image.fromarray(photograph[top : top + 100, left : left + 100])
        piece.resize((side, side)).convert(mode).save(folder / f"{i:03}.jpg")
    return folder


@pytest.mark.parametrize(
    ("side", "mode", "shape", "widths"),
    [
        (100, "RGB", "3x32x32", (32, 64, 64)),
        (31, "RGB", "3x28x28", (32, 64, 64)),
        (28, "L", "1x28x28", (32, 64, 64)),
        (17, "L", "1x16x16", (32, 64)),
    ],
)
@pytest.mark.usefixtures("timed")
def test_the_shape_and_the_network_follow_the_pictures(
    side: int, mode: str, shape: str, widths: tuple[int, ...], tmp_path: Path
) -> None:
    folder = _photographs(tmp_path / "in" / "my pictures!", side, mode=mode)
    found = begin(folder)
    config = load_config("my-pictures.toml")
    assert config == found.config
    assert (config.image_shape, config.model.widths) == (shape, widths)
    assert config.data == f"folder:{folder}"
    assert config.name == "my-pictures"
    preflight(config)


@pytest.mark.parametrize("size", [8, 12, 20, 28, 32, 36, 48, 64, 128])
@pytest.mark.usefixtures("timed")
def test_every_size_that_is_taken_has_a_network(size: int, tmp_path: Path) -> None:
    folder = _photographs(tmp_path / "in", 100, count=12)
    config = begin(folder, side=size).config
    assert config.image_shape == f"3x{size}x{size}"
    preflight(config)


def test_steps_fill_the_time_that_there_is(timed: list[Any], tmp_path: Path) -> None:
    folder = _photographs(tmp_path / "in", 20, count=90)
    for minutes, expected in ((8.0, 75), (0.1, LEAST_STEPS), (1000.0, MOST_STEPS)):
        # Eight clients on two cores: 0.4 s a step of all, 16 rounds.
        found = begin(folder, tmp_path / f"{minutes}.toml", minutes=minutes)
        assert found.config.local_steps == expected
        assert found.seconds == pytest.approx(0.4 * expected)
    (config, shape), *_ = timed
    assert (config.fleet, shape) == ("1x2 1/2x3 1/4x3", (3, 20, 20))
    said = report(found)
    assert "72 pictures to train on, 18 held out; classes: 1" in said
    assert "a round here: about 80 s and 16.0 MiB sent, at most 1.0 MiB in a client" in said
    assert "training about 21 minutes" in said


def test_classes_and_what_is_left_out_are_said(timed: list[Any], tmp_path: Path) -> None:
    folder = _photographs(tmp_path / "in" / "cats", 20, count=10).parent
    _photographs(folder / "dogs", 20, count=10)
    (folder / "dogs" / "torn.png").write_bytes(b"torn")
    said = report(begin(folder))
    assert "16 pictures to train on, 4 held out, 1 left out; classes: 2" in said
    assert "num-classes = 2" in Path("in.toml").read_text()
    assert timed[0][0].fleet == "1x1 1/2x1 1/4x1"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("nowhere",), "there is no folder"),
        (("empty",), "no picture is in the folder"),
        (("torn",), "none of 1 pictures can be decoded"),
        (("few",), "data: "),
        (("in", "--size", "30"), "size: 30 is no multiple of 4"),
        (("in", "--size", "256"), "size: 256"),
        (("in", "--out", "a.txt"), "out: a.txt does not end in .toml"),
        (("in", "--out", "there.toml"), "out: there.toml is there already"),
    ],
)
@pytest.mark.usefixtures("timed")
def test_mistakes_are_one_line_and_write_nothing(
    words: tuple[str, ...], named: str, tmp_path: Path
) -> None:
    for name, count in (("in", 12), ("few", 3), ("torn", 0), ("empty", 0)):
        _photographs(tmp_path / name, 20, count=count)
    (tmp_path / "torn" / "a.png").write_bytes(b"torn")
    Path("there.toml").write_text("mine")
    result = CliRunner().invoke(cli.app, ["init", *words])
    assert result.exit_code == 2
    assert named in result.stderr
    assert list(tmp_path.glob("*.toml")) == [tmp_path / "there.toml"]
    assert Path("there.toml").read_text() == "mine"


@pytest.mark.slow
def test_the_cost_is_that_of_planning(tmp_path: Path) -> None:
    found = begin(_photographs(tmp_path / "in", 16, count=12), minutes=0.1)
    again = measure_costs(found.config, (3, 16, 16), [found.costs[0].rate], repeats=1)
    assert found.costs[0].memory_bytes == again[0].memory_bytes
    assert found.costs[0].bytes_down == again[0].bytes_down


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_commands_lead_from_a_folder_to_samples_of_it(tmp_path: Path) -> None:
    _photographs(tmp_path / "my", 12, count=40)
    for words in (
        ("init", "my", "--minutes", "0.1", "--quiet"),
        ("run", "my.toml", "--set", "rounds=1", "--quiet"),
        ("sample", "my", "-n", "9", "--out", "drawn.png", "--quiet"),
    ):
        subprocess.run([BIN / "scorequilt", *words], check=True, timeout=500)
    assert_all_replied(tmp_path / "runs" / "my", load_config("my.toml", ["rounds=1"]))
    with Image.open("drawn.png") as drawn:
        assert drawn.size == ((3 * 13 - 1) * 6, (3 * 13 - 1) * 6)
