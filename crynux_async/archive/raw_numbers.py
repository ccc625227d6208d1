"""A tensor's numbers as they stand in a file: widened with numpy, or looked at without it.

Numbers are little-endian on every machine.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from crynux_async.archive.safetensors import WIDTHS, TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def to_float32(pieces: Iterable[bytes], info: TensorInfo) -> "NDArray[np.float32]":
    """Return a tensor's numbers as a numpy array; bfloat16 and float16 are widened without loss.

    Args:
        pieces: The tensor's bytes, each piece of whole numbers.
        info: What the header says about it.

    Returns:
        float32 array of ``info.shape``, writable, sharing no memory with ``pieces``.

    Raises:
        ImportError: When numpy is not installed.
    """
    import numpy as np

    flat = np.empty(info.parameters, np.float32)
    filled = 0
    for piece in pieces:
        count = len(piece) // WIDTHS[info.dtype]
        flat[filled : filled + count] = numbers(piece, info.dtype)
        filled += count
    return flat.reshape(info.shape)


def numbers(data: bytes, dtype: str) -> "NDArray[Any]":
    """Return whole numbers' bytes as a numpy array of one dimension, which may share memory with them.

    Args:
        data: The bytes.
        dtype: "F32", "F16" or "BF16".

    Returns:
        float32, or float16 for "F16".
    """
    import numpy as np

    if dtype == "BF16":
        # bfloat16 is the upper half of float32.
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, "<f2" if dtype == "F16" else "<f4")


def is_zero(data: bytes, dtype: str) -> bool:
    """Tell whether every number is 0.0 or -0.0.

    Args:
        data: Whole numbers' bytes.
        dtype: "F32", "F16" or "BF16".

    Returns:
        True also for no numbers at all.
    """
    if data == bytes(len(data)):
        return True
    width = WIDTHS[dtype]
    # -0.0 is its sign bit and nothing else, so every byte but the highest must be zero.
    if any(data[index::width].strip(b"\0") for index in range(width - 1)):
        return False
    return not data[width - 1 :: width].translate(None, b"\x00\x80")


# Each table maps a byte to 1 or 0; ANDed over the bytes of a number they find its class. In float32 and bfloat16 the
# exponent is 7 bits of the highest byte and 1 bit of the next, in float16 it is 5 bits of the highest byte.
_EXPONENT_FULL_7 = bytes(int(byte & 0x7F == 0x7F) for byte in range(256))
_EXPONENT_FULL_5 = bytes(int(byte & 0x7C == 0x7C) for byte in range(256))
_TOP_BIT = bytes(byte >> 7 for byte in range(256))
_LOW_7_BITS = bytes(int(byte & 0x7F != 0) for byte in range(256))
_LOW_2_BITS = bytes(int(byte & 0x03 != 0) for byte in range(256))
_ANY_BIT = bytes(int(byte != 0) for byte in range(256))
_SUSPECTS_5 = bytes(byte for byte in range(256) if byte & 0x7C == 0x7C)


def count_not_finite(data: bytes, dtype: str) -> tuple[int, int]:
    """Count the numbers that are NaN and those that are infinite.

    Ordinary weights are cleared by one look at their highest bytes; only where one of those has a full exponent are
    the numbers taken apart, all at once in integers as long as the data.

    Args:
        data: Whole numbers' bytes.
        dtype: "F32", "F16" or "BF16".

    Returns:
        (NaN, infinite).

    Source: IEEE 754-2019 section 3.4: the exponent's bits are all ones, and the fraction is zero only for infinities.
    """
    width = WIDTHS[dtype]
    top = data[width - 1 :: width]
    if dtype == "F16":
        if len(top.translate(None, _SUSPECTS_5)) == len(top):
            return 0, 0
        full = _flags(top, _EXPONENT_FULL_5)
        fraction = _flags(top, _LOW_2_BITS) | _flags(data[::2], _ANY_BIT)
    else:
        if b"\x7f" not in top and b"\xff" not in top:
            return 0, 0
        second = data[width - 2 :: width]
        full = _flags(top, _EXPONENT_FULL_7) & _flags(second, _TOP_BIT)
        fraction = _flags(second, _LOW_7_BITS)
        for index in range(width - 2):
            fraction |= _flags(data[index::width], _ANY_BIT)
    nan = (full & fraction).bit_count()
    return nan, full.bit_count() - nan


def _flags(data: bytes, table: bytes) -> int:
    return int.from_bytes(data.translate(table), "little")
