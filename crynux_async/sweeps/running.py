"""``SweepRun``: a sweep while it runs.

Theory of operation. All points are queued under their idempotency keys before anything else happens, so that whatever
is killed, the next run finds the same jobs. From then on the session drives them; a run only waits. One task, the
driver, takes in what happened (a job ended, its user retried or stopped) and decides by ``what_next`` what a trial does
next: it is sent again, it is looked for, or it is concluded (its archive fetched and read, its objective computed) in a
task of its own, so that no trial waits for another.

A create of unknown outcome is looked for when nothing of the sweep waits to be sent any more, because only a later
create closes the range in which its task can lie, and once more when all else has ended. It is sent again only where it
is proved that no task was made.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from decimal import Decimal
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import attrs

from crynux_async.budgets import Budget
from crynux_async.errors import BackendError, LedgerError, UsageError, only_error
from crynux_async.job import Job, record_of
from crynux_async.states import GOOD, JobState
from crynux_async.supervision.filing import SharedFilingArguments
from crynux_async.sweeps.notes import SCOPE, TAG, enter, enter_objective, enter_ranking
from crynux_async.sweeps.page import Report, ReportWriter
from crynux_async.sweeps.pictures import Pictures
from crynux_async.sweeps.table import Table, table_of
from crynux_async.sweeps.trial import AtEnd, Trial, conclude, varied_fields
from crynux_async.sweeps.view import Subject

if TYPE_CHECKING:
    from crynux_async.session import Session
    from crynux_async.sweeps.remembered import RememberedSweep
    from crynux_async.sweeps.sweep import Sweep

_log = logging.getLogger("crynux_async.sweeps.running")

OnTrial: TypeAlias = Callable[[Trial], Awaitable[None] | None]


def _check_count(_: object, attribute: "attrs.Attribute[int]", value: object) -> None:
    if type(value) is not int or value < 1:
        raise UsageError(f"{attribute.name} is a whole number above 0, not {value!r:.40}", field=attribute.name)


@attrs.frozen
class RetryAtMost:
    """Send a failed trial again.

    Args:
        times: How often at most, >= 1; tries of earlier processes count.
    """

    times: int = attrs.field(validator=_check_count)


@attrs.frozen
class StopAfter:
    """Send nothing more of the sweep once trials have failed.

    Args:
        failures: How many, >= 1.
    """

    failures: int = attrs.field(validator=_check_count)


OnFailure: TypeAlias = Literal["keep"] | RetryAtMost | StopAfter


def _policy(on_failure: OnFailure) -> OnFailure:
    # Without a type checker: who asks for "stop" means to pay for nothing more, and would.
    if on_failure != "keep" and not isinstance(on_failure, RetryAtMost | StopAfter):
        raise UsageError(
            f'on_failure is "keep", RetryAtMost(n) or StopAfter(n), not {on_failure!r:.40}', field="on_failure"
        )
    return on_failure


class Next(Enum):
    """What a trial does next."""

    CONCLUDE = auto()
    RETRY = auto()
    LOOK_FOR = auto()


def what_next(state: JobState, tries: int, on_failure: OnFailure) -> Next:
    """Return what a trial does whose job has ended.

    Args:
        state: Of its job.
        tries: How many tries that has had, >= 1.
        on_failure: What its user wants.
    """
    if state is JobState.UNCONFIRMED:
        return Next.LOOK_FOR
    # What its user gave up stays given up.
    is_failure = state not in GOOD and state is not JobState.ABANDONED
    if is_failure and isinstance(on_failure, RetryAtMost) and tries <= on_failure.times:
        return Next.RETRY
    return Next.CONCLUDE


class SweepRun:
    """A sweep that runs: a context that yields trials in the order of their ends. ``Sweep.run`` makes it.

    Args:
        subject: The sweep.
        session: Where it runs.
        begin: Queues what is missing and returns every trial, when the context is entered.
        at_end: What becomes of a trial that has ended well.
        on_failure: What becomes of failed trials.
        on_trial: Called with each finished trial.
        report: A page to keep up to date, or None.
    """

    def __init__(
        self,
        subject: Subject,
        session: "Session",
        begin: Callable[[], Awaitable[list[Trial]]],
        *,
        at_end: AtEnd,
        on_failure: OnFailure = "keep",
        on_trial: OnTrial | None = None,
        report: Report | None = None,
    ) -> None:
        self._subject = subject
        self._name = subject.name
        self._report = report
        self._open = AsyncExitStack()
        self._session = session
        self._begin = begin
        self._at_end = at_end
        self._on_failure = _policy(on_failure)
        self._on_trial = on_trial
        self._trials: list[Trial] = []
        self._waiting: dict[str, Trial] = {}
        self._unclear: dict[str, Trial] = {}
        self._has_looked = False
        self._failures = 0
        self._news: asyncio.Queue[Job | None] = asyncio.Queue()  # None: what is waited for has changed
        self._finished: asyncio.Queue[Trial | None] = asyncio.Queue()  # None: there will be no more
        self._driver: asyncio.Task[None] | None = None

    @classmethod
    def again(cls, found: "RememberedSweep", session: "Session", trials: Iterable[Trial]) -> Self:
        """Return a context that sends trials of an earlier run again, and yields them in the order of their ends.

        Args:
            found: The sweep, as ``recall`` returned it.
            session: Where it runs.
            trials: Some of its trials; their archives go where they were wanted.
        """

        async def begin() -> list[Trial]:
            return await _sent_again(trials)

        return cls(found.subject, session, begin, at_end=AtEnd(objective=found.objective))

    async def __aenter__(self) -> Self:
        # Before anything is queued: a page that cannot be written is found out before it costs anything.
        if self._report is not None:
            await asyncio.to_thread(self._report.prepare)
        self._trials = await self._begin()
        if self._report is not None:
            writer = ReportWriter(self._report, self._subject, self._session)
            await self._open.enter_async_context(writer.kept_up(lambda: self._trials))
        self._wait_for(self._trials)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # First, so that the page's last state has whatever it still entered.
        if self._driver is not None:
            self._driver.cancel()
            # What ended it is raised to whoever reads trials, and must not hide what ended the block.
            await asyncio.gather(self._driver, return_exceptions=True)
        await self._open.__aexit__(kind, error, trace)

    def __aiter__(self) -> AsyncIterator[Trial]:
        return self

    async def __anext__(self) -> Trial:
        if self._driver is None:
            raise UsageError("use 'async with sweep.run(session) as running' around the loop")
        trial = await self._finished.get()
        if trial is None:
            self._finished.put_nowait(None)  # for whoever asks again, and for other readers
            # It may have ended in an error, which is raised here.
            await self._driver
            raise StopAsyncIteration
        return trial

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self._name

    @property
    def trials(self) -> Sequence[Trial]:
        """Every trial, in the order of the sweep."""
        return tuple(self._trials)

    @property
    def table(self) -> Table:
        """What is known of every trial now, for CSV, JSON lines or pandas."""
        return table_of(self._trials, minimize=self._subject.minimize)

    async def report(
        self,
        path: str | Path,
        *,
        images: "str | Pictures | None" = None,
        across: str | None = None,
        down: str | None = None,
    ) -> Path:
        """Write a page about every trial as it is now, and return the file; it is put in its place whole.

        Args:
            path: As of ``Report``, and so the others.
            images: Where pictures of the models come from.
            across: The parameter whose values stand side by side in the grid of pictures.
            down: The parameter whose values stand below each other.

        Raises:
            UsageError: jinja2 is missing, or something given cannot be used.
            OSError: It cannot be written.
        """
        report = Report(path, images=images, across=across, down=down)
        report.check_parameters(varied_fields(self._trials))
        return await ReportWriter(report, self._subject, self._session).write(self._trials)

    async def wait(self) -> Sequence[Trial]:
        """Wait until every trial has ended, and return all of them, in the order of the sweep."""
        async for _ in self:
            pass
        return self.trials

    async def retry(self, trials: Iterable[Trial] | None = None) -> list[Trial]:
        """Try again, and return what is tried: each is yielded once more when it ends.

        A trial whose model could not be brought to disk is fetched again, which costs nothing; every other one is
        trained again, and paid for.

        Args:
            trials: Which; None for all that failed or were stopped. Unconfirmed ones only where they are given.

        Raises:
            UsageError: One of them runs or has a model.
            LedgerError: It could not be stored.
        """
        chosen = [trial for trial in self._trials if trial.state in ("failed", "stopped")] if trials is None else trials
        again = await _sent_again(chosen)
        self._wait_for(again)
        return again

    async def stop(self) -> None:
        """Send nothing more of this sweep, here and in every other process, until it is run or retried again.

        What was sent goes on and is followed.

        Raises:
            LedgerError: It could not be stored.
        """
        waiting = [trial for trial in self._trials if trial.job.state is JobState.PLANNED]
        await self._session.stop_sending([trial.job for trial in waiting])
        for trial in waiting:
            # Not all of them: one may have been sent while this was stored, and goes on.
            trial.is_stopped = trial.job.state is JobState.PLANNED
        self._news.put_nowait(None)

    def _wait_for(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            trial.is_stopped, trial.problem = False, None
            self._unclear.pop(trial.job.job_id, None)
            self._waiting[trial.job.job_id] = trial
        self._news.put_nowait(None)
        if self._driver is None or self._driver.done():
            # A new queue: the one of the driver that has ended says for ever that there will be no more.
            self._finished = asyncio.Queue()
            self._driver = asyncio.create_task(self._drive(), name=f"sweep {self._name}")

    async def _drive(self) -> None:
        # This driver's own: one that comes after it has another one.
        finished = self._finished
        try:
            async with asyncio.TaskGroup() as group:
                while self._waiting or self._unclear:
                    await self._drop_stopped()
                    watcher = group.create_task(self._watch([trial.job for trial in self._waiting.values()]))
                    try:
                        await self._take_news(group)
                    finally:
                        watcher.cancel()
                    await self._look_for_lost(group)
        except* Exception as errors:
            raise only_error(errors) from None
        finally:
            finished.put_nowait(None)

    async def _watch(self, jobs: Sequence[Job]) -> None:
        async with aclosing(self._session.as_completed(jobs)) as ends:
            async for job in ends:
                self._news.put_nowait(job)

    async def _take_news(self, group: asyncio.TaskGroup) -> None:
        """Take in what happens until other jobs are to be watched, or lost ones are to be looked for."""
        has_changed = False
        # What stands behind a change is taken in first: one new watcher for all of it.
        while self._waiting and not (has_changed and self._news.empty()):
            job = await self._news.get()
            if job is None:
                has_changed = True
                continue
            trial = self._waiting.get(job.job_id)
            if trial is None:
                continue
            if not job.done:  # it was set aside, or sent again since, and is watched by nobody any more
                has_changed = True
                continue
            del self._waiting[job.job_id]
            if await self._take_end(trial, group) or self._is_time_to_look():
                return

    async def _take_end(self, trial: Trial, group: asyncio.TaskGroup) -> bool:
        """Do what follows from an end, and return whether other jobs are to be watched now."""
        following = what_next(trial.job.state, record_of(trial.job).tries, self._on_failure)
        if following is Next.LOOK_FOR:
            self._unclear[trial.job.job_id] = trial
            self._has_looked = False
        elif following is Next.RETRY:
            await trial.job.retry()
            self._waiting[trial.job.job_id] = trial
            return True
        else:
            self._failures += trial.job.state not in GOOD
            group.create_task(self._conclude(trial))
            # Once, not from then on: what its user retries after that goes on in spite of the next failure.
            if isinstance(self._on_failure, StopAfter) and self._failures == self._on_failure.failures:
                await self.stop()
        return False

    def _is_time_to_look(self) -> bool:
        if not self._unclear or self._has_looked:
            return False
        return all(trial.job.state is not JobState.PLANNED for trial in self._waiting.values())

    async def _look_for_lost(self, group: asyncio.TaskGroup) -> None:
        """Look for the tasks of creates of unknown outcome, when it is time."""
        if not self._unclear or (self._waiting and not self._is_time_to_look()):
            return
        self._has_looked = True
        try:
            await self._session.reconcile()
        except (UsageError, BackendError) as error:
            _log.warning("sweep %r: unconfirmed trials could not be looked for: %s", self._name, error)
        # All lost creates were looked for, so also those of trials of whose end nothing was heard here yet. Of what is
        # waited for, nothing was planned before.
        for trial in list(self._waiting.values()):
            if trial.job.state is JobState.PLANNED and not trial.is_stopped:
                await trial.job.retry()
        for job_id, trial in list(self._unclear.items()):
            if trial.job.state is JobState.PLANNED:  # certainly not created: sending it again is safe
                await trial.job.retry()
            if trial.job.state is not JobState.UNCONFIRMED:
                self._waiting[job_id] = self._unclear.pop(job_id)
        # Nothing of this sweep will close the range any more in which their tasks can lie.
        if not self._waiting:
            for trial in self._unclear.values():
                group.create_task(self._conclude(trial))
            self._unclear.clear()

    async def _drop_stopped(self) -> None:
        """Wait no longer for what will not be sent until its user says so."""
        for job_id, trial in list(self._waiting.items()):
            if trial.state == "stopped" and not trial.job.done:
                del self._waiting[job_id]
                self._finished.put_nowait(trial)

    async def _conclude(self, trial: Trial) -> None:
        await conclude(trial, self._at_end)
        await self._keep_objective(trial)
        await call_back(self._on_trial, trial)
        self._finished.put_nowait(trial)

    async def _keep_objective(self, trial: Trial) -> None:
        """Let the ledger know what a trial is ranked by, for whoever looks at the sweep without its script."""
        if trial.objective is None:
            return
        try:
            await enter_objective(self._session.ledger, trial.job.job_id, trial.objective)
        except LedgerError as error:  # the model is there, and the next run enters it
            _log.warning("sweep %r: the objective of trial %d is not kept: %s", self._name, trial.number, error)


async def call_back(on_trial: OnTrial | None, trial: Trial) -> None:
    """Call a user's function with a finished trial; what it raises is logged and must not cost the sweep."""
    if on_trial is None:
        return
    try:
        result = on_trial(trial)
        if inspect.isawaitable(result):
            await result
    except Exception:
        _log.exception("on_trial() of trial %d (%s)", trial.number, trial.label)


