"""The programs that ``benchmarks.download`` runs, each in a process of its own.

``python -m benchmarks.transfers PROGRAM [--verify | --fsync] URL FOLDER NUMBER ...`` fetches results and ends with a
line of JSON: wall seconds, those of them in which an fsync ran, CPU seconds, growth of the resident set and loop lag.
``python -m benchmarks.transfers serve FOLDER PORT`` is the file server where there is no nginx.
"""

import argparse
import asyncio
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from aiohttp import web

MODULE = "benchmarks.transfers"
PATH = "/v1/images/models/{}/result"
AT_ONCE = 4
LINK, LINK_BYTES_PER_SECOND = 3, 100e6
"""The result that comes over a link of so many bytes a second, and not as fast as loopback."""
_KEY = "a-key-that-the-file-server-does-not-look-at="
_TICK = 0.005
_MEBIBYTE = 1 << 20
_LINK_PIECE = 1 << 18


@attrs.frozen(kw_only=True)
class Task:
    """What to fetch.

    Attributes:
        url: Address of the server.
        folder: Where the files go.
        numbers: Which results.
        verify: Whether crynux_async is to verify them.
        fsync: Whether curl's files are to be made durable.
    """

    url: str
    folder: Path
    numbers: tuple[int, ...]
    verify: bool
    fsync: bool

    def source(self, number: int) -> str:
        """Return the address of a result."""
        return self.url + PATH.format(number)

    def target(self, number: int) -> Path:
        """Return where a result goes."""
        return self.folder / f"{number}.zip"


class FsyncClock:
    """Sums the time in which at least one ``os.fsync`` ran, while it stands in for it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._fsync = os.fsync
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0

    def __call__(self, descriptor: int) -> None:
        """Do what ``os.fsync`` does."""
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._since = time.perf_counter()
        try:
            self._fsync(descriptor)
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self.seconds += time.perf_counter() - self._since


def with_curl(task: Task) -> list[float]:
    """Run curl, several files at once as every other peer; the loop beside it is idle and shows the machine's lag."""
    pairs = [argument for n in task.numbers for argument in ("-o", str(task.target(n)), task.source(n))]
    together = ["--parallel", "--parallel-max", str(AT_ONCE)] if len(task.numbers) > 1 else []

    async def fetch_all() -> None:
        curl = await asyncio.create_subprocess_exec("curl", "--silent", "--fail", *together, *pairs)
        if await curl.wait():
            raise RuntimeError(f"curl ended with {curl.returncode}")

    lags = _run_sampled(fetch_all)
    if task.fsync:
        for number in task.numbers:
            with task.target(number).open("rb") as file:
                os.fsync(file.fileno())
    return lags


def with_httpx(task: Task) -> list[float]:
    """Do what the how-to of the bridge shows, one file after the other: it is a script without concurrency."""
    import httpx

    with httpx.Client(timeout=180, trust_env=False) as client:
        for number in task.numbers:
            headers = {"Authorization": f"Bearer {_KEY}"}
            with client.stream("GET", task.source(number), headers=headers) as response:
                response.raise_for_status()
                with task.target(number).open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
    return []


def with_aiohttp(task: Task) -> list[float]:
    """Use bare aiohttp and write in the loop's own thread."""
    import aiohttp

    async def fetch_all() -> None:
        async with aiohttp.ClientSession() as client:

            async def fetch(number: int) -> None:
                async with client.get(task.source(number)) as response:
                    response.raise_for_status()
                    with task.target(number).open("wb", buffering=0) as file:
                        async for chunk in response.content.iter_chunked(_MEBIBYTE):
                            file.write(chunk)

            await _at_once(task, fetch)

    return _run_sampled(fetch_all)


def with_crynux_async(task: Task) -> list[float]:
    """Use the real backend and download engine."""
    from crynux_async.archive.arriving import ArchiveVerifier
    from crynux_async.backends.base import Task
    from crynux_async.backends.bridge.backend import BridgeBackend
    from crynux_async.downloads.book import check_slots
    from crynux_async.downloads.transfer import Shared, download
    from crynux_async.settings import Settings

    async def fetch_all() -> None:
        backend = BridgeBackend(Settings(base_url=task.url, api_key=_KEY, trust_env=False))
        verify = ArchiveVerifier() if task.verify else None
        shared = Shared(check_slots=check_slots())  # as a session has

        async def fetch(number: int) -> None:
            target = task.target(number)
            await download(
                partial(backend.open_result, Task(task_id=str(number))), target, verify=verify, shared=shared
            )

        try:
            await _at_once(task, fetch)
        finally:
            await backend.close()

    return _run_sampled(fetch_all)


