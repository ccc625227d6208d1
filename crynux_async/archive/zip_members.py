"""What an archive may hold, and how the bytes of one of its members are read.

Sizes and checksums are counted while reading, whatever was announced, and no more than one piece of 256 KiB is held at
a time. Flaws are raised as ValueError where they are found; :func:`reading` turns whatever comes out of a file into an
ArchiveError that names it.
"""

import contextlib
import io
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs
from attrs import validators

from crynux_async.archive.inflate import INFLATE_ERRORS, Inflater, crc32, is_out_of_memory, new_inflater
from crynux_async.errors import ArchiveError

PIECE_BYTES = 256 * 1024
"""The most that is read or unpacked at once."""

_PACKED_BYTES = 64 * 1024


def _bound(default: int) -> int:
    field: int = attrs.field(default=default, validator=[validators.instance_of(int), validators.ge(1)])
    return field


@attrs.frozen(kw_only=True)
class ArchiveLimits:
    """How much of an archive from an unknown machine is accepted. Every bound is inclusive.

    The defaults leave room for a LoRA of every module of Stable Diffusion's UNet up to rank 4096 with its optimizer
    state, and of fewer modules up to as high a rank as fits: nodes know no highest rank, and what one of them was paid
    for is read. Memory does not follow from them: it is what one piece of 256 KiB needs, and for
    :meth:`LoraArchive.norms` some blocks of numbers, whatever an archive announces.

    Attributes:
        members: Files inside.
        name_bytes: Length of a member's name.
        file_bytes: Size of the ZIP itself.
        member_bytes: Unpacked size of one member.
        total_bytes: Unpacked size of all members together.
        ratio: Unpacked size over packed size of what a training does not account for; see ``archive.members``.
        ratio_free_bytes: Up to this unpacked size the ratio does not matter.
        header_bytes: Size of the safetensors header's JSON.
        tensors: Tensors in the safetensors file.
        tensor_bytes: Size of a tensor as float32 numbers that is taken into memory: by ``tensor()``, ``arrays()`` and
            ``norms()``. Whatever its size, a tensor is verified, judged and exported.
    """

    members: int = _bound(64)
    name_bytes: int = _bound(128)
    file_bytes: int = _bound(16 * 2**30)
    member_bytes: int = _bound(40 * 2**30)
    total_bytes: int = _bound(64 * 2**30)
    ratio: int = _bound(200)
    ratio_free_bytes: int = _bound(128 * 2**20)
    header_bytes: int = _bound(2 * 2**20)
    tensors: int = _bound(4096)
    tensor_bytes: int = _bound(128 * 2**20)


@attrs.frozen(kw_only=True)
class Member:
    """One file inside an archive, as both of its descriptions have it.

    Attributes:
        name: A plain file name, ASCII, no folder.
        size_bytes: Unpacked size.
        packed_bytes: Size inside the ZIP.
        crc32: CRC-32 of the unpacked bytes; None for a file that lies bare on the disk, which says none.
        deflated: True for deflate, False for stored.
        offset_bytes: Where its packed bytes begin in the ZIP.
    """

    name: str
    size_bytes: int
    packed_bytes: int
    crc32: int | None
    deflated: bool
    offset_bytes: int


