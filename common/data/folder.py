"""A folder of pictures: which files are read, and what their places say of them."""

import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from common.cache import entry_path
from common.config import PicturesConfig
from common.data.decoding import Frames, Waits, read_picture
from common.data.depth import Depth
from common.data.formats import is_read, kind_of, why_unread
from common.data.index import File
from common.data.kept import Kept, kept_pictures
from common.data.pictures import Shape
from common.errors import UserError

FOLDER_FORMAT = 4
"""Part of the cache keys: raised when what is read below changes."""

SYSTEM = ("@eadir", "__macosx", "$recycle.bin", "lost+found", "system volume information")
"""Folders that systems and programs leave behind; so are those whose name begins with a dot."""

METADATA = ("metadata.csv", "metadata.jsonl")
"""Files that say something of the pictures beside and below them."""

log = logging.getLogger("flwr")


class Listing(NamedTuple):
    """What is in a folder.

    Attributes:
        pictures: Files that are read as pictures, sorted.
        metadata: Files that speak of them.
        unread: Pictures that are not read, by kind.
        closed: Folders and files that may not be opened.
    """

    pictures: list[Path]
    metadata: list[Path]
    unread: Counter[str]
    closed: list[str]


def list_folder(folder: Path) -> Listing:
    """List what is below a folder but for what systems leave there, following links once each.

    Raises:
        UserError: There is no such folder, it may not be opened, or no picture is in it.
    """
    try:
        if folder.is_file():
            raise UserError(f"data: {folder} is a file; name the folder that it is in")
        if not folder.is_dir():
            raise UserError(f"data: there is no folder {folder}")
        waiting, seen = [list(folder.iterdir())], {folder.resolve()}
    except OSError as error:
        raise UserError(f"data: {folder} cannot be opened ({error.strerror})") from None
    found = Listing([], [], Counter(), [])
    while waiting:
        for each in waiting.pop():
            if each.name.startswith(".") or each.name.lower() in SYSTEM:
                continue
            try:
                if each.is_dir():
                    if each.resolve() not in seen:
                        seen.add(each.resolve())
                        waiting.append(list(each.iterdir()))
                elif each.is_file():
                    _put(each, found)
            except OSError:  # that it is not allowed, or that it is gone
                found.closed.append(str(each.relative_to(folder)))
    found.pictures.sort()
    if not found.pictures:
        unread = said_unread(found.unread)
        there = f" (there are {unread})" if unread else ""
        there += f" ({len(found.closed)} things in it cannot be opened)" if found.closed else ""
        raise UserError(f"data: no picture is in the folder {folder}{there}")
    return found


def _put(path: Path, found: Listing) -> None:
    if path.name.lower() in METADATA:
        found.metadata.append(path)
        return
    kind = kind_of(path)
    if is_read(kind):
        found.pictures.append(path)
    elif why_unread(kind):
        found.unread[kind] += 1


def pictures_in(folder: Path) -> list[Path]:
    """Return the files in a folder that are read as pictures, sorted.

    Raises:
        UserError: There is no such folder, or no picture in it.
    """
    return list_folder(folder).pictures


def kept_files(folder: Path, paths: list[Path], shape: Shape, reading: PicturesConfig) -> Kept:
    """Decode a folder's files, of which only those are read that have changed since.

    Raises:
        UserError: None can be decoded.
    """
    key = {
        "folder": str(folder),
        "shape": shape,
        "fit": reading.fit,
        "frames": reading.frames,
        "format": FOLDER_FORMAT,
    }
    files = [_about(folder, path) for path in paths]

    def read(name: str, depth: Depth | None, may_wait: bool) -> Frames | Waits:
        return read_picture(folder / name, shape, reading, depth, may_wait)

    stem = f"folder-{folder.name}-{'x'.join(map(str, shape))}"
    kept = kept_pictures(entry_path(stem, key), files, shape, read)
    if not len(kept.images):
        raise UserError(
            f"data: none of the {len(paths)} pictures in {folder} can be decoded"
            f" ({printable(files[0].name)}: {kept.reasons[0]})"
        )
    return kept


def _about(folder: Path, path: Path) -> File:
    """Return what tells that a file has changed; one that has gone just now has no size."""
    name = str(path.relative_to(folder))
    try:
        about = path.stat()
    except OSError:
        return File(name, -1, 0)
    # A file that may be read now has not changed but for its rights.
    return File(name, about.st_size, max(about.st_mtime_ns, about.st_ctime_ns))


def said_unread(unread: Counter[str]) -> str:
    """Say how many pictures of which kinds are not read, and what would read them."""
    return ", ".join(
        f"{count} {kind} ({why_unread(kind)})" for kind, count in sorted(unread.items())
    )


def printable(name: str) -> str:
    """Return a name as it can stand in a line: file systems allow what no terminal shows."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name
    )
