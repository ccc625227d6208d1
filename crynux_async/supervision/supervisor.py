"""The one task group: runs the submitter, the follower, the fetcher and the scribe, and every task that they ask for.

What may be done is decided by the pure modules (``rate_limit``, ``polling``, ``states``); this module only keeps their
carriers alive, gives them tasks, and ends them in order: first no new create, then the answers of those under way, then
everything else, then the last words to the ledger.
"""

import asyncio
import logging
import secrets
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import attrs

from crynux_async.backends.base import Backend
from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import CrynuxError, LedgerError, UsageError
from crynux_async.job import Job
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobRow, Ledger
from crynux_async.pacing.gate import Gate
from crynux_async.settings import Settings
from crynux_async.states import FOLLOWED, GOOD, JobState, Signal, may
from crynux_async.supervision.fetcher import Fetcher
from crynux_async.supervision.follower import Follower
from crynux_async.supervision.owners import is_gone, new_owner
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.submitter import Submitter
from crynux_async.supervision.take_over import CUT_OFF, UNFINISHED, Unconfirmed, job_from_row, lost_attempt

_log = logging.getLogger("crynux_async.supervision.supervisor")

LEASE = timedelta(seconds=60)
_RENEW = 20.0
_LEDGER_RETRY = 5.0
_ASKED_ONE_BY_ONE = 100
_RETENTION = timedelta(days=7)
_WARN_BEFORE = timedelta(days=1)
_LOOK_FOR_EXPIRING = 3600.0


