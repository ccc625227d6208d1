"""``reconcile``: what looking costs is said before it is done."""

from pathlib import Path
from typing import Any

import pytest

from crynux_async.cli.exits import Exit
from crynux_async.cli.reconcile import reconcile
from crynux_async.cli.service_choice import ServiceChoice
from crynux_async.emulator import Emulator
from crynux_async.errors import SubmissionUnknownError
from crynux_async.session import Session
from tests.fake_backend import make_config

_OPTIONS: dict[str, Any] = {"evidence_bytes": 1_000_000, "adopt": False, "as_json": False}


async def test_price_in_requests_is_said_first_and_kept_and_nothing_is_asked_beyond_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Emulator(speed=1e9, rate_limit=600) as bridge:
        monkeypatch.setenv("CRYNUX_BASE_URL", bridge.url)
        monkeypatch.setenv("CRYNUX_API_KEY", bridge.new_key(rate_limit=600))
        monkeypatch.setenv("HOME", "/nonexistent")
        place = tmp_path / "jobs.db"
        async with Session(ledger=place) as session:
            await session.submit(make_config(seed=1))
            bridge.add_fault("drop_after_accept", on="create")
            with pytest.raises(SubmissionUnknownError):
                await session.submit(make_config(seed=2))
            async with Session() as other:  # its tasks have numbers of the same row
                for seed in (11, 12):
                    await other.submit(make_config(seed=seed))
            await session.submit(make_config(seed=3))
        before = len(bridge.requests)
        assert await reconcile(place, ServiceChoice(), at_most=2, **_OPTIONS) is Exit.OUTCOME_UNKNOWN
        assert (len(bridge.requests) - before, "Looking" in capsys.readouterr().out) == (0, False)
        assert await reconcile(place, ServiceChoice(), at_most=50, **_OPTIONS) is Exit.OUTCOME_UNKNOWN  # several fit
        first, second = capsys.readouterr().out.splitlines()[:2]
    # Three numbers, and what decides is at most two questions about each.
    assert first == "Looking takes up to 6 requests; --at-most limits the tasks for each job."
    assert (
        second
        == "Where several tasks are left, their archives are fetched, 1.0 MB at most; --evidence-bytes bounds that."
    )
    assert 0 < len(bridge.requests) - before <= 6
