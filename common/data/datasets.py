"""Data sets and how they are dealt out to clients.

Building a data set imports scikit-learn, which takes seconds; it is therefore built once and
cached, and a client that starts on a warm cache does not import it.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from common.cache import cached_arrays
from common.config import CLIENTS, PicturesConfig
from common.data.builtin import DATASETS, Raw
from common.data.classes import renumbered
from common.data.flower_partitions import About
from common.data.folder import printable
from common.data.images import ImageData, Splits
from common.data.named import NAMED
from common.data.own import OwnImages, held_out_of, read_own
from common.data.partition import partition_indices
from common.data.pictures import PLAIN, Shape
from common.data.splits import every_fifth
from common.errors import UserError
from common.seeding import SERVER, rng_for, torch_generator

OWN = ("folder:", "npz:", "idx:", "hfdisk:", "hf:")
PLACES = ", ".join(f"{kind}{'NAME' if kind == 'hf:' else 'PATH'}" for kind in OWN)
KNOWN_IMAGES = 4096, 1024
# Part of the cache keys: raise it when what is built below changes.
CACHE_FORMAT = 1


def load_dataset(name: str, shape: Shape | None = None, reading: PicturesConfig = PLAIN) -> Splits:
    """The data set called `name`, from the cache where it has been prepared before.

    `shape` is the run's `image-shape`, which a folder of pictures needs, others may be brought to
    and data sets that come with the program must agree with; `reading` says how pictures are read.

    - `digits`: scikit-learn's 1797 handwritten digits, 1x8x8, 10 classes; a fixed stratified split
      into 1437 for training and 360 held out.
    - `patches16`, `patches32`: colour patches of scikit-learn's two photographs at a stride of 8
      pixels. The class is photograph and coarse position, 2 x (2 x 4); held-out patches come from
      strips of the photographs that no training patch touches. 5200 and 4048 training patches.
    - a law of `common.diffusion.known` and a side, such as `gaussian-field8`: draws of it, whose
      score is known; 4096 for training and 1024 held out, 1xSxS.
    - what `NAMED` lists: data sets of the literature, of Hugging Face's hub.
    - `folder:PATH`, `npz:PATH` and the others of `OWN`: the user's own (`common.data.own`); every
      fifth image of a class is held out where they do not say it themselves.

    Raises:
        UserError: no such data set, or of another shape, or the cache folder cannot be written.
    """
    own = read_source(name, shape, reading)
    if own is not None:
        images = _of_own(name, own)
        splits = _split(images, held_out_of(name, own, reading.group))
    else:
        splits = _built_in(name) if name in DATASETS else _known(name)
    if shape not in (None, splits.train.image_shape):
        has = "x".join(map(str, splits.train.image_shape))
        raise UserError(f"image-shape: the images of {name} are {has}; leave it empty")
    return splits


def read_source(name: str, shape: Shape | None, reading: PicturesConfig) -> OwnImages | None:
    """Return what the source of a data set holds, None if it comes with the program.

    Raises:
        UserError: As `read_own`.
    """
    if name in NAMED:
        return read_own(NAMED[name].source, shape or NAMED[name].shape, reading)
    return read_own(name, shape, reading) if name.startswith(OWN) else None


def _built_in(name: str) -> Splits:
    builder = DATASETS[name]
    try:
        key = {"data": name, "format": CACHE_FORMAT, **_versions("scikit-learn", "numpy", "pillow")}
        cached = cached_arrays(f"data-{name}", key, lambda: builder.build()._asdict())
    except ModuleNotFoundError:
        raise UserError(
            f"data: {name} comes with scikit-learn, which is not here: pip install scikit-learn, "
            "or name images of this machine's own, such as folder:PATH"
        ) from None
    raw = Raw(**cached)

    def split(images: UInt8[np.ndarray, "N C H W"], labels: np.ndarray) -> ImageData:
        return ImageData(
            images, labels, builder.num_classes, name, builder.flippable, white=builder.white
        )

    return Splits(
        split(raw.train_images, raw.train_labels), split(raw.test_images, raw.test_labels)
    )


def _known(name: str) -> Splits:
    from common.diffusion import LAWS, known_law

    law = known_law(name)
    if law is None:
        laws = ", ".join(f"{each}8" for each in LAWS)
        raise UserError(
            f"data: no data set {name!r}; choose one of {', '.join(DATASETS)}, or a known law with "
            f"its side: {laws}; or {PLACES}; or of others {', '.join(NAMED)}; or {CLIENTS}, if "
            "only devices have images"
        )
    drawn, labels = law.draw(sum(KNOWN_IMAGES), torch_generator(rng_for(0, 0, SERVER, name)))
    whole = ImageData(drawn.float().numpy(), labels.numpy(), law.num_classes, name)
    train, test = np.split(np.arange(len(whole)), KNOWN_IMAGES[:1])
    return Splits(whole.select(train), whole.select(test))


def own_images(
    source: str,
    data: str,
    shape: Shape | None,
    reading: PicturesConfig = PLAIN,
) -> ImageData:
    """All images of `source`, a device's own folder or file, as its part of a run on `data`.

    Those that the source itself holds out are none of it.

    Classes have the device's own numbers, which are others on other devices: see `by_names`.

    Raises:
        UserError: as `read_own`.
    """
    if not source.startswith(OWN):
        raise UserError(f"data: a node's own is {PLACES}, not {source!r}")
    of = data if shape is None else ""
    if shape is None and data in DATASETS:
        shape = DATASETS[data].shape
    elif shape is None and data in NAMED:
        shape = NAMED[data].shape
    if shape is None:
        raise UserError("image-shape: the run must set it, since this node has images of its own")
    own = read_own(source, shape, reading, of)
    images = _of_own(source, own)
    return images if own.held_out is None else images.select(np.flatnonzero(~own.held_out))


def by_names(images: ImageData, names: Sequence[str]) -> ImageData:
    """Images whose classes have the numbers of a run, which knows them by these names.

    Raises:
        UserError: A class that occurs is not one of them.
    """
    labels = renumbered(images.labels, images.classes, names, images.name)
    return replace(images, labels=labels, num_classes=len(names), classes=tuple(names))


def load_partition(
    data: str,
    partition: str,
    alpha: float,
    num_partitions: int,
    partition_id: int,
    seed: int,
    shape: Shape | None = None,
    reading: PicturesConfig = PLAIN,
    arguments: str = "",
) -> ImageData:
    """The training images of client `partition_id` of `num_partitions`.

    Raises:
        UserError: as `load_dataset` and `partition_indices`, or no such partition.
    """
    if not 0 <= partition_id < num_partitions:
        raise UserError(f"partition-id {partition_id} is not in 0..{num_partitions - 1}")
    train = load_dataset(data, shape, reading).train
    about = About(arguments, reading.group, train.columns)
    parts = partition_indices(train.labels, partition, num_partitions, alpha, seed, about)
    return train.select(parts[partition_id])


def hold_out(images: ImageData) -> Splits:
    """Split a client's own images into those it trains on and every fifth of a class.

    Raises:
        UserError: No class has five.
    """
    return _split(images, every_fifth(images.labels, images.name))


def absolute_source(source: str) -> str:
    """Return a source with its path counted from here, since apps run in a folder of their own."""
    kind, colon, place = source.partition(":")
    if f"{kind}:" not in OWN or kind == "hf" or not place:
        return source
    return f"{kind}{colon}{Path(place).expanduser().absolute()}"


def _split(images: ImageData, held_out: Bool[np.ndarray, " N"]) -> Splits:
    return Splits(images.select(np.flatnonzero(~held_out)), images.select(np.flatnonzero(held_out)))


def _of_own(source: str, own: OwnImages) -> ImageData:
    # Of others those have to judge whether a mirror image is a fair one who know the pictures.
    flippable = NAMED[source].flippable if source in NAMED else True
    return ImageData(
        own.images,
        own.labels,
        len(own.classes),
        source,
        flippable,
        len(own.skipped),
        classes=tuple(map(printable, own.classes)) if any(own.classes) else (),
        columns=own.columns,
        depth=own.depth,
    )


def _versions(*distributions: str) -> dict[str, str]:
    return {name: version(name) for name in distributions}
