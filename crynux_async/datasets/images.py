"""Opening one image the way a node does, without trusting it.

Source: datasets 3.1.0 features/image.py (decode_example: load, then EXIF orientation); Pillow 10.0.1, which nodes run.
"""

import importlib
import io
from types import ModuleType
from typing import Any, Final

import attrs

from crynux_async.errors import UsageError

# Formats whose decoders are plain code; MPO is opened as JPEG. EPS and WMF would start other programs; AVIF is unknown
# to the nodes' Pillow.
_FORMATS: Final = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "DIB",
    "GIF",
    "TIFF",
    "JPEG2000",
    "PPM",
    "TGA",
    "ICO",
    "PCX",
    "SGI",
)
_ORIENTATION: Final = 0x0112
_TURNED: Final = (5, 6, 7, 8)
_DEEP_MODES: Final = ("I", "F")

NODE_PIXELS: Final = 178_956_970
"""Pixels above which Pillow refuses an image: twice its MAX_IMAGE_PIXELS."""


@attrs.frozen(kw_only=True)
class ImageFacts:
    """What is known of an image file.

    Attributes:
        width: Pixels, after the camera's orientation is applied; 0 when it could not be opened.
        height: Pixels, likewise.
        format: Pillow's name of the format, such as ``PNG``, or ``""``.
        is_transparent: Some pixel is not opaque.
        is_deep: It has more than 8 bits a channel.
        is_too_large: It has more pixels than allowed, and was not decoded.
        fault: Why it could not be opened, or ``""``.
    """

    width: int = 0
    height: int = 0
    format: str = ""
    is_transparent: bool = False
    is_deep: bool = False
    is_too_large: bool = False
    fault: str = ""


def pillow() -> ModuleType:
    """Import Pillow.

    Returns:
        The module ``PIL.Image``.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module("PIL.Image")
    except ImportError as error:
        raise UsageError("checking images needs Pillow: pip install 'crynux-async[datasets]'") from error


def look_at(data: bytes, *, pixels: int = NODE_PIXELS) -> ImageFacts:
    """Open and decode an image completely.

    Args:
        data: The file's content.
        pixels: The largest image that is decoded, in pixels, >= 1.

    Returns:
        The facts, with ``fault`` or ``is_too_large`` set when it cannot be used.
    """
    module: Any = pillow()
    try:
        with module.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > pixels:
                size = {"width": image.width, "height": image.height}
                return ImageFacts(**size, format=image.format, is_too_large=True)
            image.verify()  # checks what load() does not, such as a PNG's checksums; the file must be opened again then
        with module.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.load()
            return _facts(image)
    except module.DecompressionBombError:
        return ImageFacts(is_too_large=True)
    # Decoders of damaged files raise almost anything: OSError, SyntaxError, ValueError, struct.error, IndexError ...
    except Exception as error:
        return ImageFacts(fault=_reason(error))


def _facts(image: Any) -> ImageFacts:
    width, height = image.size
    if image.getexif().get(_ORIENTATION) in _TURNED:
        width, height = height, width
    return ImageFacts(
        width=width,
        height=height,
        format=image.format,
        is_transparent=_is_transparent(image),
        is_deep=image.mode in _DEEP_MODES or image.mode.startswith("I;16"),
    )


def _is_transparent(image: Any) -> bool:
    if "A" in image.getbands():
        return bool(image.getchannel("A").getextrema()[0] < 255)
    return "transparency" in image.info


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is not an image, or not one in a common format"
    return (str(error) or type(error).__name__).partition("\n")[0]
