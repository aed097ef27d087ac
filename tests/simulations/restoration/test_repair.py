"""Pictures that came damaged: repaired by a denoiser that is exact for them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from common.config.sections import EvaluationConfig
from common.data.datasets import load_dataset
from server.setting import Setting
from simulations import cli
from simulations.restoration.repair import SUSPECT
from simulations.restoration.tasks import TASKS
from tests.simulations.results.test_products import make_run

SHAPE = (1, 8, 8)
COUNT = 24
SCALE, SIGMA = 0.5, 0.15
"""So that hardly any value of a picture is cut when it is written."""


@pytest.fixture(autouse=True)
def gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the exact denoiser of Gaussian images in the network's place.

    Their moments are those of the digits, at half the contrast.
    """
    train = SCALE * torch.from_numpy(load_dataset("digits").train.images).flatten(1).double()
    mean, covariance = train.mean(0), torch.cov(train.T) + 1e-3 * torch.eye(64)
    values, vectors = torch.linalg.eigh(covariance)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        a, s = torch.exp(-t), torch.sqrt(-torch.expm1(-2 * t))
        rotated = (x.flatten(1).double() - a * mean) @ vectors
        return ((rotated * s / (a**2 * values + s**2)) @ vectors.T).reshape(x.shape).to(x)

    monkeypatch.setattr(Setting, "denoiser", lambda *_: eps)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", evaluation=EvaluationConfig(clip=False))


@pytest.fixture
def truth() -> Tensor:
    return SCALE * torch.from_numpy(load_dataset("digits").test.values(slice(COUNT)))


def _save(images: Tensor, folder: Path) -> Path:
    folder.mkdir()
    for i, image in enumerate(images):
        levels = ((image[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        Image.fromarray(levels).save(folder / f"{i:02}.bmp")
    return folder


def _damaged(task: str, truth: Tensor, folder: Path) -> Path:
    """Damaged pictures as files; noise is small enough for hardly any value to be cut."""
    lost = TASKS[task].degradation(SHAPE, SIGMA, 2)
    if task == "inpaint":
        noisy = truth + SIGMA * torch.randn(truth.shape, generator=torch.manual_seed(0))
        return _save(noisy, folder)
    seen = lost.observe(truth, torch.manual_seed(0)).float()
    side = 4 if task == "superres" else 8
    return _save(seen.reshape(-1, 1, side, side), folder)


def _call(run: Path, *words: str) -> Any:
    return CliRunner().invoke(cli.app, ["restore", str(run), *words, "--already-damaged"])


@pytest.mark.parametrize("task", TASKS)
def test_pictures_come_out_nearer_to_what_they_were(
    task: str, run: Path, truth: Tensor, tmp_path: Path
) -> None:
    folder = _damaged(task, truth, tmp_path / "in")
    words = [str(folder), "--task", task, "--sigma", str(SIGMA), "--draws", "4"]
    hole = np.full((8, 8), 255, np.uint8)
    hole[2:6, 3:5] = 0
    Image.fromarray(hole).save(tmp_path / "mask.png")
    if task == "inpaint":
        words += ["--mask", str(tmp_path / "mask.png")]
    result = _call(run, *words)
    assert result.exit_code == 0, result.stderr
    out = run / "repaired" / task
    report = json.loads((out / "restore.json").read_text())
    assert (report["images"], report["task"]) == (COUNT, task)
    assert 1 / SUSPECT < report["left_over"] < SUSPECT
    assert "what is left over" not in result.stdout
    files = sorted((out / "repaired").iterdir())
    assert len(files) == COUNT
    repaired = torch.stack([_opened(path) for path in files])
    error = (repaired - truth).square().mean().sqrt()
    hole_error = float(truth[..., 2:6, 3:5].var()) * 8 / 64
    block_error = float((truth - _blocks(truth)).square().mean())
    unrepaired = {
        "denoise": SIGMA,
        "inpaint": (SIGMA**2 * 56 / 64 + hole_error) ** 0.5,  # the hole filled with its mean
        "superres": (SIGMA**2 + block_error) ** 0.5,
        "lowlight": 2 * SIGMA,  # made brighter
    }
    assert error < 0.9 * unrepaired[task]
    assert (out / "before-after.png").is_file()


def _opened(path: Path) -> Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.asarray(picture, dtype=np.float32))[None] / 127.5 - 1


def _blocks(images: Tensor) -> Tensor:
    small = torch.nn.functional.avg_pool2d(images, 2)
    return small.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_noise_that_was_told_wrong_is_said(run: Path, truth: Tensor, tmp_path: Path) -> None:
    folder = _damaged("denoise", truth, tmp_path / "in")
    result = _call(run, str(folder), "--task", "denoise", "--sigma", "0.03")
    assert result.exit_code == 0, result.stderr
    assert "times the noise that --sigma says; about 0." in result.stdout


def test_arrays_are_repaired_as_files_are(run: Path, truth: Tensor, tmp_path: Path) -> None:
    folder = _damaged("denoise", truth, tmp_path / "in")
    stack = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    np.savez(tmp_path / "in.npz", images=np.stack(stack))
    for source in (str(folder), f"folder:{folder}", f"npz:{tmp_path / 'in.npz'}"):
        assert _call(run, source, "--task", "denoise", "--sigma", str(SIGMA)).exit_code == 0
        after = (run / "repaired" / "denoise" / "before-after.png").read_bytes()
        if source == str(folder):
            first = after
        assert after == first


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("in", "--task", "inpaint"), "mask: name a picture that is black where"),
        (("in", "--task", "denoise", "--mask", "white.png"), "mask: denoise has none"),
        (("in", "--task", "inpaint", "--mask", "white.png"), "nothing is lost"),
        (("in", "--task", "inpaint", "--mask", "black.png"), "everything is lost"),
        (("in", "--task", "inpaint", "--mask", "large.png"), "mask: large.png has 9x8 pixels"),
        (("in", "--task", "inpaint", "--mask", "none.png"), "none.png: cannot be read"),
        (("in", "--task", "superres"), "0.png: 8x8 pixels; to be repaired it must have 4x4"),
        (("large.png", "--task", "denoise"), "9x8 pixels; to be repaired it must have 8x8"),
        (("npz:large.npz", "--task", "denoise"), "npz:large.npz: 9x8 pixels; to be repaired it"),
        (("idx:in", "--task", "denoise"), "in holds no train-images-idx3-ubyte"),
        (("nowhere", "--task", "denoise"), "nowhere: no such file or folder"),
        (("in", "--task", "denoise", "--sigma", "0.001"), "sigma: must lie in"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    words: tuple[str, ...], named: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, level, width in (("white", 255, 8), ("black", 0, 8), ("large", 0, 9)):
        Image.new("L", (width, 8), level).save(f"{name}.png")
    np.savez("large.npz", images=np.zeros((2, 8, 9), np.uint8))
    Path("in").mkdir()
    Image.new("L", (8, 8)).save("in/0.png")
    result = _call(run, *words)
    assert result.exit_code == 2
    assert named in result.stderr
    assert not (run / "repaired").exists()


def test_a_mask_goes_with_pictures_that_came_damaged(run: Path) -> None:
    words = ["restore", str(run), "held-out", "--task", "inpaint", "--mask", "a.png"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert "mask: goes with --already-damaged" in result.stderr
