"""How strongly a LoRA changes each module, in memory that does not follow from its size. Needs numpy.

Theory of operation
-------------------
The norm of B A is wanted, and B A is the largest of the three. Its square is trace((A A^T)(B^T B)): two matrices of
[rank, rank], however many features there are. B^T B sums up as B comes, row by row. A A^T needs all rows of a column at
once, and A comes row by row too; so as many columns are kept as fit into a block, and where that is not all of them, A
is unpacked once more from a copy of the stream. Only a small pair is taken into memory whole.
"""

import io
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from crynux_async.archive.lora import LoraModule
from crynux_async.archive.raw_numbers import numbers, to_float32
from crynux_async.archive.safetensors import WIDTHS, TensorInfo
from crynux_async.archive.zip_members import PIECE_BYTES, MemberStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FLOAT32_BYTES = 4
_SMALL_BYTES = 1 << 20  # as float32; in float64, with all that is between, it is some twelve times as much
_BLOCK_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20
_MOST_RANK = 1024


@attrs.frozen(kw_only=True)
class Norms:
    """How strongly the LoRA changes the UNet: Frobenius norms of (alpha / rank) B A, >= 0.

    NaN where a weight is not finite.

    Attributes:
        modules: By module path.
        blocks: By part of the UNet: root of the sum of its modules' squares.
        total: Root of the sum of all squares.
    """

    modules: Mapping[str, float]
    blocks: Mapping[str, float]
    total: float


def collect_norms(modules: Mapping[str, LoraModule], norms: Mapping[str, float]) -> Norms:
    """Sum norms up by block.

    Args:
        modules: The modules by name.
        norms: The norm of each of them.

    Returns:
        All three views, in the order of ``modules``.
    """
    squares: dict[str, list[float]] = {}
    for name, module in modules.items():
        squares.setdefault(module.block, []).append(norms[name])
    return Norms(
        modules=MappingProxyType({name: norms[name] for name in modules}),
        blocks=MappingProxyType({block: math.hypot(*parts) for block, parts in squares.items()}),
        total=math.hypot(*norms.values()),
    )


def module_norm(
    module: LoraModule,
    pair: tuple[tuple[str, TensorInfo], tuple[str, TensorInfo]],
    begin: int,
    stream: MemberStream,
    file: io.FileIO,
) -> float:
    """Return the norm of (alpha / rank) B A of one module, and move a stream past its two tensors.

    Args:
        module: The module.
        pair: Its two tensors, in the order in which they come.
        begin: Where the bytes of all tensors begin, in bytes, >= 0.
        stream: What gives their bytes; it must not have passed them. What lies in front of them is passed over.
        file: The archive, open for reading.

    Returns:
        The norm, >= 0, or NaN where a weight is not a finite number.

    Raises:
        ValueError: The rank is too large for this, or the bytes cannot be read.
    """
    if module.rank > _MOST_RANK:
        raise ValueError(f"{module.name} has rank {module.rank}, and norms() is for ranks up to {_MOST_RANK}")
    if all(_FLOAT32_BYTES * info.parameters <= _SMALL_BYTES for _, info in pair):
        arrays = {}
        for name, info in pair:
            stream.skip(file, begin + info.offset_bytes)
            arrays[name] = to_float32(tensor_pieces(stream, file, info), info)
        return module.scale * update_norm(arrays[module.down], arrays[module.up])
    grams = {}
    for name, info in pair:
        stream.skip(file, begin + info.offset_bytes)
        grams[name] = (_gram_of_down if name == module.down else _gram_of_up)(stream, file, info)
    return module.scale * _root(_inner(grams[module.down], grams[module.up]))


def tensor_pieces(stream: MemberStream, file: io.FileIO, info: TensorInfo) -> Iterator[bytes]:
    """Yield a tensor's bytes, which come next, in pieces of at most 256 KiB and of whole numbers."""
    left = info.size_bytes
    while left:
        data = stream.exactly(file, min(left, PIECE_BYTES))
        left -= len(data)
        yield data


