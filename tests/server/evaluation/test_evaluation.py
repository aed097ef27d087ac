import math
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from common.config.run import RunConfig
from common.data.datasets import load_dataset
from common.data.images import Splits
from common.diffusion.process import CLOCKS, alpha, sigma
from common.errors import UserError
from common.features import network
from server.evaluation.build import evaluator_for
from server.evaluation.classifier import FeatureExtractor
from server.evaluation.evaluator import Evaluator
from server.evaluation.full import full_report
from server.preflight import preflight

CLOCK = CLOCKS["cosine"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREQUILT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_dataset("digits")


@pytest.fixture(scope="module")
def extractor(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCOREQUILT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return FeatureExtractor(splits)


@pytest.fixture(scope="module")
def evaluator(splits: Splits, extractor: FeatureExtractor) -> Evaluator:
    return make(splits, extractor)


def make(splits: Splits, extractor: FeatureExtractor, **changes: object) -> Evaluator:
    arguments = {"samples": 256, "sampler": "dpmpp2m", "num_steps": 15, "seed": 0} | changes
    return Evaluator(splits, CLOCK, extractor=extractor, **arguments)


def memoriser(splits: Splits, x: Tensor, t: Tensor) -> Tensor:
    """The exact denoiser of the training images: each training image is a Gaussian's centre."""
    images = torch.from_numpy(splits.train.images).flatten(1).double()
    a, s = alpha(float(t)), sigma(float(t))
    flat = x.flatten(1).double()
    weights = (-torch.cdist(flat, a * images).square() / (2 * s * s)).softmax(1)
    return ((flat - a * weights @ images) / s).view_as(x).to(x)


def closed_form(real: np.ndarray, fake: np.ndarray) -> float:
    root = scipy.linalg.sqrtm(np.cov(real.T) @ np.cov(fake.T)).real
    spread = np.trace(np.cov(real.T) + np.cov(fake.T) - 2 * root)
    return float(np.sum((real.mean(0) - fake.mean(0)) ** 2) + spread)


def test_frechet_is_the_closed_form(
    splits: Splits, extractor: FeatureExtractor, evaluator: Evaluator
) -> None:
    train, test = (torch.from_numpy(split.images) for split in splits)
    real = extractor.features(train).numpy()
    for images in (test, test[:100] * 0.5, evaluator.noise.clamp(-1, 1)):
        expected = closed_form(real, extractor.features(images).numpy())
        assert evaluator.frechet(images) == pytest.approx(expected, rel=1e-4)
    assert evaluator.frechet(train) == pytest.approx(0, abs=1e-4)


def test_frechet_depends_neither_on_batches_nor_on_order_nor_on_what_came_before(
    splits: Splits, evaluator: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.from_numpy(splits.test.images)
    assert evaluator.frechet(images) == evaluator.reference
    assert evaluator.frechet(images.flip(0)) == pytest.approx(evaluator.reference, rel=1e-6)
    monkeypatch.setattr(network, "BATCH", 50)
    assert evaluator.frechet(images) == pytest.approx(evaluator.reference, rel=1e-5)


def test_frechet_sees_changes_finer_than_a_grey_level(evaluator: Evaluator, splits: Splits) -> None:
    images = torch.from_numpy(splits.test.images) * 0.9
    assert evaluator.frechet(images) != evaluator.frechet(images + 1e-3)


def test_held_out_images_read_far_better_than_noise(evaluator: Evaluator) -> None:
    assert 0.005 < evaluator.reference / evaluator.noise_baseline < 0.03


def test_images_that_are_not_finite_have_no_distance(evaluator: Evaluator) -> None:
    images = evaluator.noise.clone()
    images[3, 0, 0, 0] = math.inf
    assert math.isnan(evaluator.frechet(images))
    assert math.isnan(full_report(evaluator, images)["frechet"])
    with pytest.raises(ValueError, match="more than 5 images, got 5"):
        full_report(evaluator, evaluator.noise[:5])


def test_the_exact_denoiser_of_the_training_images_returns_them(
    splits: Splits, evaluator: Evaluator
) -> None:
    images = evaluator.sample(lambda x, t: memoriser(splits, x, t))
    assert images.shape == (256, 1, 8, 8)
    report = full_report(evaluator, images)
    assert report.keys() >= {"kernel_std", "recall", "density", "sliced_wasserstein"}
    assert report["frechet_to_noise"] < 0.08
    assert report["nearest_train"] < 1e-3
    assert report["nearest_train_held_out"] > 0.2
    for score in ("precision", "recall", "coverage"):
        assert report[score] > 0.9
    noise = full_report(evaluator, evaluator.noise.clamp(-1, 1))
    assert noise["frechet_to_noise"] == 1
    assert report["wasserstein"] < 1.2 * report["wasserstein_held_out"]
    assert noise["wasserstein"] > 1.5 * report["wasserstein"]
    for distance in ("frechet", "kernel", "sliced_wasserstein", "nearest_train"):
        assert noise[distance] > 5 * abs(report[distance])
    for shares in (report["classes"], report["classes_train"]):
        assert sum(shares) == pytest.approx(1)
        assert max(shares) < 0.2
    assert noise["precision"] < report["precision"]


def test_what_a_model_forgot_shows_in_its_class_and_in_no_other(
    splits: Splits, evaluator: Evaluator
) -> None:
    images = torch.from_numpy(splits.train.images)
    labels = torch.from_numpy(splits.train.labels)
    whole = full_report(evaluator, images)
    blurred = torch.where((labels == 3)[:, None, None, None], images * 0.7, images)
    spoilt = full_report(evaluator, blurred)
    without = full_report(evaluator, images[labels != 3])
    assert whole["class_distance"] == 0
    assert without["class_distance"] == pytest.approx(
        float((labels == 3).double().mean()), abs=0.01
    )
    assert without["by_class"]["3"] == {
        "images": pytest.approx(0, abs=1),
        "frechet": None,
        "frechet_held_out": whole["by_class"]["3"]["frechet_held_out"],
    }
    for k, row in whole["by_class"].items():
        assert row["frechet"] < 0.2 * row["frechet_held_out"]
        worse = spoilt["by_class"][k]["frechet"] - row["frechet"]
        assert worse > 1 if k == "3" else worse < 0.5


def test_everything_is_the_same_when_asked_again(
    splits: Splits, extractor: FeatureExtractor, evaluator: Evaluator
) -> None:
    torch.manual_seed(5)
    again = make(splits, extractor)
    assert torch.equal(again.noise, evaluator.noise)
    images = evaluator.noise.clamp(-1, 1)
    first = full_report(again, images)
    torch.manual_seed(6)
    state = torch.random.get_rng_state()
    assert full_report(evaluator, images) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(make(splits, extractor, seed=1).noise, evaluator.noise)
    stochastic = make(splits, extractor, sampler="ancestral", samples=20)
    torch.testing.assert_close(
        stochastic.sample(lambda x, t: x * 0.1),
        stochastic.sample(lambda x, t: x * 0.1, batch_size=7),
    )


def test_rounds_read_the_same_in_any_order_and_in_any_batches(
    splits: Splits, extractor: FeatureExtractor
) -> None:
    """A sampler that draws, since its generator is what an earlier round could have moved on."""
    rounds = {name: lambda x, t, c=c: x * c for name, c in {"early": 0.3, "late": 0.9}.items()}
    scores = {}
    for order, batch_size in ((["early", "late"], 64), (["late", "early"], 17)):
        evaluator = make(splits, extractor, sampler="ancestral", samples=64)
        for name in order:
            images = evaluator.sample(rounds[name], batch_size)
            scores[name, batch_size] = evaluator.frechet(images)
    for name in rounds:
        assert scores[name, 64] == pytest.approx(scores[name, 17], rel=1e-6)
    assert scores["early", 64] != pytest.approx(scores["late", 64], rel=0.1)


def test_held_out_loss_of_known_denoisers(splits: Splits, evaluator: Evaluator) -> None:
    blind = evaluator.held_out_loss(lambda x, t: torch.zeros_like(x))
    assert len(blind.by_u) == 8
    assert blind.mean == pytest.approx(1, abs=0.01), "noise of variance 1 unpredicted"
    edges = [CLOCK.t_of_u(i / 8) for i in range(9)]
    expected = sum(
        (edges[i + 1] - edges[i]) * loss / sigma(CLOCK.t_of_u(u)) ** 2
        for i, (u, loss) in enumerate(blind.by_u.items())
    )
    assert blind.score == pytest.approx(expected)
    # eps = sigma x errs by sigma alpha x0 - alpha² z.
    mean_square = float((splits.test.images**2).mean())
    linear = evaluator.held_out_loss(lambda x, t: (sigma(float(t)) * x).float())
    for u, loss in linear.by_u.items():
        a2 = alpha(CLOCK.t_of_u(u)) ** 2
        assert loss == pytest.approx(a2 * a2 + a2 * (1 - a2) * mean_square, rel=0.05)


def test_guidance_steers_sampling_but_not_the_held_out_loss(
    splits: Splits, extractor: FeatureExtractor
) -> None:
    def denoiser(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return x * (0.5 + 0.01 * class_labels.view(-1, 1, 1, 1))

    def by_hand(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        none = torch.full_like(class_labels, 10)
        return 3 * denoiser(x, t, class_labels) - 2 * denoiser(x, t, none)

    plain = make(splits, extractor, conditional=True)
    steered = make(splits, extractor, conditional=True, guidance=2.0)
    torch.testing.assert_close(steered.sample(denoiser), plain.sample(by_hand))
    assert not torch.allclose(steered.sample(denoiser), plain.sample(denoiser))
    assert steered.held_out_loss(denoiser) == plain.held_out_loss(denoiser)


def test_a_conditional_model_is_given_labels_as_frequent_as_in_training(
    splits: Splits, extractor: FeatureExtractor
) -> None:
    seen: list[Tensor] = []

    def denoiser(x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        assert len(class_labels) == len(x)
        seen.append(class_labels)
        return x

    evaluator = make(splits, extractor, conditional=True)
    evaluator.sample(denoiser)
    assert torch.equal(seen[0], evaluator.class_labels)
    assert torch.bincount(seen[0], minlength=10).min() > 10
    evaluator.held_out_loss(denoiser)
    assert set(seen[-1].tolist()) <= set(range(10))


def test_the_fewest_images_of_one_s_own_can_be_scored_and_fewer_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    for count in (9, 10):  # every fifth is held out
        images = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        np.savez(tmp_path / f"{count}.npz", images=images)
    few, fewest = (RunConfig(data=f"npz:{tmp_path}/{n}.npz", fleet="1x1") for n in (9, 10))
    with pytest.raises(UserError, match=r"9\.npz has 8 images to train on and 1 held out; samples"):
        preflight(few)
    preflight(fewest)
    evaluator = evaluator_for(fewest, load_dataset(fewest.data))
    report = full_report(evaluator, evaluator.noise.clamp(-1, 1))
    assert report["frechet"] == pytest.approx(evaluator.noise_baseline)
    assert math.isfinite(report["frechet_reference"])
