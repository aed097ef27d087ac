"""What the places of pictures in a folder, or its metadata, say: split, class and other columns."""

from pathlib import Path
from typing import NamedTuple

from common.config import PicturesConfig
from common.data.metadata import LABEL, Row, column_of, read_metadata
from common.data.splits import held_out_split, split_of
from common.errors import UserError

MASKS = ("masks",)
"""Names of folders whose pictures are not what a model should learn to draw."""


class Placed(NamedTuple):
    """A picture and what is said of it.

    Attributes:
        path: The file.
        label: The name of its class, empty where there are none.
        split: `train`, `validation`, `test`, or empty where the folder has no splits.
        row: Columns of the metadata.
    """

    path: Path
    label: str
    split: str
    row: Row


class Arrangement(NamedTuple):
    """The pictures of a folder in order.

    Attributes:
        pictures: Those to read.
        left_out: Those not to read, with the reason.
        missing: How many files the metadata name that are not there.
    """

    pictures: list[Placed]
    left_out: list[tuple[Path, str]]
    missing: int


def arrange(
    folder: Path, paths: list[Path], metadata: list[Path], reading: PicturesConfig
) -> Arrangement:
    """Find out what every picture is.

    Labels come from the metadata if these have a column of labels, else from sub-folders. Folders
    named train beside val or test are splits; where there are both of these, val is left out.

    Raises:
        UserError: The metadata cannot be read or lack a column that is asked for, or sub-folders
            are neither splits nor classes.
    """
    rows = read_metadata(metadata)
    for key, column in (("pictures.label", reading.label), ("pictures.group", reading.group)):
        if column:
            column_of(rows.values(), column, key, str(folder))
    column = reading.label or (LABEL if any(LABEL in row for row in rows.values()) else "")
    places, splits = _places(folder, paths, bool(column))
    held_out = held_out_split({split for _, split in places})
    classed = not column and any(label for label, _ in places)
    pictures, left_out = [], []
    for path, (label, split) in zip(paths, places, strict=True):
        row = rows.get(path, {})
        if split not in ("", "train", held_out):
            left_out.append((path, f"{held_out} is held out, not {split}"))
        elif column and not row.get(column):
            left_out.append((path, f"the metadata give it no {column}"))
        elif reading.group and not row.get(reading.group):
            left_out.append((path, f"the metadata give it no {reading.group}"))
        elif splits and not split:
            left_out.append((path, "it lies beside the folders of splits"))
        elif classed and not label:
            left_out.append((path, "it lies beside the folders of classes"))
        else:
            pictures.append(Placed(path, row[column] if column else label, split, row))
    missing = len(rows.keys() - set(paths))
    if not pictures:
        raise UserError(f"data: no picture of {folder} is left ({left_out[0][1]})")
    return Arrangement(pictures, left_out, missing)


def _places(folder: Path, paths: list[Path], labelled: bool) -> tuple[list[tuple[str, str]], bool]:
    """Return (class, split) of each picture as its folders have them, and if there are splits."""
    inner = [path.relative_to(folder).parts[:-1] for path in paths]
    # What an archive wraps around everything says nothing.
    while all(len(parts) > 1 for parts in inner) and len({parts[0] for parts in inner}) == 1:
        inner = [parts[1:] for parts in inner]
    tops = {parts[0] for parts in inner if parts}
    splits = {top for top in tops if split_of(top)}
    odd = tops - splits
    if splits and not labelled and (odd or not any(split_of(top) == "train" for top in splits)):
        names = ", ".join(sorted(splits))
        raise UserError(
            f"data: the sub-folders of {folder} are no classes ({names}); keep train beside val or "
            "test alone, or name the folder to train on"
        )
    if not labelled and len(tops) > 1 and (masks := sorted(t for t in tops if t.lower() in MASKS)):
        raise UserError(
            f"data: the sub-folders of {folder} are no classes ({masks[0]}); name the one to train "
            f"on, such as folder:{folder / min(tops - set(masks))}"
        )
    if splits and not odd and any(split_of(top) == "train" for top in splits):
        return [
            (parts[1] if len(parts) > 1 else "", split_of(parts[0]) if parts else "")
            for parts in inner
        ], True
    return [(parts[0] if parts else "", "") for parts in inner], False
