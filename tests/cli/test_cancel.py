"""``cancel``: what it says before, what it does, and how it ends."""

import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from crynux_async.budgets import Budget
from crynux_async.cli import cancel as command
from crynux_async.cli import jobs
from crynux_async.cli.cancel import CancelOrder, cancel
from crynux_async.cli.console import LiteralConsole
from crynux_async.cli.exits import Exit
from crynux_async.cli.job_facts import Detail
from crynux_async.cli.retry import RetryOrder, retry
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.emulator import Emulator
from crynux_async.emulator.relay import RelayEmulator, Status
from crynux_async.errors import BudgetExceededError
from crynux_async.session import Session
from crynux_async.states import JobState
from tests.fake_backend import make_config as bridge_config
from tests.relay_lab import CREATOR, CREATOR_KEY, FEE
from tests.relay_sessions import MONEY, make_config, relay_session, relay_with_money


def ordered(folder: Path, *names: str, relay: bool = True, as_json: bool = False) -> CancelOrder:
    service = ServiceChoice(relay=relay)
    return CancelOrder(names=names, is_agreed=True, ledger=folder / "jobs.db", service=service, as_json=as_json)


@pytest_asyncio.fixture
async def relay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[RelayEmulator]:
    wallet = tmp_path / "wallet"
    wallet.write_text(CREATOR_KEY)
    wallet.chmod(0o600)
    async with relay_with_money(nodes=0) as emulator:
        monkeypatch.setenv("CRYNUX_NETWORK", emulator.url)
        monkeypatch.setenv("CRYNUX_WALLET", str(wallet))
        monkeypatch.setenv("CRYNUX_TRUST_ENV", "0")
        monkeypatch.setenv("HOME", "/nonexistent")
        yield emulator


async def sent(relay: RelayEmulator, folder: Path, count: int = 1) -> list[str]:
    async with relay_session(relay, str(folder / "jobs.db")) as session:
        return [(await session.submit(make_config(seed=seed))).job_id for seed in range(1, count + 1)]


