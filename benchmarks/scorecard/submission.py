"""Cases S2, S3, S4 and S11: creates that are cut, or answered strangely; and the list of S1 to S16."""

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

from benchmarks.scorecard import cancellations, clocks, submit_crashes, torn_logs
from benchmarks.scorecard.accounting import JobClass
from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.lost_leases import lost_leases
from benchmarks.scorecard.namespaces import two_namespaces
from benchmarks.scorecard.passing_trouble import troubled
from benchmarks.scorecard.processes import require_tool
from benchmarks.scorecard.seams import raising
from benchmarks.scorecard.shared_brackets import swapped_models
from benchmarks.scorecard.worlds import World, accounts, config, creates, on_virtual_time
from crynux_async.emulator.bridge.schema import violation
from crynux_async.emulator.nodes.task_args import with_defaults
from crynux_async.errors import ConfigError, SubmissionUnknownError
from crynux_async.job import Job
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

ALL_SEEDS = 20
CANCELLATIONS = 15
LIMIT = 60_000
INSTANT = 1e9
ENDS = ("fin", "rst", "stall")
DAY = 86_400.0
_ABRUPT = struct.pack("ii", 1, 0)
_SEEDS = 100_000  # all of one length, so that every request has the same
_KEPT = 65_536


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
            told.append(whole.task_id or "")
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
                    told.append((await session.submit(config(2 * _SEEDS + at))).task_id or "")
            size = scissors.request_size if side == "request" else scissors.answer_size
        return cuts, size, await accounts(world, ledger, told)


async def _submit_cut(world: World, session: Session, scissors: Scissors, seed: int) -> str | None:
    """Submit a job, and return its task where nothing was cut off."""
    posts, created = scissors.posts, len(world.bridge.journal)
    job = session.submit_nowait(config(seed))
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
        job = session.submit_nowait(config())
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
        await accounts(world, ledger, [job.task_id or ""])
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
                    jobs.append(session.submit_nowait(FineTuneConfig.from_dict(row)))
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
    Case(name="S5", fault="cancel, timeout, failing sibling, Ctrl-C while creating", run=cancellations.cancelled),
    Case(name="S6", fault="ledger's disk is full", run=submit_crashes.full_disk),
    Case(name="S7", fault="EIO on fsync and fdatasync", run=submit_crashes.failing_sync),
    Case(name="S8", fault="ledger's log cut at every frame", run=torn_logs.torn_log),
    Case(name="S9", fault="two processes on one ledger, one killed", run=submit_crashes.two_processes),
    Case(name="S10", fault="wall clock a day forward and back, suspend", run=clocks.jumps),
    Case(name="S11", fault="schema-invalid job among 100", run=invalid_among_many),
    Case(name="S12", fault="locks and full disks that pass, at every statement of a submit", run=troubled),
    Case(name="S13", fault="stopped at every step, lease lost, continued", run=lost_leases),
    Case(name="S14", fault="two PID namespaces, one hostname, one ledger", run=two_namespaces),
    Case(name="S15", fault="two to six creates lost in one bracket", run=swapped_models),
    Case(name="S16", fault="every call of the supervisor raises once", run=raising),
)
