"""Images that a user brings along: a folder of pictures, arrays in a file, somebody's data set.

All are read in the shape that the run has, so that devices which hold different kinds of pictures
still train one model. Nothing in these files is executed, and a picture that cannot be decoded is
left out and named. What was found is said in the log.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from common.cache import cached_arrays
from common.config import PicturesConfig
from common.data.arrangement import Arrangement, arrange
from common.data.arrays import Arrays, read_idx, read_npz
from common.data.classes import classes_of
from common.data.decoding import Decoded
from common.data.folder import decoded_files, list_folder, printable, said_unread
from common.data.hub import read_hub
from common.data.kept import Kept
from common.data.metadata import as_columns
from common.data.pictures import PLAIN, Shape, fit_picture, said_shape
from common.data.rows import Rows
from common.data.splits import every_fifth, whole_groups
from common.errors import UserError

FITTED_FORMAT = 1
"""Part of the cache keys of arrays that are brought to another shape."""

ARRAYS = {"npz": read_npz, "idx": read_idx}

log = logging.getLogger("flwr")


class OwnImages(NamedTuple):
    """What a source holds.

    Attributes:
        images: (N, C, H, W), 0 is black and 255 white; a folder's are in the cache's memory map.
        labels: (N,), positions in `classes`.
        classes: The classes' names: sub-folders, values of a column, or numbers.
        skipped: Files that could not be decoded, with their folders.
        reasons: Why not, one for each.
        held_out: (N,), which images the source itself holds out; None if it says nothing of it.
        columns: Other things that are said of each image, as texts (N,) by name.
    """

    images: UInt8[np.ndarray, "N C H W"] | Rows
    labels: Int64[np.ndarray, " N"]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    held_out: Bool[np.ndarray, " N"] | None = None
    columns: Mapping[str, np.ndarray] = MappingProxyType({})


def read_own(
    source: str,
    shape: Shape | None,
    reading: PicturesConfig = PLAIN,
    of: str = "",
) -> OwnImages:
    """Read a source, such as ``folder:PATH`` or ``npz:PATH``.

    Args:
        source: Where the images are; a path is absolute or starts with ``~``.
        shape: (C, H, W) of the run, C 1 or 3; None takes the source's own where all have one.
        reading: How.
        of: The data set that the shape is of and not the run's own; images of another shape are
            then refused, unless `reading.fit` says how they are brought to it.

    Raises:
        UserError: The path is not absolute, there is nothing to be read, or it does not fit.
    """
    kind, _, name = source.partition(":")
    if kind != "hf":
        path = Path(name).expanduser()
        if not path.is_absolute():
            raise UserError(
                f"data: {source} needs an absolute path, since apps run in a folder apart"
            )
        name = str(path)
    if kind in ARRAYS:
        return _fitted(source, ARRAYS[kind](Path(name)), shape, reading, of)
    if shape is None:
        raise UserError("image-shape: say to which shape pictures are brought, such as 3x32x32")
    if kind == "folder":
        own, shapes = _read_folder(Path(name), shape, reading)
    else:
        own, shapes = _read_hub(kind, name, shape, reading)
    _compare(source, shapes, shape, reading, of)
    return own


def held_out_of(source: str, own: OwnImages, group: str) -> Bool[np.ndarray, " N"]:
    """Say which images are held out of a run on a source: what it says itself, else a fifth.

    Args:
        source: To name in an error.
        own: What it holds.
        group: A column whose equal values are not torn apart, or nothing.

    Raises:
        UserError: Nothing can be held out.
    """
    if own.held_out is not None:
        return own.held_out
    if group:
        return whole_groups(own.columns[group], group, source)
    return every_fifth(own.labels, source)


def _read_folder(
    folder: Path, shape: Shape, reading: PicturesConfig
) -> tuple[OwnImages, Int64[np.ndarray, "N 3"]]:
    """Return what is in a folder, and the shape that each picture had."""
    listing = list_folder(folder)
    arranged = arrange(folder, listing.pictures, listing.metadata, reading)
    decoded = decoded_files(folder, [each.path for each in arranged.pictures], shape, reading)
    names = [printable(str(each.path.relative_to(folder))) for each in arranged.pictures]
    skipped = _say_skipped(str(folder), names, decoded)
    _say_left_out(folder, arranged)
    if closed := [printable(name) for name in listing.closed]:
        log.warning(
            "data: %d things in %s cannot be opened: %s", len(closed), folder, _shown(closed)
        )
    if listing.unread:
        log.warning("data: %s has %s", folder, said_unread(listing.unread))
    placed = [arranged.pictures[place] for place in decoded.places]
    labels, classes = classes_of([each.label for each in placed], str(folder))
    splits = np.array([each.split for each in placed])
    ready = len(set(splits.tolist())) > 1
    held_out = splits != "train" if ready else None
    _say_found(str(folder), labels, classes, held_out, decoded)
    own = OwnImages(
        decoded.images,
        labels,
        classes,
        skipped,
        tuple(map(str, decoded.reasons)),
        held_out,
        as_columns([each.row for each in placed]),
    )
    return own, decoded.shapes


def _read_hub(
    kind: str, name: str, shape: Shape, reading: PicturesConfig
) -> tuple[OwnImages, Int64[np.ndarray, "N 3"]]:
    """Return what is in a data set of Hugging Face's, and the shape that each picture had."""
    found = read_hub(kind, name, shape, reading)
    skipped = _say_skipped(f"{kind}:{name}", found.names, found.decoded)
    _say_found(f"{kind}:{name}", found.labels, found.classes, found.held_out, found.decoded)
    own = OwnImages(
        found.decoded.images,
        found.labels,
        found.classes,
        skipped,
        tuple(map(str, found.decoded.reasons)),
        found.held_out,
        found.columns,
    )
    return own, found.decoded.shapes


