"""Real uvicorn with two workers on one ledger: nothing is paid twice, nothing is lost, whatever ends when.

``CRYNUX_TEST_WEB_KEYS=100`` asks 500 times for 100 jobs; without it the test that kills workers is left to that
case of the scorecard, ``F1``, so that all tests stay quick.
"""

import asyncio
import io
import os
import random
import secrets
import signal
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.postgres_server import PostgresServer
from crynux_async import Settings
from crynux_async.emulator import Emulator
from crynux_async.testing import running_emulator
from tests.integrations.web_lab import GOOD
from tests.integrations.web_server import Process, Reader, Workers, ask_until_answered, running_server

pytestmark = pytest.mark.real_time

KEYS = int(os.environ.get("CRYNUX_TEST_WEB_KEYS", "30"))
ASKS_PER_KEY = 5


def environment(bridge: Emulator, folder: Path) -> dict[str, str]:
    settings: Any = bridge.settings()
    return {**{f"CRYNUX_{name.upper()}": str(value) for name, value in settings.items()}, "WEB_FOLDER": str(folder)}


async def submit(client: aiohttp.ClientSession, url: str, key: int) -> tuple[int, str]:
    """Ask for the job of a key, and return the path of its job."""
    config = {**GOOD, "rank": 4, "seed": 1 + key}
    headers = {"Idempotency-Key": f"key-{key}"}
    answer = await ask_until_answered(client, "POST", f"{url}/jobs", json=config, headers=headers)
    assert answer.status == 202
    return key, answer.headers["location"]


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the workers remember jobs."""
    if request.param == "sqlite":
        return str(tmp_path / "jobs.db")
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"web_{secrets.token_hex(8)}"
    server.run(f"CREATE DATABASE {name}")
    return server.url(name)


@pytest.mark.skipif("CRYNUX_TEST_WEB_KEYS" not in os.environ, reason="takes minutes: benchmarks.scorecard F1 runs it")
async def test_kills_and_restarts_in_the_middle_pay_nothing_twice_and_lose_nothing(tmp_path: Path, ledger: str) -> None:
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(running_emulator(rate_limit=6000))
        # Tasks run on until everything has been cut that is to be cut.
        bridge.add_fault("word", on="status", text="running", count=None)
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        where = {**environment(bridge, tmp_path), "WEB_LEDGER": ledger}
        workers = Workers("tests.integrations.web_app:app", where, stack)
        first, second, third = [await workers.start() for _ in range(3)]
        for worker in (first, second, third):
            await worker.begun()
        paths = await submitted(client, workers.url, first)
        readers = {path: [Reader(), Reader()] for path in paths}
        met = [reader for pair in readers.values() for reader in pair]
        # Every job is read at both of the workers that are left.
        reading = asyncio.gather(
            *(
                reader.read(client, f"{worker.own_url}{path}/events", f"{workers.url}{path}/events")
                for path, pair in readers.items()
                for reader, worker in zip(pair, (second, third), strict=True)
            )
        )
        await every(met, lambda reader: len(reader.workers) > 0)
        fourth = await workers.start()
        await fourth.begun()
        third.process.kill()
        await second.stop()
        await every(met, lambda reader: reader.cuts > 0)
        fifth = await workers.start()
        await fifth.begun()
        bridge.clear_faults()
        await reading
        ends = {path: (await get_json(client, workers.url + path))["state"] for path in paths}
        have_one = [path for path, state in ends.items() if state == "downloaded"]
        served_by = await asyncio.gather(
            *(check_archive(client, worker.own_url + path) for path in have_one for worker in (fourth, fifth))
        )
        await fourth.stop()
        await fifth.stop()
        made = [entry.seed for entry in bridge.journal if entry.accepted]
        logs = second.log + fourth.log + fifth.log
    assert b"Traceback" not in logs, logs.decode()
    assert set(ends.values()) <= {"downloaded", "unconfirmed"}, Counter(ends.values())
    assert have_one
    # The seed tells the configs apart: each was paid for once at most.
    assert len(made) == len(set(made)) <= KEYS
    for path, pair in readers.items():
        assert pair[0].numbers == pair[1].numbers == list(range(1, len(pair[0].numbers) + 1))
        assert pair[0].states[-1] == pair[1].states[-1] == ends[path]
    assert len(set().union(*(reader.workers for reader in met))) >= 3
    assert len(set(served_by)) == 2


async def submitted(client: aiohttp.ClientSession, url: str, victim: Process) -> list[str]:
    """Ask for every job several times at once while a worker is killed, and return their paths."""
    asks = [key for key in range(KEYS) for _ in range(ASKS_PER_KEY)]
    random.Random(1).shuffle(asks)
    asking = [asyncio.create_task(submit(client, url, key)) for key in asks]
    await next(asyncio.as_completed(asking))
    victim.process.kill()
    paths = dict(await asyncio.gather(*asking))
    assert len(set(paths.values())) == KEYS
    return list(paths.values())


async def every(readers: list[Reader], has: Callable[[Reader], bool]) -> None:
    """Wait until something can be said of every reader, or it has come to the end."""
    while not all(has(reader) or reader.is_over for reader in readers):
        await asyncio.sleep(0.02)


async def get_json(client: aiohttp.ClientSession, url: str) -> Any:
    async with client.get(url) as answer:
        assert answer.status == 200
        return await answer.json()


async def check_archive(client: aiohttp.ClientSession, url: str) -> str:
    """Fetch an archive whole, and return which worker has given it."""
    async with client.get(f"{url}/archive") as answer:
        assert answer.status == 200
        body = await answer.read()
    assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None
    return answer.headers["x-worker"]


# benchmarks.scorecard F1 has all of them, and four workers.
IS_LONG = "CRYNUX_TEST_WEB_KEYS" in os.environ
STREAMS = 200 if IS_LONG else 20
STOPS = [(1, signal.SIGINT), (2, signal.SIGTERM), *([(4, signal.SIGTERM)] if IS_LONG else [])]


@pytest.mark.parametrize(("workers", "number"), STOPS)
async def test_open_streams_end_with_the_server_and_say_so(tmp_path: Path, workers: int, number: int) -> None:
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(running_emulator(speed=0.001, rate_limit=6000))
        url, server = await stack.enter_async_context(
            running_server("tests.integrations.web_app:app", environment(bridge, tmp_path), workers=workers)
        )
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        _, path = await submit(client, url, 0)
        streams = await asyncio.gather(*(client.get(f"{url}{path}/events") for _ in range(STREAMS)))
        begun = await asyncio.gather(*(stream.content.readline() for stream in streams))
        assert set(begun) == {b": events\n"}
        # No create is under way, so that nothing is waited for; a server that waits for its streams never ends.
        async with asyncio.timeout(Settings.load(api_key="k" * 44).close_timeout + 30):
            ended = asyncio.create_task(server.stop(number))
            rests = await asyncio.gather(*(stream.read() for stream in streams))
            await ended
    assert all(rest.endswith(b"event: reconnect\ndata: {}\nretry: 1000\n\n") for rest in rests)
    assert b"Application shutdown complete" in server.log
    assert b"Traceback" not in server.log