@attrs.frozen(kw_only=True)
class Halfway:
    """How far a deflated member is unpacked.

    Attributes:
        crc32: CRC-32 of what came out so far.
        inflater: What goes on.
        pending: Packed bytes that it has not looked at.
    """

    crc32: int
    inflater: Inflater
    pending: bytes


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever reading a file raises into an ArchiveError that names the file.

    Args:
        path: The file that is being read.

    Raises:
        ArchiveError: In place of any other exception that bytes of a file can cause. Its cause is an OSError or a
            MemoryError where the machine could not read it, and nothing is said against the file.
    """
    try:
        yield
    except ArchiveError:
        raise
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read: {error.strerror or error}") from error
    except INFLATE_ERRORS as error:
        if is_out_of_memory(error):
            raise ArchiveError(_no_memory(path)) from MemoryError(str(error))
        raise ArchiveError(f"{path}: a member's packed bytes are damaged: {error}") from error
    except RecursionError as error:
        raise ArchiveError(f"{path}: its JSON is nested too deeply") from error
    except MemoryError as error:
        raise ArchiveError(_no_memory(path)) from error
    except (ValueError, ArithmeticError, EOFError, struct.error) as error:
        raise ArchiveError(f"{path}: {error}") from error


def _no_memory(path: Path) -> str:
    return f"{path}: not enough memory to read it"


def open_regular(path: Path) -> io.FileIO:
    """Open a regular file for reading, unbuffered, without waiting for a pipe's other end.

    Args:
        path: What to open.

    Returns:
        The open file.

    Raises:
        OSError: When it cannot be opened.
        ValueError: When it is not a regular file.
    """
    file = io.FileIO(path, "r", opener=_open_without_waiting)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError("is not a regular file")
    return file


def _open_without_waiting(path: str, flags: int) -> int:
    # A symbolic link is followed: people name their own archives.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_at(file: io.FileIO, offset: int, count: int) -> bytes:
    """Read exactly ``count`` bytes from ``offset``.

    Args:
        file: An open file.
        offset: Bytes from the beginning, >= 0.
        count: Bytes wanted, >= 0.

    Returns:
        The bytes.

    Raises:
        ValueError: When the file ends before.
    """
    file.seek(offset)
    data = file.read(count)
    while len(data) < count:
        piece = file.read(count - len(data))
        if not piece:
            raise ValueError(f"ends at byte {offset + len(data)}, where {count - len(data)} more were announced")
        data += piece
    return data


class MemberStream:
    """Unpacks one member from its beginning, piece by piece, and checks every byte it gives out.

    It keeps no open file: each call is handed one, so that a stream can be put away and gone on with later.

    Attributes:
        member: What is read.
        position: Unpacked bytes given out so far.
    """

    __slots__ = ("_crc32", "_inflater", "_packed_left", "_pending", "_source", "member", "position")

    def __init__(self, member: Member) -> None:
        self.member = member
        self.position = 0
        self._source = member.offset_bytes
        self._packed_left = member.packed_bytes
        self._pending = b""
        self._crc32 = 0
        self._inflater = new_inflater() if member.deflated else None

    def copy(self) -> "MemberStream":
        """Return a stream that is as far as this one, and goes on by itself."""
        twin = MemberStream(self.member)
        twin.position, twin._source, twin._packed_left = self.position, self._source, self._packed_left
        twin._pending, twin._crc32 = self._pending, self._crc32
        twin._inflater = self._inflater.copy() if self._inflater is not None else None
        return twin

    @property
    def halfway(self) -> Halfway | None:
        """What is needed to unpack the rest elsewhere; None for a stored member, where nothing is unpacked."""
        if self._inflater is None:
            return None
        return Halfway(crc32=self._crc32, inflater=self._inflater, pending=self._pending)

    @property
    def source_bytes(self) -> int:
        """Where in the ZIP the packed bytes are that come next, behind those that wait to be unpacked."""
        return self._source

    def piece(self, file: io.FileIO, at_most: int = PIECE_BYTES) -> bytes:
        """Return the next bytes.

        Args:
            file: The ZIP, open for reading.
            at_most: Bytes wanted, >= 1; never more than 256 KiB are given.

        Returns:
            At least one byte, or b"" when the member's whole announced size was given out.

        Raises:
            ValueError: When the packed bytes end too early.
            Exception: One of INFLATE_ERRORS, when they are damaged.
        """
        wanted = min(at_most, PIECE_BYTES, self.member.size_bytes - self.position)
        if not wanted:
            return b""
        data = self._packed(file, wanted) if self._inflater is None else self._inflate(file, wanted)
        if not data:
            raise ValueError(f"{self.member.name} ends after {self.position} of {self.member.size_bytes} bytes")
        self.position += len(data)
        self._crc32 = crc32(data, self._crc32)
        return data

    def exactly(self, file: io.FileIO, count: int) -> bytes:
        """Return exactly ``count`` bytes, which must all be inside the member's announced size."""
        first = self.piece(file, count)
        if len(first) == count:
            return first
        data = bytearray(first)
        while len(data) < count:
            data += self.piece(file, count - len(data)) or self._too_short()
        return bytes(data)

    def skip(self, file: io.FileIO, position: int) -> None:
        """Go on to ``position``, which must not lie behind; the checksum cannot be verified any more after that."""
        # Stored bytes can be passed over; deflated ones have to be unpacked up to there.
        if self._inflater is None:
            step = min(position, self.member.size_bytes) - self.position
            self.position += step
            self._source += step
            self._packed_left -= step
        self.read_on(file, position)

    def read_on(self, file: io.FileIO, position: int) -> None:
        """Read to ``position``, which must not lie behind, so that the checksum can still be verified."""
        while self.position < position:
            if not self.piece(file, position - self.position):
                self._too_short()

    def drain(self, file: io.FileIO) -> None:
        """Read the rest and check what only the end can tell.

        Args:
            file: The ZIP, open for reading.

        Raises:
            ValueError: When size or checksum are not as announced, or packed bytes are left over.
            Exception: One of INFLATE_ERRORS, when the packed bytes are damaged.
        """
        if self._inflater is None:
            self._drain_stored(file)
        while self.piece(file):
            pass
        if self._inflater is not None:
            self._end_deflate(file, self._inflater)
        if self._packed_left or self._pending:
            raise ValueError(f"{self.member.name} is followed by packed bytes that belong to nothing")
        if self.member.crc32 is not None and self._crc32 != self.member.crc32:
            raise ValueError(
                f"the bytes of {self.member.name} are damaged: "
                f"CRC-32 {self._crc32:08x} in place of {self.member.crc32:08x}"
            )

    def _drain_stored(self, file: io.FileIO) -> None:
        """Read what is left of a stored member through one buffer: a new one for each piece costs time and memory."""
        buffer = memoryview(bytearray(min(PIECE_BYTES, self.member.size_bytes - self.position)))
        file.seek(self._source)
        while wanted := min(len(buffer), self.member.size_bytes - self.position, self._packed_left):
            count = file.readinto(buffer[:wanted]) or 0
            if not count:
                raise ValueError("was cut short while it was read")
            self._crc32 = crc32(buffer[:count], self._crc32)
            self.position += count
            self._source += count
            self._packed_left -= count

    def _end_deflate(self, file: io.FileIO, inflater: Inflater) -> None:
        while not inflater.eof:
            # One byte of room is enough to see a member that is longer than it says.
            if inflater.decompress(self._pending, 1):
                raise ValueError(f"{self.member.name} is longer than the {self.member.size_bytes} bytes it announces")
            # In two steps: where the next bytes cannot be read yet, this goes on later without the last ones.
            self._pending = inflater.unconsumed_tail
            self._pending = self._pending or self._packed(file, _PACKED_BYTES)
            if not self._pending and not inflater.eof:
                raise ValueError(f"the packed bytes of {self.member.name} have no end")
        self._pending += inflater.unused_data

    def _inflate(self, file: io.FileIO, wanted: int) -> bytes:
        inflater = self._inflater
        while inflater is not None and not inflater.eof:
            # Bounded: without ``max_length`` 64 kB of a bomb unpack to 64 MB (case X2).
            data = inflater.decompress(self._pending, wanted)
            self._pending = inflater.unconsumed_tail
            if data:
                return data
            self._pending = self._pending or self._packed(file, _PACKED_BYTES)
            if not self._pending:
                break
        return b""

    def _packed(self, file: io.FileIO, at_most: int) -> bytes:
        wanted = min(at_most, self._packed_left)
        if not wanted:
            return b""
        file.seek(self._source)
        data = file.read(wanted)
        if not data:
            raise ValueError("was cut short while it was read")
        self._source += len(data)
        self._packed_left -= len(data)
        return data

    def _too_short(self) -> bytes:
        raise ValueError(f"{self.member.name} holds {self.member.size_bytes} bytes, and more were announced inside")
