"""Money at the relay: what the ledger has, what the relay's list says, and tasks that no ledger knows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async import Job, JobState, Session, UsageError
from crynux_async.budgets import Budget
from crynux_async.emulator.relay import RelayEmulator, Status
from crynux_async.errors import CrynuxError, LedgerBusyError
from crynux_async.ledgers.base import JobFilter, JobRow
from crynux_async.ledgers.memory import MemoryLedger
from tests.fake_backend import FakeBackend
from tests.relay_lab import CREATOR, FEE, SELECTED_SEED
from tests.relay_sessions import MONEY, make_config, relay_session, relay_with_money
from tests.relay_tries import ORDER, created, driven, relay_backend, wants

LATE = 11.0  # the relay's list is up to ten seconds late


@pytest.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with relay_with_money() as relay:
        yield relay


async def ended(session: Session, seed: int) -> None:
    job = await session.submit(make_config(seed=seed))
    try:
        await job
    except CrynuxError:
        assert job.state is JobState.FAILED


async def test_everything_adds_up_after_jobs_of_every_kind(tmp_path: Path) -> None:
    # A model that no node has takes minutes, so that the job with another one certainly waits when it is cancelled.
    async with (
        relay_with_money(model_seconds=300.0) as relay,
        relay_session(relay, str(tmp_path / "jobs.db")) as session,
    ):
        await ended(session, 1)
        relay.put_seed(SELECTED_SEED)
        await ended(session, 2)
        relay.order("reports_error", "reports_error", "reports_error", "reports_error")
        await ended(session, 3)
        await (await session.submit(make_config(seed=4, model_name="another/model"))).cancel()
        relay.order("reports_error")
        await ended(session, 5)
        await asyncio.sleep(LATE)
        found = await session.audit()
        costs = [await job.cost() for job in session.jobs()]
        gone = MONEY - relay.balance(CREATOR.address)
    assert found.adds_up, found
    assert [cost.spent // FEE for cost in costs] == [1, 2, 0, 0, 1]
    assert found.spent == sum(cost.spent for cost in costs) == gone
    assert (found.held, found.orphans, found.foreign) == (0, (), ())


@pytest.mark.parametrize("is_budgeted", [False, True])
async def test_job_that_is_given_up_while_a_node_works_costs_nothing_once_the_relay_has_ended_it(
    relay: RelayEmulator, is_budgeted: bool
) -> None:
    budget = Budget("cats", cnx=100) if is_budgeted else None
    async with relay_session(relay, budget=budget) as session:
        job = await session.submit(make_config())
        await given_up(relay, job)
        await asyncio.sleep(30)
        assert (await job.cost()).held == 3 * FEE
        asked = len(relay.requests)
        await asyncio.sleep(700)  # its timeout, and a tenth of that
        assert relay.balance(CREATOR.address) == MONEY
        cost = await job.cost()
        assert (cost.held, cost.spent, cost.refunded) == (0, 0, 3 * FEE)
        assert len(relay.requests) - asked < 30
        spending = await session.spent()
        assert (spending.held, spending.spent) == (0, 0)
        if is_budgeted:
            row = await session.ledger.budget("cats")
            assert row is not None
            assert (row.held, row.spent) == (0, 0)
        asked = len(relay.requests)
        await asyncio.sleep(3600)
        assert len(relay.requests) == asked


async def test_group_that_is_cancelled_in_part_is_settled_when_the_rest_has_come_back() -> None:
    async with relay_with_money(nodes=1) as relay, relay_session(relay) as session:
        relay.put_seed(SELECTED_SEED)
        relay.order("silent")
        job = await session.submit(make_config())
        while job.progress is None or len(relay.tasks) < 3 or not relay_started(relay):
            await asyncio.sleep(1)
        said = await job.cancel()
        assert said == "30 CNX are refunded; 15 CNX more once the timeout ends what nodes have already"
        assert (await job.cost()).held == 3 * FEE
        await asyncio.sleep(1000)
        assert relay.balance(CREATOR.address) == MONEY
        cost = await job.cost()
        assert (cost.held, cost.spent, cost.refunded) == (0, 0, 3 * FEE)


def relay_started(relay: RelayEmulator) -> bool:
    return any(task.status == Status.STARTED for task in relay.tasks.values())


@pytest.mark.parametrize("reconciles", [False, True])
async def test_what_came_back_after_the_session_was_closed_is_entered_by_the_next_one(
    relay: RelayEmulator, tmp_path: Path, reconciles: bool
) -> None:
    ledger = str(tmp_path / "jobs.db")
    async with relay_session(relay, ledger) as session:
        await given_up(relay, await session.submit(make_config()))
    await asyncio.sleep(700)
    async with relay_session(relay, ledger, follow=not reconciles) as session:
        (job,) = await session.history()
        if reconciles:
            assert (await job.cost()).held == 3 * FEE
            await session.reconcile()
        else:
            await asyncio.sleep(5)
        cost = await job.cost()
    assert (cost.held, cost.spent, cost.refunded) == (0, 0, 3 * FEE)


async def test_job_that_was_tried_again_is_settled_for_the_try_that_was_given_up(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    async with relay_session(relay, str(tmp_path / "jobs.db")) as session:
        job = await session.submit(make_config())
        await given_up(relay, job)
        await job.retry()
        await job
        assert (await job.cost()).held == 3 * FEE
    await asyncio.sleep(700)
    async with relay_session(relay, str(tmp_path / "jobs.db")) as session:
        await session.reconcile()
        (job,) = await session.history()
        cost = await job.cost()
    assert (cost.held, cost.spent, cost.refunded) == (0, FEE, 5 * FEE)


async def test_sessions_that_ask_at_once_give_a_budget_back_once_what_it_holds(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    ledger, budget = str(tmp_path / "jobs.db"), Budget("cats", cnx=100)
    async with relay_session(relay, ledger, budget=budget) as session:
        await given_up(relay, await session.submit(make_config()))
    await asyncio.sleep(700)
    async with (
        relay_session(relay, ledger, budget=budget, follow=False) as first,
        relay_session(relay, ledger, follow=False) as second,
    ):
        relay.order("silent")
        await first.submit(make_config(seed=2))
        await asyncio.gather(first.reconcile(), first.reconcile(), second.reconcile(), second.reconcile())
        row = await first.ledger.budget("cats")
    assert row is not None
    assert (row.held, row.spent) == (3 * FEE, 0)  # what the second job holds


class UnreadableOnce(MemoryLedger):
    """Reads no list of jobs that were given up, the first time that it is asked for one."""

    is_away = True

    async def jobs(self, where: JobFilter | None = None, **options: Any) -> list[JobRow]:
        if self.is_away and where is not None and where.states == (JobState.ABANDONED,):
            self.is_away = False
            raise LedgerBusyError("away")
        return await super().jobs(where, **options)


async def test_what_an_earlier_session_left_is_asked_about_when_the_ledger_is_there_again(relay: RelayEmulator) -> None:
    ledger = UnreadableOnce()
    ledger.is_away = False
    async with relay_session(relay, ledger) as session:
        job = await session.submit(make_config())
        await given_up(relay, job)
    await asyncio.sleep(700)
    ledger.is_away = True
    async with relay_session(relay, ledger) as session:
        await asyncio.sleep(60)
        (job,) = await session.history()
        assert not ledger.is_away
        assert (await job.cost()).held == 0


async def given_up(relay: RelayEmulator, job: Job) -> None:
    """Give a job up while a node works on it, of which nothing more is heard."""
    relay.order("silent")
    while job.progress != "started":
        await asyncio.sleep(1)
    job.abandon()


async def test_running_job_is_held(relay: RelayEmulator) -> None:
    async with relay_session(relay) as session:
        job = await session.submit(make_config())
        await asyncio.sleep(LATE)
        found = await session.audit()
        assert (found.spent, found.held, found.adds_up) == (FEE, FEE, True)
        cost = await job.cost()
        assert (cost.held, cost.spent) == (3 * FEE, 0)


async def test_task_that_no_ledger_knows_is_found_and_adopted(relay: RelayEmulator, tmp_path: Path) -> None:
    backend = relay_backend(relay)
    lost = await created(backend)
    await backend.close()
    await asyncio.sleep(LATE)
    async with relay_session(relay) as session:
        found = await session.audit()
        assert [payment.task_id for payment in found.orphans] == [lost.task_id]
        assert not found.adds_up
        job = session.attach(found.orphans[0].task_id)
        assert (await job.download(tmp_path)).is_file()
        assert (await session.audit()).adds_up
    assert relay.balance(CREATOR.address) == MONEY - FEE


async def test_create_whose_answer_the_ledger_never_saw_is_no_orphan(relay: RelayEmulator, tmp_path: Path) -> None:
    relay.add_fault("drop_after_accept", on="create", count=10**6)
    settings = {"unreachable_timeout": 3600.0}
    async with relay_session(relay, str(tmp_path / "jobs.db"), **settings) as session:
        session.submit_nowait(make_config())
        await asyncio.sleep(LATE + 1)
        assert len(relay.tasks) == 1
        found = await session.audit()
        assert (found.orphans, found.foreign) == ((), ())


async def test_group_that_no_ledger_knows_is_one_orphan(relay: RelayEmulator) -> None:
    relay.put_seed(SELECTED_SEED)
    backend = relay_backend(relay)
    lost, _ = await driven(backend, await created(backend), until=wants("validate"))
    await backend.close()
    await asyncio.sleep(LATE)
    async with relay_session(relay) as session:
        (orphan,) = (await session.audit()).orphans
    assert (orphan.task_id, orphan.paid, orphan.gone) == (lost.task_id, 3 * FEE, 3 * FEE)


async def test_refunded_task_that_no_ledger_knows_is_nothing_to_explain(relay: RelayEmulator) -> None:
    backend = relay_backend(relay)
    await backend.cancel(await created(backend))
    await backend.close()
    await asyncio.sleep(LATE)
    async with relay_session(relay) as session:
        found = await session.audit()
    assert (found.orphans, found.foreign, found.adds_up) == ((), (), True)


async def test_task_of_another_program_is_never_taken_for_ours(relay: RelayEmulator) -> None:
    backend = relay_backend(relay)
    task = await created(backend)
    await backend.close()
    relay.tasks[task.task_id].nonce = "0x" + "77" * 32
    await asyncio.sleep(LATE)
    async with relay_session(relay) as session:
        found = await session.audit()
    assert [payment.task_id for payment in found.foreign] == [task.task_id]
    assert (found.orphans, found.adds_up) == ((), True)


async def test_more_payments_than_a_page_has_are_all_listed(
    relay: RelayEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crynux_async.backends.relay.account._PAGE", 3)
    backend = relay_backend(relay)
    for number in range(1, 8):
        await created(backend, attrs.evolve(ORDER, try_number=number))
    await asyncio.sleep(LATE)
    payments = await backend.payments()
    assert {payment.task_id for payment in payments} == set(relay.tasks)
    assert len(payments) == 7
    await backend.close()


async def test_login_serves_until_it_ends(relay: RelayEmulator) -> None:
    backend = relay_backend(relay)

    def logins() -> int:
        return sum(record.path.endswith("/connect_wallet") for record in relay.requests)

    await backend.payments()
    await backend.payments()
    assert logins() == 1
    await asyncio.sleep(3600)
    await backend.payments()
    assert logins() == 2
    await backend.close()


async def test_service_without_a_list_of_payments_says_so() -> None:
    async with Session(backend=FakeBackend()) as session:
        with pytest.raises(UsageError, match="lists no payments"):
            await session.audit()
