"""The relay's time on this machine's steady clock."""

import asyncio

import pytest

from crynux_async.backends.relay.relay_clock import RelayClock
from crynux_async.clock import monotonic


async def test_time_goes_on_from_what_the_relay_said() -> None:
    clock = RelayClock()
    clock.set(1_700_000_000, asked_at=monotonic())
    await asyncio.sleep(90)
    # The relay tells whole seconds, so its time lies within the second after what it said.
    assert clock.now() == pytest.approx(1_700_000_090.5, abs=0.5)


async def test_time_of_a_slow_answer_lies_between_question_and_answer() -> None:
    clock, asked_at = RelayClock(), monotonic()
    await asyncio.sleep(20)
    clock.set(1_700_000_000, asked_at)
    assert clock.now() == pytest.approx(1_700_000_010.5, abs=0.5)


async def test_time_that_was_wrong_is_not_known_any_more() -> None:
    clock = RelayClock()
    assert not clock.is_set
    clock.set(1_700_000_000, asked_at=monotonic())
    assert clock.is_set
    clock.forget()
    assert not clock.is_set
