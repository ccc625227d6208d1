"""Real uvicorn with several workers, as a person starts it, and a browser's way of reading its streams."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs

_ADDRESS = re.compile(rb"running on (http://127\.0\.0\.1:\d+)")
_ROOT = Path(__file__).parents[2]
_AGAIN = 0.05  # a browser waits a second
WORKER = """
import socket, sys, uvicorn
server = uvicorn.Server(uvicorn.Config(sys.argv[1], access_log=False))
server.run(sockets=[socket.socket(fileno=int(number)) for number in sys.argv[2:]])
"""


@attrs.define(eq=False)
class Process:
    """A process of a server.

    Attributes:
        process: It.
        log: What it has said.
        own_url: Where a worker alone answers, or "".
    """

    process: asyncio.subprocess.Process
    log: bytearray
    own_url: str = ""

    async def wait_for(self, words: bytes, times: int = 1) -> None:
        """Wait until the log says something so many times."""
        while self.log.count(words) < times:
            assert self.process.returncode is None, self.log.decode()
            await asyncio.sleep(0.02)

    async def begun(self, workers: int = 1) -> None:
        """Wait until it answers."""
        await self.wait_for(b"Application startup complete", workers)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return how it ended."""
        self.process.send_signal(number)
        return await self.process.wait()


@asynccontextmanager
async def running(
    *arguments: str, environment: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> AsyncIterator[Process]:
    """Run Python for the block; what still runs then is killed, with all that it has started."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=_ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    log = bytearray()
    listening = asyncio.create_task(_listen(process, log))
    try:
        yield Process(process=process, log=log)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await listening


@asynccontextmanager
async def running_server(
    application: str, environment: Mapping[str, str], *, workers: int
) -> AsyncIterator[tuple[str, Process]]:
    """Run ``uvicorn --workers`` for the block, and give its address."""
    arguments = ["-m", "uvicorn", application, "--port", "0", "--workers", str(workers)]
    async with running(*arguments, environment=environment) as server:
        await server.wait_for(b"running on")
        await server.begun(workers)
        found = _ADDRESS.search(server.log)
        assert found is not None
        yield found[1].decode(), server


class Workers:
    """Workers of one server that a test starts and ends one by one: each has the same listening socket.

    Which of them takes a connection there is the kernel's choice, and may be the same one for all: so each has another
    socket of its own, too.

    Args:
        application: What they run.
        environment: What they find in theirs.
        stack: Ends what still runs.
    """

    def __init__(self, application: str, environment: Mapping[str, str], stack: AsyncExitStack) -> None:
        self._application = application
        self._environment = environment
        self._stack = stack
        self._socket = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def start(self) -> Process:
        """Start one more; it answers when it has ``begun``."""
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as own:
            numbers = [self._socket.fileno(), own.fileno()]
            arguments = ["-c", WORKER, self._application, *map(str, numbers)]
            worker = running(*arguments, environment=self._environment, pass_fds=numbers)
            started = await self._stack.enter_async_context(worker)
            started.own_url = f"http://127.0.0.1:{own.getsockname()[1]}"
        return started


async def _listen(process: asyncio.subprocess.Process, log: bytearray) -> None:
    assert process.stdout is not None
    while piece := await process.stdout.read(65536):
        log += piece


@attrs.define(eq=False)
class Reader:
    """What an ``EventSource`` of a browser does: it comes back behind the last event that it has seen.

    Attributes:
        numbers: Of the events that came, in order.
        states: Which the events told.
        cuts: How often the stream was cut.
        workers: Which processes have answered.
        is_over: Whether nothing more happens to the job.
    """

    numbers: list[int] = attrs.field(factory=list)
    states: list[str] = attrs.field(factory=list)
    cuts: int = 0
    workers: set[str] = attrs.field(factory=set)
    is_over: bool = False

    async def read(self, client: aiohttp.ClientSession, first: str, url: str) -> None:
        """Read until nothing more happens to the job.

        Args:
            client: Asks.
            first: The address to begin at.
            url: The address to come back to.
        """
        while not self.is_over:
            self.is_over = await self._read_on(client, url if self.cuts else first)
            if not self.is_over:
                self.cuts += 1
                await asyncio.sleep(_AGAIN)

    async def _read_on(self, client: aiohttp.ClientSession, url: str) -> bool:
        """Read until the stream is cut, and return whether nothing more happens to the job."""
        headers = {"Last-Event-ID": str(self.numbers[-1])} if self.numbers else {}
        try:
            async with client.get(url, headers=headers) as answer:
                if answer.status == 204:
                    return True
                answer.raise_for_status()
                self.workers.add(answer.headers["x-worker"])
                return await self._take(answer)
        except aiohttp.ClientError:
            return False

    async def _take(self, answer: aiohttp.ClientResponse) -> bool:
        name = ""
        async for raw in answer.content:
            field, _, value = raw.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data" and not name:
                event = json.loads(value)
                self.numbers.append(event["number"])
                self.states += [event["state"]] if "state" in event else []
        return name == "end"


async def ask_until_answered(client: aiohttp.ClientSession, method: str, url: str, **options: Any) -> Any:
    """Ask as a client that tries again whenever the connection breaks, or the ledger is said to be away for a while.

    Returns:
        The answer, its body read.
    """
    while True:
        try:
            async with client.request(method, url, **options) as answer:
                await answer.read()
                if answer.status != 503:
                    return answer
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
            pass
        await asyncio.sleep(_AGAIN)
