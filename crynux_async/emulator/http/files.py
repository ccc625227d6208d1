"""How bridge and relay serve a file: Go's http.ServeContent behind gin.

Ranges, If-Range and the preconditions are Go's. What is not Go's: where Go answers 304 or 412 without a body, gin's
renderer has the last word and makes it a 200 with an empty body.

Source: net/http fs.go (serveContent, parseRange, checkPreconditions), gadgeto tonic (the renderer), crynux-bridge
api/v1/image/finetune.go (DownloadSDFinetuneLoraTaskResult), crynux-relay api/v1/inference_tasks/get_result.go.
"""

import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import BinaryIO, Literal

import attrs

from crynux_async.emulator.http.answers import Answer, Headers, Piece, Span, http_date

_PLAIN = "text/plain; charset=utf-8"
# Those of http.ParseTime.
_FORMATS = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
_NUMBER = re.compile(r"\+?[0-9]+", re.ASCII)
_LARGEST = 2**63 - 1
_BASE: Headers = (("Content-Description", "File Transfer"), ("Content-Transfer-Encoding", "binary"))


class RangeError(ValueError):
    """A Range header that cannot be served.

    Attributes:
        is_outside: Whether it is well formed and lies behind the end.
    """

    def __init__(self, message: str, *, is_outside: bool = False) -> None:
        super().__init__(message)
        self.is_outside = is_outside


@attrs.frozen(kw_only=True)
class Resource:
    """A file to be served.

    Attributes:
        file: The file, open for reading.
        size: Its bytes.
        modified: When it was written, in whole seconds since 1970.
        name: What it is called for the client.
        content_type: Its media type.
    """

    file: BinaryIO
    size: int
    modified: int
    name: str
    content_type: str

    @property
    def last_modified(self) -> str:
        """The Last-Modified header."""
        return http_date(self.modified)


def serve(resource: Resource, headers: Mapping[str, str]) -> Answer:
    """Return the server's answer to a request for a file.

    Args:
        resource: The file.
        headers: The request's headers; names match as the mapping matches them.
    """
    name = ("Content-Disposition", f"attachment; filename={resource.name}")
    base: Headers = (*_BASE, name, ("Last-Modified", resource.last_modified))
    stop = _precondition(headers, resource.modified)
    if stop is not None:
        content_type = _PLAIN if stop == "not modified" else resource.content_type
        return Answer(status=200, headers=(*base, ("Content-Type", content_type)), file=resource.file)
    wanted = headers.get("Range", "")
    if wanted and not _if_range(headers.get("If-Range", ""), resource.modified):
        wanted = ""
    try:
        spans = parse_range(wanted, resource.size)
    except RangeError as error:
        return _unsatisfiable(resource, base, error)
    # Ranges that add up to more than the file look like an attack to Go, and are ignored.
    if sum(span.length for span in spans) > resource.size:
        spans = []
    return _content(resource, (*base, ("Accept-Ranges", "bytes")), spans)


def parse_range(text: str, size: int) -> list[Span]:
    """Return the parts that a Range header asks for; none when it asks for nothing.

    Args:
        text: The header, or "".
        size: Bytes of the file.

    Raises:
        RangeError: If it is malformed, or asks only for what is behind the end.
    """
    if not text:
        return []
    if not text.startswith("bytes="):
        raise RangeError("invalid range")
    spans = []
    is_outside = False
    for part in text.removeprefix("bytes=").split(","):
        if part.strip(" \t\r\n"):
            span = _span(part, size)
            is_outside = is_outside or span is None
            spans += [span] if span else []
    if is_outside and not spans:
        raise RangeError("invalid range: failed to overlap", is_outside=True)
    return spans


def _span(part: str, size: int) -> Span | None:
    first, dash, last = (text.strip(" \t\r\n") for text in part.partition("-"))
    if not dash:
        raise RangeError("invalid range")
    if not first:
        length = min(_number(last), size)
        return Span(start=size - length, length=length)
    start = _number(first)
    if start >= size:
        return None
    end = _number(last) if last else size - 1
    if start > end:
        raise RangeError("invalid range")
    return Span(start=start, length=min(end, size - 1) - start + 1)


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text) or len(text) > 20 or int(text) > _LARGEST:
        raise RangeError("invalid range")
    return int(text)


def _content(resource: Resource, headers: Headers, spans: list[Span]) -> Answer:
    if len(spans) > 1:
        return _multipart(resource, headers, spans)
    headers = (*headers, ("Content-Type", resource.content_type))
    if not spans:
        whole = Span(start=0, length=resource.size)
        return Answer(status=200, headers=headers, body=(whole,), file=resource.file)
    content_range = ("Content-Range", _content_range(spans[0], resource.size))
    return Answer(status=206, headers=(*headers, content_range), body=(spans[0],), file=resource.file)


def _multipart(resource: Resource, headers: Headers, spans: list[Span]) -> Answer:
    # As mime/multipart draws one.
    boundary = secrets.token_hex(30)
    pieces: list[Piece] = []
    separator = f"--{boundary}\r\n"
    for span in spans:
        head = f"{separator}Content-Range: {_content_range(span, resource.size)}\r\n"
        head += f"Content-Type: {resource.content_type}\r\n\r\n"
        pieces += [head.encode(), span]
        separator = f"\r\n--{boundary}\r\n"
    pieces.append(f"\r\n--{boundary}--\r\n".encode())
    content_type = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    return Answer(status=206, headers=(*headers, content_type), body=tuple(pieces), file=resource.file)


def _content_range(span: Span, size: int) -> str:
    return f"bytes {span.start}-{span.start + span.length - 1}/{size}"


def _unsatisfiable(resource: Resource, headers: Headers, error: RangeError) -> Answer:
    # Since Go 1.23 an error takes the date of the file away.
    headers = tuple(header for header in headers if header[0] != "Last-Modified")
    if error.is_outside:
        headers = (*headers, ("Content-Range", f"bytes */{resource.size}"))
    headers = (*headers, ("Content-Type", _PLAIN), ("X-Content-Type-Options", "nosniff"))
    return Answer(status=416, headers=headers, body=(f"{error}\n".encode(),), file=resource.file)


def _precondition(headers: Mapping[str, str], modified: int) -> Literal["not modified", "failed"] | None:
    if headers.get("If-Match", "").strip() not in ("", "*"):
        # There is no ETag that could match.
        return "failed"
    if "If-Match" not in headers:
        unmodified_since = _time(headers.get("If-Unmodified-Since", ""))
        if unmodified_since is not None and modified > unmodified_since:
            return "failed"
    if headers.get("If-None-Match", ""):
        return "not modified" if headers["If-None-Match"].strip() == "*" else None
    modified_since = _time(headers.get("If-Modified-Since", ""))
    return "not modified" if modified_since is not None and modified <= modified_since else None


def _if_range(text: str, modified: int) -> bool:
    # An entity tag is no date either, and there is none to compare it with.
    return not text or _time(text) == modified


def _time(text: str) -> int | None:
    for form in _FORMATS:
        try:
            return round(datetime.strptime(text, form).replace(tzinfo=UTC).timestamp())
        except ValueError:
            continue
    return None