PROGRAMS: dict[str, Callable[[Task], list[float]]] = {
    "curl": with_curl,
    "httpx": with_httpx,
    "aiohttp": with_aiohttp,
    "crynux_async": with_crynux_async,
}


def main() -> None:
    """Run one program and print its figures."""
    if sys.argv[1:2] == ["serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("numbers", type=int, nargs="+")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--fsync", action="store_true")
    options = vars(parser.parse_args())
    program = PROGRAMS[options.pop("program")]
    print(json.dumps(measured(partial(program, Task(**{**options, "numbers": tuple(options["numbers"])})))))


def measured(work: Callable[[], list[float]]) -> dict[str, float | None]:
    """Run ``work``, which returns the loop's lags in seconds, and return its figures."""
    _import_all()
    clock = FsyncClock()
    os.fsync = clock  # type: ignore[assignment]
    own, children = _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
    base = restart_peak()
    began = time.perf_counter()
    lags = work()
    seconds = time.perf_counter() - began
    cpu = _cpu(resource.RUSAGE_SELF) - own, _cpu(resource.RUSAGE_CHILDREN) - children
    is_child = cpu[1] > 0  # curl
    return {
        "seconds": seconds,
        "fsync_seconds": clock.seconds,
        "cpu_seconds": cpu[1] if is_child else cpu[0],
        "rss_mib": None if is_child else (memory_kib("VmHWM") - base) / 1024,
        "lag_ms": 1000 * sorted(lags)[int(0.99 * len(lags))] if lags else None,
    }


def serve(folder: Path, port: int) -> None:
    """Serve ``N.zip`` of a folder as result N, as the bridge does, until terminated."""
    from aiohttp import web

    async def result(request: web.Request) -> web.StreamResponse:
        path = folder / f"{request.match_info['number']}.zip"
        return await _over_a_link(request, path) if path.stem == str(LINK) else web.FileResponse(path)

    app = web.Application()
    app.router.add_get(PATH.format("{number:[0-9]+}"), result)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


async def _over_a_link(request: "web.Request", path: Path) -> "web.StreamResponse":
    """Send a file as fast as a link does."""
    from aiohttp import web

    data = await asyncio.to_thread(path.read_bytes)
    response = web.StreamResponse(headers={"Content-Length": str(len(data))})
    await response.prepare(request)
    began = time.perf_counter()
    for sent in range(0, len(data), _LINK_PIECE):
        await asyncio.sleep(began + sent / LINK_BYTES_PER_SECOND - time.perf_counter())
        await response.write(data[sent : sent + _LINK_PIECE])
    return response


async def _at_once(task: Task, fetch: Callable[[int], Awaitable[None]]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def in_turn(number: int) -> None:
        async with slots:
            await fetch(number)

    await asyncio.gather(*map(in_turn, task.numbers))


def _run_sampled(work: Callable[[], Awaitable[None]]) -> list[float]:
    """Run ``work`` on a loop and return by how many seconds each of the loop's 5 ms timers was late."""

    async def main() -> list[float]:
        lags: list[float] = []
        sampler = asyncio.create_task(sample_lag(lags))
        await work()
        sampler.cancel()
        return lags

    return asyncio.run(main())


async def sample_lag(lags: list[float], tick: float = _TICK) -> None:
    """Append by how many seconds each timer of ``tick`` seconds is late, for ever."""
    while True:
        due = time.perf_counter() + tick
        await asyncio.sleep(tick)
        lags.append(max(0.0, time.perf_counter() - due))


def _import_all() -> None:
    """Import what the programs need, so that no import counts; anyio loads most of itself when it is first used."""
    import aiohttp  # noqa: F401
    import anyio
    import httpx  # noqa: F401

    import crynux_async.archive.arriving
    import crynux_async.backends.bridge.backend
    import crynux_async.downloads.book  # noqa: F401

    async def use() -> None:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0)

    asyncio.run(use())


def _cpu(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def restart_peak() -> int:
    """Let the peak of the resident set begin anew and return the set in KiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_kib("VmRSS")


def memory_kib(name: str) -> int:
    """Return a line of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


if __name__ == "__main__":
    main()
