"""``EventStream``: order, bounded memory, ends, and cancelled readers."""

import asyncio
from datetime import UTC, datetime

import pytest

from crynux_async.clock import utc_now
from crynux_async.event_stream import EventStream
from crynux_async.events import Event, EventsMissed, JobQueued

AT = datetime(2026, 1, 1, tzinfo=UTC)


def event(number: int) -> JobQueued:
    return JobQueued(job_id=f"j{number}", task_id=None, at=AT, position=number, expected_at=None)


def stream(max_waiting: int = 100) -> EventStream:
    return EventStream(lambda _: None, max_waiting)


async def rest(events: EventStream) -> list[Event]:
    return [item async for item in events]


async def waiting_reader(events: EventStream) -> "asyncio.Task[Event]":
    reader = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    assert not reader.done()
    return reader


async def test_events_put_before_the_reader_comes_are_read_in_order() -> None:
    events = stream()
    for number in range(3):
        events.put(event(number))
    events.end()
    assert await rest(events) == [event(0), event(1), event(2)]


async def test_event_put_while_the_reader_waits_wakes_it() -> None:
    events = stream()
    reader = await waiting_reader(events)
    events.put(event(1))
    assert await reader == event(1)


async def test_slow_reader_is_told_first_how_many_it_missed() -> None:
    events = stream(max_waiting=2)
    for number in range(5):
        events.put(event(number))
    events.end()
    missed, *others = await rest(events)
    assert isinstance(missed, EventsMissed)
    assert (missed.count, missed.job_id, missed.at) == (3, "j3", utc_now())
    assert others == [event(3), event(4)]


async def test_slow_reader_is_told_again_when_it_misses_more() -> None:
    events = stream(max_waiting=1)
    counts = []
    for number in range(3):
        for extra in range(number + 2):
            events.put(event(extra))
        missed = await anext(events)
        assert isinstance(missed, EventsMissed)
        counts.append(missed.count)
        assert await anext(events) == event(number + 1)
    assert counts == [1, 2, 3]


async def test_read_and_missed_events_together_are_all_that_were_put() -> None:
    events = stream(max_waiting=7)
    read = missed = 0
    for number in range(500):
        events.put(event(number))
        if number % 11 == 0:
            item = await anext(events)
            missed, read = (missed + item.count, read) if isinstance(item, EventsMissed) else (missed, read + 1)
    events.end()
    for item in await rest(events):
        missed, read = (missed + item.count, read) if isinstance(item, EventsMissed) else (missed, read + 1)
    assert read + missed == 500
    assert missed > 0


async def test_memory_stays_bounded_when_nobody_reads() -> None:
    events = stream(max_waiting=10)
    for number in range(10_000):
        events.put(event(number))
    events.end()
    assert len(await rest(events)) == 11  # ten events, and the one that tells of the others


async def test_end_lets_a_waiting_reader_finish() -> None:
    events = stream()
    reader = await waiting_reader(events)
    events.end()
    with pytest.raises(StopAsyncIteration):
        await reader


async def test_end_lets_what_waits_be_read_first() -> None:
    events = stream()
    events.put(event(1))
    events.end()
    assert await rest(events) == [event(1)]
    assert await rest(events) == []


async def test_close_drops_what_waits_and_calls_back_once() -> None:
    closed: list[EventStream] = []
    events = EventStream(closed.append, max_waiting=1)
    events.put(event(1))
    events.put(event(2))
    events.close()
    events.close()
    assert closed == [events]
    assert await rest(events) == []


async def test_close_lets_a_waiting_reader_finish() -> None:
    events = stream()
    reader = await waiting_reader(events)
    events.close()
    with pytest.raises(StopAsyncIteration):
        await reader


async def test_event_put_after_close_is_not_kept() -> None:
    events = stream()
    events.close()
    events.put(event(1))
    assert await rest(events) == []


async def test_reader_cancelled_while_it_waits_loses_nothing() -> None:
    events = stream()
    reader = await waiting_reader(events)
    reader.cancel()
    events.put(event(1))
    events.put(event(2))
    events.end()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await rest(events) == [event(1), event(2)]


async def test_reader_cancelled_in_the_moment_of_an_event_loses_nothing() -> None:
    events = stream()
    reader = await waiting_reader(events)
    events.put(event(1))
    reader.cancel()
    events.end()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert await rest(events) == [event(1)]


async def test_reader_with_a_timeout_can_go_on_reading() -> None:
    events = stream()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60):
            await anext(events)
    events.put(event(1))
    assert await anext(events) == event(1)


async def test_two_readers_share_the_events_without_loss() -> None:
    events = stream()
    first, second = await waiting_reader(events), await waiting_reader(events)
    events.put(event(1))
    events.put(event(2))
    assert {(await first).job_id, (await second).job_id} == {"j1", "j2"}
