"""Handles on the jobs of other sessions: found, awaited, fetched and given up from anywhere. On virtual time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_asyncio

from benchmarks.scorecard.severing import Severable
from crynux_async import (
    AuthError,
    BudgetExceededError,
    ConfigError,
    CrynuxError,
    DownloadFailed,
    Job,
    JobAbandonedError,
    JobFailedError,
    JobState,
    LedgerBusyError,
    OwnershipError,
    ProtocolError,
    QuotaError,
    RejectedError,
    Session,
    SubmissionUnknownError,
    UsageError,
    WaitTimeoutError,
)
from crynux_async.budgets import Budget
from crynux_async.clock import monotonic
from crynux_async.errors import Problem
from crynux_async.ledgers.base import Ledger
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from tests.fake_backend import LEASE, FakeBackend, make_config
from tests.second_backend import Studio, StudioBackend

RENEW = LEASE / 3


def open_session(backend: FakeBackend, ledger: Any, **arguments: Any) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, **{"rate_limit": 6000, **arguments})


class Away(MemoryLedger):
    """A server that cannot be read for a while."""

    is_away = False

    def _answer(self) -> None:
        if self.is_away:
            raise LedgerBusyError("the database system is starting up")

    async def jobs(self, *arguments: Any, **options: Any) -> Any:
        self._answer()
        return await super().jobs(*arguments, **options)

    async def events(self, *arguments: Any, **options: Any) -> Any:
        self._answer()
        return await super().events(*arguments, **options)


async def test_whoever_waits_for_anothers_job_bears_a_ledger_that_is_away_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend, ledger = FakeBackend(duration=60), Away()
    async with open_session(backend, ledger) as owner, open_session(backend, ledger, follow=False) as onlooker:
        theirs = await onlooker.find((await owner.submit(make_config())).job_id)
        assert theirs is not None
        told: list[Any] = []

        async def wait() -> None:
            await theirs

        async def read() -> None:
            told.extend([event async for event in theirs.events(after=0)])

        waiting = [asyncio.create_task(wait()), asyncio.create_task(read())]
        await asyncio.sleep(1)
        ledger.is_away = True
        await asyncio.sleep(300)
        assert not any(task.done() for task in waiting)
        ledger.is_away = False
        await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert (theirs.state, told[-1].state) == (JobState.SUCCEEDED, JobState.SUCCEEDED)
    assert [event.number for event in told] == list(range(1, len(told) + 1))
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [
        "what others do cannot be read now; it is tried again: the database system is starting up",
        "what others do can be read again",
    ]


class Office:
    """Several sessions on one ledger."""

    def __init__(self, kind: str, folder: Path, stack: AsyncExitStack) -> None:
        self.kind = kind
        self.backend = FakeBackend(duration=60)
        self.shared = MemoryLedger()
        self._file = folder / "jobs.db"
        self.stack = stack

    def ledger(self) -> Ledger:
        return self.shared if self.kind == "memory" else SqliteLedger(self._file)

    async def session(self, *, backend: FakeBackend | None = None, **arguments: Any) -> Session:
        session = open_session(backend or self.backend, self.ledger(), **arguments)
        return await self.stack.enter_async_context(session)

    def refused(self, key_id: str = "another-key") -> FakeBackend:
        """Return the same service as another credential sees it, to which it hands out nothing."""
        seen = FakeBackend(duration=self.backend.duration)
        seen.key_id = key_id
        seen.created, seen.created_at = self.backend.created, self.backend.created_at
        seen.result_error = OwnershipError("invalid api key", field="api_key")
        return seen

    def rotated(self) -> FakeBackend:
        """Return the same service with a new credential beside which the old one is kept."""
        seen = Keeping(duration=self.backend.duration)
        seen.key_id, seen.kept = "new-key", {self.backend.key_id}
        seen.created, seen.created_at = self.backend.created, self.backend.created_at
        return seen


class Keeping(FakeBackend):
    """One that opens results of credentials that were replaced."""

    kept: Collection[str] = ()

    async def kept_key_ids(self) -> Collection[str]:
        return self.kept


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def office(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Office]:
    async with AsyncExitStack() as stack:
        yield Office(request.param, tmp_path, stack)


async def found(session: Session, job: Job) -> Job:
    handle = await session.find(job.job_id)
    assert handle is not None
    return handle


async def test_job_of_another_session_is_found_by_each_of_its_names(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config(), idempotency_key="k", label="cats/1", group="cats", tags={"rank": "8"})
    asks: list[dict[str, Any]] = [
        {"name": job.job_id},
        {"task_id": 1},
        {"task_id": "1"},
        {"idempotency_key": "k"},
        {"label": "cats/1"},
        {"label": "cats/1", "tenant": ""},
    ]
    assert [await other.find(**ask) for ask in asks] == [job] * len(asks)
    handle = await found(other, job)
    assert (handle.state, handle.config, handle.label, handle.group, dict(handle.tags), handle.idempotency_key) == (
        JobState.RUNNING,
        make_config(),
        "cats/1",
        "cats",
        {"rank": "8"},
        "k",
    )
    missing: list[dict[str, Any]] = [
        {"name": "j0"},
        {"task_id": 2},
        {"label": "cats"},
        {"label": "cats/1", "tenant": "t"},
    ]
    assert [await other.find(**ask) for ask in missing] == [None] * len(missing)
    with pytest.raises(UsageError):
        await other.find()


async def test_history_tells_of_every_job_and_picks_them_by_label_group_and_tags(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    for seed, (label, group, tags) in enumerate(
        [("cats/1", "cats", {"rank": "8"}), ("cats/2", "cats", {"rank": "4"}), ("dogs/1", "dogs", {"rank": "8"})], 1
    ):
        await owner.submit(make_config(seed=seed), label=label, group=group, tags=tags)

    async def labels(**where: Any) -> list[str]:
        return [job.label for job in await other.history(**where)]

    assert await labels() == ["cats/1", "cats/2", "dogs/1"]
    assert await labels(label_prefix="cats/") == ["cats/1", "cats/2"]
    assert await labels(group="dogs") == ["dogs/1"]
    assert await labels(tags={"rank": "8"}, newest_first=True) == ["dogs/1", "cats/1"]
    assert await labels(states={JobState.FAILED}) == []
    assert other.jobs() == []


async def test_job_is_found_by_the_task_of_an_earlier_try(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config(model_name="x/fail"))
    await owner.wait_all()
    await (await job.retry()).submitted()
    await owner.find(job.job_id)  # everything is stored
    handle = await other.find(task_id="1")
    assert (handle, handle.task_id if handle else None) == (job, "2")


async def test_end_of_another_sessions_job_is_heard_within_a_second(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config())
    handle = await found(other, job)
    ends: dict[str, float] = {}

    async def wait_for(name: str, one: Job) -> None:
        await one
        ends[name] = monotonic()

    await asyncio.gather(wait_for("owner", job), wait_for("other", handle))
    assert handle.state is JobState.SUCCEEDED
    assert ends["other"] - ends["owner"] <= 1.0


async def test_failure_of_another_sessions_job_is_raised_with_its_names(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config(model_name="x/fail"))
    with pytest.raises(JobFailedError) as caught:
        await found_and_awaited(other, job)
    assert (caught.value.job_id, caught.value.task_id) == (job.job_id, "1")


async def found_and_awaited(session: Session, job: Job) -> Job:
    return await (await found(session, job)).wait()


ERRORS = [
    RejectedError("rank is too large", field="rank", status=400, is_counted=True, answer='{"message": "no"}'),
    AuthError("the key is unknown", status=401, url="http://bridge/v1/images/models"),
    QuotaError("the key is used up", status=400),
    ProtocolError("a page came", status=404, answer="<html>", is_lasting=True),
    SubmissionUnknownError("the answer was lost", status=502, answer="bad gateway"),
    ConfigError([Problem(field="rank", message="too large")]),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_error_of_another_sessions_job_is_the_same_error(office: Office, error: CrynuxError) -> None:
    office.backend.answers.append(error)
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.enqueue(make_config())
    raised = []
    for handle in (job, await found(other, job)):
        with pytest.raises(type(error)) as caught:
            await handle.wait()
        raised.append(caught.value)
    own, heard = raised
    assert type(heard) is type(error)
    assert str(heard) == str(own)
    assert vars(heard) == vars(own)


@pytest.mark.parametrize(
    ("stored", "problems"),
    [
        ([{"field": "rank", "message": "too large", "hint": "try 8"}], (Problem(field="rank", message="too large"),)),
        ([{"message": "too large"}], (Problem(field="", message="too large"),)),
        (["too large"], (Problem(field="", message="too large"),)),
        ("too large", (Problem(field="", message="too large"),)),
    ],
    ids=["a field more", "a field less", "no fields", "no list"],
)
async def test_error_of_a_later_version_does_not_keep_a_listing_from_its_reader(
    office: Office, stored: Any, problems: tuple[Problem, ...]
) -> None:
    office.backend.answers.append(ConfigError([Problem(field="rank", message="too large")]))
    async with open_session(office.backend, office.ledger()) as first:
        job = await first.enqueue(make_config())
        with pytest.raises(ConfigError):
            await job.submitted()
    ledger = office.ledger()
    await ledger.open()
    (row,) = await ledger.jobs()
    later = attrs.evolve(row, job_id="later", last_event=0, error_facts={**row.error_facts, "problems": stored})
    await ledger.add([later])
    await ledger.close()
    session = await office.session(follow=False)
    errors = {each.job_id: each.error for each in await session.history()}
    assert errors.keys() == {job.job_id, "later"}
    assert isinstance(errors["later"], ConfigError)
    assert (str(errors["later"]), errors["later"].problems) == (row.error, problems)


async def test_error_of_a_budget_is_the_same_in_the_next_process() -> None:
    backend, ledger = StudioBackend(Studio()), MemoryLedger()
    async with Session(backend=backend, ledger=ledger, budget=Budget("small", cnx=1)) as session:
        job = await session.enqueue(make_config())
        with pytest.raises(BudgetExceededError) as caught:
            await job.submitted()
    async with Session(backend=StudioBackend(Studio()), ledger=ledger, follow=False) as later:
        error = (await found(later, job)).error
    assert isinstance(error, BudgetExceededError)
    assert vars(error) == vars(caught.value)


async def test_waiting_for_another_sessions_job_can_time_out_and_go_on(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    handle = await found(other, await owner.submit(make_config()))
    with pytest.raises(WaitTimeoutError):
        await handle.wait(timeout=10)
    assert (await handle.wait()).state is JobState.SUCCEEDED


async def test_nothing_is_listened_to_while_nobody_waits() -> None:
    backend, ledger = FakeBackend(duration=60), MemoryLedger()
    async with open_session(backend, ledger) as owner, open_session(backend, ledger, follow=False) as other:
        handle = await found(other, await owner.submit(make_config()))
        await asyncio.sleep(7)
        assert not ledger._bell._waiting
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(7)
        assert ledger._bell._waiting
        waiting.cancel()
        await asyncio.sleep(7)
        assert not ledger._bell._waiting
        await handle.wait()
        await asyncio.sleep(7)
        assert not ledger._bell._waiting


async def test_all_handles_on_one_job_show_the_same(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config())
    one, two = await found(other, job), (await other.history())[0]
    await one
    assert two.state is JobState.SUCCEEDED


async def test_session_that_does_not_follow_takes_nothing_over_and_follows_what_it_submits() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    way = Severable(ledger)
    dying = open_session(backend, way)
    await dying.open()
    left = await dying.submit(make_config(seed=1))
    await way.sever(dying)
    async with open_session(backend, ledger, follow=False) as onlooker:
        own = await onlooker.submit(make_config(seed=2))
        await own.wait()
        await asyncio.sleep(2 * LEASE)
        assert onlooker.jobs() == [own]
        handle = await found(onlooker, left)
        assert handle.state is JobState.RUNNING
        async with open_session(backend, ledger):
            assert (await handle.wait()).state is JobState.SUCCEEDED


async def test_handle_goes_on_when_its_session_takes_the_job_over() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    owner = open_session(backend, ledger)
    await owner.open()
    job = await owner.submit(make_config())
    async with open_session(backend, ledger) as other:
        handle = await found(other, job)
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(10)
        await owner.close()
        assert (await waiting).state is JobState.SUCCEEDED
        assert other.jobs() == [handle]
        assert other.statistics().jobs == {JobState.SUCCEEDED: 1}


async def test_ends_of_own_and_other_jobs_come_as_they_happen(office: Office) -> None:
    office.backend.duration = lambda config: 60.0 * config.seed
    owner, other = await office.session(), await office.session(follow=False)
    theirs = [await owner.submit(make_config(seed=seed)) for seed in (1, 3)]
    ours = [await other.submit(make_config(seed=seed)) for seed in (2, 4)]
    handles = [await found(other, job) for job in theirs]
    assert [job async for job in other.as_completed([*ours, *handles])] == [theirs[0], ours[0], theirs[1], ours[1]]


async def test_wait_all_hears_of_jobs_that_were_lost_meanwhile() -> None:
    backend, ledger = FakeBackend(duration=600), MemoryLedger()
    async with open_session(backend, ledger) as second, open_session(backend, ledger) as first:
        job = await first.submit(make_config())
        waiting = asyncio.create_task(first.wait_all())
        await asyncio.sleep(1)
        (fence,) = [holder.fence for holder in await ledger.holders() if holder.jobs]
        await ledger.leave(fence)  # as if it had been taken for dead
        await waiting
        assert job.state is JobState.SUCCEEDED
        assert second.statistics().jobs == {JobState.SUCCEEDED: 1}


async def test_job_given_up_from_elsewhere_is_given_up_by_its_owner(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config())
    handle = await found(other, job)
    handle.abandon()
    with pytest.raises(JobAbandonedError):
        await handle.wait()
    assert job.state is JobState.ABANDONED
    assert office.backend.creates == 1


async def test_planned_job_given_up_from_elsewhere_is_never_sent(office: Office) -> None:
    owner, other = await office.session(rate_limit=1), await office.session(follow=False)
    await owner.submit(make_config(seed=1))
    job = await owner.enqueue(make_config(seed=2))
    (await found(other, job)).abandon()
    with pytest.raises(JobAbandonedError):
        await job.submitted()
    assert office.backend.creates == 1


async def test_job_that_nobody_holds_is_given_up_at_once(office: Office) -> None:
    owner = open_session(office.backend, office.ledger())
    await owner.open()
    job = await owner.submit(make_config())
    await owner.close()
    other = await office.session(follow=False)
    handle = await found(other, job)
    handle.abandon()
    with pytest.raises(JobAbandonedError):
        await handle.wait(timeout=1)


async def test_model_of_another_session_is_fetched_where_it_was_asked_for(office: Office, tmp_path: Path) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    handle = await found(other, await owner.submit(make_config()))
    assert await handle.download(tmp_path / "here") == tmp_path / "here" / "1.zip"
    assert (tmp_path / "here" / "1.zip").read_bytes() == office.backend.archive
    assert (handle.state, office.backend.open_results) == (JobState.DOWNLOADED, 1)


async def test_transfer_of_another_session_is_waited_for_and_not_made_twice(office: Office, tmp_path: Path) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config())
    office.backend.may_download.clear()
    theirs = asyncio.create_task(job.download(tmp_path))
    await job.wait()
    ours = asyncio.create_task((await found(other, job)).download(tmp_path))
    await asyncio.sleep(30)
    assert not ours.done()
    office.backend.may_download.set()
    assert await theirs == await ours == tmp_path / "1.zip"
    assert office.backend.open_results == 1


async def test_job_of_another_credential_is_awaited_and_its_model_refused_at_once(
    office: Office, tmp_path: Path
) -> None:
    owner = await office.session()
    job = await owner.submit(make_config())
    foreign = office.refused()
    other = await office.session(backend=foreign, follow=False)
    handle = await found(other, job)
    for state in (JobState.RUNNING, JobState.SUCCEEDED):
        began = monotonic()
        with pytest.raises(OwnershipError, match=r"another credential \(fake-key\)") as caught:
            await handle.download(tmp_path / "theirs")
        assert (caught.value.job_id, caught.value.task_id) == (job.job_id, "1")
        assert monotonic() - began < 1
        assert (handle.state, handle.folder) == (state, None)  # and nothing is wanted now
        await handle.wait()
    # The one that may have it was not kept from it, and what it has brought is there for all.
    assert await job.download(tmp_path) == tmp_path / "1.zip"
    assert await (await found(other, job)).download(tmp_path) == tmp_path / "1.zip"
    # What is asked for elsewhere would have to come from the service.
    with pytest.raises(OwnershipError, match=r"another credential \(fake-key\)"):
        await (await found(other, job)).download(tmp_path / "theirs")
    assert (office.backend.results_asked, foreign.results_asked) == (1, 0)
    told = [event async for event in handle.events(after=0)]
    assert [event for event in told if isinstance(event, DownloadFailed)] == []


async def test_download_that_began_before_the_job_was_sent_is_refused_when_it_shows_with_which_credential(
    office: Office, tmp_path: Path
) -> None:
    foreign = office.refused()
    async with open_session(foreign, office.ledger(), rate_limit=1) as first:
        await first.submit(make_config(seed=1))
        planned = await first.enqueue(make_config(seed=2))
    other = await office.session(backend=foreign, follow=False)
    waiting = asyncio.create_task((await found(other, planned)).download(tmp_path))
    await asyncio.sleep(1)
    owner = await office.session(follow=False)
    job = await found(owner, planned)
    await (await job.retry())  # it sends the job with its own credential
    await asyncio.sleep(2 * RENEW)
    assert waiting.done()
    with pytest.raises(OwnershipError, match=r"another credential \(fake-key\)"):
        await waiting
    assert await job.download(tmp_path) == tmp_path / f"{job.task_id}.zip"


async def test_model_that_is_where_it_is_asked_for_is_handed_out_at_once_whoever_holds_the_job(
    office: Office, tmp_path: Path
) -> None:
    owner = await office.session()
    job = await owner.submit(make_config())
    path = await job.download(tmp_path)
    handle = await found(await office.session(follow=False), job)
    before = monotonic()
    assert await handle.download(tmp_path) == path
    assert monotonic() - before < 1
    assert office.backend.open_results == 1


@pytest.mark.parametrize("order", ["there before", "comes later"])
async def test_model_that_another_session_follows_is_fetched_where_the_credential_is(
    office: Office, tmp_path: Path, order: str
) -> None:
    async with open_session(office.backend, office.ledger()) as first:
        job = await first.submit(make_config(), folder=tmp_path)
    foreign = office.refused()
    owner: Session | None = None
    if order == "there before":
        other = await office.session(backend=foreign)
        assert [each.job_id for each in other.jobs()] == [job.job_id]
        owner = await office.session()
    else:
        other = await office.session(backend=foreign)
    handle = await found(other, job)
    assert (await handle).state is JobState.SUCCEEDED
    await asyncio.sleep(RENEW)
    owner = owner or await office.session()
    await asyncio.sleep(4 * RENEW)  # what is more than a share is taken at every third look
    assert (await found(owner, job)).path == tmp_path / "1.zip"
    told = [event async for event in handle.events(after=0)]
    assert [event for event in told if isinstance(event, DownloadFailed)] == []
    assert office.backend.open_results == 1


async def test_model_of_a_job_that_was_given_away_for_fairness_comes_back_to_whoever_planned_it(
    office: Office, tmp_path: Path
) -> None:
    owner = await office.session()
    jobs = await owner.submit_many([make_config(seed=seed) for seed in range(1, 7)], folder=tmp_path)
    for job in jobs:
        await job.submitted()
    foreign = office.refused()
    office.backend.duration = foreign.duration = 3600
    other = await office.session(backend=foreign)
    await asyncio.sleep(10 * RENEW)
    assert other.jobs(), "it follows some of them"
    await owner.wait_all(jobs)
    await asyncio.sleep(10 * RENEW)
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == [f"{number}.zip" for number in range(1, 7)]
    assert {job.state for job in jobs} == {JobState.DOWNLOADED}


async def test_credential_that_was_replaced_and_is_kept_still_opens_its_models(office: Office, tmp_path: Path) -> None:
    async with open_session(office.backend, office.ledger()) as first:
        wanted = await first.submit(make_config(seed=1), folder=tmp_path)
        other = await first.submit(make_config(seed=2))
    rotated = office.rotated()
    session = await office.session(backend=rotated)
    await session.wait_all()
    assert await (await found(session, other)).download(tmp_path) == tmp_path / "2.zip"
    await asyncio.sleep(1)
    assert (await found(session, wanted)).path == tmp_path / "1.zip"


async def test_model_of_an_attached_task_is_tried_once_by_whoever_may_not_have_it(
    office: Office, tmp_path: Path
) -> None:
    task_id = office.backend.make_task(make_config())
    foreign = office.refused()
    other = await office.session(backend=foreign)
    handle = other.attach(task_id)
    with pytest.raises(OwnershipError, match="invalid api key"):
        await handle.download(tmp_path)
    asked = foreign.results_asked
    await asyncio.sleep(4 * RENEW)
    assert foreign.results_asked == asked == 1
    owner = await office.session()
    await asyncio.sleep(4 * RENEW)
    assert (await found(owner, handle)).path == tmp_path / "1.zip"
    assert await handle.download(tmp_path) == tmp_path / "1.zip"


async def test_task_that_was_attached_is_followed_with_any_credential(office: Office) -> None:
    task_id = office.backend.make_task(make_config())
    async with open_session(office.backend, office.ledger()) as first:
        attached = first.attach(task_id)
        await asyncio.sleep(1)
    office.backend.key_id = "another-key"
    (job,) = (await office.session()).jobs()
    assert (job.job_id, (await job).state) == (attached.job_id, JobState.SUCCEEDED)


async def test_model_that_was_fetched_long_ago_is_found_by_a_script_that_was_started_again(
    office: Office, tmp_path: Path
) -> None:
    async with open_session(office.backend, office.ledger()) as first:
        await first.run(make_config(), tmp_path, idempotency_key="cats")
    second = await office.session()
    assert second.jobs() == []
    assert await second.run(make_config(), tmp_path, idempotency_key="cats") == tmp_path / "1.zip"
    assert (office.backend.creates, office.backend.open_results) == (1, 1)


async def test_whoever_waits_for_anothers_job_is_told_when_the_session_is_closed(office: Office) -> None:
    office.backend.duration = 6000
    owner = await office.session()
    other = open_session(office.backend, office.ledger(), follow=False)
    await other.open()
    handle = await found(other, await owner.submit(make_config()))
    waiting = [
        asyncio.create_task(work)  # each in its own way
        for work in (handle.wait(), other.wait_all([handle]), handle.download("models"))
    ]
    await asyncio.sleep(10)
    await other.close()
    told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert [type(error) for error in told] == [UsageError] * 3


async def test_job_that_its_owner_has_set_aside_is_told_to_whoever_waits_elsewhere_and_can_be_sent_from_there(
    office: Office,
) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    refused = asyncio.Event()

    async def refuse() -> None:
        await refused.wait()
        raise AuthError("the key was withdrawn", status=401)

    office.backend.answers.append(refuse)
    job = await owner.enqueue(make_config())
    handle = await found(other, job)
    waiting = [asyncio.create_task(work) for work in (handle.submitted(), handle.wait())]
    await asyncio.sleep(10)
    assert handle.state is JobState.PLANNED
    refused.set()
    told = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 10)
    assert ["the key was withdrawn" in str(error) for error in told] == [True, True]
    assert isinstance(told[0], CrynuxError)
    assert told[0].job_id == job.job_id
    await (await handle.retry()).submitted()
    assert (handle.task_id, handle.error, office.backend.creates) == ("1", None, 2)
    assert other.jobs() == []


async def test_failure_that_was_read_before_another_try_is_not_taken_for_the_end(office: Office) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config(model_name="x/fail"))
    await owner.wait_all()
    await owner.find(job.job_id)
    handle = await found(other, job)
    office.backend.duration = lambda config: 60 if office.backend.creates < 2 else 3600
    await (await job.retry()).submitted()
    await owner.find(job.job_id)
    assert (handle.state, handle.tries) == (JobState.FAILED, 1)
    with pytest.raises(WaitTimeoutError):
        await handle.wait(timeout=10)
    assert (handle.state, handle.tries) == (JobState.RUNNING, 2)


@pytest.mark.parametrize("way", ["wait_all", "events"])
async def test_end_of_the_newest_try_is_waited_for_through_an_old_handle(office: Office, way: str) -> None:
    owner, other = await office.session(), await office.session(follow=False)
    job = await owner.submit(make_config(model_name="x/fail"))
    await owner.wait_all()
    await owner.find(job.job_id)
    handle = await found(other, job)
    await job.retry()
    await owner.find(job.job_id)
    if way == "wait_all":
        await other.wait_all([handle])
    else:
        assert [event async for event in handle.events(after=0)]
    assert (handle.tries, handle.state, job.state) == (2, JobState.FAILED, JobState.FAILED)
