"""Real uvicorn with two workers on one ledger: nothing is paid twice, nothing is lost, whatever ends when."""

import asyncio
import io
import os
import random
import signal
import zipfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from crynux_async.emulator import Emulator
from crynux_async.testing import running_emulator
from tests.integrations.web_lab import GOOD
from tests.integrations.web_server import Reader, Workers, ask_until_answered, running_server

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


async def test_kill_and_restart_in_the_middle_pay_nothing_twice_and_lose_nothing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(running_emulator(speed=30, rate_limit=6000))
        client = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        )
        workers = Workers("tests.integrations.web_app:app", environment(bridge, tmp_path), stack)
        first, second = await workers.start(), await workers.start()
        await first.begun()
        await second.begun()
        asks = [key for key in range(KEYS) for _ in range(ASKS_PER_KEY)]
        random.Random(1).shuffle(asks)
        asking = [asyncio.create_task(submit(client, workers.url, key)) for key in asks]
        await next(asyncio.as_completed(asking))
        first.process.kill()
        third = await workers.start()
        paths = dict(await asyncio.gather(*asking))
        assert len(set(paths.values())) == KEYS
        readers = {path: [Reader(), Reader()] for path in paths.values()}
        met = [reader for pair in readers.values() for reader in pair]
        reading = asyncio.gather(
            *(reader.read(client, f"{workers.url}{path}/events") for path, pair in readers.items() for reader in pair)
        )
        while not all(reader.workers for reader in met):
            await asyncio.sleep(0.02)
        await second.stop()
        await reading
        ends = {path: (await get_json(client, workers.url + path))["state"] for path in paths.values()}
        for path in paths.values():
            if ends[path] == "downloaded":
                await check_archive(client, workers.url + path)
        await third.stop()
        made = [entry.seed for entry in bridge.journal if entry.accepted]
        logs = second.log + third.log
    assert b"Traceback" not in logs
    assert set(ends.values()) <= {"downloaded", "unconfirmed"}, Counter(ends.values())
    # The seed tells the configs apart: each was paid for once at most.
    assert len(made) == len(set(made)) <= KEYS
    for pair in readers.values():
        assert pair[0].numbers == pair[1].numbers == list(range(1, len(pair[0].numbers) + 1))
    assert sum(reader.cuts for reader in met) > 0
    assert len(set().union(*(reader.workers for reader in met))) >= 2


async def get_json(client: aiohttp.ClientSession, url: str) -> Any:
    async with client.get(url) as answer:
        assert answer.status == 200
        return await answer.json()


async def check_archive(client: aiohttp.ClientSession, url: str) -> None:
    async with client.get(f"{url}/archive") as answer:
        assert answer.status == 200
        body = await answer.read()
    assert zipfile.ZipFile(io.BytesIO(body)).testzip() is None


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
async def test_open_streams_end_with_the_server_and_say_so(tmp_path: Path, workers: int, number: int) -> None:
    async with AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(running_emulator(speed=0.001, rate_limit=6000))
        url, server = await stack.enter_async_context(
            running_server("tests.integrations.web_app:app", environment(bridge, tmp_path), workers=workers)
        )
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        _, path = await submit(client, url, 0)
        streams = await asyncio.gather(*(client.get(f"{url}{path}/events") for _ in range(50)))
        begun = await asyncio.gather(*(stream.content.readline() for stream in streams))
        assert set(begun) == {b": events\n"}
        ended = asyncio.create_task(server.stop(number))
        rests = await asyncio.gather(*(stream.read() for stream in streams))
        await ended
    assert all(rest.endswith(b"event: reconnect\ndata: {}\nretry: 1000\n\n") for rest in rests)
    assert b"Application shutdown complete" in server.log
    assert b"Traceback" not in server.log
