"""One ledger for many hosts, against a queue in the same server: ``python -m benchmarks.ledger --postgres``.

A submit is durable when one job of one caller is committed: ``ledger.add`` of one row with its config, and
procrastinate's ``defer`` of the same. The server is a real one with fsync, started for the run.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from statistics import median
from typing import Any

import procrastinate
import psycopg
from procrastinate import App, PsycopgConnector

from benchmarks.ledger import BACKEND, HOUR, make_job
from benchmarks.postgres_server import PostgresServer, new_server
from benchmarks.reporting import finish, show_table
from crynux_async.clock import utc_now
from crynux_async.job import Job
from crynux_async.ledgers.base import JobChange
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.session import Session
from crynux_async.states import JobState

CALLERS = (1, 8, 64)
PROCESSES = (1, 4)
SECONDS = 2.0
MANY = 100_000
_AT_ONCE = 5000
HEARD = 200
AWAITED, APART = 40, 0.8  # a session looks at once, and twice a second at most
COMMITTERS = 8
_TALKS = {
    "silent": ("BEGIN", "{work}", "COMMIT"),
    "NOTIFY after the commit": ("BEGIN", "{work}", "COMMIT", "NOTIFY benchmark"),
    "NOTIFY in the commit": ("BEGIN", "{work}", "NOTIFY benchmark", "COMMIT"),
}
_CHILD = "from benchmarks.ledger_postgres import main; main()"  # procrastinate minds an app in the main module
_PEER_CONNECTIONS = 64  # one for each caller, as its documentation has it


async def submits_per_second(url: str, callers: int, first: int) -> float:
    """Return how many jobs a ledger takes durably from so many callers at once, a job at a time."""
    async with AsyncExitStack() as stack:
        ledger = PostgresLedger(url)
        await ledger.open()
        stack.push_async_callback(ledger.close)
        fence = await ledger.enter("me", seconds=HOUR)
        numbers = iter(range(first, first + 10**6))
        return await _rate(lambda: ledger.add([make_job(next(numbers))], fence=fence), callers)


async def defers_per_second(url: str, callers: int, first: int) -> float:
    """Return how many jobs procrastinate takes from so many callers at once."""
    app = App(connector=PsycopgConnector(conninfo=url, min_size=min(callers, 8), max_size=_PEER_CONNECTIONS))

    @app.task(name="train")
    async def train(**_: Any) -> None:
        """Never run here."""

    async with app.open_async():
        numbers = iter(range(first, first + 10**6))

        def defer() -> Awaitable[Any]:
            job = make_job(next(numbers))
            assert job.config is not None
            return train.defer_async(config=job.config.to_dict(), label=job.label)

        return await _rate(defer, callers)


async def _rate(submit: Callable[[], Awaitable[Any]], callers: int) -> float:
    done, end = 0, time.perf_counter() + SECONDS

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await submit()
            done += 1

    await submit()
    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return done / (time.perf_counter() - began)


SIDES = {"ledger": submits_per_second, "procrastinate": defers_per_second}


def measure_submits(server: PostgresServer) -> dict[str, dict[str, float]]:
    """Return submits a second by side, and by processes and callers; the sides take turns."""
    found: dict[str, dict[str, float]] = {side: {} for side in SIDES}
    first = 0
    for processes in PROCESSES:
        for callers in CALLERS:
            for side in SIDES:
                first += 10**7
                found[side][f"{processes} x {callers}"] = asyncio.run(
                    _together(side, server, processes, callers, first)
                )
    return found


async def _together(side: str, server: PostgresServer, processes: int, callers: int, first: int) -> float:
    if processes == 1:
        return await SIDES[side](_url(side, server), callers, first)
    children = []
    for number in range(processes):
        arguments = [side, _url(side, server), str(callers), str(first + number * 10**6)]
        command = [sys.executable, "-c", _CHILD, *arguments]
        children.append(await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE))
    return sum([float((await child.communicate())[0]) for child in children])


def _url(side: str, server: PostgresServer) -> str:
    return server.url() if side == "ledger" else server.url("peer")


async def measure_many(server: PostgresServer) -> dict[str, float]:
    """Return the seconds to add, claim and list many jobs."""
    seconds: dict[str, float] = {}
    ledger = PostgresLedger(server.url(schema="many"))
    await ledger.open()
    fence = await ledger.enter("me", seconds=HOUR)

    async def timed(name: str, work: Awaitable[Any]) -> Any:
        began = time.perf_counter()
        result = await work
        seconds[name] = time.perf_counter() - began
        return result

    async def add_all() -> None:
        for start in range(0, MANY, _AT_ONCE):
            await ledger.add([make_job(number) for number in range(start, start + _AT_ONCE)])

    await timed("add", add_all())
    claimed = await timed("claim", ledger.claim(fence, backend=BACKEND, states=[JobState.PLANNED]))
    assert len(claimed) == MANY
    del claimed
    assert len(await timed("list", ledger.jobs())) == MANY
    await ledger.close()
    return seconds


async def measure_hearing(server: PostgresServer) -> dict[str, float]:
    """Return the server's round trip, and how long after its commit a change is read elsewhere, in seconds."""
    one, two = PostgresLedger(server.url(schema="hear")), PostgresLedger(server.url(schema="hear"))
    await asyncio.gather(one.open(), two.open())
    fence = await one.enter("me", seconds=HOUR)
    await one.add([make_job(0)], fence=fence)
    trips, delays = [], []
    for _ in range(HEARD):
        began = time.perf_counter()
        await two.get(make_job(0).job_id)
        trips.append(time.perf_counter() - began)
    heard = await two.changed(await two.changed(0))
    for number in range(1, HEARD + 1):
        listening = asyncio.create_task(two.changed(heard))
        await asyncio.sleep(0)
        await one.change(fence, [JobChange(job_id=make_job(0).job_id, columns={"label": f"at {number}"})])
        committed = time.perf_counter()
        while True:
            heard = await listening
            row = await two.get(make_job(0).job_id)
            if row is not None and row.label == f"at {number}":
                break
            listening = asyncio.create_task(two.changed(heard))
        delays.append(time.perf_counter() - committed)
    await asyncio.gather(one.close(), two.close())
    delays.sort()
    return {"trip": median(trips), "p50": median(delays), "p99": delays[int(0.99 * len(delays))]}


