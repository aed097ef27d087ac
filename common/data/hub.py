"""Data sets of Hugging Face's library `datasets`: from its hub, or as it saves them to disk.

What was read once is kept in the cache, so that neither the library nor a network is needed then.
"""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from common.cache import cached_arrays
from common.config import PicturesConfig
from common.data.classes import classes_of
from common.data.decoding import Decoded, decode
from common.data.metadata import LABEL
from common.data.pictures import Shape
from common.data.splits import held_out_split, split_of
from common.errors import UserError

HUB_FORMAT = 1
"""Part of the cache keys: raised when what is read below changes."""

NAME = re.compile(
    r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<config>[\w.+-]+))?(@(?P<revision>[\w./-]+))?"
)

log = logging.getLogger("flwr")


class HubImages(NamedTuple):
    """What a data set holds.

    Attributes:
        decoded: Its pictures; `places` count the rows of the splits that are taken, in order.
        names: What the rows are called.
        labels: (N,), positions in `classes`, one for each image.
        classes: The classes' names.
        held_out: (N,), None if there is one split.
        columns: Other columns of one value a row, as texts (N,).
    """

    decoded: Decoded
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
    key = {
        "name": name if kind == "hf" else _files(Path(name)),
        "shape": shape,
        "reading": repr(reading),
        "format": HUB_FORMAT,
    }
    held = cached_arrays(kind, key, lambda: _read(kind, name, shape, reading))
    columns = {
        k.removeprefix("column:"): held.pop(k) for k in list(held) if k.startswith("column:")
    }
    rows, labels, classes = (held.pop(k) for k in ("rows", "labels", "classes"))
    splits = held.pop("splits")
    decoded = Decoded(**held)
    if not len(decoded.images):
        reason = f" ({rows[0]}: {decoded.reasons[0]})" if len(rows) else ""
        raise UserError(f"data: no picture of {kind}:{name} can be decoded{reason}")
    at = decoded.places
    held_out = splits[at] != "train"
    return HubImages(
        decoded,
        rows.tolist(),
        labels[at],
        tuple(classes.tolist()),
        held_out if held_out.any() else None,
        {name: values[at] for name, values in columns.items()},
    )


def _read(kind: str, name: str, shape: Shape, reading: PicturesConfig) -> dict[str, np.ndarray]:
    source = f"{kind}:{name}"
    parts = _taken(source, _opened(kind, name))
    first = parts[0][1]
    image = _image_column(source, first)
    label = _label_column(source, first, reading)
    rows = [f"{split}[{row}]" for split, part in parts for row in range(len(part))]
    splits = np.repeat([split for split, _ in parts], [len(part) for _, part in parts])
    texts = {
        column: np.concatenate([_texts(part, column) for _, part in parts])
        for column in first.column_names
        if type(first.features[column]).__name__ in ("Value", "ClassLabel")
    }
    if reading.group and reading.group not in texts:
        raise UserError(
            f"pictures.group: {source} has no column {reading.group!r} of one value; it has "
            f"{', '.join(texts) or '-'}"
        )
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
    pictures = _Pictures([part.select_columns([image]) for _, part in parts], image, wanted)
    decoded = decode(pictures, [rows[row] for row in wanted], shape, reading)
    return {
        **decoded._asdict(),
        "rows": np.array(rows)[wanted],
        "splits": splits[wanted],
        "labels": labels,
        "classes": np.array(classes),
        **{f"column:{column}": values[wanted] for column, values in texts.items()},
    }


def _opened(kind: str, name: str) -> Any:
    """Return a `Dataset`, or a `DatasetDict` of splits."""
    try:
        import datasets
    except ImportError:
        raise UserError(
            f'data: {kind}:{name} needs the library datasets; pip install "scorequilt[hf]"'
        ) from None
    try:
        with quiet(datasets):
            if kind == "hfdisk":
                return datasets.load_from_disk(name)
            words = NAME.fullmatch(name)
            # Of two things of one name the library would take the folder.
            if words is None or Path(words["name"]).exists():
                raise ValueError(
                    "write hf:OWNER/NAME, hf:OWNER/NAME:CONFIG; a folder is hfdisk:PATH"
                )
            return datasets.load_dataset(words["name"], words["config"], revision=words["revision"])
    except Exception as error:  # of the network, of formats, of the library
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        hint = "; is there a network, and is it called so?" if kind == "hf" else ""
        raise UserError(f"data: {kind}:{name} cannot be had ({reason}){hint}") from None


@contextmanager
def quiet(datasets: Any) -> Iterator[None]:
    """Keep the library's bars and its log of retries to itself: what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "datasets")]
    before = [each.level for each in loggers]
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _taken(source: str, data: Any) -> list[tuple[str, Any]]:
    """Return the split to train on, and the one that is held out if there is one."""
    if not hasattr(data, "keys"):
        return [("train", data)]
    splits = {split_of(name) or name: part for name, part in data.items()}
    if len(splits) == 1:
        return [("train", *splits.values())]
    if "train" not in splits:
        raise UserError(f"data: {source} has no split called train; it has {', '.join(data)}")
    held_out = held_out_split(set(splits))
    left = [name for name in splits if name not in ("train", held_out)]
    if left:
        log.info("data: of %s the splits %s are left out", source, ", ".join(left))
    return [("train", splits["train"]), *([(held_out, splits[held_out])] if held_out else [])]


def _image_column(source: str, part: Any) -> str:
    found = [name for name, kind in part.features.items() if type(kind).__name__ == "Image"]
    if not found:
        raise UserError(
            f"data: {source} has no column of images; it has {', '.join(part.column_names)}"
        )
    return found[0]


def _label_column(source: str, part: Any, reading: PicturesConfig) -> str:
    """Return the column that is asked for, `label`, the first of classes, or nothing."""
    kinds = {name: type(kind).__name__ for name, kind in part.features.items()}
    if reading.label and kinds.get(reading.label) not in ("Value", "ClassLabel"):
        raise UserError(
            f"pictures.label: {source} has no column {reading.label!r} of one value; it has "
            f"{', '.join(part.column_names)}"
        )
    if reading.label:
        return reading.label
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


class _Pictures(Sequence[Path | bytes]):
    """The pictures of some rows as they are stored, each read when it is asked for."""

    def __init__(self, parts: list[Any], column: str, rows: np.ndarray) -> None:
        from datasets import Image

        self.parts = [part.cast_column(column, Image(decode=False)) for part in parts]
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.column, self.rows = column, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        row = int(self.rows[place])
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        stored = self.parts[part][row - int(self.starts[part])][self.column] or {}
        return stored["bytes"] if stored.get("bytes") else Path(stored.get("path") or "")


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