def _say_found(
    source: str,
    labels: Int64[np.ndarray, " N"],
    classes: Sequence[str],
    held_out: Bool[np.ndarray, " N"] | None,
    decoded: Decoded | Kept,
) -> None:
    there = [classes[place] for place in np.unique(labels)]
    ends = "; deep greys from {:g} (black) to {:g} (white)"
    log.info(
        "data: %s: %d pictures%s%s%s",
        source,
        len(labels),
        f" of {len(there)} classes ({_shown(there)})" if any(classes) else "",
        "" if held_out is None else f", {held_out.sum()} of them held out",
        ends.format(*decoded.depth) if len(decoded.depth) else "",
    )


def _say_skipped(source: str, names: Sequence[str], decoded: Decoded | Kept) -> tuple[str, ...]:
    """Say which pictures could not be decoded, and return their names."""
    skipped = tuple(names[place] for place in decoded.skipped)
    if skipped:
        log.warning(
            "data: %d pictures of %s are skipped: %s (%s)",
            len(skipped),
            source,
            _shown(skipped),
            decoded.reasons[0],
        )
    return skipped


def _say_left_out(folder: Path, arranged: Arrangement) -> None:
    for reason in dict.fromkeys(why for _, why in arranged.left_out):
        names = [printable(path.name) for path, why in arranged.left_out if why == reason]
        log.warning(
            "data: %d pictures of %s are left out: %s (%s)",
            len(names),
            folder,
            _shown(names),
            reason,
        )
    if arranged.missing:
        log.warning(
            "data: %d files that the metadata of %s name are not there", arranged.missing, folder
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _fitted(
    source: str, arrays: Arrays, shape: Shape | None, reading: PicturesConfig, of: str
) -> OwnImages:
    """Bring arrays to a shape."""
    images = arrays.images
    log.info("data: %s: %s", source, arrays.said)
    if shape is not None and images.shape[1:] != shape:
        _compare(source, np.array([images.shape[1:]]), shape, reading, of)
        key = {
            "images": hashlib.sha256(images.tobytes()).hexdigest(),
            "shape": (images.shape, shape),
            "fit": reading.fit,
            "format": FITTED_FORMAT,
        }
        images = cached_arrays("fitted", key, lambda: _brought(arrays, shape, reading))["images"]
    classes = tuple(map(str, range(int(arrays.labels.max()) + 1)))
    return OwnImages(images, arrays.labels, classes, held_out=arrays.held_out)


def _brought(arrays: Arrays, shape: Shape, reading: PicturesConfig) -> dict[str, np.ndarray]:
    mode = "L" if shape[0] == 1 else "RGB"
    pictures = (
        Image.fromarray(each[0] if len(each) == 1 else np.moveaxis(each, 0, -1))
        for each in arrays.images
    )
    fitted = [fit_picture(each.convert(mode), shape, reading.fit) for each in pictures]
    return {"images": np.stack(fitted)}


def _compare(
    source: str,
    shapes: Int64[np.ndarray, "N 3"],
    shape: Shape,
    reading: PicturesConfig,
    of: str,
) -> None:
    """Say what is brought to which shape.

    Raises:
        UserError: The run does not say that anything is to be.
    """
    found = sorted({(int(c), int(h), int(w)) for c, h, w in shapes}, key=lambda each: each[::-1])
    if found == [shape]:
        return
    theirs, ours = said_shape(found[0]), said_shape(shape)
    theirs += f" to {said_shape(found[-1])}" if len(found) > 1 else ""
    if of and not reading.fit:
        raise UserError(
            f"data: {source} holds images of {theirs}, the run's are {ours} as those of {of}; set "
            "image-shape to the shape that pictures are to be brought to"
        )
    log.info("data: %s: images of %s are brought to %s", source, theirs, ours)
