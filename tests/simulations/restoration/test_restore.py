"""`restore`: what it reads, measures and writes, and what it refuses."""

import json
from collections.abc import Sequence
from fractions import Fraction
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
from common.errors import UserError
from common.network.unet import initial_weights
from server.setting import Setting
from simulations import cli
from simulations.restoration import restore as module
from simulations.restoration import tasks
from simulations.restoration.images import Pictures, read_as_they_are, read_images
from simulations.restoration.restore import restore_run
from simulations.restoration.tasks import TASKS
from tests.simulations.results.test_products import MODEL, SUMMARY, make_run

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the exact denoiser of Gaussian images with the digits' moments in the network's place."""
    train = torch.from_numpy(load_dataset("digits").train.images).flatten(1).double()
    mean, covariance = train.mean(0), torch.cov(train.T) + 1e-3 * torch.eye(64)
    values, vectors = torch.linalg.eigh(covariance)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        a, s = torch.exp(-t), torch.sqrt(-torch.expm1(-2 * t))
        rotated = (x.flatten(1).double() - a * mean) @ vectors
        return ((rotated * s / (a**2 * values + s**2)) @ vectors.T).reshape(x.shape).to(x)

    monkeypatch.setattr(Setting, "denoiser", lambda *_: eps)


def _restore(run: Path, task: str, source: str = "held-out", **choices: Any) -> dict[str, Any]:
    out = run / "here"
    restore_run(run, source, task, **({"draws": 2, "count": 4} | choices), out=out)
    return json.loads((out / "restore.json").read_text())


def _pictures(folder: Path, *sizes: tuple[int, int], mode: str = "L") -> Path:
    folder.mkdir()
    for i, (width, height) in enumerate(sizes):
        shape = (height, width) if mode == "L" else (height, width, 3)
        values = np.full(shape, 51 * i, np.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")
    return folder


@pytest.mark.usefixtures("gaussian")
@pytest.mark.parametrize("task", TASKS)
def test_a_good_denoiser_beats_filters_and_knows_its_error(task: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluation=EvaluationConfig(clip=False))
    report = _restore(run, task, draws=4, count=32)
    psnr, ssim = report["psnr"], report["ssim"]
    assert psnr["restored"] > max(psnr["baseline"], psnr["degraded"]) + 0.3
    assert ssim["restored"] > max(ssim["baseline"], ssim["degraded"])
    assert psnr["draw"] < psnr["restored"] - 1
    assert 0.8 < report["error_over_spread"] < 1.25


def test_what_is_written(run: Path) -> None:
    counted: list[tuple[int, int]] = []
    lines = restore_run(
        run, "held-out", "superres", 0.1, 4, draws=2, count=3, seed=5,
        progress=lambda done, total: counted.append((done, total)),
    )  # fmt: skip
    out = run / "restored" / "superres"
    report = json.loads((out / "restore.json").read_text())
    assert (
        list(report["psnr"]) == list(report["ssim"]) == ["degraded", "baseline", "draw", "restored"]
    )
    settings = {"task": "superres", "sigma": 0.1, "factor": 4, "draws": 2, "seed": 5}
    about = {"images": 3, "source": "held-out", "round": 3, "baseline": "bicubic", "fitted": 0}
    assert (settings | about).items() <= report.items()
    assert counted == [(i + 1, report["evaluations_per_draw"]) for i in range(len(counted))]
    assert len(counted) == report["evaluations_per_draw"]
    with Image.open(out / "before-after.png") as picture:
        assert picture.size == ((3 * 8 + 2) * 8, (5 * 8 + 4) * 8)
    first, second = lines.splitlines()
    assert first == (
        f"{out}: 3 images, superres; rows: the truth, degraded, baseline, draw, restored"
    )
    assert second.startswith(f"PSNR (SSIM): degraded {report['psnr']['degraded']:.2f} dB (")


def test_the_same_seed_gives_the_same_and_another_another(run: Path) -> None:
    one, again, other = (_restore(run, "denoise", seed=seed)["psnr"] for seed in (1, 1, 2))
    assert one == again
    assert one["degraded"] != other["degraded"]
    assert one["draw"] != other["draw"]


def test_one_draw_has_no_spread(run: Path) -> None:
    report = _restore(run, "denoise", draws=1)
    assert report["error_over_spread"] is None
    assert report["psnr"]["draw"] == report["psnr"]["restored"]


def test_scores_are_the_textbook_s() -> None:
    truth = torch.zeros(2, 1, 8, 8)
    off = truth + torch.tensor([0.2, 0.02]).reshape(2, 1, 1, 1)  # 20 and 40 dB of a range of 2
    assert module._scores(off, truth)[0] == pytest.approx(30, abs=1e-4)
    assert module._scores(truth + 5, truth)[0] == pytest.approx(20 * np.log10(2), abs=1e-4)
    assert module._scores(truth, truth)[1] == pytest.approx(1)


def test_baselines_undo_what_they_can() -> None:
    """A plane survives every filter, and light comes back."""
    flat = torch.full((1, *SHAPE), 0.5)
    for name, task in TASKS.items():
        lost = task.degradation(SHAPE, 0.1, 2)
        y = lost.apply(flat.flatten(1).double()) + lost.offset
        for width in task.widths:
            torch.testing.assert_close(task.baseline(lost, y, 2, width), flat, msg=name)


def test_the_baseline_has_the_best_width_for_these_images() -> None:
    flat = torch.full((4, *SHAPE), 0.3)
    lost = TASKS["denoise"].degradation(SHAPE, 0.3, 2)
    y = lost.observe(flat, torch.Generator().manual_seed(0))
    width, images = module._best_baseline(TASKS["denoise"], lost, y, 2, flat)
    assert width == (max(TASKS["denoise"].widths), 0)
    torch.testing.assert_close(images, flat, atol=0.15, rtol=0)
    noisy = lost.as_images(y)
    assert module._best_baseline(TASKS["denoise"], lost, y, 2, noisy)[0] == (0, 0)


@pytest.mark.parametrize("task", ["inpaint", "superres"])
def test_noise_that_a_baseline_leaves_is_filtered_afterwards(task: str) -> None:
    flat = torch.full((4, *SHAPE), 0.3)
    lost = TASKS[task].degradation(SHAPE, 0.3, 2)
    y = lost.observe(flat, torch.Generator().manual_seed(0))
    (width, after), images = module._best_baseline(TASKS[task], lost, y, 2, flat)
    assert after == max(TASKS[task].afterwards)
    alone = TASKS[task].baseline(lost, y, 2, width)
    assert module._scores(images, flat)[0] > module._scores(alone, flat)[0] + 5


def test_the_factor_says_how_much_darker_or_smaller() -> None:
    assert TASKS["lowlight"].degradation(SHAPE, 0.1, 4).norm == pytest.approx(1 / 4)
    assert TASKS["superres"].degradation(SHAPE, 0.1, 4).matrix.shape == (4, 64)


def test_filling_takes_the_nearest_known_pixels() -> None:
    lost = TASKS["inpaint"].degradation(SHAPE, 0.1, 2)
    ramp = torch.linspace(-1, 1, 8).expand(1, *SHAPE)
    y = lost.apply(ramp.flatten(1).double())
    assert y.shape == (1, 48)  # all but the central 4 x 4
    filled = tasks._fill(lost, y, 2, 0.3)
    torch.testing.assert_close(filled[..., :2], ramp[..., :2])
    torch.testing.assert_close(filled[0, 0, 3:5, 2], ramp[0, 0, 3:5, 1], atol=0.01, rtol=0)


def _read(
    source: str, count: int, shape: tuple[int, int, int] = SHAPE, depth: Sequence[float] = ()
) -> Pictures:
    return read_images(source, shape, count, depth, lambda: load_dataset("digits").test)


def test_deep_greys_are_of_the_run_s_range_and_not_each_of_its_own(tmp_path: Path) -> None:
    for name, level in (("dark", 1000), ("bright", 60000)):
        values = np.full((8, 8), level, np.uint16)
        values[0] = 0
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    dark = f"folder:{tmp_path}", str(tmp_path / "dark.png")

    def darkest(*where: Any) -> tuple[float, ...]:
        read = _read(where[0], 2, SHAPE, where[1:]).images
        damaged = read_as_they_are(where[0], SHAPE, 2, where[1:])
        torch.testing.assert_close(read, damaged, atol=1e-6, rtol=0)
        return tuple(round((float(each[0, 7, 0]) + 1) * 127.5) for each in read)

    assert darkest(dark[0]) == (233, 4), "one range for all that are read"
    assert darkest(dark[1]) == (249,), "ten bits, as nothing says more"
    assert darkest(dark[1], 0.0, 65535.0) == (4,), "the run's"
    assert darkest(dark[0], 0.0, 4095.0) == (255, 62)


def test_reads_pictures_in_order_and_fits_them_to_the_run(run: Path, tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "some", (8, 8), (40, 16), (8, 8), mode="RGB")
    (folder / "notes.txt").write_text("not a picture")
    read = _read(str(folder), 3)
    assert read.images.shape == (3, *SHAPE)
    grey = torch.tensor([-1.0, -0.6, -0.2]).reshape(3, 1, 1, 1).expand(3, *SHAPE)
    torch.testing.assert_close(read.images, grey, atol=1e-6, rtol=0)
    assert (read.fitted, read.labels) == (1, None)
    assert _read(str(folder / "1.png"), 9, (3, 8, 8)).images.shape == (1, 3, 8, 8)
    lines = restore_run(run, str(folder), "denoise", draws=1, count=2)
    assert "2 images, denoise" in lines
    assert lines.splitlines()[1] == "1 of them cropped and resized to 8x8"


def test_arrays_are_fitted_as_pictures_are(tmp_path: Path) -> None:
    values = np.zeros((3, 12, 16), np.uint8)
    values[:, :, 8:] = 255
    np.savez(tmp_path / "some.npz", images=values)
    for i in range(3):
        Image.fromarray(values[i]).save(tmp_path / f"{i}.png")
    arrays = _read(f"npz:{tmp_path / 'some.npz'}", 2)
    files = _read(f"folder:{tmp_path}", 2)
    assert arrays.fitted == files.fitted == 2
    torch.testing.assert_close(arrays.images, files.images, rtol=0, atol=1e-6)
    np.savez(tmp_path / "some.npz", images=values[:, :7])
    with pytest.raises(UserError, match=r"some\.npz: 16x7 pixels, smaller than this run's images"):
        _read(f"npz:{tmp_path / 'some.npz'}", 2)


def test_held_out_images_are_spread_over_all() -> None:
    test = load_dataset("digits").test
    read = _read("held-out", 3)
    assert read.labels is not None
    assert read.labels.tolist() == test.labels[[0, 179, 359]].tolist()
    assert torch.equal(read.images[2], torch.from_numpy(test.images[359]))
    everything = _read("held-out", 9999)
    assert torch.equal(everything.images, torch.from_numpy(test.images))


def test_a_picture_is_read_as_data_are(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    Image.fromarray(values).save(tmp_path / "a.png")
    read = _read(str(tmp_path / "a.png"), 1).images[0, 0]
    np.testing.assert_allclose(read, values / 127.5 - 1, atol=1e-6)


def test_models_with_classes_are_told_the_class(tmp_path: Path, monkeypatch: Any) -> None:
    told: list[Tensor] = []

    def spy(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        told.append(class_labels)
        return torch.zeros_like(x)

    monkeypatch.setattr(Setting, "denoiser", lambda *_: spy)
    run = make_run(tmp_path / "run", model=MODEL.model_copy(update={"num_classes": 10}))
    _restore(run, "denoise")
    labels = torch.from_numpy(load_dataset("digits").test.labels[[0, 119, 239, 359]])
    assert torch.equal(told[0], labels.repeat(2))
    folder = str(_pictures(tmp_path / "some", (8, 8), (8, 8)))
    _restore(run, "denoise", folder, class_label=7)
    assert told[-1].tolist() == [7] * 4
    with pytest.raises(UserError, match=r"class: say which of .* images show: the numbers 0 … 9"):
        _restore(run, "denoise", folder)
    with pytest.raises(UserError, match=r"class: there is no 10; .* are the numbers 0 … 9$"):
        _restore(run, "denoise", class_label=10)
    both = MODEL.model_copy(update={"num_classes": 10, "label_dropout": 0.1})
    _restore(make_run(tmp_path / "both", model=both), "denoise")
    assert told[-1].tolist() == [10] * 8  # the null class


@pytest.mark.parametrize("clip", [True, False])
def test_the_prior_is_the_run_s(clip: bool, tmp_path: Path, monkeypatch: Any) -> None:
    """Its averaged weights at the width that sampled best, clipped if it says so."""
    run = make_run(tmp_path / "run", SUMMARY, evaluation=EvaluationConfig(clip=clip))
    seen: list[Any] = []

    def prior(self: Setting, theta: np.ndarray, rate: Fraction) -> Any:
        seen.append((theta.tobytes(), rate))
        return lambda x, t: x * 0

    def spy(denoiser: Any, **choices: Any) -> Any:
        seen.append(choices)
        return denoiser

    monkeypatch.setattr(Setting, "denoiser", prior)
    monkeypatch.setattr(module, "for_sampling", spy)
    _restore(run, "denoise")
    weights = initial_weights(MODEL, 1, 1).tobytes()
    assert seen == [(weights, Fraction(1, 2)), {"clip": clip}]


@pytest.mark.parametrize(
    ("choices", "complaint"),
    [
        ({"task": "deblur"}, "task: 'deblur' is not one of denoise, inpaint, superres, lowlight"),
        ({"sigma": 0.01}, "sigma: must lie in 0.02 … 2, not 0.01"),
        ({"sigma": 2.5}, "sigma: must lie in 0.02 … 2, not 2.5"),
        ({"sigma": float("nan")}, "sigma: must lie in 0.02 … 2, not nan"),
        ({"task": "superres", "factor": 3}, "factor: 3 does not divide the run's 8x8 pixels"),
        ({"factor": 1}, "factor: must be at least 2, not 1"),
        ({"draws": 0}, "draws: must be at least 1, not 0"),
        ({"count": 0}, "count: must be at least 1, not 0"),
        ({"seed": -1}, "seed: must be at least 0, not -1"),
        ({"class_label": 3}, "class: 3 is given to a model without classes"),
        ({"source": "nowhere"}, r"nowhere: no such file or folder \(or say held-out\)"),
    ],
)
def test_refuses_what_does_not_go_with_the_run(
    choices: dict[str, Any], complaint: str, run: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        restore_run(run, out=run / "never", **({"source": "held-out", "task": "denoise"} | choices))
    assert not (run / "never").exists()


def test_refuses_pictures_that_are_none_and_too_small_ones(run: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no picture is in the folder .*empty"):
        _restore(run, "denoise", str(empty))
    small = _pictures(tmp_path / "small", (8, 7))
    with pytest.raises(UserError, match=r"0\.png: 8x7 pixels, smaller than .* of 8x8"):
        _restore(run, "denoise", str(small))
    sound = (_pictures(tmp_path / "sound", (8, 8)) / "0.png").read_bytes()
    for content in (b"no picture", b"", sound[:45]):
        (empty / "bad.png").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.png: cannot be read as a picture"):
            _restore(run, "denoise", str(empty))


def test_refuses_images_too_large_for_matrices(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VALUES", 63)
    with pytest.raises(UserError, match="its images have over 63 values"):
        _restore(run, "denoise")


def test_the_command_line_passes_every_option_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", model=MODEL.model_copy(update={"num_classes": 10}))
    line = restore_run(run, "held-out", "lowlight", 0.3, 4, 2, 3, 7, 5, run / "a")
    options = "--sigma 0.3 --factor 4 --draws 2 -n 3 --class 7 --seed 5 --task lowlight --out"
    words = ["restore", str(run), "held-out", *options.split(), str(run / "b")]
    result = CliRunner().invoke(cli.app, words)
    assert result.stdout == line.replace(f"{run}/a", f"{run}/b") + "\n"
    assert result.stderr == ""
    one, other = (json.loads((run / name / "restore.json").read_text()) for name in "ab")
    assert one | {"seconds": 0} == other | {"seconds": 0}

    refused = CliRunner().invoke(cli.app, ["restore", str(run), "held-out", "--task", "paint"])
    assert refused.exit_code == 2
    assert refused.stderr.startswith("scorequilt: task: 'paint' is not one of ")
    assert len(refused.stderr.splitlines()) == 1
