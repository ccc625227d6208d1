"""Commits whose answer is lost, as a server may lose it: each is found out by its mark, and none is done twice."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.ledgers.base import Fence, JobChange
from crynux_async.ledgers.conformance.support import attempt, happened, job
from crynux_async.ledgers.sql import writer
from crynux_async.ledgers.sql.steps import Step
from crynux_async.ledgers.sqlite.connection import SqliteConnection
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from tests.ledger_files import opened, query

pytestmark = pytest.mark.real_time


class LostAnswerError(Exception):
    """The connection was cut while a commit was under way."""


class Line:
    """A connection over a line that may be cut: before a commit has arrived, or before its answer came back."""

    leaves_marks = True

    def __init__(self, connection: SqliteConnection) -> None:
        self._connection = connection
        self.cut = ""
        self.away = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def write(self, steps: Sequence[Step]) -> None:
        if self.cut != "before":
            await self._connection.write(steps)
        self._cut()

    async def commit(self) -> None:
        await (self._connection.rollback() if self.cut == "before" else self._connection.commit())
        self._cut()

    async def fetch(self, *question: Any) -> list[tuple[Any, ...]]:
        if self.away:
            self.away -= 1
            raise ConnectionRefusedError
        return await self._connection.fetch(*question)

    def explain(self, error: Exception) -> LedgerError:
        return LedgerBusyError("away") if isinstance(error, ConnectionError) else self._connection.explain(error)

    def is_lost_answer(self, error: Exception) -> bool:
        return isinstance(error, LostAnswerError)

    def _cut(self) -> None:
        if self.cut:
            self.cut = ""
            raise LostAnswerError


@asynccontextmanager
async def ledger_on_a_line(path: Path) -> AsyncIterator[tuple[SqliteLedger, Line, Fence]]:
    async with opened(path) as ledger:
        assert ledger._writer is not None
        line = Line(ledger._writer._connection)  # type: ignore[arg-type]
        ledger._writer._connection = line  # type: ignore[assignment]
        fence = await ledger.enter("me", seconds=60)
        await ledger.add([job("a"), job("b")], fence=fence)
        yield ledger, line, fence


@pytest.mark.parametrize("away", [0, 3])
async def test_commit_that_arrived_is_not_done_again(
    away: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_ASKED_AGAIN", 0.001)
    async with ledger_on_a_line(tmp_path / "jobs.db") as (ledger, line, fence):
        line.cut, line.away = "after", away
        doing = [ledger.begin(fence, attempt("a")), ledger.change(fence, [happened("b", 1)])]
        assert await asyncio.gather(*doing) == [None, []]
        line.cut = "after"
        assert await ledger.take(fence, ["a"]) == ["a"]
        await ledger.drop(fence, ["a"])
        line.cut = "after"
        assert await ledger.take(fence, ["a"]) == ["a"]
        assert ledger.failure is None
        assert len(await ledger.attempts()) == 1
        assert len(await ledger.events("b")) == 1


async def test_commit_that_did_not_arrive_is_told_as_nothing_stored(tmp_path: Path) -> None:
    async with ledger_on_a_line(tmp_path / "jobs.db") as (ledger, line, fence):
        for doing in (
            ledger.begin(fence, attempt("a")),
            ledger.change(fence, [JobChange(job_id="a", columns={"label": "x"})]),
            ledger.put_note("test", "a", 1),
        ):
            line.cut = "before"
            with pytest.raises(LedgerBusyError, match="nothing was stored"):
                await doing
        assert ledger.failure is None
        assert await ledger.attempts() == []
        assert await ledger.note("test", "a") is None
        await ledger.begin(fence, attempt("a"))


async def test_requests_that_were_done_apart_are_found_out_as_well(tmp_path: Path) -> None:
    async with ledger_on_a_line(tmp_path / "jobs.db") as (ledger, line, _):
        line.cut = ""
        adding = [ledger.add([job("a")]), ledger.add([job("c")])]

        async def cut_later() -> None:
            await asyncio.sleep(0)
            line.cut = "after"

        first, second, _ = await asyncio.gather(*adding, cut_later(), return_exceptions=True)
        assert isinstance(first, LedgerError)
        assert second == [job("c")]
        assert await ledger.get("c") == job("c")


async def test_sqlite_itself_leaves_no_marks(tmp_path: Path) -> None:
    async with opened(tmp_path / "jobs.db") as ledger:
        fence = await ledger.enter("me", seconds=60)
        await ledger.add([job("a")], fence=fence)
    assert query(tmp_path / "jobs.db", "SELECT mark FROM leases") == [(0,)]
