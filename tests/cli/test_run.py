"""``run`` and ``download`` on virtual time, where waiting for a minute takes none."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from crynux_async.cli import run
from crynux_async.cli.exits import Exit, exit_code
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.clock import monotonic
from crynux_async.emulator import Emulator
from crynux_async.errors import JobExpiredError, JobFailedError, WaitTimeoutError
from crynux_async.session import Session
from crynux_async.states import JobState
from tests.fake_backend import make_config


@pytest_asyncio.fixture
async def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulator]:
    """The bridge that the settings name."""
    async with Emulator() as made:
        monkeypatch.setenv("CRYNUX_LEDGER", str(tmp_path / "jobs.db"))
        monkeypatch.setenv("CRYNUX_BASE_URL", made.url)
        monkeypatch.setenv("CRYNUX_API_KEY", made.new_key())
        yield made


async def test_download_of_an_unknown_task_exits_with_1_once_the_service_has_said_so_twice(
    bridge: Emulator, tmp_path: Path
) -> None:
    began = monotonic()
    with pytest.raises(JobExpiredError) as caught:
        await run.download("4711", tmp_path, "{task_id}.zip", None, service=ServiceChoice(), ledger=None, as_json=False)
    assert exit_code(caught.value) is Exit.JOB_ENDED_BADLY
    assert monotonic() - began >= 60


async def test_download_of_an_unknown_task_that_is_given_up_earlier_exits_with_6(
    bridge: Emulator, tmp_path: Path
) -> None:
    with pytest.raises(WaitTimeoutError, match="did not know the task") as caught:
        await run.download("4711", tmp_path, "{task_id}.zip", 30.0, service=ServiceChoice(), ledger=None, as_json=False)
    assert exit_code(caught.value) is Exit.TIMED_OUT


async def test_download_says_no_more_of_a_task_than_the_service_has_said(bridge: Emulator, tmp_path: Path) -> None:
    bridge.add_fault("html_502", on="status", count=None)
    with pytest.raises(WaitTimeoutError) as caught:
        await run.download("4711", tmp_path, None, 8.0, service=ServiceChoice(), ledger=None, as_json=False)
    assert "nothing was heard of the task" in str(caught.value)
    assert "HTTP 502" in str(caught.value)
    assert "goes on" not in str(caught.value)


async def test_ledger_that_was_asked_for_has_the_task_and_the_usual_one_is_not_made(
    bridge: Emulator, tmp_path: Path
) -> None:
    place = tmp_path / "other.db"
    with pytest.raises(WaitTimeoutError):
        await run.download("4711", tmp_path, None, 1.0, service=ServiceChoice(), ledger=str(place), as_json=False)
    async with Session(**bridge.settings(), ledger=place, follow=False) as session:
        assert [job.task_id for job in await session.history()] == ["4711"]
    assert not (tmp_path / "jobs.db").exists()


@pytest.mark.parametrize("is_named_by_job", [False, True])
async def test_download_of_a_task_whose_job_has_ended_is_that_of_its_job(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, is_named_by_job: bool
) -> None:
    async with Session(ledger=tmp_path / "jobs.db") as session:
        job = await (await session.submit(make_config()))
    name = job.job_id if is_named_by_job else str(job.task_id)
    code = await run.download(name, tmp_path, None, None, service=ServiceChoice(), ledger=None, as_json=True)
    assert code is Exit.DONE
    assert json.loads(capsys.readouterr().out)["job_id"] == job.job_id
    async with Session(ledger=tmp_path / "jobs.db", follow=False) as session:
        (found,) = await session.history()
        assert (found.state, found.path) == (JobState.DOWNLOADED, tmp_path / f"{job.task_id}.zip")


async def test_download_of_a_task_whose_job_has_failed_says_so(bridge: Emulator, tmp_path: Path) -> None:
    async with Session(ledger=tmp_path / "jobs.db") as session:
        job = await session.submit(make_config(rank=2000), force=True)
        with pytest.raises(JobFailedError):
            await job
    with pytest.raises(JobFailedError) as caught:
        await run.download(str(job.task_id), tmp_path, None, None, service=ServiceChoice(), ledger=None, as_json=False)
    assert caught.value.job_id == job.job_id
