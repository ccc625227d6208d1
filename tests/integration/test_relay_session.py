"""Jobs over the relay backend and everything above it, on an emulated relay: as over a bridge, and what is more."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crynux_async import JobFailedError, JobState, Session
from crynux_async.emulator.relay import RelayEmulator, Status
from tests.relay_lab import CREATOR, FEE, SELECTED_SEED
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
    bad = "the node could not run the task with these arguments"
    late = "the time was up (no node took it, or its node was not done by the time-out)"
    money = "everything that was paid is refunded"
    assert caught.value.reason == f"run 1: {bad}; runs 2 to 3: {late}; run 4: {bad}; {money}"
    assert len(relay.tasks) == 4
    assert spent(relay) == 0


async def test_session_says_which_relay_it_is_at(relay: RelayEmulator) -> None:
    session = relay_session(relay)
    assert isinstance(session, Session)
    assert repr(session) == "<Session relay, not open>"
