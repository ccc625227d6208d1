"""What every emulated service is to its user: a folder, a socket, faults, outages, and a record of requests."""

import secrets
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from aiohttp import web

from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.http.answers import Answer
from crynux_async.emulator.http.control import PREFIX, Call, ControlPlane
from crynux_async.emulator.http.faults import Fault, FaultBook
from crynux_async.emulator.http.listener import Listener, Outage, OutageKind
from crynux_async.emulator.http.request_log import RequestLog, RequestRecord
from crynux_async.emulator.http.sending import Delivery, send
from crynux_async.emulator.http.steering import Entry, Steering

OperationT = TypeVar("OperationT", bound=str)
"""The kinds of calls of a service, by which faults are placed."""


class Served(Protocol):
    """A service that answers requests."""

    def proxy_page(self) -> Answer:
        """Return what a proxy shows while the service is away."""

    async def answer(self, request: web.BaseRequest) -> tuple[Answer, Delivery]:
        """Answer a request, and say how the answer is to be delivered."""


class EmulatedServer(ABC, Generic[OperationT]):
    """The part of an emulated service that does not depend on what it is.

    Args:
        operations: The kinds of calls that it has.
        host: The address that it listens on.
        port: Its port, 0 for a free one.
        folder: Where everything is kept, or None for a folder that goes with the emulator.
        request_log: How many requests are remembered.
        control_token: What the control plane wants; drawn where other machines can reach it and none is given.
    """

    def __init__(
        self,
        operations: Collection[str],
        *,
        host: str,
        port: int,
        folder: str | PathLike[str] | None,
        request_log: int,
        control_token: str | None,
    ) -> None:
        self._folder = None if folder is None else Path(folder)
        self._is_temporary = folder is None
        self._listener = Listener(self._handle, host=host, port=port)
        self._control_token = control_token or (None if self._listener.is_local else secrets.token_urlsafe(24))
        self._faults = FaultBook(operations)
        self._requests = RequestLog(request_log)
        self._clock: ServerClock
        self._served: Served
        self._control: ControlPlane

    @abstractmethod
    async def start(self) -> None:
        """Open the folder and listen.

        Raises:
            OSError: If the folder cannot be used or an address is taken.
        """

    @abstractmethod
    async def close(self) -> None:
        """Stop listening, cut all connections and forget a temporary folder."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The base URL on this machine, without a slash at the end."""
        return self._listener.url

    @property
    def folder(self) -> Path:
        """Where files are kept."""
        if self._folder is None:
            raise RuntimeError("the emulator is not running, and its folder goes with it")
        return self._folder

    @property
    def control_token(self) -> str | None:
        """What the control plane wants in the header ``X-Emulator-Token``, or None."""
        return self._control_token

    @property
    def requests(self) -> Sequence[RequestRecord]:
        """The last requests to the service's own addresses, in order of arrival."""
        return self._requests.records

    def add_fault(self, kind: str, *, on: OperationT | Literal["any"], **parameters: Any) -> Fault:
        """Let something go wrong; see ``crynux_async.emulator.http.faults`` for the kinds.

        Args:
            kind: What goes wrong.
            on: A kind of call (see ``OPERATIONS`` in the service's ``routes``) or "any".
            **parameters: Further attributes of ``Fault``; ``limit_bytes`` is called ``bytes``.

        Returns:
            The fault, which counts its hits.

        Raises:
            ValueError: If there is no such kind, or a parameter makes no sense.
        """
        fault = Fault(kind=kind, on=on, **parameters)
        self._faults.add(fault)
        return fault

    def clear_faults(self) -> None:
        """Let everything go right again."""
        self._faults.clear()

    async def outage(self, seconds: float, *, kind: OutageKind = "html") -> None:
        """Be out of order for a while; an outage that is going on is over.

        Args:
            seconds: How long, on the loop's clock; 0 only ends what is going on.
            kind: "html" answers everything with a proxy's 502 page, "refused" does not even listen, so that the
                control plane is out of reach as well.

        Raises:
            ValueError: An argument makes no sense.
        """
        await self._listener.outage(Outage(seconds=seconds, kind=kind))

    def _open_folder(self) -> Path:
        """Return the folder, made where there was none, and begin to count the service's time."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="crynux-emulator-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._clock = ServerClock()
        return self._folder

    def _drop_folder(self) -> None:
        if self._is_temporary and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _steering(self, forget: Callable[[], None], journal: Callable[[], Iterable[Entry]]) -> Steering:
        return Steering(self._faults, self._listener, self._requests, forget, journal)

    def _plane(self, calls: Mapping[tuple[str, str], Call]) -> ControlPlane:
        return ControlPlane(calls, host=self._listener.host, token=self._control_token)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        # First, so that faults and outages can be ended from outside, and are not counted as requests.
        if request.path.startswith(PREFIX):
            return await self._control.answer(request)
        record = self._requests.add(request, self._clock.now())
        if self._listener.is_out:
            answer, delivery = self._served.proxy_page(), Delivery()
        else:
            answer, delivery = await self._served.answer(request)
        # Not a byte is sent: nobody has seen a status.
        record.status = None if delivery.limit == 0 else answer.status
        return await send(request, answer, delivery, self._listener.hanging_on(request))
