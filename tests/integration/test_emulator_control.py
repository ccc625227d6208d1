"""The control plane of the emulated bridge: what it does, and for whom it does nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from crynux_async.emulator import Emulator
from tests.emulator_client import BOTH_ROUNDS, Client

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # A create on a connection that the server has just closed has no clear outcome, so each has its own.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield session


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator(unet="tiny", rate_limit=6000) as emulator:
        yield emulator


@pytest.fixture
def client(session: aiohttp.ClientSession, emulator: Emulator) -> Client:
    return Client(session, emulator, emulator.new_key())


async def control(session: aiohttp.ClientSession, emulator: Emulator, method: str, path: str, body: Any = None) -> Any:
    async with session.request(method, f"{emulator.url}/_emulator/{path}", json=body) as response:
        return response.status, await response.json()


async def raw(session: aiohttp.ClientSession, emulator: Emulator, data: bytes | None, **headers: str) -> int:
    """Return the status of a request for a new key that is made byte by byte."""
    url = f"{emulator.url}/_emulator/keys"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(url, data=data, headers=named, skip_auto_headers=["Content-Type"]) as response:
        document = await response.json()
        assert list(document) == (["api_key"] if response.status == 200 else ["error"])
        return response.status


async def test_control_plane_makes_keys_like_fresh_real_ones(
    session: aiohttp.ClientSession, emulator: Emulator
) -> None:
    _, answer = await control(session, emulator, "POST", "keys", {})
    client = Client(session, emulator, answer["api_key"])
    first = await client.new_job()
    refused, _ = await client.create()
    await asyncio.sleep(BOTH_ROUNDS)
    assert (refused, await client.error(first)) == (400, ("api_key", "invalid api key"))


async def test_control_plane_makes_keys_as_asked(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    options = {"roles": ["admin"], "rate_limit": 2, "use_limit": -1, "primed": True}
    _, answer = await control(session, emulator, "POST", "keys", options)
    client = Client(session, emulator, answer["api_key"])
    first = await client.new_job()
    assert [(await client.create())[0] for _ in range(2)] == [200, 400]
    await asyncio.sleep(BOTH_ROUNDS)
    assert (await client.download(first))[0] == 200


async def test_control_plane_changes_a_limit(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    key = emulator.new_key(rate_limit=1)
    await control(session, emulator, "POST", "keys/limit", {"api_key": key, "rate_limit": 3})
    client = Client(session, emulator, key)
    assert [(await client.create())[0] for _ in range(4)] == [200, 200, 200, 400]


async def test_control_plane_adds_and_clears_faults(
    session: aiohttp.ClientSession, emulator: Emulator, client: Client
) -> None:
    fault = {"on": "status", "kind": "status", "status": 503, "message": "later", "count": 5}
    await control(session, emulator, "POST", "faults", fault)
    await client.new_job()
    assert await client.ask("GET", "/v1/images/models/1/status") == (503, {"message": "later"})
    await control(session, emulator, "DELETE", "faults")
    assert await client.status(1) == "running"


async def test_control_plane_restarts_and_shows_requests(
    session: aiohttp.ClientSession, emulator: Emulator, client: Client
) -> None:
    await client.new_job()
    assert await control(session, emulator, "POST", "restart", {}) == (200, {})
    _, shown = await control(session, emulator, "GET", "requests")
    assert [(record["method"], record["status"]) for record in shown] == [("POST", 200)]


@pytest.mark.parametrize("kind", ["html", "refused"])
async def test_control_plane_answers_its_own_outage(
    session: aiohttp.ClientSession, emulator: Emulator, kind: str
) -> None:
    assert await control(session, emulator, "POST", "outage", {"seconds": 5, "kind": kind}) == (200, {})


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("keys", {"rate_limit": "abc"}, "rate_limit"),
        ("keys", {"rate_limit": 1.5}, "rate_limit"),
        ("keys", {"rate_limit": True}, "rate_limit"),
        ("keys", {"rate_limit": 2**63}, "rate_limit"),
        ("keys", {"rate_limit": None}, "rate_limit"),
        ("keys", {"roles": "chat"}, "roles"),
        ("keys", {"roles": ["chat", 5]}, "roles"),
        ("keys", {"roles": {"chat": 1}}, "roles"),
        ("keys", {"use_limit": "many"}, "use_limit"),
        ("keys", {"used_count": -1}, "used_count"),
        ("keys", {"primed": "no"}, "primed"),
        ("keys", {"expired": 0}, "expired"),
        ("keys", {"colour": 1}, "colour"),
        ("keys/limit", {"rate_limit": 3}, "api_key"),
        ("keys/limit", {"api_key": "AAAA"}, "rate_limit"),
        ("keys/limit", {"api_key": "AAAA", "rate_limit": 3}, "api_key"),
        ("keys/limit", {"api_key": "\ud800", "rate_limit": 3}, "api_key"),
        ("keys/limit", {"api_key": 5, "rate_limit": 3}, "api_key"),
        ("keys/limit", {"api_key": "AAAA", "rate_limit": "3"}, "rate_limit"),
        ("faults", {"on": "status", "kind": "nonsense"}, "kind"),
        ("faults", {"on": "status", "kind": ["cut"]}, "kind"),
        ("faults", {"on": "status"}, "kind"),
        ("faults", {"on": "nothing", "kind": "cut"}, "on"),
        ("faults", {"on": None, "kind": "cut"}, "on"),
        ("faults", {"kind": "cut", "on": "result", "colour": 1}, "colour"),
        ("faults", {"kind": "cut", "on": "result", "hits": 1}, "hits"),
        ("faults", {"kind": "cut", "on": "result", "count": 0}, "count"),
        ("faults", {"kind": "cut", "on": "result", "count": "2"}, "count"),
        ("faults", {"kind": "cut", "on": "result", "after": -1}, "after"),
        ("faults", {"kind": "cut", "on": "result", "task_id": 0}, "task_id"),
        ("faults", {"kind": "cut", "on": "result", "bytes": 10.0}, "bytes"),
        ("faults", {"kind": "cut", "on": "result", "bytes": -1}, "bytes"),
        ("faults", {"kind": "cut", "on": "result", "end": "bang"}, "end"),
        ("faults", {"kind": "delay", "on": "result", "seconds": "1"}, "seconds"),
        ("faults", {"kind": "delay", "on": "result", "carried_out": "yes"}, "carried_out"),
        ("faults", {"kind": "trickle", "on": "result", "bytes_per_second": 0}, "bytes_per_second"),
        ("faults", {"kind": "status", "on": "status", "status": 99}, "status"),
        ("faults", {"kind": "status", "on": "status", "message": 5}, "message"),
        ("faults", {"kind": "status", "on": "status", "message": "", "field": []}, "field"),
        ("faults", {"kind": "html", "on": "status", "text": 5}, "text"),
        ("faults", {"kind": "body", "on": "status", "body": {}}, "body"),
        ("faults", {"kind": "body", "on": "status", "headers": ["A"]}, "headers"),
        ("faults", {"kind": "body", "on": "status", "headers": {"A b": "c"}}, "headers"),
        ("faults", {"kind": "body", "on": "status", "headers": {"A": "b\r\nC: d"}}, "headers"),
        ("faults", {"kind": "body", "on": "status", "headers": {"A": "\u20ac"}}, "headers"),
        ("faults", {"kind": "redirect", "on": "status", "location": "/\n"}, "location"),
        ("faults", {"kind": "gzip_bomb", "on": "status", "megabytes": 10**9}, "megabytes"),
        ("faults", {"kind": "flip", "on": "result", "offset": -1}, "offset"),
        ("faults", {"kind": "wrong_range", "on": "result", "start": "1"}, "start"),
        ("faults", {"kind": "wrong_range", "on": "result", "total": 0.5}, "total"),
        ("outage", {"seconds": "0.5"}, "seconds"),
        ("outage", {"seconds": "0.5", "kind": "refused"}, "seconds"),
        ("outage", {"seconds": -1}, "seconds"),
        ("outage", {"seconds": float("nan")}, "seconds"),
        ("outage", {"kind": "html"}, "seconds"),
        ("outage", {"seconds": 5, "kind": "fire"}, "kind"),
        ("outage", {"seconds": 5, "spare": None}, "spare"),
        ("restart", {"now": True}, "now"),
        ("keys", [], "the body must be a JSON object"),
    ],
)
async def test_control_plane_names_what_makes_no_sense_and_does_nothing(
    session: aiohttp.ClientSession, emulator: Emulator, client: Client, path: str, body: Any, named: str
) -> None:
    status, document = await control(session, emulator, "POST", path, body)
    assert (status, list(document)) == (400, ["error"])
    assert document["error"].startswith(named)
    task_id = await client.new_job()
    await asyncio.sleep(BOTH_ROUNDS)
    assert (await client.status(task_id), (await client.download(task_id))[0]) == ("success", 200)


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000])
async def test_control_plane_refuses_what_is_no_json(
    session: aiohttp.ClientSession, emulator: Emulator, data: bytes
) -> None:
    assert await raw(session, emulator, data, **JSON) == 400


async def test_control_plane_says_what_it_has(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    status, document = await control(session, emulator, "GET", "nothing")
    assert status == 404
    assert "POST /_emulator/keys/limit" in document["error"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
async def test_control_plane_does_nothing_for_what_a_page_can_send(
    session: aiohttp.ClientSession, emulator: Emulator, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert await raw(session, emulator, b"{}", **headers) == 415


async def test_control_plane_does_nothing_for_an_empty_post_of_a_page(
    session: aiohttp.ClientSession, emulator: Emulator
) -> None:
    assert await raw(session, emulator, None) == 415


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://{own}", "http://localhost:1"])
async def test_control_plane_does_nothing_for_pages_of_others(
    session: aiohttp.ClientSession, emulator: Emulator, origin: str
) -> None:
    own = emulator.url.removeprefix("http://")
    assert await raw(session, emulator, b"{}", Origin=origin.format(own=own), **JSON) == 403


async def test_control_plane_works_for_a_page_of_its_own_address(
    session: aiohttp.ClientSession, emulator: Emulator
) -> None:
    assert await raw(session, emulator, b"{}", Origin=emulator.url, **JSON) == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "", ":80", "[::1"])
async def test_control_plane_does_nothing_under_a_name_that_is_not_its_own(
    session: aiohttp.ClientSession, emulator: Emulator, host: str
) -> None:
    host = host.format(port=emulator.url.rpartition(":")[2])
    assert await raw(session, emulator, b"{}", Host=host, **JSON) == 403


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost:{port}", "LocalHost", "192.0.2.7:{port}", "[::1]:{port}", "{me}"]
)
async def test_control_plane_works_under_its_addresses_and_names(
    session: aiohttp.ClientSession, emulator: Emulator, host: str
) -> None:
    host = host.format(port=emulator.url.rpartition(":")[2], me=socket.gethostname())
    assert await raw(session, emulator, b"{}", Host=host, **JSON) == 200


async def test_control_plane_allows_no_preflight(session: aiohttp.ClientSession, emulator: Emulator) -> None:
    async with session.options(f"{emulator.url}/_emulator/keys", headers=JSON) as response:
        assert response.status == 404
        assert not [name for name in response.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "keys"), ("POST", "outage"), ("DELETE", "faults"), ("GET", "journal"), ("GET", "requests")],
)
async def test_control_plane_open_to_other_machines_wants_its_token(
    session: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with Emulator(unet="tiny", host="0.0.0.0") as emulator:
        body = {"seconds": 0} if path == "outage" else {}
        url, token = f"{emulator.url}/_emulator/{path}", emulator.control_token
        assert token is not None
        statuses = []
        for given in ({}, {"X-Emulator-Token": ""}, {"X-Emulator-Token": f"{token}x"}, {"X-Emulator-Token": token}):
            async with session.request(method, url, json=body, headers=given) as response:
                statuses.append(response.status)
        assert statuses == [401, 401, 401, 200]


async def test_control_plane_with_a_token_still_looks_at_host_and_origin(session: aiohttp.ClientSession) -> None:
    async with Emulator(unet="tiny", host="0.0.0.0", control_token="secret") as emulator:
        given = {"X-Emulator-Token": "secret", **JSON}
        assert await raw(session, emulator, b"{}", Host="evil.example", **given) == 403
        assert await raw(session, emulator, b"{}", Origin="http://evil.example", **given) == 403
        assert await raw(session, emulator, b"{}", **given) == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost"])
async def test_control_plane_of_this_machine_only_needs_no_token(host: str) -> None:
    assert Emulator(host=host).control_token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "my-machine"])
async def test_control_plane_that_others_can_reach_has_a_token_of_its_own(host: str) -> None:
    first, second = Emulator(host=host).control_token, Emulator(host=host).control_token
    assert first
    assert second
    assert first != second
    assert len(first) >= 32


@pytest.mark.parametrize("host", ["0.0.0.0", ""])
async def test_url_of_an_emulator_on_every_address_can_be_used(session: aiohttp.ClientSession, host: str) -> None:
    async with Emulator(unet="tiny", host=host) as emulator:
        assert emulator.url.startswith("http://127.0.0.1:")
        async with session.get(f"{emulator.url}/v1/images/models/1/status") as response:
            assert response.status == 500
