"""For how long a job waits for a service that cannot be reached, while others with its key are answered or not."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from crynux_async import (
    JobState,
    LedgerBusyError,
    Session,
    SubmissionUnknownError,
    UnreachableError,
)
from crynux_async.backends.base import CreatedTask, Turnstile
from crynux_async.clock import monotonic
from crynux_async.ledgers.base import GateCell
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


class BreaksDownOver(FakeBackend):
    """A service without a rate limit that breaks down over one create, each time that it is sent, and takes others."""

    is_rate_limited = False
    creates_are_repeatable = True

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    async def create(self, payload: str) -> CreatedTask:
        if json.loads(payload)["seed"] == self.seed:
            raise SubmissionUnknownError("the service answered 500")
        return await super().create(payload)


class BusyLedger(MemoryLedger):
    """A ledger whose gates are locked by another process as soon as a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.locked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.visits = 0

    @asynccontextmanager
    async def gate(self, backend: str, key_id: str) -> AsyncIterator[GateCell]:
        self.visits += 1
        await self.locked
        async with super().gate(backend, key_id) as cell:
            yield cell


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


class CutOffKey(FakeBackend):
    """A service that cannot be asked for a while whether it knows the key, before anything needs a ticket."""

    async def prepare(self, turnstile: Turnstile) -> float | None:
        if self.answers:
            self.answers.popleft()
            raise UnreachableError("down")
        return await super().prepare(turnstile)


def without_its_key(times: int) -> CutOffKey:
    """Return a service that cannot be asked so often whether it knows the key."""
    backend = CutOffKey()
    backend.answers.extend([None] * times)
    return backend


@pytest.mark.parametrize("is_another_answered", [True, False])
@pytest.mark.parametrize("cut_off_for", [down, without_its_key])
async def test_outage_is_over_where_a_create_of_another_session_was_answered(
    cut_off_for: Callable[[int], FakeBackend], is_another_answered: bool
) -> None:
    ledger, cut_off, there = MemoryLedger(), cut_off_for(8), FakeBackend()  # 1 + 2 + 4 + 8 + 16 + 32 + 60 s in vain
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


async def test_create_over_which_the_service_breaks_down_is_given_up_although_others_are_accepted() -> None:
    seeds, began = itertools.count(2), monotonic()
    async with open_session(BreaksDownOver(seed=1)) as session:
        job = session.submit_nowait(make_config(seed=1))
        while job.state is JobState.PLANNED:
            assert monotonic() - began < FORGIVEN * MINUTES
            await session.submit(make_config(seed=next(seeds)))
            await asyncio.sleep(10)
        with pytest.raises(SubmissionUnknownError):
            await job.submitted()


async def test_job_that_is_sent_again_after_a_wrong_proxy_has_all_its_patience() -> None:
    backend = down(7)
    backend.answers.append(UnreachableError("the proxy wants a password", is_lasting=True))
    backend.answers.extend(UnreachableError("down") for _ in range(2))
    async with open_session(backend) as session:
        job = session.submit_nowait(make_config())
        with pytest.raises(UnreachableError, match="password"):
            await job.submitted()
        await asyncio.sleep(3600)
        await job.retry()
        await job.submitted()


async def test_sending_ends_at_once_where_the_session_ends_before_the_ledger_is_free() -> None:
    ledger = BusyLedger()
    session = open_session(FakeBackend(), ledger, close_timeout=0.0)
    await session.open()
    session.submit_nowait(make_config())
    await asyncio.sleep(1)
    assert ledger.visits
    ledger.locked.set_exception(LedgerBusyError("locked"))  # heard in the very turn in which the session ends
    await session.close()
