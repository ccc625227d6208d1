"""Results over real sockets: ranges and validators, cuts, stalls, back-pressure, leaving early."""

import asyncio
import errno
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from crynux_async.backends.base import Validator
from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.clock import monotonic
from crynux_async.errors import (
    CrynuxError,
    ProtocolError,
    RangeError,
    ServerError,
    TransportError,
    UnreachableError,
)
from crynux_async.testing import virtual_time_run
from tests.loopback import ZIP, Peer, Script, always, answer, once, reset, serving
from tests.transport_probe import KEY, bridge, bridge_at, check_error, check_text, failure_of, fetch, held

MODIFIED = "Sun, 22 Nov 2026 19:34:55 GMT"
VERSION = Validator(last_modified=MODIFIED, total_bytes=1000)
BODY = bytes(i % 251 for i in range(1000))
WHOLE = answer(200, BODY, ZIP, Last_Modified=MODIFIED, Accept_Ranges="bytes")
CONDITIONS = {"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"}


def part(span: str | None, body: bytes = BODY[400:], **headers: str | None) -> bytes:
    return answer(206, body, ZIP, Last_Modified=MODIFIED, Content_Range=span, **headers)


@pytest.fixture(autouse=True)
def no_key_in_any_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    check_text(caplog.text)


async def begin(backend: BridgeClient, start: int = 0) -> tuple[int, Validator]:
    """Open a result and return where it starts and which version it is."""
    async with backend.open_result("17", start=start, validator=VERSION) as stream:
        return stream.start, stream.validator


# What is asked


async def test_whole_result_is_asked_for_with_the_key_and_without_any_condition() -> None:
    async with bridge_at(always(WHOLE)) as (server, backend):
        assert await fetch(backend, start=0, validator=VERSION) == BODY
        [request] = server.requests
        assert (request.method, request.target) == ("GET", "/v1/images/models/17/result")
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert not CONDITIONS & request.headers.keys()


@pytest.mark.parametrize(
    ("validator", "condition"),
    [
        (VERSION, MODIFIED),
        (None, None),
        (Validator(last_modified=None, total_bytes=1000), None),
        (Validator(last_modified="", total_bytes=1000), None),
    ],
)
async def test_rest_of_a_result_is_asked_for_with_range_and_if_range_only(
    validator: Validator | None, condition: str | None
) -> None:
    async with bridge_at(always(part("bytes 400-999/1000"))) as (server, backend):
        assert await fetch(backend, start=400, validator=validator) == BODY[400:]
        [request] = server.requests
        asked = {name: value for name, value in request.headers.items() if name in CONDITIONS}
        assert asked == {"range": "bytes=400-", **({"if-range": condition} if condition else {})}


# What is answered


async def test_whole_result_begins_at_0_and_tells_its_version() -> None:
    async with bridge_at(always(WHOLE)) as (_, backend):
        assert await begin(backend) == (0, VERSION)


async def test_rest_of_a_result_begins_where_it_says_and_tells_the_size_of_the_whole() -> None:
    async with bridge_at(always(part("bytes 400-999/1000"))) as (_, backend):
        assert await begin(backend, 400) == (400, VERSION)


async def test_rest_of_a_result_from_elsewhere_says_so() -> None:
    async with bridge_at(always(part("bytes 300-899/1000"))) as (_, backend):
        assert (await begin(backend, 400))[0] == 300


async def test_part_of_a_result_that_ends_early_is_given_as_it_is() -> None:
    async with bridge_at(always(part("bytes 400-409/1000", BODY[400:410]))) as (_, backend):
        assert await fetch(backend, start=400) == BODY[400:410]


async def test_part_of_a_result_of_unknown_size_has_no_total() -> None:
    async with bridge_at(always(part("bytes 400-999/*"))) as (_, backend):
        assert (await begin(backend, 400))[1].total_bytes is None


async def test_whole_result_in_place_of_a_part_begins_at_0() -> None:
    async with bridge_at(always(WHOLE)) as (_, backend):
        assert await begin(backend, 400) == (0, VERSION)


