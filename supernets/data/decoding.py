"""Image files as a viewer shows them, in RGB: one decoder, with one rule for each kind.

The first frame is taken, turned as its EXIF data say. What is transparent lies on white; shades of more than eight bits
are scaled to eight; grey, palettes and other colour spaces become RGB. A JPEG file of too many pixels is decoded at a
reduced size; any other, and what is damaged, is refused with a reason.

Legend of array suffixes: H and W rows and columns.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from supernets.errors import DataError

MOST_PIXELS = 178_956_970
"""A file of more is no ordinary image; where Pillow refuses it, twice the number from which it warns."""
MOST_JPEG_PIXELS = 1_000_000_000
"""Up to this many a JPEG file is decoded at a reduced size."""
LONGEST = 1_000
"""Times that one side may be as long as the other: resized by its shorter side, a strip would fill the memory."""
_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "MPO", "JPEG2000", "AVIF", "HEIF", "TGA", "ICO",
)  # fmt: skip
"""Formats that are read; others of Pillow start programs, as PostScript does, or are no images by themselves."""
_LARGE_PIXELS = 30_000_000
"""Images of more are decoded one at a time in each process, for the sake of memory."""
_ORIENTATION = 0x0112

TURNED, ON_WHITE, DEEP, CMYK, FRAMES, REDUCED = "turned", "on white", "deep", "cmyk", "frames", "reduced"
KINDS: Mapping[str, str] = {
    TURNED: "turned as their EXIF data say",
    ON_WHITE: "with transparency, composed onto white",
    DEEP: "of more than eight bits a shade, scaled to eight",
    CMYK: "in CMYK, converted without a colour profile",
    FRAMES: "of several frames or pages, of which the first is taken",
    REDUCED: "JPEG files of too many pixels, decoded at a reduced size",
}
"""What was done to an image beyond decoding it, in words that follow a number of images."""

EMPTY, NO_IMAGE, TRUNCATED, DAMAGED = "empty files", "no image files", "truncated", "damaged"
TOO_LARGE, TOO_NARROW, NO_PIXELS = "of too many pixels", "too narrow", "without pixels"
_PLUGINS = {
    b"heic": ("HEIC", "pillow-heif"),
    b"heix": ("HEIC", "pillow-heif"),
    b"hevc": ("HEIC", "pillow-heif"),
    b"heim": ("HEIC", "pillow-heif"),
    b"heis": ("HEIC", "pillow-heif"),
    b"mif1": ("HEIC", "pillow-heif"),
    b"msf1": ("HEIC", "pillow-heif"),
    b"avif": ("AVIF", "'pillow>=11.3'"),
    b"avis": ("AVIF", "'pillow>=11.3'"),
}
"""Formats that Pillow may lack, by the brand in their header: their names, and what reads them."""


class Refusal(Exception):
    """An image cannot be used.

    Attributes:
        kind: Why, in words that follow a number of images, the same for all of a kind.
        detail: More of it, of this image.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: A PIL image, in RGB unless it is a sketch.
        kinds: Which of `KINDS` it is.
        mode: Mode of the file's pixels, in Pillow's words.
        form: Format of the file, in Pillow's words.
        size: Columns and rows of the file, before it is turned.
    """

    image: Any
    kinds: frozenset[str]
    mode: str
    form: str
    size: tuple[int, int]


def decode(file: Any, name: str) -> Any:
    """The PIL image in RGB of a file or path; ``name`` is for messages.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return read_picture(file).image
    except Refusal as refusal:
        raise DataError(
            f"image `{name}`: cannot be read: {refusal}", hint="replace the file or take it away"
        ) from refusal


def read_picture(file: Any, is_sketch: bool = False) -> Picture:
    """Decode a path, or a file that can be sought.

    Args:
        file: What is decoded.
        is_sketch: Whether any size and mode will do, which is quicker.

    Raises:
        Refusal: It cannot be used.
    """
    try:
        image, is_reduced = _opened(file)
        with image:
            return _finished(image, is_reduced, is_sketch)
    except Refusal:
        raise
    except Exception as error:  # Pillow raises a kind of its own for almost every format
        raise _refusal(file, error) from error


