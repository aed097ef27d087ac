"""Images that a user brings along: a folder of pictures, or an .npz file.

Both are read in the shape that the run has, so that devices which hold different kinds of pictures
still train one model. Nothing in these files is executed, and a picture that cannot be decoded is
skipped and named. What was found is said in the log.
"""

import logging
import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from common.cache import cached_rows, entry_path
from common.data.index import File
from common.data.kept import Frames, Waits, kept_pictures
from common.data.pictures import (
    SUFFIXES,
    UNREAD,
    Depth,
    Shape,
    deep_values,
    extremes_of,
    fit_picture,
    open_picture,
)
from common.data.rows import Rows
from common.errors import UserError

OWN_FORMAT = 3
"""Part of the cache keys: raised when what is read below changes."""

SYSTEM = ("@eadir", "__macosx", "$recycle.bin", "lost+found", "system volume information")
"""Folders that systems and programs leave behind; so are those whose name begins with a dot."""

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing", "masks")
"""Names of folders that say what pictures are for and not what they show."""

MOST_CLASSES = 1000
"""Numbers from here on are names, such as years, or identifiers."""

log = logging.getLogger("flwr")


class OwnImages(NamedTuple):
    """What a folder or a file holds.

    Attributes:
        images: (N, C, H, W), 0 is black and 255 white; not copied out of the cache's memory map.
        labels: (N,), positions in `classes`.
        classes: The classes' names: sub-folders, or numbers.
        skipped: Files that could not be decoded, with their folders.
        reasons: Why not, one for each.
    """

    images: UInt8[np.ndarray, "N C H W"] | Rows
    labels: Int64[np.ndarray, " N"]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


def read_own(source: str, shape: Shape | None) -> OwnImages:
    """Read ``folder:PATH`` or ``npz:PATH``.

    Args:
        source: Where the images are; the path is absolute or starts with ``~``.
        shape: (C, H, W) of the run, C 1 or 3; None takes an .npz file's own.

    Raises:
        UserError: The path is not absolute, there is nothing to be read, or it does not fit.
    """
    kind, _, name = source.partition(":")
    path = Path(name).expanduser()
    if not path.is_absolute():
        raise UserError(f"data: {source} needs an absolute path, since apps run in a folder apart")
    if kind == "npz":
        return _read_npz(path, shape)
    if shape is None:
        raise UserError("image-shape: say to which shape pictures are brought, such as 3x32x32")
    return _read_folder(path, shape)


def pictures_in(folder: Path) -> list[Path]:
    """Return the files in a folder that are read as pictures, sorted.

    Raises:
        UserError: There is no such folder, or no picture in it.
    """
    files, _ = _pictures(folder)
    return [folder / each.name for each in files]


def _pictures(folder: Path) -> tuple[list[File], str]:
    """Return the files that are read, and in words those that are pictures and are not."""
    if not folder.is_dir():
        raise UserError(f"data: there is no folder {folder}")
    listed = _listing(folder)
    suffixes = [Path(each.name).suffix.lower() for each in listed]
    files = [each for each, suffix in zip(listed, suffixes, strict=True) if suffix in SUFFIXES]
    unread = Counter(suffix for suffix in suffixes if suffix in UNREAD)
    left_out = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
    if not files:
        there = f" (there are {left_out}, which are not read)" if left_out else ""
        raise UserError(f"data: no picture is in the folder {folder}{there}")
    return files, left_out


def _read_folder(folder: Path, shape: Shape) -> OwnImages:
    files, left_out = _pictures(folder)
    key = {"folder": str(folder), "shape": shape, "format": OWN_FORMAT}
    stem = f"folder-{folder.name}-{'x'.join(map(str, shape))}"
    kept = kept_pictures(
        entry_path(stem, key), files, shape, lambda name, *how: _frames(folder, name, shape, *how)
    )
    skipped = tuple(files[place].name for place in kept.skipped)
    read = [files[place].name for place in kept.places]
    names = [name.partition(os.sep)[0] if os.sep in name else "" for name in read]
    if skipped:
        shown = ", ".join(skipped[:5]) + (" …" if len(skipped) > 5 else "")
        log.warning("data: %d pictures of %s are skipped: %s", len(skipped), folder, shown)
    if left_out:
        log.warning("data: %s in %s are not read", left_out, folder)
    if not names:
        raise UserError(f"data: none of the {len(skipped)} pictures in {folder} can be decoded")
    classes = _class_names(folder, set(names))
    places = {name: classes.index(_number(name) if _numbers(names) else name) for name in {*names}}
    labels = np.array([places[name] for name in names], dtype=np.int64)
    log.info(
        "data: %s: %d pictures%s%s",
        folder,
        len(names),
        f" of {len(set(names))} classes ({_shown(sorted(set(names)))})" if any(names) else "",
        "; deep greys from {:g} (black) to {:g} (white)".format(*kept.depth)
        if len(kept.depth)
        else "",
    )
    return OwnImages(kept.images, labels, classes, skipped, kept.reasons)


