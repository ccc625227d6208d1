"""The LoRA inside an archive: its header, and its numbers one after another or one by one.

The safetensors file is read where it is, inside the ZIP, as it is unpacked; it is never written to disk and never held
in memory as a whole. Arrays need numpy, which is imported where they are made; nothing else here does.
"""

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from crynux_async.archive.lora import LoraModule, Norms, collect_norms, pair_modules, update_norm
from crynux_async.archive.safetensors import LENGTH_BYTES, TensorInfo, header_length, parse_header, to_float32
from crynux_async.archive.zip_members import PIECE_BYTES, ArchiveLimits, Member, MemberStream, reading
from crynux_async.errors import ArchiveError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Weights:
    """The LoRA of one archive. Its header is read on creation, numbers when they are asked for.

    Attributes:
        tensors: The tensors by name, in the order of their bytes; unchangeable.
        modules: The trained modules by their path in the UNet; unchangeable.
    """

    __slots__ = ("_begin", "_cursor", "_lock", "_member", "_opened", "_path", "modules", "tensors")

    def __init__(
        self,
        path: Path,
        member: Member,
        opened: Callable[[], AbstractContextManager[io.FileIO]],
        limits: ArchiveLimits,
    ) -> None:
        """Read the header.

        Args:
            path: The archive, for messages.
            member: The safetensors file inside.
            opened: Opens the archive for the length of one access.
            limits: What is accepted.

        Raises:
            ArchiveError: When it is not the header of a UNet LoRA that describes exactly these bytes.
        """
        self._path = path
        self._member = member
        self._opened = opened
        self._lock = threading.Lock()
        self._cursor: MemberStream | None = None
        with reading(path), opened() as file:
            stream = MemberStream(member)
            prefix = stream.exactly(file, LENGTH_BYTES)
            length = header_length(prefix, member.size_bytes, limits.header_bytes)
            self._begin = LENGTH_BYTES + length
            raw = stream.exactly(file, length)
            self.tensors: Mapping[str, TensorInfo] = parse_header(raw, member.size_bytes - self._begin, limits.tensors)
            self.modules: Mapping[str, LoraModule] = pair_modules(self.tensors)

    def pieces(self) -> Iterator[tuple[str, TensorInfo, bytes]]:
        """Unpack the LoRA once.

        Yields:
            (tensor, what it is, at most 256 KiB of whole numbers), in the order of the bytes. After the last one the
            checksum is verified.

        Raises:
            ArchiveError: When the LoRA cannot be read.
        """
        with reading(self._path), self._opened() as file:
            stream = MemberStream(self._member)
            stream.exactly(file, self._begin)
            for name, info in self.tensors.items():
                left = info.size_bytes
                while left:
                    data = stream.exactly(file, min(left, PIECE_BYTES))
                    left -= len(data)
                    yield name, info, data
            stream.drain(file)

    def tensor(self, name: str) -> "NDArray[np.float32]":
        """Return one tensor; see LoraArchive.tensor."""
        _need_numpy("tensor()")
        info = self.tensors.get(name)
        if info is None:
            raise ArchiveError(f"{self._path}: holds no tensor named {name!r}; .tensors lists those it has")
        begin = self._begin + info.offset_bytes
        with reading(self._path), self._opened() as file:
            stream = self._take_cursor(begin)
            stream.skip(file, begin)
            data = stream.exactly(file, info.size_bytes)
            self._cursor = stream
            return to_float32(data, info)

    def arrays(self) -> "Iterator[tuple[str, NDArray[np.float32]]]":
        """Return all tensors in one pass; see LoraArchive.arrays."""
        _need_numpy("arrays()")
        parts: list[bytes] = []
        missing = 0
        for name, info, data in self.pieces():
            missing = (missing or info.size_bytes) - len(data)
            parts.append(data)
            if not missing:
                with reading(self._path):
                    array = to_float32(b"".join(parts), info)
                parts.clear()
                yield name, array

    def norms(self) -> Norms:
        """Return how strongly each module was changed; see LoraArchive.norms."""
        _need_numpy("norms()")
        owner = {tensor: module for module in self.modules.values() for tensor in (module.down, module.up)}
        waiting: dict[str, NDArray[np.float32]] = {}
        norms: dict[str, float] = {}
        for name, array in self.arrays():
            module = owner[name]
            other = waiting.pop(module.name, None)
            if other is None:
                # In a node's file the partner comes next, so that one tensor waits at a time.
                waiting[module.name] = array
                continue
            down, up = (array, other) if name == module.down else (other, array)
            with reading(self._path):
                norms[module.name] = update_norm(down, up)
        return collect_norms(self.modules, norms)

    def _take_cursor(self, position: int) -> MemberStream:
        """Return a stream that has not passed ``position``: the one that was used last, or a new one."""
        with self._lock:
            stream, self._cursor = self._cursor, None
        return stream if stream is not None and stream.position <= position else MemberStream(self._member)


def _need_numpy(what: str) -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{what} needs numpy, which is not installed: pip install numpy") from error