@pytest.mark.parametrize(
    "span",
    [
        None,
        "",
        "bytes",
        "bytes */1000",
        "bytes 400-/1000",
        "bytes 400-999",
        "bytes 999-400/1000",
        "bytes 400-999/999",
        "bytes 400-998/1000",
        "bytes 401-999/1000",
        "items 400-999/1000",
        "bytes -400-199/1000",
        "bytes 400-999/1000, bytes 0-1/1000",
        f"bytes 0-1/{'9' * 5000}",
    ],
)
async def test_part_of_a_result_that_does_not_say_which_is_refused(span: str | None) -> None:
    async with bridge_at(always(part(span))) as (_, backend):
        error = await failure_of(begin(backend, 400))
    assert isinstance(error, ProtocolError)
    assert (error.status, error.task_id) == (206, "17")


@pytest.mark.parametrize(
    ("span", "total"),
    [("bytes */1000", 1000), ("bytes */0", 0), (None, None), ("bytes */*", None), (f"bytes */{'9' * 5000}", None)],
)
async def test_range_outside_the_result_tells_the_size_where_it_is_known(span: str | None, total: int | None) -> None:
    refusal = answer(416, "invalid range: failed to overlap\n", "text/plain; charset=utf-8", Content_Range=span)
    async with bridge_at(always(refusal)) as (_, backend):
        error = await failure_of(begin(backend, 2000))
    assert isinstance(error, RangeError)
    assert (error.total_bytes, error.task_id) == (total, "17")


NO_RESULTS = {
    "empty text": answer(200, "", "text/plain; charset=utf-8"),
    "page": answer(200, "<html>log in</html>", "Text/HTML; charset=utf-8"),
    "json": answer(200, "{}"),
    "several ranges": answer(206, "--x", "multipart/byteranges; boundary=x"),
    "several ranges as one": part("bytes 400-999/1000", Content_Type="multipart/byteranges; boundary=x"),
    "gzip": answer(200, BODY, ZIP, Content_Encoding="gzip"),
    "gzip part": part("bytes 400-999/1000", Content_Encoding="gzip"),
}


@pytest.mark.parametrize("page", NO_RESULTS.values(), ids=NO_RESULTS)
async def test_answer_that_is_no_result_is_refused(page: bytes) -> None:
    async with bridge_at(always(page)) as (_, backend):
        error = await failure_of(begin(backend, 400))
    assert type(error) is ProtocolError
    assert error.task_id == "17"


@pytest.mark.parametrize("kind", [ZIP, "application/octet-stream", "binary/octet-stream", None])
async def test_answer_with_any_binary_type_or_none_is_a_result(kind: str | None) -> None:
    async with bridge_at(always(answer(200, BODY, Content_Type=kind, Content_Encoding="Identity"))) as (_, backend):
        assert await fetch(backend) == BODY


@pytest.mark.parametrize("coding", ["", " ", "identity", None])
async def test_answer_without_a_coding_is_a_result(coding: str | None) -> None:
    async with bridge_at(always(answer(200, BODY, ZIP, Content_Encoding=coding))) as (_, backend):
        assert await fetch(backend) == BODY


