"""Judging a run from the command line: the run's own numbers, and the same ones each time."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.config.sections import EvaluationConfig
from common.data.datasets import load_dataset
from common.errors import UserError
from server.evaluation.build import evaluator_for
from server.record.scores import sample_all
from simulations import cli
from simulations.archive.record import read_run
from simulations.results.evaluate import evaluate_run
from tests.simulations.results.test_products import SUMMARY, make_run

QUICK = EvaluationConfig(samples=64, evaluations=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", SUMMARY, evaluation=QUICK)


def test_the_numbers_are_those_the_run_itself_gets(run: Path) -> None:
    read = read_run(run)
    state, evaluator = read.state(), evaluator_for(read.config, read.setting.splits)
    expected = {
        ("1/2", False): (state.ema, Fraction(1, 2)),
        ("1", False): (state.ema, Fraction(1)),
        ("1", True): (state.theta, Fraction(1)),
    }
    distances = set()
    for (rate, raw), network in expected.items():
        result = evaluate_run(run, rate, raw=raw)
        (images,) = sample_all(read.setting, evaluator, [network])
        assert result["frechet"] == pytest.approx(evaluator.frechet(images), rel=1e-9)
        assert (result["rate"], result["weights"]) == (rate, "last" if raw else "averaged")
        distances.add(round(result["frechet"], 6))
    assert len(distances) == 3
    assert evaluate_run(run)["rate"] == "1/2", "what the summary found best"


def test_the_same_command_twice_gives_the_same_file_and_tables(run: Path) -> None:
    call = ["evaluate", str(run), "--rate", "1/4", "--full"]
    first = CliRunner().invoke(cli.app, call)
    assert first.exit_code == 0, first.output
    written = (run / "evaluation.json").read_bytes()
    (run / "evaluation.json").unlink()
    assert first.stdout == CliRunner().invoke(cli.app, call).stdout
    assert (run / "evaluation.json").read_bytes() == written
    result = json.loads(written)
    assert result["bits_per_dim"] > 0
    assert list(result["held_out_loss_by_u"]) == sorted(result["held_out_loss_by_u"])
    for word in ("frechet", "bits per dim", "by predicted class", "in training", "loss per value"):
        assert word in first.stdout
    assert first.stdout.splitlines()[-1] == str(run / "evaluation.json")


def test_the_table_of_classes_adds_up(run: Path) -> None:
    result = evaluate_run(run, "1")
    classes = load_dataset("digits").train.num_classes
    assert list(result["by_class"]) == [str(k) for k in range(classes)]
    assert sum(row["images"] for row in result["by_class"].values()) == 64
    for k, row in result["by_class"].items():
        assert result["classes"][int(k)] == row["images"] / 64
        assert (row["frechet"] is None) == (row["images"] < 2)


def test_samples_are_drawn_above_the_training_images_nearest_to_them(run: Path) -> None:
    evaluate_run(run, "1")
    with Image.open(run / "plots" / "nearest.png") as picture:
        pixels = np.asarray(picture.convert("L")).astype(float)
    factor = pixels.shape[0] // (4 * 8 + 3)
    rows = pixels[::factor, ::factor][[i for i in range(35) if (i + 1) % 9]].reshape(4, 8, -1)
    read = read_run(run)
    splits = load_dataset("digits")
    denoiser = read.setting.denoiser(read.state().ema)
    first = evaluator_for(read.config, splits).sample(denoiser)[0].numpy()
    distances = ((splits.train.images - first) ** 2).sum((1, 2, 3))
    expected = first, splits.train.images[distances.argmin()], splits.test.images[0]
    for row, image in zip(rows, expected, strict=False):
        np.testing.assert_allclose(row[:, :8], (image[0] + 1) * 127.5, atol=0.51)


def test_a_width_that_the_model_lacks_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="rate 1/3: "):
        evaluate_run(run, "1/3")
    quiet = CliRunner().invoke(cli.app, ["evaluate", str(run), "--quiet"])
    assert quiet.stdout == f"{run / 'evaluation.json'}\n"
