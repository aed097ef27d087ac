"""Data sets of Hugging Face's library `datasets`: from its hub, or as it saves them to disk.

What was read once is kept in the cache, so that neither the library nor a network is needed then.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from common.cache import cached_arrays, entry_path
from common.config import PicturesConfig
from common.data.classes import classes_of
from common.data.decoding import Frames, Waits, read_picture
from common.data.depth import Depth
from common.data.hub_set import HubSet
from common.data.index import File
from common.data.kept import Kept, kept_pictures
from common.data.metadata import LABEL
from common.data.pictures import Shape
from common.errors import UserError

HUB_FORMAT = 2
"""Part of the cache keys: raised when what is read below changes."""

COLUMN = "column:"
"""How columns are told from the rest in the cache."""

log = logging.getLogger("flwr")


class HubImages(NamedTuple):
    """What a data set holds.

    Attributes:
        kept: Its pictures; `places` count the rows of the splits that are taken, in order.
        names: What the rows are called.
        labels: (N,), positions in `classes`, one for each image.
        classes: The classes' names.
        held_out: (N,), None if there is one split.
        columns: Other columns of one value a row, as texts (N,).
    """

    kept: Kept
    names: list[str]
    labels: Int64[np.ndarray, " N"]
    classes: tuple[str, ...]
    held_out: Bool[np.ndarray, " N"] | None
    columns: dict[str, np.ndarray]


def read_hub(kind: str, name: str, shape: Shape, reading: PicturesConfig) -> HubImages:
    """Read ``hf:NAME``, ``hf:NAME:CONFIG``, with ``@REVISION``, or ``hfdisk:PATH``.

    Args:
        kind: `hf` or `hfdisk`.
        name: What follows it.
        shape: (C, H, W) to bring pictures to.
        reading: How, and which columns hold the class and what is kept together.

    Raises:
        UserError: The library is not installed, the data set cannot be had, or it has no pictures,
            no split to train on or not the column that is asked for.
    """
    key = {"name": name if kind == "hf" else _files(Path(name)), "format": HUB_FORMAT}
    data = HubSet(kind, name)
    table = cached_arrays(
        f"{kind}-table", {**key, "label": reading.label}, lambda: _table(data, reading.label)
    )
    columns = {
        column.removeprefix(COLUMN): texts
        for column, texts in table.items()
        if column.startswith(COLUMN)
    }
    if reading.group and reading.group not in columns:
        raise UserError(
            f"pictures.group: {data.source} has no column {reading.group!r} of one value; it has "
            f"{', '.join(columns) or '-'}"
        )
    rows: list[str] = table["rows"].tolist()
    key |= {"shape": shape, "fit": reading.fit, "frames": reading.frames}
    kept = _pictures(data, rows, entry_path(f"{kind}-pictures", key), shape, reading)
    if not len(kept.images):
        reason = f" ({rows[0]}: {kept.reasons[0]})" if rows else ""
        raise UserError(f"data: no picture of {data.source} can be decoded{reason}")
    at = kept.places
    held_out = table["splits"][at] != "train"
    return HubImages(
        kept,
        rows,
        table["labels"][at],
        tuple(table["classes"].tolist()),
        held_out if held_out.any() else None,
        {column: texts[at] for column, texts in columns.items()},
    )


class _Absent(Exception):
    """The data set cannot be opened, so that nothing can be said of one of its pictures."""


def _pictures(
    data: HubSet, rows: list[str], entry: Path, shape: Shape, reading: PicturesConfig
) -> Kept:
    def read(row: str, depth: Depth | None, may_wait: bool) -> Frames | Waits:
        try:
            source = data.picture(row)
        except UserError as error:  # of the data set, not of this picture
            raise _Absent(str(error)) from None
        return read_picture(source, shape, reading, depth, may_wait)

    try:
        return kept_pictures(entry, [File(row, 0, 0) for row in rows], shape, read)
    except _Absent as absent:
        raise UserError(str(absent)) from None


def _table(data: HubSet, label: str) -> dict[str, np.ndarray]:
    """Return what a data set says of its pictures, without those that have no class."""
    source, parts = data.source, data.parts
    first = parts["train"]
    label = _label_column(source, first, label)
    rows = np.array([f"{split}[{row}]" for split in parts for row in range(len(parts[split]))])
    splits = np.repeat(list(parts), [len(part) for part in parts.values()])
    texts = {
        column: np.concatenate([_texts(part, column) for part in parts.values()])
        for column in first.column_names
        if type(first.features[column]).__name__ in ("Value", "ClassLabel")
    }
    named = texts[label] if label else np.full(len(rows), "")
    wanted = np.flatnonzero(named != "") if label else np.arange(len(rows))
    if len(wanted) < len(rows):
        log.warning(
            "data: %d rows of %s have no %s and are left out",
            len(rows) - len(wanted),
            source,
            label,
        )
    known = getattr(first.features[label], "names", None) if label else None
    if known:
        labels = np.array([known.index(each) for each in named[wanted].tolist()], dtype=np.int64)
        classes: Sequence[str] = known
    else:
        labels, classes = classes_of(named[wanted].tolist(), source)
    return {
        "rows": rows[wanted],
        "splits": splits[wanted],
        "labels": labels,
        "classes": np.array(classes),
        **{f"{COLUMN}{column}": values[wanted] for column, values in texts.items()},
    }


def _label_column(source: str, part: Any, wanted: str) -> str:
    """Return the column that is asked for, `label`, the first of classes, or nothing."""
    kinds = {name: type(kind).__name__ for name, kind in part.features.items()}
    if wanted and kinds.get(wanted) not in ("Value", "ClassLabel"):
        raise UserError(
            f"pictures.label: {source} has no column {wanted!r} of one value; it has "
            f"{', '.join(part.column_names)}"
        )
    if wanted:
        return wanted
    if kinds.get(LABEL) in ("Value", "ClassLabel"):
        return LABEL
    return next((name for name, kind in kinds.items() if kind == "ClassLabel"), "")


def _texts(part: Any, column: str) -> np.ndarray:
    """Return a column as texts, empty where a row has no value; classes by their names."""
    names = getattr(part.features[column], "names", None)
    if names is None:
        texts = ["" if value is None else str(value).strip() for value in part[column]]
    else:
        texts = ["" if v is None or v < 0 else names[v] for v in part[column]]
    return np.array(texts, dtype=str)


def _files(folder: Path) -> str:
    """Return a digest of the files of a saved data set.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"data: there is no folder {folder}")
    about = [(str(each), each.stat()) for each in sorted(folder.rglob("*")) if each.is_file()]
    listing = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in about]
    return hashlib.sha256(repr(listing).encode()).hexdigest()
