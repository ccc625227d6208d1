"""One call that raises what nobody has thought of: at most one job feels it, and the session closes as ever."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from crynux_async import (
    CrynuxError,
    JobExpiredError,
    JobState,
    LedgerBusyError,
    LedgerError,
    RateLimitedError,
    Session,
    SubmissionUnknownError,
    UnreachableError,
)
from crynux_async.backends.base import CreatedTask
from crynux_async.ledgers.base import AttemptOutcome, JobRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.pacing.age_bins import HazardSnapshot
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


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        pytest.param(LedgerBusyError("another process writes"), 0.0, id="busy at the last words"),
        pytest.param(LedgerBusyError("another process writes"), 3600.0, id="busy"),
        pytest.param(LedgerError("the disk is full"), 3600.0, id="full"),
    ],
)
async def test_what_was_learned_is_stored_once_the_ledger_takes_it(error: LedgerError, wait: float) -> None:
    ledger = OnceFailing("save_hazards", error)
    errors, ledger.errors = ledger.errors, {}
    async with open_session(FakeBackend(), ledger) as session:
        await (await session.submit(make_config()))
        ledger.errors = errors
        await asyncio.sleep(wait)  # it is stored as often as leases are renewed
    assert not ledger.errors
    (learned,) = (await ledger.load_hazards(FakeBackend().name)).values()
    assert sum(one.completed for one in HazardSnapshot.from_json(learned).bins) == pytest.approx(1.0)


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


class Careless(StudioBackend):
    """A studio whose answers to creates hold what cannot be used."""

    def __init__(self, **told: Any) -> None:
        super().__init__(Studio())
        self.told = told

    async def create(self, payload: str) -> CreatedTask:
        return attrs.evolve(await super().create(payload), **self.told)


@pytest.mark.parametrize("told", [{"again_after": "soon"}, {"phases": (None,)}], ids=["again_after", "phases"])
async def test_answer_of_which_a_part_cannot_be_used_leaves_its_job_followed(told: dict[str, Any]) -> None:
    async with open_session(Careless(**told)) as session:
        job = await session.submit(make_config())
        async with asyncio.timeout(3600):
            assert (await job).state is JobState.SUCCEEDED


async def test_answer_that_is_no_task_is_of_unknown_outcome_and_the_next_job_is_sent() -> None:
    class Wordless(FakeBackend):
        async def create(self, payload: str) -> CreatedTask:
            created = await super().create(payload)
            nothing: Any = None
            return nothing if created.task_id == "1" else created

    async with Session(backend=Wordless(), api_key="k" * 44, rate_limit=1) as session:
        first, second = (session.submit_nowait(make_config(seed=seed)) for seed in (1, 2))
        async with asyncio.timeout(3600):
            with pytest.raises(SubmissionUnknownError):
                await first.submitted()
            assert (await second.submitted()).task_id == "2"
        assert first.state is JobState.UNCONFIRMED


@pytest.mark.parametrize("method", ["answered", "failed"])
@pytest.mark.parametrize(
    "answer",
    [None, RateLimitedError("slower", wait=1.0), UnreachableError("away"), SubmissionUnknownError("lost")],
    ids=["accepted", "limited", "not_sent", "unknown"],
)
@pytest.mark.parametrize("is_repeatable", [False, True])
async def test_bug_after_an_answer_is_stored_leaves_no_job_neither_queued_nor_followed(
    method: str, answer: Exception | None, *, is_repeatable: bool
) -> None:
    backend = FakeBackend()
    backend.creates_are_repeatable = is_repeatable
    async with open_session(backend) as session:
        supervisor = session._supervisor
        assert supervisor is not None
        reach: Any = supervisor.reach

        def fail_once(*_: Any) -> None:
            del vars(reach)[method]
            raise ZeroDivisionError("a bug")

        setattr(reach, method, fail_once)
        backend.answers.append(answer)
        job = session.submit_nowait(make_config())
        async with asyncio.timeout(3600):
            try:
                await job.submitted()
            except CrynuxError:  # it is said that it is not sent for now, or what became of it is not known
                await job.retry()
            await job.submitted()
            assert (await job).state is JobState.SUCCEEDED


@pytest.mark.parametrize(("is_deleted", "state"), [(False, JobState.SUCCEEDED), (True, JobState.EXPIRED)])
async def test_bug_while_the_end_of_a_job_is_told_leaves_it_followed(
    is_deleted: bool, state: JobState, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        supervisor = session._supervisor
        assert supervisor is not None
        error, errors = supervisor.accounts.error, [ZeroDivisionError("a bug")]

        def fail_once(*args: Any) -> Any:
            if errors:
                raise errors.pop()
            return error(*args)

        monkeypatch.setattr(supervisor.accounts, "error", fail_once)
        job = await session.submit(make_config())
        if is_deleted:
            backend.created.clear()
        async with asyncio.timeout(3600):
            with contextlib.suppress(JobExpiredError):
                await job
        assert job.state is state
        assert not errors
