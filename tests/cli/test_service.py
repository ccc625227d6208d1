"""Opening a session for a command: which of them may make a ledger."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from crynux_async.cli import sweep
from crynux_async.cli.abandon import abandon
from crynux_async.cli.cancel import CancelOrder, cancel
from crynux_async.cli.exits import Exit, exit_code
from crynux_async.cli.reconcile import reconcile
from crynux_async.cli.resume import ResumeOrder, resume
from crynux_async.cli.retry import RetryOrder, retry
from crynux_async.cli.run import download
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.errors import UsageError
from tests.relay_lab import CREATOR_KEY
from tests.relay_sessions import make_config, relay_session, relay_with_money

HERE = ServiceChoice()
SWEEP = """
name = "ranks"

[base]
model_name = "crynux-ai/stable-diffusion-v1-5"
dataset_url = "https://example.com/pictures.zip"
max_train_steps = 100
timeout = 1800

[[grid]]
rank = [4, 8]
"""


def resumed(place: Path) -> Awaitable[Exit]:
    return resume(
        ResumeOrder(ledger=place, service=HERE, out=None, timeout=None, patience=None, send=False, as_json=False)
    )


def retried(place: Path) -> Awaitable[Exit]:
    return retry(
        RetryOrder(
            names=["j1"],
            states=[],
            label=None,
            tags=[],
            at_most=None,
            timeout=None,
            is_agreed=True,
            ledger=place,
            service=HERE,
        )
    )


ABOUT_JOBS: dict[str, Callable[[Path], Awaitable[Exit]]] = {
    "abandon": lambda place: abandon(place, ["j1"], HERE),
    "cancel": lambda place: cancel(
        CancelOrder(names=["j1"], is_agreed=True, ledger=place, service=HERE, as_json=False)
    ),
    "download of a job": lambda place: download(
        "j123", place.parent, None, None, service=HERE, ledger=place, as_json=False
    ),
    "reconcile": lambda place: reconcile(place, HERE, at_most=50, evidence_bytes=0, adopt=False, as_json=False),
    "resume": resumed,
    "retry": retried,
    "sweep retry": lambda place: sweep.retry("ranks", place, HERE, is_agreed=True, as_json=False),
}


@pytest.mark.parametrize("command", ABOUT_JOBS)
async def test_command_about_jobs_makes_no_ledger_at_a_mistyped_place(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYNUX_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CRYNUX_API_KEY", "k" * 44)
    place = tmp_path / "jbos.db"
    with pytest.raises(UsageError, match="there is no ledger at") as caught:
        await ABOUT_JOBS[command](place)
    assert exit_code(caught.value) is Exit.USAGE
    assert not place.exists()


async def test_preview_of_a_sweep_makes_no_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYNUX_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CRYNUX_API_KEY", "k" * 44)
    file, place = tmp_path / "sweep.toml", tmp_path / "new" / "jobs.db"
    file.write_text(SWEEP)
    assert await sweep.show_preview(file, place, service=HERE, emulated=False, price=None, as_json=True) is Exit.DONE
    assert not place.parent.exists()


async def test_tasks_without_a_job_are_shown_without_a_new_ledger_and_adopted_into_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with relay_with_money(nodes=0) as relay:
        wallet = tmp_path / "wallet"
        wallet.write_text(CREATOR_KEY)
        wallet.chmod(0o600)
        monkeypatch.setenv("CRYNUX_NETWORK", relay.url)
        monkeypatch.setenv("CRYNUX_WALLET", str(wallet))
        monkeypatch.setenv("CRYNUX_TRUST_ENV", "0")
        async with relay_session(relay) as session:
            await session.submit(make_config())
            await asyncio.sleep(11)  # the relay's list is up to ten seconds late
        place = tmp_path / "jobs.db"
        for adopt in (False, True):
            code = await reconcile(
                place, ServiceChoice(relay=True), at_most=50, evidence_bytes=0, adopt=adopt, as_json=False
            )
            assert (code, place.exists()) == (Exit.DONE, adopt)
            assert "15 CNX" in capsys.readouterr().out
