"""An HTTP server on this machine that answers as the Crynux bridge does."""

import asyncio
import shutil
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import attrs
from aiohttp import web

from crynux_async.emulator.bridge.control import PREFIX, control
from crynux_async.emulator.bridge.jobs import Job
from crynux_async.emulator.bridge.journal import JournalEntry
from crynux_async.emulator.bridge.routes import OPERATIONS, Operation, outside, read_body, route
from crynux_async.emulator.bridge.service import Bridge, Create
from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.http.answers import Answer, html, http_date
from crynux_async.emulator.http.faults import Fault, FaultBook
from crynux_async.emulator.http.sending import Delivery, send
from crynux_async.emulator.nodes.node import Network, Progress
from crynux_async.emulator.nodes.unet import SIZES

_SHOWN_HEADERS = ("Range", "If-Range", "If-Modified-Since", "Content-Type", "Connection")
_CLOSE_WAIT = 1.0


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


class Emulator:
    """A bridge on this machine, with nodes that only pretend to train.

    Durations, the rate limit and the age of jobs follow the running loop's clock, so that all of it works on virtual
    time as well. Steering is by the end of the model's name (see ``node.wishes``), by ``add_fault`` and the other
    methods, or by the control plane under ``/_emulator/``.

    Args:
        host: The address to listen on.
        port: The port, or 0 for a free one.
        speed: Seconds of training time that pass in one second, > 0; nothing else is sped up.
        rate_limit: Creates per minute of the keys that ``new_key`` makes.
        folder: Where journal, keys and archives are kept, and found again; None for a folder that goes with the
            emulator.
        images: Images in every data set, >= 1.
        round_overhead: Seconds of training time that a round takes besides its steps, >= 0.
        seconds_per_step: Seconds of training time of an optimizer step, >= 0.
        retention_days: Days until a finished job is deleted; 0 keeps it for ever.
        unet: The size of the model: "tiny" has the same tensors as "sd15", and archives of half a megabyte.
        durable: Whether the journal is forced to the disk at each create; without, a simulation of very many jobs
            is faster.
        request_log: How many requests are remembered.
        archive_limit_bytes: How much of the archives is kept on disk; more is made again when asked for.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        speed: float = 1.0,
        rate_limit: int = 60,
        folder: Path | str | None = None,
        images: int = 8,
        round_overhead: float = 20.0,
        seconds_per_step: float = 1.0,
        retention_days: float = 7.0,
        unet: Literal["sd15", "tiny"] = "sd15",
        durable: bool = True,
        request_log: int = 100_000,
        archive_limit_bytes: int = 2 * 1024**3,
    ) -> None:
        if speed <= 0 or images < 1 or min(round_overhead, seconds_per_step, retention_days) < 0:
            raise ValueError("speed must be > 0, images >= 1, and durations >= 0")
        self._host = host
        self._port = port
        self._rate_limit = rate_limit
        self._folder = None if folder is None else Path(folder)
        self._is_temporary = folder is None
        self._network = Network(
            images=images, round_overhead=round_overhead, seconds_per_step=seconds_per_step, unet=SIZES[unet]
        )
        self._bridge_options: dict[str, Any] = {
            "speed": speed,
            "retention_days": retention_days,
            "durable": durable,
            "archive_limit_bytes": archive_limit_bytes,
        }
        self._faults = FaultBook(OPERATIONS)
        self._requests: deque[RequestRecord] = deque(maxlen=request_log)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._outage_until = 0.0
        self._relisten: asyncio.TimerHandle | None = None
        self._clock: ServerClock
        self._bridge: Bridge | None = None
        self._server: _Server
        self._runner: web.ServerRunner

    async def start(self) -> None:
        """Open the folder and listen."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="crynux-emulator-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._clock = ServerClock()
        self._bridge = Bridge(folder=self._folder, network=self._network, clock=self._clock, **self._bridge_options)
        self._server = _Server(self._handle, access_log=None, auto_decompress=False)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=_CLOSE_WAIT)
        await self._runner.setup()
        await self._listen()

    async def close(self) -> None:
        """Stop listening, cut all connections and forget a temporary folder."""
        if self._bridge is None:
            return
        if self._relisten is not None:
            self._relisten.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._cut_connections(spare=None)
        await self._runner.cleanup()
        await self._bridge.close()
        self._bridge = None
        if self._is_temporary and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def jobs(self) -> Mapping[int, Job]:
        """Every id ever given away, deleted ones included."""
        return self._running.jobs

    @property
    def journal(self) -> Sequence[JournalEntry]:
        """Every id in order, with its key and time."""
        return [self._running.entry(job) for job in self._running.jobs.values()]

    @property
    def requests(self) -> Sequence[RequestRecord]:
        """The last requests to the bridge's own addresses, in order of arrival."""
        return list(self._requests)

    def progress(self, task_id: int) -> Progress:
        """Return how far a job is.

        Raises:
            KeyError: If there never was such an id.
        """
        return self._running.progress(task_id)

    def new_key(
        self,
        *,
        roles: Iterable[str] = ("chat",),
        rate_limit: int | None = None,
        use_limit: int = -1,
        primed: bool = True,
        used_count: int = 0,
        expired: bool = False,
    ) -> str:
        """Make an API key.

        Args:
            roles: "chat" or "admin" opens the calls.
            rate_limit: Creates per minute; None for the emulator's.
            use_limit: LLM calls in all; -1 for no limit.
            primed: Whether the key has been used before; the first job of a key that has not is never delivered.
            used_count: LLM calls so far.
            expired: Whether its year is over.

        Returns:
            Its 44 characters.
        """
        limit = self._rate_limit if rate_limit is None else rate_limit
        limits = {"rate_limit": limit, "use_limit": use_limit, "used_count": used_count, "expired": expired}
        return self._running.new_key(roles=roles, primed=primed, **limits)

    def set_rate_limit(self, api_key: str, limit: int) -> None:
        """Change a key's creates per minute as the bridge's admin call does.

        Of a bucket that is in use only the rate changes; its burst stays until a restart. A key that has created
        nothing since the last restart has no bucket yet and gets one with the new limit.

        Args:
            api_key: The key.
            limit: Creates per minute.

        Raises:
            KeyError: If there is no such key.
        """
        if not self._running.set_rate_limit(api_key, limit):
            raise KeyError("no such API key")

    def add_fault(self, kind: str, *, on: Operation | Literal["any"], **parameters: Any) -> Fault:
        """Let something go wrong; see ``crynux_async.emulator.http.faults`` for the kinds.

        Args:
            kind: What goes wrong.
            on: "create", "status", "result" or "any".
            **parameters: Further attributes of ``Fault``; ``limit_bytes`` is called ``bytes``.

        Returns:
            The fault, which counts its hits.

        Raises:
            ValueError: If there is no such kind.
        """
        fault = Fault(kind=kind, on=on, **parameters)
        self._faults.add(fault)
        return fault

    def clear_faults(self) -> None:
        """Let everything go right again."""
        self._faults.clear()

    def restart(self, *, spare: web.BaseRequest | None = None) -> None:
        """Do what a restart of the bridge does: buckets are forgotten, connections cut, jobs and keys stay.

        Args:
            spare: A request whose connection is kept.
        """
        self._running.buckets.forget()
        self._cut_connections(spare=spare)

    async def outage(
        self, seconds: float, *, kind: Literal["html", "refused"] = "html", spare: web.BaseRequest | None = None
    ) -> None:
        """Be out of order for a while.

        Args:
            seconds: How long, on the loop's clock; 0 ends an outage.
            kind: "html" answers everything with a proxy's 502 page, "refused" does not even listen, so that the
                control plane is out of reach as well.
            spare: A request whose connection is kept.

        Raises:
            ValueError: If the kind is another.
        """
        if kind not in ("html", "refused"):
            raise ValueError("an outage is 'html' or 'refused'")
        if kind == "html":
            self._outage_until = self._clock.now() + seconds
            return
        for site in list(self._runner.sites):
            await site.stop()
        self._cut_connections(spare=spare)
        self._relisten = asyncio.get_running_loop().call_later(seconds, self._spawn_listen)

    @property
    def _running(self) -> Bridge:
        if self._bridge is None:
            raise RuntimeError("the emulator is not running: use 'async with Emulator(...)' or await start()")
        return self._bridge

    def _spawn_listen(self) -> None:
        task = asyncio.get_running_loop().create_task(self._listen())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = site.port

    def _cut_connections(self, *, spare: web.BaseRequest | None) -> None:
        for connection in self._server.connections:
            if spare is None or connection is not spare.protocol:
                connection.force_close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if request.path.startswith(PREFIX):
            return await control(self, request)
        record = self._record(request)
        if self._clock.now() < self._outage_until:
            record.status = 502
            return await send(request, self._dated(html(502)), Delivery(), self._hang_on(request))
        answer, delivery = await self._answer(request)
        record.status = None if delivery.limit == 0 else answer.status
        return await send(request, answer, delivery, self._hang_on(request))

    def _dated(self, answer: Answer) -> Answer:
        return attrs.evolve(answer, headers=(*answer.headers, ("Date", http_date(self._clock.wall()))))

    def _record(self, request: web.BaseRequest) -> RequestRecord:
        headers = {name: request.headers[name] for name in _SHOWN_HEADERS if name in request.headers}
        record = RequestRecord(
            method=request.method,
            path=request.path,
            at=self._clock.now(),
            headers=headers,
            has_key="Authorization" in request.headers,
        )
        self._requests.append(record)
        return record

    async def _answer(self, request: web.BaseRequest) -> tuple[Answer, Delivery]:
        call = route(request.method, request.path)
        if call is None:
            return self._dated(outside(request)), Delivery()
        operation, id_text = call
        task_id = int(id_text) if id_text.isascii() and id_text.isdigit() and len(id_text) < 20 else None
        fault = self._faults.take(operation, task_id)
        if fault is None:
            return self._dated(await self._carry_out(request, operation, id_text)), Delivery()
        answer = None
        if fault.is_carried_out:
            if fault.kind == "changed" and task_id is not None:
                self._running.replace_archive(task_id)
            answer = await self._carry_out(request, operation, id_text, ignore_range=fault.kind == "ignore_range")
        spoiled = self._dated(fault.spoil(answer))
        if answer is not None and answer.file is not None and spoiled.file is None:
            answer.file.close()
        return spoiled, fault.delivery(spoiled)

    async def _carry_out(
        self, request: web.BaseRequest, operation: Operation, id_text: str, *, ignore_range: bool = False
    ) -> Answer:
        if operation == "status":
            return self._running.status(id_text)
        if operation == "result":
            headers = request.headers.copy()
            if ignore_range:
                headers.pop("Range", None)
            return await self._running.result(id_text, headers)
        body, is_too_large = await read_body(request)
        return self._running.create(
            Create(
                body=body,
                content_type=request.headers.get("Content-Type", ""),
                query=request.query_string,
                authorization=request.headers.get("Authorization", ""),
                is_too_large=is_too_large,
            )
        )

    def _hang_on(self, request: web.BaseRequest) -> Callable[[], Awaitable[None]]:
        async def hang() -> None:
            if request.transport is not None:
                waiter = self._server.waiting[request.protocol] = asyncio.get_running_loop().create_future()
                await waiter

        return hang
