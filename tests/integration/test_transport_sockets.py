"""Creates and status requests over real sockets: cuts at every byte, stalls, redirects, TLS and proxies."""

import asyncio
import gzip
import logging
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import aiohttp
import attrs
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.backends.http import client
from crynux_async.backends.http.answer import MAX_ANSWER_BYTES
from crynux_async.clock import monotonic
from crynux_async.errors import (
    CrynuxError,
    ProtocolError,
    ServerError,
    SubmissionUnknownError,
    TransportError,
    UnreachableError,
)
from crynux_async.testing import virtual_time_run
from tests.loopback import Peer, Script, always, answer, in_turn, once, reset, serving
from tests.transport_probe import (
    ACCEPTED,
    CALLS,
    CONFIG,
    CREATED,
    KEY,
    POSTS,
    RUNNING,
    Call,
    body_of,
    bridge_at,
    check_error,
    check_text,
    every_call,
    failure_of,
    fetch,
    held,
)

JSON_CALLS = {name: call for name, call in CALLS.items() if name not in ("result", "owns")}


@pytest.fixture(autouse=True)
def no_key_in_any_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    check_text(caplog.text)


def after_reading(count: int, end: Callable[[Peer], Awaitable[None]]) -> Script:
    """Return a script that ends as soon as ``count`` bytes of the request are read."""

    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(count)
        await end(peer)

    return script


async def request_bytes() -> int:
    """Return how many bytes a create has."""
    async with bridge_at(always(ACCEPTED)) as (server, backend):
        await backend.create(body_of(CONFIG))
        return len(server.requests[0].raw)


# Connections


async def test_creates_use_a_fresh_connection_each_and_say_so() -> None:
    async with bridge_at(always(ACCEPTED)) as (server, backend):
        for _ in range(3):
            await backend.create(body_of(CONFIG))
        assert server.accepted == 3
        assert {request.headers["connection"] for request in server.requests} == {"close"}


async def test_status_requests_share_one_connection() -> None:
    async with bridge_at(always(RUNNING)) as (server, backend):
        for _ in range(3):
            await backend.status("17")
        assert (server.accepted, len(server.requests)) == (1, 3)


async def test_status_requests_at_once_use_no_more_connections_than_allowed() -> None:
    async with bridge_at(always(RUNNING), max_connections=2) as (server, backend):
        await asyncio.gather(*(backend.status("17") for _ in range(10)))
        assert (server.accepted, len(server.requests)) == (2, 10)


async def test_status_on_a_kept_connection_that_the_server_closed_uses_a_new_one() -> None:
    async with bridge_at(once(RUNNING)) as (server, backend):
        assert await backend.status("17") == "running"
        await asyncio.sleep(1)
        assert await backend.status("17") == "running"
        assert server.accepted == 2


async def test_status_on_a_kept_connection_that_breaks_just_then_is_asked_again_on_a_new_one() -> None:
    async def once_then_break(peer: Peer) -> None:
        await peer.request()
        await peer.send(RUNNING)
        await peer.request()
        peer.reset()

    async with bridge_at(in_turn(iter([once_then_break, always(RUNNING)]))) as (server, backend):
        await backend.status("17")
        assert await backend.status("17") == "running"
        assert (server.accepted, len(server.requests)) == (2, 3)


async def test_status_on_a_kept_connection_that_falls_silent_says_that_it_was_sent() -> None:
    async def once_then_silence(peer: Peer) -> None:
        await peer.request()
        await peer.send(RUNNING)
        await peer.silence()

    async with bridge_at(once_then_silence) as (server, backend):
        await backend.status("17")
        assert type(await failure_of(backend.status("17"))) is TransportError
        assert server.accepted == 1


async def test_create_on_a_kept_connection_that_the_server_closed_is_not_possible() -> None:
    async with bridge_at(once(ACCEPTED)) as (server, backend):
        for _ in range(3):
            assert (await backend.create(body_of(CONFIG))).task_id == "17"
        assert len(server.requests) == 3


async def test_no_cookie_is_ever_sent_back() -> None:
    cookie = answer(200, '{"data":{"status":"running"}}', Set_Cookie="session=1; Path=/")
    async with bridge_at(always(cookie)) as (server, backend):
        await backend.status("17")
        await backend.status("17")
        assert [request.headers.get("cookie") for request in server.requests] == [None, None]


@every_call
async def test_every_request_asks_for_no_compression(call: Call) -> None:
    async with bridge_at(always(answer(500))) as (server, backend):
        await failure_of(call(backend))
        assert [request.headers["accept-encoding"] for request in server.requests] == ["identity"]


