"""What kind of images a run learns, in so few words that a run directory can keep them."""

from dataclasses import dataclass

from common.config import CLIENTS, RunConfig
from common.data import Splits
from common.data.named import NAMED


@dataclass(frozen=True)
class About:
    """What kind of images a run learns.

    Attributes:
        name: The data set's name in the configuration.
        image_shape: (C, H, W).
        num_classes: How many classes there are.
        flippable: Whether a mirror image is as likely as the image itself.
        train: How many images there are to train on.
        held_out: How many no client sees.
        classes: Their names by number, where the data set has names for them.
        depth: Black and white of those deep values of which their files say nothing, or empty.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int
    flippable: bool
    train: int
    held_out: int
    classes: tuple[str, ...] = ()
    depth: tuple[float, ...] = ()


def about_clients(config: RunConfig) -> About:
    """Return what kind of images those of clients are: what the configuration says they have to be.

    How many there are they do not tell beforehand, and whether they may be mirrored is theirs.
    """
    assert config.shape is not None, "refused with the configuration"
    classes = max(1, config.model.num_classes)
    return About(CLIENTS, config.shape, classes, True, 0, 0)


def about_named(config: RunConfig) -> About:
    """Return what kind of images a data set of the literature has, without reading it.

    How many there are is not said.
    """
    known = NAMED[config.data]
    shape = config.shape or known.shape
    return About(config.data, shape, known.num_classes, known.flippable, 0, 0)


def about(splits: Splits) -> About:
    """Return what kind of images a data set holds."""
    train, test = splits
    return About(
        train.name,
        train.image_shape,
        train.num_classes,
        train.flippable,
        len(train),
        len(test),
        train.classes,
        train.depth,
    )
