"""TensorBoard's event files, written without its package: ``tensorboard --logdir runs`` shows them.

An event file is a row of records (a length, the record and a CRC-32C of each) that hold protocol
buffers. Of these a few fields of three messages are needed: `Event`, `Summary` and `SessionLog`,
as tensorflow/core/util/event.proto and framework/summary.proto number them.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from simulations.trackers.interface import Session, numbers


class TensorBoard:
    """Writes an event file into the run directory.

    A run that is resumed gets another file, which says where it begins.

    Args:
        session: The run's.
    """

    def __init__(self, session: Session) -> None:
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{session.id}"
        self._file = (session.run_dir / name).open("ab")
        self._begun = False
        self._write(_text(3, "brain.Event:2"))

    def row(self, row: Mapping[str, Any]) -> None:
        """Write a row's numbers as scalars."""
        step = _number(2, row["round"])
        if not self._begun:  # TensorBoard then forgets what an earlier file says from here on
            self._write(step + _part(7, _number(1, 1)))
            self._begun = True
        values = (_part(1, _text(1, tag) + _float(2, x)) for tag, x in numbers(row).items())
        self._write(step + _part(5, b"".join(values)))

    def image(self, name: str, path: Path, round: int) -> None:
        """Write a picture as PNG."""
        with Image.open(path) as picture:
            buffer = BytesIO()
            picture.convert("RGB").save(buffer, "PNG")
            size = _number(1, picture.height) + _number(2, picture.width) + _number(3, 3)
        image = _part(4, size + _part(4, buffer.getvalue()))
        self._write(_number(2, round) + _part(5, _part(1, _text(1, name) + image)))

    def file(self, path: Path) -> None:
        """Leave files where they are, beside the event file."""

    def end(self, failed: bool) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        """Append an event, with the time, as one record."""
        data = b"\x09" + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))
        self._file.flush()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _part(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, value: str) -> bytes:
    return _part(field, value.encode())


def _table() -> list[int]:
    """Return the remainders of all bytes by Castagnoli's polynomial, bits reversed."""
    table = []
    for remainder in range(256):
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
        table.append(remainder)
    return table


_CRC = _table()


def _checksum(data: bytes) -> bytes:
    """Return the masked CRC-32C, as TFRecord files have it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 255]
    crc ^= 0xFFFFFFFF
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return struct.pack("<I", masked)
