"""Images that a user brings along: a folder of pictures, arrays in a file, somebody's data set.

All are read in the shape that the run has, so that devices which hold different kinds of pictures
still train one model. Nothing in these files is executed, and a picture that cannot be decoded is
left out and named. What was found is said in the log.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from common.config import PicturesConfig
from common.data.arrangement import arrange
from common.data.arrays import Arrays, fitted
from common.data.classes import classes_of, numbered
from common.data.folder import kept_files, list_folder, printable
from common.data.hub import read_hub
from common.data.idx import read_idx
from common.data.metadata import as_columns
from common.data.npz import read_npz
from common.data.pictures import PLAIN, Shape, said_shape
from common.data.rows import Rows
from common.data.said import say_found, say_left_out, say_skipped
from common.data.splits import every_fifth, whole_groups
from common.errors import UserError

ARRAYS = {"npz": read_npz, "idx": read_idx}

log = logging.getLogger("flwr")


class OwnImages(NamedTuple):
    """What a source holds.

    Attributes:
        images: (N, C, H, W), 0 is black and 255 white; in the cache's memory map.
        shapes: (N, 3), C, H, W that the images had themselves.
        labels: (N,), positions in `classes`.
        classes: The classes' names: sub-folders, values of a column, or numbers; one that has no
            name where nothing says of which class an image is.
        skipped: Files that could not be decoded, with their folders.
        reasons: Why not, one for each.
        held_out: (N,), which images the source itself holds out; None if it says nothing of it.
        columns: Other things that are said of each image, as texts (N,) by name.
        depth: Black and white of deep values of which the files themselves say nothing; empty
            where there are none.
    """

    images: UInt8[np.ndarray, "N C H W"] | Rows
    shapes: Int64[np.ndarray, "N 3"]
    labels: Int64[np.ndarray, " N"]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    held_out: Bool[np.ndarray, " N"] | None = None
    columns: Mapping[str, np.ndarray] = MappingProxyType({})
    depth: tuple[float, ...] = ()


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
        UserError: There is no path or it is not absolute, nothing can be read there, or it does
            not fit.
    """
    kind, _, name = source.partition(":")
    if not name:
        raise UserError(f"data: {source} names nothing; write {kind}:PATH, or hf:NAME")
    if kind != "hf":
        path = Path(name).expanduser()
        if not path.is_absolute():
            raise UserError(
                f"data: {source} needs an absolute path, since apps run in a folder apart"
            )
        name = str(path)
    if kind in ARRAYS:
        own = _read_arrays(source, ARRAYS[kind](Path(name)), shape, reading.fit)
    elif shape is None:
        raise UserError("image-shape: say to which shape pictures are brought, such as 3x32x32")
    elif kind == "folder":
        own = _read_folder(Path(name), shape, reading)
    else:
        own = _read_hub(kind, name, shape, reading)
    if shape is not None:
        _compare(source, own.shapes, shape, reading, of)
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


def _read_folder(folder: Path, shape: Shape, reading: PicturesConfig) -> OwnImages:
    listing = list_folder(folder)
    arranged = arrange(folder, listing.pictures, listing.metadata, reading)
    kept = kept_files(folder, [each.path for each in arranged.pictures], shape, reading)
    names = [printable(str(each.path.relative_to(folder))) for each in arranged.pictures]
    skipped = say_skipped(str(folder), names, kept)
    say_left_out(folder, listing, arranged)
    placed = [arranged.pictures[place] for place in kept.places]
    labels, classes = classes_of([each.label for each in placed], str(folder))
    splits = np.array([each.split for each in placed])
    held_out = splits != "train" if len(set(splits.tolist())) > 1 else None
    say_found(str(folder), labels, classes, held_out, kept)
    columns = as_columns([each.row for each in placed])
    return OwnImages(
        kept.images, kept.shapes, labels, classes, skipped, kept.reasons, held_out, columns,
        tuple(kept.depth.tolist()),
    )  # fmt: skip


def _read_hub(kind: str, name: str, shape: Shape, reading: PicturesConfig) -> OwnImages:
    found = read_hub(kind, name, shape, reading)
    kept = found.kept
    skipped = say_skipped(f"{kind}:{name}", found.names, kept)
    say_found(f"{kind}:{name}", found.labels, found.classes, found.held_out, kept)
    return OwnImages(
        kept.images, kept.shapes, found.labels, found.classes, skipped, kept.reasons,
        found.held_out, found.columns, tuple(kept.depth.tolist()),
    )  # fmt: skip


def _read_arrays(source: str, arrays: Arrays, shape: Shape | None, fit: str) -> OwnImages:
    log.info("data: %s: %s", source, arrays.said)
    count, *own = arrays.images.shape
    shapes = np.tile(np.array(own, np.int64), (count, 1))
    images = arrays.images if shape in (None, tuple(own)) else fitted(arrays, shape, fit)
    classes = numbered(int(arrays.labels.max()) + 1) if arrays.labelled else ("",)
    return OwnImages(images, shapes, arrays.labels, classes, held_out=arrays.held_out)


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
