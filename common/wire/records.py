"""Flower's records: an array and its bytes, and fields read with suspicion."""

from io import BytesIO
from typing import TypeVar

import numpy as np
from flwr.app import Array, ConfigRecord
from numpy.typing import NDArray

_T = TypeVar("_T", int, str, bytes, list)  # a bool is an int


class WireError(ValueError):
    """A message is not what it should be; the text says what was expected.

    Args:
        message: One line.
        reason: The kind of error in a word, for counting.
    """

    def __init__(self, message: str, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason = reason


def pack_array(values: NDArray) -> Array:
    """Return a vector as Flower's `Array`, in NumPy's format 1.0 as `Array(values)` has it.

    Flower writes an array into a buffer and copies that; here its bytes are copied once.
    """
    header = BytesIO()
    claim = np.lib.format.header_data_from_array_1_0(values)
    np.lib.format.write_array_header_1_0(header, claim)
    payload = np.ascontiguousarray(values).view(np.uint8).data
    data = b"".join((header.getvalue(), payload))
    return Array(str(values.dtype), tuple(values.shape), "numpy.ndarray", data)


def read_array(array: Array, dtype: np.dtype, size: int) -> NDArray:
    """Return a vector as a view of an array's bytes; nothing is allocated by what they claim.

    Raises:
        WireError: The array is not `size` values of `dtype` in NumPy's format 1.0.
    """
    claim = f"{array.dtype} of shape {tuple(array.shape)}"
    if array.stype != "numpy.ndarray" or array.dtype != dtype.name or array.shape != (size,):
        kind = "dtype" if array.dtype != dtype.name else "size"
        raise WireError(f"expected {size} values of {dtype.name}, got {claim}", kind)
    stream = BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, held = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # NumPy parses the header as Python, which can fail in many ways
        raise WireError(f"the array is not NumPy's format 1.0: {error}") from None
    payload = memoryview(array.data)[stream.tell() :]
    if (
        version != (1, 0)
        or held != dtype
        or shape != (size,)
        or len(payload) != size * dtype.itemsize
    ):
        raise WireError(
            f"expected {size} values of {dtype.name}, the data hold {len(payload)} bytes of {held} "
            f"for shape {shape}"
        )
    return np.frombuffer(payload, dtype=dtype)


def field_of(record: ConfigRecord, key: str, kind: type[_T]) -> _T:
    """Return a field of a record, or raise WireError if it is missing or of another type."""
    value = record.get(key)
    if not isinstance(value, kind):
        raise WireError(f"the spec's '{key}' is missing or not {kind.__name__}")
    return value
