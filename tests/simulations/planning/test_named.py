"""Presets of data sets of the literature: planned without their images, and said before a run."""

from typing import Any

import pytest
from typer.testing import CliRunner

import server.setting
from client.capability import MIB, training_bytes
from common.data.named import NAMED
from common.errors import UserError
from server.setting import outlined
from simulations import cli
from simulations.archive.configs import load_config, preset_names
from simulations.planning.coverage import plan_coverage

PRESETS = [name for name in preset_names() if name in NAMED]


@pytest.fixture(autouse=True)
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: Any) -> None:
        raise UserError("data: it cannot be had; is there a network?")

    monkeypatch.setattr(server.setting, "load_dataset", absent)


def test_the_usual_ones_have_presets() -> None:
    usual = {"mnist", "fashion-mnist", "cifar10", "svhn", "celeba64", "pathmnist", "pneumoniamnist"}
    assert {*PRESETS} == usual


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_planned_without_its_images(name: str) -> None:
    config, known = load_config(name), NAMED[name]
    assert config.data == name
    assert config.model.num_classes in (0, known.num_classes)
    assert config.train.flip <= known.flippable
    setting = outlined(config)
    assert setting.image_shape == known.shape
    plan = plan_coverage(config, 2)
    assert plan.never_covered_fraction == 0
    assert plan.gamma_min == 2
    # A device of a few gigabytes trains the whole model, one of less than one a quarter.
    for part, most in ((1, 4096), (4, 1024)):
        k = setting.layout.atom // part
        assert training_bytes(config, setting.layout, k, known.shape) < most * MIB


def test_what_a_run_will_take_is_said_before_its_images_are_fetched() -> None:
    words = ["run", "mnist", *("--set", "model.widths=8,16"), *("--set", "model.groups=2")]
    words += ["--set", "batch-size=4", "--set", "model.attention=1"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    first, second, last = result.stderr.splitlines()
    assert last == "scorequilt: data: it cannot be had; is there a network?"
    assert first.startswith("mnist (hf:ylecun/mnist): images 1x28x28, network 8,16; fleet 1x2 ")
    assert first.endswith("40 rounds of 150 steps of 4 images")
    assert second.startswith("a round here: about ")


def test_costs_are_said_without_images() -> None:
    small = ["--set", "model.widths=8,16", "--set", "model.groups=2", "--set", "model.attention=1"]
    words = ["cost", "mnist", "--rates", "1/2", "--set", "batch-size=4", *small, "--quiet"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0
    assert "batch of 4, images 1x28x28" in result.stdout
