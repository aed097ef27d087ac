"""Arrays of images in .npz files, as people publish them."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Int64

from common.cache import cached_rows
from common.data.arrays import Arrays, Source, copy_whole, held_out_parts, of_files, said_parts
from common.data.classes import MOST_CLASSES
from common.data.splits import held_out_split, split_of
from common.errors import UserError


class _Header(NamedTuple):
    """How an array lies in a file: its shape, whether by columns, and its type."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype


def read_npz(path: Path) -> Arrays:
    """Read an .npz file with `images` and perhaps `labels`, or with those of splits.

    Published sets, such as MedMNIST's, have `train_images`, `train_labels`, `test_images` …

    Raises:
        UserError: It is no such file, or not of uint8 images in grey or colour, one label each.
    """
    if not path.exists():
        raise UserError(f"data: there is no file {path}")
    if not zipfile.is_zipfile(path):
        raise UserError(f"data: {path} is no .npz file, which is a zip archive of arrays")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = _taken(path, file.files)
            headers = [_header(path, name) for name in names]
            _agree(path, names, headers)
            key = of_files("npz", [path], names)
            images = _joined(path, names, headers, key)
            found = {name: file[name] for name in map(_labels_of, names) if name in file.files}
    except UserError:
        raise
    except Exception as error:  # what a damaged file raises depends on which byte is wrong
        raise UserError(f"data: {path} is no .npz file ({' '.join(str(error).split())})") from None
    images = _channels_first(path, images)
    sizes = [each.shape[0] for each in headers]
    labels = [
        _labels(path, _labels_of(name), found.get(_labels_of(name), np.zeros(size, int)), size)
        for name, size in zip(names, sizes, strict=True)
    ]
    said = said_parts(names, sizes)
    return Arrays(images, np.concatenate(labels), held_out_parts(sizes), said, key, bool(found))


def _taken(path: Path, held: Sequence[str]) -> list[str]:
    """Return the array to train on, and the one that is held out if there is one."""
    if "images" in held:
        return ["images"]
    keys = {
        split_of(key.removesuffix("_images")): key
        for key in held
        if key.endswith("_images") and (_labels_of(key) in held or "train" in key)
    }
    if "train" not in keys:
        there = ", ".join(key for key in held if key.endswith(("images", "labels")))
        raise UserError(
            f"data: {path} is no .npz file with an array 'images' or 'train_images' (it has "
            f"{there or 'neither'})"
        )
    held_out = held_out_split(set(keys))
    return [keys["train"], *([keys[held_out]] if held_out else [])]


def _labels_of(name: str) -> str:
    return name.replace("images", "labels")


def _header(path: Path, name: str) -> _Header:
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        return _read_header(member)


def _read_header(member: Source) -> _Header:
    major, minor = np.lib.format.read_magic(member)
    return _Header(*getattr(np.lib.format, f"read_array_header_{major}_{minor}")(member))


def _agree(path: Path, names: Sequence[str], headers: Sequence[_Header]) -> None:
    for name, header in zip(names, headers, strict=True):
        if header.dtype != np.uint8 or len(header.shape) not in (3, 4) or 0 in header.shape:
            raise UserError(
                f"data: '{name}' in {path} is {header.dtype} of shape {header.shape}; it needs "
                "uint8 of shape (N, C, H, W), (N, H, W, C) or (N, H, W)"
            )
    shapes = {header.shape[1:] for header in headers}
    if len(shapes) > 1:
        raise UserError(f"data: the splits of {path} have images of {shapes}")


def _joined(
    path: Path, names: Sequence[str], headers: Sequence[_Header], key: dict[str, object]
) -> np.ndarray:
    """Return arrays behind each other, as a memory map of a copy in the cache."""
    shape = (sum(each.shape[0] for each in headers), *headers[0].shape[1:])

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(path) as archive:
            for name, header in zip(names, headers, strict=True):
                with archive.open(f"{name}.npy") as member:
                    if _read_header(member).by_columns:  # not as it is wanted: by way of memory
                        member.seek(0)
                        file.write(np.lib.format.read_array(member, allow_pickle=False).tobytes())
                    else:
                        copy_whole(member, file, header.shape)

    return cached_rows(f"npz-{path.stem}", key, shape, write)


def _channels_first(path: Path, images: np.ndarray) -> np.ndarray:
    """Return images as (N, C, H, W); what is mapped is not copied."""
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1] not in (1, 3):
        raise UserError(
            f"data: {path} holds images of {images.shape[1]} channels; they are grey (1) or "
            "coloured (3)"
        )
    return images


def _labels(path: Path, name: str, labels: np.ndarray, count: int) -> Int64[np.ndarray, " N"]:
    """Return a label for each of so many images."""
    labels = labels[:, 0] if labels.shape == (count, 1) else labels
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(f"data: '{name}' in {path} needs one whole number, 0 or greater, an image")
    if labels.max() >= MOST_CLASSES:
        raise UserError(
            f"data: '{name}' in {path} reaches {labels.max()}; classes are numbered from 0 and "
            f"below {MOST_CLASSES}, so these look like identifiers"
        )
    return labels.astype(np.int64)
