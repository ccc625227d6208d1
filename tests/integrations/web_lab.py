"""A web application around a service in memory, and what asks it: without sockets, on virtual time."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import attrs
import httpx
from fastapi import FastAPI, Header, HTTPException

from crynux_async.integrations.fastapi import Crynux
from tests.fake_backend import FakeBackend

GOOD = {
    "model_name": "crynux-ai/stable-diffusion-v1-5",
    "dataset_url": "https://example.com/pictures.zip",
    "max_train_steps": 100,
    "seed": 42,
    "timeout": 1800,
}
PROBLEM = "application/problem+json"


def known_customer(x_customer: Annotated[str, Header()] = "") -> str:
    """Say who asks, by a header; a real application would look at a session or a token."""
    if not x_customer:
        raise HTTPException(401, "sign in first", headers={"WWW-Authenticate": "Bearer"})
    return x_customer


@attrs.define(eq=False)
class Web:
    """An application, and a client of it."""

    app: FastAPI
    crynux: Crynux
    client: httpx.AsyncClient
    backend: FakeBackend

    async def submit(self, config: dict[str, Any] | None = None, **options: Any) -> str:
        """Submit a config, and return the path of its job."""
        answer = await self.client.post("/jobs", json=config or GOOD, **options)
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    async def state(self, path: str, **options: Any) -> str:
        return (await self.client.get(path, **options)).json()["state"]

    async def finished(self, path: str, **options: Any) -> dict[str, Any]:
        """Wait until nothing more happens to a job, and return what is told of it then."""
        await self.client.get(f"{path}/events", **options)
        return (await self.client.get(path, **options)).json()


@asynccontextmanager
async def opened_web(
    folder: Path, *, backend: Any = None, ledger: Any = "jobs.db", **options: Any
) -> AsyncIterator[Web]:
    """Run an application for the block."""
    backend = backend or FakeBackend(duration=60)
    place = folder / ledger if isinstance(ledger, str) else ledger
    open_to_all = {"public": True} if "authorize" not in options else {}
    service = {"api_key": "k" * 44, "rate_limit": 6000}
    crynux = Crynux(ledger=place, folder=folder / "models", backend=backend, **{**open_to_all, **service, **options})
    app = FastAPI()
    app.include_router(crynux.router())
    transport = httpx.ASGITransport(app)
    async with crynux.lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://web") as client:
        yield Web(app=app, crynux=crynux, client=client, backend=backend)


@attrs.frozen
class SentEvent:
    """One server-sent event."""

    name: str
    number: int | None
    data: dict[str, Any]


class EventSource:
    """Reads an event stream as it comes, which httpx's ASGI transport does not."""

    def __init__(self, app: FastAPI, path: str, headers: dict[str, str] | None = None) -> None:
        self._app = app
        raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path.partition("?")[0],
            "raw_path": path.partition("?")[0].encode(),
            "query_string": path.partition("?")[2].encode(),
            "root_path": "",
            "headers": raw,
            "client": ("127.0.0.1", 1),
            "server": ("web", 80),
        }
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._begun = asyncio.Event()
        self._left = asyncio.Event()
        self.comments: list[str] = []
        self.status = 0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "EventSource":
        self._task = asyncio.create_task(self._run())
        await self._begun.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()  # what a server does when the browser goes away
        await asyncio.gather(self._task, return_exceptions=True)

    async def leave(self) -> None:
        """Close the connection, and wait until the application has heard of it."""
        assert self._task is not None
        self._left.set()
        await self._task

    async def next(self) -> SentEvent | None:
        """Return the next event that is no comment, or None at the end of the stream."""
        while (piece := await self._pieces.get()) is not None:
            lines = [line for line in piece.decode().splitlines() if line]
            self.comments += [line[2:] for line in lines if line[0] == ":"]
            fields = dict(line.split(": ", 1) for line in lines if line[0] != ":")
            if "data" in fields:
                number = int(fields["id"]) if fields.get("id", "").isdecimal() else None
                return SentEvent(fields.get("event", "message"), number, json.loads(fields["data"]))
        return None

    async def rest(self) -> list[SentEvent]:
        """Return all events that are left."""
        events = []
        while (event := await self.next()) is not None:
            events.append(event)
        return events

    async def _run(self) -> None:
        async def receive() -> dict[str, Any]:
            await self._left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self._begun.set()
            elif message["body"]:
                self._pieces.put_nowait(message["body"])

        try:
            await self._app(self._scope, receive, send)
        finally:
            self._pieces.put_nowait(None)
            self._begun.set()
