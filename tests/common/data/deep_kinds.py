"""Kinds of pictures and the values that they must have: of more than eight bits."""

from typing import Any

import numpy as np
from PIL import Image

from tests.common.data.kinds import (
    COLOUR,
    FIRST_CLEAR,
    GREY,
    GREY_ON_WHITE,
    ON_WHITE,
    OPAQUE,
    RAMP,
    Kind,
    as_dicom,
    as_png,
    as_tiff,
    of,
    pillow,
    ramp,
)
from tests.common.data.writers import packed_twelve_bits, pgm, tag

DARK = (RAMP * 400).round()
"""Values far below their depth's white."""

TWELVE = np.stack([ramp(12), ramp(12)[::-1], ramp(12).T], axis=-1)
SIXTEEN = np.stack([ramp(16), ramp(16)[::-1], ramp(16).T], axis=-1)
TILED: dict[str, Any] = {"tile": (16, 16)}
HALF = RAMP.astype(np.float32)

DEEP_KINDS: dict[str, Kind] = {
    "png of 16 bits": (".png", as_png(ramp(16)), GREY, 0),
    "png of 12 bits at the lower end": (
        ".png",
        as_png(DARK.astype(np.uint16), sBIT=b"\x0c"),
        of(DARK, 4095),
        0,
    ),
    "png of 12 bits as the standard has it": (
        ".png",
        as_png(DARK.astype(np.uint16) << 4, sBIT=b"\x0c"),
        of(DARK, 4096),
        0,
    ),
    "png of 16 bits with a transparent grey": (
        ".png",
        as_png(ramp(16), tRNS=b"\0\0"),
        FIRST_CLEAR,
        0,
    ),
    "tiff of 16 bits": (".tif", as_tiff(ramp(16)), GREY, 0),
    "tiff of 16 bits, big-endian": (".tif", as_tiff(ramp(16), byteorder=">"), GREY, 0),
    "tiff of 16 bits, white is zero": (".tif", as_tiff(ramp(16), "miniswhite"), 255 - GREY, 0),
    "tiff of 16 bits in compressed tiles": (
        ".tif",
        as_tiff(ramp(16), compression="zlib", predictor=True, **TILED),
        GREY,
        0,
    ),
    "tiff of 16 bits, turned": (
        ".tif",
        as_tiff(np.rot90(ramp(16)), extratags=[tag(274, 3, 6)]),
        GREY,
        0,
    ),
    "tiff of 10 bits in 16": (".tif", as_tiff(ramp(10)), GREY, 0),
    "tiff of 12 bits in 16": (".tif", as_tiff(ramp(12)), GREY, 0),
    "tiff of 14 bits in 16": (".tif", as_tiff(ramp(14)), GREY, 0),
    "tiff of packed 12 bits": (
        ".tif",
        lambda path: packed_twelve_bits(path, DARK.astype(int)),
        of(DARK, 4095),
        0,
    ),
    "tiff that names its most": (
        ".tif",
        as_tiff(DARK.astype(np.uint16), extratags=[tag(281, 3, 4095)]),
        of(DARK, 4095),
        0,
    ),
    "tiff that names its most wrongly": (
        ".tif",
        as_tiff(ramp(12), extratags=[tag(281, 3, 255)]),
        GREY,
        0,
    ),
    "tiff that names the ends of its floats": (
        ".tif",
        as_tiff(DARK.astype(np.float32), extratags=[tag(340, 11, -100.0), tag(341, 11, 900.0)]),
        of(DARK + 100, 1000),
        0,
    ),
    "tiff of 32 bits": (".tif", as_tiff(ramp(32, np.uint32)), GREY, 0),
    "tiff of a byte in 32 bits": (".tif", as_tiff(GREY.astype(np.int32)), GREY, 0),
    "tiff of signed bytes": (".tif", as_tiff((RAMP * 255 - 128).round().astype(np.int8)), GREY, 0),
    "tiff of Hounsfield units": (
        ".tif",
        as_tiff((RAMP * 2000 - 1000).round().astype(np.int16)),
        GREY,
        1,
    ),
    "tiff of fractions": (".tif", as_tiff(HALF * 0.5), of(RAMP * 0.5, 1), 1),
    "tiff of floats": (".tif", as_tiff(HALF * 700 - 300), GREY, 1),
    "tiff of floats, white is zero": (".tif", as_tiff(HALF * 700, "miniswhite"), 255 - GREY, 1),
    "pgm of 10 bits": (".pgm", lambda path: pgm(path, DARK, 1023), of(DARK, 1023), 0),
    "jpeg 2000 of 16 bits": (".jp2", pillow(Image.fromarray(ramp(16))), GREY, 1),
    "png of RGB of 16 bits": (".png", as_png(SIXTEEN, 2), COLOUR, 0),
    "png of RGB of 12 bits in 16": (".png", as_png(TWELVE, 2), COLOUR, 0),
    "png of RGB of 16 bits with a transparent colour": (
        ".png",
        as_png(SIXTEEN, 2, tRNS=SIXTEEN[3, 5].astype(">u2").tobytes()),
        np.where((COLOUR[3, 5] == COLOUR).all(-1, keepdims=True), 255, COLOUR).astype(np.uint8),
        0,
    ),
    "png of RGB with alpha of 16 bits": (
        ".png",
        as_png(np.dstack([SIXTEEN, OPAQUE.astype(np.uint16) * 257]), 6),
        ON_WHITE,
        0,
    ),
    "png of grey with alpha of 16 bits": (
        ".png",
        as_png(np.dstack([ramp(16), OPAQUE.astype(np.uint16) * 257]), 4),
        GREY_ON_WHITE,
        1,
    ),
    "tiff of RGB of 12 bits in 16": (".tif", as_tiff(TWELVE, "rgb"), COLOUR, 0),
    "tiff of RGB of 16 bits, turned": (
        ".tif",
        as_tiff(np.rot90(SIXTEEN), "rgb", extratags=[tag(274, 3, 6)]),
        COLOUR,
        0,
    ),
    "tiff of RGB of 16 bits with alpha": (
        ".tif",
        as_tiff(
            np.dstack([SIXTEEN, OPAQUE.astype(np.uint16) * 257]), "rgb", extrasamples=["unassalpha"]
        ),
        ON_WHITE,
        0,
    ),
    "tiff of RGB of 16 bits, compressed": (
        ".tif",
        as_tiff(SIXTEEN, "rgb", compression="zlib"),
        COLOUR,
        0,
    ),
}
DICOM_KINDS: dict[str, Kind] = {
    "dicom without a window": (".dcm", as_dicom(DARK.astype(np.uint16), 12), of(DARK, 4095), 0),
    "dicom with a window": (
        ".dcm",
        as_dicom(ramp(12), 12, WindowCenter=[1024, 9], WindowWidth=[2048, 9]),
        of(np.clip(ramp(12), 0, 2047), 2047),
        0,
    ),
    "dicom with a narrow window": (
        ".dcm",
        as_dicom(GREY, 8, WindowCenter=128, WindowWidth=5),
        of(np.clip(GREY.astype(int) - 125.5, 0, 4), 4),
        0,
    ),
    "dicom with a window to the value": (
        ".dcm",
        as_dicom(GREY, 8, WindowCenter=128, WindowWidth=4, VOILUTFunction="LINEAR_EXACT"),
        of(np.clip(GREY.astype(int) - 126, 0, 4), 4),
        0,
    ),
    "dicom of Hounsfield units": (
        ".dcm",
        as_dicom(
            (RAMP * 1000).round().astype(np.int16) + 24,
            16,
            RescaleSlope=1,
            RescaleIntercept=-1024,
            WindowCenter=-499.5,
            WindowWidth=1001,
        ),
        GREY,
        1,
    ),
    "dicom of signed values": (
        ".dcm",
        as_dicom((RAMP * 255 - 128).round().astype(np.int8), 8),
        GREY,
        0,
    ),
    "dicom, white is zero": (".dcm", as_dicom(ramp(12), 12, "MONOCHROME1"), 255 - GREY, 0),
    "dicom of frames": (".dcm", as_dicom(np.stack([ramp(12), ramp(12)[::-1]]), 12), GREY, 0),
    "dicom of RGB": (".dcm", as_dicom(COLOUR, 8, "RGB"), COLOUR, 0),
    "dicom without a suffix": ("", as_dicom(GREY, 8), GREY, 0),
}
