"""Hearing of others' writes goes on, whatever happens to the connection that listens; on virtual time."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from crynux_async.ledgers.bell import Bell
from crynux_async.ledgers.postgres.listener import SLOW_LOOK, Listener


class Line:
    """A connection that listens: it hears so many notices, then fails or stays silent."""

    def __init__(self, notices: int = 0, *, fails: Exception | None = None, refuses: Exception | None = None) -> None:
        self.notices = notices
        self.is_closed = False
        self._fails = fails
        self._refuses = refuses

    async def execute(self, _: str) -> None:
        if self._refuses:
            raise self._refuses

    async def notifies(self) -> AsyncIterator[Any]:
        for _ in range(self.notices):
            yield SimpleNamespace(pid=1)
        if self._fails:
            raise self._fails
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.is_closed = True


class Server:
    """Gives prepared connections, and after those none."""

    address = SimpleNamespace(name="postgresql://db/crynux")
    channel = "crynux_async_test"

    def __init__(self, *lines: Line | Exception) -> None:
        self._lines = deque(lines)
        self.asked: list[float] = []

    async def connect(self) -> Line:
        self.asked.append(asyncio.get_running_loop().time())
        line = self._lines.popleft() if self._lines else psycopg.OperationalError("too many clients already")
        if isinstance(line, Exception):
            raise line
        return line


def listener_of(server: Any) -> tuple[Listener, Bell]:
    bell = Bell()
    return Listener(server, bell, lambda: 0), bell


async def rung_at(bell: Bell, number: int) -> float:
    """Return when a bell has reached a number."""
    await bell.heard(number - 1)
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(
    "first",
    [RuntimeError("no such codec"), Line(fails=KeyError("pid")), Line(refuses=ValueError("null character"))],
    ids=["while it connects", "while it listens", "at LISTEN"],
)
async def test_error_that_nobody_thought_of_is_logged_and_listening_goes_on(
    first: Line | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    second = Line(notices=1)
    server = Server(first, second)
    listener, bell = listener_of(server)
    began = asyncio.get_running_loop().time()
    with caplog.at_level(logging.ERROR):
        await listener.heard(0)  # what was written before anybody listened
        listening = int(isinstance(first, Line) and first._refuses is None)
        assert await rung_at(bell, 1 + listening + 2) < began + SLOW_LOOK
    assert len(server.asked) == 2
    assert [record.exc_info is not None for record in caplog.records] == [True]
    await listener.close()
    assert second.is_closed


async def test_server_without_a_connection_left_is_asked_seldom_and_looked_at_all_the_same() -> None:
    server = Server()
    listener, bell = listener_of(server)
    loop = asyncio.get_running_loop()
    began, heard = loop.time(), await listener.heard(0)
    looks = []
    while loop.time() < began + 60:
        heard = await listener.heard(heard)
        looks.append(loop.time() - began)
    assert looks == pytest.approx([SLOW_LOOK * count for count in range(1, 13)])
    assert len(server.asked) == 9  # after 0, 0.25, 0.75, 1.75, 3.75, 7.75, 15.75, 30.75 and 45.75 seconds
    await listener.close()
    assert bell.number == heard


async def test_standby_that_lets_in_and_refuses_to_listen_is_asked_ever_less_often() -> None:
    refusals = [Line(refuses=psycopg.errors.ReadOnlySqlTransaction("during recovery")) for _ in range(20)]
    server = Server(*refusals)
    listener, _ = listener_of(server)
    heard = await listener.heard(0)
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 60:
        heard = await listener.heard(heard)
    assert len(server.asked) == 9
    assert all(line.is_closed for line in refusals[:9])
    await listener.close()
