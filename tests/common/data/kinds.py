"""Kinds of pictures and the values that they must have: of up to eight bits."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pillow_heif import from_pillow

from tests.common.data.writers import dicom, png, tiff

RAMP = np.linspace(0, 1, 256).reshape(16, 16)
GREY = (RAMP * 255).round().astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)
Write = Callable[[Path], None]
Kind = tuple[str, Write, np.ndarray, int]
"""Suffix, writer, the values it must have, and by how much they may differ."""


def ramp(bits: int, dtype: type = np.uint16) -> np.ndarray:
    return (RAMP * (2**bits - 1)).round().astype(dtype)


def of(values: np.ndarray, white: float) -> np.ndarray:
    return (values / white * 255).round().astype(np.uint8)


def pillow(picture: Image.Image, **options: Any) -> Write:
    return lambda path: picture.save(path, **options)


def as_tiff(values: np.ndarray, photometric: str = "minisblack", **options: Any) -> Write:
    return lambda path: tiff(path, values, photometric, **options)


def as_png(values: np.ndarray, colour: int = 0, **chunks: bytes) -> Write:
    named = {name.encode(): data for name, data in chunks.items()}
    return lambda path: png(path, values, colour, chunks=named)


def as_dicom(values: np.ndarray, bits: int, kind: str = "MONOCHROME2", **more: Any) -> Write:
    return lambda path: dicom(path, values, bits, kind, **more)


def turned() -> Write:
    """A picture on its side, with the tag that says so."""
    exif = Image.Exif()
    exif[0x112] = 6
    return pillow(Image.fromarray(np.rot90(COLOUR)), exif=exif, quality=100, subsampling=0)


def inverted_inks(path: Path) -> None:
    """A JPEG of inks as Adobe's programs write it: inverted, with their marker."""
    inks = np.concatenate([255 - COLOUR, np.zeros_like(GREY)[..., None]], axis=-1)
    held = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(held, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in held.getvalue()
    path.write_bytes(held.getvalue())


def keyed_gif(path: Path) -> None:
    picture = Image.fromarray(GREY).convert("P", palette=Image.Palette.ADAPTIVE)
    picture.info.pop("transparency", None)
    clear = picture.getpixel((0, 0))
    picture.save(path, transparency=clear)


def frames(*frames: np.ndarray) -> Write:
    pictures = [Image.fromarray(each) for each in frames]
    return lambda path: pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        lossless=True,
    )


def _heic(path: Path) -> None:
    from_pillow(Image.fromarray(GREY).convert("RGB")).save(path, quality=-1)


OPAQUE = np.where(RAMP < 0.5, 0, 255).astype(np.uint8)
ON_WHITE = np.where(OPAQUE[..., None] > 0, COLOUR, 255).astype(np.uint8)
GREY_ON_WHITE = np.where(OPAQUE > 0, GREY, 255).astype(np.uint8)
FIRST_CLEAR = np.where(GREY == 0, 255, GREY).astype(np.uint8)
TILED: dict[str, Any] = {"tile": (16, 16)}

KINDS: dict[str, Kind] = {
    "png of 8 bits": (".png", pillow(Image.fromarray(GREY)), GREY, 0),
    "png of 1 bit": (".png", pillow(Image.fromarray(RAMP > 0.5)), of(RAMP > 0.5, 1), 0),
    "png with a palette": (".png", pillow(Image.fromarray(GREY).convert("P")), GREY, 0),
    "png of RGB": (".png", pillow(Image.fromarray(COLOUR)), COLOUR, 0),
    "png of grey with alpha": (
        ".png",
        pillow(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(OPAQUE)])),
        GREY_ON_WHITE,
        0,
    ),
    "png of RGB with alpha": (
        ".png",
        pillow(Image.fromarray(np.dstack([COLOUR, OPAQUE]))),
        ON_WHITE,
        0,
    ),
    "png with a transparent grey": (
        ".png",
        pillow(Image.fromarray(GREY), transparency=0),
        FIRST_CLEAR,
        0,
    ),
    "gif": (".gif", pillow(Image.fromarray(GREY)), GREY, 0),
    "gif with transparency": (".gif", keyed_gif, FIRST_CLEAR, 1),
    "bmp": (".bmp", pillow(Image.fromarray(COLOUR)), COLOUR, 0),
    "bmp of 1 bit": (".bmp", pillow(Image.fromarray(RAMP > 0.5)), of(RAMP > 0.5, 1), 0),
    "webp": (".webp", pillow(Image.fromarray(COLOUR), lossless=True), COLOUR, 0),
    "webp with alpha": (
        ".webp",
        pillow(Image.fromarray(np.dstack([COLOUR, OPAQUE])), lossless=True),
        ON_WHITE,
        0,
    ),
    "tga": (".tga", pillow(Image.fromarray(COLOUR)), COLOUR, 0),
    "jpeg of grey": (".jpg", pillow(Image.fromarray(GREY), quality=100), GREY, 3),
    "jpeg of colours": (
        ".jpeg",
        pillow(Image.fromarray(np.dstack([GREY] * 3)), quality=100, subsampling=0),
        np.dstack([GREY] * 3),
        4,
    ),
    "jpeg of inks, Adobe's": (".jpg", inverted_inks, COLOUR, 12),
    "jpeg turned by its tag": (".jpg", turned(), COLOUR, 8),
    "tiff turned by its tag": (
        ".tif",
        as_tiff(np.rot90(GREY), extratags=[(274, 3, 1, 6, True)]),
        GREY,
        0,
    ),
    "tiff of inks": (
        ".tif",
        as_tiff(np.dstack([255 - COLOUR, np.zeros_like(GREY)]), "separated"),
        COLOUR,
        0,
    ),
    "tiff with a palette": (
        ".tif",
        as_tiff(GREY, "palette", colormap=np.tile(np.arange(256) * 257, (3, 1)).astype(np.uint16)),
        GREY,
        0,
    ),
    "tiff of 1 bit": (".tif", as_tiff(RAMP > 0.5), of(RAMP > 0.5, 1), 0),
    "tiff, white is zero": (".tif", as_tiff(GREY, "miniswhite"), 255 - GREY, 0),
    "tiff in planes": (
        ".tif",
        as_tiff(np.moveaxis(COLOUR, -1, 0), "rgb", planarconfig="separate"),
        COLOUR,
        0,
    ),
    "tiff in compressed tiles": (".tif", as_tiff(GREY, compression="zlib", **TILED), GREY, 0),
    "heic": (".heic", _heic, GREY, 6),
    "avif": (".avif", pillow(Image.fromarray(GREY), quality=100), GREY, 4),
    # Several frames, of which the first counts
    "gif of frames": (".gif", frames(GREY, 255 - GREY), GREY, 0),
    "animated png": (".png", frames(GREY, 255 - GREY), GREY, 0),
    "animated webp": (".webp", frames(COLOUR, 255 - COLOUR), COLOUR, 0),
    "tiff of pages": (".tif", as_tiff(np.stack([ramp(16), ramp(16)[::-1]])), GREY, 0),
}
