"""From a picture file to its frames: what decoders give, upright, with what the file says of depth.

Nothing that a decoder raises leaves this file but as a `UserError` that names the picture.
"""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from common.data.depth import BITS, SAMPLE_FORMAT, Deep, Depth, png_depth, tiff_depth
from common.data.formats import DICOM, HEIF, kind_of, kind_of_bytes
from common.errors import UserError

PAGED = ("TIFF", "GIF", "PNG", "WEBP", "AVIF", "HEIF")
"""Formats whose further frames are pictures; a telephone's JPEG keeps previews there."""

MOST_PIXELS = 2 * int(Image.MAX_IMAGE_PIXELS or 0)
"""Of one picture: Pillow's own limit, above which it decodes nothing."""

NEW_SUBFILE, PHOTOMETRIC, ORIENTATION, PLANAR = 254, 262, 274, 284
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings each of EXIF's orientations upright (CIPA DC-008, tag 274)."""

ORDER = {"16B": "16L", "16L": "16B", "16N": "16B"}

Frame = Image.Image | Deep


def frames_of(source: Path | bytes, name: str, every: bool = False) -> list[Frame]:
    """Decode a picture, its first frame or all of them.

    Args:
        source: A file, or what is in it.
        name: What to call it where it cannot be read.
        every: Whether frames after the first are taken as well.

    Raises:
        UserError: It cannot be decoded, or a value is no number.
    """
    try:
        with warnings.catch_warnings():
            # What can be read is read; what is too large is refused below.
            warnings.simplefilter("ignore")
            return _frames(source, every)
    except Image.DecompressionBombError:
        reason = f"it has more than {MOST_PIXELS // 10**6} million pixels"
    except UnidentifiedImageError:
        reason = "of no kind that is read, or not what its name says"
    except MemoryError:
        reason = "it is too large"
    except Exception as error:  # decoders raise what they like on damaged files, and odd EXIF tags
        reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(f"{name}: cannot be read as a picture ({reason})")


def _frames(source: Path | bytes, every: bool) -> list[Frame]:
    kind = kind_of(source) if isinstance(source, Path) else kind_of_bytes(source[:132])
    if kind in DICOM:
        from common.data.dicom import dicom_frames

        return dicom_frames(source, every)
    if kind in HEIF:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    with Image.open(_opened(source)) as file:
        count = getattr(file, "n_frames", 1) if every and file.format in PAGED else 1
        found: list[Frame] = []
        for page in range(count):
            file.seek(page)
            # A TIFF may keep smaller copies of its pages beside them.
            if page and getattr(file, "tag_v2", {}).get(NEW_SUBFILE, 0) & 1:
                continue
            found.append(_frame(file, source, page))
        return found


def _opened(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)


def _frame(file: Image.Image, source: Path | bytes, page: int) -> Frame:
    """Return the frame that an open file stands at."""
    tags: dict[int, Any] = dict(getattr(file, "tag_v2", {}))
    if tags and isinstance(file, ImageFile.ImageFile):
        ends = [tile.extents for tile in file.tile if tile.extents]
        # What no strip holds would stay black without a word.
        if max(x for _, _, x, _ in ends) < file.width or max(y for *_, y in ends) < file.height:
            raise ValueError("strips of it are missing")
    if _sixteen_bit_colour(file):
        if tags.get(PLANAR) == 2:
            raise ValueError("its colours lie in planes of sixteen bits")
        return _deep_colour(file, source, page, tags)
    cut = ";16" in _raw_mode(file) and file.mode[0] != "I"
    upright = _upright(file)
    values = np.asarray(upright)
    if cut and values[..., :3].max() < 64:  # with alpha or inks, of which Pillow keeps eight bits
        raise ValueError("its values lie in the lower of sixteen bits")
    if file.mode == "L" and tags.get(SAMPLE_FORMAT, (1,))[0] == 2:
        values = values.view(np.int8)
    elif file.mode == "I" and tags.get(SAMPLE_FORMAT, (1,))[0] == 1:
        values = values.view(np.uint32)
    elif file.mode[0] not in "IF":
        return upright
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("a value is no number")
    values = values.astype(values.dtype.newbyteorder("="))
    white_is_zero = tags.get(PHOTOMETRIC) == 0
    return Deep(values, _said(file, source, tags, values), white_is_zero, _keyed(file, values))


def _upright(file: Image.Image) -> Image.Image:
    """Return the decoded frame as its EXIF says that it is held.

    Pillow's own function writes the other tags anew as well, and fails where these are odd.
    """
    file.load()
    turn = TURNS.get(file.getexif().get(ORIENTATION, 1))
    return file.copy() if turn is None else file.transpose(turn)


def _keyed(file: Image.Image, values: np.ndarray) -> np.ndarray | None:
    """Return where deep values are not the one that stands for nothing, if a file names such."""
    key = file.info.get("transparency")
    if not isinstance(key, int | tuple):
        return None
    same = values == np.array(key)
    return ~(same.all(-1) if same.ndim == 3 else same)


def _said(
    file: Image.Image, source: Path | bytes, tags: dict[int, Any], values: np.ndarray
) -> Depth | None:
    """Return the depth that a file says its values have."""
    if file.format == "TIFF":
        return tiff_depth(tags, values)
    if file.format == "PNG":
        return png_depth(_significant_bits(source), values)
    if file.mode != "F" and file.format in ("PPM", "JPEG2000"):
        return Depth(0.0, 65535.0)  # Pillow has scaled them already
    return None


def _sixteen_bit_colour(file: Image.Image) -> bool:
    if file.format not in ("PNG", "TIFF") or file.mode not in ("RGB", "RGBA"):
        return False
    bits = dict(getattr(file, "tag_v2", {})).get(BITS, (8,))
    return _raw_mode(file)[:-3] in ("RGB;", "RGBA;") or max(bits) == 16


def _deep_colour(file: Image.Image, source: Path | bytes, page: int, tags: dict[int, Any]) -> Deep:
    """Return colours of sixteen bits, of which Pillow keeps the upper eight.

    Read once more with the two bytes of each value swapped, it keeps the lower ones.
    """
    with Image.open(_opened(source)) as again:
        again.seek(page)
        upper = np.asarray(_upright(file)).astype(np.uint16)
        again.tile = [tile._replace(args=_swapped(tile.args)) for tile in again.tile]
        lower = np.asarray(_upright(again))
    values = upper << 8 | lower
    colours = values[..., :3]
    opacity = values[..., 3] if values.shape[-1] == 4 else _keyed(file, colours)
    depth = _said(file, source, tags, colours)
    return Deep(colours, depth, False, opacity)


def _raw_mode(file: Image.Image) -> str:
    """Return how values lie in an open file, as Pillow calls it."""
    if not isinstance(file, ImageFile.ImageFile) or not file.tile:
        return ""
    args = file.tile[0].args
    return str(args[0] if isinstance(args, tuple) else args)


def _swapped(args: Any) -> Any:
    mode = str(args[0] if isinstance(args, tuple) else args)
    other = mode[:-3] + ORDER[mode[-3:]]
    return (other, *args[1:]) if isinstance(args, tuple) else other


def _significant_bits(source: Path | bytes) -> int | None:
    """Return the least of the numbers of bits in a PNG's sBIT chunk."""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"sBIT":
                return min(file.read(length), default=None)
            file.seek(length + 4, io.SEEK_CUR)
    return None
