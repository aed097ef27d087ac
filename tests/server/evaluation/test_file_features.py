"""Features of a network in a file: what it is given, what is kept of it, what is refused."""

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.config.run import RunConfig
from common.config.sections import EvaluationConfig
from common.data.datasets import load_dataset
from common.data.images import Splits
from common.errors import UserError
from common.features import torchscript as file_features
from common.features.torchscript import TorchscriptFeatures
from server.evaluation.build import evaluator_for
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.evaluator import Evaluator
from server.evaluation.full import full_report
from server.preflight import preflight
from simulations.archive.configs import load_config


class Means(nn.Module):
    """Means over the pixels of each colour, of which only `return_features` gives all."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        means = x.float().mean((2, 3))
        return means if return_features else means[:, :1]


class Flawed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean()


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float().view(-1, 7)


def write(network: nn.Module, path: Path) -> str:
    """Write a network as TorchScript and return the configuration's value for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))
    return f"torchscript:{path}"


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_dataset("digits")


@pytest.fixture
def means(tmp_path: Path) -> str:
    return write(Means(), tmp_path / "means.pt")


def test_the_network_sees_bytes_in_three_colours(splits: Splits, means: str) -> None:
    extractor = TorchscriptFeatures(means, splits.train.image_shape)
    assert extractor.num_features == 3
    images = torch.tensor([-1.0, 0.0, 0.501, 1.0, 7.0])[:, None, None, None].expand(-1, 1, 8, 8)
    found = extractor.features(images)
    assert found.dtype == torch.float64
    levels = torch.tensor([0.0, 128.0, 191.0, 255.0, 255.0], dtype=torch.float64)
    torch.testing.assert_close(found, levels[:, None].expand(-1, 3))
    colour = torch.tensor([-1.0, 0.0, 1.0])[None, :, None, None].expand(1, 3, 4, 4)
    assert extractor.features(colour).tolist() == [[0.0, 128.0, 255.0]]


def test_it_is_what_distances_are_measured_in_and_what_results_are_signed_with(
    splits: Splits, means: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig(evaluation=EvaluationConfig(samples=64, features=means))
    evaluator = evaluator_for(config, splits)
    path = Path(means.removeprefix("torchscript:"))
    assert evaluator.digest == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    train = torch.from_numpy(splits.train.images)
    # Mean brightness cannot tell damaged images from good ones, and that is found out.
    assert not evaluator.check.passed
    assert np.isnan(evaluator.frechet(train))
    evaluator.check = replace(evaluator.check, faults=())
    assert evaluator.frechet(train) == pytest.approx(0, abs=1e-6)
    brighter = evaluator.frechet((train + 0.2).clamp(-1, 1))
    assert 3 * 5**2 < brighter < 3 * 25.5**2, "three equal means, each brighter by some levels"
    ours = Evaluator(splits, evaluator.clock, samples=64, sampler="ddim", num_steps=2, seed=0)
    assert ours.digest == FeatureExtractor(splits).digest != evaluator.digest
    report, expected = (full_report(each, train[:64]) for each in (evaluator, ours))
    assert report["classes"] == expected["classes"], "classes are the classifier's all the same"
    monkeypatch.setattr(file_features, "BATCH", 7)
    assert evaluator.frechet(train[:64]) == pytest.approx(report["frechet"], rel=1e-9)


def test_a_pinned_file_must_have_its_hash(splits: Splits, means: str) -> None:
    path = Path(means.removeprefix("torchscript:"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for pin in (digest, digest[:6]):
        assert TorchscriptFeatures(f"{means}#{pin}", (1, 8, 8)).digest == digest[:12]
    with pytest.raises(
        UserError, match=rf"SHA-256 of .*means\.pt is {digest[:12]}…, not 0123456789ab"
    ):
        TorchscriptFeatures(f"{means}#0123456789abcdef", (1, 8, 8))


def test_what_is_no_feature_network_is_refused_in_one_line(splits: Splits, tmp_path: Path) -> None:
    key = "evaluation.features: "
    flawed = write(Flawed(), tmp_path / "flawed.pt")
    with pytest.raises(UserError, match=rf"{key}.*flawed\.pt gives \(\) for 2 images, no features"):
        TorchscriptFeatures(flawed, splits.train.image_shape)
    failing = write(Failing(), tmp_path / "failing.pt")
    with pytest.raises(UserError, match=rf"{key}.*fails on images \(2, 3, 8, 8\): ") as caught:
        TorchscriptFeatures(failing, splits.train.image_shape)
    assert "\n" not in str(caught.value)
    weights = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(2)}, weights)
    junk = tmp_path / "junk.pt"
    junk.write_bytes(b"junk" * 30)
    for path in (weights, junk):
        with pytest.raises(UserError, match=rf"{key}.*{path.name} is not a TorchScript") as caught:
            TorchscriptFeatures(f"torchscript:{path}", (1, 8, 8))
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_before_a_run_and_paths_are_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Means(), tmp_path / "means.pt")
    config = load_config("digits", ["evaluation.features=torchscript:means.pt"])
    assert config.evaluation.features == f"torchscript:{tmp_path}/means.pt"
    preflight(config)
    config = load_config("digits", ["evaluation.features=torchscript:mean.pt"])
    with pytest.raises(UserError, match=r"evaluation\.features: .*/mean\.pt cannot be read"):
        preflight(config)
    with pytest.raises(UserError, match=r"evaluation\.features: .*pattern"):
        load_config("digits", ["evaluation.features=inception"])
