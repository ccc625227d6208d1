"""``Session``: the one object that a program opens."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from crynux_async.backends.base import Backend
from crynux_async.clock import utc_now
from crynux_async.errors import UsageError, WaitTimeoutError
from crynux_async.events import Event
from crynux_async.job import Job, handle_on, record_of
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import JobFilter, JobRow, Ledger
from crynux_async.session_values import Reconciled, SessionStatistics, Unconfirmed
from crynux_async.settings import Settings, SettingsArguments
from crynux_async.states import JobState, Signal, advance
from crynux_async.supervision.adviser import Adviser
from crynux_async.supervision.filing import FilingArguments, filed, storable
from crynux_async.supervision.gates import gate_before
from crynux_async.supervision.intake import unconfirmed
from crynux_async.supervision.record import Record
from crynux_async.supervision.supervisor import Supervisor, new_job_id
from crynux_async.training.config import FineTuneConfig

if TYPE_CHECKING:
    from crynux_async.backends.opening import ServiceName
    from crynux_async.signing import Wallet

_PLANNED_AT_ONCE = 200
_RATE_LIMIT_MEMORY = timedelta(hours=2)

_log = logging.getLogger("crynux_async.session")


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
        send_planned: Whether jobs with an idempotency key that an earlier process planned and did not send are sent by
            this one, without being asked: right for whatever stands for all of them, such as a web application.
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
        send_planned: bool = False,
        **arguments: Unpack[SettingsArguments],
    ) -> None:
        if settings is not None and arguments:
            raise UsageError(f"give either settings or {', '.join(arguments)}, not both")
        self._settings = settings or Settings.load(**arguments)
        self._ledger_place = ledger
        self._ledger: Ledger | None = None
        self._service = backend or "bridge"
        self._wallet = wallet
        self._sends_planned = send_planned
        self._backend: Backend | None = None
        self._adviser: Adviser | None = None
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
            self._adviser = Adviser(self._backend.facts)
            gate = await gate_before(
                self._backend, self._settings, self._ledger, is_shared=self._ledger_place is not None
            )
            self._supervisor = Supervisor(
                self._backend, self._settings, self._ledger, gate, sends_planned=self._sends_planned
            )
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

    def submit_nowait(self, config: FineTuneConfig, *, force: bool = False, **filing: Unpack[FilingArguments]) -> Job:
        """Queue a config and return its job at once, before anything is sent; ``await job.submitted()`` waits for that.

        It is sent, and paid for, when the rate limit allows it. What will surprise is logged as a warning, once for
        each kind of surprise. It takes no idempotency key, because it cannot look into the ledger: ``enqueue()`` does.

        Args:
            config: What to train.
            force: Send it even if it cannot work.
            **filing: Label, group, tags and tenant (see ``FilingArguments``).

        Raises:
            ConfigError: It cannot work (``advice.check`` finds an error); nothing is queued.
            LedgerError: Nothing can be remembered any more; nothing is queued.
            UsageError: The session is not open, or a name cannot be kept.
        """
        supervisor = self._open_supervisor()
        self._check(config, force=force)
        record = _new_record(config, **filing)
        supervisor.submit(record)
        return handle_on(record, supervisor)

    async def submit(
        self,
        config: FineTuneConfig,
        *,
        idempotency_key: str | None = None,
        force: bool = False,
        **filing: Unpack[FilingArguments],
    ) -> Job:
        """Send a config when the rate limit allows it, and return its job when it is accepted.

        Cancelled before the job is sent, it is not sent, unless it has an idempotency key: then it is. Cancelled after
        that, the job goes on in ``jobs()``: to call this again without a key would send, and pay for, a second one.

        Args:
            config: What to train.
            idempotency_key: The caller's name for this intention: asked again, from whichever process, it is the same
                job, and never a second one (see ``enqueue``).
            force: Send it even if it cannot work.
            **filing: Label, group, tags and tenant (see ``FilingArguments``).

        Raises:
            ConfigError: It cannot work; nothing was sent.
            ConflictError: The key stands for another config already; nothing was sent.
            AuthError, QuotaError: The credential was refused; nothing is paid, and the job waits for ``retry()``.
            RejectedError: The service refused it; nothing is paid.
            UnreachableError: The service could not be reached for too long; nothing was sent.
            SubmissionUnknownError: It was sent, now or earlier, and its outcome is not known.
            LedgerError: It could not be remembered. Where ``task_id`` of the error is set, the task exists.
            UsageError: The session is not open, or a name cannot be kept.
        """
        if idempotency_key is not None:
            job = await self.enqueue(config, idempotency_key=idempotency_key, force=force, **filing)
            return job if job.done else await job.submitted()
        job = self.submit_nowait(config, force=force, **filing)
        try:
            return await job.submitted()
        except asyncio.CancelledError:
            self._withdraw(job)
            raise

    async def enqueue(
        self,
        config: FineTuneConfig,
        *,
        idempotency_key: str | None = None,
        force: bool = False,
        **filing: Unpack[FilingArguments],
    ) -> Job:
        """Queue a config, and return its job as soon as that is durable, before it is sent.

        What the key stands for is decided in the ledger, for every process on it: the same key is the same job. A job
        that is planned, rejected, or was given up before it was sent, is sent; one that runs, has a model, failed,
        expired, or was given up after it was sent, comes back as it is (``job.retry()`` sends it again). Two asks are
        the same where every field is, but for a seed that nobody gave: the first one's seed counts.

        Args:
            config: What to train.
            idempotency_key: The caller's name for this intention, 1 to 512 characters, unique by service and tenant;
                or None for a job of its own.
            force: Send it even if it cannot work.
            **filing: Label, group, tags and tenant (see ``FilingArguments``).

        Raises:
            ConfigError: It cannot work; nothing is queued.
            ConflictError: The key stands for another config already; nothing is queued.
            SubmissionUnknownError: The key's job was sent, and the outcome is not known.
            LedgerError: It could not be stored; nothing is sent.
            UsageError: The session is not open, or a name cannot be kept.
        """
        supervisor = self._open_supervisor()
        if idempotency_key is None:
            job = self.submit_nowait(config, force=force, **filing)
            try:
                await supervisor.saved([record_of(job)])
            except asyncio.CancelledError:
                self._withdraw(job)
                raise
            return job
        self._check(config, force=force)
        (record,) = await supervisor.ask([_new_record(config, idempotency_key, **filing)])
        if record.state is JobState.UNCONFIRMED:
            raise unconfirmed(record)
        return handle_on(record, supervisor)

    async def submit_many(
        self,
        configs: Iterable[FineTuneConfig],
        *,
        label: Callable[[FineTuneConfig], str] | None = None,
        idempotency_key: Callable[[FineTuneConfig], str] | Sequence[str] | None = None,
        group: str = "",
        tags: Mapping[str, str] | None = None,
        tenant: str = "",
        force: bool = False,
    ) -> list[Job]:
        """Queue any number of configs and return their jobs, in order, when all are in the ledger; then they are sent.

        Nothing is raised for a job that is refused later, or whose key was sent earlier with an unknown outcome: look
        at ``job.state``, or ``await job.submitted()``.

        Args:
            configs: What to train.
            label: Makes the label of each job from its config; called for all of them before any is queued.
            idempotency_key: Makes the key of each job from its config, or the keys in the order of ``configs``, as in
                ``enqueue``.
            group: Which set of jobs they belong to.
            tags: Free names and values for all of them.
            tenant: On whose behalf they run.
            force: Send them even if they cannot work.

        Raises:
            ConfigError: Some of them cannot work, all of which are named by index, label and field; none is queued.
            ConflictError: A key stands for another config already; none of the new jobs is sent.
            UsageError: The session is not open, or a name cannot be kept.
            LedgerError: They cannot be remembered; none of those will be sent.
        """
        supervisor = self._open_supervisor()
        chosen = list(configs)
        labels = [label(config) if label else "" for config in chosen]
        keys = _keys(idempotency_key, chosen)
        await self._require_adviser().check_all(chosen, labels, force=force)
        records = [
            _new_record(config, key, label=given, group=group, tags=tags or {}, tenant=tenant)
            for config, key, given in zip(chosen, keys, labels, strict=True)
        ]
        if idempotency_key is not None:
            records = await supervisor.ask(records) if records else []
        else:
            await supervisor.submit_all(records)
        return [handle_on(record, supervisor) for record in records]

    async def stop_sending(self, jobs: Iterable[Job]) -> None:
        """Leave planned jobs unsent, here and in every later process, until their user asks for them again.

        A job that is under way or was sent stays as it is. ``job.retry()``, or asking for its key again, sends it.

        Args:
            jobs: Which.

        Raises:
            LedgerError: It could not be stored; they are not sent by this session.
            UsageError: The session is not open.
        """
        await self._open_supervisor().stop_sending([record_of(job) for job in jobs])

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
        name: str | None = None,
        idempotency_key: str | None = None,
        force: bool = False,
        **filing: Unpack[FilingArguments],
    ) -> Path:
        """Submit a config, wait for its model, download it and return the archive's path.

        Cancelled after the job was sent, its task goes on and is paid for: go on with ``jobs()``, and call this again
        for the same model only with the same idempotency key.

        Args:
            config: What to train.
            folder: Where to put the archive.
            name: File name, as in ``Job.download``.
            idempotency_key: The caller's name for this intention, as in ``enqueue``.
            force: Send it even if it cannot work.
            **filing: Label, group, tags and tenant (see ``FilingArguments``).

        Raises:
            CrynuxError: Whatever ``submit()``, ``Job.wait()`` and ``Job.download()`` raise.
        """
        job = await self.submit(config, idempotency_key=idempotency_key, force=force, **filing)
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
        text = storable(self._backend.normal_task_id(task_id), "task_id")
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

    def _check(self, config: FineTuneConfig, *, force: bool) -> None:
        self._require_adviser().check(config, force=force)

    def _require_adviser(self) -> Adviser:
        assert self._adviser is not None, "an open session has one"
        return self._adviser

    def _withdraw(self, job: Job) -> None:
        """Give a job up that only this caller knows of, unless it is under way."""
        if self._supervisor is not None:
            self._supervisor.submitter.withdraw(record_of(job))

    def _open_supervisor(self) -> Supervisor:
        if self._supervisor is None:
            raise UsageError("the session is not open; use 'async with Session(...) as session'")
        self._supervisor.check_open()
        return self._supervisor


def _new_record(
    config: FineTuneConfig,
    idempotency_key: str | None = None,
    *,
    label: str = "",
    group: str = "",
    tags: Mapping[str, str] | None = None,
    tenant: str = "",
) -> Record:
    return Record(
        job_id=new_job_id(),
        config=config,
        label=storable(label, "label"),
        filing=filed(group=group, tags=tags, tenant=tenant, idempotency_key=idempotency_key),
        planned_at=utc_now(),
    )


def _keys(
    given: Callable[[FineTuneConfig], str] | Sequence[str] | None, configs: Sequence[FineTuneConfig]
) -> Sequence[str | None]:
    """Return the idempotency key of each config.

    Raises:
        UsageError: There are more or fewer keys than configs, or one text was given for all of them.
    """
    if given is None:
        return [None] * len(configs)
    if callable(given):
        return [given(config) for config in configs]
    if isinstance(given, str) or len(given) != len(configs):
        message = f"give a key for each of the {len(configs)} configs: one that is shared would make them one job"
        raise UsageError(message, field="idempotency_key")
    return list(given)
