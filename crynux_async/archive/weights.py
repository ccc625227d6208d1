"""The LoRA inside an archive: its header, and its numbers one after another or one by one.

The safetensors file is read where it is, inside the ZIP, as it is unpacked; it is never written to disk and never held
in memory as a whole. Arrays need numpy, which is imported where they are made; nothing else here does.
"""

import io
import math
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from crynux_async.archive.foreign import recognise
from crynux_async.archive.lora import ALPHA, LoraModule, module_of_alpha, pair_modules
from crynux_async.archive.norms import Norms, collect_norms, module_norm, tensor_pieces
from crynux_async.archive.raw_numbers import to_float32
from crynux_async.archive.safetensors import (
    LENGTH_BYTES,
    Header,
    TensorInfo,
    giving_way,
    header_length,
    parse_header,
)
from crynux_async.archive.scaling import ADAPTER_METADATA, Scaling, read_scaling
from crynux_async.archive.zip_members import ArchiveLimits, Member, MemberStream, reading
from crynux_async.errors import ArchiveError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Weights:
    """The LoRA of one archive. Its header is read on creation, numbers when they are asked for.

    Attributes:
        tensors: The tensors by name, in the order of their bytes, without alphas; unchangeable.
        modules: The trained modules by their path in the UNet; unchangeable.
        metadata: The texts in the header; unchangeable.
    """

    __slots__ = (
        "_begin",
        "_cursor",
        "_limits",
        "_lock",
        "_member",
        "_opened",
        "_path",
        "metadata",
        "modules",
        "tensors",
    )

    def __init__(
        self,
        path: Path,
        member: Member,
        opened: Callable[[], AbstractContextManager[io.FileIO]],
        limits: ArchiveLimits,
        *,
        adapter: str | None = None,
    ) -> None:
        """Read the header, and the alphas where the file has them.

        Args:
            path: The archive, for messages.
            member: The safetensors file inside.
            opened: Opens the archive for the length of one access.
            limits: What is accepted.
            adapter: The text of peft's ``adapter_config.json`` beside a file of its own, which has the alpha.

        Raises:
            ArchiveError: When it is not the header of a UNet LoRA that describes exactly these bytes.
        """
        self._path = path
        self._member = member
        self._opened = opened
        self._limits = limits
        self._lock = threading.Lock()
        self._cursor: MemberStream | None = None
        with reading(path), opened() as file:
            stream = MemberStream(member)
            prefix = stream.exactly(file, LENGTH_BYTES)
            length = header_length(prefix, member.size_bytes, limits.header_bytes)
            self._begin = LENGTH_BYTES + length
            raw = stream.exactly(file, length)
            try:
                header = parse_header(raw, member.size_bytes - self._begin, limits.tensors)
                self._read(header, stream, file, adapter)
            except ValueError as error:
                # An archive's member has its name from a node; only what people picked can be something else.
                if self._is_bare and (what := recognise(raw)):
                    raise ValueError(f"is {what} ({error})") from error
                raise

    @property
    def _is_bare(self) -> bool:
        return self._member.crc32 is None

    def _read(self, header: Header, stream: MemberStream, file: io.FileIO, adapter: str | None) -> None:
        tensors, alphas = self._without_alphas(header, stream, file) if self._is_bare else (header.tensors, {})
        self.metadata: Mapping[str, str] = header.metadata
        said = {ADAPTER_METADATA: adapter} if adapter is not None else header.metadata
        # Where each module has its own, the header only says once more what they are, and may list several.
        scaling = Scaling() if alphas else read_scaling(said)
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(tensors)
        self.modules: Mapping[str, LoraModule] = pair_modules(tensors, scaling, alphas, foreign=self._is_bare)

    def _without_alphas(
        self, header: Header, stream: MemberStream, file: io.FileIO
    ) -> tuple[dict[str, TensorInfo], dict[str, float]]:
        """Return the tensors that are no alphas, and the alphas by module; only files of other programs have any."""
        alphas: dict[str, float] = {}
        tensors: dict[str, TensorInfo] = {}
        for name, info in giving_way(header.tensors.items()):
            if name.endswith(ALPHA):
                stream.skip(file, self._begin + info.offset_bytes)
                alphas[module_of_alpha(name)] = _read_alpha(name, stream.exactly(file, info.size_bytes), info)
            else:
                tensors[name] = info
        return tensors, alphas

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
            stream.read_on(file, self._begin)
            for name, info in giving_way(self.tensors.items()):
                stream.read_on(file, self._begin + info.offset_bytes)
                for data in tensor_pieces(stream, file, info):
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
            self._check_size(name, info)
            stream = self._take_cursor(begin)
            stream.skip(file, begin)
            array = to_float32(tensor_pieces(stream, file, info), info)
            # Only after success: a stream that broke stands nowhere in particular.
            self._cursor = stream
            return array

    def arrays(self) -> "Iterator[tuple[str, NDArray[np.float32]]]":
        """Return all tensors in one pass; see LoraArchive.arrays."""
        _need_numpy("arrays()")
        with reading(self._path), self._opened() as file:
            self._check_sizes()
            stream = MemberStream(self._member)
            stream.read_on(file, self._begin)
            for name, info in giving_way(self.tensors.items()):
                stream.read_on(file, self._begin + info.offset_bytes)
                yield name, to_float32(tensor_pieces(stream, file, info), info)
            stream.drain(file)

    def norms(self) -> Norms:
        """Return how strongly each module was changed; see LoraArchive.norms."""
        _need_numpy("norms()")
        if self._is_bare:
            return collect_norms(self.modules, self._norms_in_any_order())
        owner = {tensor: module for module in self.modules.values() for tensor in (module.down, module.up)}
        norms: dict[str, float] = {}
        with reading(self._path), self._opened() as file:
            self._check_sizes()
            stream = MemberStream(self._member)
            stream.read_on(file, self._begin)
            tensors = giving_way(self.tensors.items())
            # One iterator twice: two tensors at a time.
            for first, second in zip(tensors, tensors, strict=True):
                module = owner[first[0]]
                if owner[second[0]] is not module:
                    raise ValueError(
                        f"the two tensors of {module.name} do not follow one another, as a node writes them"
                    )
                norms[module.name] = module_norm(module, (first, second), self._begin, stream, file)
            stream.drain(file)
        return collect_norms(self.modules, norms)

    def _norms_in_any_order(self) -> dict[str, float]:
        """Return the norms of a file on the disk, whose tensors may stand in any order."""
        norms: dict[str, float] = {}
        with reading(self._path), self._opened() as file:
            self._check_sizes()
            for module in giving_way(self.modules.values()):
                down, up = ((name, self.tensors[name]) for name in (module.down, module.up))
                pair = (down, up) if down[1].offset_bytes < up[1].offset_bytes else (up, down)
                # It begins anew for each: nothing on the disk has to be unpacked to be passed over.
                norms[module.name] = module_norm(module, pair, self._begin, MemberStream(self._member), file)
        return norms

    def _check_sizes(self) -> None:
        for name, info in self.tensors.items():
            self._check_size(name, info)

    def _check_size(self, name: str, info: TensorInfo) -> None:
        size, most = 4 * info.parameters, self._limits.tensor_bytes
        if size > most:
            raise ValueError(
                f"the tensor {name} takes {size} bytes as numbers, and {most} are taken into memory at most; "
                "limits=ArchiveLimits(tensor_bytes=...) raises that"
            )

    def _take_cursor(self, position: int) -> MemberStream:
        """Return a stream that has not passed ``position``: the one that was used last, or a new one."""
        with self._lock:
            # Taken away while it is used: two threads cannot move one stream.
            stream, self._cursor = self._cursor, None
        return stream if stream is not None and stream.position <= position else MemberStream(self._member)


def _read_alpha(name: str, data: bytes, info: TensorInfo) -> float:
    if info.shape not in ((), (1,)):
        raise ValueError(f"{name} has the shape {list(info.shape)} and should be one number")
    # bfloat16 is the upper half of float32.
    alpha: float = struct.unpack("<e", data)[0] if info.dtype == "F16" else struct.unpack("<f", data.rjust(4, b"\0"))[0]
    if not 0 < alpha < math.inf:
        raise ValueError(f"{name} is {alpha} and must be a number above 0")
    return alpha


def _need_numpy(what: str) -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{what} needs numpy, which is not installed: pip install numpy") from error
