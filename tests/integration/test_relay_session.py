"""Jobs over the relay backend and everything above it, on an emulated relay: as over a bridge, and what is more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crynux_async import ConfigError, JobFailedError, JobProgressed, JobState, OwnershipError, Session
from crynux_async.clock import monotonic
from crynux_async.emulator.relay import RelayEmulator, Status
from tests.relay_lab import CREATOR, FEE, SELECTED_SEED, STRANGER
from tests.relay_sessions import MONEY, make_config, relay_session, relay_with_money


@pytest.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with relay_with_money() as relay:
        yield relay


def spent(relay: RelayEmulator) -> int:
    return MONEY - relay.balance(CREATOR.address)


async def test_job_is_created_validated_and_downloaded(relay: RelayEmulator, tmp_path: Path) -> None:
    async with relay_session(relay) as session:
        path = await session.run(make_config(), tmp_path)
        (job,) = session.jobs()
        (task,) = relay.tasks.values()
        assert job.task_id == task.commitment
        assert path.name == f"{job.job_id}.zip"
        assert job.state is JobState.DOWNLOADED
        assert await session.balance() == MONEY - FEE
    assert spent(relay) == FEE


async def test_job_is_queued_as_soon_as_it_is_accepted(relay: RelayEmulator) -> None:
    async with relay_session(relay) as session:
        job = await session.submit(make_config())
        assert job.progress == "queued"


async def test_run_that_no_node_took_is_never_told_to_be_scored(tmp_path: Path) -> None:
    async with relay_with_money(nodes=0) as relay, relay_session(relay, str(tmp_path / "jobs.db")) as session:
        job = await session.submit(make_config())
        with pytest.raises(JobFailedError):
            await job
        stages = [event.stage async for event in job.events(after=0) if isinstance(event, JobProgressed)]
        assert (len(relay.tasks), stages) == (4, ["queued"])


async def test_nodes_of_the_emulator_are_counted_from_the_start(relay: RelayEmulator) -> None:
    async with relay_session(relay) as session:
        assert not [said for said in await session.outlook(make_config()) if "active node" in said]


async def test_selected_job_is_checked_by_three_and_run_again_for_its_archive(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    relay.put_seed(SELECTED_SEED)
    async with relay_session(relay) as session:
        path = await session.run(make_config(), tmp_path)
        assert path.is_file()
        ends = [task.status for task in relay.tasks.values()]
        assert sorted(ends) == [Status.END_SUCCESS, Status.END_GROUP_REFUND, Status.END_GROUP_REFUND,
                                Status.END_GROUP_SUCCESS]  # fmt: skip
        assert spent(relay) == 2 * FEE


async def test_run_that_fails_is_repeated_three_times_and_each_says_why(relay: RelayEmulator) -> None:
    relay.order("reports_error", "silent", "withholds", "reports_error")
    async with relay_session(relay) as session:
        job = await session.submit(make_config())
        with pytest.raises(JobFailedError) as caught:
            await job
    bad = "the node could not run the task with these arguments: look at them with 'crynux-async check'"
    late = "the time was up: no node took it (raise fee), or one was not done (raise timeout, or check the data set)"
    money = "everything that was paid is refunded"
    assert caught.value.reason == f"run 1: {bad}; runs 2 to 3: {late}; run 4: {bad}; {money}"
    assert len(relay.tasks) == 4
    assert spent(relay) == 0


async def test_session_says_which_relay_it_is_at(relay: RelayEmulator) -> None:
    session = relay_session(relay)
    assert isinstance(session, Session)
    assert repr(session) == "<Session relay, not open>"


async def test_job_of_several_rounds_is_refused_before_anything_is_written_with_force_too(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    config = make_config(num_train_steps=50)
    async with relay_session(relay, str(tmp_path / "jobs.db")) as session:
        with pytest.raises(ConfigError, match="Leave num_train_steps and num_train_epochs out"):
            await session.submit(config, force=True)
        with pytest.raises(ConfigError, match="not even with force=True"):
            await session.submit(config, idempotency_key="cat", force=True)
        assert await session.history() == []
    assert not relay.tasks


def strangers_session(relay: RelayEmulator, ledger: Path | None = None) -> Session:
    return Session(backend="relay", wallet=STRANGER, network=relay.url, ledger=ledger, trust_env=False)


async def test_task_of_another_wallet_is_refused_at_once_and_the_error_says_what_to_do(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    async with relay_session(relay) as owners, strangers_session(relay) as session:
        task_id = (await owners.submit(make_config())).task_id
        assert task_id is not None
        began = monotonic()
        job = session.attach(task_id)
        with pytest.raises(
            OwnershipError, match=f"another wallet than {STRANGER.address}; use .*CRYNUX_WALLET"
        ) as caught:
            await job.download(tmp_path)
        assert monotonic() - began < 5.0
        assert (caught.value.task_id, job.state) == (task_id, JobState.ABANDONED)
        with pytest.raises(OwnershipError, match="another wallet"):
            await job.images()


async def test_task_of_another_wallet_is_said_to_be_whose_where_the_ledger_knows(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "jobs.db"
    async with relay_session(relay, str(ledger)) as session:
        task_id = (await session.submit(make_config())).task_id
    assert task_id is not None
    async with strangers_session(relay, ledger) as session:
        with pytest.raises(OwnershipError, match=f"the ledger has it as one of {CREATOR.address}"):
            await session.attach(task_id)
    async with relay_session(relay, str(ledger)) as session:
        assert (await session.attach(task_id)).state is JobState.SUCCEEDED


async def test_task_that_was_attached_before_its_wallet_was_there_is_attached_anew_with_it(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "jobs.db"
    async with relay_session(relay) as owners:
        task_id = (await owners.submit(make_config())).task_id
        assert task_id is not None
        async with strangers_session(relay, ledger) as session:
            with pytest.raises(OwnershipError):
                await session.attach(task_id)
        async with relay_session(relay, str(ledger)) as session:
            assert (await session.attach(task_id).download(tmp_path)).is_file()


async def test_task_that_was_attached_is_not_taken_over_with_another_wallet(
    relay: RelayEmulator, tmp_path: Path
) -> None:
    ledger = tmp_path / "jobs.db"
    async with relay_session(relay) as owners:
        task_id = (await owners.submit(make_config())).task_id
        assert task_id is not None
    async with relay_session(relay, str(ledger)) as session:
        job = session.attach(task_id)
        while job.state is JobState.ATTACHED:
            await asyncio.sleep(0.1)
    async with strangers_session(relay, ledger) as session:
        await asyncio.sleep(60)
        assert session.jobs() == []
    async with relay_session(relay, str(ledger)) as session:
        (job,) = session.jobs()
        assert (await job).state is JobState.SUCCEEDED


async def test_own_task_is_not_given_up_because_the_relay_denies_it_for_a_while(relay: RelayEmulator) -> None:
    async with relay_session(relay) as session:
        job = await session.submit(make_config())
        (task,) = relay.tasks.values()
        task.creator = STRANGER.address
        while session.statistics().trouble == "":
            await asyncio.sleep(1)
        task.creator = CREATOR.address
        assert (await job).state is JobState.SUCCEEDED
