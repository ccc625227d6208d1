"""A request to the bridge: carried out, and spoiled when a fault waits for it."""

import attrs
from aiohttp import web

from crynux_async.emulator.bridge.admin import Admin
from crynux_async.emulator.bridge.routes import Operation, outside, read_body, route
from crynux_async.emulator.bridge.service import Bridge, Create
from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.http.answers import Answer, html, http_date
from crynux_async.emulator.http.faults import Fault, FaultBook
from crynux_async.emulator.http.sending import Delivery
from crynux_async.emulator.http.spoiling import delivery, spoiled

_LONGEST_ID = 19


@attrs.define(eq=False, kw_only=True)
class FaultyBridge:
    """The bridge as its clients meet it.

    Attributes:
        bridge: The bridge.
        admin: Its calls besides jobs.
        faults: What goes wrong.
        clock: The server's clock, for the Date of every answer.
    """

    bridge: Bridge
    admin: Admin
    faults: FaultBook
    clock: ServerClock

    async def answer(self, request: web.BaseRequest) -> tuple[Answer, Delivery]:
        """Return what a request gets, and how it is to reach the client."""
        call = route(request.method, request.path)
        if call is None:
            return self._dated(await self.admin.answer(request) or outside(request)), Delivery()
        operation, id_text = call
        fault = self.faults.take(operation, _known_id(id_text))
        if fault is None:
            return self._dated(await self._carry_out(request, operation, id_text)), Delivery()
        answer = await self._carry_out_with(fault, request, operation, id_text) if fault.is_carried_out else None
        instead = self._dated(spoiled(fault, answer))
        # A file that is not sent has nobody else who would close it.
        if answer is not None and answer.file is not None and instead.file is None:
            answer.file.close()
        return instead, delivery(fault, instead)

    def proxy_page(self) -> Answer:
        """Return what a proxy says when the bridge is out of order."""
        return self._dated(html(502))

    async def _carry_out_with(
        self, fault: Fault, request: web.BaseRequest, operation: Operation, id_text: str
    ) -> Answer:
        task_id = _known_id(id_text)
        if fault.kind == "changed" and task_id is not None:
            self.bridge.replace_archive(task_id)
        return await self._carry_out(request, operation, id_text, ignore_range=fault.kind == "ignore_range")

    async def _carry_out(
        self, request: web.BaseRequest, operation: Operation, id_text: str, *, ignore_range: bool = False
    ) -> Answer:
        if operation == "status":
            return self.bridge.status(id_text)
        if operation == "result":
            headers = request.headers.copy()
            if ignore_range:
                headers.pop("Range", None)
            return await self.bridge.result(id_text, headers)
        body, is_too_large = await read_body(request)
        return await self.bridge.create(
            Create(
                body=body,
                content_type=request.headers.get("Content-Type", ""),
                query=request.query_string,
                authorization=request.headers.get("Authorization", ""),
                is_too_large=is_too_large,
            )
        )

    def _dated(self, answer: Answer) -> Answer:
        return attrs.evolve(answer, headers=(*answer.headers, ("Date", http_date(self.clock.wall()))))


def _known_id(id_text: str) -> int | None:
    """Return the id that a fault may wait for, or None when the text in the address is no plain number."""
    is_plain = id_text.isascii() and id_text.isdigit() and len(id_text) <= _LONGEST_ID
    return int(id_text) if is_plain else None
