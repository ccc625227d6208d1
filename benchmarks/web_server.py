"""The servers that ``benchmarks.web`` asks: ``python -m benchmarks.web_server NAME DESCRIPTOR``."""

import asyncio
import os
import socket
import sqlite3
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent

from crynux_async.clock import utc_now
from crynux_async.events import JobProgressed
from crynux_async.integrations.fastapi import Crynux, Limits

PAUSE = 0.02


def crynux_app(folder: Path) -> FastAPI:
    """Return an application with the routes of this library, and one that lets something happen to jobs."""
    crynux = Crynux(ledger=folder / "jobs.db", folder=folder / "models", public=True, limits=Limits(streams=None))
    app = FastAPI(lifespan=crynux.lifespan)
    app.include_router(crynux.router())

    @app.post("/tell")
    async def tell(jobs: list[str], events: int) -> None:
        supervisor = crynux.session._supervisor
        assert supervisor is not None
        for number in range(events):
            name = jobs[number % len(jobs)]
            supervisor.register.tell(JobProgressed(job_id=name, task_id=None, at=utc_now(), stage=f"step {number}"))
            record = supervisor.register.get(name)
            assert record is not None
            supervisor.register.note(record)
            await asyncio.sleep(PAUSE)

    return app


def bare_app(folder: Path) -> FastAPI:
    """Return what one would write first: a handler that inserts a row, and streams that are fed from memory."""
    rows = sqlite3.connect(folder / "bare.db", isolation_level=None, check_same_thread=False)
    rows.execute("PRAGMA journal_mode=WAL")
    rows.execute("PRAGMA synchronous=FULL")
    rows.execute("CREATE TABLE jobs (id INTEGER PRIMARY KEY, key TEXT UNIQUE, config TEXT, at REAL)")
    thread = ThreadPoolExecutor(1)
    readers: defaultdict[str, set[asyncio.Queue[tuple[int, str]]]] = defaultdict(set)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        thread.shutdown()
        rows.close()

    app = FastAPI(lifespan=lifespan)

    def insert(config: str) -> int | None:
        return rows.execute(
            "INSERT INTO jobs (key, config, at) VALUES (?, ?, ?)", (os.urandom(8).hex(), config, time.time())
        ).lastrowid

    @app.post("/jobs", status_code=202)
    async def submit(config: dict[str, Any]) -> dict[str, Any]:
        number = await asyncio.get_running_loop().run_in_executor(thread, insert, str(config))
        return {"job_id": number, "config": config}

    @app.get("/jobs/{name}/events", response_class=EventSourceResponse)
    async def events(name: str) -> AsyncIterator[ServerSentEvent]:
        queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue()
        readers[name].add(queue)
        try:
            while True:
                number, at = await queue.get()
                yield ServerSentEvent(raw_data=f'{{"stage": "step {number}", "at": "{at}"}}', id=str(number))
        finally:
            readers[name].discard(queue)

    @app.post("/tell")
    async def tell(jobs: list[str], events: int) -> None:
        for number in range(events):
            name, at = jobs[number % len(jobs)], utc_now().isoformat()
            await asyncio.get_running_loop().run_in_executor(thread, insert, at)
            for queue in readers[name]:
                queue.put_nowait((number, at))
            await asyncio.sleep(PAUSE)

    return app


APPLICATIONS = {"crynux": crynux_app, "bare": bare_app}


def main(name: str, descriptor: str) -> None:
    """Serve one of them on a socket that is there."""
    app = APPLICATIONS[name](Path(os.environ["WEB_FOLDER"]))
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    main(*sys.argv[1:])
