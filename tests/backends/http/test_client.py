"""Requests to any service: what is sent, what comes of it, and what stands in no text."""

from collections.abc import AsyncIterator

import pytest

from crynux_async.backends.http.answer import Answer
from crynux_async.backends.http.client import HttpClient, Request
from crynux_async.backends.http.result import Result, range_headers
from crynux_async.errors import CrynuxError, TransportError, UnreachableError
from crynux_async.secret import Secret
from crynux_async.settings import Settings
from tests.loopback import RawServer, always, answer, once, reset, serving

OWN, SIGNATURE = Secret("canaryOfTheClient"), Secret("0xcanaryOfTheRequest")
SIGNED = Request(path="/v1/tasks", query={"signature": SIGNATURE.reveal()}, secrets=(SIGNATURE,))


@pytest.fixture
async def clients() -> AsyncIterator[list[HttpClient]]:
    made: list[HttpClient] = []
    yield made
    for client in made:
        await client.close()


def client_of(server: RawServer, clients: list[HttpClient]) -> HttpClient:
    clients.append(HttpClient(Settings(base_url=f"http://{server.host}/base", trust_env=False), (OWN,)))
    return clients[-1]


async def test_request_is_sent_as_it_is_asked_for(clients: list[HttpClient]) -> None:
    async with serving(always(answer(201, "{}", Date="Sat, 28 Nov 2026 21:23:46 GMT"))) as server:
        request = Request(path="/v1/tasks", method="POST", query={"a": "1"}, headers={"X-One": "2"}, body=b'{"b":3}')
        got = await client_of(server, clients).send(request)
    (sent,) = server.requests
    assert (sent.method, sent.target, sent.body) == ("POST", "/base/v1/tasks?a=1", b'{"b":3}')
    assert (sent.headers["x-one"], sent.headers["content-type"]) == ("2", "application/json")
    assert (got.status, got.json, got.date) == (201, {}, "Sat, 28 Nov 2026 21:23:46 GMT")


async def test_page_that_repeats_a_request_shows_no_secret(clients: list[HttpClient]) -> None:
    page = f"you asked with {OWN.reveal()} and {SIGNATURE.reveal()}"
    async with serving(always(answer(500, page, Location=f"/{SIGNATURE.reveal()}"))) as server:
        got = await client_of(server, clients).send(SIGNED)
    assert got.text == "you asked with *** and ***"
    assert (got.location, got.url) == ("/***", f"http://{server.host}/base/v1/tasks")


async def test_request_that_breaks_shows_no_secret(clients: list[HttpClient]) -> None:
    async with serving(once(end=reset)) as server:
        with pytest.raises(TransportError) as caught:
            await client_of(server, clients).send(SIGNED)
    assert SIGNATURE.reveal() not in f"{caught.value} {caught.value.url}"


async def test_answer_that_is_lost_becomes_what_the_caller_makes_of_it(clients: list[HttpClient]) -> None:
    async with serving(once(end=reset)) as server:
        with pytest.raises(CrynuxError, match=r"http://.*/base/v1/tasks is open") as caught:
            await client_of(server, clients).send_once(SIGNED, lambda url, said: CrynuxError(f"{url} is open: {said}"))
    assert type(caught.value) is CrynuxError


async def test_request_that_cannot_be_sent_is_never_lost(clients: list[HttpClient]) -> None:
    async with serving(once(end=reset)) as server:
        client = client_of(server, clients)
    with pytest.raises(UnreachableError, match="nothing was sent"):
        await client.send_once(SIGNED, lambda url, said: CrynuxError(said))


async def test_service_that_has_gone_since_the_last_request_is_unreachable(clients: list[HttpClient]) -> None:
    async with serving(always(answer(200, "{}"))) as server:
        client = client_of(server, clients)
        await client.send(SIGNED)
    # The connection was kept, and aiohttp notices by itself that nobody is there any more.
    with pytest.raises(UnreachableError, match="nothing was sent"):
        await client.send(SIGNED)


async def test_part_of_a_result_is_opened_and_a_refusal_is_an_answer(clients: list[HttpClient]) -> None:
    part = answer(206, b"cdef", Content_Range="bytes 2-5/6", Content_Type="application/zip", Last_Modified="then")
    async with serving(always(part)) as server:
        opened = await client_of(server, clients).open(Request(path="/r", headers=range_headers(2, None)), "17")
        assert isinstance(opened, Result)
        assert (opened.start, opened.validator.total_bytes, opened.validator.last_modified) == (2, 6, "then")
        assert b"".join([piece async for piece in opened.chunks(3)]) == b"cdef"
        opened.close()
    async with serving(always(answer(400, '{"message":"no"}'))) as server:
        refused = await client_of(server, clients).open(Request(path="/r"), "17")
        assert isinstance(refused, Answer)
        assert (refused.status, refused.json) == (400, {"message": "no"})