def _listing(folder: Path) -> list[File]:
    """Return all files below a folder but what systems leave there, following links once each.

    They are sorted as paths are, folder by folder.
    """
    found, waiting, seen = [], [""], {folder.resolve()}
    while waiting:
        inner = waiting.pop()
        with os.scandir(folder / inner) as entries:
            for each in entries:
                if each.name.startswith(".") or each.name.lower() in SYSTEM:
                    continue
                name = f"{inner}{each.name}"
                if each.is_dir():
                    if (place := (folder / name).resolve()) not in seen:
                        seen.add(place)
                        waiting.append(f"{name}{os.sep}")
                elif each.is_file():
                    about = each.stat()
                    # A file that may be read now has not changed but for its rights.
                    changed = max(about.st_mtime_ns, about.st_ctime_ns)
                    found.append(File(name, about.st_size, changed))
    return sorted(found, key=lambda each: Path(each.name).parts)


def _frames(
    folder: Path, name: str, shape: Shape, depth: Depth | None, may_wait: bool
) -> Frames | Waits:
    """Read a file's first picture, unless it is a deep grey that has to wait for its depth."""
    path = folder / name
    try:
        values = deep_values(path) if may_wait else None
        if values is not None:
            return Waits([extremes_of(values)])
        picture = open_picture(path, shape[0], depth)
    except UserError as error:
        raise UserError(str(error).removeprefix(f"{path}: ")) from None
    return Frames([fit_picture(picture, shape)], [(shape[0], picture.height, picture.width)])


def _class_names(folder: Path, found: set[str]) -> tuple[str, ...]:
    """Return the classes in order: numbers stand for themselves, other names are sorted.

    Raises:
        UserError: The sub-folders are splits and no classes, or two of them are one number.
    """
    if len(found) > 1 and (splits := sorted(n for n in found if n.lower() in SPLITS)):
        raise UserError(
            f"data: the sub-folders of {folder} are no classes ({', '.join(splits)}); name the one "
            f"to train on, such as folder:{folder / splits[-1]}"
        )
    if not _numbers(found):
        return tuple(sorted(found))
    twice = [n for n, count in Counter(map(_number, found)).items() if count > 1]
    if twice:
        both = sorted(name for name in found if _number(name) == twice[0])
        raise UserError(f"data: the sub-folders {' and '.join(both)} of {folder} are one class")
    return tuple(map(str, range(max(map(int, found)) + 1)))


def _numbers(names: Iterable[str]) -> bool:
    """Say whether all names are numbers of classes, with or without zeros before them."""
    return all(re.fullmatch("[0-9]{1,5}", n) and int(n) < MOST_CLASSES for n in names)


def _number(name: str) -> str:
    return str(int(name))


def _shown(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def _read_npz(path: Path, shape: Shape | None) -> OwnImages:
    try:
        with np.load(path, allow_pickle=False) as file:
            # Published sets, such as MedMNIST's, keep splits under names of their own.
            first = "images" if "images" in file else "train_images"
            images = _mapped(path, first)
            key = first.replace("images", "labels")
            labels = np.asarray(file[key]) if key in file else np.zeros(len(images), int)
    except Exception as error:  # what a damaged file raises depends on which byte is wrong
        raise UserError(f"data: {path} is no .npz file with an array 'images' ({error})") from None
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)  # channels last
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(
            f"data: '{first}' in {path} is {images.dtype} of shape {images.shape}; it needs uint8 "
            "of shape (N, C, H, W), (N, H, W, C) or (N, H, W)"
        )
    if images.shape[1] not in (1, 3):
        raise UserError(
            f"data: {path} holds images of {images.shape[1]} channels; they are grey (1) or "
            "coloured (3)"
        )
    if shape is not None and images.shape[1:] != shape:
        raise UserError(f"data: {path} holds images of {images.shape[1:]}, the run's are {shape}")
    labels = labels[:, 0] if labels.shape == (len(images), 1) else labels
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(f"data: '{key}' in {path} needs one whole number, 0 or greater, an image")
    if labels.max() >= MOST_CLASSES:
        raise UserError(
            f"data: '{key}' in {path} reaches {labels.max()}; classes are numbered from 0 and "
            f"below {MOST_CLASSES}, so these look like identifiers"
        )
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    log.info("data: %s: %d images from '%s', %d classes", path, len(images), first, len(classes))
    return OwnImages(images, labels.astype(np.int64), classes)


def _mapped(path: Path, name: str) -> np.ndarray:
    """Return an array of an .npz file; bytes as a memory map of a copy in the cache."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        header = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
        shape, by_columns, dtype = header(member)
        if by_columns or dtype != np.uint8 or 0 in shape or not shape:
            with np.load(path, allow_pickle=False) as file:
                return np.asarray(file[name])
        about = path.stat()
        key = {"npz": str(path), "name": name, "size": about.st_size, "time": about.st_mtime_ns}
        return cached_rows(
            f"npz-{path.stem}", key, shape, lambda file: shutil.copyfileobj(member, file, 2**20)
        )
