"""Cases S2 to S5, S10 and S11: creates that are cut, answered strangely, cancelled, or dated by a clock that jumps."""

import asyncio
import contextlib
import itertools
import logging
import random
import socket
import ssl
import struct
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from benchmarks.scorecard import submit_crashes, torn_logs
from benchmarks.scorecard.accounting import JobClass, check_nothing_lost, remember
from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.processes import require_tool
from benchmarks.scorecard.severing import Severable
from benchmarks.scorecard.worlds import World, config, creates, on_virtual_time
from crynux_async.config import FineTuneConfig
from crynux_async.emulator.schema import violation
from crynux_async.emulator.task_args import with_defaults
from crynux_async.errors import ConfigError, SubmissionUnknownError
from crynux_async.job import Job
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, Ledger
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session
from crynux_async.states import JobState
from crynux_async.testing import VirtualTimeLoop

ALL_SEEDS = 20
CANCELLATIONS = 15
LIMIT = 60_000
INSTANT = 1e9
ENDS = ("fin", "rst", "stall")
DAY = 86_400.0
_ABRUPT = struct.pack("ii", 1, 0)
_SEEDS = 100_000  # all of one length, so that every request has the same
_KEPT = 65_536


async def accounts(world: World, ledger: Ledger, told: list[int]) -> Counter[JobClass]:
    """Check that nothing is lost of what one bridge and one ledger have seen."""
    known = await remember(ledger)
    return check_nothing_lost(
        world.bridge.journal, known.jobs, known.attempts, creates(world.bridge), brackets=known.brackets, told=told
    )


@attrs.define(eq=False, kw_only=True)
class Scissors:
    """A TCP proxy that cuts creates.

    Attributes:
        upstream: Port of the bridge.
        request_bytes: Cut the next create after so many bytes of its request, or None.
        answer_bytes: Cut the next create after so many bytes of its answer, or None.
        end: How a cut ends: "fin", "rst" or "stall".
        posts: Creates that began to arrive.
        request_size: Bytes of the last whole request.
        answer_size: Bytes of the last whole answer.
    """

    upstream: int
    request_bytes: int | None = None
    answer_bytes: int | None = None
    end: str = "fin"
    posts: int = 0
    request_size: int = 0
    answer_size: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve, and provide the base URL."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        finally:
            listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", self.upstream)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._carry(reader, writer, above, below)
        for each in (below, writer):
            each.close()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        above: asyncio.StreamReader,
        below: asyncio.StreamWriter,
    ) -> None:
        begin = await reader.readexactly(1)
        is_create = begin == b"P"
        self.posts += is_create
        if is_create and self.request_bytes is not None:
            if self.request_bytes:
                below.write(begin + await reader.readexactly(self.request_bytes - 1))
                await below.drain()
            below.close()
            await self._cut(reader, writer)
            return
        request = begin + await _message(reader)
        below.write(request)
        answer = await _message(above)
        if is_create:
            self.request_size, self.answer_size = len(request), len(answer)
        if is_create and self.answer_bytes is not None and self.answer_bytes < len(answer):
            writer.write(answer[: self.answer_bytes])
            await self._cut(reader, writer)
            return
        writer.write(answer)
        await writer.drain()

    async def _cut(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await writer.drain()
        if self.end == "rst":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABRUPT)
            writer.transport.abort()
            return
        if self.end == "fin":
            writer.write_eof()
        while await reader.read(1 << 16):  # until the client gives up
            pass


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


def cut_everywhere(context: Context) -> str:
    """S2: the connection is cut after every byte of the request and of the answer, in three ways."""
    step = max(1, ALL_SEEDS // context.seeds)
    seen = []
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the bridge's complaints about half requests
    for side in ("request", "answer"):
        for end in ENDS:

            async def work(world: World, side: str = side, end: str = end) -> tuple[int, int, Counter[JobClass]]:
                return await _cut(world, side, end, step)

            cuts, size, classes = on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT, durable=False)
            assert classes[JobClass.AMBIGUOUS] == cuts, f"{side}, {end}: {classes}"
            seen.append(f"{side} {end} {cuts} of {size} points")
    return f"{', '.join(seen)}: all ambiguous, at most one POST each"


