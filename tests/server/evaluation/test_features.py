from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.datasets import load_dataset
from common.data.images import ImageData, Splits
from common.features import network
from server.evaluation import classifier as features
from server.evaluation.classifier import FeatureExtractor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCOREQUILT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "SETTINGS", {**features.SETTINGS, "steps": 10})


@pytest.fixture
def splits() -> Splits:
    rng = np.random.default_rng(0)

    def draw(count: int) -> ImageData:
        images = rng.uniform(-1, 1, (count, 3, 9, 17)).astype(np.float32)
        return ImageData(images, rng.integers(0, 4, count), 4, "random", flippable=True)

    return Splits(draw(40), draw(12))


def test_the_digits_classifier_knows_digits() -> None:
    extractor = FeatureExtractor(load_dataset("digits"))
    assert extractor.accuracy > 0.95


@pytest.mark.usefixtures("brief")
def test_training_again_gives_the_same_digest_whatever_the_surroundings(
    splits: Splits, cache: Path
) -> None:
    first = FeatureExtractor(splits)
    (path,) = cache.iterdir()
    path.unlink()
    threads = torch.get_num_threads()
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    torch.set_num_threads(2)
    try:
        second = FeatureExtractor(splits)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert first.digest == second.digest
    assert len(first.digest) == 12
    int(first.digest, 16)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("brief")
def test_the_classifier_is_trained_once_for_each_data_set(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = FeatureExtractor(splits)
    train = features._train
    calls: list[ImageData] = []

    def counted(data: ImageData) -> dict[str, np.ndarray]:
        calls.append(data)
        return train(data)

    monkeypatch.setattr(features, "_train", counted)
    again = FeatureExtractor(splits)
    assert not calls
    assert again.digest == first.digest
    images = torch.from_numpy(splits.test.images)
    assert torch.equal(again.features(images), first.features(images))
    relabelled = ImageData(splits.train.images, (splits.train.labels + 1) % 4, 4, "random", True)
    assert FeatureExtractor(Splits(relabelled, splits.test)).digest != first.digest
    assert len(calls) == 1


@pytest.mark.usefixtures("brief")
def test_features_and_probabilities_do_not_depend_on_the_batch(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = FeatureExtractor(splits)
    images = torch.from_numpy(splits.train.images)
    found, probabilities = extractor.features(images), extractor.probabilities(images)
    assert found.shape == (40, extractor.num_features)
    assert found.dtype == torch.float64
    torch.testing.assert_close(probabilities.sum(1), torch.ones(40, dtype=torch.float64))
    monkeypatch.setattr(network, "BATCH", 7)
    torch.testing.assert_close(extractor.features(images), found, rtol=1e-5, atol=1e-5)
    # The classifier's own head on these features gives these probabilities.
    head = extractor._ours.classifier.output(found.clamp(min=0).float()).softmax(1).double()
    torch.testing.assert_close(head, probabilities, rtol=1e-5, atol=1e-6)
