"""A bridge backend under examination: what leaks out of it, in errors and in connections."""

import base64
import inspect
import pickle
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import crynux_async
from crynux_async.backends.base import Validator
from crynux_async.backends.bridge import wire
from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.errors import CrynuxError
from crynux_async.settings import Settings
from crynux_async.training.config import FineTuneConfig
from tests.loopback import RawServer, Script, answer, serving

KEY = "canaryCANARY0123456789-_abcdefghijklmnopqrs="
PROXY_LOGIN = "user:canaryOfTheProxy"
CONFIG = FineTuneConfig(model_name="crynux-ai/stable-diffusion-v1-5", dataset_name="a/b", seed=1)
CREATED = '{"message":"success","data":{"id":17,"created_at":"2026-11-22T19:34:55.368806245Z","status":"running"}}'
ACCEPTED = answer(200, CREATED)
RUNNING = answer(200, '{"message":"success","data":{"id":17,"status":"running"}}')
SECRETS = [KEY, PROXY_LOGIN, PROXY_LOGIN.partition(":")[2], base64.b64encode(PROXY_LOGIN.encode()).decode()]
PACKAGE = str(Path(crynux_async.__file__).parent)


@asynccontextmanager
async def bridge(base_url: str, **settings: Any) -> AsyncIterator[BridgeClient]:
    """Give a backend for one test and check at the end that it holds no connection."""
    backend = BridgeClient(Settings(**{"api_key": KEY, "base_url": base_url, "trust_env": False, **settings}))
    try:
        yield backend
        assert held(backend) == 0
    finally:
        await backend.close()


@asynccontextmanager
async def bridge_at(script: Script, **settings: Any) -> AsyncIterator[tuple[RawServer, BridgeClient]]:
    """Give a scripted server and a backend that talks to it."""
    async with serving(script) as server, bridge(f"http://{server.host}", **settings) as backend:
        yield server, backend


def held(backend: BridgeClient) -> int:
    """Return how many connections are in use, those being made included."""
    connectors = [client.connector for client in backend._http.sessions]
    return sum(len(connector._acquired) for connector in connectors if connector is not None)


def body_of(config: FineTuneConfig) -> bytes:
    """Return what a create of a config sends."""
    return wire.encode_args(wire.to_wire(config))


async def failure_of(awaitable: Awaitable[object]) -> CrynuxError:
    """Return the error that ``awaitable`` raises, after checking that it tells no secret and survives pickling."""
    try:
        result = await awaitable
    except CrynuxError as error:
        check_error(error)
        return error
    pytest.fail(f"nothing was raised; it returned {result!r}")


async def fetch(
    backend: BridgeClient, *, start: int = 0, validator: Validator | None = None, chunk_bytes: int = 1 << 20
) -> bytes:
    """Return the body of task 17's result."""
    async with backend.open_result("17", start=start, validator=validator) as stream:
        return b"".join([piece async for piece in stream.chunks(chunk_bytes)])


# Everything that a backend does with a bridge, for tests of what must be the same for all of it.
Call = Callable[[BridgeClient], Awaitable[object]]
CALLS: dict[str, Call] = {
    "create": lambda backend: backend.create(body_of(CONFIG)),
    "prime_key": lambda backend: backend.prime_key(),
    "key_is_fresh": lambda backend: backend.key_is_fresh(),
    "status": lambda backend: backend.status("17"),
    "result": fetch,
    "owns": lambda backend: backend.owns("17"),
}
POSTS = (CALLS["create"], CALLS["prime_key"])
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def check_error(error: CrynuxError) -> None:
    """Check that nothing an error holds or is connected with shows a secret or is aiohttp's."""
    for linked in _chain(error):
        assert not type(linked).__module__.startswith(("aiohttp", "aioresponses")), f"{linked!r} came out"
        check_text(str(linked), repr(linked), repr(linked.args), repr(vars(linked)))
    check_text(*traceback.format_exception(error), *_shown_locals(error))
    data = pickle.dumps(error)
    assert KEY.encode() not in data
    copy = pickle.loads(data)
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def check_text(*texts: str) -> None:
    """Check that no secret can be read in any text, in capitals or not."""
    for text in texts:
        assert not [secret for secret in SECRETS if secret.lower() in text.lower()]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and everything that it points to, shown by tracebacks or not."""
    if error is not None:
        yield error
        yield from _chain(error.__cause__)
        yield from _chain(error.__context__)


def _shown_locals(error: BaseException) -> Iterator[str]:
    """Yield what a traceback printer that shows variables would show of this library's frames."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if inspect.getfile(frame).startswith(PACKAGE):
            yield from map(repr, frame.f_locals.values())