async def _cut(world: World, side: str, end: str, step: int) -> tuple[int, int, Counter[JobClass]]:
    scissors, ledger, told, cuts = Scissors(upstream=_port(world), end=end), MemoryLedger(), [], 0
    async with scissors.listening() as url:
        settings = {"base_url": url, "rate_limit": LIMIT, "prime_key": False}
        async with world.session(ledger=ledger, **settings) as session:
            whole = await session.submit(config(_SEEDS))
            told.append(whole.task_id or 0)
            for at in itertools.count(0, step):  # an answer is not always of one size: its times are not
                if side == "request" and at >= scissors.request_size:
                    break
                setattr(scissors, f"{side}_bytes", at)
                task_id = await _submit_cut(world, session, scissors, _SEEDS + 1 + at)
                setattr(scissors, f"{side}_bytes", None)
                if task_id is not None:
                    assert side == "answer", f"a request without its last {scissors.request_size - at} bytes was sent"
                    assert at >= scissors.answer_size, f"{at} of {scissors.answer_size} bytes count as an answer"
                    told.append(task_id)
                    break
                cuts += 1
                if cuts % 50 == 0:  # so that brackets have ends
                    told.append((await session.submit(config(2 * _SEEDS + at))).task_id or 0)
            size = scissors.request_size if side == "request" else scissors.answer_size
        return cuts, size, await accounts(world, ledger, told)


async def _submit_cut(world: World, session: Session, scissors: Scissors, seed: int) -> int | None:
    """Submit a job, and return its task where nothing was cut off."""
    posts, created = scissors.posts, len(world.bridge.journal)
    job = session.plan(config(seed))
    try:
        await job.submitted()
    except SubmissionUnknownError:
        assert job.state is JobState.UNCONFIRMED, f"{job!r}"
    assert scissors.posts == posts + 1, f"{scissors.posts - posts} POSTs for one job"
    assert len(world.bridge.journal) <= created + 1, "more than one task was made"
    return job.task_id


def _port(world: World) -> int:
    return int(world.bridge.url.rpartition(":")[2])


