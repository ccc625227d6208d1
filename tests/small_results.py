"""Results in memory: the smallest archive that is a good one, and a stream over it."""

import asyncio
import io
import json
import struct
import zipfile
from collections.abc import AsyncIterator

from crynux_async.backends.base import Validator


class FakeResult:
    """A result stream over bytes in memory."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = data
        self.start = start
        self.validator = Validator(last_modified="Thu, 01 Jan 2026 00:00:00 GMT", total_bytes=len(data))

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        for offset in range(self.start, len(self._data), chunk_bytes):
            await asyncio.sleep(0)
            yield self._data[offset : offset + chunk_bytes]


def make_archive(*, rank: int = 4, size: int = 8, extra_bytes: int = 0) -> bytes:
    """Return a result archive with one LoRA pair, as small as a good one can be."""
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.lora"
    count = rank * size
    header = json.dumps(
        {
            f"{module}.down.weight": {"dtype": "F32", "shape": [rank, size], "data_offsets": [0, 4 * count]},
            f"{module}.up.weight": {"dtype": "F32", "shape": [size, rank], "data_offsets": [4 * count, 8 * count]},
        }
    ).encode()
    weights = struct.pack("<Q", len(header)) + header + struct.pack(f"<{2 * count}f", *[0.5] * (2 * count))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("pytorch_lora_weights.safetensors", weights)
        archive.writestr("optimizer.bin", b"\0" * extra_bytes)
        archive.writestr("global_step.txt", "100")
        archive.writestr("FINISH", "")
    return file.getvalue()
