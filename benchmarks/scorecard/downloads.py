"""Cases D1 to D4, D7 and D8: results that are cut, changed, badly announced, damaged, or slow to come."""

import asyncio
import itertools
import json
import random
import resource
from asyncio.subprocess import Process
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.processes import child, run, started
from benchmarks.scorecard.tasks import (
    IMPATIENT,
    archive_bytes,
    check_final,
    client,
    create_task,
    environment,
    fetch,
    finish_task,
    look_at,
    names_in,
    on_real_time,
    put_on_shelf,
    repeat,
    result_requests,
    starts,
)
from benchmarks.scorecard.worlds import World
from benchmarks.transfers import sample_lag
from crynux_async.backends.base import Task
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.downloads.transfer import download
from crynux_async.errors import CorruptArchiveError, CrynuxError, DownloadError, IncompleteError
from crynux_async.session import Session
from crynux_async.settings import Settings

CUTS, KILLS, LARGE_MIB, LARGE_AT_ONCE = 20, 5, 190, 5
SLOW_PEERS, SLOW_SECONDS, TRICKLE, MOST_LAG = 1_000, 20.0, 1_000, 0.050
_MEBIBYTE = 1 << 20


def cut_and_killed(context: Context) -> str:
    """D1: 20 cuts and 5 killed processes on the way to 200 MB, and next to nothing sent twice."""

    async def work(world: World) -> list[float]:
        slots = asyncio.Semaphore(LARGE_AT_ONCE)

        async def one(seed: int) -> float:
            async with slots:
                return await _cut_and_kill(world, random.Random(seed), context.folder / str(seed))

        return await asyncio.gather(*map(one, range(1, context.seeds + 1)))

    worst = max(on_real_time(work))
    assert worst <= 1.05, f"{worst:.3f} times the size was sent"
    return f"{context.seeds} x 200 MB, each {CUTS} cuts and {KILLS} kills: at most {worst:.4f} of the size was sent"


async def _cut_and_kill(world: World, rng: random.Random, folder: Path) -> float:
    """Return how many times its size was sent of one archive."""
    task = await finish_task(world, mebibytes=LARGE_MIB, seed=rng.randrange(1, 10**6))
    ends = sorted(rng.sample(range(1, task.size), CUTS + KILLS))
    lengths = [end - begin for begin, end in itertools.pairwise([0, *ends])]
    kills = sorted(rng.sample(range(len(lengths)), KILLS))
    part = folder / f"{task.task_id}.zip.part"
    # A process is killed while it waits for more: then what was sent is known to the byte.
    faults = [
        world.bridge.add_fault("stall" if n in kills else "cut", on="result", task_id=task.task_id, bytes=length)
        for n, length in enumerate(lengths)
    ]
    for n in kills:
        async with started(child("download", task.task_id, folder), env=environment(world)) as process:
            while not faults[n].hits:
                await _still_runs(process)
            enough = starts(world, task)[-1] + lengths[n] - rng.randrange(_MEBIBYTE)
            while part.stat().st_size < enough:
                await _still_runs(process)
    ended = await run(child("download", task.task_id, folder), env=environment(world))
    assert ended.code == 0, ended.out + ended.err
    await check_final(world, task, folder, is_there=True)
    (folder / f"{task.task_id}.zip").unlink()
    asked = starts(world, task)
    assert len(asked) == len(faults) + 1, f"{len(asked)} requests for {len(faults) + 1} pieces"
    assert asked == sorted(asked), f"asked from {asked}"
    sent = [min(length, task.size - begin) for begin, length in zip(asked, [*lengths, task.size], strict=True)]
    return sum(sent) / task.size


async def _still_runs(process: Process) -> None:
    assert process.returncode is None, f"a download ended too early: {await process.communicate()}"
    await asyncio.sleep(0.005)


def changed_between_segments(context: Context) -> str:
    """D2: the archive is replaced between two requests, with and without a trace in its date or size."""
    kinds: dict[str, int | None] = {"date": None, "longer": 5_000, "shorter": -5_000, "contents only": 0}
    for extra in kinds.values():
        repeat(context, partial(_change, extra=extra))
    return f"{', '.join(kinds)}: {context.seeds} each, every final file is the new version entirely"


