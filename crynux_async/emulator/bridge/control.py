"""What the control plane of the emulated bridge can do."""

from collections.abc import Mapping
from typing import Any

import attrs
from aiohttp import web

from crynux_async.emulator.bridge.keys import KeyOptions
from crynux_async.emulator.bridge.service import Bridge
from crynux_async.emulator.http import checks
from crynux_async.emulator.http.control import Call, Nothing, RefusalError
from crynux_async.emulator.http.faults import Fault, FaultBook
from crynux_async.emulator.http.listener import Listener, Outage
from crynux_async.emulator.http.request_log import RequestLog

_SHOWN_REQUESTS = 1000


@attrs.frozen(kw_only=True)
class FreshKeyOptions(KeyOptions):
    """A key as the real bridge's admin call makes it, but for the role without which it opens nothing."""

    rate_limit: int = attrs.field(default=1, validator=checks.integer())
    use_limit: int = attrs.field(default=20, validator=checks.integer())
    primed: bool = attrs.field(default=False, validator=checks.flag())


@attrs.frozen(kw_only=True)
class NewLimit:
    """Another rate limit for a key.

    Attributes:
        api_key: The key.
        rate_limit: Creates per minute.
    """

    api_key: str = attrs.field(validator=checks.text(), repr=False)
    rate_limit: int = attrs.field(validator=checks.integer())


@attrs.define(eq=False)
class BridgeControl:
    """The calls, on the parts that they are about.

    Attributes:
        bridge: The bridge.
        faults: Its faults.
        listener: Its socket.
        requests: What was asked of it.
    """

    bridge: Bridge
    faults: FaultBook
    listener: Listener
    requests: RequestLog

    def calls(self) -> Mapping[tuple[str, str], Call]:
        """Return every call by method and path."""
        return {
            ("POST", "keys"): Call(FreshKeyOptions, self._new_key),
            ("POST", "keys/limit"): Call(NewLimit, self._set_limit),
            ("POST", "faults"): Call(Fault, self._add_fault),
            ("DELETE", "faults"): Call(Nothing, self._clear_faults),
            ("POST", "restart"): Call(Nothing, self._restart),
            ("POST", "outage"): Call(Outage, self._outage),
            ("GET", "journal"): Call(Nothing, self._journal),
            ("GET", "requests"): Call(Nothing, self._requests),
        }

    async def _new_key(self, options: KeyOptions, _: web.BaseRequest) -> Any:
        return {"api_key": self.bridge.database.new_key(options)}

    async def _set_limit(self, new: NewLimit, _: web.BaseRequest) -> Any:
        if not self.bridge.set_rate_limit(new.api_key, new.rate_limit):
            raise RefusalError(400, "api_key: there is no such key")
        return {}

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
        self.bridge.buckets.forget()
        self.listener.cut_connections(spare=request)
        return {}

    async def _outage(self, outage: Outage, request: web.BaseRequest) -> Any:
        await self.listener.outage(outage, spare=request)
        return {}

    async def _journal(self, _: Nothing, __: web.BaseRequest) -> Any:
        return [entry.as_dict() for entry in self.bridge.database.entries()]

    async def _requests(self, _: Nothing, __: web.BaseRequest) -> Any:
        return [attrs.asdict(record) for record in self.requests.records[-_SHOWN_REQUESTS:]]
