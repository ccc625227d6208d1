"""``Session``: the one object that a program opens."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

import attrs

from crynux_async.backends.base import Backend, RateLimited, Verdict
from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import ConfigError, UsageError, WaitTimeoutError
from crynux_async.events import Event
from crynux_async.job import Job, handle_on, record_of
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import AttemptRow, JobFilter, JobRow, Ledger
from crynux_async.pacing.gate import Gate, LedgerGate, past_attempts, shared_gate
from crynux_async.pacing.open_gate import OpenGate
from crynux_async.pacing.token_bucket import TokenBucket
from crynux_async.settings import Settings, SettingsArguments
from crynux_async.states import JobState, Signal, advance
from crynux_async.supervision.owners import is_gone, new_owner
from crynux_async.supervision.record import Record
from crynux_async.supervision.supervisor import Supervisor, new_job_id
from crynux_async.training import advice
from crynux_async.training.config import FineTuneConfig

if TYPE_CHECKING:
    from crynux_async.backends.opening import ServiceName
    from crynux_async.signing import Wallet

_PLANNED_AT_ONCE = 200
_RATE_LIMIT_MEMORY = timedelta(hours=2)

_log = logging.getLogger("crynux_async.session")


@attrs.frozen(kw_only=True)
class SessionStatistics:
    """What a session has done and is doing.

    Attributes:
        jobs: How many jobs are in which state; states without jobs are left out.
        queued: Jobs that wait to be sent.
        creating: Creates under way.
        downloading: Downloads that run or wait for a slot.
        polls: Status requests made.
        poll_errors: Status requests without an answer that counts.
        refusals: Creates refused by the rate limit.
        limit_per_minute: The rate limit, given or learned, or None while it is not known.
    """

    jobs: dict[JobState, int]
    queued: int
    creating: int
    downloading: int
    polls: int
    poll_errors: int
    refusals: int
    limit_per_minute: float | None


@attrs.frozen(kw_only=True)
class Unconfirmed:
    """A create whose outcome is not known, and what is known around it.

    Attributes:
        job: The job.
        began_at: When the create was begun, aware UTC.
        digest: The config's digest.
        after: The newest task that was certainly made before it, or None where none is known.
        before: The oldest task that was certainly made after it, or None where none is known yet.
    """

    job: Job
    began_at: datetime
    digest: str
    after: str | None
    before: str | None


@attrs.frozen(kw_only=True)
class Reconciled:
    """What looking for the task of one unconfirmed job has shown.

    Attributes:
        job: The job. Where its task was found, it is followed again; where it certainly was not created, it is planned
            as if it had never been sent, and ``resubmit()`` sends it.
        verdict: What was found: "found", "ambiguous", "not created" or "open".
        candidates: Tasks that may be it.
        explanation: What was done, what remains and what to do, for people.
    """

    job: Job
    verdict: Verdict
    candidates: tuple[str, ...]
    explanation: str


class Session:
    """Submits, follows and downloads any number of fine-tuning jobs on one event loop.

    ::

        async with Session(api_key="...") as session:
            path = await session.run(FineTuneConfig(model_name="...", dataset_url="...", max_train_steps=200), "models")

    One session serves any number of callers. It may be opened in one task and closed in another, as fixtures and web
    frameworks do. Leaving it never cancels a remote task.

    Args:
        settings: How the client behaves; None to load it from ``arguments``, the environment and the settings file.
        ledger: Where jobs are remembered, so that the next process goes on with them: a path, "sqlite:///jobs.db" or a
            ``Ledger``. None remembers them as long as the session is open.
        backend: Who runs the tasks: "bridge" for the one at ``settings.base_url``, "relay" for the relay of
            ``settings.network``, or a ``Backend``, which is not closed with the session; None for the bridge.
        wallet: Pays and signs at the relay; None for the one that ``CRYNUX_WALLET`` is the path of.
        **arguments: Settings by name, when ``settings`` is None (see ``Settings``).

    Raises:
        SettingsError: The settings cannot work.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        ledger: str | Path | Ledger | None = None,
        backend: "Backend | ServiceName | None" = None,
        wallet: "Wallet | None" = None,
        **arguments: Unpack[SettingsArguments],
    ) -> None:
        if settings is not None and arguments:
            raise UsageError(f"give either settings or {', '.join(arguments)}, not both")
        self._settings = settings or Settings.load(**arguments)
        self._ledger_place = ledger
        self._ledger: Ledger | None = None
        self._service = backend or "bridge"
        self._wallet = wallet
        self._advised: set[tuple[str, str | None]] = set()
        self._backend: Backend | None = None
        self._supervisor: Supervisor | None = None
        self._runner: asyncio.Task[None] | None = None

    @property
    def settings(self) -> Settings:
        """How this session behaves."""
        return self._settings

    def __repr__(self) -> str:
        service = self._service if isinstance(self._service, str) else self._service.name
        if service == "bridge":
            service = self._settings.base_url
        if self._supervisor is None:
            return f"<Session {service}, not open>"
        counts = self._supervisor.register.counts
        jobs = ", ".join(f"{counts[state]} {state}" for state in JobState if counts[state]) or "no jobs"
        return f"<Session {service}, {jobs}>"

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Start following jobs, in a task of its own; ``async with`` does it.

        Raises:
            UsageError: The session is open, or was closed; a session is used once.
        """
        if self._supervisor is not None:
            raise UsageError("a session is opened once; make a new one")
        self._ledger = open_ledger(self._ledger_place)
        await self._ledger.open()
        try:
            self._backend = await self._open_backend()
            gate = await self._gate(self._backend, self._ledger)
            self._supervisor = Supervisor(self._backend, self._settings, self._ledger, gate)
            started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._runner = asyncio.create_task(self._supervisor.run(started), name="crynux_async supervisor")
            await started
        except BaseException:
            try:
                await self._stop_opening()
            finally:
                await self._release()
            raise

    async def close(self) -> None:
        """Stop following jobs. Creates under way get ``close_timeout`` seconds for their answer; the rest is instant.

        May be called from any task, and again.
        """
        if self._supervisor is None or self._runner is None:
            return
        self._supervisor.stop()
        try:
            await asyncio.shield(self._runner)
        except asyncio.CancelledError:
            if not self._runner.cancelled():
                raise
        finally:
            if self._runner.done():
                await self._release()

    def submit_nowait(self, config: FineTuneConfig, *, label: str = "", force: bool = False) -> Job:
        """Queue a config and return its job at once, before anything is sent; ``await job.submitted()`` waits for that.

        It is sent, and paid for, when the rate limit allows it. What will surprise is logged as a warning, once for
        each kind of surprise.

        Args:
            config: What to train.
            label: The caller's own name for the job.
            force: Send it even if it cannot work.

        Raises:
            ConfigError: It cannot work (``advice.check`` finds an error); nothing is queued.
            LedgerError: Nothing can be remembered any more; nothing is queued.
            UsageError: The session is not open.
        """
        supervisor = self._open_supervisor()
        self._advise(config, force=force)
        record = _new_record(config, label)
        supervisor.submit(record)
        return handle_on(record, supervisor)

    async def submit(self, config: FineTuneConfig, *, label: str = "", force: bool = False) -> Job:
        """Send a config when the rate limit allows it, and return its job when it is accepted.

        Cancelled before the job is sent, it is not sent. Cancelled after that, the job goes on in ``jobs()``: to call
        this again would send, and pay for, a second one.

        Args:
            config: What to train.
            label: The caller's own name for the job.
            force: Send it even if it cannot work.

        Raises:
            ConfigError: It cannot work; nothing was sent.
            AuthError, QuotaError: The credential was refused; nothing is paid, and the job waits for ``resubmit()``.
            RejectedError: The service refused it; nothing is paid.
            UnreachableError: The service could not be reached for too long; nothing was sent.
            SubmissionUnknownError: It was sent and its outcome is not known.
            LedgerError: It could not be remembered. Where ``task_id`` of the error is set, the task exists.
            UsageError: The session is not open.
        """
        job = self.submit_nowait(config, label=label, force=force)
        try:
            return await job.submitted()
        except asyncio.CancelledError:
            if self._supervisor is not None:
                self._supervisor.submitter.withdraw(record_of(job))
            raise

    async def submit_many(
        self,
        configs: Iterable[FineTuneConfig],
        *,
        label: Callable[[FineTuneConfig], str] | None = None,
        force: bool = False,
    ) -> list[Job]:
        """Queue any number of configs and return their jobs, in order, when all are in the ledger; then they are sent.

        Nothing is raised for a job that is refused later: look at ``job.state``, or ``await job.submitted()``.

        Args:
            configs: What to train.
            label: Makes the label of each job from its config; called for all of them before any is queued.
            force: Send them even if they cannot work.

        Raises:
            ConfigError: Some of them cannot work, all of which are named by index, label and field; none is queued.
            UsageError: The session is not open.
            LedgerError: They cannot be remembered; none of those will be sent.
        """
        supervisor = self._open_supervisor()
        chosen = list(configs)
        labels = [label(config) if label else "" for config in chosen]
        await self._advise_all(chosen, labels, force=force)
        records = []
        for number, (config, given) in enumerate(zip(chosen, labels, strict=True), start=1):
            record = _new_record(config, given)
            supervisor.submit(record)
            records.append(record)
            if number % _PLANNED_AT_ONCE == 0:
                await asyncio.sleep(0)
        await supervisor.saved(records)
        return [handle_on(record, supervisor) for record in records]

    async def as_completed(self, jobs: Iterable[Job] | None = None) -> AsyncGenerator[Job, None]:
        """Yield jobs as their tasks end, well or badly: look at ``job.state``. Costs nothing per waiting job.

        Args:
            jobs: Which; None for every job that the session has now.
        """
        supervisor = self._open_supervisor()
        records = supervisor.register.select() if jobs is None else [record_of(job) for job in jobs]
        async with aclosing(supervisor.register.as_completed(records)) as ends:
            async for record in ends:
                yield handle_on(record, supervisor)

    async def wait_all(self, jobs: Iterable[Job] | None = None, *, timeout: float | None = None) -> list[Job]:
        """Wait until every task has ended, well or badly, and return the jobs: look at ``job.state``.

        Args:
            jobs: Which; None for every job that the session has now.
            timeout: Seconds to wait at most, or None for as long as it takes.

        Raises:
            WaitTimeoutError: ``timeout`` is over; the jobs go on.
            UsageError: The session was closed.
        """
        chosen = self.jobs() if jobs is None else list(jobs)
        try:
            async with asyncio.timeout(timeout), aclosing(self.as_completed(chosen)) as ends:
                async for _ in ends:
                    pass
        except TimeoutError:
            waiting = sum(not job.done for job in chosen)
            raise WaitTimeoutError(f"{waiting} of {len(chosen)} jobs have not ended after {timeout:g} s") from None
        return chosen

    async def run(
        self,
        config: FineTuneConfig,
        folder: str | Path = ".",
        *,
        label: str = "",
        name: str | None = None,
        force: bool = False,
    ) -> Path:
        """Submit a config, wait for its model, download it and return the archive's path.

        Cancelled after the job was sent, its task goes on and is paid for: go on with ``jobs()``, and do not call this
        again for the same model.

        Args:
            config: What to train.
            folder: Where to put the archive.
            label: The caller's own name for the job.
            name: File name, as in ``Job.download``.
            force: Send it even if it cannot work.

        Raises:
            CrynuxError: Whatever ``submit()``, ``Job.wait()`` and ``Job.download()`` raise.
        """
        job = await self.submit(config, label=label, force=force)
        return await job.download(folder, name=name)

    def price(self, config: FineTuneConfig) -> int | None:
        """Return what one try of a config may cost at most, in wei (10**-18 CNX), or None where that is not known.

        Raises:
            UsageError: The session is not open.
        """
        return self._open_supervisor().accounts.price(config)

    async def balance(self) -> int | None:
        """Return what the account that pays has, in wei (10**-18 CNX), or None where that cannot be asked.

        It cannot at a bridge: who has an API key has no account.

        Raises:
            UsageError: The session is not open.
            BackendError: The service did not answer.
        """
        return await self._open_supervisor().accounts.balance()

    def attach(self, task_id: str | int, *, config: FineTuneConfig | None = None, label: str = "") -> Job:
        """Follow a task that the service has already, and return its job.

        Args:
            task_id: The service's name of the task, as text or as a number.
            config: What it trains, where that is known.
            label: The caller's own name for the job.

        Raises:
            UsageError: No task of this service can be called so, or the session is not open.
        """
        supervisor = self._open_supervisor()
        assert self._backend is not None
        text = _storable(self._backend.normal_task_id(task_id))
        record = supervisor.register.by_task(text)
        if record is None:
            now = utc_now()
            record = Record(
                job_id=new_job_id(),
                config=config,
                label=label,
                task_id=text,
                state=advance(JobState.PLANNED, Signal.ACCEPTED),
                planned_at=now,
                submitted_at=now,
            )
            supervisor.attach(record)
        return handle_on(record, supervisor)

    def jobs(self, state: JobState | Iterable[JobState] | None = None) -> list[Job]:
        """Return the jobs of this session in the order in which they came, all or those in ``state``."""
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

    def events(self) -> AsyncIterator[Event]:
        """Yield what happens to any job from this call on, until the session is closed. It tells nothing of the past.

        A reader that is too slow gets an ``EventsMissed`` in place of what it missed.
        """
        return self._open_supervisor().register.events()

    def statistics(self) -> SessionStatistics:
        """Return what this session has done and is doing."""
        supervisor = self._supervisor
        if supervisor is None:
            raise UsageError("the session is not open; use 'async with Session(...) as session'")
        polls, bucket = supervisor.follower.polls.statistics(), supervisor.submitter.gate.bucket
        return SessionStatistics(
            jobs={state: count for state, count in supervisor.register.counts.items() if count},
            queued=supervisor.submitter.waiting,
            creating=supervisor.submitter.creating,
            downloading=supervisor.fetcher.active,
            polls=polls.polls,
            poll_errors=polls.errors,
            refusals=bucket.refusals if bucket else 0,
            limit_per_minute=bucket.limit_per_minute if bucket else None,
        )

    def limit_changed(self, key_id: str, limit_per_minute: float) -> None:
        """Note that a key may make another number of creates a minute from now on; its burst stays what it was.

        ``BridgeAdmin.set_rate_limit(..., listeners=[session])`` calls it.

        Args:
            key_id: The backend's (``Settings.key_id`` at a bridge); any other than this session's changes nothing.
            limit_per_minute: Creates a minute, > 0.

        Raises:
            UsageError: The session is not open.
        """
        supervisor = self._open_supervisor()
        if self._backend is not None and key_id == self._backend.key_id:
            supervisor.submitter.gate.limit_changed(limit_per_minute)

    async def unconfirmed(self) -> list[Unconfirmed]:
        """Return the jobs whose create has an unknown outcome, and the tasks before and after which each was sent."""
        lost = await self._open_supervisor().lost_creates()
        return [
            Unconfirmed(
                job=job,
                began_at=create.began_at,
                digest=job.config.digest() if job.config else "",
                after=create.before[0] if create.before else None,
                before=create.after[0] if create.after else None,
            )
            for create in lost
            for job in (self.job(create.job_id),)
        ]

    async def reconcile(self, *, at_most: int = 50) -> list[Reconciled]:
        """Look for the tasks of unconfirmed jobs, and return what was found of each of them.

        A task is given to a job only where no other task and no other job can be meant. At a bridge, only the numbers
        between the tasks that were made before and after are asked about, with this session's own key.

        Args:
            at_most: Tasks to look at for each job; where more would have to be looked at, it is left alone.

        Raises:
            UsageError: The service gives no way to look, or the session is not open.
            BackendError: The service did not answer.
        """
        supervisor = self._open_supervisor()
        return [
            Reconciled(
                job=handle_on(record, supervisor),
                verdict=finding.verdict,
                candidates=tuple(finding.candidates),
                explanation=finding.explanation,
            )
            for finding, record in await supervisor.look_for_lost(at_most=at_most)
        ]

    async def history(
        self, *, states: Iterable[JobState] | None = None, label: str | None = None, limit: int | None = None
    ) -> list[JobRow]:
        """Return what the ledger remembers, jobs of earlier processes included, in the order of their planning.

        Args:
            states: Only jobs in these states.
            label: Only jobs with this label.
            limit: How many at most.
        """
        supervisor = self._open_supervisor()
        assert self._backend is not None
        where = JobFilter(
            backend=self._backend.name, states=frozenset(states) if states is not None else None, label=label
        )
        return await supervisor.history(where, limit)

    async def _open_backend(self) -> Backend:
        if not isinstance(self._service, str):
            return self._service
        from crynux_async.backends.opening import open_backend

        return await open_backend(self._service, self._settings, self._wallet)

    async def _gate(self, backend: Backend, ledger: Ledger) -> Gate:
        """Return the gate before this session's key."""
        if not (isinstance(backend, RateLimited) and backend.is_rate_limited):
            return OpenGate()
        settings, key = self._settings, (backend.name, backend.key_id)

        def fresh(past: Sequence[AttemptRow] = ()) -> TokenBucket:
            return TokenBucket.replay(
                past_attempts(past),
                limit_per_minute=settings.rate_limit,
                burst=settings.rate_burst,
                now=monotonic(),
            )

        given = settings.rate_limit, settings.rate_burst
        if self._ledger_place is None:
            return shared_gate(*key, fresh, given=given)
        past = await ledger.attempts(backend=backend.name, key_id=backend.key_id, since=utc_now() - _RATE_LIMIT_MEMORY)
        return LedgerGate(
            ledger,
            *key,
            fresh=partial(fresh, past),
            given=given,
            lost_after=settings.connect_timeout + settings.request_timeout,
            owner=new_owner(),
            is_gone=is_gone,
        )

    async def _stop_opening(self) -> None:
        """End a supervisor whose opener was cancelled, before the ledger goes from under it."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)

    async def _release(self) -> None:
        """Give back connections and the ledger, once."""
        backend, self._backend = self._backend, None
        ledger, self._ledger = self._ledger, None
        if backend is not None and isinstance(self._service, str):
            await backend.close()
        if ledger is not None:
            await ledger.close()

    def _advise(self, config: FineTuneConfig, *, force: bool) -> None:
        """Refuse what cannot work, and warn of what will surprise, once for each kind of surprise.

        Raises:
            ConfigError: It cannot work.
        """
        assert self._backend is not None
        found = advice.check(config, service=self._backend.facts)
        if not force:
            advice.require_workable(found)
        for item in found:
            key = (item.code, item.field)
            if item.severity == "note" or key in self._advised:
                _log.debug("%s", item)
            else:
                self._advised.add(key)
                _log.warning("%s", item)

    async def _advise_all(self, configs: Sequence[FineTuneConfig], labels: Sequence[str], *, force: bool) -> None:
        """Refuse what cannot work among many configs, all of it at once.

        Raises:
            ConfigError: Some of them cannot work.
        """
        problems = []
        refused = 0
        for index, (config, label) in enumerate(zip(configs, labels, strict=True)):
            try:
                self._advise(config, force=force)
            except ConfigError as error:
                refused += 1
                place = f"configs[{index}]" + (f" {label!r}" if label else "")
                problems += [attrs.evolve(problem, field=f"{place} {problem.field}") for problem in error.problems]
            if (index + 1) % _PLANNED_AT_ONCE == 0:
                await asyncio.sleep(0)
        if problems:
            raise ConfigError(
                problems,
                what=f"{refused} of {len(configs)} configs cannot work; none is queued (force=True sends them anyway)",
            )

    def _open_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise UsageError("the session is not open; use 'async with Session(...) as session'")
        self._supervisor.check_open()
        return self._supervisor


def _new_record(config: FineTuneConfig, label: str) -> Record:
    return Record(job_id=new_job_id(), config=config, label=label, planned_at=utc_now())


def _storable(task_id: str) -> str:
    """Return a task id that every ledger can keep.

    Raises:
        UsageError: It holds what no database keeps in text: a NUL, or half of a surrogate pair.
    """
    try:
        task_id.encode()
    except UnicodeEncodeError:
        pass
    else:
        if "\0" not in task_id:
            return task_id
    raise UsageError(f"the task id {task_id!r:.60} holds a character that cannot be kept", field="task_id")
