"""``aioresponses`` made to fit the aiohttp that is installed; for small JSON answers, not for streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock

from aiohttp import ClientResponse
from aioresponses import aioresponses


class MockedResponse(ClientResponse):
    """A response that can be made without the stream writer, which aioresponses 0.7.9 does not know."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", Mock(output_size=0))
        super().__init__(*args, **kwargs)


class MockedHttp(aioresponses):
    """``aioresponses`` that makes responses of that class and remembers every call in order."""

    def add(self, url: Any, method: str = "GET", **options: Any) -> None:  # type: ignore[override]
        """Register an answer."""
        super().add(url, method, **{"response_class": MockedResponse, **options})

    def calls(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Return method, address and arguments of every call."""
        return [(method, str(url), call.kwargs) for (method, url), calls in self.requests.items() for call in calls]


@contextmanager
def mocked_http() -> Iterator[MockedHttp]:
    """Answer aiohttp requests from memory; an address that was not registered cannot be reached."""
    mocked = MockedHttp()
    with mocked:
        yield mocked
