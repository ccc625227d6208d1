"""Opening a session for a command: which of them may make a ledger."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from crynux_async.cli import sweep
from crynux_async.cli.abandon import abandon
from crynux_async.cli.cancel import CancelOrder, cancel
from crynux_async.cli.exits import Exit, exit_code
from crynux_async.cli.resume import ResumeOrder, resume
from crynux_async.cli.retry import RetryOrder, retry
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.errors import UsageError

HERE = ServiceChoice()


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
