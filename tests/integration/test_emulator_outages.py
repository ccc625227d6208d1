"""The emulated bridge out of order."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from crynux_async.emulator import Emulator
from tests.emulator_client import Client


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


async def is_up(client: Client) -> bool:
    """Return whether the bridge answers, and with what it should."""
    try:
        status, _ = await client.ask("GET", "/v1/images/models/1/status")
    except (aiohttp.ClientConnectorError, ValueError):  # nobody listens, or a page that is no JSON
        return False
    return status == 500  # there is no such job


async def test_html_outage_lasts_as_long_as_asked(
    emulator: Emulator, client: Client, session: aiohttp.ClientSession
) -> None:
    await emulator.outage(60)
    async with session.get(f"{emulator.url}/v1/images/models/1/status") as response:
        page = await response.text()
    assert (response.status, response.content_type, "502 Bad Gateway" in page) == (502, "text/html", True)
    await asyncio.sleep(61)
    assert (await client.create())[0] == 200


async def test_refusing_outage_does_not_listen(emulator: Emulator, client: Client) -> None:
    task_id = await client.new_job()
    await emulator.outage(60, kind="refused")
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.create()
    await asyncio.sleep(61)
    assert await client.status(task_id) == "running"


@pytest.mark.parametrize(
    ("seconds", "kind", "named"),
    [
        (1, "other", "kind"),
        ("0.5", "refused", "seconds"),
        (-1, "html", "seconds"),
        (float("nan"), "refused", "seconds"),
        (float("inf"), "refused", "seconds"),
        pytest.param(10**400, "html", "seconds", id="beyond-floats-html"),
        pytest.param(10**400, "refused", "seconds", id="beyond-floats-refused"),
        (True, "html", "seconds"),
    ],
)
async def test_outage_that_makes_no_sense_is_refused_and_changes_nothing(
    emulator: Emulator, client: Client, seconds: float, kind: str, named: str
) -> None:
    with pytest.raises(ValueError, match=f"^{named}: must be"):
        await emulator.outage(seconds, kind=kind)  # type: ignore[arg-type]
    assert await is_up(client)


@pytest.mark.parametrize("kinds", [("html", "html"), ("refused", "refused"), ("html", "refused"), ("refused", "html")])
async def test_second_outage_is_not_ended_by_the_first_ones_end(
    emulator: Emulator, client: Client, kinds: tuple[str, str]
) -> None:
    await emulator.outage(10, kind=kinds[0])  # type: ignore[arg-type]
    await asyncio.sleep(5)
    await emulator.outage(60, kind=kinds[1])  # type: ignore[arg-type]
    await asyncio.sleep(59)
    assert not await is_up(client)
    await asyncio.sleep(2)
    assert await is_up(client)


@pytest.mark.parametrize("kinds", [("html", "html"), ("refused", "refused"), ("html", "refused"), ("refused", "html")])
async def test_outage_of_no_seconds_ends_any_outage(emulator: Emulator, client: Client, kinds: tuple[str, str]) -> None:
    await emulator.outage(1000, kind=kinds[0])  # type: ignore[arg-type]
    await emulator.outage(0, kind=kinds[1])  # type: ignore[arg-type]
    assert await is_up(client)
    await asyncio.sleep(1001)
    assert await is_up(client)


async def test_bridge_comes_back_when_somebody_else_gives_its_port_back(emulator: Emulator, client: Client) -> None:
    port = int(emulator.url.rpartition(":")[2])
    await emulator.outage(10, kind="refused")
    with socket.create_server(("127.0.0.1", port)):
        await asyncio.sleep(15)
    await asyncio.sleep(5)
    assert await is_up(client)


async def test_emulator_closed_during_an_outage_does_not_listen_again(session: aiohttp.ClientSession) -> None:
    async with Emulator(unet="tiny") as other:
        client = Client(session, other, "")
        await other.outage(1000, kind="refused")
    await asyncio.sleep(2000)
    assert not await is_up(client)


async def test_emulator_whose_port_is_taken_leaves_nothing_behind(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    other = Emulator(port=int(emulator.url.rpartition(":")[2]))
    with pytest.raises(OSError, match="in use"):
        await other.start()
    assert not list(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="not running"):
        other.new_key()
