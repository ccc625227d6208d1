"""Members of a whole file are read by several threads, and a large one by more than one of them.

Theory of operation
-------------------
Whoever has nothing left to do takes the next member, and when all are taken, the back half of what another thread has
left of its own (see ``deflate_cuts``): so all end at about the same time, whatever the members' sizes and however fast
each thread comes on. A part of a member ends where the next one begins. When all parts are there they are joined in
their order: each is shown to begin where a block begins, its lead is unpacked with the true window, and the checksums
are joined to one.

Nothing is judged here. Members that were read to their ends and found right are told; one with any flaw, or that there
was no memory for, is left to be read once more, by one thread and in its turn: what that one says is what a user is
told.
"""

import contextlib
import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Final

import attrs

from crynux_async.archive.deflate_cuts import WINDOW_BYTES, Ahead, end_block, unpack_ahead, unpack_lead
from crynux_async.archive.inflate import Inflater, crc32, joined_crc32, unpacked
from crynux_async.archive.zip_members import Member, MemberStream, read_at
from crynux_async.processors import processors, verifying_at_once

WORTH_BYTES: Final = 8 << 20
"""Fewer packed bytes are not worth another thread."""

HEAD_START_BYTES: Final = 3 << 20
"""So many are unpacked in the time in which another thread finds where it can begin, in the middle of a member."""

_MOST_HELPERS = 4
_PACKED_BYTES, _PIECE_BYTES = 64 * 1024, 128 * 1024

Opened = Callable[[], AbstractContextManager[io.FileIO]]
"""Opens the file; each thread has its own place in it."""


class Helpers:
    """How many threads there may be beside those that verify, shared by all of them.

    Args:
        count: So many, >= 0; by default one for each processor that is not left to verifying, and four at most.
    """

    def __init__(self, count: int | None = None) -> None:
        free = min(processors() - verifying_at_once(), _MOST_HELPERS) if count is None else count
        self._free = threading.Semaphore(free)

    @contextlib.contextmanager
    def working(self, work: Callable[[], None], wanted: int) -> Iterator[None]:
        """Have up to ``wanted`` threads do ``work`` beside the block; none of them is left behind."""
        threads: list[threading.Thread] = []
        try:
            while len(threads) < wanted and self._free.acquire(blocking=False):
                thread = threading.Thread(target=work, name="crynux_async inflate")
                try:
                    thread.start()
                except RuntimeError:  # the system has no more of them
                    self._free.release()
                    break
                threads.append(thread)
            yield
        finally:
            for thread in threads:
                thread.join()
                self._free.release()


