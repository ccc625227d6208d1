"""For how long a job waits for a service that cannot be reached, while others with its key are answered or not."""

import asyncio
from typing import Any

import pytest

from crynux_async import JobState, Session, SubmissionUnknownError, UnreachableError
from crynux_async.backends.base import Turnstile
from crynux_async.clock import monotonic
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision.patience import FORGIVEN
from tests.fake_backend import FakeBackend, make_config

LIMIT = 120.0
HANGS = 15.0
MINUTES = 10 * LIMIT  # what waiting for the gate may add to the time in vain, at one create a minute


def open_session(backend: FakeBackend, ledger: MemoryLedger | None = None, **settings: Any) -> Session:
    settings = {"rate_limit": 1, "unreachable_timeout": LIMIT, **settings}
    return Session(backend=backend, api_key="k" * 44, ledger=ledger, **settings)


class HangingKey(FakeBackend):
    """A service that never answers the request that makes a key known."""

    async def prepare(self, turnstile: Turnstile) -> float | None:
        async with turnstile():
            await asyncio.sleep(HANGS)
            raise SubmissionUnknownError("no answer")


async def hang() -> None:
    await asyncio.sleep(HANGS)
    raise SubmissionUnknownError("no answer")


async def time_out() -> None:
    await asyncio.sleep(HANGS)
    raise UnreachableError("no network")


def down(times: int) -> FakeBackend:
    """Return a service that cannot be reached so many times."""
    backend = FakeBackend()
    backend.answers.extend(UnreachableError("down") for _ in range(times))
    return backend


async def test_key_that_cannot_be_made_known_is_given_up_although_its_requests_shut_the_gate() -> None:
    began = monotonic()
    async with open_session(HangingKey()) as session:
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
    assert LIMIT <= monotonic() - began <= MINUTES


async def test_create_that_may_be_repeated_is_given_up_although_it_shuts_the_gate() -> None:
    backend, began = FakeBackend(), monotonic()
    backend.creates_are_repeatable = True
    backend.answers.extend([hang] * 1000)
    async with open_session(backend) as session:
        with pytest.raises(SubmissionUnknownError):
            await session.submit(make_config())
    assert LIMIT <= monotonic() - began <= MINUTES


async def test_sessions_that_only_wait_for_each_others_creates_give_up() -> None:
    ledger, began = MemoryLedger(), monotonic()
    backends = [FakeBackend() for _ in range(6)]
    for backend in backends:
        backend.answers.extend([time_out] * 1000)
    sessions = [open_session(backend, ledger) for backend in backends]
    for session in sessions:
        await session.open()
    jobs = [session.submit_nowait(make_config(seed=number)) for number, session in enumerate(sessions, 1)]
    ends = await asyncio.gather(*(job.submitted() for job in jobs), return_exceptions=True)
    for session in sessions:
        await session.close()
    assert [type(end) for end in ends] == [UnreachableError] * 6
    assert monotonic() - began <= MINUTES


@pytest.mark.parametrize("is_another_answered", [True, False])
async def test_outage_is_over_where_a_create_of_another_session_was_answered(is_another_answered: bool) -> None:
    ledger, cut_off, there = MemoryLedger(), down(8), FakeBackend()  # 1 + 2 + 4 + 8 + 16 + 32 + 60 s in vain
    cut_off.created = there.created
    async with open_session(cut_off, ledger) as session, open_session(there, ledger) as other:
        job = session.submit_nowait(make_config(seed=1))
        await asyncio.sleep(65)
        if is_another_answered:
            await other.submit(make_config(seed=2))
            await job.submitted()
        else:
            with pytest.raises(UnreachableError):
                await job.submitted()


async def test_host_without_a_network_gives_up_although_another_is_answered_for_days() -> None:
    ledger, began = MemoryLedger(), monotonic()
    async with open_session(down(100_000), ledger) as session, open_session(FakeBackend(), ledger) as other:
        busy = [other.submit_nowait(make_config(seed=number)) for number in range(2, 2000)]
        job = session.submit_nowait(make_config(seed=1))
        with pytest.raises(UnreachableError):
            await job.submitted()
        assert job.state is JobState.REJECTED
        assert sum(each.state is JobState.PLANNED for each in busy) > 1000
    assert monotonic() - began < FORGIVEN * MINUTES