async def _change(world: World, rng: random.Random, folder: Path, *, extra: int | None) -> None:
    task = await finish_task(world)
    if extra is not None:
        put_on_shelf(folder, archive_bytes(1))
        task = await look_at(world, task.task_id)
    cut = world.bridge.add_fault("cut", on="result", bytes=rng.randrange(1, task.size))
    if extra is None:
        world.bridge.add_fault("changed", on="result")
    fetching = asyncio.create_task(fetch(world, task, folder))
    while not cut.hits:
        await asyncio.sleep(0.01)
    if extra is not None:
        put_on_shelf(folder, archive_bytes(2, extra=extra))
    error = await fetching
    assert error is None, repr(error)
    assert (await look_at(world, task.task_id)).sha256 != task.sha256, "the archive was not replaced"


def strange_ranges(context: Context) -> str:
    """D3: the rest is asked for, and the answer is everything, another part, no known part, or a refusal."""
    seen: Counter[bool] = Counter()
    for number, _ in enumerate(_answers_to_a_range(1, 2)):
        for count in (1, None):
            seen.update(repeat(context, partial(_ask_for_the_rest, number=number, count=count)))
    for scenario in (_complete_without_length, _longer_than_the_result, _part_of_unknown_place):
        seen.update(repeat(context, scenario))
    return f"{seen[True]} whole in the end, {seen[False]} refused with a typed error, none wrong"


def _answers_to_a_range(cut: int, size: int) -> list[tuple[str, dict[str, Any]]]:
    """Return faults for a request for the rest after ``cut`` bytes."""
    archive = {"Content-Type": "application/zip"}
    return [
        ("ignore_range", {}),
        ("wrong_range", {}),
        *(("wrong_range", {"start": start}) for start in (0, cut - 1, cut + 1)),
        *(("wrong_range", {"total": total}) for total in (size - 1, size + 1)),
        ("body", {"status": 206, "headers": archive, "body": "x" * 100}),
        ("body", {"status": 416, "headers": {**archive, "Content-Range": f"bytes */{cut}"}}),
        ("body", {"status": 416, "headers": {**archive, "Content-Range": f"bytes */{size}"}}),
        ("body", {"status": 416, "headers": archive}),
    ]


async def _ask_for_the_rest(world: World, rng: random.Random, folder: Path, *, number: int, count: int | None) -> bool:
    task = await finish_task(world)
    cut = rng.randrange(1, task.size)
    world.bridge.add_fault("cut", on="result", bytes=cut)
    kind, options = _answers_to_a_range(cut, task.size)[number]
    fault = world.bridge.add_fault(kind, on="result", count=count, **options)
    is_whole = _is_whole(await fetch(world, task, folder))
    assert fault.hits, f"{kind} was not met"
    return is_whole


async def _complete_without_length(world: World, _: random.Random, folder: Path) -> bool:
    """Let everything come without saying that it is everything: the bridge must be asked."""
    task = await finish_task(world)
    world.bridge.add_fault("no_length", on="result")
    is_whole = _is_whole(await fetch(world, task, folder))
    assert starts(world, task) == [0, task.size], "not asked whether there is more"
    return is_whole


async def _longer_than_the_result(world: World, rng: random.Random, folder: Path) -> bool:
    """Replace the archive by one that is shorter than what has come."""
    task = await finish_task(world)
    put_on_shelf(folder, archive_bytes(1, extra=50_000))
    cut = world.bridge.add_fault("cut", on="result", bytes=len(archive_bytes(1)) + rng.randrange(50_000))
    fetching = asyncio.create_task(fetch(world, task, folder))
    while not cut.hits:
        await asyncio.sleep(0.01)
    put_on_shelf(folder, archive_bytes(2))
    return _is_whole(await fetching)


async def _part_of_unknown_place(world: World, _: random.Random, folder: Path) -> bool:
    """Answer the first request, which has no range, with a part that does not say which."""
    task = await finish_task(world)
    options = {"status": 206, "headers": {"Content-Type": "application/zip"}, "body": "x" * 100}
    world.bridge.add_fault("body", on="result", **options)
    return _is_whole(await fetch(world, task, folder))