def update_norm(down: "NDArray[np.float32]", up: "NDArray[np.float32]") -> float:
    """Return the Frobenius norm of B A, without forming the product where that is the larger way.

    Args:
        down: A, float32 [rank, in_features] or [rank, in_channels, height, width].
        up: B, float32 [out_features, rank] or [out_channels, rank, 1, 1].

    Returns:
        The norm, >= 0, or NaN where a weight is not a finite number.
    """
    import numpy as np

    with np.errstate(all="ignore"):  # also of the widening: a signalling NaN makes it a warning
        # Products of the two Gram matrices cancel each other: in float32 a small norm would drown in rounding.
        a = down.reshape(len(down), -1).astype(np.float64)
        b = up.reshape(len(up), -1).astype(np.float64)
        # The smaller of the two ways: [rank, rank] twice, or the product itself.
        if len(a) < min(a.shape[1], len(b)):
            return _root(_inner(a @ a.T, b.T @ b))
        return _root(float(np.sum(np.square(b @ a))))


def _inner(left: "NDArray[np.float64]", right: "NDArray[np.float64]") -> float:
    import numpy as np

    with np.errstate(all="ignore"):
        return float(np.vdot(left, right))


def _root(square: float) -> float:
    # Rounding can leave a trace of zero slightly below it.
    return math.sqrt(max(square, 0.0)) if math.isfinite(square) else math.nan


def _gram_of_down(stream: MemberStream, file: io.FileIO, info: TensorInfo) -> "NDArray[np.float64]":
    """Return A A^T of [rank, rank], unpacking A once for each block of its columns."""
    import numpy as np

    rank = info.shape[0]
    columns = info.parameters // rank
    width = max(1, _BLOCK_BYTES // (_FLOAT32_BYTES * rank))
    gram = np.zeros((rank, rank))
    for begin in range(0, columns, width):
        is_last = begin + width >= columns
        # The last block moves the stream itself on; the ones before it read ahead on copies.
        block = _read_columns(stream if is_last else stream.copy(), file, info, begin, min(begin + width, columns))
        _add_gram(gram, block.T)
    return gram


def _gram_of_up(stream: MemberStream, file: io.FileIO, info: TensorInfo) -> "NDArray[np.float64]":
    """Return B^T B of [rank, rank], some rows of B at a time."""
    import numpy as np

    rows, rank = info.shape[:2]
    width = WIDTHS[info.dtype]
    gram = np.zeros((rank, rank))
    at_once = max(1, _CHUNK_BYTES // (2 * _FLOAT32_BYTES * rank))
    for begin in range(0, rows, at_once):
        count = min(at_once, rows - begin)
        data = stream.exactly(file, count * rank * width)
        _add_gram(gram, numbers(data, info.dtype).reshape(count, rank))
    return gram


def _add_gram(gram: "NDArray[np.float64]", rows: "NDArray[np.floating]") -> None:
    """Add X^T X to ``gram``, some rows of X at a time, in float64."""
    import numpy as np

    at_once = max(1, _CHUNK_BYTES // (2 * _FLOAT32_BYTES * len(gram)))
    with np.errstate(all="ignore"):
        for begin in range(0, len(rows), at_once):
            some = rows[begin : begin + at_once].astype(np.float64)
            gram += some.T @ some


def _read_columns(
    stream: MemberStream, file: io.FileIO, info: TensorInfo, begin: int, end: int
) -> "NDArray[np.float32]":
    """Return columns ``begin`` to ``end`` of A, and move the stream past all of it."""
    import numpy as np

    rank, width = info.shape[0], WIDTHS[info.dtype]
    columns = info.parameters // rank
    if end - begin == columns:
        return to_float32(tensor_pieces(stream, file, info), info).reshape(rank, columns)
    block = np.empty((rank, end - begin), np.float32)
    start = stream.position
    for row in range(rank):
        stream.read_on(file, start + width * (row * columns + begin))
        for part in _spans(begin, end, PIECE_BYTES // width):
            data = stream.exactly(file, width * (part.stop - part.start))
            block[row, part.start - begin : part.stop - begin] = numbers(data, info.dtype)
    stream.read_on(file, start + info.size_bytes)
    return block


def _spans(begin: int, end: int, longest: int) -> Iterator[slice]:
    for start in range(begin, end, longest):
        yield slice(start, min(start + longest, end))