async def begin(sweep: "Sweep", session: "Session", *, force: bool, report: Report | None) -> list[Trial]:
    """Queue what is missing of a sweep, and return its trials.

    Args:
        sweep: The sweep.
        session: Where it runs.
        force: Whether points are sent that advice says cannot work.
        report: The page that will be kept up to date, or None.

    Raises:
        ConfigError: Some points are no configs or cannot work; nothing is queued.
        UsageError: The page is to be ordered by what no point changes; nothing is queued.
        ConflictError: The name stands for another base.
        LedgerError: They could not be stored; none is sent.
    """
    points = await asyncio.to_thread(sweep.plan)
    points.require_good()
    if report is not None:
        report.check_parameters(varied_fields(points.good))
    # Before anything is queued, or two scripts with one name and two bases would both run.
    await enter(session.ledger, sweep)
    if sweep.ranking is not None:
        await enter_ranking(session.ledger, sweep.name, sweep.ranking)
    jobs = await session.submit_many(
        (point.config for point in points.good),
        label=[point.label for point in points.good],
        idempotency_key=[point.key for point in points.good],
        folder=sweep.folder,
        file_name=sweep.name_template,
        force=force,
        **_filing(sweep),
    )
    return [Trial(point, job) for point, job in zip(points.good, jobs, strict=True)]


def _filing(sweep: "Sweep") -> SharedFilingArguments:
    """Return what a sweep's jobs are filed under, and what pays for them: a budget of its own, or the session's."""
    # The tag comes last: a sweep is found by it, and no tag of a user's may take its place.
    filing: SharedFilingArguments = {"group": sweep.name, "tags": {**sweep.tags, TAG: sweep.name}}
    if sweep.budget_cnx is not None:
        # Its name is the sweep's, so that all processes that run it share one; by its text, as 0.1 is no 0.1 in binary.
        filing["budget"] = Budget(f"{SCOPE}:{sweep.name}", cnx=Decimal(str(sweep.budget_cnx)))
    return filing


async def _sent_again(trials: Iterable[Trial]) -> list[Trial]:
    """Send trials again that have no model, and return all of them."""
    chosen = list(trials)
    for trial in chosen:
        # What has a model is not trained again: it is fetched, by whoever concludes it.
        if trial.job.state not in GOOD:
            await trial.job.retry()
    return chosen
