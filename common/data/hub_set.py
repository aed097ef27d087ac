"""A data set of Hugging Face's library `datasets`, opened when something is asked of it."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from common.data.splits import held_out_split, split_of
from common.errors import UserError

NAME = re.compile(
    r"(?P<name>\w[\w.-]*(/\w[\w.-]*)?)(:(?P<config>[\w.+-]+))?(@(?P<revision>[\w./-]+))?"
)

log = logging.getLogger("flwr")


class HubSet:
    """A data set by its kind, `hf` or `hfdisk`, and its name.

    What is asked of it raises UserError where the library is not installed, the data set cannot be
    had, or it has no column of pictures or no split to train on.
    """

    def __init__(self, kind: str, name: str) -> None:
        self.kind, self.name, self.source = kind, name, f"{kind}:{name}"

    @cached_property
    def parts(self) -> dict[str, Any]:
        """The splits that are taken, by name, the one to train on first."""
        return _taken(self.source, _opened(self.kind, self.name))

    @cached_property
    def stored(self) -> dict[str, Any]:
        """The same with the pictures alone, as they are stored."""
        column = _image_column(self.source, self.parts["train"])
        from datasets import Image

        return {
            split: part.select_columns([column]).cast_column(column, Image(decode=False))
            for split, part in self.parts.items()
        }

    def picture(self, row: str) -> Path | bytes:
        """Return the picture of a row, such as ``train[7]``."""
        split, _, number = row.removesuffix("]").rpartition("[")
        (stored,) = self.stored[split][int(number)].values()
        stored = stored or {}
        return stored["bytes"] if stored.get("bytes") else Path(stored.get("path") or "")


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


def _taken(source: str, data: Any) -> dict[str, Any]:
    """Return the split to train on, and the one that is held out if there is one."""
    if not hasattr(data, "keys"):
        return {"train": data}
    splits = {split_of(name) or name: part for name, part in data.items()}
    if len(splits) == 1:
        (only,) = splits.values()
        return {"train": only}
    if "train" not in splits:
        raise UserError(f"data: {source} has no split called train; it has {', '.join(data)}")
    held_out = held_out_split(set(splits))
    left = [name for name in splits if name not in ("train", held_out)]
    if left:
        log.info("data: of %s the splits %s are left out", source, ", ".join(left))
    return {name: splits[name] for name in ("train", held_out) if name}


def _image_column(source: str, part: Any) -> str:
    found = [name for name, kind in part.features.items() if type(kind).__name__ == "Image"]
    if not found:
        raise UserError(
            f"data: {source} has no column of images; it has {', '.join(part.column_names)}"
        )
    return found[0]