def not_reached(context: Context) -> str:
    """S3: no name, no listener, no TLS, no end of the connecting: tried again until it works, once."""
    _make_certificate(context)
    ways = {"no name": _no_name, "refused": _refused, "connecting hangs": _hanging, "no TLS": _no_tls}
    seen = []
    for name, way in ways.items():

        async def work(world: World, way: Callable[[World, Context], Awaitable[int]] = way) -> int:
            return await way(world, context)

        tries = [on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT) for _ in range(max(1, context.seeds // 5))]
        assert min(tries) >= 3, f"{name}: it was not tried again"
        seen.append(f"{name} {tries[0]} tries")
    return f"{', '.join(seen)}: exactly one creation each"


async def _until_sent(world: World, repair: Callable[[], Awaitable[None] | None], **settings: Any) -> int:
    """Submit while nothing works, repair it after two failures, and return how often it was tried."""
    ledger = MemoryLedger()
    async with world.session(ledger=ledger, rate_limit=LIMIT, **{"prime_key": False, **settings}) as session:
        job = session.plan(config())
        while sum(a.outcome is AttemptOutcome.NOT_SENT for a in await ledger.attempts()) < 2:
            assert job.state is JobState.PLANNED, f"{job!r}: {job.error}"
            await asyncio.sleep(0.1)
        assert not creates(world.bridge), "something arrived"
        repairing = repair()
        if repairing is not None:
            await repairing
        await job.submitted()
        attempts = await ledger.attempts()
        outcomes = [attempt.outcome for attempt in attempts]
        assert outcomes == [AttemptOutcome.NOT_SENT] * (len(outcomes) - 1) + [AttemptOutcome.ACCEPTED], outcomes
        assert len(world.bridge.journal) == 1, "not exactly one creation"
        await accounts(world, ledger, [job.task_id or 0])
        return len(attempts)


async def _no_name(world: World, _: Context) -> int:
    loop: Any = asyncio.get_running_loop()
    right = loop.getaddrinfo

    async def fail(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    loop.getaddrinfo = fail
    url = f"http://localhost:{_port(world)}"
    return await _until_sent(world, lambda: setattr(loop, "getaddrinfo", right), base_url=url)


async def _hanging(world: World, _: Context) -> int:
    loop: Any = asyncio.get_running_loop()
    right = loop.sock_connect

    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    loop.sock_connect = hang
    return await _until_sent(world, lambda: setattr(loop, "sock_connect", right))


async def _refused(world: World, _: Context) -> int:
    port, stack = _free_port(), contextlib.AsyncExitStack()

    async def repair() -> None:
        await stack.enter_async_context(_relay(world, port))

    async with stack:
        return await _until_sent(world, repair, base_url=f"http://127.0.0.1:{port}")


def _make_certificate(context: Context) -> None:
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    places = ["-keyout", str(context.folder / "key.pem"), "-out", str(context.folder / "certificate.pem")]
    subprocess.run([require_tool("openssl"), "req", *kind, *named, *places], check=True, capture_output=True)


async def _no_tls(world: World, context: Context) -> int:
    key, certificate = context.folder / "key.pem", context.folder / "certificate.pem"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)

    async def talk_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(talk_plainly, "127.0.0.1", 0)
    port, stack = listener.sockets[0].getsockname()[1], contextlib.AsyncExitStack()

    async def repair() -> None:
        listener.close()
        await stack.enter_async_context(_relay(world, port, tls))

    async with stack:
        return await _until_sent(world, repair, base_url=f"https://127.0.0.1:{port}", ca_bundle=str(certificate))


@asynccontextmanager
async def _relay(world: World, port: int, tls: Any = None) -> AsyncIterator[None]:
    """Pass one request of each connection on to the bridge."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", _port(world))
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            below.write(await _message(reader))
            writer.write(await _message(above))
            await writer.drain()
        for each in (below, writer):
            each.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    try:
        yield
    finally:
        listener.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def strange_answers(_: Context) -> str:
    """S4: answers that say nothing sure, after the task was made."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        *((kind, {}) for kind in ("broken_json", "no_id", "zero_id", "big_json", "gzip_bomb")),
        *(("status", {"status": status, "message": "it broke"}) for status in (500, 502, 503, 504)),
        *(("html", {"status": status}) for status in (500, 502, 503, 504)),
        ("redirect", {"status": 307}),
        ("redirect", {"status": 308}),
    ]

    async def work(world: World) -> Counter[JobClass]:
        ledger = MemoryLedger()
        async with world.session(ledger=ledger, rate_limit=LIMIT) as session:
            for seed, (kind, options) in enumerate(kinds, start=1):
                world.bridge.add_fault(kind, on="create", carried_out=True, **options)
                await _expect_unknown(world, session, seed, f"{kind} {options}")
            echo = f"<html>you sent Authorization: Bearer {world.key}</html>" + "x" * 200_000
            world.bridge.add_fault("body", on="create", status=502, body=echo, carried_out=True)
            await _expect_unknown(world, session, len(kinds) + 1, "echo of the key")
            posts = len(creates(world.bridge))
            await asyncio.sleep(DAY)
        async with world.session(ledger=ledger, rate_limit=LIMIT):
            await asyncio.sleep(DAY)
        assert len(creates(world.bridge)) == posts == len(kinds) + 1, "something was sent again"
        for attempt in await ledger.attempts():
            _check_answer(attempt, world.key)
        return await accounts(world, ledger, [])

    classes = on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT)
    assert classes == {JobClass.AMBIGUOUS: len(kinds) + 1}, classes
    return f"{len(kinds) + 1} kinds of answers, all ambiguous, kept without the key, none sent again in two days"


