"""The sets of images that features are asked to rank."""

import numpy as np
import torch

from benchmarks.features import SIDE, degraded, flat, patches
from common.data.datasets import load_dataset


def test_thirty_sets_of_as_many_images_each_damaged_in_its_own_way() -> None:
    test = load_dataset("digits").test
    sets = degraded(torch.from_numpy(test.images), test.labels)
    assert len(sets) == 30
    for name, images in sets.items():
        assert images.shape == test.stored.shape, name
        assert images.abs().max() <= 1, name
        assert not torch.equal(images, torch.from_numpy(test.images)), name
    flat_sets = [images.numpy().tobytes() for images in sets.values()]
    assert len(set(flat_sets)) == 30
    only = sets["kinds 2"].numpy()
    zeros_and_ones = test.images[test.labels < 2]
    assert {each.tobytes() for each in only} == {each.tobytes() for each in zeros_and_ones}


def test_a_flat_folder_has_the_same_images_and_one_class() -> None:
    splits = load_dataset("digits")
    one = flat(splits)
    assert one.train.num_classes == 1
    assert not one.train.labels.any()
    np.testing.assert_array_equal(one.test.images, splits.test.images)


def test_patches_are_of_photographs_and_a_fifth_is_held_out() -> None:
    train, test = patches(60)
    assert (len(train), len(test)) == (48, 12)
    assert train.image_shape == (3, SIDE, SIDE)
    assert train.values(slice(None)).std() > 0.2
