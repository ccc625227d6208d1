"""Fair shares of what sessions on one ledger follow. On virtual time."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async import JobState, Session
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision.owners import may_follow, new_owner
from crynux_async.supervision.shares import room_for, share_of, surplus_of
from tests.fake_backend import LEASE, FakeBackend, make_config

RENEW = LEASE / 3
JOBS = 40


def open_session(backend: FakeBackend, ledger: Any, **arguments: Any) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, **{"rate_limit": 60_000, **arguments})


async def opened(backend: FakeBackend, ledger: MemoryLedger, count: int) -> list[Session]:
    sessions = [open_session(backend, ledger) for _ in range(count)]
    for session in sessions:
        await session.open()
    return sessions


async def shares(ledger: MemoryLedger) -> list[int]:
    return sorted(holder.jobs for holder in await ledger.holders())


async def test_jobs_of_a_session_that_was_closed_spread_over_those_that_remain() -> None:
    backend, ledger = FakeBackend(duration=36_000), MemoryLedger()
    first, *others = await opened(backend, ledger, 3)
    await asyncio.gather(*(first.submit(make_config(seed=1 + seed)) for seed in range(JOBS)))
    await first.close()
    await asyncio.sleep(4 * RENEW)
    held = await shares(ledger)
    assert sum(held) == JOBS
    assert held[1] <= 1.5 * held[0]
    for session in others:
        await session.close()


async def test_jobs_spread_over_workers_that_are_started_together() -> None:
    backend, ledger = FakeBackend(duration=36_000), MemoryLedger()
    async with open_session(backend, ledger) as before:
        await asyncio.gather(*(before.submit(make_config(seed=1 + seed)) for seed in range(JOBS)))
    workers = await opened(backend, ledger, 2)
    await asyncio.sleep(5 * RENEW)
    held = await shares(ledger)
    assert sum(held) == JOBS
    assert held[1] <= 1.5 * held[0]
    polls = backend.polls
    await asyncio.sleep(600)
    assert backend.polls > polls
    for worker in workers:
        await worker.close()


async def test_every_job_ends_once_although_it_changes_hands() -> None:
    backend, ledger = FakeBackend(duration=900), MemoryLedger()
    async with open_session(backend, ledger) as first:
        jobs = [await first.submit(make_config(seed=1 + seed)) for seed in range(JOBS)]
        async with open_session(backend, ledger) as second:
            await first.wait_all(jobs)
            await asyncio.sleep(RENEW)
            assert all(job.state is JobState.SUCCEEDED for job in await second.history())
    assert backend.creates == JOBS
    for job in jobs:
        events = await ledger.events(job.job_id)
        assert [event.data.get("state") for event in events].count("succeeded") == 1
        assert [event.number for event in events] == [*range(1, len(events) + 1)]


async def test_onlookers_count_for_nothing() -> None:
    backend, ledger = FakeBackend(duration=36_000), MemoryLedger()
    async with open_session(backend, ledger) as before:
        await asyncio.gather(*(before.submit(make_config(seed=1 + seed)) for seed in range(JOBS)))
    async with open_session(backend, ledger, follow=False), open_session(backend, ledger) as worker:
        assert len(worker.jobs()) == JOBS


async def test_models_that_nobody_wants_stay_where_they_are() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as first:
        job = await (await first.submit(make_config())).wait()
    async with open_session(backend, ledger) as second:
        assert second.jobs() == []
        found = await second.find(job.job_id)
        assert found is not None
        assert found.state is JobState.SUCCEEDED


def test_owner_tells_whether_it_follows() -> None:
    assert may_follow(new_owner())
    assert not may_follow(new_owner(follows=False))


@given(total=st.integers(0, 10_000), followers=st.integers(1, 50), mine=st.integers(0, 10_000))
def test_what_a_session_keeps_is_within_half_of_its_share_more(total: int, followers: int, mine: int) -> None:
    kept = mine - surplus_of(total, followers, mine)
    share = share_of(total, followers)
    assert kept <= max(1.5 * share, share + 1)
    assert kept >= min(mine, share)


@pytest.mark.parametrize(
    ("total", "followers", "mine", "look", "room"),
    [
        (40, 1, 0, 0, None),
        (40, 2, 0, 0, 20),
        (40, 2, 15, 1, 5),
        (40, 2, 30, 0, 0),
        (41, 2, 0, 0, 21),
        (40, 2, 30, 2, None),
    ],
)
def test_room_is_what_is_left_of_the_share_and_everything_at_every_third_look(
    total: int, followers: int, mine: int, look: int, room: int | None
) -> None:
    assert room_for(total, followers, mine, look) == room
