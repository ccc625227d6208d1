"""The application that real servers run in tests: every answer names the worker that gave it."""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from crynux_async.integrations.fastapi import Crynux, Limits


class NamesWorker:
    """Adds the number of the process to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def named(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-worker", str(os.getpid()).encode()))
            await send(message)

        await self._app(scope, receive, named)


_folder = Path(os.environ["WEB_FOLDER"])
crynux = Crynux(
    ledger=os.environ.get("WEB_LEDGER", str(_folder / "jobs.db")),
    folder=_folder / "models",
    public=True,
    limits=Limits(streams=1000),
)
app = FastAPI(lifespan=crynux.lifespan)
app.include_router(crynux.router())
app.include_router(crynux.page())
app.add_middleware(NamesWorker)
