"""Archives for tests: real ones, ones made by hand, and ones that lie."""

import json
import math
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.archive import ArchiveLimits, LoraArchive, verify_archive
from crynux_async.errors import ArchiveError

RESULT = Path(__file__).parent / "data" / "archive" / "result.zip"
UNFINISHED = Path(__file__).parent / "data" / "archive" / "checkpoint_unfinished.zip"
WEIGHTS = "pytorch_lora_weights.safetensors"

Tensor = tuple[str, list[int], bytes]


def f32(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def bf16(*numbers: float) -> bytes:
    return b"".join(struct.pack("<f", number)[2:] for number in numbers)


def f16(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}e", *numbers)


PACK: Mapping[str, Callable[..., bytes]] = {"F32": f32, "BF16": bf16, "F16": f16}


def lora_bytes(tensors: Mapping[str, Tensor], header: Mapping[str, Any] | None = None) -> bytes:
    """A safetensors file, its header replaced where one is given."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    raw = json.dumps(entries if header is None else header).encode()
    return len(raw).to_bytes(8, "little") + raw + b"".join(data for _, _, data in tensors.values())


def pair(
    module: str = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
    *,
    rank: int = 2,
    dtype: str = "F32",
    style: str = "lora.down lora.up",
    down: Sequence[float] = (1.0, -2.0, 3.0, 0.5, 0.25, -1.5),
    up: Sequence[float] = (2**-6, 2**-5, -3 * 2**-6, 2**-9),
    kernel: Sequence[int] = (),
) -> dict[str, Tensor]:
    """Both tensors of one module; the numbers decide about its features."""
    a, b = style.split()
    columns = len(down) // rank // math.prod(kernel)
    pack = PACK[dtype]
    return {
        f"unet.{module}.{a}.weight": (dtype, [rank, columns, *kernel], pack(*down)),
        f"unet.{module}.{b}.weight": (dtype, [len(up) // rank, rank, *(1 for _ in kernel)], pack(*up)),
    }


def members(tensors: Mapping[str, Tensor] | None = None, *, step: str | None = "10", finished: bool = True) -> Any:
    files = {WEIGHTS: lora_bytes(pair() if tensors is None else tensors), "optimizer.bin": b"state of the optimizer"}
    if step is not None:
        files["global_step.txt"] = step.encode()
    if finished:
        files["FINISH"] = b""
    return files


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@attrs.frozen(kw_only=True)
class Raw:
    """One member of a ZIP that may lie about anything; what is None is told truly."""

    name: bytes = b"FINISH"
    data: bytes = b""
    packed: bytes | None = None
    method: int = 0
    flags: int = 0
    version: int = 20
    crc: int | None = None
    size: int | None = None
    packed_size: int | None = None
    attributes: int = (stat.S_IFREG | 0o644) << 16
    extra: bytes = b""
    comment: bytes = b""
    offset: int | None = None
    local: Mapping[str, Any] = {}
    hidden: bool = False
    gap: bytes = b""

    def told(self) -> tuple[int, int, int]:
        packed = self.data if self.packed is None else self.packed
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        return (
            crc,
            len(packed) if self.packed_size is None else self.packed_size,
            len(self.data) if self.size is None else self.size,
        )

    def local_header(self) -> bytes:
        said = attrs.evolve(self, **self.local)
        fixed = (b"PK\3\4", said.version, said.flags, said.method, 0, 33, *said.told(), len(said.name), len(said.extra))
        return struct.pack("<4s5H3L2H", *fixed) + said.name + said.extra

    def central_header(self, offset: int) -> bytes:
        lengths = (len(self.name), len(self.extra), len(self.comment), 0, 0)
        where = offset if self.offset is None else self.offset
        fixed = (b"PK\1\2", 0x0314, self.version, self.flags, self.method, 0, 33, *self.told(), *lengths)
        return struct.pack("<4s6H3L5H2L", *fixed, self.attributes, where) + self.name + self.extra + self.comment


def raw_zip(*entries: Raw, prefix: bytes = b"", count: int | None = None, end: bytes | None = None) -> bytes:
    body, directory = bytearray(prefix), b""
    for entry in entries:
        directory += entry.central_header(len(body))
        if not entry.hidden:
            body += entry.local_header() + (entry.data if entry.packed is None else entry.packed) + entry.gap
    total = len(entries) if count is None else count
    tail = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, total, total, len(directory), len(body), 0) if end is None else end
    return bytes(body) + directory + tail


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def truth() -> list[Raw]:
    """Members that are fine, for a hostile one to stand beside."""
    return [Raw(name=name.encode(), data=data) for name, data in members().items()]


def zip64(
    *entries: Raw, total: int | None = None, gap: bytes = b"", short: tuple[int, int, int] | None = None
) -> bytes:
    """A ZIP with a ZIP64 end record, as for more than 65,535 members or 4 GiB."""
    body = b""
    directory = b""
    for entry in entries:
        directory += entry.central_header(len(body))
        body += entry.local_header() + entry.data
    count = len(entries) if total is None else total
    record = (b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), len(body))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(directory) + len(gap), 1)
    few, length, start = short or (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, few, few, length, start, 0)
    return body + directory + gap + struct.pack("<4sQ2H2L4Q", *record) + locator + end


def refuse(folder: Path, data: bytes, match: str, limits: ArchiveLimits | None = None) -> str:
    """Write bytes, and make sure that opening and verifying them fails typed and leaves nothing behind."""
    path = folder / "inside" / "bad.zip"
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=match) as caught:
        verify_archive(path, limits=limits or ArchiveLimits())
    assert str(caught.value).startswith(f"{path}: ")
    assert list(folder.rglob("*")) == [path.parent, path]
    return str(caught.value)


def open_with(folder: Path, tensors: Mapping[str, Tensor] | None = None, **options: Any) -> LoraArchive:
    """Open an archive made of these tensors."""
    number = len(list(folder.iterdir()))
    return LoraArchive.open(write_zip(folder / f"{number}.zip", members(tensors, **options)))


@attrs.frozen(kw_only=True)
class Asked:
    rank: int = 2
    target_modules: str | tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")
    max_train_steps: int | None = 10


def of_kinds(*kinds: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for kind in kinds:
        tensors |= pair(f"mid_block.attentions.0.transformer_blocks.0.attn1.{kind}")
    return tensors


ALL_FOUR = ("to_k", "to_q", "to_v", "to_out.0")


GOOD = json.loads(lora_bytes(pair())[8:].split(b"}}")[0] + b"}}")
DOWN, UP = pair()