async def measure_awaiting(server: PostgresServer) -> list[float]:
    """Return, sorted, how long after its last commit ``await job`` returns in another process, in seconds."""
    url = server.url(schema="await")
    ledger = PostgresLedger(url)
    await ledger.open()
    fence = await ledger.enter("me", seconds=HOUR)
    names = [make_job(number).job_id for number in range(AWAITED)]
    await ledger.add([make_job(number) for number in range(AWAITED)], fence=fence)
    command = [sys.executable, "-c", _CHILD, "await", url, str(AWAITED), "0"]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    await child.stdout.readline()  # it waits for all of them
    committed = {}
    for name in names:
        columns = {"state": JobState.SUCCEEDED, "ended_at": utc_now()}
        await ledger.change(fence, [JobChange(job_id=name, columns=columns)])
        committed[name] = time.monotonic()
        await asyncio.sleep(APART)
    returned = json.loads((await child.communicate())[0])
    await ledger.close()
    return sorted(returned[name] - committed[name] for name in names)


async def await_all(url: str, count: int) -> None:
    """Await jobs that another process follows, and print when each came back, by the machine's clock."""
    returned: dict[str, float] = {}
    async with Session(ledger=url, follow=False, base_url=BACKEND, api_key="k" * 44) as session:

        async def returns(job: Job) -> None:
            await job
            returned[job.job_id] = time.monotonic()

        found = [await session.find(make_job(number).job_id) for number in range(count)]
        waiting = [asyncio.create_task(returns(job)) for job in found if job is not None]
        await asyncio.sleep(1.0)  # until the session looks at them
        print("waiting", flush=True)
        await asyncio.gather(*waiting)
    print(json.dumps(returned))


