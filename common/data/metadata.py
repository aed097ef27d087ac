"""Tables beside pictures, as the imagefolder of Hugging Face's datasets reads them."""

import csv
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError

FILE_NAME = "file_name"
LABEL = "label"

Row = Mapping[str, str]


def read_metadata(files: Iterable[Path]) -> dict[Path, Row]:
    """Return the rows of `metadata.csv` and `metadata.jsonl` files by the picture they speak of.

    Raises:
        UserError: One of them cannot be read, or has no column `file_name`.
    """
    rows: dict[Path, Row] = {}
    for file in sorted(files):
        for row in _rows(file):
            if not row.get(FILE_NAME):
                columns = ", ".join(map(str, row))
                raise UserError(f"{file}: a row without '{FILE_NAME}' (its columns: {columns})")
            path = Path(os.path.normpath(file.parent / row[FILE_NAME]))
            rows[path] = {key: row[key] for key in row if key != FILE_NAME}
    return rows


def _rows(file: Path) -> list[Row]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix.lower() == ".csv":
                return [_texts(row) for row in csv.DictReader(lines, strict=True)]
            return [_texts(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None


def _texts(row: Any) -> Row:
    """Return a row's values as texts; what is missing is left out, and so are a CSV's odd cells.

    Raises:
        ValueError: It is no row.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{row!r} names no columns")
    texts = {}
    for key, value in row.items():
        if key is None or value is None:
            continue
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        texts[str(key)] = str(value).strip() if not isinstance(value, list | dict) else ""
    return texts


def column_of(rows: Iterable[Row], name: str, key: str, source: str) -> None:
    """Check that a column is in a table.

    Raises:
        UserError: It is not; the key and the columns there are named.
    """
    there = sorted({column for row in rows for column in row})
    if name not in there:
        raise UserError(f"{key}: {source} has no column {name!r}; it has {', '.join(there) or '-'}")


def as_columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """Return rows as one array of texts for each column, empty where a row has none."""
    names = sorted({name for row in rows for name in row})
    return {name: np.array([row.get(name, "") for row in rows], dtype=str) for name in names}
