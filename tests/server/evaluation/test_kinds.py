"""Kinds where there are classes and where there are none, and what features make of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.config.run import RunConfig
from common.data.datasets import load_dataset
from common.data.images import Splits
from server.evaluation.build import evaluator_for
from server.evaluation.check import CLEARLY, check_features
from server.evaluation.evaluator import Evaluator
from server.evaluation.kinds import IMAGES_EACH, MOST, kinds_of


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def flat(digits: Splits) -> Splits:
    """The digits as a folder of pictures without sub-folders: all of one class."""
    one = (
        replace(part, labels=np.zeros_like(part.labels), num_classes=1, name="flat")
        for part in digits
    )
    return Splits(*one)


@pytest.fixture(scope="module")
def judge(flat: Splits) -> Evaluator:
    return evaluator_for(RunConfig(), flat)


def test_classes_are_the_kinds_where_there_are_some(digits: Splits) -> None:
    kinds = kinds_of(digits)
    assert (kinds.count, kinds.clustered) == (10, False)
    assert np.array_equal(kinds.train, digits.train.labels)
    assert np.array_equal(kinds.test, digits.test.labels)


def test_clusters_are_the_kinds_where_there_are_none_and_follow_what_is_seen(
    digits: Splits, flat: Splits
) -> None:
    kinds = kinds_of(flat)
    assert (kinds.count, kinds.clustered) == (MOST, True)
    assert set(kinds.train) == set(range(MOST))
    again = kinds_of(flat)
    assert np.array_equal(kinds.train, again.train)
    assert np.array_equal(kinds.test, again.test)
    for found, labels in ((kinds.train, digits.train.labels), (kinds.test, digits.test.labels)):
        most = [np.bincount(labels[found == k]).max() for k in range(MOST) if (found == k).any()]
        assert sum(most) / len(labels) > 0.75  # of one digit, most of a cluster


@pytest.mark.parametrize("count", [2, 15, 60, 150])
def test_few_images_have_few_clusters(count: int, flat: Splits) -> None:
    few = Splits(flat.train.select(np.arange(count)), flat.test.select(np.arange(3)))
    kinds = kinds_of(few)
    assert 1 <= kinds.count <= max(1, count // IMAGES_EACH)
    assert set(kinds.train) == set(range(kinds.count))
    assert set(kinds.test) <= set(range(kinds.count))


def test_a_flat_folder_is_scored_by_features_that_have_learned(
    judge: Evaluator, digits: Splits
) -> None:
    assert judge.check.passed
    held_out = judge.held_out
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(held_out.shape, generator=generator)
    threes = held_out[torch.from_numpy(digits.test.labels == 3)]
    noisy = judge.frechet((held_out + 0.4 * noise).clamp(-1, 1))
    assert 3 * judge.reference < noisy < judge.frechet(noise.clamp(-1, 1))
    alone = judge.frechet(threes.repeat(10, 1, 1, 1)[: len(held_out)])
    assert alone > judge.noise_baseline / 4  # one kind is far off, however good its images


def test_features_that_see_no_damage_fail_and_say_which() -> None:
    images = torch.rand(40, 1, 8, 8) * 2 - 1
    blind = check_features(
        lambda each: float(each.mean() > 5) + 1.0,
        images,
        np.arange(40) % 4,
        torch.Generator().manual_seed(0),
    )
    assert not blind.passed
    assert [fault.split(" reads ")[0] for fault in blind.faults] == [
        *("noisy", "blurred", "pure noise", "half the kinds")
    ]
    assert "cannot tell damaged images from good ones (noisy reads 1, undamaged 1" in blind.line


def test_each_damage_has_to_read_clearly_further() -> None:
    distances = iter([1.0, CLEARLY * 1.01, CLEARLY * 0.99, 100.0, 2.0])
    found = check_features(
        lambda each: next(distances),
        torch.rand(8, 1, 8, 8),
        np.arange(8) % 2,
        torch.Generator(),
    )
    assert [fault.split(" reads ")[0] for fault in found.faults] == ["blurred"]


def test_a_damage_that_nobody_can_see_is_no_fault() -> None:
    smooth = torch.linspace(-1, 1, 8)[:, None, None, None].expand(8, 1, 8, 8).clone()
    for images, blind in ((smooth, []), (smooth + 0.1 * torch.rand(8, 1, 8, 8), ["blurred"])):

        def blind_to_blur(each: torch.Tensor, images: torch.Tensor = images) -> float:
            return 1.0 if (each - images).abs().max() < 0.2 else 9.0

        found = check_features(
            blind_to_blur,
            images,
            np.arange(8) % 2,
            torch.Generator().manual_seed(0),
        )
        assert [fault.split(" reads ")[0] for fault in found.faults] == blind


def test_nothing_is_ranked_by_features_that_failed(judge: Evaluator) -> None:
    failed = evaluator_for(RunConfig(), judge.splits)
    failed.check = replace(failed.check, faults=("noisy reads 1, undamaged 1",))
    assert np.isnan(failed.frechet(failed.held_out))
    assert not np.isnan(judge.frechet(judge.held_out))
