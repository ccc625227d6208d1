"""``session.reconcile()`` at the relay: lost creates under their names, and tasks whose ledger was lost."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crynux_async import Job, JobState, SubmissionUnknownError
from crynux_async.backends.base import Verdict
from crynux_async.budgets import Budget
from crynux_async.emulator.relay import RelayEmulator, Status
from crynux_async.ledgers.memory import MemoryLedger
from tests.relay_lab import CREATOR, FEE, SELECTED_SEED
from tests.relay_sessions import MONEY, make_config, relay_session, relay_with_money

LATE = 11.0  # the relay's list is up to ten seconds late
LANDED = 181.0  # after that no create is on its way any more


@pytest.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with relay_with_money() as relay:
        yield relay


def spent(relay: RelayEmulator) -> int:
    return MONEY - relay.balance(CREATOR.address)


async def test_task_whose_ledger_was_lost_is_offered_and_adopted_with_its_config(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    async with relay_session(relay) as session:
        lost = (await session.submit(make_config(rank=8))).task_id
        await asyncio.sleep(LATE)
    async with relay_session(relay, str(tmp_path / "new.db")) as session:
        (offered,) = await session.reconcile()
        assert (offered.verdict, offered.job, offered.candidates) == (Verdict.ORPHAN, None, (lost,))
        assert "15 CNX" in offered.explanation
        assert not session.jobs(), "nothing is adopted unasked"
        (adopted,) = await session.reconcile(adopt=True)
        assert adopted.job is not None
        assert adopted.job.config is not None
        assert (adopted.job.task_id, adopted.job.config.rank) == (lost, 8)
        assert (await adopted.job.download(tmp_path)).is_file()
        assert await session.reconcile() == []
        assert (await session.audit()).adds_up
    assert spent(relay) == FEE


async def test_group_whose_ledger_was_lost_is_validated_by_its_adopter(relay: RelayEmulator, tmp_path: Path) -> None:
    relay.put_seed(SELECTED_SEED)
    async with relay_session(relay) as session:
        job = await session.submit(make_config())
        while len(relay.tasks) < 3:
            await asyncio.sleep(1)
        await asyncio.sleep(LATE)
    async with relay_session(relay) as session:
        (adopted,) = await session.reconcile(adopt=True)
        assert adopted.job is not None
        assert adopted.job.task_id == job.task_id
        await adopted.job.download(tmp_path)
        await asyncio.sleep(LATE)
        assert (await session.audit()).adds_up
    ends = [task.status for task in relay.tasks.values()]
    assert (ends.count(Status.END_GROUP_SUCCESS), ends.count(Status.END_SUCCESS)) == (1, 1)
    assert spent(relay) == 2 * FEE


async def test_group_that_ended_before_its_ledger_was_lost_is_not_offered(relay: RelayEmulator) -> None:
    relay.put_seed(SELECTED_SEED)
    async with relay_session(relay) as session:
        await (await session.submit(make_config()))
        await asyncio.sleep(LATE)
    async with relay_session(relay) as session:
        offered = await session.reconcile()
        assert len((await session.audit()).orphans) == 2, "the money of both is to be explained"
    (last,) = [name for name, task in relay.tasks.items() if task.status is Status.END_SUCCESS]
    assert [each.candidates for each in offered] == [(last,)]


async def test_create_that_was_tried_for_too_long_is_found_when_the_relay_is_back(relay: RelayEmulator) -> None:
    relay.add_fault("drop_after_accept", on="create", count=10**6)
    async with relay_session(relay, unreachable_timeout=30.0) as session:
        job = session.submit_nowait(make_config())
        with pytest.raises(SubmissionUnknownError):
            await job.submitted()
        assert job.state is JobState.UNCONFIRMED
        relay.clear_faults()
        (found,) = await session.reconcile()
        assert (found.verdict, found.job) == (Verdict.FOUND, job)
        await job
    assert (len(relay.tasks), spent(relay)) == (1, FEE)


@pytest.mark.parametrize("is_next_process", [False, True], ids=["same_session", "next_session"])
async def test_create_that_never_arrived_waits_to_be_sent_again(relay: RelayEmulator, *, is_next_process: bool) -> None:
    relay.add_fault("html_502", on="create", count=10**6)
    ledger, budget = MemoryLedger(), Budget("b", cnx=45)
    async with relay_session(relay, ledger, unreachable_timeout=30.0, budget=budget) as session:
        job = session.submit_nowait(make_config())
        with pytest.raises(SubmissionUnknownError):
            await job.submitted()
        assert len(await ledger.attempts()) > 1, "it was repeated, and each of them has no known outcome"
        relay.clear_faults()
        await asyncio.sleep(LANDED)
        (found,) = await session.reconcile()
        assert (found.verdict, job.state) == (Verdict.NOT_CREATED, JobState.PLANNED)
        if not is_next_process:
            await sent_again(job, ledger)
    if is_next_process:
        async with relay_session(relay, ledger, budget=budget) as session:
            (job,) = session.jobs()
            await sent_again(job, ledger)
    assert (len(relay.tasks), spent(relay)) == (1, FEE)


async def sent_again(job: Job, ledger: MemoryLedger) -> None:
    """Send a job again and await it; its budget holds what it may cost meanwhile."""
    await job.retry()
    await job.submitted()
    row = await ledger.budget("b")
    assert row is not None
    assert row.held == 3 * FEE, "what was given back when nothing was found is held again"
    await job


@pytest.mark.parametrize("fault", ["html_502", "drop_after_accept"])
async def test_retry_of_a_create_in_doubt_pays_once_whichever_process_sends_it(
    relay: RelayEmulator, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay.add_fault(fault, on="create", count=10**6)
    ledger, budget = MemoryLedger(), Budget("b", cnx=45)
    async with relay_session(relay, ledger, unreachable_timeout=30.0, budget=budget) as session:
        job = session.submit_nowait(make_config())
        with pytest.raises(SubmissionUnknownError):
            await job.submitted()
        relay.clear_faults()
        assert session._supervisor is not None
        monkeypatch.setattr(session._supervisor.submitter, "enqueue", lambda *_: None)  # it dies before it is sent
        await job.retry()
    async with relay_session(relay, ledger, budget=budget) as session:
        (job,) = session.jobs()
        await sent_again(job, ledger)
        await asyncio.sleep(LATE)
        assert (await session.audit()).adds_up
        row = await ledger.budget("b")
        assert row is not None
        assert (row.held, row.spent) == (0, FEE)
    assert (len(relay.tasks), spent(relay)) == (1, FEE)