# Cuts and stalls


@pytest.mark.parametrize("end", [Peer.finish, reset], ids=["fin", "rst"])
async def test_create_cut_after_every_byte_of_the_request_is_unknown_and_not_repeated(
    end: Callable[[Peer], Awaitable[None]],
) -> None:
    counts = range(await request_bytes() + 1)
    async with bridge_at(in_turn(after_reading(count, end) for count in counts)) as (server, backend):
        for count in counts:
            error = await failure_of(backend.create(body_of(CONFIG)))
            assert type(error) is SubmissionUnknownError, f"after {count} bytes"
            assert server.accepted == count + 1
        assert server.requests == []


@pytest.mark.parametrize("end", [Peer.finish, reset], ids=["fin", "rst"])
async def test_create_cut_before_every_byte_of_the_answer_is_unknown_and_not_repeated(
    end: Callable[[Peer], Awaitable[None]],
) -> None:
    cuts = range(len(ACCEPTED))
    async with bridge_at(in_turn(once(ACCEPTED[:cut], end=end) for cut in cuts)) as (server, backend):
        for cut in cuts:
            error = await failure_of(backend.create(body_of(CONFIG)))
            assert type(error) is SubmissionUnknownError, f"after {cut} bytes"
            assert len(server.requests) == server.accepted == cut + 1


async def test_create_stalled_before_every_byte_of_the_answer_is_unknown_after_the_request_timeout() -> None:
    cuts = range(len(ACCEPTED))
    async with bridge_at(in_turn(once(ACCEPTED[:cut], end=Peer.silence) for cut in cuts), request_timeout=60.0) as (
        server,
        backend,
    ):
        for cut in cuts:
            began = monotonic()
            error = await failure_of(backend.create(body_of(CONFIG)))
            assert type(error) is SubmissionUnknownError, f"after {cut} bytes"
            assert monotonic() - began == pytest.approx(60, abs=2)
            assert len(server.requests) == server.accepted == cut + 1


async def test_create_answered_byte_by_byte_in_time_is_accepted() -> None:
    async with bridge_at(once(*(ACCEPTED[i : i + 1] for i in range(len(ACCEPTED))))) as (_, backend):
        assert (await backend.create(body_of(CONFIG))).task_id == "17"


async def test_create_answered_by_a_trickle_is_unknown_after_the_request_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in ACCEPTED:
            await peer.send(bytes([byte]))
            await asyncio.sleep(5)

    async with bridge_at(script, request_timeout=60.0) as (_, backend):
        began = monotonic()
        assert type(await failure_of(backend.create(body_of(CONFIG)))) is SubmissionUnknownError
        assert monotonic() - began < 70