def read_side_by_side(streams: Iterable[MemberStream], opened: Opened, helpers: Helpers) -> set[Member]:
    """Read members to their ends; blocks.

    Args:
        streams: Each at its beginning or as far as it was read; not used afterwards.
        opened: Opens the file that they are in.
        helpers: Who may help.

    Returns:
        Those that are right. Why others are not can be told by who reads them again.
    """
    work = _Work(streams)
    with helpers.working(lambda: work.do(opened), work.packed_bytes // WORTH_BYTES - 1):
        work.do(opened)
    return work.right(opened)


class _FlawError(ValueError):
    """Something is wrong with a member, or may be."""


@attrs.define(eq=False, kw_only=True)
class _Part:
    """A part of a member, unpacked by one thread; a stored member is all one part.

    Attributes:
        member: Which member.
        begin: Where in the file its packed bytes begin; where it is not the first, it begins less than a block later.
        source: Where those are that come next.
        following: The part behind it; None where it goes to the member's end.
        stream: What reads it where it is the first; it may be halfway.
        found: Where it begins, once that is known; None where no beginning was found, or nothing has to be.
        length: Bytes that it gave out: from the member's first on, or from behind its lead.
        crc32: Their CRC-32.
        last: The last of them, in the pieces that they came in, together 32 KiB or a little more.
        has_ended: Whether it was read up to its end, with all as it should be.
    """

    member: Member
    begin: int
    source: int
    following: "_Part | None" = None
    stream: MemberStream | None = None
    found: "Future[Ahead | None]" = attrs.field(factory=Future)
    length: int = 0
    crc32: int = 0
    last: deque[bytes] = attrs.field(factory=deque)
    has_ended: bool = False

    @property
    def end(self) -> int:
        """Where its packed bytes end, but for less than a block where another part follows."""
        return self.following.begin if self.following else self.member.offset_bytes + self.member.packed_bytes

    def unpack(self, inflater: Inflater, packed: bytes) -> None:
        """Unpack some more.

        Raises:
            ValueError: The member is longer or shorter than it says.
        """
        if inflater.eof:
            raise _FlawError("ends too early")
        for piece in unpacked(inflater, packed, _PIECE_BYTES):
            self.give_out(piece)

    def give_out(self, piece: bytes) -> None:
        """Take in what was unpacked."""
        self.length += len(piece)
        if self.length > self.member.size_bytes:
            raise _FlawError("is longer than it says")
        self.crc32 = crc32(piece, self.crc32)
        # Joined at the end only: a window for each piece would cost a twentieth of the whole.
        self.last.append(piece)
        kept = sum(map(len, self.last))
        while (kept := kept - len(self.last[0])) >= WINDOW_BYTES:
            self.last.popleft()

    @property
    def window(self) -> bytes:
        """The last 32 KiB that it gave out, less where it gave out less."""
        return b"".join(self.last)[-WINDOW_BYTES:]


def _first_part(stream: MemberStream) -> _Part:
    return _Part(member=stream.member, begin=stream.source_bytes, source=stream.source_bytes, stream=stream)


class _Work:
    """What is to be read and who reads what, for several threads at once.

    Attributes:
        packed_bytes: How much there is to be read.
    """

    def __init__(self, streams: Iterable[MemberStream]) -> None:
        self._firsts = [_first_part(stream) for stream in streams]
        self._waiting = deque(self._firsts)
        self._open: list[_Part] = []
        self._flawed: set[Member] = set()
        self._lock = threading.Lock()
        self.packed_bytes = sum(part.end - part.source for part in self._firsts)

    def do(self, opened: Opened) -> None:
        """Read as long as there is anything to be taken."""
        # Whatever comes up, want of memory too, is met again by whoever reads the member once more.
        with contextlib.suppress(Exception), opened() as file:
            while (part := self._take()) is not None:
                self._read(file, part)

    def right(self, opened: Opened) -> set[Member]:
        """Return the members that are right; to be asked when all have done."""
        right: set[Member] = set()
        with contextlib.suppress(Exception), opened() as file:
            for first in self._firsts:
                with contextlib.suppress(Exception):
                    if first.member not in self._flawed and _is_right(file, first):
                        right.add(first.member)
        return right

    def _take(self) -> _Part | None:
        with self._lock:
            if self._waiting:
                first = self._waiting.popleft()
                # At once: whoever comes next may find nothing else to do.
                if first.member.deflated:
                    self._open.append(first)
                return first
            longest = max(self._open, key=lambda part: part.end - part.source, default=None)
            if longest is None or (rest := longest.end - longest.source) < 2 * WORTH_BYTES:
                return None
            begin = longest.end - (rest - min(HEAD_START_BYTES, rest // 2)) // 2
            taken = _Part(member=longest.member, begin=begin, source=begin, following=longest.following)
            longest.following = taken
            return taken

    def _read(self, file: io.FileIO, part: _Part) -> None:
        try:
            if part.stream is None:
                self._begin_ahead(file, part)
            elif (halfway := part.stream.halfway) is None:
                part.stream.drain(file)
                part.has_ended = True
            else:
                part.length, part.crc32 = part.stream.position, halfway.crc32
                self._unpack(file, part, halfway.inflater, halfway.pending)
        except Exception:
            self._flawed.add(part.member)
        finally:
            with self._lock:
                if part in self._open:
                    self._open.remove(part)
            if not part.found.done():
                part.found.set_result(None)

    def _begin_ahead(self, file: io.FileIO, part: _Part) -> None:
        ahead = unpack_ahead(file, part.begin, part.end)
        if ahead is not None:
            part.source, part.last = ahead.source_bytes, deque([ahead.window])
        part.found.set_result(ahead)
        if ahead is not None:
            with self._lock:
                self._open.append(part)
            self._unpack(file, part, ahead.inflater, ahead.pending)

    def _unpack(self, file: io.FileIO, part: _Part, inflater: Inflater, pending: bytes) -> None:
        """Unpack a part from where its inflater is, up to its end, which others may move meanwhile."""
        part.unpack(inflater, pending)
        while part.member not in self._flawed:
            offset, count = self._next_piece(part)
            if count:
                part.unpack(inflater, read_at(file, offset, count))
            elif part.following is None:
                part.has_ended = inflater.eof and not inflater.unused_data
                return
            elif (ahead := part.following.found.result()) is not None:
                part.unpack(inflater, read_at(file, offset, ahead.offset_bytes - offset))
                part.has_ended = _meets(file, part, inflater, ahead)
                return
            else:
                # No beginning was found there, and nobody reads it.
                with self._lock:
                    part.following = part.following.following

    def _next_piece(self, part: _Part) -> tuple[int, int]:
        with self._lock:
            offset = part.source
            count = min(_PACKED_BYTES, part.end - offset)
            part.source += count
            return offset, count


def _meets(file: io.FileIO, part: _Part, inflater: Inflater, ahead: Ahead) -> bool:
    """Whether a block begins where the next part began, so that this one is at its end."""
    (byte,) = read_at(file, ahead.offset_bytes, 1)
    last = end_block(inflater, byte, ahead.bit)
    if last is None or inflater.eof:
        return False
    part.give_out(last)
    return len(part.window) == WINDOW_BYTES


def _is_right(file: io.FileIO, part: _Part) -> bool:
    """Join the parts of a member, from the first on, and compare them with what it should be."""
    member, length, checksum = part.member, part.length, part.crc32
    if not member.deflated:
        return part.has_ended
    while part.has_ended and (following := part.following) is not None:
        ahead = following.found.result()
        if ahead is None:
            return False
        for piece in unpack_lead(file, ahead, part.window):
            checksum = crc32(piece, checksum)
        length += ahead.lead_bytes + following.length
        checksum = joined_crc32(checksum, following.crc32, following.length)
        part = following
    return part.has_ended and (length, checksum) == (member.size_bytes, member.crc32)