async def _expect_unknown(world: World, session: Session, seed: int, kind: str) -> None:
    made = len(world.bridge.journal)
    try:
        job = await session.submit(config(seed))
    except SubmissionUnknownError:
        assert len(world.bridge.journal) == made + 1, f"{kind}: no task was made, so the case shows nothing"
    else:
        raise AssertionError(f"{kind} was taken for {job!r}")


def _check_answer(attempt: AttemptRow, key: str) -> None:
    assert attempt.outcome is AttemptOutcome.UNKNOWN, f"{attempt.outcome}"
    has_body = attempt.status not in (307, 308)
    assert bool(attempt.answer) is has_body, f"the answer with status {attempt.status} was not kept"
    assert len(attempt.answer) <= _KEPT, f"{len(attempt.answer)} characters were kept"
    assert key not in attempt.answer, "the key is in the ledger"


class SlowLedger(MemoryLedger):
    """A ledger whose disk takes its time, before it has a row and after."""

    async def add(self, *args: Any, **kwargs: Any) -> None:
        """Store new jobs."""
        await _around(super().add(*args, **kwargs))

    async def begin(self, *args: Any, **kwargs: Any) -> None:
        """Store an attempt."""
        await _around(super().begin(*args, **kwargs))

    async def finish(self, *args: Any, **kwargs: Any) -> None:
        """Store what became of an attempt."""
        await _around(super().finish(*args, **kwargs))


async def _around(write: Awaitable[None]) -> None:
    async def do() -> None:
        await asyncio.sleep(0.05)
        await write
        await asyncio.sleep(0.05)

    await asyncio.shield(asyncio.create_task(do()))  # cancelling a caller does not undo its write


def cancelled(context: Context) -> str:
    """S5: callers are cancelled, timed out, or lose a sibling, at random instants of a create."""
    count = CANCELLATIONS * context.seeds

    async def work(world: World) -> tuple[Counter[str], int, Counter[JobClass]]:
        world.bridge.add_fault("delay", on="create", seconds=0.3, count=None)
        ledger, rng, ends = SlowLedger(), random.Random(5), Counter[str]()
        async with world.session(ledger=ledger, rate_limit=LIMIT, max_creates=64) as session:
            told: list[int] = []
            ways = (_by_cancel, _by_timeout, _by_sibling)
            for number in range(count):
                ends[await ways[number % 3](session, number + 1, rng.uniform(0.0, 0.6), told)] += 1
            during = len(told)
        created = [entry for entry in world.bridge.journal if entry.accepted]
        classes = await accounts(world, ledger, told)
        recorded = {row.task_id for row in await ledger.jobs()}
        lost = sum(entry.task_id not in recorded for entry in created)
        assert len(created) > during, "no cancellation came after the POST, so the case shows nothing"
        return ends, lost, classes

    ends, lost, classes = on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT, durable=False)
    assert lost == 0, f"{lost} ids lost"
    assert classes[JobClass.AMBIGUOUS] == 0, f"{classes}"
    assert sum(ends.values()) == count
    return f"{count} creates, {dict(ends)}: 0 ids lost; {classes[JobClass.ACCEPTED]} accepted, the others never sent"


async def _submit_and_tell(session: Session, seed: int, told: list[int]) -> None:
    job = await session.submit(config(seed))
    told.append(job.task_id or 0)


async def _by_cancel(session: Session, seed: int, seconds: float, told: list[int]) -> str:
    task = asyncio.create_task(_submit_and_tell(session, seed, told))
    await asyncio.sleep(seconds)
    task.cancel()
    began = asyncio.get_running_loop().time()
    await asyncio.wait([task])
    assert asyncio.get_running_loop().time() - began < session.settings.close_timeout, "the caller was held back"
    return "cancelled" if task.cancelled() else "returned"


async def _by_timeout(session: Session, seed: int, seconds: float, told: list[int]) -> str:
    try:
        async with asyncio.timeout(seconds):
            await _submit_and_tell(session, seed, told)
    except TimeoutError:
        return "timed out"
    return "returned"


