"""Case X3: redirects, and a key that is looked for wherever this library writes or shows anything."""

import asyncio
import base64
import html
import json
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
from aiohttp import web

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.children import ACCEPTED
from benchmarks.scorecard.processes import child, require_tool, run, started
from benchmarks.scorecard.tasks import IMPATIENT, Finished, environment, finish_task, on_instant_bridge, on_real_time
from benchmarks.scorecard.worlds import World, config, creates
from crynux_async.backends.base import Order, Task
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.emulator.bridge.routes import Operation
from crynux_async.errors import CrynuxError, SubmissionUnknownError
from crynux_async.session import Session
from crynux_async.settings import Settings

REDIRECTS = (301, 302, 303, 307, 308)
OPERATIONS: tuple[Operation, ...] = ("create", "status", "result")
_UNKNOWN_KEY = "Canary_key-that-no-bridge-has-ever-given-a0="
_PROXY_PASSWORD = "canary-password-of-the-proxy"


@attrs.define(eq=False)
class Elsewhere:
    """Another server, which would take anything.

    Attributes:
        url: Its address.
        requests: What reached it.
    """

    url: str
    requests: list[str]


def redirects_and_leaks(context: Context) -> str:
    """X3: no redirect is followed, no create is repeated, and the key is nowhere but in the one header."""
    for status in REDIRECTS:
        for where in ("/elsewhere", None):
            on_instant_bridge(
                partial(_redirect, status=status, where=where, folder=context.folder / f"{status}{where}")
            )
    downgraded = asyncio.run(_downgrade(context.folder))
    places = on_real_time(partial(_look_for_keys, context.folder / "leaks"))
    return (
        f"{2 * len(REDIRECTS) * len(OPERATIONS)} redirects, {downgraded} from https to http: none followed, no create "
        f"repeated; the key is in none of {places} places"
    )


async def _redirect(world: World, *, status: int, where: str | None, folder: Path) -> None:
    """Redirect each kind of request, to this bridge or elsewhere."""
    task = await finish_task(world)
    async with _elsewhere() as other:
        for operation in OPERATIONS:
            location = where or f"{other.url}{_path(operation, task)}"
            world.bridge.add_fault("redirect", on=operation, status=status, location=location)
        before = len(creates(world.bridge))
        async with world.session(rate_limit=60_000, prime_key=False, **IMPATIENT) as session:
            await _submit_in_vain(session)
            await session.attach(task.task_id).download(folder)
        assert len(creates(world.bridge)) == before + 1, f"{status}: a create was repeated"
        assert "/elsewhere" not in {request.path for request in world.bridge.requests}, f"{status} was followed"
        assert not other.requests, f"{status} was followed: {other.requests}"


async def _submit_in_vain(session: Session) -> None:
    try:
        await session.submit(config())
    except SubmissionUnknownError:
        return
    raise AssertionError("a redirected create was taken for an answer")


async def _downgrade(folder: Path) -> int:
    """Redirect every request from https to http and return how many there were."""
    context, certificate = await _certificate(folder)
    posts = 0
    count = 0
    async with _elsewhere() as other:
        for status in REDIRECTS:

            async def handle(request: web.BaseRequest, status: int = status) -> web.Response:
                nonlocal posts
                posts += request.method == "POST"
                return web.Response(status=status, headers={"Location": f"{other.url}{request.path}"})

            async with _serving(handle, context) as url:
                settings = Settings(base_url=url, api_key=_UNKNOWN_KEY, ca_bundle=str(certificate), trust_env=False)
                count += await _ask_everything(BridgeBackend(settings))
        assert posts == len(REDIRECTS), f"{posts} creates for {len(REDIRECTS)}"
        assert not other.requests, f"followed: {other.requests}"
    return count


async def _ask_everything(backend: BridgeBackend) -> int:
    """Make each kind of request, none of which can succeed, and return how many."""

    async def download() -> None:
        async with backend.open_result(Task(task_id="1")):
            pass

    calls: list[Callable[[], Awaitable[object]]] = [
        partial(backend.create, backend.intend(Order(job_id="j1", try_number=1, config=config()))),
        partial(backend.look, Task(task_id="1")),
        download,
    ]
    try:
        for call in calls:
            try:
                await call()
            except CrynuxError:
                continue
            raise AssertionError("a redirect was taken for an answer")
    finally:
        await backend.close()
    return len(calls)


async def _look_for_keys(folder: Path, world: World) -> int:
    """Let programs do what goes well and what fails, with everything logged and shown, and look for their secrets.

    Returns:
        In how many places was looked.
    """
    _check_that_keys_are_found()
    settings = {"rate_limit": 60_000, "prime_key": 0, "unreachable_timeout": 0}
    places = 0
    async with _elsewhere() as other:
        creates_wanted = _add_faults(world, other.url)
        good = environment(world, **settings)
        unknown = {**good, "CRYNUX_API_KEY": _UNKNOWN_KEY}
        proxied = {**good, "CRYNUX_PROXY": f"http://user:{_PROXY_PASSWORD}@127.0.0.1:9"}
        runs = (("good", good, creates_wanted), ("unknown", unknown, 1), ("proxied", proxied, 1))
        for name, env, count in runs:
            shown, said = await _show(folder / name, env, count)
            assert said["errors"] >= count - (ACCEPTED if name == "good" else 0), said
            leaks = [place for secret in (env["CRYNUX_API_KEY"], _PROXY_PASSWORD) for place in _places(secret, shown)]
            assert not leaks, f"{name}: a secret is in {', '.join(leaks)}"
            places += len(shown)
        assert not other.requests, f"followed: {other.requests}"
    return places


