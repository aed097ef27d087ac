"""Kinds of picture files: how they are known, which are read, and what would read the others."""

import importlib.util
from functools import cache
from pathlib import Path

from PIL import features

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp"),
    *(".tif", ".tiff", ".pgm", ".ppm", ".pbm", ".pnm", ".tga", ".jp2", ".j2k"),
)
"""Files that are always read as pictures."""

HEIF = (".heic", ".heif", ".hif")
DICOM = (".dcm", ".dicom", ".ima")
EXTRAS = dict.fromkeys(HEIF, "heif") | dict.fromkeys(DICOM, "dicom")
"""Files that are read where one of the program's extras is installed, and which."""

UNREAD = (
    *(".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".svg", ".pdf", ".psd", ".xcf", ".exr", ".hdr"),
    *(".raw", ".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf", ".jxl", ".ico"),
    *(".czi", ".nd2", ".lif", ".svs", ".vsi", ".npy", ".fits", ".mp4", ".mov", ".avi", ".mkv"),
)
"""Files that are pictures too, but that nothing here reads: they are counted and said."""

MAGIC = (
    *((0, b"\x89PNG", ".png"), (0, b"\xff\xd8\xff", ".jpg"), (0, b"GIF8", ".gif")),
    *((0, b"II*\0", ".tif"), (0, b"MM\0*", ".tif"), (8, b"WEBP", ".webp"), (128, b"DICM", ".dcm")),
    *((4, b"ftypavif", ".avif"), (4, b"ftyphei", ".heic")),
)
"""How a file without a suffix begins, at which byte."""


def kind_of(path: Path) -> str:
    """Return a file's suffix, in small letters; without any, that of what it begins with."""
    name = path.name.lower()
    if name.endswith(".nii.gz"):
        return ".nii.gz"
    if path.suffix:
        return path.suffix.lower()
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return ""
    return kind_of_bytes(start)


def kind_of_bytes(start: bytes) -> str:
    """Return the suffix of what begins so, or nothing."""
    return next((kind for at, word, kind in MAGIC if start[at:].startswith(word)), "")


def is_read(kind: str) -> bool:
    """Say whether files of a kind are read as pictures, with the extras that are installed."""
    if kind == ".avif":
        return bool(features.check("avif"))
    if kind not in EXTRAS:
        return kind in SUFFIXES
    return installed("pillow_heif" if kind in HEIF else "pydicom")


@cache
def installed(module: str) -> bool:
    """Say whether a module could be imported, without doing so."""
    return importlib.util.find_spec(module) is not None


def why_unread(kind: str) -> str | None:
    """Say what would read pictures of a kind that are not read; None if these are no pictures."""
    if kind in EXTRAS and not is_read(kind):
        return f'needs pip install "scorequilt[{EXTRAS[kind]}]"'
    if kind == ".avif":
        return None if is_read(kind) else "needs a Pillow that was built with AVIF, as from 11.3"
    return "not read" if kind in UNREAD else None