def _is_whole(error: CrynuxError | None) -> bool:
    """Return whether there was no error; what is under the final name was checked already."""
    assert error is None or isinstance(error, DownloadError), repr(error)
    return error is None


def no_length_and_cut(context: Context) -> str:
    """D4: no Content-Length, and the end comes early: from a bridge that can do ranges, and from one that cannot."""
    once = repeat(context, partial(_no_length, count=1))
    often = repeat(context, partial(_no_length, count=None))
    assert all(once), "a range could have completed it"
    repeat(context, _no_length_no_ranges)
    return (
        f"{len(once)} cut once and {sum(often)} of {len(often)} cut each time completed by ranges; "
        f"{context.seeds} from a server without ranges never finalised"
    )


async def _no_length(world: World, rng: random.Random, folder: Path, *, count: int | None) -> bool:
    task = await finish_task(world)
    world.bridge.add_fault("no_length", on="result", bytes=rng.randrange(task.size), count=count)
    return _is_whole(await fetch(world, task, folder))


async def _no_length_no_ranges(world: World, rng: random.Random, folder: Path) -> None:
    task = await finish_task(world)
    async with client(world) as http, http.get(f"/v1/images/models/{task.task_id}/result") as answer:
        whole, modified = await answer.read(), answer.headers["Last-Modified"]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\nLast-Modified: {modified}\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head.encode() + whole[: rng.randrange(len(whole))])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        backend = BridgeBackend(Settings(base_url=f"http://127.0.0.1:{port}", api_key=world.key))
        try:
            await download(
                partial(backend.open_result, Task(task_id=str(task.task_id))),
                folder / f"{task.task_id}.zip",
                verify=None,
            )
        except IncompleteError as error:
            expected = error.expected
        else:
            raise AssertionError("a file of unknown size was finalised")
        finally:
            await backend.close()
    assert expected is None, f"{expected} bytes were expected"
    await check_final(world, task, folder, is_there=False)


def damaged(context: Context) -> str:
    """D7: a bit flipped, 4 KiB zeroed, garbage behind the end, the beginning twice: once, and for ever."""
    kinds = ("flip", "zero", "garbage", "repeat")
    for kind in kinds:
        for count in (1, None):
            repeat(context, partial(_damage, kind=kind, count=count))
    return f"{', '.join(kinds)}: {context.seeds} each once (fetched again) and for ever (fetched twice, kept aside)"


async def _damage(world: World, rng: random.Random, folder: Path, *, kind: str, count: int | None) -> None:
    task = await finish_task(world)
    most = rng.choice((1, 100, 10_000))
    size = {"zero": 4096, "garbage": rng.randrange(most) + 1, "repeat": rng.randrange(most) + 1}.get(kind)
    world.bridge.add_fault(kind, on="result", count=count, offset=rng.randrange(task.size), bytes=size)
    error = await fetch(world, task, folder)
    asked = starts(world, task)
    assert asked == [0, 0], f"asked from bytes {asked}"
    kept = [name for name in names_in(folder) if name.endswith(".corrupt")]
    if count == 1:
        assert error is None, repr(error)
        assert not kept, f"{kept} left behind"
        return
    assert isinstance(error, CorruptArchiveError), repr(error)
    assert len(kept) == 1, f"kept aside: {kept}"
    assert kept[0] in str(error), f"{error} does not say where the bad copy is"
    error = await fetch(world, task, folder)
    assert error is None, f"afterwards: {error!r}"


def slow(context: Context) -> str:
    """D8: silence, a trickle, and a thousand slow peers at once."""
    waits = repeat(context, _stall)
    trickles = repeat(context, _trickle)
    lag, count = _thousand_slow_peers(context.folder)
    assert lag <= MOST_LAG, f"a timer was {1000 * lag:.0f} ms late among {count} slow downloads (99th percentile)"
    return (
        f"silence noticed after {max(waits):.0f} s, {TRICKLE} B/s given up after {max(trickles):.0f} s; "
        f"{count} slow downloads: lag p99 {1000 * lag:.0f} ms"
    )


