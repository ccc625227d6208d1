"""Creates whose outcome is not known: where their tasks must be, and what becomes of those that are found.

The ledger says which tasks were made before and after a lost create, in the order in which it was told; only the
backend knows what that order means for ids, and how to look (``FindsLostCreates``).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING

import attrs

from crynux_async.backends.base import Backend, FindsLostCreates, Verdict
from crynux_async.errors import LedgerError, UsageError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, JobChange, Ledger, TaskRow
from crynux_async.states import JobState, Signal, advance, may
from crynux_async.supervision.accounts import Accounts
from crynux_async.supervision.doubt import lost_attempt, lost_attempts
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister, news_of_move, news_of_task
from crynux_async.supervision.spending import Spending
from crynux_async.supervision.stored_errors import columns_of_error

if TYPE_CHECKING:
    from crynux_async.backends.base import Finding, LostCreate

# Creates that share a bracket lie close together; the margin is for clocks that were set.
_RIVALS_WITHIN = timedelta(days=7)
_OTHER_KEY = "it was sent with another API key or wallet, which alone can tell its task from others: look with that one"

_ASKED_AT_ONCE = 500  # tasks

_log = logging.getLogger("crynux_async.supervision.lost_creates")


async def lost_creates(
    ledger: Ledger, attempts: Iterable[AttemptRow], *, are_wanted: bool = True
) -> "list[LostCreate]":
    """Return attempts of unknown outcome with what the ledger knows around them.

    Args:
        ledger: Knows what was made before and after.
        attempts: The attempts.
        are_wanted: Whether their tasks are looked for (see ``LostCreate``).
    """
    from crynux_async.backends.base import LostCreate

    found = []
    for attempt in attempts:
        around = await ledger.neighbours(attempt)
        # While any create around it is under way, its task may be the one that lies there (or two models are swapped).
        is_closed = attempt.answered_at is not None and all(other.outcome is not None for other in around.under_way)
        found.append(
            LostCreate(
                job_id=attempt.job_id,
                payload=attempt.payload,
                began_at=attempt.began_at,
                before=around.before,
                after=around.after,
                is_closed=is_closed,
                is_wanted=are_wanted,
            )
        )
    return found


class LostCreates:
    """The unconfirmed jobs of a session.

    Args:
        backend: The service.
        ledger: Knows attempts and their order.
        register: Knows the jobs.
        writer: Stores what was found.
        accounts: Knows what it may cost.
        spending: Knows what becomes of what was held for it.

    Attributes:
        on_not_created: Called with each job whose create has certainly made no task: nothing is held for it any more.
    """

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        register: JobRegister,
        writer: LedgerWriter,
        *,
        accounts: Accounts,
        spending: Spending,
    ) -> None:
        self._backend = backend
        self._ledger = ledger
        self._register = register
        self._writer = writer
        self._accounts = accounts
        self._spending = spending
        self.on_not_created: Callable[[Record], None] = lambda _: None

    async def all(self) -> "list[LostCreate]":
        """Return the lost creates of this session's unconfirmed jobs."""
        return await lost_creates(self._ledger, (await self._unconfirmed()).values())

    async def look_for(self, *, at_most: int, evidence_bytes: int) -> "list[tuple[Finding, Record]]":
        """Look for the tasks of lost creates, store what was found, and return it; found jobs run from now on.

        Args:
            at_most: Tasks to look at for each of them.
            evidence_bytes: So many bytes of archives are fetched at most.

        Raises:
            UsageError: The service gives no way to look.
        """
        if not isinstance(self._backend, FindsLostCreates):
            raise UsageError(f"{self._backend.name} gives no way to find a create whose answer was lost")
        own, foreign = await self._by_credential()
        # Held: looking takes minutes, and one that is given up meanwhile must not be forgotten.
        records = {job_id: self._record(job_id) for job_id in (*own, *foreign)}
        from crynux_async.backends.base import Finding

        findings = [Finding(job_id=job_id, verdict=Verdict.OPEN, explanation=_OTHER_KEY) for job_id in foreign]
        if own:
            lost = await self._with_rivals(own)
            known = await self._known(self._backend, (one for one in lost if one.is_wanted), at_most)
            found = await self._backend.find_lost(lost, known=known, at_most=at_most)
            configs = {job_id: records[job_id].config for job_id in own}
            # Here: it reads archives, and sessions that lose no create start sooner without what that needs.
            from crynux_async.supervision.evidence import with_evidence

            findings += await with_evidence(self._backend, found, configs, at_most_bytes=evidence_bytes)
        return [(await self._settle(finding), records[finding.job_id]) for finding in findings]

    async def price(self, *, at_most: int) -> int:
        """Return how many requests ``look_for`` makes at most; 0 where the service gives no way to look."""
        own, _ = await self._by_credential()
        if not own or not isinstance(self._backend, FindsLostCreates):
            return 0
        lost = await lost_creates(self._ledger, own.values())
        known = await self._known(self._backend, lost, at_most)
        return self._backend.search_requests(lost, known=known, at_most=at_most)

    async def adopt(self, record: Record, attempt: AttemptRow, task_id: str, *, granted: Sequence[int] = ()) -> None:
        """Take a task for the one that a create of a job has made.

        A job that was given up meanwhile stays given up; its task is stored all the same, because it is paid for.

        Raises:
            LedgerError: The ledger has the task under another job, or cannot be written; nothing is changed.
        """
        at = self._writer.date(record.planned_at)
        state = advance(record.state, Signal.ACCEPTED) if may(record.state, Signal.ACCEPTED) else record.state
        made = TaskRow(
            job_id=record.job_id,
            try_number=attempt.try_number,
            backend=attempt.backend,
            task_id=task_id,
            made_at=attempt.answered_at or at,
            fee=self._accounts.price_of(record),
        )
        accepted = attrs.evolve(
            attempt, outcome=AttemptOutcome.ACCEPTED, task_id=task_id, answered_at=attempt.answered_at or at
        )
        columns: dict[str, object] = {"task_id": task_id, "submitted_at": at, "state": state, **columns_of_error(None)}
        if state is not record.state:
            columns["ended_at"] = None
        is_ours = await self._writer.change(
            JobChange(job_id=record.job_id, columns=columns, finished=accepted, tasks=(made,), granted=granted),
            news=news_of_task(record, state, task_id, at),
        )
        if is_ours:
            self._register.accepted(record, task_id, at)

    async def _unconfirmed(self) -> dict[str, AttemptRow]:
        """Return the lost attempts of this session's unconfirmed jobs, by job."""
        unconfirmed = self._register.select({JobState.UNCONFIRMED})
        return await self._attempts(record.job_id for record in unconfirmed if record.is_ours)

    async def _by_credential(self) -> tuple[dict[str, AttemptRow], list[str]]:
        """Return the lost attempts that were made with this session's credential, and the jobs of all others.

        To any other credential every task in the bracket is somebody else's, so that a paid one would count as never
        created.
        """
        lost = await self._unconfirmed()
        own = {job_id: attempt for job_id, attempt in lost.items() if attempt.key_id == self._backend.key_id}
        return own, [job_id for job_id in lost if job_id not in own]

    async def _with_rivals(self, own: dict[str, AttemptRow]) -> "list[LostCreate]":
        """Return lost creates together with every other one that may have made the same tasks, whoever holds its job.

        A job that was given up, or was paid for again, may have a task all the same: it is no other job's.
        """
        since = min(attempt.began_at for attempt in own.values()) - _RIVALS_WITHIN
        key_id = self._backend.key_id
        made = await self._ledger.attempts(backend=self._backend.name, key_id=key_id, since=since)
        rivals = [one for one in made if one.outcome is AttemptOutcome.UNKNOWN and one.job_id not in own]
        return [
            *await lost_creates(self._ledger, own.values()),
            *await lost_creates(self._ledger, rivals, are_wanted=False),
        ]

    async def _attempts(self, job_ids: Iterable[str]) -> dict[str, AttemptRow]:
        """Return the last attempt of unknown outcome of each of these jobs."""
        by_job: dict[str, list[AttemptRow]] = {job_id: [] for job_id in job_ids}
        for attempt in await self._ledger.attempts(job_ids=list(by_job)) if by_job else ():
            by_job[attempt.job_id].append(attempt)
        lost = {job_id: lost_attempt(attempts, self._record(job_id).tries) for job_id, attempts in by_job.items()}
        return {job_id: attempt for job_id, attempt in lost.items() if attempt is not None}

    async def _known(self, backend: FindsLostCreates, lost: "Iterable[LostCreate]", at_most: int) -> frozenset[str]:
        """Return which tasks that may be those of lost creates belong to other jobs.

        Of more than can be looked at, only the first ones are asked for: they are left alone, however many they are.
        """
        known: set[str] = set()
        for create in lost:
            unknown, left = 0, iter(backend.candidates(create, at_most=at_most))
            while unknown <= at_most and (some := tuple(islice(left, _ASKED_AT_ONCE))):
                taken = await self._ledger.known_tasks(self._backend.name, some)
                unknown += len(some) - len(taken)
                known |= taken
        return frozenset(known)

    async def _settle(self, finding: "Finding") -> "Finding":
        """Store what one finding means, and return the finding, or what became of it instead."""
        record = self._record(finding.job_id)
        attempt = (await self._attempts([finding.job_id])).get(finding.job_id)
        # Looking takes minutes; meanwhile the true answer may have come, or the user may have decided.
        if attempt is None or record.state is not JobState.UNCONFIRMED:
            return attrs.evolve(finding, verdict=Verdict.OPEN, explanation="it was decided otherwise meanwhile")
        try:
            if finding.verdict is Verdict.FOUND and finding.task_id is not None:
                await self.adopt(record, attempt, finding.task_id)
            elif finding.verdict is Verdict.NOT_CREATED:
                await self._plan_again(record, attempt)
        except LedgerError as error:
            _log.warning("what was found of job %s is not stored: %s", record.job_id, error)
            return attrs.evolve(finding, verdict=Verdict.AMBIGUOUS, explanation=f"{finding.explanation}; but {error}")
        return finding

    async def _plan_again(self, record: Record, attempt: AttemptRow) -> None:
        """Make a job whose create never happened one that is left unsent until its user says so."""
        # The earlier ones first: a process that dies in between leaves the job in doubt, as it is.
        for earlier in await self._repeated_by(record, attempt):
            unsent = attrs.evolve(earlier, outcome=AttemptOutcome.NOT_SENT)
            await self._writer.change(JobChange(job_id=record.job_id, finished=unsent))
        # As if it had never been sent, which is what was found: only then is sending it again safe.
        unsent = attrs.evolve(attempt, outcome=AttemptOutcome.NOT_SENT)
        state = advance(record.state, Signal.NOT_CREATED)
        error = UsageError("its create was certainly never made; job.retry() sends it")
        columns = {"state": state, "ended_at": None, **columns_of_error(error)}
        release = self._spending.release(record, AttemptOutcome.NOT_SENT)
        change = JobChange(job_id=record.job_id, columns=columns, finished=unsent, settlement=release)
        if await self._writer.change(change, news=news_of_move(record, state)):
            self.on_not_created(record)
            self._register.learn(record, Signal.NOT_CREATED, is_stored=True)
            # Nobody queues it before its user says so, and who waits for it must not do so until then.
            self._register.fail(record, error)

    async def _repeated_by(self, record: Record, attempt: AttemptRow) -> list[AttemptRow]:
        """Return the creates that a lost one has repeated, where a service knows them all for the same task.

        One that was left in doubt would make the next process believe that something is held for the try.
        """
        if not self._backend.creates_are_repeatable:
            return []
        attempts = await self._ledger.attempts(job_ids=[record.job_id])
        return [one for one in lost_attempts(attempts, attempt.try_number) if one.number < attempt.number]

    def _record(self, job_id: str) -> Record:
        record = self._register.get(job_id)
        assert record is not None
        return record
