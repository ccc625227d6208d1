"""The socket of an emulated service: it listens, cuts connections, and is out of order when asked."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any, Literal, get_args

import attrs
from aiohttp import web

from crynux_async.emulator.http import checks

OutageKind = Literal["html", "refused"]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_CLOSE_WAIT = 1.0
_LISTEN_AGAIN = 1.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


@attrs.frozen(kw_only=True)
class Outage:
    """A time in which a service does not do its work.

    Attributes:
        seconds: How long, on the loop's clock, >= 0; 0 ends an outage of either kind.
        kind: "html" answers everything with a proxy's page, "refused" does not even listen.
    """

    seconds: float = attrs.field(validator=checks.number(low=0))
    kind: OutageKind = attrs.field(default="html", validator=checks.one_of(*get_args(OutageKind)))


class _Server(web.Server):
    """An aiohttp server that knows who waits for a connection to end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.waiting: dict[web.RequestHandler, asyncio.Future[None]] = {}

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        waiter = self.waiting.pop(handler, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Listener:
    """A server on one address, and everything that is connected to it.

    Args:
        handler: Answers a request.
        host: The address to listen on; "" for all of IPv4.
        port: The port, or 0 for a free one, which then stays the same.
    """

    def __init__(self, handler: Handler, *, host: str, port: int) -> None:
        self._handler = handler
        # An empty host would be two sockets, of IPv4 and IPv6, each on a free port of its own.
        self._host = host or "0.0.0.0"  # noqa: S104
        self._port = port
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_out_until = 0.0
        self._return: asyncio.Task[None] | None = None
        self._server: _Server
        self._runner: web.ServerRunner

    @property
    def url(self) -> str:
        """An address of the service on this machine, without a slash at the end."""
        host = _EVERYWHERE.get(self._host, self._host)
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    @property
    def host(self) -> str:
        """The address that it listens on."""
        return self._host

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self._host).is_loopback
        except ValueError:
            return self._host == "localhost"

    @property
    def is_out(self) -> bool:
        """Whether everything is answered with a proxy's page now."""
        return asyncio.get_running_loop().time() < self._is_out_until

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: If the address is taken or not this machine's.
        """
        # Go's server hands a body on as it came, compressed or not.
        self._server = _Server(self._handle, access_log=None, auto_decompress=False)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_CLOSE_WAIT)
        await self._runner.setup()
        try:
            await self._listen()
        except BaseException:
            await self._runner.cleanup()
            raise

    async def close(self) -> None:
        """Stop listening, stop all answers and cut all connections."""
        self._forget_outage()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.cut_connections()
        await self._runner.cleanup()

    def cut_connections(self, *, spare: web.BaseRequest | None = None) -> None:
        """Close every connection but that of ``spare``."""
        for connection in self._server.connections:
            if spare is None or connection is not spare.protocol:
                connection.force_close()

    async def outage(self, outage: Outage, *, spare: web.BaseRequest | None = None) -> None:
        """Be out of order for a while, whatever was the case before; an earlier outage is over.

        Args:
            outage: How and for how long.
            spare: A request whose connection is kept.
        """
        self._forget_outage()
        if outage.kind == "html" or not outage.seconds:
            self._is_out_until = asyncio.get_running_loop().time() + outage.seconds
            await self._listen_again()
            return
        for site in list(self._runner.sites):
            await site.stop()
        self.cut_connections(spare=spare)
        self._return = self._spawn(self._listen_in(outage.seconds))

    def hanging_on(self, request: web.BaseRequest) -> Callable[[], Awaitable[None]]:
        """Return what waits until the connection of a request is gone."""

        async def hang() -> None:
            # aiohttp lets a handler go on when its client is gone, so the connection itself must tell.
            if request.transport is not None:
                waiter = self._server.waiting[request.protocol] = asyncio.get_running_loop().create_future()
                await waiter

        return hang

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            self._keep(task)
        return await self._handler(request)

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._keep(task)
        return task

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _forget_outage(self) -> None:
        self._is_out_until = 0.0
        if self._return is not None:
            self._return.cancel()
            self._return = None

    async def _listen_in(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen_again()

    async def _listen_again(self) -> None:
        try:
            await self._listen()
        except OSError:
            # Somebody else has taken the port meanwhile; it is ours again when he is gone.
            self._return = self._spawn(self._listen_in(_LISTEN_AGAIN))

    async def _listen(self) -> None:
        if self._runner.sites:
            return
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except BaseException:
            await site.stop()  # a site that did not start is registered all the same
            raise
        self._port = site.port
