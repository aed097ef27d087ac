"""Writing files so that a reader, or a crash, never meets half of one."""

import contextlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from common.errors import UserError

PART = ".part"
"""How the name of a file ends that is still being written; it begins with a dot."""


def discard_parts(folder: Path) -> None:
    """Delete what processes that were killed left half written; nobody may write there now.

    The folder itself and those directly below it are looked at.
    """
    for pattern in (f".*{PART}", f"*/.*{PART}"):
        for part in folder.glob(pattern):
            with contextlib.suppress(OSError):
                shutil.rmtree(part) if part.is_dir() else part.unlink()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write; when the context ends, `path` is the old one or the new one, whole.

    The bytes go to a file beside it, reach the disk, and are renamed. Missing folders are made.
    Several processes may write the same path; the last rename wins.

    Raises:
        UserError: The folder cannot be made or written.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; choose a writable folder"
            " (run-dir for results, SCOREQUILT_CACHE for the cache)"
        ) from error
    finally:
        # After the rename there is nothing left to remove; parents that are files give OSError.
        with contextlib.suppress(OSError):
            aside.unlink()


def atomic_write(path: Path, content: bytes) -> None:
    """Put `content` at `path`, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Put arrays at `path` in safetensors' format, as `atomic_file` does, without copying them.

    The library's own writer makes two copies in memory, or a file that only its owner may read.

    Args:
        path: Where to.
        tensors: The arrays by name, of floats, integers or unsigned integers.
        metadata: Texts that go with them.
    """
    # Wide elements first, so that every array begins at a multiple of its elements' size.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    arrays = [np.ascontiguousarray(tensors[name]) for name in order]
    stops = list(accumulate(array.nbytes for array in arrays))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    for name, array, stop in zip(order, arrays, stops, strict=True):
        header[name] = {
            "dtype": f"{array.dtype.kind.upper()}{8 * array.itemsize}",
            "shape": tensors[name].shape,
            "data_offsets": [stop - array.nbytes, stop],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays:
            file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).reshape(-1).data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; see `plain_json` for what it may hold."""
    atomic_write(path, (json.dumps(plain_json(value), indent=2) + "\n").encode())


def plain_json(value: Any) -> Any:
    """`value` as strict JSON can hold it: NumPy and torch scalars unboxed, NaN and ±inf as None.

    Raises:
        TypeError: something else than numbers, strings, None, sequences and mappings.
    """
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        # float() also turns np.float64, a subclass, into what every JSON writer accepts.
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain_json(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain_json(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain_json(value.tolist())
    raise TypeError(f"{type(value).__name__} does not fit into JSON")


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def parse_bytes(key: str, text: str) -> int:
    """Return a number of bytes written such as ``200MiB``, ``1.5G`` or ``500000``; K is 1024.

    Raises:
        UserError: It is no positive number of bytes; the line names the key.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise UserError(f"{key}: '{text}' is no amount of memory; write for example 200MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def show_bytes(count: int) -> str:
    """Return a number of bytes for people, such as ``1.2 GiB``."""
    power = min(4, int(math.log2(max(count, 1)) / 10))
    number = f"{count / 1024**power:.{min(power, 1)}f}"
    return f"{number} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"
