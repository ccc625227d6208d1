"""What the routes of FastAPI cost: ``python -m benchmarks.web``.

Submitting against a bare FastAPI handler that inserts one row with the same driver and durability (WAL with
synchronous=FULL: whoever is answered is on disk), in requests a second, and in the CPU time of the server, which other
programs on the machine change less. The bare handler commits each row by itself, as one writes it first; these routes
store together what waits, and have the rest to do: to check a config, to mean one job by a key, to tell of it in an
event, and to answer with every field. Then 1,000 open event streams, how much memory each takes, and how long after
its row an event is at the client, against bare ``fastapi.sse``. Servers are processes of their own.
"""

import asyncio
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.reporting import finish, show_table
from crynux_async.emulator import Emulator

CALLERS, SECONDS, WARM_UP, ROUNDS = 64, 4.0, 0.5, 3
STREAMS, JOBS, EVENTS = 1000, 100, 500
GOALS = {"posts_ratio": 0.7, "bytes_per_stream": 25_000}
CONFIG = {
    "model_name": "crynux-ai/stable-diffusion-v1-5",
    "dataset_url": "https://example.com/pictures.zip",
    "max_train_steps": 100,
    "seed": 1,
}


class Server:
    """A server process.

    Args:
        process: It.
        url: Where it answers.
    """

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    @property
    def cpu_seconds(self) -> float:
        """The processor's time that it has taken, in every thread, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory_bytes(self) -> int:
        """What it holds of its own, in bytes."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) * 1024
        raise OSError("the kernel does not tell how much memory a process has")


@asynccontextmanager
async def serving(application: str, folder: Path, settings: dict[str, Any]) -> AsyncIterator[Server]:
    """Run an application of ``benchmarks.web_server`` for the block."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    environment = {**os.environ, "WEB_FOLDER": str(folder)}
    environment |= {f"CRYNUX_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "benchmarks.web_server", application, str(listening.fileno())]
    process = await asyncio.create_subprocess_exec(*command, env=environment, pass_fds=[listening.fileno()])
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as client, client.get(f"{url}/openapi.json"):
            pass
        yield Server(process, url)
    finally:
        process.terminate()
        await process.wait()


async def posts(server: Server, seconds: float) -> tuple[float, float]:
    """Return how many POSTs a second 64 callers get answered, each with its own key, and the seconds of CPU of each."""
    ends = time.perf_counter() + seconds
    done = 0

    async def call(client: aiohttp.ClientSession) -> None:
        nonlocal done
        while time.perf_counter() < ends:
            headers = {"Idempotency-Key": secrets.token_hex(8)}
            # Another config each time: what is worked out of one is no help for the next.
            config = {
                **CONFIG,
                "seed": secrets.randbelow(2**32 - 1) + 1,
                "max_train_steps": 1 + secrets.randbelow(9999),
            }
            async with client.post(f"{server.url}/jobs", json=config, headers=headers) as answer:
                assert answer.status == 202, await answer.text()
                await answer.read()
            done += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        began, before = time.perf_counter(), server.cpu_seconds
        await asyncio.gather(*(call(client) for _ in range(CALLERS)))
        return done / (time.perf_counter() - began), (server.cpu_seconds - before) / done


async def delays_and_memory(server: Server, names: list[str]) -> tuple[float, float]:
    """Return the bytes that each of many open streams takes, and the 99th percentile of the delays of events, in s."""
    told: list[tuple[str, float]] = []
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client:
        urls = [f"{server.url}/jobs/{names[number % len(names)]}/events" for number in range(STREAMS)]
        reading = [await _open(client, url, told) for url in urls[:20]]
        await asyncio.sleep(1.0)
        before = server.memory_bytes
        for url in urls[20:]:
            reading.append(await _open(client, url, told))
        await asyncio.sleep(2.0)
        memory = (server.memory_bytes - before) / (STREAMS - 20)
        async with client.post(f"{server.url}/tell", params={"events": EVENTS}, json=names) as answer:
            assert answer.status == 200, await answer.text()
        await asyncio.sleep(2.0)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    delays = sorted(came - datetime.fromisoformat(at).timestamp() for at, came in told)
    assert len(delays) == EVENTS * STREAMS // len(names), f"{len(delays)} events came"
    return memory, delays[len(delays) * 99 // 100]


async def _open(client: aiohttp.ClientSession, url: str, told: list[tuple[str, float]]) -> "asyncio.Task[None]":
    """Open a stream, and return the task that notes when events say that they happened, and when they came."""
    answer = await client.get(url)
    assert answer.status == 200, await answer.text()

    async def read() -> None:
        async for line in answer.content:
            came = time.time()
            if line.startswith(b"data: ") and b"step" in line:
                told.append((json.loads(line[6:])["at"], came))

    return asyncio.create_task(read())


async def submitted(url: str) -> list[str]:
    """Submit jobs, and return their names."""
    names = []
    async with aiohttp.ClientSession() as client:
        for number in range(JOBS):
            async with client.post(f"{url}/jobs", json={**CONFIG, "seed": number + 1}) as answer:
                names.append((await answer.json())["job_id"])
    return names


async def measured(folder: Path) -> dict[str, dict[str, float]]:
    """Return the figures of both servers, taken in turns."""
    found: dict[str, dict[str, float]] = {name: {"posts": 0.0, "cpu": 0.0} for name in ("crynux", "bare")}
    async with Emulator(speed=0.001, rate_limit=1) as bridge:
        settings: Any = bridge.settings()
        for number in range(ROUNDS):
            for name, figures in found.items():
                place = folder / f"{name}-{number}"
                place.mkdir()
                async with serving(name, place, settings) as server:
                    await posts(server, WARM_UP)  # what is done once, such as writing statements
                    rate, cpu = await posts(server, SECONDS)
                    figures["posts"] = max(figures["posts"], rate)
                    figures["cpu"] += cpu / ROUNDS  # rounds are in turns, so that the same noise is in both
        for name, figures in found.items():
            place = folder / f"{name}-streams"
            place.mkdir()
            async with serving(name, place, settings) as server:
                names = await submitted(server.url)
                figures["bytes"], figures["p99"] = await delays_and_memory(server, [str(each) for each in names])
    return found


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as folder:
        found = asyncio.run(measured(Path(folder)))
    ours, bare = found["crynux"], found["bare"]
    rows = [
        (f"POSTs a second, {CALLERS} callers", ours["posts"], bare["posts"]),
        ("the server's CPU for each POST, µs", ours["cpu"] * 1e6, bare["cpu"] * 1e6),
        (f"bytes for each of {STREAMS:,} open streams", ours["bytes"], bare["bytes"]),
        ("p99 from an event to the client, ms", ours["p99"] * 1000, bare["p99"] * 1000),
    ]
    show_table("FastAPI, one worker", ("figure", "crynux_async", "bare FastAPI"), rows)
    results = {
        "posts_ratio": round(ours["posts"] / bare["posts"], 2),
        "posts_cpu_ratio": round(bare["cpu"] / ours["cpu"], 2),
        "cpu_microseconds_per_post": round(ours["cpu"] * 1e6),
        "bytes_per_stream": round(ours["bytes"]),
        "delay_p99_seconds": round(ours["p99"], 4),
        "bare_delay_p99_seconds": round(bare["p99"], 4),
    }
    met = {
        "posts_ratio": results["posts_ratio"] >= GOALS["posts_ratio"],
        "bytes_per_stream": results["bytes_per_stream"] <= GOALS["bytes_per_stream"],
    }
    finish("web", {**results, "goals": GOALS, "met": met})


if __name__ == "__main__":
    main()
