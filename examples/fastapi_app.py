"""A web application around fine-tuning: ``python examples/fastapi_app.py --emulator``, then http://127.0.0.1:8000/docs.

Callers sign in with a token (``Authorization: Bearer ann-token``), and each sees their own jobs alone. Two workers know
the same jobs. Without ``--emulator`` it uses the bridge and the key of your settings.
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
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from crynux_async.emulator import Emulator
from crynux_async.integrations.fastapi import CallerDep, ConfigDep, Crynux, JobAnswer, Limits

TOKENS = {"ann-token": "ann", "bob-token": "bob"}  # yours are in a database
FOLDER = Path(os.environ.get("APP_FOLDER", "fastapi-app"))


def customer(sent: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]) -> str:
    """Say who asks; whoever is nobody does not come in."""
    for token, name in TOKENS.items():
        if sent is not None and secrets.compare_digest(sent.credentials.encode(), token.encode()):
            return name
    raise HTTPException(401, "sign in first", headers={"WWW-Authenticate": "Bearer"})


FOLDER.mkdir(parents=True, exist_ok=True)
crynux = Crynux(
    ledger=FOLDER / "jobs.db",
    folder=FOLDER / "models",
    authorize=customer,
    tenant=customer,
    limits=Limits(streams=20, queued=100),
)
app = FastAPI(title="Fine-tuning", lifespan=crynux.lifespan)
app.include_router(crynux.router(prefix="/jobs"))


@app.post("/portraits", dependencies=crynux.dependencies, status_code=202)
async def submit_portrait(config: ConfigDep, caller: CallerDep) -> JobAnswer:
    """Train with what portraits need: a handler of your own is made of the same parts."""
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
        uvicorn.run("fastapi_app:app", app_dir=str(Path(__file__).parent), port=port, workers=2)