@pytest.mark.parametrize("header", ["Content-Type", "Content-Encoding"])
async def test_answer_that_shows_the_key_in_a_header_is_refused_without_it(header: str) -> None:
    fields = {"Content_Type": "text/html", "Content_Encoding": "identity", header.replace("-", "_"): f"text/{KEY}"}
    async with bridge_at(always(answer(200, BODY, **fields))) as (_, backend):
        with pytest.raises(ProtocolError) as caught:
            await begin(backend)
    assert "text/***" in str(caught.value)
    check_text(repr(caught.value), repr(vars(caught.value)), "".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize(
    ("modified", "known"),
    [(None, None), ("", None), ("gestern\xe4", None), ("yesterday", "yesterday"), (f"at {KEY}", "at ***")],
)
async def test_last_modified_that_could_not_be_sent_back_counts_as_missing(
    modified: str | None, known: str | None
) -> None:
    async with bridge_at(always(answer(200, BODY, ZIP, Last_Modified=modified))) as (_, backend):
        assert (await begin(backend))[1].last_modified == known


@pytest.mark.parametrize(
    "data",
    [
        answer(200, BODY, ZIP, Content_Length=None, Connection="close"),
        answer(200, b"3e8\r\n" + BODY + b"\r\n0\r\n\r\n", ZIP, Content_Length=None, Transfer_Encoding="chunked"),
    ],
    ids=["until the end", "chunked"],
)
async def test_result_without_content_length_has_no_total(data: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)

    async with bridge_at(script) as (_, backend), backend.open_result("17") as stream:
        assert stream.validator.total_bytes is None
        assert b"".join([piece async for piece in stream.chunks(100)]) == BODY


async def test_empty_result_has_a_total_of_0() -> None:
    async with bridge_at(always(answer(200, b"", ZIP))) as (_, backend), backend.open_result("17") as stream:
        assert stream.validator.total_bytes == 0
        assert [piece async for piece in stream.chunks(100)] == []


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000, 65536, 1 << 20])
async def test_chunks_are_never_larger_than_asked_and_never_empty(chunk_bytes: int) -> None:
    body = BODY * (1 if chunk_bytes < 1000 else 3000)
    async with bridge_at(always(answer(200, body, ZIP))) as (_, backend), backend.open_result("17") as stream:
        pieces = [piece async for piece in stream.chunks(chunk_bytes)]
    assert b"".join(pieces) == body
    assert 0 < min(map(len, pieces)) <= max(map(len, pieces)) <= chunk_bytes


@examples(max_examples=40, deadline=None)
@given(body=st.binary(min_size=1, max_size=3000), data=st.data())
def test_any_rest_of_any_result_comes_as_the_server_sent_it(body: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(body) - 1))
    chunk_bytes = data.draw(st.integers(1, 4000))

    async def script(peer: Peer) -> None:
        request = await peer.request()
        assert request is not None
        first = int(request.headers.get("range", "bytes=0-")[6:-1])
        span = f"bytes {first}-{len(body) - 1}/{len(body)}"
        await peer.send(answer(206, body[first:], ZIP, Content_Range=span) if first else answer(200, body, ZIP))
        await peer.silence()

    async def run() -> None:
        async with bridge_at(script) as (_, backend):
            assert await fetch(backend, start=start, chunk_bytes=chunk_bytes) == body[start:]

    virtual_time_run(run)


# Cuts and stalls


@pytest.mark.parametrize("end", [Peer.finish, reset], ids=["fin", "rst"])
@pytest.mark.parametrize("cut", [0, 1, 500, 999])
async def test_result_cut_short_gives_what_came_and_then_an_error(
    cut: int, end: Callable[[Peer], Awaitable[None]]
) -> None:
    pieces: list[bytes] = []

    async def read(backend: BridgeClient) -> None:
        async with backend.open_result("17") as stream:
            async for piece in stream.chunks(100):
                pieces.append(piece)

    async with bridge_at(once(WHOLE[:-1000], BODY[:cut], end=end)) as (_, backend):
        error = await failure_of(read(backend))
    assert type(error) is TransportError
    assert error.task_id == "17"
    assert BODY[:cut].startswith(b"".join(pieces))
    assert end is reset or len(b"".join(pieces)) == cut


async def test_result_cut_while_it_is_read_slowly_gives_all_that_came() -> None:
    body, received = BODY * 2000, 0
    cut = len(body) - 500

    async def read(backend: BridgeClient) -> None:
        nonlocal received
        async with backend.open_result("17") as stream:
            async for piece in stream.chunks(1 << 20):
                assert piece == body[received : received + len(piece)]
                received += len(piece)
                await asyncio.sleep(1)  # whatever else comes waits in aiohttp's buffer, and then the end

    async with bridge_at(once(answer(200, body, ZIP)[: cut - len(body)])) as (_, backend):
        assert type(await failure_of(read(backend))) is TransportError
    assert received == cut


async def test_result_in_chunks_cut_before_the_last_is_an_error() -> None:
    head = answer(200, b"3e8\r\n" + BODY + b"\r\n", ZIP, Content_Length=None, Transfer_Encoding="chunked")
    async with bridge_at(once(head)) as (_, backend):
        assert type(await failure_of(fetch(backend))) is TransportError