class Supervisor:
    """Drives every job of a session. Must be made inside a running event loop.

    Args:
        backend: Who runs the tasks.
        settings: Limits, intervals and time-outs.
        ledger: Where jobs are remembered; open.
        gate: Decides when creates may be sent.
    """

    def __init__(self, backend: Backend, settings: Settings, ledger: Ledger, gate: Gate) -> None:
        self._backend = backend
        self._settings = settings
        self._ledger = ledger
        self._owner = new_owner()
        self._group: anyio.abc.TaskGroup | None = None
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self._closed = False
        self.register = JobRegister(settings.base_url, settings.key_id)
        self.follower = Follower(backend, settings, self.register, self._spawn, self._fetch_if_resumed)
        self.submitter = Submitter(
            backend,
            settings,
            self.register,
            ledger=ledger,
            add=self._add,
            gate=gate,
            spawn=self._spawn,
            on_accepted=self.follower.follow,
        )
        self.fetcher = Fetcher(backend, settings, self.register, self._spawn)

    async def run(self, started: "asyncio.Future[None]") -> None:
        """Run until ``stop()``, in whichever task calls this; ``started`` is set when jobs can be taken."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                await self._begin()
                sending = anyio.CancelScope()
                group.start_soon(self._send, sending)
                for work in (self.follower.run, self._scribe, self._keep_leases, self._warn):
                    group.start_soon(work)
                started.set_result(None)
                await self._stop.wait()
                sending.cancel()
                await self._drain()
                group.cancel_scope.cancel()
        except BaseException as error:
            if not started.done():
                started.set_exception(_only(error))
                return
            raise
        finally:
            self._closed = True
            self._group = None
            self.register.close()
            with anyio.CancelScope(shield=True):
                await self._end()

    def stop(self) -> None:
        """Begin to end: creates under way get ``close_timeout`` seconds for their answer."""
        self._closed = True
        self._stop.set()

    def check_open(self) -> None:
        """Raise UsageError when nothing follows jobs any more."""
        if self._closed:
            raise UsageError(
                "the session is closed, so nothing follows the job any more; its task, if it has one, goes on at the "
                "bridge and can be followed again with session.attach(task_id)"
            )

    def submit(self, job: Job) -> None:
        """Take in a planned job and queue it."""
        self.check_open()
        self.submitter.check_ledger()
        self.register.add(job)
        self.submitter.enqueue(job)

    def attach(self, job: Job) -> None:
        """Take in a job that the bridge has already."""
        self.check_open()
        self.register.add(job)
        self.submitter.remember(job)
        self.follower.follow(job)

    def learn(self, job: Job, signal: Signal) -> None:
        """Take note of a decision of the user."""
        was_followed = job.state in FOLLOWED
        self.register.learn(job, signal)
        if was_followed and job.state not in FOLLOWED:
            self.follower.forget(job)

    def note(self, job: Job) -> None:
        """Remember what changed about a job."""
        self.register.note(job)

    def resubmit(self, job: Job) -> Job:
        """Send a job's config again, in the same job if it was never sent, else in a new one."""
        self.check_open()
        if job.config is None:
            raise UsageError(
                "the config of an attached task is not known, so it cannot be sent again", job_id=job.job_id
            )
        if job.state is JobState.PLANNED:
            if job.queue_number == 0:
                self.submitter.enqueue(job, is_saved=job.is_saved)
            return job
        if job.state in FOLLOWED | GOOD:
            raise UsageError(f"{job!r} runs or has a model; submit its config as a new job if that is what you want")
        new = Job(job_id=new_job_id(), config=job.config, label=job.label, keeper=self, wanted=job.wanted)
        job.resubmitted_as = new.job_id
        self.register.note(job)
        if may(job.state, Signal.ABANDON):
            self.learn(job, Signal.ABANDON)
        self.submit(new)
        return new

    def expected_at(self, job: Job) -> datetime | None:
        """Return when a planned job will be sent as far as is known, or None."""
        return self.submitter.expected_at(job)

    async def fetch(self, job: Job, folder: Path, name: str) -> Path:
        """Bring a job's archive to disk."""
        self.check_open()
        return await self.fetcher.fetch(job, folder, name)

    async def unconfirmed(self) -> list[Unconfirmed]:
        """Return the jobs whose create has an unknown outcome, each with the bracket of its task id."""
        found = []
        for job in self.register.select({JobState.UNCONFIRMED}):
            attempt = lost_attempt(await self._ledger.attempts(job_id=job.job_id))
            if attempt is not None and job.config is not None:
                after, before = await self._ledger.bracket(attempt)
                found.append(
                    Unconfirmed(
                        job=job, began_at=attempt.began_at, digest=job.config.digest(), after=after, before=before
                    )
                )
        return found

    async def adopt(self, job: Job, task_id: int) -> None:
        """Take a task for the one that an unconfirmed job made, and follow it.

        Raises:
            LedgerError: The ledger has the task under another job, or cannot be written; nothing is changed.
        """
        now = self.submitter.date(job.planned_at)
        found = {"task_id": task_id, "submitted_at": now, "state": JobState.RUNNING, "ended_at": None, "error": ""}
        await self._ledger.update({job.job_id: found})
        self.register.accepted(job, task_id, now)
        self.follower.follow(job)

    async def history(self, **selection: Any) -> list[JobRow]:
        """Return rows of the ledger, those of earlier processes included."""
        await self._tell_ledger()
        return await self._ledger.jobs(backend=self._settings.base_url, **selection)

    async def planned(self) -> None:
        """Wait until every planned job is in the ledger.

        Raises:
            LedgerError: That failed.
        """
        await self.submitter.all_saved()

    async def _begin(self) -> None:
        """Take over what earlier processes left; those that have certainly ended hold nothing any more."""
        for owner in await self._ledger.owners():
            if is_gone(owner):
                await self._ledger.release(owner)
        self.follower.restore(await self._ledger.load_hazards(self._settings.base_url))
        await self._take_over()

    async def _take_over(self) -> None:
        """Take in every unfinished job that nobody follows (any more)."""
        now = utc_now()
        rows = await self._ledger.claim(
            self._owner, backend=self._settings.base_url, now=now, until=now + LEASE, states=UNFINISHED
        )
        rows = [row for row in rows if row.job_id not in self.register]
        if rows:
            attempts = await self._attempts_of(rows)
            self._take_in([await self._close_attempts(row, attempts) for row in rows], attempts)

    async def _close_attempts(self, row: JobRow, attempts: dict[str, list[AttemptRow]]) -> JobRow:
        """Say of a create that was under way when its process ended that its outcome is not known; return the row.

        Only now does its bracket get an upper end: a task with a larger number was made after this. Job and attempt
        change in one step: a process that dies between two would leave a job that looks as if it was never sent.
        """
        for attempt in attempts.get(row.job_id, ()):
            if attempt.outcome is not None:
                continue
            ended = self.submitter.date(attempt.began_at)
            lost = attrs.evolve(attempt, outcome=AttemptOutcome.UNKNOWN, answered_at=ended)
            changes: dict[str, Any] = {"state": JobState.UNCONFIRMED, "ended_at": ended, "error": CUT_OFF}
            try:
                await self._ledger.finish(lost, **changes)
            except LedgerError:
                if self._ledger.failure is not None:
                    raise
                # Its process lives after all, and was faster.
                attempts[row.job_id] = await self._ledger.attempts(job_id=row.job_id)
                return await self._ledger.get(row.job_id) or row
            row = attrs.evolve(row, **changes)
        return row

    def _take_in(self, rows: Sequence[JobRow], attempts: dict[str, list[AttemptRow]]) -> None:
        for row in rows:
            job = job_from_row(row, attempts.get(row.job_id, ()), self)
            self.register.add(job)
            self.submitter.date(max(filter(None, (row.planned_at, row.submitted_at, row.ended_at))))
            if job.state is not row.state:
                self.register.note(job)
            if job.state in FOLLOWED:
                self.follower.follow(job)
        _log.info("took over %d unfinished jobs", len(rows))
        # Oldest first: the bridge deletes what is too old.
        for job in sorted(self.register.select({JobState.SUCCEEDED}), key=lambda job: job.ended_at or job.planned_at):
            self._fetch_if_resumed(job)

    async def _attempts_of(self, rows: Sequence[JobRow]) -> dict[str, list[AttemptRow]]:
        """Return the attempts of the jobs that may not have been accepted, by job.

        They are not looked for by their times: a clock that was set back would hide a create that was under way.
        """
        found: dict[str, list[AttemptRow]] = defaultdict(list)
        unsent = [row for row in rows if row.state in (JobState.PLANNED, JobState.UNCONFIRMED)]
        if len(unsent) <= _ASKED_ONE_BY_ONE:
            for row in unsent:
                found[row.job_id] = await self._ledger.attempts(job_id=row.job_id)
        else:
            for attempt in await self._ledger.attempts(backend=self._settings.base_url):
                found[attempt.job_id].append(attempt)
        return found

    async def _add(self, rows: Sequence[JobRow]) -> None:
        if rows:
            await self._ledger.add(rows, owner=self._owner, until=utc_now() + LEASE)

    async def _send(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self.submitter.run()

    async def _scribe(self) -> None:
        """Tell the ledger what changed, for ever."""
        while True:
            await self.register.has_changes.wait()
            try:
                await self._tell_ledger()
            except LedgerError as error:
                _log.error("the ledger cannot be told what changed, trying again in %g s: %s", _LEDGER_RETRY, error)
                await asyncio.sleep(_LEDGER_RETRY)

    async def _tell_ledger(self) -> None:
        changes = self.register.take_changes()
        try:
            if changes:
                await self._ledger.update(changes)
        except LedgerError:
            for job_id in changes:
                self.register.note(self.register.get(job_id))
            raise

    async def _keep_leases(self) -> None:
        """Hold what is ours, take over what nobody holds, and keep what was learned, for ever."""
        trusted_from = monotonic()
        while True:
            before = utc_now()
            await asyncio.sleep(_RENEW)
            if utc_now() - before > LEASE:
                # The machine slept or its clock was set, and every lease seems to have ended: those who live renew
                # theirs within a lease, by the clock that cannot be set.
                trusted_from = monotonic() + LEASE.total_seconds()
            try:
                await self._ledger.renew(self._owner, until=utc_now() + LEASE)
                if monotonic() >= trusted_from:
                    await self._take_over()
                await self._save_hazards()
            except LedgerError as error:
                _log.error("leases cannot be renewed: %s", error)

    async def _save_hazards(self) -> None:
        learned = self.follower.learned()
        if learned:
            await self._ledger.save_hazards(self._settings.base_url, learned)

    def _fetch_if_resumed(self, job: Job) -> None:
        """Fetch what an earlier process was asked to download; here, whoever asked is waiting and fetches it."""
        if job.is_resumed and job.wanted is not None and not self.fetcher.is_fetching(job):
            self._spawn(self._fetch_wanted(job))

    async def _fetch_wanted(self, job: Job) -> None:
        assert job.wanted is not None
        try:
            await self.fetcher.fetch(job, *job.wanted)
        except CrynuxError as error:
            _log.warning("download of task %s: %s", job.task_id, error)

    async def _warn(self) -> None:
        """Warn before the bridge deletes models that nobody has fetched, for ever."""
        while True:
            limit = utc_now() - _RETENTION + _WARN_BEFORE
            for job in self.register.select({JobState.SUCCEEDED}):
                if job.ended_at is not None and job.ended_at < limit:
                    _log.warning(
                        "task %s ended %s and was not downloaded; a bridge deletes it after 7 days by default",
                        job.task_id,
                        f"{job.ended_at:%Y-%m-%d %H:%M} UTC",
                    )
            await asyncio.sleep(_LOOK_FOR_EXPIRING)

    async def _drain(self) -> None:
        """Wait for the answers of the creates under way, for a bounded time."""
        with anyio.move_on_after(self._settings.close_timeout):
            while self.submitter.creating:
                self._idle.clear()
                await self._idle.wait()

    async def _end(self) -> None:
        """Say the last words to the ledger."""
        try:
            await self.submitter.save_planned()
            await self._tell_ledger()
            await self._save_hazards()
            await self._ledger.release(self._owner)
        except LedgerError as error:
            _log.error("the ledger could not be told everything: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._group is None:
            work.close()
            raise UsageError("the session is closed")
        self._group.start_soon(self._guard, work)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one job's work; its failure is logged and never reaches another job."""
        try:
            await work
        except Exception:
            _log.exception("unexpected")
        finally:
            self._idle.set()


def new_job_id() -> str:
    """Return a name for a new job."""
    return f"j{secrets.token_hex(6)}"


def _only(error: BaseException) -> BaseException:
    """Return the one error in an exception group, or the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