async def _by_sibling(session: Session, seed: int, seconds: float, told: list[int]) -> str:
    async def fail() -> None:
        await asyncio.sleep(seconds)
        raise ZeroDivisionError

    before = len(told)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_submit_and_tell(session, seed, told))
            group.create_task(fail())
    except* ZeroDivisionError:
        pass
    return "returned" if len(told) > before else "lost a sibling"


def clock_jumps(context: Context) -> str:
    """S10: the wall clock is set a day forward and back while jobs wait, are sent, and run; processes die meanwhile."""
    limit, count = 5, 20
    busiest = 0
    for seed in range(1, context.seeds + 1):

        async def work(world: World, seed: int = seed) -> int:
            return await _jump(world, random.Random(seed), limit, count)

        busiest = max(busiest, on_virtual_time(work, rate_limit=limit, speed=0.01, durable=False))
    assert busiest <= 2 * limit + 1, f"{busiest} creates in one minute at {limit} a minute"
    return f"{context.seeds} seeds, {count} jobs each, 10 jumps: busiest minute {busiest} (burst + rate {2 * limit})"


async def _jump(world: World, rng: random.Random, limit: int, count: int) -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    ledger, told = MemoryLedger(), []

    async def jump() -> None:
        for _ in range(10):
            await asyncio.sleep(rng.uniform(1.0, 30.0))
            loop.set_wall_clock(loop.wall_time() + rng.choice((-DAY, DAY)))

    jumping = asyncio.create_task(jump())
    for part in range(2):  # the second session replays what the first has sent
        async with world.session(ledger=ledger, rate_limit=limit) as session:
            jobs = [session.plan(config(seed)) for seed in range(part * count + 1, part * count + count // 2 + 1)]
            for job in jobs:
                told.append((await job.submitted()).task_id or 0)
            await asyncio.sleep(600)
            states = Counter(job.state for job in session.jobs())
            assert states == {JobState.RUNNING: len(session.jobs())}, f"given up too early: {states}"
            assert session.statistics().refusals == 0, "a create was refused"
    await jumping
    await accounts(world, ledger, told)
    await _die_after_a_jump(world, ledger, told)
    _check_monotone(await ledger.attempts())
    return _busiest_minute([post.at for post in creates(world.bridge)])


async def _die_after_a_jump(world: World, ledger: MemoryLedger, told: list[int]) -> None:
    """Plan a job, set the clock back, send it, and die before the answer: the next process must not send it again."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    world.bridge.add_fault("stall", on="create", count=None)
    dying = Severable(ledger)
    session = world.session(ledger=dying, rate_limit=5, prime_key=False)
    await session.open()
    (job,) = await session.submit_many([config(999)])
    assert (await ledger.get(job.job_id)) is not None
    loop.set_wall_clock(loop.wall_time() - DAY)
    while not creates(world.bridge) or (await ledger.attempts())[-1].job_id != job.job_id:
        await asyncio.sleep(0.01)
    await asyncio.sleep(1)
    await dying.sever(session)
    loop.set_wall_clock(loop.wall_time() + 2 * DAY)
    async with world.session(ledger=ledger, rate_limit=5) as after:
        state = after.job(job.job_id).state
    assert state is JobState.UNCONFIRMED, f"a create was under way when its process died, and its job is {state}"
    await accounts(world, ledger, told)


def _check_monotone(attempts: list[AttemptRow]) -> None:
    times = [time for each in attempts for time in (each.began_at, each.answered_at) if time is not None]
    back = [(earlier, later) for earlier, later in itertools.pairwise(times) if later < earlier]
    assert not back, f"times in the ledger go back {len(back)} times, first from {back[0][0]} to {back[0][1]}"


def _busiest_minute(times: list[float]) -> int:
    return max(sum(begin <= time < begin + 60 for time in times) for begin in times)


def invalid_among_many(context: Context) -> str:
    """S11: what the bridge's schema refuses never becomes a config; the other 99 are sent."""
    wrong = list(_forbidden(random.Random(11), max(10, 5 * context.seeds)))
    for data in wrong:
        with contextlib.suppress(ConfigError):
            raise AssertionError(f"the bridge's schema refuses this: {FineTuneConfig.from_dict(data)!r}")

    async def work(world: World) -> tuple[int, int]:
        async with world.session(rate_limit=LIMIT) as session:
            base = config().to_dict()
            rows = [wrong[0] if number == 36 else {**base, "seed": number + 1} for number in range(100)]
            with contextlib.suppress(ConfigError):
                await session.submit_many([FineTuneConfig.from_dict(row) for row in rows])
            assert not creates(world.bridge), "something was sent although one of the list is wrong"
            jobs: list[Job] = []
            for row in rows:
                with contextlib.suppress(ConfigError):
                    jobs.append(session.plan(FineTuneConfig.from_dict(row)))
            await asyncio.gather(*(job.submitted() for job in jobs))
        refused = sum(not entry.accepted for entry in world.bridge.journal)
        return len(creates(world.bridge)), refused

    posts, refused = on_virtual_time(work, rate_limit=LIMIT, speed=INSTANT)
    assert (posts, refused) == (99, 0), f"{posts} POSTs, {refused} refused by the schema"
    return f"{len(wrong)} ways to be wrong by the bridge's schema, none became a config; 99 of 100 sent"


def _forbidden(rng: random.Random, count: int) -> Iterator[dict[str, Any]]:
    """Yield configs, as a user would write them, that the bridge's schema refuses."""
    base = {**config().to_dict(), "validation_prompt": "a cat"}
    poor: list[tuple[str, Callable[[], Any]]] = [
        ("dataset_url", lambda: rng.choice(["no url", "ht!tp://x", "%zz", "http://a/%zz", "https://x/" + "a" * 2100])),
        ("validation_num_images", lambda: rng.randrange(11, 1000)),
        ("lr_scheduler", lambda: rng.choice(["Linear", "step", "cosine "])),
        ("mixed_precision", lambda: rng.choice(["fp32", "FP16", "int8"])),
        ("prediction_type", lambda: rng.choice(["sample", "eps", ""])),
        ("adam_beta1", lambda: rng.uniform(1.0001, 9.0)),
        ("adam_beta2", lambda: rng.uniform(1.0001, 9.0)),
        ("init_lora_weights", lambda: rng.choice(["gauss", "", 7])),
        ("target_modules", lambda: rng.choice([[1, 2], 5, [None]])),
        ("noise_offset", lambda: -rng.uniform(0.1, 5.0)),
        ("snr_gamma", lambda: -rng.uniform(0.1, 5.0)),
    ]
    made = 0
    while made < count:
        name, value = rng.choice(poor)
        data = {**base, name: value()}
        if violation(with_defaults(data, seed=1)) is not None:
            made += 1
            yield data


CASES = (
    Case(
        name="S1", fault="SIGKILL at every write, sync and send of a submit, and at random", run=submit_crashes.killed
    ),
    Case(name="S2", fault="create cut after every byte of request and answer", run=cut_everywhere),
    Case(name="S3", fault="no name, refused, no TLS, connecting hangs", run=not_reached),
    Case(name="S4", fault="strange answers after the task was made", run=strange_answers),
    Case(name="S5", fault="cancel, time-out, failing sibling while creating", run=cancelled),
    Case(name="S6", fault="ledger's disk is full", run=submit_crashes.full_disk),
    Case(name="S7", fault="EIO on fsync and fdatasync", run=submit_crashes.failing_sync),
    Case(name="S8", fault="ledger's log cut at every frame", run=torn_logs.torn_log),
    Case(name="S9", fault="two processes on one ledger, one killed", run=submit_crashes.two_processes),
    Case(name="S10", fault="wall clock a day forward and back", run=clock_jumps),
    Case(name="S11", fault="schema-invalid job among 100", run=invalid_among_many),
)
