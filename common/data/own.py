"""Images that a user brings along: a folder of pictures, or an .npz file.

Both are read in the shape that the run has, so that devices which hold different kinds of pictures
still train one model. Nothing in these files is executed, and a picture that cannot be decoded is
skipped and named.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps

from common.cache import cached_arrays
from common.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
OWN_FORMAT = 1
"""Part of the cache keys: raised when what is read below changes."""

Shape = tuple[int, int, int]
log = logging.getLogger("flwr")


class OwnImages(NamedTuple):
    """What a folder or a file holds.

    Attributes:
        images: (N, C, H, W), 0 is black and 255 white.
        labels: (N,), positions in `classes`.
        classes: The classes' names: sub-folders, or numbers.
        skipped: Files that could not be decoded, with their folders.
    """

    images: UInt8[np.ndarray, "N C H W"]
    labels: Int64[np.ndarray, " N"]
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()


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


def open_picture(path: Path, channels: int) -> Image.Image:
    """Return a picture, upright, in grey (1 channel) or in colour (3), whatever its mode.

    Sixteen bits become eight; what is transparent becomes white.

    Raises:
        UserError: The file cannot be decoded.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):
                # Pillow's own conversion would cut every value above 255.
                picture = Image.fromarray((np.asarray(picture) // 257).clip(0, 255).astype("u1"))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                paper = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(paper, picture)
            return picture.convert("L" if channels == 1 else "RGB")
    # Pillow raises SyntaxError and ValueError, too, for files that are damaged in some way.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as a picture ({error})") from None


def fit_picture(picture: Image.Image, shape: Shape) -> UInt8[np.ndarray, "C H W"]:
    """Crop a picture in its middle to the shape's proportions and resize it to the shape."""
    channels, height, width = shape
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _read_folder(folder: Path, shape: Shape) -> OwnImages:
    if not folder.is_dir():
        raise UserError(f"data: there is no folder {folder}")
    paths = sorted(each for each in folder.rglob("*") if each.suffix.lower() in SUFFIXES)
    paths = [each for each in paths if each.is_file()]
    if not paths:
        raise UserError(f"data: no picture ({', '.join(SUFFIXES)}) is in the folder {folder}")
    listing = [(str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in paths]
    digest = hashlib.sha256(repr(listing).encode()).hexdigest()
    key = {"listing": digest, "shape": shape, "format": OWN_FORMAT}

    def build() -> dict[str, np.ndarray]:
        images, kept, skipped = [], [], []
        for path in paths:
            name = path.relative_to(folder)
            try:
                images.append(fit_picture(open_picture(path, shape[0]), shape))
            except UserError:
                skipped.append(str(name))
            else:
                kept.append(name.parts[0] if len(name.parts) > 1 else "")
        pixels = np.stack(images) if images else np.empty((0, *shape), np.uint8)
        return {"images": pixels, "classes": np.array(kept), "skipped": np.array(skipped)}

    held = cached_arrays("folder", key, build)
    names, skipped = held["classes"].tolist(), tuple(held["skipped"].tolist())
    if skipped:
        shown = ", ".join(skipped[:5]) + (" …" if len(skipped) > 5 else "")
        log.warning("data: %d pictures of %s are skipped: %s", len(skipped), folder, shown)
    if not names:
        raise UserError(f"data: none of the {len(skipped)} pictures in {folder} can be decoded")
    classes = _class_names(set(names))
    labels = np.array([classes.index(name) for name in names], dtype=np.int64)
    return OwnImages(held["images"], labels, classes, skipped)


def _class_names(found: set[str]) -> tuple[str, ...]:
    """Return the classes in order: numbers stand for themselves, other names are sorted."""
    if all(re.fullmatch("0|[1-9][0-9]{0,4}", name) for name in found):
        return tuple(map(str, range(max(map(int, found)) + 1)))
    return tuple(sorted(found))


def _read_npz(path: Path, shape: Shape | None) -> OwnImages:
    try:
        with np.load(path, allow_pickle=False) as file:
            images = np.asarray(file["images"])
            labels = np.asarray(file["labels"] if "labels" in file else np.zeros(len(images), int))
    except Exception as error:  # what a damaged file raises depends on which byte is wrong
        raise UserError(f"data: {path} is no .npz file with an array 'images' ({error})") from None
    if images.ndim == 3:
        images = images[:, None]
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(
            f"data: 'images' in {path} is {images.dtype} of shape {images.shape}; it needs uint8 "
            "of shape (N, C, H, W) or (N, H, W)"
        )
    if shape is not None and images.shape[1:] != shape:
        raise UserError(f"data: {path} holds images of {images.shape[1:]}, the run's are {shape}")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise UserError(f"data: 'labels' in {path} needs one whole number, 0 or greater, an image")
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return OwnImages(images, labels.astype(np.int64), classes)
