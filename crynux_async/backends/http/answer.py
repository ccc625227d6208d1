"""What came back over HTTP, as a value that no socket hangs on. Pure."""

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import attrs

from crynux_async.values import Value

MAX_ANSWER_BYTES = 1 << 20
KEPT_ANSWER_CHARS = 1 << 16
# What a network answers in the place of every server, until somebody logs in to it (RFC 6585, section 6).
LOGIN_WANTED = 511

_RANGE = r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)"
_UNSATISFIED = r"bytes \*/([0-9]{1,18})"


@attrs.frozen(kw_only=True)
class Answer(Value):
    """One HTTP answer whose body has been read.

    Attributes:
        status: HTTP status.
        content_type: The media type without parameters, in lower case, or "".
        body: The body, at most as many bytes as were asked for.
        url: What was asked, without secrets.
        truncated: Whether the body was longer than that.
        content_range: The ``Content-Range`` header, or "".
        location: The ``Location`` header, or "".
        date: The ``Date`` header, or "".
    """

    status: int
    content_type: str
    body: bytes
    url: str
    truncated: bool = False
    content_range: str = ""
    location: str = ""
    date: str = ""

    @property
    def text(self) -> str:
        """The beginning of the body as text, at most 64 KiB."""
        return self.body[:KEPT_ANSWER_CHARS].decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        """What the body says as JSON, or None where it is none or not whole."""
        if self.truncated:
            return None
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def facts(self) -> dict[str, Any]:
        """What every error about this answer carries."""
        return {"status": self.status, "answer": self.text, "url": self.url}

    @property
    def summary(self) -> str:
        """What it is, in a few words."""
        kind = self.content_type or "no content type"
        size = f"more than {len(self.body) >> 20} MiB" if self.truncated else f"{len(self.body)} bytes"
        start = " ".join(self.text[:200].split())[:80]
        return f"HTTP {self.status} ({kind}, {size}{': ' + start if start else ''})"

    @property
    def whole_bytes(self) -> int | None:
        """Size of the whole body, as a refused ``Range`` tells it, or None where it does not."""
        match = re.fullmatch(_UNSATISFIED, self.content_range.strip())
        return int(match[1]) if match else None

    @property
    def server_time(self) -> datetime | None:
        """What the server's clock showed, in whole seconds, or None where it was not told or is no time."""
        try:
            return parsedate_to_datetime(self.date).astimezone(UTC)
        except (ValueError, OverflowError):  # year 9999 in a time zone west of Greenwich has no UTC
            return None


def parse_content_range(text: str) -> tuple[int, int, int | None] | None:
    """Return first byte, last byte and total (None for "*") of a ``Content-Range``, or None where it makes no sense."""
    match = re.fullmatch(_RANGE, text.strip())
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    return (first, last, total) if first <= last and (total is None or last < total) else None
