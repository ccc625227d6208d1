"""The board in a program of its own: who comes in, and that it does no more than read."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.postgres_server import PostgresServer
from crynux_async.emulator import Emulator
from crynux_async.integrations.fastapi.page.stand_alone import stand_alone
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import JobFilter
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig
from tests.integrations.web_lab import GOOD

TOKEN = "t" * 32
HOST = "127.0.0.1:8700"
COOKIE = {"Cookie": f"crynux_board_8700={TOKEN}"}


@asynccontextmanager
async def opened_board(ledger: str | Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run a board for the block, and give a client that has come in."""
    board = stand_alone(ledger, Settings.load(), port=8700, token=TOKEN)
    transport = httpx.ASGITransport(board)
    async with (
        board.app.router.lifespan_context(board.app),
        httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}", headers=COOKIE) as client,
    ):
        yield client


async def leave_planned(ledger: str | Path, service: str) -> None:
    """Leave two jobs of a sweep planned that nobody follows any more."""
    async with Session(base_url=service, api_key="k" * 44, ledger=ledger, rate_limit=60) as session:
        configs = [FineTuneConfig(**GOOD), FineTuneConfig(**{**GOOD, "rank": 4})]
        options: dict[str, Any] = {"label": ["one", "two"], "tags": {"sweep": "cats"}, "group": "cats"}
        jobs = await session.submit_many(configs, **options)
        await session.stop_sending(jobs)


async def test_token_of_the_address_becomes_a_cookie_and_leaves_the_address(tmp_path: Path) -> None:
    await leave_planned(tmp_path / "jobs.db", "http://127.0.0.1:9")
    async with opened_board(tmp_path / "jobs.db") as client:
        client.headers.pop("Cookie")
        come = await client.get("/board", params={"token": TOKEN, "show": "waiting"})
        client.headers.update(COOKIE)
        page = await client.get(come.headers["location"])
    assert come.status_code == 303
    assert come.headers["location"] == "/board?show=waiting"
    assert come.headers["set-cookie"] == f"crynux_board_8700={TOKEN}; HttpOnly; Path=/; SameSite=lax"
    assert page.status_code == 200
    assert TOKEN not in page.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": ""},
        {"Cookie": "crynux_board_8700=wrong"},
        {"Cookie": f"crynux_board_8701={TOKEN}"},
        {"Host": "evil.example:8700"},
        {"Host": "127.0.0.1:8701"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:8700"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
    ],
    ids=str,
)
async def test_who_has_no_token_or_comes_from_elsewhere_sees_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    await leave_planned(tmp_path / "jobs.db", "http://127.0.0.1:9")
    async with opened_board(tmp_path / "jobs.db") as client:
        asks = ["/", "/board", "/board/stream", "/board/static/live.js", "/anything"]
        answers = [await client.get(at, headers=headers) for at in asks]
        with_token = await client.get("/board", params={"token": TOKEN}, headers=headers)
    assert {answer.status_code for answer in answers} == {403}
    assert all("cats" not in answer.text for answer in answers)
    assert all("frame-ancestors 'none'" in answer.headers["content-security-policy"] for answer in answers)
    # A name of somebody else's DNS, or a site of theirs, gets nothing with a token either.
    assert with_token.status_code == (303 if "Cookie" in headers else 403)


async def test_token_never_leads_to_another_site(tmp_path: Path) -> None:
    await leave_planned(tmp_path / "jobs.db", "http://127.0.0.1:9")
    async with opened_board(tmp_path / "jobs.db") as client:
        answer = await client.get(f"http://{HOST}//evil.example/", params={"token": TOKEN})
    assert answer.headers["location"] == "/evil.example/"


async def test_board_shows_what_is_left_of_every_service_and_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "jobs.db"
    async with Emulator() as bridge:
        await leave_planned(place, bridge.url)
        await leave_planned(place, "http://127.0.0.1:9")
        before = await rows(place)
        async with opened_board(place) as client:
            board = await client.get("/")
            board = await client.get(board.headers["location"])
            sweep = await client.get("/board/sweep?name=cats")
            job = await client.get(f"/board/jobs/{before[0][0]}")
            await asyncio.sleep(0.1)
        asked = list(bridge.requests)
    assert "4 jobs" in board.text
    assert "Nobody is working on these jobs" not in board.text  # nothing waits: all of them were stopped
    assert "trials" in sweep.text
    assert "It is not to be sent until somebody asks for it again." in job.text
    assert await rows(place) == before
    assert [request for request in asked if request.method == "POST"] == []


async def test_queue_that_nobody_sends_is_told_with_what_to_type(tmp_path: Path) -> None:
    place = tmp_path / "jobs.db"
    async with Session(base_url="http://127.0.0.1:9", api_key="k" * 44, ledger=place) as session:
        session.submit_nowait(FineTuneConfig(**GOOD), label="waits")
    async with opened_board(place) as client:
        board = (await client.get("/board")).text
    assert "Nobody is working on these jobs" in board
    assert "crynux-async resume" in board


@pytest.mark.real_time
async def test_ledger_on_a_server_has_a_board_too(postgres: PostgresServer) -> None:
    name = f"board_{secrets.token_hex(6)}"
    postgres.run(f"CREATE DATABASE {name}")
    address = postgres.url(name)
    await leave_planned(address, "http://127.0.0.1:9")
    async with opened_board(address) as client:
        board = (await client.get("/board")).text
    assert "2 jobs" in board
    assert "one" in board


async def rows(place: str | Path) -> list[tuple[str, JobState, int]]:
    ledger = open_ledger(place)
    await ledger.open()
    try:
        found = await ledger.jobs(JobFilter())
    finally:
        await ledger.close()
    return [(row.job_id, row.state, row.last_event) for row in found]
