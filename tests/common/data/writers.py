"""Writers of picture files that share no code with what reads them."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import tifffile
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid


def tiff(path: Path, values: np.ndarray, photometric: str = "minisblack", **options: Any) -> None:
    tifffile.imwrite(path, values, photometric=photometric, **options)


def tag(code: int, kind: int, value: Any) -> tuple[int, int, int, Any, bool]:
    """A TIFF tag of one value: kind 3 is uint16, 9 int32, 11 float32."""
    return code, kind, 1, value, True


def packed_twelve_bits(path: Path, values: np.ndarray) -> None:
    """A TIFF of one strip whose greys take one and a half bytes each."""
    height, width = values.shape
    bits = "".join(f"{value:012b}" for value in values.ravel())
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    entries = [
        (256, width),
        (257, height),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8 + 2 + 9 * 12 + 4),
    ]
    entries += [(277, 1), (278, height), (279, len(data))]
    table = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in entries)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    path.write_bytes(head + table + struct.pack("<I", 0) + data)


def png(
    path: Path,
    values: np.ndarray,
    colour: int,
    bits: int = 16,
    chunks: dict[bytes, bytes] | None = None,
) -> None:
    """A PNG of 8 or 16 bits; `colour` is 0 grey, 2 RGB, 4 grey with alpha, 6 RGB with alpha."""
    height, width = values.shape[:2]
    rows = values.astype(f">u{bits // 8}").reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *(chunks or {}).items()]
    parts += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))]
    parts += [(b"IEND", b"")]
    whole = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + whole)


def pgm(path: Path, values: np.ndarray, most: int) -> None:
    height, width = values.shape
    path.write_bytes(f"P5 {width} {height} {most}\n".encode() + values.astype(">u2").tobytes())


def dicom(
    path: Path, values: np.ndarray, bits: int, kind: str = "MONOCHROME2", **more: Any
) -> None:
    """A DICOM file of greys or colours; several frames where there is one axis more."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, generate_uid()
    coloured = kind in ("RGB", "YBR_FULL")
    frames = values.ndim - (3 if coloured else 2)
    if frames:
        data.NumberOfFrames = len(values)
    data.SamplesPerPixel, data.PhotometricInterpretation = (3 if coloured else 1), kind
    if coloured:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = values.shape[frames : frames + 2]
    data.BitsAllocated = 8 * values.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    for name, value in more.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)
