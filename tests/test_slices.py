"""Long work in slices: whoever shares the event loop has turns in between."""

import asyncio
import threading
from collections import Counter

import pytest

from crynux_async import FineTuneConfig, Session
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.slices import SLICE, in_slices
from crynux_async.sweeps import Sweep
from tests.fake_backend import FakeBackend, make_config

POINTS = 4 * SLICE


async def test_items_come_in_their_order_and_others_have_a_turn_in_between() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    seen = await in_slices(lambda item: (item, turns), range(POINTS))
    task.cancel()
    assert [item for item, _ in seen] == list(range(POINTS))
    assert max(Counter(turn for _, turn in seen).values()) <= SLICE


async def test_known_sweep_is_begun_without_a_stretch_that_holds_others_up(monkeypatch: pytest.MonkeyPatch) -> None:
    digested: Counter[int] = Counter()
    loop_thread, turn = threading.get_ident(), 0
    digest = FineTuneConfig.asked_digest

    def counted(config: FineTuneConfig) -> str:
        if threading.get_ident() == loop_thread:  # planning has a thread of its own
            digested[turn] += 1
        return digest(config)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    ledger = MemoryLedger()
    sweep = Sweep("cats", make_config(), points=[{"seed": seed} for seed in range(1, POINTS + 1)])
    monkeypatch.setattr(FineTuneConfig, "asked_digest", counted)
    for _ in range(2):
        async with Session(backend=FakeBackend(duration=1e9), ledger=ledger, rate_limit=1) as session:
            turns = asyncio.create_task(count_turns())
            async with sweep.run(session) as running:
                assert len(running.trials) == POINTS
            turns.cancel()
    assert digested
    assert max(digested.values()) <= 2 * SLICE, "two of them may meet in one turn"