async def test_result_that_falls_silent_is_an_error_after_the_read_timeout() -> None:
    script = once(WHOLE[:-600], end=Peer.silence)
    async with bridge_at(script, read_timeout=45.0, request_timeout=600.0) as (_, backend):
        began = monotonic()
        error = await failure_of(fetch(backend))
        assert monotonic() - began == pytest.approx(45, abs=1)
    assert type(error) is TransportError
    assert "in time" in str(error)


async def test_result_whose_chunks_break_in_the_middle_is_an_error_after_the_read_timeout_at_the_latest() -> None:
    head = answer(200, b"3e8\r\n" + BODY, ZIP, Content_Length=None, Transfer_Encoding="chunked")
    async with bridge_at(once(head, b"\r\nnot a size\r\n", end=Peer.silence), read_timeout=45.0) as (_, backend):
        began = monotonic()
        assert type(await failure_of(fetch(backend))) is TransportError
        assert monotonic() - began < 50


async def test_result_that_trickles_faster_than_the_read_timeout_arrives() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(WHOLE[:-20])
        for byte in BODY[-20:]:
            await asyncio.sleep(40)
            await peer.send(bytes([byte]))

    async with bridge_at(script, read_timeout=45.0, request_timeout=60.0) as (_, backend):
        assert await fetch(backend) == BODY


async def test_result_read_slowly_is_no_stall() -> None:
    body, received = BODY * 200, 0
    script = always(answer(200, body, ZIP))
    async with bridge_at(script, read_timeout=10.0) as (_, backend), backend.open_result("17") as stream:
        async for piece in stream.chunks(1 << 14):
            received += len(piece)
            await asyncio.sleep(60)
    assert received == len(body)


async def test_result_that_begins_too_late_is_an_error_after_the_request_timeout() -> None:
    script = once(WHOLE[:40], end=Peer.silence)
    async with bridge_at(script, read_timeout=900.0, request_timeout=30.0) as (_, backend):
        began = monotonic()
        assert type(await failure_of(fetch(backend))) is TransportError
        assert monotonic() - began == pytest.approx(30, abs=1)


async def test_result_preceded_by_informational_answers_without_end_is_an_error_after_the_request_timeout() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        while not peer.writer.is_closing():
            await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(1)

    async with bridge_at(script, request_timeout=30.0) as (_, backend):
        began = monotonic()
        assert type(await failure_of(fetch(backend))) is TransportError
        assert monotonic() - began == pytest.approx(30, abs=2)


@examples(max_examples=60, deadline=None)
@given(
    place=st.integers(0, len(WHOLE) - 1000),
    removed=st.integers(0, 8),
    inserted=st.binary(max_size=8),
    whole=st.booleans(),
)
def test_head_damaged_anywhere_gives_bytes_or_an_error_of_this_library(
    place: int, removed: int, inserted: bytes, whole: bool
) -> None:
    data = WHOLE if whole else part("bytes 400-999/1000")
    damaged = data[:place] + inserted + data[place + removed :]

    async def run() -> None:
        async with bridge_at(once(damaged)) as (_, backend):
            try:
                await fetch(backend, start=0 if whole else 400, validator=VERSION)
            except CrynuxError as error:
                check_error(error)
                outcome: type | None = type(error)
            else:
                outcome = None
            assert outcome is not UnreachableError

    virtual_time_run(run)


# The block and its connection


async def test_connection_of_a_result_read_to_its_end_serves_the_next() -> None:
    async with bridge_at(always(WHOLE)) as (server, backend):
        await fetch(backend)
        await fetch(backend)
        assert (server.accepted, len(server.requests)) == (1, 2)


async def endless(peer: Peer) -> None:
    """Begin a result of 1 GB and go on until the client closes."""
    await peer.request()
    await peer.send(answer(200, b"", ZIP, Content_Length="1000000000"))
    while True:
        await peer.send(b"x" * 100_000)


async def test_block_left_early_closes_the_connection() -> None:
    async with bridge_at(endless) as (server, backend):
        async with backend.open_result("17") as stream:
            async for _ in stream.chunks(1000):
                break
        assert held(backend) == 0
        await server.all_closed()


