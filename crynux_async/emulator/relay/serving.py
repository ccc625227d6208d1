"""A request to the relay: carried out, and spoiled when a fault waits for it.

Source: crynux-relay api/app.go; gadgeto tonic (indented JSON in debug mode), gin Recovery (500 without a body).
"""

import inspect
import json

import attrs
from aiohttp import web

from crynux_async.emulator import go_json
from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.http.answers import JSON_TYPE, Answer, RefusedError, html, http_date
from crynux_async.emulator.http.faults import Fault, FaultBook
from crynux_async.emulator.http.receiving import read_body
from crynux_async.emulator.http.sending import Delivery
from crynux_async.emulator.http.spoiling import delivery, spoiled
from crynux_async.emulator.relay.inputs import Call
from crynux_async.emulator.relay.routes import Route, outside, route, with_origin
from crynux_async.emulator.relay.service import Service
from crynux_async.emulator.signatures import PanicError

_UNAUTHORIZED = 401


@attrs.define(eq=False, kw_only=True)
class FaultyRelay:
    """The relay as its clients meet it.

    Attributes:
        service: The relay.
        faults: What goes wrong.
        clock: The relay's clock, without the skew that its calls see.
        body_limit: Bytes of a body that are read.
        indent: Whether JSON is indented, as with the template's configuration.
    """

    service: Service
    faults: FaultBook
    clock: ServerClock
    body_limit: int
    indent: bool

    async def answer(self, request: web.BaseRequest) -> tuple[Answer, Delivery]:
        """Return what a request gets, and how it is to reach the client."""
        raw_path = request.path_qs.partition("?")[0]
        found = route(request.method, raw_path)
        has_origin = "Origin" in request.headers
        if found is None:
            return self._finished(outside(request.method, raw_path, has_origin=has_origin)), Delivery()
        fault = self.faults.take(found.operation, found.path.get("task_id_commitment"))
        if fault is None:
            answer = await self._carry_out(request, found)
            return self._finished(with_origin(answer) if has_origin else answer), Delivery()
        return await self._spoil(request, found, fault)

    def proxy_page(self) -> Answer:
        """Return what a proxy says when the relay is out of order."""
        return self._finished(html(502))

    async def _spoil(self, request: web.BaseRequest, found: Route, fault: Fault) -> tuple[Answer, Delivery]:
        answer = None
        if fault.is_carried_out:
            answer = await self._carry_out(request, found, ignore_range=fault.kind == "ignore_range")
        instead = self._finished(spoiled(fault, answer))
        if answer is not None and answer.file is not None and instead.file is None:
            answer.file.close()
        return instead, delivery(fault, instead)

    async def _carry_out(self, request: web.BaseRequest, found: Route, *, ignore_range: bool = False) -> Answer:
        headers = request.headers.copy()
        if ignore_range:
            headers.pop("Range", None)
        body, is_too_large = (b"", False)
        if request.method != "GET":
            body, is_too_large = await read_body(request, self.body_limit)
        call = Call(
            method=request.method,
            path=found.path,
            query=request.query_string,
            headers=headers,
            body=body,
            is_too_large=is_too_large,
        )
        try:
            # Before the call, so that it sees what the relay's own loops have done by now.
            self.service.relay.advance(self.service.wall())
            answer = found.handler(self.service, call)
            return await answer if inspect.isawaitable(answer) else answer
        except RefusedError as refused:
            return refused.answer
        except PanicError:
            # A panic: empty, and not in the form of any other answer.
            return Answer(status=500)
        finally:
            # Before the answer is sent: what was answered 200 must outlive a kill.
            self.service.save()

    def _finished(self, answer: Answer) -> Answer:
        """Return an answer as it is sent: indented if it must be, and with its date."""
        # What refuses a missing token writes its JSON by itself, always compact.
        if self.indent and answer.header("Content-Type") == JSON_TYPE and answer.status != _UNAUTHORIZED:
            document = json.loads(b"".join(answer.chunks()))
            answer = attrs.evolve(answer, body=(go_json.encode(document, indent=4),))
        return attrs.evolve(answer, headers=(*answer.headers, ("Date", http_date(self.clock.wall()))))
