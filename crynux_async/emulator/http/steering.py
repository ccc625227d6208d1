"""The calls of a control plane that every emulated service has, on the parts that they are about."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import attrs
from aiohttp import web

from crynux_async.emulator.http.control import Call, Nothing, RefusalError
from crynux_async.emulator.http.faults import Fault, FaultBook
from crynux_async.emulator.http.listener import Listener, Outage
from crynux_async.emulator.http.request_log import RequestLog

_SHOWN_REQUESTS = 1000


class Entry(Protocol):
    """One entry of a journal."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""


@attrs.define(eq=False)
class Steering:
    """Faults, outages, restarts, and what was asked and made.

    Attributes:
        faults: What is to go wrong.
        listener: The socket.
        requests: What was asked of the service.
        forget: Lets the service forget what a restart makes it forget.
        journal: Returns everything that was ever made.
    """

    faults: FaultBook
    listener: Listener
    requests: RequestLog
    forget: Callable[[], None]
    journal: Callable[[], Iterable[Entry]]

    def calls(self) -> Mapping[tuple[str, str], Call]:
        """Return every call by method and path."""
        return {
            ("POST", "faults"): Call(Fault, self._add_fault),
            ("DELETE", "faults"): Call(Nothing, self._clear_faults),
            ("POST", "restart"): Call(Nothing, self._restart),
            ("POST", "outage"): Call(Outage, self._outage),
            ("GET", "journal"): Call(Nothing, self._journal),
            ("GET", "requests"): Call(Nothing, self._requests),
        }

    async def _add_fault(self, fault: Fault, _: web.BaseRequest) -> Any:
        try:
            self.faults.add(fault)
        except ValueError as error:
            raise RefusalError(400, str(error)) from error
        return {}

    async def _clear_faults(self, _: Nothing, __: web.BaseRequest) -> Any:
        self.faults.clear()
        return {}

    async def _restart(self, _: Nothing, request: web.BaseRequest) -> Any:
        self.forget()
        self.listener.cut_connections(spare=request)
        return {}

    async def _outage(self, outage: Outage, request: web.BaseRequest) -> Any:
        await self.listener.outage(outage, spare=request)
        return {}

    async def _journal(self, _: Nothing, __: web.BaseRequest) -> Any:
        return [entry.as_dict() for entry in self.journal()]

    async def _requests(self, _: Nothing, __: web.BaseRequest) -> Any:
        return [attrs.asdict(record) for record in self.requests.records[-_SHOWN_REQUESTS:]]
