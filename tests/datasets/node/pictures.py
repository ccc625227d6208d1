"""Image files of every format and every kind of damage, made by whatever Pillow is installed."""

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping

from PIL import Image, TiffImagePlugin

SIDE = 16

_MODES: Mapping[str, tuple[str, ...]] = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("L", "P", "RGB"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "DIB": ("RGB",),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "F", "I;16", "I;16B"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I"),
    "TGA": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "ICO": ("RGB", "RGBA"),
    "ICNS": ("RGBA",),
    "PCX": ("1", "L", "P", "RGB"),
    "SGI": ("L", "RGB", "RGBA"),
    "IM": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "LAB"),
    "MSP": ("1",),
    "SPIDER": ("F",),
    "XBM": ("1",),
    "DDS": ("L", "LA", "RGB", "RGBA"),
    "BLP": ("P",),
    "EPS": ("L", "RGB"),
    "PDF": ("RGB",),
    "QOI": ("RGB", "RGBA"),
    "AVIF": ("RGB",),
    "MPO": ("RGB",),
}


@functools.cache
def good_picture(tone: int = 0) -> bytes:
    """A small PNG; different tones give different content."""
    return _saved(_filled("RGB", tone), "PNG")


@functools.cache
def odd_pictures() -> Mapping[str, bytes]:
    """Image files by what is special about them; all of them might be found under the name of an image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that Pillow will lose
        return _made()


def _made() -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    for form, modes in _MODES.items():
        for mode in modes:
            data = _attempt(lambda form=form, mode=mode: _saved(_filled(mode), form))  # type: ignore[misc]
            if data is not None:
                made[f"{form} {mode}"] = data
    for makers in (_odd_png, _odd_jpeg, _odd_tiff, _others):
        made.update(makers())
    for name in ("PNG RGB", "JPEG RGB", "WEBP RGB", "GIF P", "BMP RGB", "TIFF RGB", "JPEG2000 RGB", "ICO RGBA"):
        made.update(_damaged(name, made[name]))
    return made


def _filled(mode: str, tone: int = 7) -> Image.Image:
    image = Image.new("RGB", (SIDE, SIDE), (tone % 256, 40, 255 - tone % 256))
    for step in range(SIDE):
        image.putpixel((step, (step * 5) % SIDE), (step * 15, 255 - step * 9, tone % 256))
    if mode in {"I;16", "I;16B"}:
        return Image.frombytes(mode, (SIDE, SIDE), bytes(range(256)) * 2)
    if mode == "LAB":
        return Image.frombytes("LAB", (SIDE, SIDE), bytes(range(256)) * 3)
    if mode == "LA":
        return image.convert("RGBA").convert("LA")
    return image.convert(mode)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _attempt(make: Callable[[], bytes]) -> bytes | None:
    try:
        return make()
    except (OSError, KeyError, ValueError):  # this Pillow cannot write it
        return None


def chunk(kind: bytes, data: bytes, *, wrong: bool = False) -> bytes:
    """A chunk of a PNG, its checksum wrong if asked."""
    check = zlib.crc32(kind + data) ^ (1 if wrong else 0)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def _odd_png() -> Iterator[tuple[str, bytes]]:
    data = _saved(_filled("RGB"), "PNG")
    head, rest = data[:33], data[33:]
    end = len(rest) - 12
    for where, before, after in (("first", head, rest), ("last", head + rest[:end], rest[end:])):
        for wrong in (False, True):
            how = "wrong" if wrong else "right"
            yield f"PNG text {where} {how}", before + chunk(b"tEXt", b"Comment\0a cat", wrong=wrong) + after
            yield f"PNG itxt {where} {how}", before + chunk(b"iTXt", b"XML:com\0\0\0\0\0<x/>", wrong=wrong) + after
            packed = b"Key\0\0" + zlib.compress(b"x")
            yield f"PNG ztxt {where} {how}", before + chunk(b"zTXt", packed, wrong=wrong) + after
            yield f"PNG time {where} {how}", before + chunk(b"tIME", b"\x07\xe8\1\1\1\1\1", wrong=wrong) + after
            yield f"PNG unknown {where} {how}", before + chunk(b"abCd", b"x" * 9, wrong=wrong) + after
            yield f"PNG critical {where} {how}", before + chunk(b"ABCD", b"x" * 9, wrong=wrong) + after
            yield f"PNG srgb {where} {how}", before + chunk(b"sRGB", b"", wrong=wrong) + after
            yield f"PNG exif {where} {how}", before + chunk(b"eXIf", b"nonsense", wrong=wrong) + after
            yield f"PNG iccp {where} {how}", before + chunk(b"iCCP", b"x\0\0nonsense", wrong=wrong) + after
    yield "PNG ztxt broken", head + chunk(b"zTXt", b"Key\0\0nonsense") + rest
    yield "PNG ztxt bomb", head + chunk(b"zTXt", b"Key\0\0" + zlib.compress(bytes(2 << 20))) + rest
    yield "PNG wrong header checksum", data[:29] + b"\0\0\0\0" + data[33:]
    yield "PNG wrong data checksum", data[: 33 + end - 4] + b"\0\0\0\0" + data[33 + end :]
    yield "PNG no end", data[:-12]
    yield "PNG no data", head + chunk(b"IEND", b"")
    yield "PNG trailing", data + b"trailing bytes"
    yield "PNG zero width", data[:16] + b"\0\0\0\0" + data[20:]
    wide = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    yield "PNG too many pixels", data[:8] + chunk(b"IHDR", wide) + rest
    wide = struct.pack(">IIBBBBB", 10_000, 10_000, 1, 0, 0, 0, 0)
    yield "PNG many pixels cut off", data[:8] + chunk(b"IHDR", wide) + rest
    for kind in ("RGB", "RGBA", "LA"):
        deep = {"RGB": 2, "RGBA": 6, "LA": 4}[kind]
        width = {"RGB": 6, "RGBA": 8, "LA": 4}[kind] * 4
        pixels = b"".join(b"\0" + bytes(range(width)) for _ in range(4))
        header = struct.pack(">IIBBBBB", 4, 4, 16, deep, 0, 0, 0)
        made = data[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
        yield f"PNG 16-bit {kind}", made
    yield "PNG animated", _saved(_filled("RGB"), "PNG", save_all=True, append_images=[_filled("RGB", 9)])
    paletted = _filled("RGB").quantize(8)
    yield "PNG transparent palette", _saved(paletted, "PNG", transparency=2)
    yield "PNG transparent colour", _saved(_filled("RGB"), "PNG", transparency=(1, 2, 3))
    yield "PNG transparent bytes", _saved(paletted, "PNG", transparency=bytes(range(8)))


def _odd_jpeg() -> Iterator[tuple[str, bytes]]:
    for orientation in (1, 2, 3, 6, 8, 0, 9, 99):
        exif = Image.Exif()
        exif[0x0112] = orientation
        wide = _filled("RGB").resize((SIDE * 2, SIDE))
        for form in ("JPEG", "PNG", "WEBP", "TIFF"):
            yield f"{form} orientation {orientation}", _saved(wide, form, exif=exif.tobytes())
    for kind in range(1, 14):
        entry = struct.pack(">HHI4s", 0x0112, kind, 1, b"\0\6\0\6")
        block = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + entry + bytes(4)
        yield f"JPEG orientation of type {kind}", _saved(_filled("RGB"), "JPEG", exif=block)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Maker"
    exif[0x9286] = b"ASCII\0\0\0hello"
    block = exif.tobytes()
    good = _saved(_filled("RGB"), "JPEG", exif=block)
    at = good.index(b"Exif\0\0") + 6
    for offset in (0, 2, 4, 8, 10, 14, 20, 26, 30, 40):
        broken = bytearray(good)
        broken[at + offset] ^= 0xFF
        yield f"JPEG exif broken at {offset}", bytes(broken)
    yield "JPEG exif cut", _saved(_filled("RGB"), "JPEG", exif=block[:20])
    yield "JPEG progressive", _saved(_filled("RGB"), "JPEG", progressive=True)
    plain = _saved(_filled("RGB"), "JPEG")
    yield "JPEG no end", plain[:-2]
    yield "JPEG trailing", plain + b"x" * 50
    yield "JPEG leading", b"x" + plain
    yield "JPEG leading zeros", b"\0\0" + plain
    segment = b"\xff\xe1\x00\x20Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(18)
    yield "JPEG exif of nothing", plain[:2] + segment + plain[2:]


def _odd_tiff() -> Iterator[tuple[str, bytes]]:
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_adobe_deflate", "zstd", "webp", "lzma"):
        data = _attempt(lambda c=compression: _saved(_filled("RGB"), "TIFF", compression=c))  # type: ignore[misc]
        if data is not None:
            yield f"TIFF {compression}", data
    for compression in ("group3", "group4"):
        yield f"TIFF {compression}", _saved(_filled("1"), "TIFF", compression=compression)
    several = _saved(_filled("RGB"), "TIFF", save_all=True, append_images=[_filled("L")])
    yield "TIFF two pages", several
    lzw = _saved(_filled("RGB"), "TIFF", save_all=True, append_images=[_filled("RGB", 9)], compression="tiff_lzw")
    yield "TIFF two pages LZW", lzw
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = 6
    yield "TIFF turned", _saved(_filled("RGB"), "TIFF", tiffinfo=info)
    yield "TIFF turned deep", _saved(_filled("I;16"), "TIFF", tiffinfo=info)


def _others() -> Iterator[tuple[str, bytes]]:
    yield "GIF animated", _saved(_filled("P"), "GIF", save_all=True, append_images=[_filled("P", 90)])
    yield "GIF transparent", _saved(_filled("P"), "GIF", transparency=3)
    yield "WEBP animated", _saved(_filled("RGB"), "WEBP", save_all=True, append_images=[_filled("RGB", 90)])
    yield "WEBP lossless", _saved(_filled("RGBA"), "WEBP", lossless=True)
    yield "nothing", b""
    yield "text", b"not an image"
    yield "page", b"<!DOCTYPE html><html><body>403 Forbidden</body></html>"
    yield "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    yield "zeros", bytes(2000)
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>'
    yield "HEIC", b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + bytes(200)
    yield "ZIP", b"PK\x03\x04" + bytes(60)
    yield "PPM text", b"P3\n2 1\n255\n1 2 3 4 5 6\n"
    yield "PPM comment", b"P6\n# a comment\n1 1\n255\nabc"
    yield "PPM short", b"P6\n2 2\n255\nabc"
    yield "PPM deep", b"P6\n1 1\n65535\nabcdef"
    yield "PGM deep", b"P5\n2 1\n65535\nabcd"
    yield "PFM", b"PF\n1 1\n-1.0\n" + bytes(12)
    yield "PFM grey", b"Pf\n1 1\n-1.0\n" + bytes(4)
    yield "PAM", b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\nabc"
    yield "XPM", b'/* XPM */\nstatic char *a[] = {\n"2 1 2 1",\n"a c #ff0000",\n"b c #00ff00",\n"ab"};\n'
    yield "XBM", b"#define a_width 8\n#define a_height 1\nstatic char a_bits[] = {\n0x5a};\n"
    yield "FITS", b"SIMPLE  =                    T".ljust(80) + b"END".ljust(80) + bytes(2720)
    yield "PSD short", b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\4\0\0\0\4\0\10\0\3" + bytes(12)
    yield "MPEG", b"\0\0\1\xb3\x01\0\x10" + bytes(100)
    yield "GRIB", b"GRIB\0\0\0\1" + bytes(100)
    yield "BUFR", b"BUFR" + bytes(100)
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(100)
    yield "WMF", b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x10\0\x10\0\x60\0\0\0\0\0\0\0\1\0\x09\0\0\3" + bytes(40)
    yield "EMF", b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(100)
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    yield "SUN", struct.pack(">IIIIIIII", 0x59A66A95, 2, 1, 24, 6, 1, 0, 0) + b"abcdef"
    yield "PIXAR", b"\200\350\000\000" + bytes(1100)
    yield "GBR", struct.pack(">IIIII", 29, 2, 4, 4, 3) + b"GIMP" + struct.pack(">I", 10) + b"x" + bytes(48)


def _damaged(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    for parts in (1, 2, 4, 7, 9):
        yield f"{name} cut at {parts}/10", data[: len(data) * parts // 10]
    for cut in (1, 3, 12, 30):
        yield f"{name} without the last {cut}", data[:-cut]
    for place in (5, 20, 50, 90):
        broken = bytearray(data)
        at = len(data) * place // 100
        broken[at : at + 4] = bytes(byte ^ 0xA5 for byte in broken[at : at + 4])
        yield f"{name} broken at {place} %", bytes(broken)
