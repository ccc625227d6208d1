"""A service that gives one result, as well or as badly as its script says, and downloads from it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from crynux_async.backends.base import Validator
from crynux_async.downloads.pace import DownloadOptions
from crynux_async.downloads.transfer import DownloadedFile, Shared, download
from crynux_async.errors import ArchiveError, NotFoundError, RangeError, TransportError

SIZE = 10_000
MONDAY = "Mon, 05 Jan 2026 10:00:00 GMT"
TUESDAY = "Tue, 06 Jan 2026 10:00:00 GMT"


def some_bytes(size: int, seed: str = "first") -> bytes:
    """Return bytes that differ at every place between two seeds with overwhelming probability, and never repeat."""
    blocks = (hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(size // 32 + 1))
    return b"".join(blocks)[:size]


@attrs.define(kw_only=True)
class Answer:
    """How one request goes.

    Attributes:
        error: Raised in place of an answer.
        opening, pause: Seconds before the answer, and before each of its pieces.
        cut_after, end_after, stall_after: Bytes of the body before it breaks, ends or says nothing more.
        surplus: Bytes after the body.
        piece: Bytes of a piece.
        ignore_range: Whether the whole result comes whatever was asked for.
        pretend_start, pretend: What is said in place of the truth about the start and the version.
        sized: Whether the size is told.
        switch: Content and date of the version that the result has from this request on.
        spoil: What happens to the body on its way.
        on_piece: Called with the number of each piece before it comes.
    """

    error: Exception | None = None
    opening: float = 0.0
    cut_after: int | None = None
    end_after: int | None = None
    stall_after: int | None = None
    surplus: bytes = b""
    pause: float = 0.0
    piece: int | None = None
    ignore_range: bool = False
    pretend_start: int | None = None
    sized: bool = True
    pretend: Validator | None = None
    switch: tuple[bytes, str] | None = None
    spoil: Callable[[bytes], bytes] = lambda body: body
    on_piece: Callable[[int], None] = lambda number: None


class FakeStream:
    """What a request is answered with."""

    def __init__(
        self, answer: Answer, start: int, validator: Validator, body: bytes, count: Callable[[int], None]
    ) -> None:
        self.start = start
        self.validator = validator
        self.is_read = False
        self._answer = answer
        self._body = body
        self._count = count

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        self.is_read = True
        try:
            async with aclosing(self._pieces(chunk_bytes)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self.is_read = False

    async def _pieces(self, chunk_bytes: int) -> AsyncGenerator[bytes, None]:
        answer, body = self._answer, self._body
        ends = [end for end in (answer.cut_after, answer.end_after, answer.stall_after) if end is not None]
        body = (body + answer.surplus)[: min(ends, default=None)]
        size = min(chunk_bytes, answer.piece or chunk_bytes)
        for number, begin in enumerate(range(0, len(body), size)):
            await asyncio.sleep(answer.pause)
            answer.on_piece(number)
            piece = body[begin : begin + size]
            self._count(len(piece))
            yield piece
        if answer.cut_after is not None:
            raise TransportError("the connection broke")
        if answer.stall_after is not None:
            await asyncio.Event().wait()


class FakeService:
    """One result, its requests, and the answers that are still to be given; a good one when the script has run out.

    Attributes:
        requests: Start and validator of every request.
        open: Answers that are open.
        left_behind: Answers that were closed while somebody was still reading them.
        sent: Bytes that were handed out.
    """

    def __init__(self, content: bytes, *script: Answer, last_modified: str | None = MONDAY) -> None:
        self.content = content
        self.last_modified = last_modified
        self.script = list(script)
        self.default = Answer()
        self.requests: list[tuple[int, Validator | None]] = []
        self.open = 0
        self.left_behind = 0
        self.sent = 0

    @property
    def validator(self) -> Validator:
        return Validator(last_modified=self.last_modified, total_bytes=len(self.content))

    @asynccontextmanager
    async def open_result(self, *, start: int = 0, validator: Validator | None = None) -> AsyncIterator[FakeStream]:
        self.requests.append((start, validator))
        answer = self.script.pop(0) if self.script else self.default
        if answer.switch is not None:
            self.content, self.last_modified = answer.switch
        await asyncio.sleep(answer.opening)
        if answer.error is not None:
            raise answer.error
        self.open += 1
        stream = self._stream(answer, start, validator)
        try:
            yield stream
        finally:
            self.open -= 1
            self.left_behind += stream.is_read

    def _stream(self, answer: Answer, start: int, validator: Validator | None) -> FakeStream:
        # Like Go's http.ServeFile: a wrong date means everything; a range past the end is refused.
        dated = validator is not None and validator.last_modified == self.last_modified
        if answer.ignore_range or not dated:
            start = 0
        if start and start >= len(self.content):
            raise RangeError("the result does not reach that far", total_bytes=len(self.content))
        told = answer.pretend or self.validator
        if not answer.sized:
            told = attrs.evolve(told, total_bytes=None)
        told_start = start if answer.pretend_start is None else answer.pretend_start
        return FakeStream(answer, told_start, told, answer.spoil(self.content[start:]), self._count)

    def _count(self, size: int) -> None:
        self.sent += size


def verify_is(*good: bytes) -> Callable[[Path], None]:
    """Return a check that a file is exactly one of some contents."""

    def verify(path: Path) -> None:
        if path.read_bytes() not in good:
            raise ArchiveError(f"{path} is not a good archive")

    return verify


def names_in(folder: Path) -> set[str]:
    """Return the names of everything in a folder."""
    return {path.name for path in folder.iterdir()}


CONTENT = some_bytes(SIZE)
OTHER = some_bytes(SIZE, "second")
OPTIONS = DownloadOptions(chunk_bytes=1000, free_space_margin=0)
GONE = Answer(error=NotFoundError("the bridge has no such task"))


async def fetch(service: FakeService, path: Path, **options: Any) -> DownloadedFile:
    options.setdefault("verify", verify_is(service.content))
    options.setdefault("options", OPTIONS)
    shared = {name: options.pop(name) for name in ("room", "slots", "check_slots") if name in options}
    options["shared"] = Shared(**shared)
    return await download(service.open_result, path, **options)


def leave_part(path: Path, content: bytes, total: int | None = SIZE, dated: str | None = MONDAY) -> None:
    """Leave on disk what a killed download leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("7.zip.part").write_bytes(content)
    known = {"owner": "", "last_modified": dated, "total_bytes": total}
    path.with_name("7.zip.part.json").write_text(json.dumps(known))