async def test_block_left_without_reading_closes_the_connection() -> None:
    async with bridge_at(endless) as (server, backend):
        async with backend.open_result("17"):
            assert held(backend) == 1
        assert held(backend) == 0
        await server.all_closed()


@pytest.mark.parametrize(
    "raised",
    [OSError(errno.ENOSPC, "No space left on device"), TimeoutError(), ServerError("another"), KeyError("x")],
    ids=["OSError", "TimeoutError", "ServerError", "KeyError"],
)
async def test_error_of_the_block_itself_comes_out_as_it_is(raised: Exception) -> None:
    async with bridge_at(endless) as (server, backend):
        with pytest.raises(type(raised)) as caught:
            async with backend.open_result("17") as stream:
                async for _ in stream.chunks(1000):
                    raise raised
        assert caught.value is raised
        assert not isinstance(raised, CrynuxError) or raised.task_id is None
        assert held(backend) == 0
        await server.all_closed()


async def test_chunks_after_the_block_are_an_error() -> None:
    async with bridge_at(endless) as (_, backend):
        async with backend.open_result("17") as stream:
            pass

        async def read() -> None:
            async for _ in stream.chunks(1000):
                pass

        assert type(await failure_of(read())) is TransportError


async def test_block_cancelled_while_it_waits_for_bytes_raises_cancelled_error_and_closes_the_connection() -> None:
    async with bridge_at(once(WHOLE[:-600], end=Peer.silence)) as (server, backend):
        task = asyncio.create_task(fetch(backend))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held(backend) == 0
        await server.all_closed()


async def test_block_under_a_timeout_of_the_caller_raises_that_timeout() -> None:
    async with bridge_at(once(WHOLE[:-600], end=Peer.silence)) as (_, backend):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await fetch(backend)
        assert held(backend) == 0


async def test_backend_closed_while_a_result_comes_is_an_error() -> None:
    async with bridge_at(once(WHOLE[:-600], end=Peer.silence)) as (_, backend):
        task = asyncio.create_task(failure_of(fetch(backend)))
        await asyncio.sleep(1)
        await backend.close()
        assert type(await task) is TransportError


async def test_result_that_nobody_reads_is_not_taken_from_the_network() -> None:
    sent = quiet = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(answer(200, b"", ZIP, Content_Length="1000000000"))
        while True:
            await peer.send(b"x" * 100_000)
            sent += 100_000

    async with bridge_at(script) as (server, backend):
        async with backend.open_result("17"):
            while quiet < 100:
                before = sent
                await asyncio.sleep(0)
                quiet = quiet + 1 if sent == before else 0
        await server.all_closed()
    # What is under way fills the sockets' buffers (a few MB, the system's choice), and then the sender has to wait.
    assert 0 < sent < 50_000_000


# Whose a task is


@pytest.mark.parametrize("data", [WHOLE, part("bytes 0-0/1000", BODY[:1])], ids=["200", "206"])
async def test_owns_a_task_whose_result_is_handed_out(data: bytes) -> None:
    async with bridge_at(always(data)) as (server, backend):
        assert await backend.owns("17") is True
        assert server.requests[0].headers["range"] == "bytes=0-0"
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_owns_a_task_without_fetching_its_result() -> None:
    async with bridge_at(endless) as (server, backend):
        assert await backend.owns("17") is True
        assert held(backend) == 0
        await server.all_closed()


def refusing(field: str, text: str) -> Script:
    return always(answer(400, f'{{"message":"validation_error","data":{{"field_name":"{field}","message":"{text}"}}}}'))


async def test_owns_a_task_of_another_key_is_false() -> None:
    async with bridge_at(refusing("api_key", "invalid api key")) as (_, backend):
        assert await backend.owns("17") is False


async def test_owns_a_task_without_a_result_is_not_known() -> None:
    async with bridge_at(refusing("id", "Task not found")) as (_, backend):
        assert await backend.owns("17") is None


async def test_owns_asked_of_a_bridge_that_is_not_there_is_an_error() -> None:
    async with serving(always(WHOLE)) as server:
        host = server.host
    async with bridge(f"http://{host}") as backend:
        error = await failure_of(backend.owns("17"))
    assert type(error) is UnreachableError
    assert error.task_id == "17"
