"""What a person sees while a sweep runs."""

import asyncio
import io

from rich.console import Console

from crynux_async import Session
from crynux_async.cli.sweep_board import SweepBoard
from crynux_async.job_values import Cost
from crynux_async.sweeps import Sweep, SweepRun
from tests.fake_backend import FakeBackend, make_config


def seen(session: Session, running: SweepRun) -> str:
    console = Console(file=io.StringIO(), width=80, height=24)
    console.print(SweepBoard(session, console, running).view())
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def kinds(first: int, last: int) -> Sweep:
    return Sweep("cats", make_config(), points=[{"seed": seed} for seed in range(first, last)])


async def test_board_says_what_was_spent_and_when_the_last_is_sent_and_ends() -> None:
    session = Session(backend=FakeBackend(duration=600.0), api_key="k" * 44, rate_limit=2)
    async with session:
        async with kinds(1, 21).run(session) as running:
            await running.wait()
        for trial in running.trials:
            trial.cost = Cost(held=0, spent=15 * 10**17, refunded=0, is_complete=True)
        assert "30 CNX spent" in seen(session, running)
        async with kinds(21, 31).run(session) as running:
            await asyncio.sleep(60.0)
            board = seen(session, running)
    assert "last sent in " in board
    assert "ends in " in board
    assert all(len(line) <= 80 for line in board.splitlines())


async def test_board_promises_no_end_while_nothing_of_the_kind_has_ended() -> None:
    session = Session(backend=FakeBackend(duration=600.0), api_key="k" * 44, rate_limit=2)
    async with session, kinds(1, 5).run(session) as running:
        await asyncio.sleep(60.0)
        board = seen(session, running)
    assert "ends in " not in board
    assert "CNX" not in board


async def test_bar_has_a_line_of_its_own_so_that_nothing_of_the_counts_is_cut_off() -> None:
    session = Session(backend=FakeBackend(), api_key="k" * 44, rate_limit=6000)
    async with session, kinds(1, 5).run(session) as running:
        await running.wait()
        board = seen(session, running).splitlines()
    assert board[0].strip() == "━" * 60
    assert board[1].strip() == "4 done"


async def test_board_speaks_of_a_rate_limit_only_where_there_is_one() -> None:
    for is_limited in (True, False):
        backend = FakeBackend(duration=600.0)
        backend.is_rate_limited = is_limited
        async with Session(backend=backend, api_key="k" * 44) as session, kinds(1, 5).run(session) as running:
            await asyncio.sleep(60.0)
            assert ("rate limit not known yet" in seen(session, running)) is is_limited
