"""A web application around fine-tuning: ``python examples/fastapi_app.py --emulator``, http://127.0.0.1:8000/board.

Callers sign in with a name and a password (``curl -u ann:ann-token``), for which a browser asks by itself, and each
sees their own jobs alone: at /board as they go, at /docs as an API. Two workers know the same jobs. Without
``--emulator`` it uses the bridge and the key of your settings.
"""

import asyncio
import contextlib
import os
import secrets
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from crynux_async.emulator import Emulator
from crynux_async.errors import CrynuxError
from crynux_async.integrations.fastapi import (
    CallerDep,
    ConfigDep,
    Crynux,
    JobAnswer,
    Limits,
    ProblemError,
    answer_error,
)

PASSWORDS = {"ann": "ann-token", "bob": "bob-token"}  # yours are in a database, and hashed
FOLDER = Path(os.environ.get("APP_FOLDER", "fastapi-app"))


def customer(sent: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    """Return who asks; nobody else gets in."""
    expected = PASSWORDS.get(sent.username, secrets.token_hex())
    if not secrets.compare_digest(sent.password.encode(), expected.encode()):
        raise HTTPException(401, "sign in first", headers={"WWW-Authenticate": "Basic"})
    return sent.username


FOLDER.mkdir(parents=True, exist_ok=True)
crynux = Crynux(
    ledger=FOLDER / "jobs.db",
    folder=FOLDER / "models",
    authorize=customer,
    tenant=customer,
    limits=Limits(streams=20, queued=100),
)
app = FastAPI(title="Fine-tuning", lifespan=crynux.lifespan)
for error in (CrynuxError, ProblemError):  # what handlers of your own raise, as the routes answer it
    app.add_exception_handler(error, answer_error)
app.include_router(crynux.router(prefix="/jobs"))
app.include_router(crynux.page(path="/board"))


@app.post("/portraits", dependencies=crynux.dependencies, status_code=202)
async def submit_portrait(config: ConfigDep, caller: CallerDep) -> JobAnswer:
    """Train with what portraits need: your own handlers are made of the same parts."""
    filing = caller.web.filing(caller.tenant, group="portraits")
    return JobAnswer.of(await caller.web.session.enqueue(config.evolve(center_crop=True, rank=16), **filing))


@contextlib.contextmanager
def emulated_bridge() -> Generator[None, None, None]:
    """Run a bridge in a thread; the workers find it in their environment."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    bridge = Emulator(speed=60, rate_limit=60)
    asyncio.run_coroutine_threadsafe(bridge.start(), loop).result()
    os.environ |= {f"CRYNUX_{name.upper()}": str(value) for name, value in bridge.settings().items()}
    yield
    asyncio.run_coroutine_threadsafe(bridge.close(), loop).result()


if __name__ == "__main__":
    with emulated_bridge() if "--emulator" in sys.argv else contextlib.nullcontext():
        port = int(os.environ.get("PORT", "8000"))
        place = str(Path(__file__).parent)
        # On a busy machine a worker needs longer than five seconds to begin, and uvicorn would kill it for that.
        uvicorn.run("fastapi_app:app", app_dir=place, port=port, workers=2, timeout_worker_healthcheck=60)