def to_rgb(image: Any, is_sketch: bool = False) -> tuple[Any, frozenset[str]]:
    """A PIL image of any mode, in RGB as a viewer shows it, and which of `KINDS` it was.

    Args:
        image: A PIL image of any mode, decoded or not.
        is_sketch: Whether it is only to be decoded, and left as it is where what follows cannot fail.

    Raises:
        Exception: Of any kind, where the image is damaged.
    """
    rawmodes = {str(tile[3][0] if isinstance(tile[3], tuple) else tile[3]) for tile in _tiles(image)}
    is_turned, form = _orientation(image) != 1, image.format
    image.load()
    if not is_sketch:
        image = _turned(image, _orientation(image))  # some formats are turned when they are loaded
    is_wide = image.mode.startswith(("I", "F"))
    # Of other modes Pillow has kept the upper byte of each shade.
    is_deep = is_wide or (image.mode in ("RGB", "RGBA", "LA") and any("16" in rawmode for rawmode in rawmodes))
    alpha = None if is_wide else _alpha(image, is_deep)
    facts = {TURNED: is_turned, DEEP: is_deep, CMYK: image.mode == "CMYK", ON_WHITE: alpha is not None}
    kinds = frozenset(kind for kind, is_so in facts.items() if is_so)
    if is_sketch and image.mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK"):
        return image, kinds
    if is_wide:
        is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM"))
        return _from_deep(image, is_16_bit), kinds
    if image.mode == "LAB":
        return _from_lab(image), kinds
    if image.has_transparency_data and image.mode not in ("RGBA", "LA"):
        # Shades may be stored multiplied by how opaque they are.
        image = image.convert({"La": "LA"}.get(image.mode, "RGBA"))
    return image.convert("RGB") if alpha is None else _on_white(image.convert("RGB"), alpha), kinds


def _alpha(image: Any, is_deep: bool) -> Any:
    """How opaque an image is; None where it is wholly so."""
    if not image.has_transparency_data:
        return None
    if image.mode in ("RGBA", "LA", "RGBa", "La"):
        alpha = image.getchannel(image.getbands()[-1])
    else:
        colour = image.info.get("transparency")
        if is_deep and isinstance(colour, tuple):
            image.info["transparency"] = tuple(shade >> 8 for shade in colour)
        alpha = image.convert("RGBA").getchannel("A")
    return alpha if alpha.getextrema()[0] < 255 else None


def _opened(file: Any) -> tuple[Any, bool]:
    """The image, not decoded yet, and whether it will be at a reduced size."""
    from PIL import Image, JpegImagePlugin

    try:
        return Image.open(file, formats=_formats()), False
    except Image.DecompressionBombError as error:
        if not (_header(file) or b"").startswith(b"\xff\xd8\xff"):
            raise Refusal(TOO_LARGE, str(error).partition(" pixels)")[0].rpartition("(")[2] + " pixels") from error
        image = JpegImagePlugin.JpegImageFile(file)
    columns, rows = image.size
    if columns * rows > MOST_JPEG_PIXELS:
        raise Refusal(TOO_LARGE, f"{columns} x {rows}")
    return image, True


