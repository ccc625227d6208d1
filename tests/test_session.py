"""The session, its supervisor and its jobs, on a backend in memory and virtual time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import pytest_asyncio

from crynux_async import (
    AuthError,
    ConfigError,
    Job,
    JobAbandonedError,
    JobExpiredError,
    JobFailedError,
    JobStalledError,
    JobState,
    OwnershipError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    ServerError,
    Session,
    SettingsError,
    SubmissionUnknownError,
    UnreachableError,
    UsageError,
    WaitTimeoutError,
)
from crynux_async.backends.base import Look, Seen, Task
from crynux_async.clock import monotonic
from crynux_async.errors import NotFoundError, TransportError
from crynux_async.events import JobQueued, JobStateChanged, JobSubmitted
from crynux_async.ledgers.base import JobRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.testing import VirtualTimeLoop
from crynux_async.training.simulation import archive_bytes
from tests.fake_backend import FakeBackend, look_seldom, make_config
from tests.small_results import make_archive


def open_session(backend: FakeBackend, **settings: Any) -> Session:
    return Session(backend=backend, api_key="k" * 44, **{"rate_limit": 6000, **settings})


@pytest_asyncio.fixture
async def backend() -> FakeBackend:
    return FakeBackend()


@pytest_asyncio.fixture
async def session(backend: FakeBackend) -> AsyncIterator[Session]:
    async with open_session(backend) as session:
        yield session


async def test_submit_accepted_returns_a_running_job_with_its_task_id(session: Session, backend: FakeBackend) -> None:
    job = await session.submit(make_config(), label="first")
    assert (job.task_id, job.state, job.label) == ("1", JobState.RUNNING, "first")
    assert backend.created["1"].max_train_steps == 100


async def test_submit_zero_warmup_sends_what_the_bridge_can_express(session: Session, backend: FakeBackend) -> None:
    job = await session.submit(make_config(lr_warmup_steps=0))
    assert backend.created["1"].lr_warmup_steps == 1
    assert job.config is not None
    assert job.config.lr_warmup_steps == 0


async def test_await_job_that_succeeds_returns_it(session: Session) -> None:
    job = await session.submit(make_config())
    assert await job == job
    assert job.state is JobState.SUCCEEDED
    assert job.ended_at is not None


async def test_wait_for_a_failed_job_raises_with_its_numbers(session: Session) -> None:
    job = await session.submit(make_config(model_name="x/fail"))
    with pytest.raises(JobFailedError) as caught:
        await job.wait()
    assert (caught.value.job_id, caught.value.task_id) == (job.job_id, job.task_id)


async def test_wait_with_timeout_raises_and_the_job_goes_on(session: Session) -> None:
    job = await session.submit(make_config())
    with pytest.raises(WaitTimeoutError):
        await job.wait(timeout=10)
    assert job.state is JobState.RUNNING
    await job.wait()
    assert job.state is JobState.SUCCEEDED


async def test_many_waiters_of_one_job_are_all_told(session: Session) -> None:
    job = await session.submit(make_config())
    assert await asyncio.gather(*(job.wait() for _ in range(50))) == [job] * 50


async def test_cancelled_waiter_leaves_the_job_and_the_other_waiters_alone(session: Session) -> None:
    job = await session.submit(make_config())
    first, second = asyncio.create_task(job.wait()), asyncio.create_task(job.wait())
    await asyncio.sleep(1)
    first.cancel()
    assert await second == job
    assert first.cancelled()


async def test_failing_job_among_many_disturbs_no_other(session: Session) -> None:
    configs = [make_config(model_name="x/fail" if number == 3 else "x") for number in range(10)]
    jobs = [session.submit_nowait(config) for config in configs]
    results = await asyncio.gather(*(job.wait() for job in jobs), return_exceptions=True)
    assert [isinstance(result, JobFailedError) for result in results] == [number == 3 for number in range(10)]


async def test_submit_refused_raises_that_error_and_nothing_runs() -> None:
    backend = FakeBackend()
    backend.answers.append(RejectedError("no", field="rank"))
    async with open_session(backend) as session:
        with pytest.raises(RejectedError) as caught:
            await session.submit(make_config())
        assert caught.value.job_id == session.jobs()[0].job_id
        assert session.jobs()[0].state is JobState.REJECTED
        with pytest.raises(RejectedError):
            await session.jobs()[0].wait()


@pytest.mark.parametrize("error", [AuthError("no", field="Authorization"), QuotaError("no", field="Authorization")])
async def test_refused_key_is_told_to_every_waiter_at_once_and_every_job_stays_planned(error: Exception) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger=ledger, rate_limit=60, rate_burst=1) as session:
        backend.answers.append(error)
        jobs = [session.submit_nowait(make_config(seed=seed)) for seed in (1, 2, 3)]
        results = await asyncio.gather(*(job.submitted() for job in jobs), return_exceptions=True)
        assert [type(result) for result in results] == [type(error)] * 3
        assert monotonic() < 2
        await asyncio.sleep(3600)
        assert backend.creates == 1
        assert [(job.state, str(job.error)) for job in await session.history()] == [(JobState.PLANNED, "no")] * 3
        await asyncio.gather(*[(await job.retry()).submitted() for job in jobs])
        assert [config.seed for config in backend.received] == [1, 1, 2, 3]
        assert [job.error for job in await session.history()] == [None] * 3


async def test_submit_with_unknown_outcome_raises_and_is_not_sent_again(session: Session, backend: FakeBackend) -> None:
    backend.answers.append(SubmissionUnknownError("lost"))
    with pytest.raises(SubmissionUnknownError):
        await session.submit(make_config())
    await asyncio.sleep(3600)
    assert backend.creates == 1
    assert session.jobs()[0].state is JobState.UNCONFIRMED


async def test_submit_while_unreachable_is_tried_again_until_it_is_sent_once(
    session: Session, backend: FakeBackend
) -> None:
    backend.answers.extend(UnreachableError("down") for _ in range(4))
    job = await session.submit(make_config())
    assert (backend.creates, len(backend.created), job.task_id) == (5, 1, "1")


async def test_submit_while_unreachable_for_too_long_raises() -> None:
    backend = FakeBackend()
    backend.answers.extend(UnreachableError("down") for _ in range(100))
    async with open_session(backend, unreachable_timeout=120) as session:
        before = monotonic()
        with pytest.raises(UnreachableError):
            await session.submit(make_config())
        assert 120 <= monotonic() - before <= 200
        assert not backend.created


async def test_submit_while_unreachable_before_and_after_a_sleep_of_the_machine_goes_on() -> None:
    backend = FakeBackend()
    backend.answers.extend(UnreachableError("down") for _ in range(5))
    async with open_session(backend, unreachable_timeout=120) as session:
        submitting = asyncio.create_task(session.submit(make_config()))
        await asyncio.sleep(2)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.advance(8 * 3600)
        assert (await submitting).task_id == "1"


async def test_submit_unreachable_in_two_outages_counts_them_apart() -> None:
    backend = FakeBackend()
    down = [UnreachableError("down") for _ in range(6)]  # 63 s
    busy = RateLimitedError("slow down", wait=60.0, field="rate_limit")
    backend.answers.extend([*down, busy, *down])
    async with open_session(backend, unreachable_timeout=100) as session:
        job = await session.submit(make_config())
        assert (backend.creates, job.task_id) == (14, "1")


async def test_submit_refused_by_the_rate_limit_waits_and_is_sent_in_order() -> None:
    backend = FakeBackend()
    backend.answers.append(RateLimitedError("slow down", wait=60.0, field="rate_limit"))
    async with open_session(backend, rate_limit=1) as session:
        before = monotonic()
        jobs = [session.submit_nowait(make_config(seed=seed)) for seed in (1, 2, 3)]
        await asyncio.gather(*(job.submitted() for job in jobs))
        assert [config.seed for config in backend.created.values()] == [1, 2, 3]
        assert monotonic() - before >= 120 + 120


async def test_known_rate_limit_is_never_exceeded() -> None:
    backend = FakeBackend()
    async with open_session(backend, rate_limit=5) as session:
        jobs = [session.submit_nowait(make_config()) for _ in range(12)]
        await asyncio.gather(*(job.submitted() for job in jobs))
        times = sorted(backend.created_at.values())
    assert sum(time < times[0] + 11 for time in times) <= 5
    assert times[-1] - times[0] == pytest.approx((12 - 5) * 12, rel=0.02)


async def test_fresh_key_is_primed_once_before_the_first_job() -> None:
    backend = FakeBackend()
    backend.fresh = True
    async with open_session(backend) as session:
        jobs = [session.submit_nowait(make_config()) for _ in range(3)]
        await asyncio.gather(*(job.submitted() for job in jobs))
    assert (backend.primings, backend.creates) == (1, 3)


async def test_key_that_is_refused_fails_every_queued_job_without_a_create() -> None:
    backend = FakeBackend()
    backend.fresh = AuthError("invalid API key", field="Authorization")
    async with open_session(backend) as session:
        jobs = [session.submit_nowait(make_config()) for _ in range(3)]
        results = await asyncio.gather(*(job.submitted() for job in jobs), return_exceptions=True)
    assert [type(result) for result in results] == [AuthError] * 3
    assert backend.creates == 0


async def test_submit_cancelled_while_queued_is_never_sent() -> None:
    backend = FakeBackend()
    async with open_session(backend, rate_limit=1) as session:
        await session.submit(make_config())
        waiting = asyncio.create_task(session.submit(make_config()))
        await asyncio.sleep(5)
        waiting.cancel()
        await asyncio.sleep(3600)
        assert waiting.cancelled()
        assert backend.creates == 1
        assert session.jobs()[1].state is JobState.ABANDONED
        with pytest.raises(JobAbandonedError):
            await session.jobs()[1].submitted()


async def test_submit_cancelled_while_under_way_keeps_the_task_id(session: Session, backend: FakeBackend) -> None:
    waiting = asyncio.create_task(session.submit(make_config()))
    while not backend.creates:
        await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.sleep(10)
    assert waiting.cancelled()
    assert [(job.task_id, job.state) for job in session.jobs()] == [("1", JobState.RUNNING)]


@pytest.mark.parametrize("instant", [number / 20 for number in range(12)])
async def test_submit_cancelled_at_any_instant_accounts_for_every_task(instant: float) -> None:
    backend = FakeBackend(round_trip=0.2)
    async with open_session(backend) as session:
        waiting = asyncio.create_task(session.submit(make_config()))
        await asyncio.sleep(instant)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert {job.task_id for job in session.jobs() if job.task_id} == set(backend.created)


async def test_close_while_a_create_is_under_way_waits_for_its_answer(backend: FakeBackend) -> None:
    session = open_session(backend)
    await session.open()
    job = session.submit_nowait(make_config())
    while not backend.creates:
        await asyncio.sleep(0.01)
    await session.close()
    assert (job.task_id, job.state) == ("1", JobState.RUNNING)


async def test_close_ends_as_soon_as_the_last_create_is_answered() -> None:
    backend = FakeBackend()
    backend.answers += [None, lambda: asyncio.sleep(2)]
    session = open_session(backend, close_timeout=20)
    await session.open()
    await session.submit(make_config())
    job = session.submit_nowait(make_config())
    while backend.creates < 2:
        await asyncio.sleep(0.01)
    before = monotonic()
    await session.close()
    assert monotonic() - before == pytest.approx(2, abs=0.1)
    assert job.state is JobState.RUNNING


async def test_close_while_the_last_answer_comes_waits_for_nothing_more() -> None:
    backend, answer = FakeBackend(round_trip=0), asyncio.Event()
    backend.answers.append(answer.wait)
    session = open_session(backend, close_timeout=20)
    await session.open()
    job = session.submit_nowait(make_config())
    await asyncio.sleep(0.1)
    before = monotonic()
    answer.set()
    await session.close()
    assert monotonic() - before == pytest.approx(0, abs=0.1)
    assert job.state is JobState.RUNNING


@pytest.mark.parametrize("close_timeout", [0, 20])
@pytest.mark.parametrize("turns", range(20))
async def test_close_begins_no_create_and_cuts_off_none_in_its_first_moment(turns: int, close_timeout: int) -> None:
    backend = FakeBackend(round_trip=0)
    session = open_session(backend, close_timeout=close_timeout)
    await session.open()
    assert session._supervisor is not None
    gate = session._supervisor.submitter.gate
    jobs = [session.submit_nowait(make_config(seed=seed)) for seed in range(1, 5)]
    for _ in range(turns):
        await asyncio.sleep(0)
    received = len(backend.received)
    await session.close()
    assert received == len(backend.received) or close_timeout
    sent = {config.seed for config in backend.received}
    states = {job.config.seed: job.state for job in jobs if job.config is not None}
    assert all(states[seed] is JobState.PLANNED for seed in states.keys() - sent)
    assert all(states[seed] is JobState.RUNNING for seed in sent) or not close_timeout
    assert gate.bucket is not None
    assert gate.bucket.snapshot().in_flight == ()


async def test_close_with_a_create_that_never_answers_ends_in_time_and_says_unknown() -> None:
    backend = FakeBackend()
    backend.answers.append(asyncio.Event().wait)
    session = open_session(backend, close_timeout=20)
    await session.open()
    job = session.submit_nowait(make_config())
    while not backend.creates:
        await asyncio.sleep(0.01)
    before = monotonic()
    await session.close()
    assert monotonic() - before == pytest.approx(20, abs=0.1)
    assert job.state is JobState.UNCONFIRMED
    assert isinstance(job.error, SubmissionUnknownError)


async def test_close_wakes_every_waiter_and_the_message_says_how_to_go_on(backend: FakeBackend) -> None:
    async with open_session(backend) as session:
        job = await session.submit(make_config())
        waiting = asyncio.create_task(job.wait())
        await asyncio.sleep(1)
    with pytest.raises(UsageError, match="attach"):
        await waiting


async def test_close_twice_and_from_another_task_is_harmless(backend: FakeBackend) -> None:
    session = open_session(backend)
    await session.open()
    await asyncio.create_task(session.close())
    await session.close()
    with pytest.raises(UsageError):
        session.submit_nowait(make_config())


async def test_session_used_before_it_is_open_says_what_to_do(backend: FakeBackend) -> None:
    with pytest.raises(UsageError, match="async with"):
        open_session(backend).submit_nowait(make_config())


async def test_session_body_that_raises_closes_and_passes_the_error_on(backend: FakeBackend) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_session(backend) as session:
            await session.submit(make_config())
            raise ZeroDivisionError
    assert session.jobs()[0].task_id == "1"


async def test_download_writes_the_archive_under_its_name(
    session: Session, backend: FakeBackend, tmp_path: Path
) -> None:
    job = await session.submit(make_config(), label="a/b")
    path = await job.download(tmp_path / "new", name="{task_id}-{label}.zip")
    assert path.read_bytes() == backend.archive
    assert path.parent == tmp_path / "new"
    assert path.name.startswith("1-")
    assert (job.state, job.path) == (JobState.DOWNLOADED, path)


async def test_run_submits_waits_and_downloads(session: Session, backend: FakeBackend, tmp_path: Path) -> None:
    path = await session.run(make_config(), tmp_path)
    assert path.read_bytes() == backend.archive


@pytest.mark.parametrize(("folder", "name"), [("models", "{foo}.zip"), ("file", None), ("file/below", None)])
async def test_run_to_where_no_archive_can_come_raises_before_anything_is_sent(
    session: Session, backend: FakeBackend, tmp_path: Path, folder: str, name: str | None
) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError):
        await session.run(make_config(), tmp_path / folder, name=name)
    assert (backend.creates, session.jobs()) == (0, [])


async def test_run_where_the_archive_does_not_fit_raises_before_anything_is_sent_unless_forced(
    session: Session, backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    size = archive_bytes(config)
    assert size is not None
    monkeypatch.setattr(
        "crynux_async.downloads.target.shutil.disk_usage", lambda _: SimpleNamespace(total=2 * size, free=size - 1)
    )
    with pytest.raises(UsageError, match="too little room") as caught:
        await session.run(config, tmp_path)
    assert (caught.value.field, backend.creates, session.jobs()) == ("folder", 0, [])
    await session.check_target(config, tmp_path, has_room=True)


@pytest.mark.parametrize(("folder", "name"), [("models", "{foo}.zip"), ("file", None)])
async def test_download_to_where_no_archive_can_come_raises_while_the_job_still_runs(
    session: Session, tmp_path: Path, folder: str, name: str | None
) -> None:
    (tmp_path / "file").write_text("no folder")
    job = session.submit_nowait(make_config())
    with pytest.raises(UsageError):
        await job.download(tmp_path / folder, name=name)
    assert (job.done, job.folder) == (False, None)


async def test_two_callers_of_one_download_share_the_transfer(
    session: Session, backend: FakeBackend, tmp_path: Path
) -> None:
    job = await session.submit(make_config())
    first, second = await asyncio.gather(job.download(tmp_path), job.download(tmp_path))
    assert first == second
    assert backend.open_results == 1


async def test_download_cancelled_by_one_caller_goes_on_for_the_other(
    session: Session, backend: FakeBackend, tmp_path: Path
) -> None:
    backend.archive = make_archive(extra_bytes=5_000_000)
    backend.may_download.clear()
    job = await (await session.submit(make_config()))
    first, second = (asyncio.create_task(job.download(tmp_path)) for _ in range(2))
    await asyncio.sleep(1)
    first.cancel()
    await asyncio.sleep(1)
    backend.may_download.set()
    assert (await second).stat().st_size > 5_000_000
    assert first.cancelled()


async def test_download_cancelled_by_every_caller_stops_and_goes_on_later(
    session: Session, backend: FakeBackend, tmp_path: Path
) -> None:
    backend.may_download.clear()
    job = await (await session.submit(make_config()))
    callers = [asyncio.create_task(job.download(tmp_path)) for _ in range(2)]
    await asyncio.sleep(1)
    for caller in callers:
        caller.cancel()
    await asyncio.sleep(1)
    assert session.statistics().downloading == 0
    backend.may_download.set()
    assert (await job.download(tmp_path)).name == "1.zip"


async def test_download_of_another_keys_task_raises_and_the_job_stays_succeeded(
    session: Session, backend: FakeBackend, tmp_path: Path
) -> None:
    backend.result_error = OwnershipError("invalid api key", field="api_key")
    job = await session.submit(make_config())
    with pytest.raises(OwnershipError):
        await job.download(tmp_path)
    assert job.state is JobState.SUCCEEDED


@pytest.mark.parametrize("ends", ["download", "expired"])
async def test_result_that_is_not_found_once_is_asked_for_again_a_minute_later(
    session: Session, backend: FakeBackend, tmp_path: Path, ends: str
) -> None:
    async def unknown(task: Task) -> Look:
        asked.append(monotonic())
        raise NotFoundError("record not found", status=500)

    asked: list[float] = []
    job = await session.submit(make_config())
    await job
    backend.look = unknown  # type: ignore[method-assign]
    backend.result_error = NotFoundError("Task not found", status=400)
    download = asyncio.create_task(job.download(tmp_path))
    await asyncio.sleep(30)
    assert (len(asked), job.state, download.done()) == (1, JobState.SUCCEEDED, False)
    if ends == "download":
        backend.result_error = None
        assert (await download).read_bytes() == backend.archive
        return
    with pytest.raises(JobExpiredError):
        await download
    assert (len(asked), job.state) == (2, JobState.EXPIRED)
    assert asked[1] - asked[0] >= 60


async def test_download_of_a_deleted_task_raises_expired(
    session: Session, backend: FakeBackend, tmp_path: Path
) -> None:
    job = await (await session.submit(make_config()))
    backend.result_error = NotFoundError("Task not found", status=400)
    backend.looks["1"] = gone
    with pytest.raises(JobExpiredError):
        await job.download(tmp_path)
    assert job.state is JobState.EXPIRED


async def test_attach_follows_a_task_to_its_end(session: Session, backend: FakeBackend) -> None:
    backend.created["7"], backend.created_at["7"] = make_config(), monotonic()
    job = session.attach(7)
    assert session.attach("7") == session.attach(" 7 ") == job
    await job
    assert job.state is JobState.SUCCEEDED


async def test_job_that_another_key_sends_is_that_key_s_from_then_on(backend: FakeBackend) -> None:
    ledger = MemoryLedger()
    backend.answers.append(AuthError("unknown key"))
    async with open_session(backend, ledger=ledger) as first:
        with pytest.raises(AuthError):
            await first.submit(make_config())
    other = FakeBackend()
    other.key_id = "another-key"
    async with open_session(other, ledger=ledger) as second:
        (job,) = second.jobs()
        await job.retry()
        await job.submitted()
    (row,) = await ledger.jobs()
    assert (row.state, row.key_id) == (JobState.RUNNING, "another-key")


async def test_attached_task_is_called_nothing_before_the_service_has_said_so(
    session: Session, backend: FakeBackend
) -> None:
    job = session.attach(backend.make_task(make_config()))
    assert job.state is JobState.ATTACHED
    assert "attached" in repr(job)
    await asyncio.sleep(5)
    assert (backend.polls, job.state) == (1, JobState.RUNNING)


async def test_attached_task_of_a_service_that_does_not_answer_stays_attached(
    backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_seldom(backend, monkeypatch)
    async with open_session(backend) as session:
        task_id = backend.make_task(make_config())
        backend.looks[task_id] = lambda: (_ for _ in ()).throw(ServerError("502"))
        job = session.attach(task_id, config=make_config())
        with pytest.raises(WaitTimeoutError, match="attached"):
            await job.wait(timeout=30 * 86_400)
        del backend.looks[task_id]
        assert (await job).state is JobState.SUCCEEDED


async def test_attach_of_a_job_that_was_given_up_follows_it_again(session: Session, backend: FakeBackend) -> None:
    job = await session.submit(make_config())
    job.abandon()
    assert session.attach(str(job.task_id)) == job
    assert (job.state, job.error, job.ended_at) == (JobState.ATTACHED, None, None)
    await asyncio.sleep(2)
    assert backend.polls == 1, "it is not looked at at once"
    assert (await job).state is JobState.SUCCEEDED


async def test_attach_of_a_task_that_was_gone_looks_at_it_again(session: Session, backend: FakeBackend) -> None:
    job = await session.submit(make_config())
    backend.looks["1"] = gone
    with pytest.raises(JobExpiredError):
        await job
    del backend.looks["1"]
    assert (await session.attach("1")).state is JobState.SUCCEEDED


async def test_attach_of_a_job_that_goes_on_or_has_ended_for_good_changes_nothing(
    session: Session, backend: FakeBackend
) -> None:
    job = await session.submit(make_config())
    assert session.attach("1").state is JobState.RUNNING
    await job
    polls = backend.polls
    assert session.attach("1").state is JobState.SUCCEEDED
    await asyncio.sleep(3600)
    assert backend.polls == polls


async def test_attach_to_an_unknown_task_expires(session: Session) -> None:
    began_at = monotonic()
    with pytest.raises(JobExpiredError):
        await session.attach(4711)
    assert monotonic() - began_at >= 60


async def test_task_that_is_not_found_once_goes_on(session: Session, backend: FakeBackend) -> None:
    job = await session.submit(make_config())
    answers = iter((NotFoundError("record not found", status=500),))

    def blink() -> Look:
        backend.looks.clear()
        raise next(answers)

    backend.looks["1"] = blink
    await job.wait()
    assert job.state is JobState.SUCCEEDED


@pytest.mark.parametrize("task_id", [0, -1, True, "seven", "", 1.5])
async def test_attach_to_an_impossible_task_id_raises(session: Session, task_id: Any) -> None:
    with pytest.raises(UsageError):
        session.attach(task_id)


async def test_status_errors_of_one_job_back_off_alone_and_it_ends_all_the_same(
    session: Session, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [ServerError("502"), TransportError("reset"), ValueError("a bug")]

    def next_answer() -> Look:
        if answers:
            raise answers.pop(0)
        return Look(seen=Seen.SUCCEEDED)

    bad, good = await session.submit(make_config()), await session.submit(make_config())
    backend.looks["1"] = next_answer
    with caplog.at_level(logging.ERROR, "crynux_async"):
        await asyncio.gather(bad.wait(), good.wait())
    assert bad.state is good.state is JobState.SUCCEEDED
    assert "a bug" in caplog.text


async def test_job_that_runs_longer_than_it_can_is_stalled_and_still_watched() -> None:
    backend = FakeBackend(duration=60_000)
    async with open_session(backend) as session:
        job = await session.submit(make_config(timeout=1800))
        before = monotonic()
        with pytest.raises(JobStalledError):
            await job.wait()
        assert 4 * (180 + 3600) <= monotonic() - before <= 4 * (180 + 3600) + 3600
        states = [event.state async for event in job.events() if isinstance(event, JobStateChanged)]
        assert states == [JobState.STALLED, JobState.SUCCEEDED]


async def test_events_tell_the_whole_life_of_a_job(session: Session, tmp_path: Path) -> None:
    job = session.submit_nowait(make_config())
    seen: list[Any] = []

    async def read() -> None:
        seen.extend([event async for event in job.events()])

    reader = asyncio.create_task(read())
    await job.download(tmp_path)
    await reader
    states = [event.state for event in seen if isinstance(event, JobStateChanged)]
    assert states == [JobState.PLANNED, JobState.RUNNING, JobState.SUCCEEDED, JobState.DOWNLOADED]
    kinds = [type(event).__name__ for event in seen]
    assert kinds[-2:] == ["ArchiveReady", "JobStateChanged"]
    assert "DownloadProgressed" in kinds
    assert sum(isinstance(event, JobSubmitted) for event in seen) == 1
    assert all(event.at.tzinfo is not None for event in seen)


async def test_events_of_an_ended_job_end_at_once(session: Session) -> None:
    job = await (await session.submit(make_config()))
    assert len([event async for event in job.events()]) == 1


async def test_session_events_name_every_job(session: Session) -> None:
    seen: list[Any] = []

    async def read() -> None:
        async for event in session.events():
            seen.append(event)
            if len({e.job_id for e in seen if isinstance(e, JobStateChanged) and e.state is JobState.SUCCEEDED}) == 3:
                return

    reader = asyncio.create_task(read())
    await asyncio.sleep(0)
    jobs = [session.submit_nowait(make_config()) for _ in range(3)]
    await reader
    assert {event.job_id for event in seen if isinstance(event, JobQueued)} == {job.job_id for job in jobs}


async def test_queued_job_knows_its_place_and_its_time() -> None:
    async with open_session(FakeBackend(), rate_limit=1) as session:
        jobs = [session.submit_nowait(make_config()) for _ in range(4)]
        await jobs[0].submitted()
        etas = [job.eta for job in jobs]
        assert etas[0] is None
        waits = [(eta - jobs[0].submitted_at).total_seconds() for eta in etas[1:]]  # type: ignore[operator]
        assert waits == pytest.approx([60, 120, 180], abs=1)


async def test_abandoned_job_is_not_followed_and_its_waiters_are_told(session: Session, backend: FakeBackend) -> None:
    job = await session.submit(make_config())
    waiting = asyncio.create_task(job.wait())
    await asyncio.sleep(1)
    job.abandon()
    with pytest.raises(JobAbandonedError):
        await waiting
    polls = backend.polls
    await asyncio.sleep(7200)
    assert backend.polls <= polls + 1


async def test_two_hundred_jobs_at_once_all_end(tmp_path: Path) -> None:
    backend = FakeBackend(duration=lambda config: 600.0 + config.seed)
    async with open_session(backend, rate_limit=600) as session:
        jobs = [session.submit_nowait(make_config(seed=seed)) for seed in range(1, 201)]
        await asyncio.gather(*(job.download(tmp_path) for job in jobs))
        assert session.statistics().jobs == {JobState.DOWNLOADED: 200}
    assert len(list(tmp_path.glob("*.zip"))) == 200
    assert backend.polls < 200 * 60


async def test_statistics_and_repr_count_jobs(session: Session) -> None:
    await session.submit(make_config())
    await session.submit(make_config())
    await session.wait_all()
    statistics = session.statistics()
    assert sum(statistics.jobs.values()) == 2
    assert statistics.polls > 0
    assert "2 succeeded" in repr(session)


async def test_job_by_name_unknown_raises(session: Session) -> None:
    job: Job = await session.submit(make_config())
    assert session.job(job.job_id) == job
    with pytest.raises(UsageError):
        session.job("nobody")


AWAITS: list[Callable[[Session, Path], Any]] = [
    lambda session, _: session.submit(make_config()),
    lambda session, folder: session.run(make_config(), folder),
    lambda session, folder: session.submit_nowait(make_config()).download(folder),
    lambda session, _: session.submit_nowait(make_config()).submitted(),
]


@pytest.mark.parametrize("call", range(len(AWAITS)))
@pytest.mark.parametrize("instant", [0.0, 0.05, 0.12, 0.3, 30.0, 70.0, 100.0])
async def test_any_call_cancelled_at_any_time_raises_cancelled_and_the_session_closes(
    call: int, instant: float, tmp_path: Path
) -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        task = asyncio.ensure_future(AWAITS[call](session, tmp_path))
        await asyncio.sleep(instant)
        if not task.done():
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert {job.task_id for job in session.jobs() if job.task_id} == set(backend.created)
    assert not list(tmp_path.glob("*.lock"))


async def test_close_cancelled_raises_cancelled_and_a_second_close_finishes(backend: FakeBackend) -> None:
    backend.answers.append(asyncio.Event().wait)
    session = open_session(backend, close_timeout=10)
    await session.open()
    session.submit_nowait(make_config())
    await asyncio.sleep(1)
    closing = asyncio.create_task(session.close())
    await asyncio.sleep(1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await session.close()
    assert session.jobs()[0].state is JobState.UNCONFIRMED


async def test_submit_many_returns_the_jobs_in_order_and_sends_them_all(session: Session, backend: FakeBackend) -> None:
    jobs = await session.submit_many([make_config(seed=seed) for seed in range(1, 501)], label=lambda c: f"s{c.seed}")
    assert [job.label for job in jobs] == [f"s{seed}" for seed in range(1, 501)]
    await session.wait_all(jobs)
    assert [config.seed for config in backend.received] == list(range(1, 501))


async def test_as_completed_yields_each_job_once_in_the_order_of_their_ends() -> None:
    backend = FakeBackend(duration=lambda config: 1000.0 * config.seed)
    async with open_session(backend) as session:
        jobs = [session.submit_nowait(make_config(seed=seed)) for seed in (3, 1, 2)]
        ends = [job async for job in session.as_completed(jobs)]
    assert ends == [jobs[1], jobs[2], jobs[0]]


async def test_as_completed_includes_jobs_that_ended_before_and_badly(session: Session) -> None:
    good = await (await session.submit(make_config()))
    bad = session.submit_nowait(make_config(model_name="x/fail"))
    assert [job.state async for job in session.as_completed()] == [good.state, bad.state]


async def test_close_that_is_cancelled_again_and_again_closes_the_ledger_all_the_same(backend: FakeBackend) -> None:
    ledger = ClosedLedger()
    session = open_session(backend, ledger=ledger, close_timeout=10)
    await session.open()
    await create_that_hangs(session, backend)
    for _ in range(3):
        closing = asyncio.create_task(session.close())
        await asyncio.sleep(1)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
    await asyncio.sleep(60)
    assert ledger.closed == 1


async def test_close_in_a_scope_that_ends_closes_the_ledger_all_the_same(backend: FakeBackend) -> None:
    ledger = ClosedLedger()
    session = open_session(backend, ledger=ledger, close_timeout=10)
    await session.open()
    await create_that_hangs(session, backend)
    with anyio.move_on_after(1) as scope:
        await session.close()
    assert scope.cancelled_caught
    await asyncio.sleep(60)
    assert ledger.closed == 1


def gone() -> Look:
    raise NotFoundError("record not found", status=500)


async def create_that_hangs(session: Session, backend: FakeBackend) -> None:
    backend.answers.append(asyncio.Event().wait)
    session.submit_nowait(make_config())
    while not session.statistics().creating:
        await asyncio.sleep(0.01)


async def test_job_that_is_left_unsent_is_waited_for_by_nobody(backend: FakeBackend) -> None:
    backend.answers.append(AuthError("invalid api key"))
    async with open_session(backend, max_creates=1) as session, asyncio.timeout(1.0):
        job = await session.enqueue(make_config())
        assert [one async for one in session.as_completed([job])] == [job]
        assert await session.wait_all([job]) == [job]
    assert (job.state, type(job.error)) == (JobState.PLANNED, AuthError)


async def test_as_completed_of_a_closed_session_raises(backend: FakeBackend) -> None:
    async with open_session(backend) as session:
        job = await session.submit(make_config())
        ends = session.as_completed([job])
        waiting = asyncio.create_task(anext(ends))  # type: ignore[arg-type]
        await asyncio.sleep(1)
    with pytest.raises(UsageError, match="closed"):
        await waiting


async def test_wait_all_with_timeout_says_how_many_have_not_ended(session: Session) -> None:
    jobs = [session.submit_nowait(make_config()) for _ in range(3)]
    with pytest.raises(WaitTimeoutError, match="3 of 3"):
        await session.wait_all(jobs, timeout=5)
    assert await session.wait_all(jobs) == jobs


async def test_poll_that_hangs_does_not_keep_other_jobs_from_being_polled() -> None:
    class HangingBackend(FakeBackend):
        async def look(self, task: Task) -> Look:
            if task.task_id == "1":
                await asyncio.Event().wait()
            return await super().look(task)

    backend = HangingBackend(duration=600)
    async with open_session(backend) as session:
        await session.submit(make_config(seed=1))
        other = await session.submit(make_config(seed=2))
        before = monotonic()
        await other.wait(timeout=3600)
        assert monotonic() - before < 900


async def test_attached_task_that_has_ended_is_looked_at_at_once(session: Session, backend: FakeBackend) -> None:
    backend.duration = 0.0
    job = session.attach(backend.make_task(make_config()))
    began_at = monotonic()
    await job.wait()
    assert monotonic() - began_at < 2 * backend.round_trip + 0.25  # a tick of the poll queue and one look


async def test_session_used_on_another_loop_of_another_thread_says_so_at_once(
    session: Session, backend: FakeBackend
) -> None:
    job = await session.submit(make_config())

    async def submit() -> None:
        await session.submit(make_config())

    async def wait() -> None:
        await job.wait()

    for use in (submit, wait, session.close):
        with pytest.raises(UsageError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(lambda use=use: asyncio.run(use()))
    with pytest.raises(UsageError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(session.submit_nowait, make_config())
    with pytest.raises(UsageError, match="run_coroutine_threadsafe"):
        await asyncio.to_thread(job.abandon)
    assert (backend.creates, job.state) == (1, JobState.RUNNING)
    await job.wait()  # the session goes on


async def test_submit_many_with_bad_configs_names_all_of_them_and_queues_none(session: Session) -> None:
    bad = make_config(timeout=1)
    with pytest.raises(ConfigError) as caught:
        await session.submit_many([make_config(), bad, make_config(), bad], label=lambda config: f"t{config.timeout}")
    assert [problem.field.split(" ")[:2] for problem in caught.value.problems] == [
        ["configs[1]", "'t1'"],
        ["configs[3]", "'t1'"],
    ]
    assert session.jobs() == []


async def test_submit_many_with_a_label_that_raises_queues_none(session: Session, backend: FakeBackend) -> None:
    labels = iter(("a", "b"))
    with pytest.raises(LookupError):
        await session.submit_many([make_config()] * 5, label=lambda _: {"a": "a"}[next(labels)])
    await asyncio.sleep(60)
    assert (session.jobs(), backend.creates) == ([], 0)


async def test_open_with_settings_that_cannot_work_closes_the_ledger(tmp_path: Path) -> None:
    bundle = tmp_path / "no.pem"
    bundle.write_text("no certificate")
    ledger = ClosedLedger()
    with pytest.raises(SettingsError):
        await Session(ledger=ledger, api_key="k" * 44, ca_bundle=str(bundle)).open()
    assert ledger.closed == 1


async def test_open_cancelled_closes_the_ledger_and_leaves_no_task_behind(backend: FakeBackend) -> None:
    ledger = ClosedLedger()
    before = asyncio.all_tasks()
    session = Session(backend=backend, ledger=ledger, api_key="k" * 44)
    ledger.may_claim.clear()
    opening = asyncio.create_task(session.open())
    await ledger.claiming.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert (ledger.closed, asyncio.all_tasks()) == (1, before)


async def test_model_that_is_not_fetched_is_warned_of_once(
    backend: FakeBackend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_seldom(backend, monkeypatch)
    async with open_session(backend) as session:
        job = await session.submit(make_config())
        await job.wait()
        await asyncio.sleep(6 * 86_400 + 12 * 3600)
    assert sum("was not downloaded" in record.getMessage() for record in caplog.records) == 1


class ClosedLedger(MemoryLedger):
    """A ledger that counts how often it was closed, and that may be slow to give jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = 0
        self.claiming = asyncio.Event()
        self.may_claim = asyncio.Event()
        self.may_claim.set()

    async def claim(self, *args: Any, **kwargs: Any) -> list[JobRow]:
        self.claiming.set()
        await self.may_claim.wait()
        return await super().claim(*args, **kwargs)

    async def close(self) -> None:
        self.closed += 1
        await super().close()


@pytest.mark.parametrize("limit", [-1, 2**63, 2.5, "3", True])
async def test_history_of_no_number_of_jobs_is_refused(session: Session, limit: Any) -> None:
    with pytest.raises(UsageError, match="limit is a whole number") as caught:
        await session.history(limit=limit)
    assert caught.value.field == "limit"


async def test_history_of_too_many_tags_is_refused_by_name(session: Session) -> None:
    with pytest.raises(UsageError, match="400 tags at most, not by 1,100") as caught:
        await session.history(tags={f"tag {number}": "x" for number in range(1_100)})
    assert caught.value.field == "tags"