def _add_faults(world: World, elsewhere: str) -> int:
    """Let the bridge echo the key in every way it can; return how many creates meet that, and three that go well."""
    key = world.key
    page = {"status": 502, "text": f"<p>Authorization: Bearer {html.escape(key)}</p>"}
    echo = {"status": 200, "body": json.dumps({"message": f"success {key}", "data": {"id": 0, "status": key}})}
    typed = {"status": 200, "headers": {"Content-Type": f"text/{key}", "Last-Modified": key}, "body": key}
    redirect = {"status": 307, "location": f"{elsewhere}/{quote(key)}?key={key}"}
    creates_faults: list[tuple[str, dict[str, Any]]] = [
        ("html", page),
        ("body", echo),
        ("body", typed),
        ("redirect", redirect),
        *(("status", {"status": 400, "field": field, "message": key}) for field in ("Authorization", "task_args", key)),
        ("status", {"status": 500, "message": f"panic: Bearer {key}"}),
        *((kind, {}) for kind in ("drop_after_accept", "reset", "broken_json", "no_id")),
        ("big_json", {"megabytes": 1}),
        ("cut_response", {"bytes": 20}),
    ]
    archive = {"Content-Type": "application/zip", "Last-Modified": key, "Content-Range": f"bytes {key}"}
    both: list[tuple[str, dict[str, Any]]] = [("html", page), ("body", echo), ("body", typed), ("redirect", redirect)]
    results: list[tuple[str, dict[str, Any]]] = [
        *both,
        ("body", {"status": 206, "headers": archive, "body": key}),
        ("body", {"status": 416, "headers": archive, "body": key}),
        ("body", {"status": 200, "headers": archive, "body": key}),
        ("status", {"status": 400, "field": "api_key", "message": f"invalid api key {key}"}),
    ]
    added = [world.bridge.add_fault(kind, on="create", **options) for kind, options in creates_faults]
    first = 1 + sum(fault.is_carried_out for fault in added)  # number of the first task that will be known to exist
    for kind, options in both:
        world.bridge.add_fault(kind, on="status", **options)
    for number, (kind, options) in enumerate(results):
        world.bridge.add_fault(kind, on="result", task_id=first + number % ACCEPTED, **options)
    return len(added) + ACCEPTED


async def _show(folder: Path, env: dict[str, str], count: int) -> tuple[dict[str, bytes], dict[str, int]]:
    """Run a program that shows everything; return all places where it left something, and how much that was."""
    os.makedirs(folder)
    command_lines = b""
    async with started(child("show", folder, count), env={**env, "PYTHONASYNCIODEBUG": "1"}) as process:
        ending = asyncio.create_task(process.communicate())
        while not ending.done():
            command_lines += _command_line(process.pid)
            await asyncio.wait((ending,), timeout=0.05)
        out, err = ending.result()
    assert command_lines, "no command line was seen"
    assert process.returncode == 0, err.decode()[-2000:]
    said = json.loads(out.splitlines()[-1])
    assert b"DEBUG" in err, "nothing was logged"
    assert all(said[what] for what in ("errors", "objects", "pickles", "events")), said
    files = _read_all(folder)
    assert "jobs.db" in files, sorted(files)
    return {"output": out, "log": err, "command line": command_lines, **files}, said


def _read_all(folder: Path) -> dict[str, bytes]:
    files = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {**files, "file names": "\n".join(str(path) for path in folder.rglob("*")).encode()}


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


def _places(secret: str, shown: Mapping[str, bytes]) -> list[str]:
    """Return where a secret is, in any of its spellings."""
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    spellings = {secret, secret.rstrip("="), quote(secret, safe=""), html.escape(secret), encoded, secret[8:-8]}
    return [place for place, data in shown.items() if any(spelling.encode() in data for spelling in spellings)]


def _check_that_keys_are_found() -> None:
    for text in (_UNKNOWN_KEY, quote(_UNKNOWN_KEY), f"Bearer {_UNKNOWN_KEY[:-1]}%3D"):
        assert _places(_UNKNOWN_KEY, {"text": text.encode()}) == ["text"], f"{text} is not found"


@asynccontextmanager
async def _elsewhere() -> AsyncIterator[Elsewhere]:
    requests: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        requests.append(f"{request.method} {request.path}")
        return web.json_response({"message": "success", "data": {"id": 1, "status": "success"}})

    async with _serving(handle) as url:
        yield Elsewhere(url=url, requests=requests)


@asynccontextmanager
async def _serving(
    handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], context: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve on this machine and yield the address."""
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield f"{'https' if context else 'http'}://127.0.0.1:{site.port}"
    finally:
        await runner.cleanup()


async def _certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return what a TLS server for 127.0.0.1 needs, and the file that a client has to trust."""
    os.makedirs(folder, exist_ok=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    make = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    ended = await run([require_tool("openssl"), *make, *names])
    assert ended.code == 0, ended.err
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate


def _path(operation: Operation, task: Finished) -> str:
    rest = "" if operation == "create" else f"/{task.task_id}/{operation}"
    return f"/v1/images/models{rest}"


CASES = (Case(name="X3", fault="redirects; the key in logs, errors, files, ps", run=redirects_and_leaks),)
