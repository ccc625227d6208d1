"""``resume``: what it waits for, what it says, and how it ends."""

import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
import pytest_asyncio

from crynux_async.cli.exits import Exit, exit_code
from crynux_async.cli.resume import ResumeOrder, held_text, resume
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.clock import utc_now
from crynux_async.emulator import Emulator
from crynux_async.errors import AuthError, UnreachableError, WaitTimeoutError
from crynux_async.ledgers.base import Fence, Holder, JobRow
from crynux_async.ledgers.conformance.support import job
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import JobState
from tests.fake_backend import make_config

OTHER = "old-host/unknown/some-boot/4026531999/7/123/abcd"
"""A process of a container that was started anew under another name."""


@pytest_asyncio.fixture
async def bridge(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Emulator]:
    async with Emulator(speed=1000, rate_limit=60) as emulator:
        monkeypatch.setenv("CRYNUX_BASE_URL", emulator.url)
        monkeypatch.setenv("CRYNUX_API_KEY", emulator.new_key())
        monkeypatch.setenv("HOME", "/nonexistent")
        yield emulator


def ordered(folder: Path, **changes: object) -> ResumeOrder:
    order = ResumeOrder(
        ledger=folder / "jobs.db",
        service=ServiceChoice(),
        out=None,
        timeout=None,
        patience=None,
        send=False,
        as_json=True,
    )
    return attrs.evolve(order, **changes)


async def made(bridge: Emulator, count: int = 1) -> list[str]:
    """Make tasks that nobody follows, and return their numbers."""
    async with Session() as session:
        jobs = await session.submit_many([make_config(seed=seed) for seed in range(1, count + 1)])
        return [str((await each.submitted()).task_id) for each in jobs]


async def remember(folder: Path, rows: Sequence[JobRow], *, held_for: float | None = None) -> None:
    ledger = SqliteLedger(folder / "jobs.db")
    await ledger.open()
    fence = None if held_for is None else await ledger.enter(OTHER, seconds=held_for)
    await ledger.add(rows, fence=fence)
    await ledger.close()


def running(bridge: Emulator, task_id: str, **changes: object) -> JobRow:
    row = job(f"job{task_id}", backend=bridge.url, task_id=task_id, config=make_config(), state=JobState.RUNNING)
    now, key_id = utc_now(), Settings.load().key_id
    return attrs.evolve(row, key_id=key_id, submitted_at=now, planned_at=now, **changes)