async def measure_talking(server: PostgresServer) -> dict[str, float]:
    """Return commits a second of some connections at once that tell nobody, tell afterwards, or tell in the commit."""
    server.run("CREATE TABLE talk (id int PRIMARY KEY, n int)")
    server.run(f"INSERT INTO talk SELECT n, 0 FROM generate_series(1, {COMMITTERS}) n")
    found = {}
    for name, statements in _TALKS.items():
        async with AsyncExitStack() as stack:
            connecting = (psycopg.AsyncConnection.connect(server.url(), autocommit=True) for _ in range(COMMITTERS))
            free = [(row, await stack.enter_async_context(await each)) for row, each in enumerate(connecting, 1)]
            commit = partial(_commit, free, statements)
            found[name] = await _rate(commit, COMMITTERS)
    return found


async def _commit(free: list[tuple[int, Any]], statements: tuple[str, ...]) -> None:
    row, raw = free.pop()
    async with raw.pipeline():
        for statement in statements:
            await raw.execute(statement.format(work=f"UPDATE talk SET n = n + 1 WHERE id = {row}").encode())
    free.append((row, raw))


def run() -> None:
    """Measure, print, and end with a line of JSON."""
    server = new_server("fsync=on", "full_page_writes=on", "shared_buffers=128MB")
    try:
        server.run("CREATE DATABASE peer")
        asyncio.run(_prepare(server))
        submits = measure_submits(server)
        many, hearing = asyncio.run(measure_many(server)), asyncio.run(measure_hearing(server))
        awaiting, talking = asyncio.run(measure_awaiting(server)), asyncio.run(measure_talking(server))
    finally:
        server.kill()
    rows = [
        (name, submits["ledger"][name], submits["procrastinate"][name], submits["ledger"][name] / peer)
        for name, peer in submits["procrastinate"].items()
    ]
    show_table("Durable submits a second", ("processes x callers", "ledger", "procrastinate", "ratio"), rows)
    show_table(f"Seconds for {MANY:,} jobs", tuple(many), [tuple(many.values())])
    trips = hearing["p99"] / hearing["trip"]
    show_table(
        "From a commit to the row read by another session",
        ("round trip ms", "p50 ms", "p99 ms", "p99 in round trips"),
        [(1e3 * hearing["trip"], 1e3 * hearing["p50"], 1e3 * hearing["p99"], trips)],
    )
    awaited = awaiting[int(0.99 * len(awaiting))]
    show_table(
        "From a commit to 'await job' in another process",
        ("p50 ms", "p99 ms", "p99 in round trips"),
        [(1e3 * median(awaiting), 1e3 * awaited, awaited / hearing["trip"])],
    )
    quiet = talking["silent"]
    show_table(
        f"Commits a second of {COMMITTERS} connections",
        ("told", "commits", "ratio"),
        [(name, rate, rate / quiet) for name, rate in talking.items()],
    )
    finish(
        "ledger_postgres",
        {
            "submits_per_second": {
                side: {name: round(rate) for name, rate in rates.items()} for side, rates in submits.items()
            },
            "seconds": {name: round(value, 2) for name, value in many.items()},
            "heard_p99_round_trips": round(trips, 1),
            "awaited_p99_round_trips": round(awaited / hearing["trip"], 1),
            "commits_per_second": {name: round(rate) for name, rate in talking.items()},
            "peer": procrastinate.__version__,
        },
    )


async def _prepare(server: PostgresServer) -> None:
    async with App(connector=PsycopgConnector(conninfo=server.url("peer"))).open_async() as app:
        await app.schema_manager.apply_schema_async()
    ledger = PostgresLedger(server.url())
    await ledger.open()
    await ledger.close()


def main() -> None:
    """Be one of several processes: measure one side, and print its rate."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger_postgres", description=__doc__)
    parser.add_argument("side", choices=(*SIDES, "await"))
    parser.add_argument("url")
    parser.add_argument("callers", type=int)
    parser.add_argument("first", type=int)
    options = parser.parse_args()
    if options.side == "await":
        asyncio.run(await_all(options.url, options.callers))
        return
    print(json.dumps(asyncio.run(SIDES[options.side](options.url, options.callers, options.first))))


if __name__ == "__main__":
    main()