async def test_create_answered_after_informational_answers_is_accepted() -> None:
    async with bridge_at(once(b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" * 3, ACCEPTED)) as (_, backend):
        assert (await backend.create(body_of(CONFIG))).task_id == "17"


@every_call
async def test_call_whose_connection_is_cut_before_the_answer_says_that_it_was_sent(call: Call) -> None:
    async with bridge_at(once(end=reset)) as (_, backend):
        error = await failure_of(call(backend))
    assert type(error) is (SubmissionUnknownError if call in POSTS else TransportError)


@every_call
async def test_call_that_is_never_answered_ends_after_the_request_timeout(call: Call) -> None:
    async with bridge_at(once(end=Peer.silence), request_timeout=30.0, read_timeout=3600.0) as (_, backend):
        began = monotonic()
        error = await failure_of(call(backend))
        assert monotonic() - began == pytest.approx(30, abs=2)
    assert isinstance(error, SubmissionUnknownError | TransportError)


@pytest.mark.parametrize("page", [b"", b"<html>Bad gateway</html>", b'{"message":"record not found"}'])
@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_create_answered_5xx_is_unknown_and_seen_once(status: int, page: bytes) -> None:
    async with bridge_at(always(answer(status, page))) as (server, backend):
        error = await failure_of(backend.create(body_of(CONFIG)))
        assert isinstance(error, SubmissionUnknownError)
        assert (error.status, error.answer) == (status, page.decode())
        assert (len(server.requests), server.accepted) == (1, 1)


async def test_create_refused_before_its_large_body_is_read_is_refused() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer(413, "<html>too large</html>", "text/html"))
        await peer.silence()

    config = attrs.evolve(CONFIG, validation_prompt="x" * 2_000_000)
    async with bridge_at(script) as (_, backend):
        assert type(await failure_of(backend.create(body_of(config)))) is ProtocolError


async def test_create_cut_while_its_large_body_is_sent_is_unknown() -> None:
    config = attrs.evolve(CONFIG, validation_prompt="x" * 2_000_000)
    async with bridge_at(after_reading(100_000, reset)) as (server, backend):
        assert type(await failure_of(backend.create(body_of(config)))) is SubmissionUnknownError
        assert server.accepted == 1


async def test_backend_closed_while_a_create_is_under_way_leaves_it_unknown() -> None:
    async with bridge_at(once(end=Peer.silence)) as (server, backend):
        task = asyncio.create_task(failure_of(backend.create(body_of(CONFIG))))
        while not server.requests:
            await asyncio.sleep(0)
        await backend.close()
        assert type(await task) is SubmissionUnknownError


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@every_call
async def test_redirect_to_another_origin_is_not_followed(call: Call, status: int) -> None:
    async with serving(always(ACCEPTED)) as other:
        redirect = answer(status, Location=f"http://{other.host}/v1/images/models")
        async with bridge_at(always(redirect)) as (server, backend):
            error = await failure_of(call(backend))
            assert isinstance(error, SubmissionUnknownError | ProtocolError)
            assert error.status == status
            assert len(server.requests) == 1
        assert other.accepted == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_of_a_create_within_the_origin_is_not_followed(status: int) -> None:
    async with bridge_at(always(answer(status, Location="/v1/images/models/"))) as (server, backend):
        error = await failure_of(backend.create(body_of(CONFIG)))
        assert type(error) is SubmissionUnknownError
        assert [request.method for request in server.requests] == ["POST"]


# Answers that are too large, compressed or broken


@attrs.define(eq=False)
class Received:
    """Counts the bytes of bodies that aiohttp takes from its sockets."""

    count: int = 0


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Received:
    counter, feed = Received(), aiohttp.StreamReader.feed_data

    def feed_and_count(self: aiohttp.StreamReader, data: bytes, *args: Any, **kwargs: Any) -> Any:
        counter.count += len(data)
        return feed(self, data, *args, **kwargs)

    monkeypatch.setattr(aiohttp.StreamReader, "feed_data", feed_and_count)
    return counter


async def flood(peer: Peer) -> None:
    """Send 10 MB of a JSON answer and then nothing."""
    await peer.request()
    await peer.send(answer(200, '{"data":"', Content_Length="10000000"))
    for _ in range(100):
        await peer.send(b"x" * 100_000)
    await peer.silence()


@pytest.mark.parametrize("call", JSON_CALLS.values(), ids=JSON_CALLS)
async def test_answer_of_10_mb_is_read_up_to_the_bound_and_refused(call: Call, received: Received) -> None:
    async with bridge_at(flood) as (server, backend):
        await call_once(call, backend)
        tracemalloc.start()
        received.count = 0
        error = await failure_of(call(backend))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await server.all_closed()
    assert isinstance(error, SubmissionUnknownError | ProtocolError)
    assert error.answer == '{"data":"' + "x" * (65536 - 9)
    socket_buffer, stream_buffer = 256 * 1024, 2 * 64 * 1024
    assert MAX_ANSWER_BYTES < received.count <= MAX_ANSWER_BYTES + socket_buffer + stream_buffer
    # The body, its copy cut to the bound and its copy as text are there at once; the server sends 0.1 MB at a time.
    assert peak < 8 * MAX_ANSWER_BYTES


async def call_once(call: Call, backend: BridgeClient) -> None:
    """Let everything be imported and cached that a first call needs."""
    await failure_of(call(backend))


async def test_result_refused_with_10_mb_is_read_up_to_the_bound(received: Received) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(502, Content_Length="10000000"))
        for _ in range(100):
            await peer.send(b"x" * 100_000)

    async with bridge_at(script) as (server, backend):
        assert type(await failure_of(fetch(backend))) is ServerError
        await server.all_closed()
    assert received.count < 2 * MAX_ANSWER_BYTES


async def test_result_refused_by_a_trickle_ends_after_the_request_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(502, Content_Length="10000"))
        for _ in range(10000):
            await peer.send(b"x")
            await asyncio.sleep(50)

    async with bridge_at(script, request_timeout=60.0, read_timeout=60.0) as (_, backend):
        began = monotonic()
        assert type(await failure_of(fetch(backend))) is TransportError
        assert monotonic() - began < 70


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_answer_that_is_compressed_anyway_is_not_decompressed(coding: str, received: Received) -> None:
    bomb = gzip.compress(b" " * 20_000_000 + CREATED.encode(), 1)
    async with bridge_at(always(answer(200, bomb, Content_Encoding=coding))) as (_, backend):
        error = await failure_of(backend.create(body_of(CONFIG)))
    assert type(error) is SubmissionUnknownError
    assert received.count == len(bomb) < 200_000


