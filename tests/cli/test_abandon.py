"""``abandon`` of every job in the ledger, whoever holds it and whatever has become of it."""

from pathlib import Path

import pytest

from crynux_async.cli.abandon import abandon
from crynux_async.cli.exits import Exit
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.ledgers.conformance.support import job
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import ENDED, JobState
from tests.fake_backend import make_config

HERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYNUX_BASE_URL", HERE)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.delenv("CRYNUX_API_KEY", raising=False)


async def state_after(folder: Path, state: JobState, *, holder: str | None = None) -> tuple[Exit, JobState]:
    place = folder / "jobs.db"
    ledger = SqliteLedger(place)
    await ledger.open()
    fence = None if holder is None else await ledger.enter(holder, seconds=3600)
    task_id = None if state in (JobState.PLANNED, JobState.UNCONFIRMED, JobState.REJECTED) else "7"
    row = job("j1234567890", backend=HERE, task_id=task_id, config=make_config(), state=state)
    await ledger.add([row], fence=fence)
    code = await abandon(place, ["j12345"], ServiceChoice())
    after = await ledger.get("j1234567890")
    await ledger.close()
    assert after is not None
    return code, after.state


@pytest.mark.parametrize("state", [JobState.PLANNED, JobState.UNCONFIRMED, JobState.RUNNING, JobState.SUCCEEDED])
async def test_job_that_nobody_holds_is_given_up(
    state: JobState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await state_after(tmp_path, state) == (Exit.DONE, JobState.ABANDONED)
    assert capsys.readouterr().out == "j1234567890 is abandoned\n"


@pytest.mark.parametrize("state", sorted(ENDED - {JobState.UNCONFIRMED, JobState.SUCCEEDED}))
async def test_job_that_is_over_is_left_as_it_is_and_said_to_be_so(
    state: JobState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await state_after(tmp_path, state) == (Exit.DONE, state)
    assert capsys.readouterr().out == f"j1234567890 is {state} already: there is nothing to give up\n"


async def test_job_of_a_process_that_does_not_hear_is_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = "other-host/unknown/some-boot/4026531999/7/123/abcd"
    assert await state_after(tmp_path, JobState.RUNNING, holder=holder) == (Exit.TIMED_OUT, JobState.RUNNING)
    assert "the process that holds it was asked to give it up" in capsys.readouterr().out
