"""``crynux-async board`` as a person starts it, and ends it."""

import re
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.integrations.test_board_alone import leave_planned
from tests.integrations.web_server import Process, running

pytestmark = pytest.mark.real_time


async def address_of(board: Process) -> str:
    await board.wait_for(b"token=")
    found = re.search(rb"http://127\.0\.0\.1:\d+/board\?token=[\w-]+", board.log)
    assert found is not None
    return found[0].decode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_board_is_open_to_its_address_and_ends_with_open_streams(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    ledger = tmp_path / "jobs.db"
    await leave_planned(ledger, "http://127.0.0.1:9")
    arguments = ["-m", "crynux_async.cli", "board", "--ledger", str(ledger), "--no-open"]
    async with running(*arguments, environment={}) as board, aiohttp.ClientSession(cookie_jar=_jar()) as client:
        address = await address_of(board)
        async with client.get(address) as answer:
            page = await answer.text()
        assert answer.status == 200
        assert "2 jobs" in page
        assert "token" not in str(answer.url)
        async with client.get(answer.url.with_query(None) / "stream") as stream:
            assert await stream.content.readline() == b": pages\n"
            ended = await board.stop(number)
    assert ended == code
    assert b"Traceback" not in board.log


async def test_board_of_a_ledger_that_is_not_there_says_so(tmp_path: Path) -> None:
    async with running("-m", "crynux_async.cli", "board", "--ledger", str(tmp_path / "no.db"), environment={}) as board:
        assert await board.process.wait() == 2
    assert b"there is no ledger at" in board.log


def _jar() -> aiohttp.CookieJar:
    return aiohttp.CookieJar(unsafe=True)  # keeps cookies of addresses without a name
