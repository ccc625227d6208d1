"""Answers as values: status, headers and a body in pieces, before anything is sent.

Source: crynux-bridge api/v1/response/response.go (the envelope).
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, BinaryIO

import attrs

from crynux_async.emulator import go_json

Headers = tuple[tuple[str, str], ...]

JSON_TYPE = "application/json; charset=utf-8"
CHUNK_BYTES = 256 * 1024

_REASONS = {
    200: "OK",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Found",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    416: "Requested Range Not Satisfiable",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


@attrs.frozen(kw_only=True)
class Span:
    """A part of the answer's file.

    Attributes:
        start: Its first byte.
        length: Its bytes.
    """

    start: int
    length: int

    @property
    def size(self) -> int:
        """Bytes that it contributes to the body."""
        return self.length


@attrs.frozen(kw_only=True)
class Filler:
    """The same byte many times.

    Attributes:
        byte: The byte.
        length: How often.
    """

    byte: bytes
    length: int

    @property
    def size(self) -> int:
        """Bytes that it contributes to the body."""
        return self.length


@attrs.frozen(kw_only=True)
class Damage:
    """A change to the bytes of the file as they are sent.

    Attributes:
        start: The first byte of the file that is changed.
        length: How many are.
        mask: What they are XORed with; None makes them zero.
    """

    start: int
    length: int = 1
    mask: int | None = None

    def apply(self, chunk: bytes, offset: int) -> bytes:
        """Return ``chunk``, which lies at ``offset`` of the file, with the change."""
        first = max(self.start, offset)
        last = min(self.start + self.length, offset + len(chunk))
        if first >= last:
            return chunk
        old = chunk[first - offset : last - offset]
        new = bytes(len(old)) if self.mask is None else bytes(byte ^ self.mask for byte in old)
        return chunk[: first - offset] + new + chunk[last - offset :]


Piece = bytes | Span | Filler


@attrs.frozen(kw_only=True)
class Answer:
    """One HTTP answer.

    Attributes:
        status: The status code.
        headers: Headers without Content-Length, in order.
        body: The pieces of the body.
        file: The open file that spans refer to, or None; whoever sends the answer closes it.
        damages: Changes to the file's bytes.
    """

    status: int
    headers: Headers = ()
    body: tuple[Piece, ...] = ()
    file: BinaryIO | None = None
    damages: tuple[Damage, ...] = ()

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return sum(len(piece) if isinstance(piece, bytes) else piece.size for piece in self.body)

    @property
    def status_line(self) -> str:
        """The first line of the answer."""
        return f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Unknown')}"

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_header(self, name: str, value: str | None) -> "Answer":
        """Return the answer with a header set, or removed when ``value`` is None."""
        headers = tuple(item for item in self.headers if item[0].lower() != name.lower())
        return attrs.evolve(self, headers=headers if value is None else (*headers, (name, value)))

    def head(self, *, with_length: bool = True) -> bytes:
        """Return the status line and headers as bytes."""
        lines = [self.status_line]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if with_length:
            lines.append(f"Content-Length: {self.length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def chunks(self) -> Iterator[bytes]:
        """Yield the body in chunks of at most CHUNK_BYTES."""
        for piece in self.body:
            if isinstance(piece, bytes):
                yield piece
            elif isinstance(piece, Filler):
                yield from _filler(piece)
            else:
                yield from self._span(piece)

    def _span(self, span: Span) -> Iterator[bytes]:
        if self.file is None:
            raise ValueError("an answer with spans needs a file")
        end = span.start + span.length
        for offset in range(span.start, end, CHUNK_BYTES):
            self.file.seek(offset)
            chunk = self.file.read(min(CHUNK_BYTES, end - offset))
            for damage in self.damages:
                chunk = damage.apply(chunk, offset)
            yield chunk


class RefusedError(Exception):
    """A service refuses a request.

    Attributes:
        answer: What it says.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


def _filler(filler: Filler) -> Iterator[bytes]:
    for start in range(0, filler.length, CHUNK_BYTES):
        yield filler.byte * min(CHUNK_BYTES, filler.length - start)


def http_date(wall: float) -> str:
    """Return ``wall``, seconds since 1970, as HTTP writes dates."""
    return format_datetime(datetime.fromtimestamp(wall, UTC), usegmt=True)


def json_answer(status: int, payload: Mapping[str, Any]) -> Answer:
    """Return a JSON answer."""
    return Answer(status=status, headers=(("Content-Type", JSON_TYPE),), body=(go_json.encode(payload),))


def success(data: Mapping[str, Any]) -> Answer:
    """Return the envelope of a success."""
    return json_answer(200, {"message": "success", "data": data})


def validation_error(field: str, message: str) -> Answer:
    """Return the envelope of everything that is the client's fault."""
    return json_answer(400, {"message": "validation_error", "data": {"field_name": field, "message": message}})


def exception(message: str) -> Answer:
    """Return the envelope of an error of the server."""
    return json_answer(500, {"message": message})


def not_found() -> Answer:
    """Return the answer to a path or method that a service does not have."""
    # Gin's own, which knows nothing of the envelope.
    return Answer(status=404, headers=(("Content-Type", "text/plain"),), body=(b"404 page not found",))


def html(status: int, text: str | None = None) -> Answer:
    """Return a page of the kind that a proxy in front of a service shows."""
    # As nginx writes its error pages.
    title = f"{status} {_REASONS.get(status, 'Error')}"
    page = text or (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return Answer(status=status, headers=(("Content-Type", "text/html"),), body=(page.encode(),))
