"""Data sets of the literature by name: where they are and what they hold."""

from collections.abc import Mapping
from typing import NamedTuple

from common.data.pictures import Shape


class Named(NamedTuple):
    """A data set of somebody else.

    Attributes:
        source: What `read_own` reads.
        shape: (C, H, W), its usual one.
        num_classes: 1 where it has none.
        flippable: Whether a horizontal mirror image is as likely as the image itself.
    """

    source: str
    shape: Shape
    num_classes: int
    flippable: bool = True


def _medmnist(channels: int, num_classes: int, name: str) -> Named:
    # The hub holds these as Parquet files in a branch that its own converter keeps.
    source = f"hf:albertvillanova/medmnist-v2:{name}@refs/convert/parquet"
    return Named(source, (channels, 28, 28), num_classes, flippable=False)


_MEDICAL = {
    "pathmnist": (3, 9),
    "dermamnist": (3, 7),
    "octmnist": (1, 4),
    "pneumoniamnist": (1, 2),
    "retinamnist": (3, 5),
    "breastmnist": (1, 2),
    "bloodmnist": (3, 8),
    "tissuemnist": (1, 8),
    "organamnist": (1, 11),
    "organcmnist": (1, 11),
    "organsmnist": (1, 11),
}

NAMED: Mapping[str, Named] = {
    "mnist": Named("hf:ylecun/mnist", (1, 28, 28), 10, flippable=False),
    "fashion-mnist": Named("hf:zalando-datasets/fashion_mnist", (1, 28, 28), 10),
    "cifar10": Named("hf:uoft-cs/cifar10", (3, 32, 32), 10),
    "svhn": Named("hf:ufldl-stanford/svhn:cropped_digits", (3, 32, 32), 10, flippable=False),
    "celeba64": Named("hf:flwrlabs/celeba", (3, 64, 64), 1),
    **{name: _medmnist(*about, name) for name, about in _MEDICAL.items()},
}
