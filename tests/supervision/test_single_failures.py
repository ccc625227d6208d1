"""One call that raises what nobody has thought of: at most one job feels it, and the session closes as ever."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from crynux_async import JobState, LedgerError, Session
from crynux_async.ledgers.base import AttemptOutcome, JobRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.training.config import FineTuneConfig
from tests.fake_backend import FakeBackend, make_config
from tests.second_backend import Studio, StudioBackend


class OnceFailing(MemoryLedger):
    """A ledger of which one method raises once."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__()
        self.errors = {method: error}

    def _raise(self, method: str) -> None:
        if method in self.errors:
            raise self.errors.pop(method)

    async def add(self, *args: Any, **kwargs: Any) -> list[JobRow]:
        self._raise("add")
        return await super().add(*args, **kwargs)

    async def change(self, *args: Any, **kwargs: Any) -> list[str]:
        self._raise("change")
        return await super().change(*args, **kwargs)

    async def leave(self, *args: Any, **kwargs: Any) -> None:
        self._raise("leave")
        await super().leave(*args, **kwargs)

    async def save_hazards(self, *args: Any, **kwargs: Any) -> None:
        self._raise("save_hazards")
        await super().save_hazards(*args, **kwargs)


def open_session(backend: Any, ledger: MemoryLedger | None = None) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000)


async def test_row_that_cannot_be_stored_keeps_no_other_of_its_batch_out() -> None:
    class Picky(MemoryLedger):
        async def add(self, rows: Any, **kwargs: Any) -> list[JobRow]:
            if any(row.label == "refused" for row in rows):
                raise LedgerError("this label cannot be kept")
            return await super().add(rows, **kwargs)

    async with open_session(FakeBackend(), Picky()) as session:
        jobs = [session.submit_nowait(make_config(seed=seed), label="refused" * (seed == 2)) for seed in (1, 2, 3)]
        results = await asyncio.gather(*(job.submitted() for job in jobs), return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Job", "LedgerError", "Job"]


async def test_bug_while_new_jobs_are_stored_only_delays_them() -> None:
    async with open_session(FakeBackend(), OnceFailing("add", RuntimeError("a bug"))) as session:
        async with asyncio.timeout(60):
            assert (await session.submit(make_config())).task_id == "1"


async def test_bug_while_changes_are_stored_loses_none_of_them() -> None:
    ledger = OnceFailing("change", RuntimeError("a bug"))
    error = ledger.errors.pop("change")
    async with open_session(FakeBackend(), ledger) as session:
        job = await session.submit(make_config())
        ledger.errors["change"] = error
        await job
        await asyncio.sleep(60)
        (row,) = await ledger.jobs()
        assert row.state is JobState.SUCCEEDED


@pytest.mark.parametrize("method", ["leave", "save_hazards"])
async def test_bug_in_the_last_words_is_logged_and_closing_is_clean(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = OnceFailing(method, RuntimeError("a bug"))
    errors, ledger.errors = ledger.errors, {}
    async with open_session(FakeBackend(), ledger) as session:
        await (await session.submit(make_config()))
        ledger.errors = errors
    assert not ledger.errors
    assert "could not be told everything" in caplog.text


class Buggy(StudioBackend):
    """A studio with a bug in a question that it is asked about a config."""

    def price(self, config: FineTuneConfig) -> int | None:
        raise RuntimeError("a bug")

    def stall_after(self, config: FineTuneConfig) -> float:
        raise RuntimeError("a bug")


def without(method: str) -> Callable[[], StudioBackend]:
    """Return a studio with a bug in one method alone."""
    return lambda: type("One", (StudioBackend,), {method: getattr(Buggy, method)})(Studio())


async def test_bug_in_a_price_never_costs_a_task_its_place_in_the_ledger(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = MemoryLedger()
    async with open_session(without("price")(), ledger) as session:
        job = await session.submit(make_config())
    (row,) = await ledger.jobs()
    (attempt,) = await ledger.attempts()
    assert (row.task_id, row.state, attempt.outcome) == (job.task_id, JobState.RUNNING, AttemptOutcome.ACCEPTED)
    assert capsys.readouterr().err == ""


async def test_bug_in_how_long_a_job_may_take_leaves_it_followed() -> None:
    async with open_session(without("stall_after")()) as session:
        assert (await (await session.submit(make_config()))).state is JobState.SUCCEEDED


async def test_bug_in_the_gate_keeps_nobody_from_an_answer_that_is_stored() -> None:
    ledger = MemoryLedger()
    async with open_session(FakeBackend(), ledger) as session:
        assert session._supervisor is not None
        gate: Any = session._supervisor.submitter.gate

        async def leave(*_: Any) -> None:
            raise ZeroDivisionError("a bug")

        gate.leave = leave
        job = await session.submit(make_config())
        assert [row.task_id for row in await ledger.jobs()] == [job.task_id] == ["1"]
        async with asyncio.timeout(3600):
            await job  # it is followed, too
