"""How many may pass in each turn of the event loop."""

import asyncio

import pytest

from crynux_async.backends.relay.turns import Turns


async def passing(turns: Turns, callers: int) -> list[list[int]]:
    """Let callers come at once, and return which of them passed in each turn."""
    rows: list[list[int]] = []

    async def come(number: int) -> None:
        await turns.take()
        passed.append(number)

    passed: list[int] = []
    tasks = [asyncio.create_task(come(number)) for number in range(callers)]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        rows.append(list(passed))
        passed.clear()
    return [row for row in rows if row]


@pytest.mark.parametrize("at_once", [1, 3, 4])
async def test_no_more_than_that_pass_in_a_turn_and_all_in_order(at_once: int) -> None:
    rows = await passing(Turns(at_once), 10)
    assert max(map(len, rows)) == at_once
    assert [number for row in rows for number in row] == list(range(10))


async def test_caller_who_comes_alone_does_not_wait() -> None:
    turns = Turns(1)
    for _ in range(3):
        taking = turns.take()
        with pytest.raises(StopIteration):
            taking.send(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_caller_who_is_cancelled_takes_nobodys_turn() -> None:
    turns = Turns(1)
    first, leaving, staying = (asyncio.create_task(turns.take()) for _ in range(3))
    await first
    leaving.cancel()
    await staying
    assert leaving.cancelled()
