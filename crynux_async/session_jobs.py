"""The jobs of a session: finding them, waiting for them, hearing of them, whoever follows them.

``jobs()`` are those that the session has taken on, from its register; ``find()`` and ``history()`` read the ledger.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

from crynux_async.backends.base import HasOutlook, ListsPayments, Verdict
from crynux_async.clock import utc_now
from crynux_async.errors import UsageError, WaitTimeoutError
from crynux_async.job import Job, handle_on, record_of
from crynux_async.ledgers.base import JobFilter
from crynux_async.money import to_cnx
from crynux_async.states import JobState, Signal, advance
from crynux_async.supervision.filing import aware, storable
from crynux_async.supervision.record import Record, new_job_id
from crynux_async.supervision.supervisor import Supervisor
from crynux_async.supervision.tries import check_are_tried_together
from crynux_async.training.config import FineTuneConfig
from crynux_async.wording import counted

_MOST = 2**63 - 1  # what a database counts to

if TYPE_CHECKING:
    from crynux_async.events import Event
    from crynux_async.session_values import Reconciled, Unconfirmed
    from crynux_async.supervision.audit import Audit, Orphan


class SessionJobs:
    """What a session can tell of jobs. ``Session`` is one, and says how they come to be."""

    def __init__(self) -> None:
        self._supervisor: Supervisor | None = None

    async def as_completed(self, jobs: Iterable[Job] | None = None) -> AsyncGenerator[Job, None]:
        """Yield jobs as their tasks end, well or badly: look at ``job.state``. Costs nothing per waiting job.

        A job that is left unsent, for want of money or of a credential, is yielded, too: it is PLANNED still, and
        ``job.error`` says why.

        Args:
            jobs: Which; None for every job that the session has now.
        """
        supervisor = self._open_supervisor()
        records = supervisor.register.select() if jobs is None else [record_of(job) for job in jobs]
        async with aclosing(supervisor.hearing.as_completed(records)) as ends:
            async for record in ends:
                yield handle_on(record, supervisor)

    async def wait_all(self, jobs: Iterable[Job] | None = None, *, timeout: float | None = None) -> list[Job]:
        """Wait until every task has ended, well or badly, and return the jobs: look at ``job.state``.

        A job that is left unsent, for want of money or of a credential, is not waited for (see ``as_completed``).

        Args:
            jobs: Which; None for every job that the session has now.
            timeout: Seconds to wait at most, or None for as long as it takes.

        Raises:
            WaitTimeoutError: ``timeout`` is over; the jobs go on.
            UsageError: The session was closed.
        """
        chosen = self.jobs() if jobs is None else list(jobs)
        try:
            # Closed at once where time runs out: a generator that is left to the garbage collector would go on waiting
            # for jobs.
            async with asyncio.timeout(timeout), aclosing(self.as_completed(chosen)) as ends:
                async for _ in ends:
                    pass
        except TimeoutError:
            waiting = sum(not job.done for job in chosen)
            raise WaitTimeoutError(
                f"not ended after {timeout:g} s: {waiting} of {counted(len(chosen), 'job')}"
            ) from None
        return chosen

    def jobs(self, state: JobState | Iterable[JobState] | None = None) -> list[Job]:
        """Return the jobs that this session follows or has followed, in the order in which they came.

        ``history()`` returns those of others, too.

        Args:
            state: Only those in this state or in one of these.
        """
        supervisor = self._supervisor
        if supervisor is None:
            return []
        records = supervisor.register.select((state,) if isinstance(state, JobState) else state)
        return [handle_on(record, supervisor) for record in records]

    def job(self, job_id: str) -> Job:
        """Return the job with this name.

        Raises:
            UsageError: This session has no such job.
        """
        supervisor = self._open_supervisor()
        record = supervisor.register.get(job_id)
        if record is None:
            raise UsageError(f"this session has no job {job_id!r}", job_id=job_id)
        return handle_on(record, supervisor)

    def events(self) -> "AsyncIterator[Event]":
        """Yield what happens to any job from this call on, until the session is closed. It tells nothing of the past.

        A reader that is too slow gets an ``EventsMissed`` in place of what it missed.
        """
        return self._open_supervisor().register.events()

    async def find(
        self,
        name: str | None = None,
        *,
        task_id: str | int | None = None,
        idempotency_key: str | None = None,
        label: str | None = None,
        tenant: str | None = None,
    ) -> Job | None:
        """Return a handle on one job in the ledger, whoever follows it, or None where there is none.

        Args:
            name: This library's name for it, ``job_id``.
            task_id: The service's name of any of its tasks.
            idempotency_key: Its key.
            label: Its label; of several jobs, the newest.
            tenant: On whose behalf it runs; None for anybody.

        Raises:
            UsageError: Nothing is given to find it by, or the session is not open.
            LedgerError: The ledger cannot be read.
        """
        # Without a condition the newest job would be found, which nobody has meant.
        if name is task_id is idempotency_key is label is None:
            raise UsageError("give a job_id, a task id, an idempotency key or a label; history() returns all jobs")
        supervisor = self._open_supervisor()
        where = JobFilter(
            backend=supervisor.backend.name,
            job_ids=None if name is None else (name,),
            task_id=None if task_id is None else supervisor.backend.normal_task_id(task_id),
            idempotency_key=idempotency_key,
            label=label,
            tenant=tenant,
        )
        found = await supervisor.find(where, limit=1, newest_first=True)
        return handle_on(found[0], supervisor) if found else None

    async def history(
        self,
        *,
        states: Iterable[JobState] | None = None,
        label: str | None = None,
        label_prefix: str | None = None,
        group: str | None = None,
        tags: Mapping[str, str] | None = None,
        tenant: str | None = None,
        since: datetime | None = None,
        before: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Job]:
        """Return handles on the jobs that the ledger remembers, whoever follows them, in the order of their planning.

        Args:
            states: Only jobs in these states.
            label: Only jobs with this label.
            label_prefix: Only jobs whose label begins so.
            group: Only jobs of this set.
            tags: Only jobs with all of these tags, 400 at most.
            tenant: Only jobs on behalf of this one; None for anybody's.
            since: Only jobs planned at or after this, aware.
            before: Only jobs that came before the one with this name: the last of a page that shows the newest first.
            limit: How many at most.
            newest_first: The other way round.

        Raises:
            LedgerError: The ledger cannot be read.
            UsageError: The session is not open, ``limit`` is no number of jobs, or there are too many tags.
        """
        supervisor = self._open_supervisor()
        if limit is not None and (type(limit) is not int or not 0 <= limit <= _MOST):
            raise UsageError(f"limit is a whole number, >= 0, not {limit!r:.40}", field="limit")
        where = JobFilter(
            backend=supervisor.backend.name,
            states=frozenset(states) if states is not None else None,
            label=label,
            label_prefix=label_prefix,
            group=group,
            tags=tags or {},
            tenant=tenant,
            since=aware(since, "since"),
            before=before,
        )
        found = await supervisor.find(where, limit=limit, newest_first=newest_first)
        return [handle_on(record, supervisor) for record in found]

    async def retry(
        self,
        which: JobState | Iterable[Job | JobState],
        *,
        at_most: int | None = None,
        timeout: int | None = None,
    ) -> list[Job]:
        """Send jobs (again), whoever holds them, and return them when that is durable, before they are sent.

        Each is paid for as with ``job.retry()``; ``price(job.config)`` says before what one may cost at most.

        Args:
            which: Jobs, all of which must be such that they can be sent; or states, of which every job in the ledger is
                meant that can be, in the order of planning. UNCONFIRMED is none of these: what was sent with unknown
                outcome may be paid for, and is sent again one by one.
            at_most: How many jobs are sent at most, > 0; None for all of them.
            timeout: Seconds that one round may take on a node from now on, as in ``job.retry``; jobs that are meant by
                their state and have more time already keep it.

        Raises:
            UsageError: Jobs of a state cannot be sent all together, or one of the jobs runs, has a model or no config,
                or the timeout cannot be changed so; none is sent.
            ConfigError: No config can have such a timeout; none is sent.
            LedgerError: Not all could be stored; those before are sent.
        """
        supervisor = self._open_supervisor()
        if at_most is not None and at_most < 1:
            raise UsageError(f"at_most is a number of jobs above 0, not {at_most!r}", field="at_most")
        given = [which] if isinstance(which, JobState) else list(which)
        jobs = [one for one in given if isinstance(one, Job)]
        states = [one for one in given if isinstance(one, JobState)]
        if states:
            check_are_tried_together(states)
            jobs += [job for job in await self.history(states=states) if job.config is not None]
        chosen = [record_of(job) for job in list(dict.fromkeys(jobs))[:at_most]]
        await supervisor.retry(*chosen, timeout=timeout, keeps_longer=bool(states))
        return [handle_on(record, supervisor) for record in chosen]

    async def unconfirmed(self) -> "list[Unconfirmed]":
        """Return the jobs whose create has an unknown outcome, and the tasks before and after which each was sent."""
        from crynux_async.session_values import Unconfirmed

        lost = await self._open_supervisor().lost_creates()
        return [
            Unconfirmed(
                job=job,
                began_at=create.began_at,
                digest=job.config.digest() if job.config else "",
                # Whatever came before the create, it was sent after that, and the other way round.
                after=create.before[0] if create.before else None,
                before=create.after[0] if create.after else None,
            )
            for create in lost
            for job in (self.job(create.job_id),)
        ]

    async def reconcile(
        self, *, at_most: int = 50, adopt: bool = False, evidence_bytes: int = 1 << 30
    ) -> "list[Reconciled]":
        """Look for the tasks of unconfirmed jobs, and at the relay for orphans, and return what was found of each.

        A task is given to a job only where no other task and no other job can be meant. At a bridge, only the numbers
        between the tasks that were made before and after are asked about, with this session's own key. At the relay a
        create is looked for under the one name that it can have. Where several tasks or jobs are left, the archives of
        the tasks are fetched and compared with what the jobs have asked for, and the explanation says what they tell.

        An orphan is a task at the relay that this library has certainly made with this wallet, that the ledger does not
        know, and of which a model may come: its ledger was lost, or is another one. Adopt it only where no other
        session follows it: a failed run would be repeated, and paid for, by both.

        What the relay has given back by itself for jobs that were given up is entered, too (``job.cost()``).

        Args:
            at_most: Tasks to look at for each job; where more would have to be looked at, it is left alone.
            adopt: Follow orphans from now on, as jobs of their own, each with the config that the relay shows.
            evidence_bytes: So many bytes of archives are fetched at most where several tasks are left, >= 0; an archive
                that is larger than what is left of it is left out, and the explanation says so.

        Raises:
            UsageError: The service gives no way to look, or the session is not open.
            BackendError: The service did not answer.
        """
        from crynux_async.session_values import Reconciled

        supervisor = self._open_supervisor()
        found = [
            Reconciled(
                job=handle_on(record, supervisor),
                verdict=finding.verdict,
                candidates=tuple(finding.candidates),
                explanation=finding.explanation,
            )
            for finding, record in await supervisor.look_for_lost(at_most=at_most, evidence_bytes=evidence_bytes)
        ]
        await supervisor.settle_costs()
        if isinstance(supervisor.backend, ListsPayments):
            # Behind the creates: a task that was just found has a job now, and is no orphan.
            orphans = (await supervisor.audit()).orphans
            found += [self._orphan(orphan, adopt=adopt) for orphan in orphans if orphan.task.can_have_model]
        return found

    async def reconcile_requests(self, *, at_most: int = 50) -> int:
        """Return how many requests ``reconcile()`` would make at most for lost creates, before it makes any.

        Args:
            at_most: As in ``reconcile()``.

        Raises:
            LedgerError: The ledger cannot be read.
            UsageError: The session is not open.
        """
        return await self._open_supervisor().price_of_looking(at_most=at_most)

    def attach(self, task_id: str | int, *, config: FineTuneConfig | None = None, label: str = "") -> Job:
        """Follow a task that the service has already, and return its job.

        One that was given up here, or was not known to the service, is looked at anew. Nothing is known of the task
        before the service was asked, which is at once: until then it is ``ATTACHED``.

        A task belongs to one job of a ledger: where an earlier session has stored it under another name, and its job is
        not in this session any more, what this returns is followed here and not stored. ``find(task_id=...)`` returns
        the job that is.

        Args:
            task_id: The service's name of the task, as text or as a number.
            config: What it trains, where that is known.
            label: The caller's own name for the job.

        Raises:
            UsageError: No task of this service can be called so, or the session is not open.
        """
        supervisor = self._open_supervisor()
        text = storable(supervisor.backend.normal_task_id(task_id), "task_id")
        record = supervisor.register.by_task(text)
        if record is None:
            now = utc_now()
            record = Record(
                job_id=new_job_id(),
                config=config,
                label=label,
                task_id=text,
                # Not RUNNING: nothing is said of a task before the service has said so.
                state=advance(JobState.PLANNED, Signal.NAMED),
                planned_at=now,
                submitted_at=now,
            )
            supervisor.attach(record)
        else:
            supervisor.attach_again(record)
        return handle_on(record, supervisor)

    async def outlook(self, config: FineTuneConfig) -> list[str]:
        """Return what will keep a training waiting that is sent now, for people; nothing where the service cannot tell.

        The relay tells whether nodes are there, whether any has the base model, and how many tasks wait.

        Raises:
            UsageError: The session is not open.
        """
        backend = self._open_supervisor().backend
        return list(await backend.outlook(config)) if isinstance(backend, HasOutlook) else []

    async def audit(self) -> "Audit":
        """Hold the ledger against the service's own list of payments, to the wei and in both directions.

        At the relay, with this session's wallet: it names tries that do not add up, and tasks that this library has
        paid for and the ledger does not know; ``reconcile(adopt=True)`` adopts those.

        Raises:
            UsageError: The service lists no payments (no bridge does), or the session is not open.
            BackendError: The service did not answer.
        """
        return await self._open_supervisor().audit()

    def _orphan(self, orphan: "Orphan", *, adopt: bool) -> "Reconciled":
        """Return what is said of an orphan, and follow it where that is wanted."""
        from crynux_async.session_values import Reconciled

        what = f"paid for at {orphan.at:%Y-%m-%d %H:%M} UTC ({to_cnx(orphan.gone)} CNX), {orphan.task.stage}"
        adopted = self.attach(orphan.task_id, config=orphan.task.config) if adopt else None
        return Reconciled(
            job=adopted,
            verdict=Verdict.ORPHAN,
            candidates=(orphan.task_id,),
            explanation=f"{what}; {'it is followed from now on' if adopt else 'adopt it where no other ledger has it'}",
        )

    def _open_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise UsageError("the session is not open; use 'async with Session(...) as session'")
        self._supervisor.check_open()
        return self._supervisor