BROKEN = {
    "no http": b"hello\r\n\r\n",
    "status": b"HTTX/1.1 200 OK\r\n\r\n",
    "version": b"HTTP/2 200\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nno colon %s\r\n\r\n" % KEY.encode(),
    "long bad header": b"HTTP/1.1 200 OK\r\nno colon " + b"x" * 5000 + b"\r\n\r\n",
    "long bad header with the key": b"HTTP/1.1 200 OK\r\nno colon " + KEY.encode() * 40 + b"\r\n\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"\r\n",
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN_BODIES = {
    "chunk size": b"zz%s\r\n" % KEY.encode(),
    "chunk end": b"2\r\nabX%s" % KEY.encode(),
    "chunk cut": b"ffff\r\nab",
    "no last chunk": b"2\r\nab\r\n",
    "trailer": b"2\r\nab\r\n0\r\nno colon %s\r\n\r\n" % KEY.encode(),
}


@pytest.mark.parametrize("head", BROKEN.values(), ids=BROKEN)
@every_call
async def test_answer_that_is_no_http_raises_an_error_of_this_library(call: Call, head: bytes) -> None:
    async with bridge_at(once(head)) as (server, backend):
        error = await failure_of(call(backend))
        assert type(error) is (SubmissionUnknownError if call in POSTS else TransportError)
        assert len(str(error)) < 1000
        assert KEY[:8] not in str(error)
        if call in POSTS:
            assert (len(server.requests), server.accepted) == (1, 1)


@pytest.mark.parametrize("body", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
@pytest.mark.parametrize("call", {**JSON_CALLS, "result": fetch}.values(), ids=[*JSON_CALLS, "result"])
async def test_answer_whose_body_is_broken_raises_an_error_of_this_library(call: Call, body: bytes) -> None:
    async with bridge_at(once(CHUNKED, body)) as (_, backend):
        error = await failure_of(call(backend))
        assert type(error) is (SubmissionUnknownError if call in POSTS else TransportError)
        assert len(str(error)) < 1000


@examples(max_examples=60, deadline=None)
@given(
    place=st.integers(0, len(ACCEPTED)),
    removed=st.integers(0, 8),
    inserted=st.binary(max_size=8),
    split=st.integers(0, len(ACCEPTED)),
)
def test_answer_damaged_anywhere_gives_a_task_or_an_error_of_this_library(
    place: int, removed: int, inserted: bytes, split: int
) -> None:
    damaged = ACCEPTED[:place] + inserted + ACCEPTED[place + removed :]

    async def run() -> None:
        async with bridge_at(once(damaged[:split], damaged[split:])) as (server, backend):
            try:
                created = await backend.create(body_of(CONFIG))
            except CrynuxError as error:
                check_error(error)
                outcome: type = type(error)
            else:
                outcome = type(created)
                assert int(created.task_id) > 0
            assert outcome is not UnreachableError
            assert (len(server.requests), server.accepted) == (1, 1)

    virtual_time_run(run)


async def test_create_that_breaks_in_an_unforeseen_way_after_it_was_sent_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(client, "Answer", fail)
    async with bridge_at(always(ACCEPTED)) as (_, backend):
        error = await failure_of(backend.create(body_of(CONFIG)))
    assert type(error) is SubmissionUnknownError
    assert "a defect" in str(error)


# Cancellation


@every_call
async def test_call_cancelled_at_any_await_raises_cancelled_error_and_leaks_nothing(call: Call) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for start in range(0, len(RUNNING), 40):
            await peer.send(RUNNING[start : start + 40])
            await asyncio.sleep(0)

    async with bridge_at(script) as (server, backend):
        steps, finished = 0, False
        while not finished and steps < 1000:
            task = asyncio.create_task(settled(call, backend))
            for _ in range(steps):
                await asyncio.sleep(0)
            finished = not task.cancel()
            await asyncio.wait([task])
            assert finished or task.cancelled()
            assert held(backend) == 0
            steps += 1
        assert 5 < steps < 1000
        await server.all_closed()


async def settled(call: Call, backend: BridgeClient) -> None:
    """Make a call whose outcome does not matter, but for cancellation."""
    with suppress(CrynuxError):
        await call(backend)
