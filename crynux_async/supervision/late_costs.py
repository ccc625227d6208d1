"""Finds out what tries have cost of which a service gives something back after their user has given them up.

Nobody follows such a try any more. It is asked about the more seldom the longer it takes, by the session that has ended
it, or else by the next one that is opened or asked to reconcile.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio
import attrs

from crynux_async.backends.base import Backend, RefundsLate, Task
from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import BackendError, LedgerError, NotFoundError
from crynux_async.ledgers.base import JobChange, JobFilter, JobRow, Ledger, TaskRow
from crynux_async.states import STAGES, JobState, Stage
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.record import Record
from crynux_async.supervision.spending import settled
from crynux_async.supervision.take_over import TakeOver
from crynux_async.supervision.tasks import action_of

if TYPE_CHECKING:
    from crynux_async.ledgers.base import StepRow

_log = logging.getLogger("crynux_async.supervision.late_costs")

_FIRST_LOOK_AFTER = 10.0
_SHARE_OF_AGE = 0.1
_LEFT_SINCE = timedelta(days=7)  # nothing at a service takes as long


class LateCosts:
    """Asks for them, and enters them.

    Args:
        backend: The service; one that gives nothing back late is asked nothing.
        ledger: Has the tasks.
        onlookers: Has the jobs of others.
        writer: Stores what tries have cost.
        take_over: Takes jobs that nobody holds.
        looks_back: Whether to ask about what earlier sessions left, too.
    """

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        onlookers: Onlookers,
        *,
        writer: LedgerWriter,
        take_over: TakeOver,
        looks_back: bool,
    ) -> None:
        self._name, self._key_id = backend.name, backend.key_id
        self._service = backend if isinstance(backend, RefundsLate) else None
        self._ledger = ledger
        self._onlookers = onlookers
        self._writer = writer
        self._take_over = take_over
        self._looks_back = looks_back
        self._open: dict[str, tuple[float, float]] = {}  # since when, and when it is asked about next
        self._has_new = asyncio.Event()
        self._settling = anyio.Lock()

    def note(self, record: Record) -> None:
        """Ask from now on what the tries of a job have cost after all."""
        now = monotonic()
        self._open[record.job_id] = (now, now + _FIRST_LOOK_AFTER)
        self._has_new.set()

    async def run(self) -> None:
        """Ask about tries that were given up until all of them are known, for ever."""
        if self._service is None:
            return
        is_looking_back = self._looks_back
        while True:
            now = monotonic()
            try:
                if is_looking_back:
                    self._open |= dict.fromkeys(await self._left_by_others(), (now, now))
                    is_looking_back = False
                await self._settle([job_id for job_id, (_, at) in self._open.items() if at <= now])
            except LedgerError as error:
                _log.info("what was given up is asked about later: %s", error)
                await asyncio.sleep(_FIRST_LOOK_AFTER)
                continue
            self._has_new.clear()
            next_at = min((at for _, at in self._open.values()), default=None)
            try:
                async with asyncio.timeout_at(next_at):
                    await self._has_new.wait()
            except TimeoutError:
                pass

    async def settle_all(self) -> None:
        """Ask now about every try in the ledger whose cost is not known and that nobody follows.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        if self._service is not None:
            await self._writer.flush()
            await self._settle(await self._with_open_tries(await self._ledger.jobs(JobFilter(backend=self._name))))

    async def _left_by_others(self) -> list[str]:
        where = JobFilter(backend=self._name, states=(JobState.ABANDONED,), since=utc_now() - _LEFT_SINCE)
        return await self._with_open_tries(await self._ledger.jobs(where))

    async def _with_open_tries(self, jobs: Iterable[JobRow]) -> list[str]:
        mine = {job.job_id: job for job in jobs if job.key_id in ("", self._key_id)}
        tasks = await self._ledger.tasks(list(mine)) if mine else ()
        return list(dict.fromkeys(task.job_id for task in tasks if _is_open(mine[task.job_id], task)))

    async def _settle(self, job_ids: Sequence[str]) -> None:
        """Ask about jobs, and forget those of which nothing is left to be asked."""
        if not job_ids:
            return
        # A try that is entered by two at once would give its budget back twice what it holds.
        async with self._settling:
            await self._settle_alone(job_ids)

    async def _settle_alone(self, job_ids: Sequence[str]) -> None:
        noted = {job_id: self._open.get(job_id) for job_id in job_ids}
        await self._writer.persist(self._writer.flush)
        jobs = {job.job_id: job for job in await self._ledger.jobs(JobFilter(job_ids=job_ids))}
        tasks = [task for task in await self._ledger.tasks(job_ids) if _is_open(jobs[task.job_id], task)]
        steps = await self._ledger.steps(job_ids)
        waiting = set[str]()
        for task in tasks:  # one after the other: none of this is urgent
            if not await self._ask(task, [step for step in steps if step.job_id == task.job_id]):
                waiting.add(task.job_id)
        now = monotonic()
        for job_id, entry in noted.items():
            if self._open.get(job_id) != entry:
                continue  # it was given up once more meanwhile
            self._open.pop(job_id, None)
            if job_id in waiting:
                since = now if entry is None else entry[0]
                self._open[job_id] = (since, now + max(_FIRST_LOOK_AFTER, _SHARE_OF_AGE * (now - since)))
        self._has_new.set()

    async def _ask(self, task: TaskRow, steps: "Collection[StepRow]") -> bool:
        """Ask what a try has cost, and return whether there is nothing left to be asked."""
        assert self._service is not None
        try:
            spent = await self._service.final_cost(_shown(task, steps))
            return spent is not None and await self._enter(task, spent)
        except NotFoundError:
            _log.info("the service does not know any more what task %s cost", task.task_id)
            return True
        except (BackendError, LedgerError) as error:
            _log.info("what task %s cost is asked again later: %s", task.task_id, error)
        except Exception:
            _log.exception("what task %s cost", task.task_id)
        return False

    async def _enter(self, task: TaskRow, spent: int) -> bool:
        """Store what a try has cost, and return whether that was for this session to do."""
        (record,) = await self._onlookers.find(JobFilter(job_ids=[task.job_id]), limit=1, newest_first=False)
        is_taken = not record.is_ours
        if is_taken and not await self._take_over.take(record):
            return False  # its owner asks as well
        # While the service was asked, another session may have had the job and entered it.
        known = next(row for row in await self._ledger.tasks([task.job_id]) if row.task_id == task.task_id)
        if known.spent is None:
            date = known.ended_at or self._writer.date(known.made_at)
            end = attrs.evolve(known, spent=spent, ended_at=date, end=known.end or record.state)
            row, settlement = settled(record, known, end)
            await self._writer.change(JobChange(job_id=task.job_id, tasks=(row,), settlement=settlement))
        if is_taken:
            await self._writer.let_go([record])
        return True


def _is_open(job: JobRow, task: TaskRow) -> bool:
    """Whether nobody follows a try whose cost is not known."""
    is_over = task.try_number < job.tries or STAGES[job.state] in (Stage.FETCH, Stage.OVER)
    return task.member == 0 and task.spent is None and task.backend == job.backend and is_over


def _shown(task: TaskRow, steps: "Iterable[StepRow]") -> Task:
    """Return a try as its service is shown it."""
    return Task(
        task_id=task.task_id,
        job_id=task.job_id,
        try_number=task.try_number,
        actions=tuple(action_of(step) for step in steps if step.try_number == task.try_number),
    )
