"""A LoRA in safetensors format, invented from a seed.

The numbers have the shape of a normal distribution: the two high bytes of each float come from a table of quantiles,
the two low ones are random. Doing that byte plane by byte plane keeps megabytes of floats out of Python's loops.

Source: huggingface/safetensors README (format); safetensors serialize (tensors by name, header padded to 8 bytes).
"""

import json
import math
import random
import struct
from collections.abc import Iterable, Iterator
from statistics import NormalDist
from typing import Literal

import attrs

from crynux_async.emulator.nodes.unet import Module, Shape

Condition = Literal["trained", "untrained", "nan"]
Dtype = Literal["F32", "BF16"]

# Trained ``up`` tensors start at zero and stay small.
_UP_SCALE = 1e-3
_NAN = struct.pack("<f", math.nan)
_LEVELS = 256


@attrs.frozen(kw_only=True)
class Lora:
    """What a LoRA file is to contain.

    Attributes:
        modules: The layers that it adapts.
        rank: Its rank, >= 1.
        dtype: The type of all tensors.
        seed: Equal seeds give equal numbers.
        condition: "untrained" has only zeros in the ``up`` tensors, "nan" has no number in any.
    """

    modules: tuple[Module, ...]
    rank: int
    dtype: Dtype
    seed: str
    condition: Condition = "trained"

    @property
    def tensors(self) -> list[tuple[str, Shape]]:
        """Name and shape of every tensor, in the order of the file."""
        return sorted(tensor for module in self.modules for tensor in module.tensors(self.rank))

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(math.prod(shape) for _, shape in self.tensors) * self._item_bytes

    @property
    def _item_bytes(self) -> int:
        return 4 if self.dtype == "F32" else 2

    def header(self) -> bytes:
        """Return the file up to the first tensor."""
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, shape in self.tensors:
            end = offset + math.prod(shape) * self._item_bytes
            entries[name] = {"dtype": self.dtype, "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text

    def pieces(self) -> Iterator[bytes]:
        """Yield the file in pieces of at most some hundred kilobytes."""
        yield self.header()
        source = random.Random(self.seed)  # noqa: S311
        tables = {True: _tables(_UP_SCALE), False: _tables(1.0 / self.rank)}
        for name, shape in self.tensors:
            is_up = name.endswith(("lora.up.weight", "lora_B.weight"))
            for count in _batches(math.prod(shape)):
                yield self._numbers(source, tables[is_up], count, is_up=is_up)

    def _numbers(self, source: random.Random, tables: list[bytes], count: int, *, is_up: bool) -> bytes:
        width = self._item_bytes
        if self.condition == "nan":
            return _NAN[4 - width :] * count  # a BF16 is the upper half of an F32
        if self.condition == "untrained" and is_up:
            return bytes(width * count)
        planes = [source.randbytes(count) for _ in range(width - 1)]
        # One random byte chooses the quantile, whose two high bytes stand in the tables.
        level = planes[-1]
        planes[-1:] = [level.translate(table) for table in tables]
        data = bytearray(width * count)
        for index, plane in enumerate(planes):
            data[index::width] = plane
        return bytes(data)


def _batches(count: int, largest: int = 1 << 16) -> Iterable[int]:
    for start in range(0, count, largest):
        yield min(largest, count - start)


def _tables(scale: float) -> list[bytes]:
    normal = NormalDist(sigma=scale)
    values = [struct.pack("<f", normal.inv_cdf((level + 0.5) / _LEVELS)) for level in range(_LEVELS)]
    return [bytes(value[byte] for value in values) for byte in (2, 3)]
