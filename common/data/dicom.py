"""DICOM files, as the screens of those who made them would show them; needs pydicom.

Stored values become quantities (modality rescale, PS3.3 C.11.1), quantities grey by the file's own
window (C.11.2); where there is none, black and white are the ends of what its stored bits can hold.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.data.depth import Deep, Depth


def dicom_frames(source: Path | bytes, every: bool) -> list[Image.Image | Deep]:
    """Decode a DICOM file's first frame, or all.

    Args:
        source: The file, or what is in it.
        every: Whether frames after the first are taken as well.

    Raises:
        Exception: Whatever pydicom raises, or `ValueError` for what is not read here.
    """
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, pixel_array

    data = dcmread(io.BytesIO(source) if isinstance(source, bytes) else source)
    array = pixel_array(data)
    if int(data.get("NumberOfFrames") or 1) == 1:
        array = array[None]
    array = array if every else array[:1]
    kind = data.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        return [Deep(apply_color_lut(each, data), _palette_depth(data)) for each in array]
    if data.SamplesPerPixel == 3:
        depth = Depth(0.0, 2.0**data.BitsStored - 1)
        return [Deep(each, depth) for each in array]
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"greys of kind {kind}")
    return [_grey(each, data, frame) for frame, each in enumerate(array)]


def _palette_depth(data: Any) -> Depth:
    bits = int(data.RedPaletteColorLookupTableDescriptor[2])
    return Depth(0.0, 2.0**bits - 1)


def _grey(stored: np.ndarray, data: Any, frame: int) -> Deep:
    rescale = _group(data, frame, "PixelValueTransformationSequence")
    if "ModalityLUTSequence" in rescale or (
        "VOILUTSequence" in data and "WindowCenter" not in data
    ):
        raise ValueError("its greys are given by a table")
    slope = float(rescale.get("RescaleSlope", 1.0))
    intercept = float(rescale.get("RescaleIntercept", 0.0))
    values = stored * slope + intercept
    window = _group(data, frame, "FrameVOILUTSequence")
    if window.get("WindowCenter") is not None and window.get("WindowWidth") is not None:
        depth = _window(window)
    else:
        bits, signed = int(data.BitsStored), bool(data.PixelRepresentation)
        least = -(2 ** (bits - 1)) if signed else 0
        ends = sorted(end * slope + intercept for end in (least, least + 2**bits - 1))
        depth = Depth(*ends)
    return Deep(values, depth, data.PhotometricInterpretation == "MONOCHROME1")


def _window(data: Any) -> Depth:
    """Return black and white of the first window (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    function = data.get("VOILUTFunction", "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise ValueError(f"a window of kind {function}")
    centre, width = (
        float(value if isinstance(value, str | int | float) else value[0])
        for value in (data.WindowCenter, data.WindowWidth)
    )
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width <= 0:  # every value is black or white, and the middle black
        return Depth(centre, centre + 1e-6)
    return Depth(centre - width / 2, centre + width / 2)


def _group(data: Any, frame: int, name: str) -> Any:
    """Return the item that holds for a frame: its own, that of all frames, or the file itself."""
    for key, place in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        groups = data.get(key)
        if groups and place < len(groups) and groups[place].get(name):
            return groups[place].get(name)[0]
    return data
