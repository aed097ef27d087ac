"""Images that lie in files as arrays: .npz as people publish them, and MNIST's IDX files."""

import gzip
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from common.cache import cached_rows
from common.data.classes import MOST_CLASSES
from common.data.splits import held_out_split, split_of
from common.errors import UserError

_IDX = re.compile(r"(?P<split>train|t10k)-(?P<what>images|labels)[-.]idx[13]-ubyte(\.gz)?")


class Arrays(NamedTuple):
    """Images with labels.

    Attributes:
        images: (N, C, H, W), C 1 or 3.
        labels: (N,), from 0.
        held_out: (N,), which images the file itself holds out; None if it says nothing of it.
        said: What was taken, for the log.
    """

    images: UInt8[np.ndarray, "N C H W"]
    labels: Int64[np.ndarray, " N"]
    held_out: Bool[np.ndarray, " N"] | None
    said: str


def read_npz(path: Path) -> Arrays:
    """Read an .npz file with `images` and perhaps `labels`, or with those of splits.

    Published sets, such as MedMNIST's, have `train_images`, `train_labels`, `test_images` …

    Raises:
        UserError: It is no such file, or not of uint8 images in grey or colour, one label each.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {
                key: _mapped(path, key) if key.endswith("images") else file[key]
                for key in file
                if key.endswith(("images", "labels"))
            }
    except Exception as error:  # what a damaged file raises depends on which byte is wrong
        raise UserError(f"data: {path} is no .npz file ({' '.join(str(error).split())})") from None
    if "images" in held:
        images, labels = _checked(path, "images", held)
        return Arrays(images, labels, None, f"{len(images)} images from 'images'")
    keys = {
        split_of(key.removesuffix("_images")): key
        for key in held
        if key.endswith("_images") and (key.replace("images", "labels") in held or "train" in key)
    }
    if "train" not in keys:
        raise UserError(
            f"data: {path} is no .npz file with an array 'images' or 'train_images' (it has "
            f"{', '.join(held) or 'neither'})"
        )
    taken = [keys["train"], *([keys[other]] if (other := held_out_split(set(keys))) else [])]
    return _joined([(key, *_checked(path, key, held)) for key in taken], str(path))


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


def read_idx(path: Path) -> Arrays:
    """Read a folder of IDX files as MNIST's are named, or one file of images beside its labels.

    Raises:
        UserError: There are none, or one is damaged.
    """
    if path.is_dir():
        found: dict[str, dict[str, Path]] = {"train": {}, "t10k": {}}
        for each in sorted(path.iterdir()):
            if match := _IDX.fullmatch(each.name.lower()):
                found[match["split"]].setdefault(match["what"], each)
        pairs = [files for files in found.values() if len(files) == 2]
        if len(found["train"]) < 2:
            raise UserError(
                f"data: {path} holds no train-images-idx3-ubyte beside train-labels-idx1-ubyte, as "
                "they are or with .gz"
            )
        parts = [(p["images"].name, *_idx_pair(p["images"], p["labels"])) for p in pairs]
        return _joined(parts, str(path))
    name = path.name.replace("images", "labels").replace("idx3", "idx1")
    images, numbers = _idx_pair(path, path.with_name(name))
    return Arrays(images, numbers, None, f"{len(images)} images")


def _idx_pair(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels, numbers = _idx(images), _idx(labels)
    if pixels.ndim != 3 or numbers.shape != pixels.shape[:1] or not pixels.size:
        raise UserError(
            f"data: {images} of shape {pixels.shape} and {labels} of shape {numbers.shape} are not "
            "images of (N, H, W) and their labels"
        )
    return pixels[:, None], numbers.astype(np.int64)


def _idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """Return the array of an IDX file: two zeros, the type, the dimensions, big-endian sizes."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        if raw[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as one of bytes does")
        start = 4 + 4 * raw[3]
        shape = tuple(int(size) for size in np.frombuffer(raw[4:start], ">u4"))
        return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(f"data: {path} is no IDX file ({' '.join(str(error).split())})") from None


def _joined(parts: list[tuple[str, np.ndarray, np.ndarray]], source: str) -> Arrays:
    """Put splits behind each other, of which the first is trained on and others are held out."""
    shapes = {images.shape[1:] for _, images, _ in parts}
    if len(shapes) > 1:
        raise UserError(f"data: the splits of {source} have images of {shapes}")
    sizes = [len(images) for _, images, _ in parts]
    said = ", ".join(
        f"{size} images from '{name}'" for (name, *_), size in zip(parts, sizes, strict=True)
    )
    if len(parts) == 1:
        return Arrays(*parts[0][1:], None, said)
    held_out = np.repeat(np.arange(len(parts)) > 0, sizes)
    return Arrays(
        np.concatenate([images for _, images, _ in parts]),
        np.concatenate([labels for *_, labels in parts]),
        held_out,
        said,
    )


def _checked(
    path: Path, name: str, held: Mapping[str, np.ndarray]
) -> tuple[UInt8[np.ndarray, "N C H W"], Int64[np.ndarray, " N"]]:
    """Return the images of a name, channels first, and their labels, 0 where there are none."""
    images, key = held[name], name.replace("images", "labels")
    labels = held.get(key, np.zeros(len(images), int))
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)  # channels last
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(
            f"data: '{name}' in {path} is {images.dtype} of shape {images.shape}; it needs uint8 "
            "of shape (N, C, H, W), (N, H, W, C) or (N, H, W)"
        )
    if images.shape[1] not in (1, 3):
        raise UserError(
            f"data: {path} holds images of {images.shape[1]} channels; they are grey (1) or "
            "coloured (3)"
        )
    labels = labels[:, 0] if labels.shape == (len(images), 1) else labels
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(f"data: '{key}' in {path} needs one whole number, 0 or greater, an image")
    if labels.max() >= MOST_CLASSES:
        raise UserError(
            f"data: '{key}' in {path} reaches {labels.max()}; classes are numbered from 0 and "
            f"below {MOST_CLASSES}, so these look like identifiers"
        )
    return images, labels.astype(np.int64)  # not copied out of a memory map
