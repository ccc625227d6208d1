"""Why jobs failed, on one's own (emulated) bridge: in errors, handles and ledgers, for one request, and never shown."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crynux_async import FineTuneConfig, Job, JobFailedError, Session
from crynux_async.backends.bridge.reasons import ReasonDesk
from crynux_async.cli.job_facts import Detail, as_facts
from crynux_async.cli.jobs import show_facts, show_list
from crynux_async.emulator import Emulator, Owner
from crynux_async.errors import SettingsError
from crynux_async.secret import Secret
from crynux_async.settings import Settings
from tests.loopback import always, answer, serving

TOKEN = "Zq3-admin/token+x="
CONFIG = FineTuneConfig(model_name="a/b", dataset_url="https://example.com/data.zip", max_train_steps=20, timeout=1800)
BAD = CONFIG.evolve(model_name="a/b/fail")
SILENT = CONFIG.evolve(target_modules=("no_such_module",))


@pytest.fixture
async def bridge() -> AsyncIterator[Emulator]:
    async with Emulator(unet="tiny", rate_limit=600, owner=Owner(admin_token=TOKEN)) as emulator:
        yield emulator


def session(bridge: Emulator, *, token: str | None = TOKEN, ledger: Path | None = None) -> Session:
    key = bridge.new_key()
    return Session(base_url=bridge.url, api_key=key, admin_token=token, rate_limit=600, trust_env=False, ledger=ledger)


async def failure_of(job: Job) -> JobFailedError:
    with pytest.raises(JobFailedError) as caught:
        await job.wait()
    return caught.value


async def test_failed_job_says_why(bridge: Emulator) -> None:
    async with session(bridge) as opened:
        job = await opened.submit(BAD)
        error = await failure_of(job)
        assert error.reason.startswith("4 tries failed after ")
        assert ": the node did not accept the arguments [abort reason 6, task error 1] (UTC: " in error.reason
        assert error.reason.count(" to ") == 4
        assert error.reason in str(error)
        assert job.reason == error.reason


async def test_silent_nodes_are_told_from_refusing_ones(bridge: Emulator) -> None:
    async with session(bridge) as opened:
        job = await opened.submit(SILENT, force=True)
        reason = (await failure_of(job)).reason
        assert reason.startswith("4 tries failed after 1800 s: the node gave no result until its time was up: ")


async def test_without_a_token_nobody_knows_why(bridge: Emulator) -> None:
    async with session(bridge, token=None) as opened:
        job = await opened.submit(BAD)
        error = await failure_of(job)
        assert (error.reason, job.reason) == ("", None)
        assert "to its owner alone" in str(error)


async def test_reason_is_in_the_ledger_for_the_next_session(bridge: Emulator, tmp_path: Path) -> None:
    async with session(bridge, ledger=tmp_path / "jobs.db") as opened:
        reason = (await failure_of(await opened.submit(BAD))).reason
    from crynux_async.ledgers import open_ledger

    ledger = open_ledger(tmp_path / "jobs.db")
    await ledger.open()
    (row,) = await ledger.jobs()
    await ledger.close()
    assert row.reason == reason
    assert TOKEN.encode() not in (tmp_path / "jobs.db").read_bytes()


async def test_reason_is_listed_once_beside_the_error(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with session(bridge, ledger=tmp_path / "jobs.db") as opened:
        job = await opened.submit(BAD)
        reason = (await failure_of(job)).reason
        facts = as_facts(job)
    capsys.readouterr()
    await show_facts(tmp_path / "jobs.db", [], None, [], as_json=True, as_csv=False, detail=Detail())
    (row,) = json.loads(capsys.readouterr().out)
    for listed in (row, facts):
        assert listed["reason"] == reason
        assert "gave up on the task" in listed["error"]
        assert reason not in listed["error"]
    assert row["digest"] == FineTuneConfig.from_dict(row["config"]).digest()
    assert not [name for name in row if name.startswith("_")]


async def test_list_of_a_failed_job_off_a_terminal_cuts_nothing(
    bridge: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    label = "a name that takes more than the room that is left"
    async with session(bridge, ledger=tmp_path / "jobs.db") as opened:
        job = await opened.submit(BAD, label=label)
        await failure_of(job)
    capsys.readouterr()
    assert show_list(tmp_path / "jobs.db", [], None, []) == 0
    head, first, why = capsys.readouterr().out.splitlines()
    assert head.split() == ["job", "task", "state", "age", "label"]
    assert first.split()[:3] == [job.job_id, job.task_id, "failed"]
    assert first.endswith(label)
    assert why == f"{job.job_id}: {job.reason}"


async def test_reason_survives_pickling_of_the_error(bridge: Emulator) -> None:
    import pickle

    async with session(bridge) as opened:
        error = await failure_of(await opened.submit(BAD))
    assert pickle.loads(pickle.dumps(error)).reason == error.reason


async def test_many_jobs_that_end_at_once_are_asked_for_together(bridge: Emulator) -> None:
    async with session(bridge) as opened:
        jobs = await opened.submit_many([BAD.evolve(rank=rank) for rank in range(1, 41)])
        errors = await asyncio.gather(*(failure_of(job) for job in jobs))
    assert all("did not accept the arguments" in error.reason for error in errors)
    asked = [request for request in bridge.requests if request.path.startswith("/v1/admin/tasks")]
    assert len(asked) < 15


async def test_wrong_token_is_said_once_and_jobs_fail_all_the_same(
    bridge: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with session(bridge, token="wrong-token") as opened:
            for _ in range(3):
                assert (await failure_of(await opened.submit(BAD))).reason == ""
    said = [record.getMessage() for record in caplog.records if "why jobs failed" in record.getMessage()]
    assert len(said) == 1
    assert "wrong-token" not in caplog.text


async def test_token_stands_in_no_text_whatever_the_bridge_answers(caplog: pytest.LogCaptureFixture) -> None:
    page = answer(502, f"<html>GET /v1/admin/tasks?auth={TOKEN} Zq3-admin%2Ftoken%2Bx%3D", "text/html")
    with caplog.at_level(logging.DEBUG):
        async with serving(always(page)) as server:
            desk = ReasonDesk(Settings(base_url=f"http://{server.host}", trust_env=False), Secret(TOKEN))
            assert await desk.reason("1") == ""
            await desk.close()
    assert "auth=Zq3-admin" in server.requests[0].target
    assert "Zq3-admin" not in caplog.text


async def test_bridge_that_is_away_gives_no_reason_and_no_error() -> None:
    desk = ReasonDesk(Settings(base_url="http://127.0.0.1:1", trust_env=False), Secret(TOKEN))
    assert await desk.reason("1") == ""
    await desk.close()


async def test_jobs_that_wait_for_one_answer_share_it_even_if_there_is_none() -> None:
    async with serving(always(answer(500, '{"message": "x"}'))) as server:
        desk = ReasonDesk(Settings(base_url=f"http://{server.host}", trust_env=False), Secret(TOKEN))
        assert await asyncio.gather(*(desk.reason(str(number)) for number in range(20))) == [""] * 20
        await desk.close()
    assert len(server.requests) <= 2


@pytest.mark.parametrize("url", ["http://bridge.example", "http://10.0.0.5:5028", "http://[2001:db8::1]:5028"])
def test_token_is_refused_where_it_would_travel_in_the_open(url: str) -> None:
    with pytest.raises(SettingsError, match="admin_token: would be sent in the open"):
        Settings(base_url=url, admin_token=TOKEN)
    Settings(base_url=url)


@pytest.mark.parametrize(
    "url", ["https://bridge.example", "http://127.0.0.1:5028", "http://localhost:5028", "http://[::1]:5028"]
)
def test_token_is_taken_over_https_and_on_this_machine(url: str) -> None:
    settings = Settings(base_url=url, admin_token=TOKEN)
    assert settings.admin_token == Secret(TOKEN)
    assert TOKEN not in repr(settings)