async def test_job_that_waits_is_cancelled_and_refunded_once_that_was_said(
    relay: RelayEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = await sent(relay, tmp_path)
    assert relay.balance(CREATOR.address) == MONEY - FEE
    assert await cancel(ordered(tmp_path, name)) is Exit.DONE
    first, last = capsys.readouterr().out.splitlines()
    assert "all fees are refunded as long as it waits for a node" in first
    assert last == f"{name} is cancelled: 15 CNX are refunded"
    assert relay.balance(CREATOR.address) == MONEY


async def test_job_that_a_node_has_goes_on_and_the_others_are_cancelled_all_the_same(
    relay: RelayEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started, waiting = await sent(relay, tmp_path, 2)
    first, second = relay.tasks.values()
    first.status = Status.STARTED
    assert await cancel(ordered(tmp_path, started, waiting, as_json=True)) is Exit.BRIDGE
    out, err = capsys.readouterr()
    facts = json.loads(out)["jobs"]
    assert [(each["job_id"], each["state"], each["is_cancelled"]) for each in facts] == [
        (started, "running", False),
        (waiting, "abandoned", True),
    ]
    assert facts[1]["message"] == "15 CNX are refunded"
    assert "RejectedError" in err
    assert second.status is Status.END_ABORTED


async def test_job_that_is_over_is_said_to_be_so(
    relay: RelayEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = await sent(relay, tmp_path)
    await cancel(ordered(tmp_path, name))
    capsys.readouterr()
    assert await cancel(ordered(tmp_path, name)) is Exit.USAGE
    assert "is abandoned, so there is nothing to cancel" in capsys.readouterr().out


async def test_job_of_unknown_outcome_is_not_said_to_cost_nothing(
    relay: RelayEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = await sent(relay, tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db")) as ledger, ledger:
        ledger.execute("UPDATE jobs SET state = 'unconfirmed', task_id = NULL")
    assert await cancel(ordered(tmp_path, name)) is Exit.USAGE
    out, err = capsys.readouterr()
    assert "it may have a task that is paid for" in out
    assert "reconcile() looks for it" in err


async def planned_in_doubt(relay: RelayEmulator, folder: Path) -> str:
    """Leave a job whose process died before it asked again, as the answer to its create was lost."""
    (name,) = await sent(relay, folder)
    with contextlib.closing(sqlite3.connect(folder / "jobs.db")) as ledger, ledger:
        ledger.execute("UPDATE jobs SET state = 'planned', task_id = NULL")
        ledger.execute("UPDATE attempts SET outcome = 'unknown', task_id = NULL")
        ledger.execute("DELETE FROM tasks")
    return name


async def planned(relay: RelayEmulator, folder: Path) -> str:
    """Leave a job that was never sent, and return its name."""
    async with relay_session(relay, str(folder / "jobs.db"), budget=Budget("small", cnx=1)) as session:
        job = session.submit_nowait(make_config())
        with pytest.raises(BudgetExceededError):
            await job.submitted()
    return job.job_id


async def test_job_whose_process_died_before_it_asked_again_is_not_said_to_cost_nothing(
    relay: RelayEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = await planned_in_doubt(relay, tmp_path)
    assert await cancel(ordered(tmp_path, name)) is Exit.USAGE
    out, err = capsys.readouterr()
    assert f"{name}: may have a task, because the answer to its create was lost" in out
    assert "retry() asks for it" in err


async def test_job_at_the_relay_that_was_never_sent_costs_nothing(
    relay: RelayEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = await planned(relay, tmp_path)
    assert await cancel(ordered(tmp_path, name)) is Exit.DONE
    assert f"{name}: is not sent yet, so it costs nothing" in capsys.readouterr().out


async def test_list_tells_a_planned_job_that_may_have_a_task_from_one_that_was_never_sent(
    relay: RelayEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doubtful, other = await planned_in_doubt(relay, tmp_path), await planned(relay, tmp_path)
    assert jobs.show_list(tmp_path / "jobs.db", [], None, []) == Exit.DONE
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("1 planned job may have a task")
    assert f"crynux-async retry {doubtful} --relay --ledger {tmp_path / 'jobs.db'}" in last
    facts = jobs.show_facts(tmp_path / "jobs.db", [], None, [], as_json=True, as_csv=False, detail=Detail())
    assert await facts is Exit.DONE
    said = {each["job_id"]: each["may_have_task"] for each in json.loads(capsys.readouterr().out)}
    assert said == {doubtful: True, other: False}


async def test_retry_of_a_job_that_may_have_a_task_says_that_it_is_paid_once(
    relay: RelayEmulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = await planned_in_doubt(relay, tmp_path)
    assert (
        await retry(
            RetryOrder(
                names=[name],
                states=[],
                label=None,
                tags=[],
                at_most=None,
                timeout=None,
                is_agreed=True,
                ledger=tmp_path / "jobs.db",
                service=ServiceChoice(relay=True),
            )
        )
        is Exit.DONE
    )
    assert f"{name} may have a task: the same create is sent again" in capsys.readouterr().out
    assert (len(relay.tasks), relay.balance(CREATOR.address)) == (1, MONEY - FEE)


async def test_nothing_is_cancelled_where_the_question_is_answered_with_no(
    relay: RelayEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def no(_: LiteralConsole, question: str) -> bool:
        asked.append(question)
        return False

    class Terminal(LiteralConsole):
        is_terminal = True  # type: ignore[assignment]

    (name,) = await sent(relay, tmp_path)
    monkeypatch.setattr(command, "agrees", no)
    monkeypatch.setattr(command, "open_console", Terminal)
    order = ordered(tmp_path, name)
    assert (
        await cancel(
            CancelOrder(names=[name], is_agreed=False, ledger=order.ledger, service=order.service, as_json=False)
        )
        is Exit.USAGE
    )
    assert asked == ["Cancel 1 job?"]
    assert relay.balance(CREATOR.address) == MONEY - FEE


async def test_bridge_cancels_no_task_and_the_command_that_gives_up_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Emulator(speed=1) as bridge:
        monkeypatch.setenv("CRYNUX_BASE_URL", bridge.url)
        monkeypatch.setenv("CRYNUX_API_KEY", bridge.new_key())
        monkeypatch.setenv("HOME", "/nonexistent")
        async with Session(ledger=tmp_path / "jobs.db") as session:
            job = await session.submit(bridge_config())
        assert await cancel(ordered(tmp_path, job.job_id, relay=False)) is Exit.USAGE
        out = capsys.readouterr().out
        assert "which cancels none: it goes on and is paid for" in out
        assert f"crynux-async abandon JOB --ledger {tmp_path / 'jobs.db'}" in out
        async with Session(ledger=tmp_path / "jobs.db") as session:
            found = await session.find(job.job_id)
            assert found is not None
            assert found.state is JobState.RUNNING
