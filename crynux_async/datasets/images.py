"""Opening one image the way a node does, without trusting it.

A node opens, loads, turns and converts an image with Pillow 10.0.1. The same is done here with the Pillow that is
installed, which may be newer: what only newer ones can open is told apart.

Source: datasets 3.1.0 features/image.py (decode_example: load, then EXIF orientation); stable-diffusion-task
finetune_lora.py (convert("RGB")); Pillow 10.0.1, which nodes run.
"""

import importlib
import io
import re
import warnings
from types import ModuleType
from typing import Any, Final

import attrs

from crynux_async.errors import UsageError

# What Pillow 10.0.1 can open, in the order in which it tries. Left out is what it recognises and cannot load on a
# node: EPS and WMF need other programs, BUFR, GRIB, HDF5 and MPEG have no decoder.
_FORMATS: Final = (
    "BMP DIB GIF JPEG PPM PNG BLP CUR PCX DCX DDS FITS FLI FTEX GBR JPEG2000 ICNS ICO IM IMT IPTC MCIDAS TIFF MSP PCD "
    "PIXAR PSD QOI SGI SPIDER SUN TGA WEBP XBM XPM XVTHUMB"
)
_ORIENTATION: Final = 0x0112
_TURNED: Final = (5, 6, 7, 8)
_DEEP_MODES: Final = ("I", "F")
_PLAIN_MODES: Final = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"))

_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS, _TIFF_COMPRESSION, _TIFF_PHOTOMETRIC, _TIFF_EXTRA = 256, 257, 258, 259, 262, 338
_RAW, _YCBCR = 1, 6
_NEWER_COMPRESSIONS: Final = {50000: "Zstandard", 50001: "WebP"}
# Photometric interpretation, bits and extra samples that Pillow has learned since: TiffImagePlugin.OPEN_INFO.
_NEWER_LAYOUTS: Final = frozenset(((1, (8, 8), (0,)), (1, (8, 8), (1,)), (3, (8, 8), (0,)), (6, (8,), ())))

_OTHER_KINDS: Final = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), what)
    for pattern, what in (
        (rb"\Z", "the file is empty"),
        (rb"version https://git-lfs", "it is a pointer of Git LFS and not the image: `git lfs pull` gets it"),
        (rb"....ftyp(avif|avis)", "it is AVIF, which nodes do not open"),
        (rb"....ftyp", "it is HEIC or a video, which nodes do not open"),
        (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<svg", "it is SVG, which nodes do not open"),
        (rb"\s*<(!doctype|html|\?xml|head|body)", "it is a web page"),
        (rb"%PDF", "it is a PDF"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "it is EPS, which nodes cannot draw"),
        (rb"\xff\x0a|\0\0\0\x0cJXL ", "it is JPEG XL, which nodes do not open"),
    )
)

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
    """Open, load, turn and convert an image as a node does.

    Args:
        data: The file's content.
        pixels: The largest image that is decoded, in pixels, >= 1.

    Returns:
        The facts, with ``fault`` or ``is_too_large`` set when it cannot be used.
    """
    module: Any = pillow()
    with warnings.catch_warnings():
        # Pillow warns of what it can read all the same; where warnings are made errors, the answer must not change.
        warnings.simplefilter("ignore")
        try:
            with module.open(io.BytesIO(data), formats=_known_formats(module)) as image:
                # Before a pixel is decoded: a few kilobytes can announce gigabytes.
                if image.width * image.height > pixels:
                    size = {"width": image.width, "height": image.height}
                    return ImageFacts(**size, format=image.format, is_too_large=True)
                fault = _newer(image, data)
                return ImageFacts(fault=fault) if fault else _facts(image)
        except module.DecompressionBombError:
            return ImageFacts(is_too_large=True)
        # Decoders of damaged files raise almost anything: OSError, SyntaxError, ValueError, struct.error, IndexError.
        except Exception as error:
            return ImageFacts(fault=_reason(error, data))


def _known_formats(module: Any) -> list[str]:
    # A format that this Pillow has lost would be a KeyError of open().
    module.init()
    return [form for form in _FORMATS.split() if form in module.OPEN]


def _facts(image: Any) -> ImageFacts:
    as_stored = _turned_twice(image)
    image.load()
    form, mode = image.format, image.mode
    is_transparent = _is_transparent(image)
    size = _turned(image)
    width, height = as_stored or size
    return ImageFacts(
        width=width,
        height=height,
        format=form,
        is_transparent=is_transparent,
        is_deep=mode in _DEEP_MODES or mode.startswith("I;16"),
    )


def _turned(image: Any) -> tuple[int, int]:
    """The size on a node, after everything is done that could fail there."""
    whole = image
    if image.getexif().get(_ORIENTATION) is not None:
        whole = importlib.import_module("PIL.ImageOps").exif_transpose(image)
    # From a plain mode the conversion cannot fail, and takes its time.
    if whole.mode not in _PLAIN_MODES:
        whole.convert("RGB")
    width, height = whole.size
    return width, height


def _turned_twice(image: Any) -> tuple[int, int] | None:
    # Pillow 10.0.1 turns a TIFF when it is loaded, and once more when it is asked to: it ends with its stored size.
    if image.format != "TIFF" or image.tag_v2.get(_ORIENTATION) not in _TURNED:
        return None
    return image.tag_v2[_TIFF_WIDTH], image.tag_v2[_TIFF_HEIGHT]


def _newer(image: Any, data: bytes) -> str:
    if image.format == "PPM" and data.startswith(b"Pf"):
        return "nodes cannot read a grey PFM"
    return _newer_tiff(image) if image.format == "TIFF" else ""


def _newer_tiff(image: Any) -> str:
    tags = image.tag_v2
    compression, photometric = tags.get(_TIFF_COMPRESSION, _RAW), tags.get(_TIFF_PHOTOMETRIC, 0)
    bits, extra = tags.get(_TIFF_BITS, (1,)), tags.get(_TIFF_EXTRA, ())
    if compression in _NEWER_COMPRESSIONS:
        return f"nodes cannot read a TIFF with {_NEWER_COMPRESSIONS[compression]} compression"
    if compression == _RAW and getattr(image, "n_frames", 1) > 1:
        return "nodes cannot read a TIFF of several pages without compression"
    if (compression == _RAW and photometric == _YCBCR) or (photometric, bits, extra) in _NEWER_LAYOUTS:
        return "nodes cannot read a TIFF with channels of this kind"
    return ""


def _is_transparent(image: Any) -> bool:
    if "A" in image.getbands():
        # An alpha channel that is opaque everywhere changes nothing.
        return bool(image.getchannel("A").getextrema()[0] < 255)
    return "transparency" in image.info


def _reason(error: Exception, data: bytes) -> str:
    if type(error).__name__ != "UnidentifiedImageError":
        return (str(error) or type(error).__name__).partition("\n")[0]
    known = (what for pattern, what in _OTHER_KINDS if pattern.match(data[:512]))
    return next(known, "it is not an image, or not one that nodes can open")