async def test_job_under_the_lease_of_a_process_that_is_gone_is_waited_for_and_taken_over(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (task_id,) = await made(bridge)
    rows = [running(bridge, task_id, folder=str(tmp_path / "out"), file_name="{task_id}.zip")]
    await remember(tmp_path, rows, held_for=60)
    assert await resume(ordered(tmp_path)) is Exit.DONE
    said = capsys.readouterr()
    assert "1 job held by process 7 on old-host (job1): its lease ends in" in said.err
    assert [each["state"] for each in json.loads(said.out)["jobs"]] == ["downloaded"]
    assert (tmp_path / "out" / f"{task_id}.zip").is_file()


async def test_job_of_another_process_is_left_when_patience_ends_and_the_code_says_so(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, other = await made(bridge, 2)
    await remember(tmp_path, [running(bridge, mine)])
    await remember(tmp_path, [running(bridge, other)], held_for=86400)
    assert await resume(ordered(tmp_path, patience=5.0)) is Exit.TIMED_OUT
    said = capsys.readouterr()
    assert {each["task_id"]: each["state"] for each in json.loads(said.out)["jobs"]} == {
        mine: "succeeded",
        other: "running",
    }
    assert f"The task is at the bridge still: {other}." in said.err


async def test_task_of_which_nothing_was_heard_is_not_said_to_be_at_the_bridge(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unseen = attrs.evolve(running(bridge, "4711"), state=JobState.ATTACHED)
    await remember(tmp_path, [unseen], held_for=86400)
    assert await resume(ordered(tmp_path, patience=5.0)) is Exit.TIMED_OUT
    said = capsys.readouterr().err
    assert "Not seen at the bridge yet: 4711. To go on: crynux-async resume" in said
    assert "at the bridge still" not in said


async def test_time_that_is_over_before_patience_is_a_time_out(bridge: Emulator, tmp_path: Path) -> None:
    (task_id,) = await made(bridge)
    await remember(tmp_path, [running(bridge, task_id)], held_for=86400)
    with pytest.raises(WaitTimeoutError):
        await resume(ordered(tmp_path, patience=50.0, timeout=5.0))


async def test_model_that_cannot_be_fetched_is_said_and_its_damaged_copy_is_kept_once(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (task_id,) = await made(bridge)
    await remember(tmp_path, [running(bridge, task_id, folder=str(tmp_path / "out"), file_name="{task_id}.zip")])
    bridge.add_fault("flip", on="result", count=None, offset=2000)
    for _ in range(3):
        assert await resume(ordered(tmp_path)) is Exit.DOWNLOAD
        (facts,) = json.loads(capsys.readouterr().out)["jobs"]
        assert (facts["state"], "CRC" in facts["error"]) == ("succeeded", True), facts
    assert [path.name for path in (tmp_path / "out").iterdir() if "corrupt" in path.name] == [f"{task_id}.zip.corrupt"]


async def test_models_are_fetched_as_soon_as_they_are_there_while_others_train(
    bridge: Emulator, tmp_path: Path
) -> None:
    async with Session() as session:
        job = await session.submit(make_config(seed=1))
        await job
        first = str(job.task_id)
        hours = make_config(seed=2, max_train_steps=1_000_000, timeout=86_400)
        second = str((await session.submit(hours, force=True)).task_id)
    await remember(tmp_path, [running(bridge, first), running(bridge, second)])
    with pytest.raises(WaitTimeoutError):
        await resume(ordered(tmp_path, out=tmp_path / "out", timeout=10.0))
    assert [path.name for path in (tmp_path / "out").glob("*.zip")] == [f"{first}.zip"]


async def test_model_of_another_key_is_left_to_that_key_and_said_at_once(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (task_id,) = await made(bridge)
    row = running(bridge, task_id, folder=str(tmp_path / "out"), file_name="{task_id}.zip")
    await remember(tmp_path, [attrs.evolve(row, key_id="0011223344556677")])
    for _ in range(2):  # while it runs, and when it has a model
        assert await resume(ordered(tmp_path)) is Exit.DOWNLOAD
        (facts,) = json.loads(capsys.readouterr().out)["jobs"]
        assert facts["state"] == "succeeded"
        assert "made with another credential (0011223344556677)" in str(facts["error"])
    assert not [each for each in bridge.requests if each.path.endswith(f"/{task_id}/result")]
    await (ledger := SqliteLedger(tmp_path / "jobs.db")).open()
    (left,) = await ledger.jobs()
    assert (left.folder, left.error, await ledger.holder(left.job_id)) == (str(tmp_path / "out"), "", None)
    await ledger.close()


async def test_job_that_failed_is_an_exit_code_of_its_own(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Session() as session:
        task_id = (await session.submit(make_config(model_name="x/fail"))).task_id
    await remember(tmp_path, [running(bridge, str(task_id))])
    assert await resume(ordered(tmp_path)) is Exit.JOB_ENDED_BADLY
    (facts,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (facts["state"], bool(facts["error"])) == ("failed", True)
    await (ledger := SqliteLedger(tmp_path / "jobs.db")).open()
    (row,) = await ledger.jobs()
    await ledger.close()
    assert row.error == facts["error"]  # whoever reads the ledger later knows why, too


async def test_create_of_unknown_outcome_is_an_exit_code_of_its_own(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = job("lost", backend=bridge.url, config=make_config(), state=JobState.UNCONFIRMED)
    await remember(tmp_path, [row])
    assert await resume(ordered(tmp_path, as_json=False)) is Exit.OUTCOME_UNKNOWN
    assert capsys.readouterr().out.splitlines()[-1] == "Nothing else is unfinished."


async def test_bridge_that_does_not_answer_is_said_at_once_and_every_minute_and_ends_the_command(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (task_id,) = await made(bridge)
    monkeypatch.setenv("CRYNUX_UNREACHABLE_TIMEOUT", "200")
    await remember(tmp_path, [running(bridge, task_id)])
    await bridge.close()
    began = utc_now()
    with pytest.raises(UnreachableError, match=r"no answer for 3 min 2.* what was sent goes on there") as caught:
        await resume(ordered(tmp_path))
    assert exit_code(caught.value) is Exit.BRIDGE
    assert (utc_now() - began).total_seconds() < 300
    lines = [line for line in capsys.readouterr().err.splitlines() if "no answer for" in line]
    assert len(lines) >= 3
    assert all("cannot be reached" in line for line in lines)


async def test_nothing_to_do_is_no_failure(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Session(Settings.load(), ledger=tmp_path / "jobs.db"):
        pass
    assert await resume(ordered(tmp_path, as_json=False)) is Exit.DONE
    assert capsys.readouterr().out == "Nothing is unfinished.\n"


def test_holder_of_another_kind_of_name_is_another_process() -> None:
    until = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    holder = Holder(fence=Fence(owner="somebody", number=1), until=until, jobs=2)
    said = held_text(holder, ["a", "b"], until - timedelta(seconds=30))
    assert said.startswith("2 jobs held by another process (a, b): its lease ends in 30 s, at 03:04:05 UTC")


async def test_planned_job_that_the_key_cannot_send_is_not_waited_for_and_the_code_says_why(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYNUX_API_KEY", "k" * 44)
    planned = attrs.evolve(running(bridge, "7"), task_id=None, submitted_at=None, state=JobState.PLANNED)
    await remember(tmp_path, [planned])
    assert await resume(ordered(tmp_path, send=True, as_json=False)) is exit_code(AuthError(""))
    assert "job7: " in capsys.readouterr().out