def _finished(image: Any, is_reduced: bool, is_sketch: bool) -> Picture:
    columns, rows = image.size
    if min(columns, rows) < 1:
        raise Refusal(NO_PIXELS, f"{columns} x {rows}")
    if max(columns, rows) > LONGEST * min(columns, rows):
        raise Refusal(TOO_NARROW, f"{columns} x {rows}")
    # Pillow says of some formats only whether they have further frames.
    kinds = {FRAMES} if image.format != "MPO" and getattr(image, "is_animated", False) else set()
    mode = image.mode
    if is_reduced:
        kinds.add(REDUCED)
    if is_reduced or is_sketch:
        scale = 8 if is_sketch else next(s for s in (2, 4, 8) if columns * rows <= MOST_PIXELS * s**2)
        image.draft(None, (max(1, columns // scale), max(1, rows // scale)))
    with _one_large if columns * rows > _LARGE_PIXELS else nullcontext():
        converted, more = to_rgb(image, is_sketch)
    return Picture(converted, frozenset(kinds | more), mode, image.format or "", (columns, rows))


_one_large = threading.Lock()


def _tiles(image: Any) -> Any:
    from PIL import ImageFile

    return image.tile if isinstance(image, ImageFile.ImageFile) else ()


def _orientation(image: Any) -> int:
    """EXIF's number of how the image lies, 1 to 8; 1 for upright, and where there is none that can be read."""
    try:
        number = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata come from anywhere
        return 1
    return number if number in range(1, 9) else 1


def _turned(image: Any, orientation: int) -> Any:
    from PIL.Image import Transpose

    steps = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(steps[orientation]) if orientation in steps else image


def _on_white(image: Any, alpha: Any) -> Any:
    from PIL import Image

    page = Image.new("RGB", image.size, (255, 255, 255))
    page.paste(image, mask=alpha)
    return page


def _from_deep(image: Any, is_16_bit: bool) -> Any:
    """Grey of 16 or 32 bits, or of real numbers, in RGB."""
    from PIL import Image

    shades_HW = np.asarray(image)
    low, high = (0.0, 65535.0) if is_16_bit else _range_of(shades_HW, is_real=image.mode == "F")
    scaled_HW = (np.nan_to_num(shades_HW.astype(np.float64), nan=low, posinf=high, neginf=low) - low) / (high - low)
    bytes_HW = np.rint(scaled_HW.clip(0, 1) * 255).astype(np.uint8)
    transparent = image.info.get("transparency")
    page = Image.fromarray(bytes_HW).convert("RGB")
    if isinstance(transparent, int):
        mask = Image.fromarray(np.where(shades_HW == transparent, 255, 0).astype(np.uint8))
        page.paste((255, 255, 255), mask=mask)
    return page


def _range_of(shades_HW: npt.NDArray[Any], is_real: bool) -> tuple[float, float]:
    """What is black and what is white: a usual range that holds all shades, else the darkest and the brightest."""
    finite = shades_HW[np.isfinite(shades_HW)] if is_real else shades_HW
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    usual = next((white for white in ((1.0, 255.0, 65535.0) if is_real else (255.0, 65535.0)) if high <= white), None)
    if low >= 0 and usual is not None:
        return 0.0, usual
    return low, max(high, low + 1.0)


def _from_lab(image: Any) -> Any:
    from PIL import ImageCms

    return ImageCms.profileToProfile(
        image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )


@cache
def _formats() -> tuple[str, ...]:
    """The formats that can be read here, HEIC among them where the package for it is installed."""
    from PIL import Image

    if find_spec("pillow_heif") is not None:
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _refusal(file: Any, error: Exception) -> Refusal:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return Refusal(TOO_LARGE, str(error))
    header = _header(file)
    if header == b"":
        return Refusal(EMPTY)
    if header is not None and header[4:8] == b"ftyp" and header[8:12] in _PLUGINS:
        name, package = _PLUGINS[header[8:12]]
        if isinstance(error, UnidentifiedImageError):
            return Refusal(f"{name} files, which `pip install {package}` lets be read")
    if isinstance(error, UnidentifiedImageError):
        return Refusal(NO_IMAGE)
    message = str(error) or type(error).__name__
    return Refusal(TRUNCATED if "truncated" in message.lower() else DAMAGED, message)


def _header(file: Any) -> bytes | None:
    """The first bytes; None where nothing can be read at all."""
    try:
        if isinstance(file, io.IOBase):
            file.seek(0)
            header = bytes(file.read(16))
            file.seek(0)
            return header
        with open(file, "rb") as contents:
            return contents.read(16)
    except (OSError, ValueError, TypeError):
        return None