async def _stall(world: World, rng: random.Random, folder: Path) -> float:
    """Return how many seconds of silence it took until the rest was asked for."""
    task = await finish_task(world)
    sent = rng.choice((None, 0, rng.randrange(1, task.size)))
    world.bridge.add_fault("stall", on="result", bytes=sent)
    error = await fetch(world, task, folder)
    assert error is None, repr(error)
    begun, again = (request.at for request in result_requests(world, task))
    assert starts(world, task) == [0, sent or 0]
    assert again - begun <= 61.0 + 1.0, f"asked again after {again - begun:.0f} s"
    return again - begun


async def _trickle(world: World, _: random.Random, folder: Path) -> float:
    """Return after how many seconds the first of many trickles was given up."""
    task = await finish_task(world)
    world.bridge.add_fault("trickle", on="result", bytes_per_second=TRICKLE, count=None)
    error = await fetch(world, task, folder)
    assert isinstance(error, IncompleteError), repr(error)
    assert (folder / f"{task.task_id}.zip.part").stat().st_size == error.received > 0
    asked = starts(world, task)
    assert asked == sorted(asked), f"asked from bytes {asked}"
    error = await fetch(world, task, folder)
    assert error is None, repr(error)
    times = [request.at for request in result_requests(world, task)]
    return times[1] - times[0]


def _thousand_slow_peers(folder: Path) -> tuple[float, int]:
    """Return how late timers are among very many slow downloads, in real time (99th percentile, s), and how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        return asyncio.run(_download_slowly(folder))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _download_slowly(folder: Path) -> tuple[float, int]:
    settings = {"speed": 1e9, "unet": "tiny", "rate_limit": 60_000, "durable": False}
    async with started(child("emulate", json.dumps(settings))) as bridge:
        assert bridge.stdout is not None
        where = json.loads(await bridge.stdout.readline())
        task_ids = await _create_slow_tasks(where["url"], where["api_key"])
        options: dict[str, Any] = {
            "max_downloads": SLOW_PEERS,
            "max_connections": 2 * SLOW_PEERS,
            "trust_env": False,
            **IMPATIENT,
        }
        async with Session(Settings(base_url=where["url"], api_key=where["api_key"], **options)) as session:
            jobs = [session.attach(task_id) for task_id in task_ids]
            downloads = [asyncio.create_task(job.download(folder)) for job in jobs]
            lags: list[float] = []
            async with asyncio.timeout(120):
                while sum(name.endswith(".part") for name in names_in(folder)) < SLOW_PEERS:
                    await asyncio.sleep(0.1)
                before = _received(folder)
                sampler = asyncio.create_task(sample_lag(lags))
                await asyncio.sleep(SLOW_SECONDS)
            sampler.cancel()
            speed = (_received(folder) - before) / SLOW_SECONDS
            assert speed >= 0.8 * SLOW_PEERS * TRICKLE, f"{speed:.0f} of {SLOW_PEERS * TRICKLE} bytes/s arrived"
            assert session.statistics().downloading == SLOW_PEERS
            for each in downloads:
                each.cancel()
            await asyncio.gather(*downloads, return_exceptions=True)
    return sorted(lags)[int(0.99 * len(lags))], len(jobs)


async def _create_slow_tasks(url: str, key: str) -> list[int]:
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {key}"}) as http:
        fault = {"kind": "trickle", "on": "result", "bytes_per_second": TRICKLE, "count": None}
        async with http.post("/_emulator/faults", json=fault) as answer:
            answer.raise_for_status()
        return [await create_task(http) for _ in range(SLOW_PEERS)]


def _received(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.part"))


CASES = (
    Case(name="D1", fault="200 MB, 20 cuts, 5 killed processes", run=cut_and_killed),
    Case(name="D2", fault="archive replaced between segments", run=changed_between_segments),
    Case(name="D3", fault="Range ignored, answered wrongly, refused", run=strange_ranges),
    Case(name="D4", fault="no Content-Length and an early end", run=no_length_and_cut),
    Case(name="D7", fault="bit flipped, 4 KiB zeroed, garbage, prefix twice", run=damaged),
    Case(name="D8", fault="silence, 1 kB/s, 1,000 slow peers", run=slow),
)
