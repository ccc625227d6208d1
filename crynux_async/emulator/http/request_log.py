"""What was asked of an emulated service, for whoever judges a client by it."""

from collections import deque
from collections.abc import Sequence

import attrs
from aiohttp import web

_SHOWN_HEADERS = ("Range", "If-Range", "If-Modified-Since", "Content-Type", "Connection")


@attrs.define(eq=False, kw_only=True)
class RequestRecord:
    """One request that reached the server.

    Attributes:
        method: Its method.
        path: Its path.
        at: When it arrived, on the loop's clock.
        headers: Those of its headers that tell something about a client's behaviour; never the key.
        has_key: Whether it had an Authorization header.
        status: The status code that was sent, or None when nothing was.
    """

    method: str
    path: str
    at: float
    headers: dict[str, str]
    has_key: bool
    status: int | None = None


class RequestLog:
    """The last requests.

    Args:
        length: How many are remembered, >= 0.
    """

    def __init__(self, length: int) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=length)

    @property
    def records(self) -> Sequence[RequestRecord]:
        """The last requests in order of arrival."""
        return list(self._records)

    def add(self, request: web.BaseRequest, at: float) -> RequestRecord:
        """Remember a request that arrived at ``at``; whoever answers it sets the status."""
        record = RequestRecord(
            method=request.method,
            path=request.path,
            at=at,
            headers={name: request.headers[name] for name in _SHOWN_HEADERS if name in request.headers},
            has_key="Authorization" in request.headers,
        )
        self._records.append(record)
        return record
