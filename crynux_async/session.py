"""``Session``: the one object that a program opens."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

import attrs

from crynux_async.backends.base import Backend
from crynux_async.budgets import Budget
from crynux_async.clock import utc_now
from crynux_async.errors import UsageError
from crynux_async.job import Job, handle_on, record_of
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import JobFilter, Ledger
from crynux_async.ledgers.credentials import jobs_that_need
from crynux_async.money import wei_of
from crynux_async.session_jobs import SessionJobs
from crynux_async.settings import Settings, SettingsArguments
from crynux_async.slices import in_slices
from crynux_async.states import JobState
from crynux_async.supervision.adviser import Adviser
from crynux_async.supervision.filing import (
    FilingArguments,
    SharedFilingArguments,
    SubmitArguments,
    aware,
    filed,
    storable,
    usable_key,
)
from crynux_async.supervision.gates import gate_before
from crynux_async.supervision.intake import unconfirmed
from crynux_async.supervision.record import Record, new_job_id
from crynux_async.supervision.supervisor import Supervisor
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.keeping import KeptConfig, KeptConfigs, as_config
from crynux_async.training.service import ServiceFacts

if TYPE_CHECKING:
    from crynux_async.backends.opening import ServiceName
    from crynux_async.session_values import SessionStatistics, Spending
    from crynux_async.signing import Wallet
    from crynux_async.supervision.forecast import Forecast
    from crynux_async.supervision.observer import Ear, Observer


class Session(SessionJobs):
    """Submits, follows and downloads any number of fine-tuning jobs on one event loop.

    ::

        async with Session(api_key="...") as session:
            path = await session.run(FineTuneConfig(model_name="...", dataset_url="...", max_train_steps=200), "models")

    One session serves any number of callers. It may be opened in one task and closed in another, as fixtures and web
    frameworks do. Leaving it never cancels a remote task.

    Args:
        settings: How the client behaves; None to load it from ``arguments``, the environment and the settings file.
        ledger: Where jobs are remembered, so that the next process goes on with them: a path, "sqlite:///jobs.db",
            "postgresql://user@host/database" (which many hosts may share) or a ``Ledger``. None remembers them as long
            as the session is open.
        backend: Who runs the tasks: "bridge" for the one at ``settings.base_url``, "relay" for the relay of
            ``settings.network``, or a ``Backend``, which is not closed with the session; None for the bridge.
        wallet: Pays and signs at the relay; None for the one that ``CRYNUX_WALLET`` is the path of.
        follow: Whether unfinished jobs that no process follows are taken over. Without it the session finds, lists and
            awaits any job, and follows what it submits, until it is closed.
        send_planned: Whether jobs with an idempotency key that an earlier process planned and did not send are sent by
            this one, without being asked: right for whatever stands for all of them, such as a web application.
        budget: What pays for the jobs that are submitted here, shared with every session on the ledger that names it.
        price: What one try costs at most, in CNX, where the service does not know the fee that is paid: a bridge tells
            the usual one, 15 CNX a round. A budget needs a price.
        observer: Watches what the session does, such as ``integrations.opentelemetry.Telemetry``.
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
        follow: bool = True,
        send_planned: bool = False,
        budget: Budget | None = None,
        price: Decimal | float | str | None = None,
        observer: "Observer | None" = None,
        **arguments: Unpack[SettingsArguments],
    ) -> None:
        super().__init__()
        if settings is not None and arguments:
            raise UsageError(f"give either settings or {', '.join(arguments)}, not both")
        self._settings = settings or Settings.load(**arguments)
        self._ledger_place = ledger
        self._ledger: Ledger | None = None
        self._service = backend or "bridge"
        self._wallet = wallet
        self._follows = follow
        self._sends_planned = send_planned
        self._budget = budget
        self._price = None if price is None else wei_of(price, "price")
        self._ear = None if observer is None else _ear_of(observer, self)
        self._backend: Backend | None = None
        self._adviser: Adviser | None = None
        self._runner: asyncio.Task[None] | None = None

    @property
    def settings(self) -> Settings:
        """How this session behaves."""
        return self._settings

    @property
    def ledger(self) -> Ledger:
        """Where its jobs are remembered, for parts that remember something of their own beside them.

        Raises:
            UsageError: The session is not open.
        """
        if self._ledger is None:
            raise UsageError("the session is not open; use 'async with Session(...) as session'")
        return self._ledger

    @property
    def service(self) -> str:
        """What its service is called in the ledger: the address of a bridge, or the name of another service.

        Raises:
            UsageError: The session is not open.
        """
        return self._open_supervisor().backend.name

    @property
    def service_facts(self) -> ServiceFacts:
        """What its service does with configs: what ``advice.check`` goes by.

        Raises:
            UsageError: The session is not open.
        """
        self._open_supervisor()
        assert self._backend is not None
        return self._backend.facts

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
        # The ledger first: without it nothing that is paid for could be remembered.
        self._ledger = open_ledger(self._ledger_place)
        await self._ledger.open()
        try:
            self._backend = await self._open_backend()
            self._adviser = Adviser(self._backend.facts)
            gate = await gate_before(
                self._backend, self._settings, self._ledger, is_shared=self._ledger_place is not None
            )
            self._supervisor = Supervisor(
                self._backend,
                self._settings,
                self._ledger,
                gate,
                follows=self._follows,
                sends_planned=self._sends_planned,
                keeps_events=self._ledger_place is not None,
                budget=self._budget,
                price=self._price,
                ear=self._ear,
            )
            if self._ear is not None:
                self._ear.begin()
            started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            # A task of its own: fixtures close a session in another task than they open it in, and a task group that is
            # entered here could not be left there.
            self._runner = asyncio.create_task(self._drive(self._supervisor, started), name="crynux_async supervisor")
            await started
        except BaseException:
            try:
                await self._stop_opening()
            finally:
                await self._release()
            raise

    async def close(self) -> None:
        """Stop following jobs. Creates under way get ``close_timeout`` seconds for their answer; the rest is instant.

        May be called from any task, and again. Whoever is cancelled here, the session closes all the same.

        Raises:
            UsageError: This is not the event loop on which it was opened; the session stays open.
        """
        if self._supervisor is None or self._runner is None:
            return
        if not self._runner.done():
            self._supervisor.check_loop()
        self._supervisor.stop()
        try:
            # Shielded, because whoever is cancelled while closing must not cut off the answers of creates (case S5).
            await asyncio.shield(self._runner)
        except asyncio.CancelledError:
            # The loop is ending and has cancelled everything: then the session is closed.
            if not self._runner.cancelled():
                raise

    def submit_nowait(self, config: FineTuneConfig, *, force: bool = False, **filing: Unpack[SubmitArguments]) -> Job:
        """Queue a config and return its job at once, before anything is sent; ``await job.submitted()`` waits for that.

        It is sent, and paid for, when the rate limit allows it. What will surprise is logged as a warning, once for
        each kind of surprise. It takes no idempotency key, because it cannot look into the ledger: ``enqueue()`` does.

        Args:
            config: What to train.
            force: Send it even if it cannot work.
            **filing: Label, group, tags, tenant, and where its archive is wanted (see ``SubmitArguments``).

        Raises:
            ConfigError: It cannot work (``advice.check`` finds an error); nothing is queued.
            LedgerError: Nothing can be remembered any more; nothing is queued.
            UsageError: The session is not open, or a name cannot be kept.
        """
        supervisor = self._open_supervisor()
        self._check(config, force=force)
        record = self._planned(config, None, utc_now(), **filing)
        supervisor.submit(record)
        return handle_on(record, supervisor)

    async def submit(
        self,
        config: FineTuneConfig,
        *,
        idempotency_key: str | None = None,
        force: bool = False,
        **filing: Unpack[SubmitArguments],
    ) -> Job:
        """Send a config when the rate limit allows it, and return its job when it is accepted.

        Cancelled before the job is sent, it is not sent, unless it has an idempotency key: then it is. Cancelled after
        that, the job goes on in ``jobs()``: to call this again without a key would send, and pay for, a second one.

        Args:
            config: What to train.
            idempotency_key: The caller's name for this intention: asked again, from whichever process, it is the same
                job, and never a second one (see ``enqueue``).
            force: Send it even if it cannot work.
            **filing: Label, group, tags, tenant, and where its archive is wanted (see ``SubmitArguments``).

        Raises:
            ConfigError: It cannot work; nothing was sent.
            ConflictError: The key stands for another config already; nothing was sent.
            AuthError, QuotaError: The credential was refused; nothing is paid, and the job waits for ``retry()``.
            RejectedError: The service refused it; nothing is paid.
            BudgetExceededError: Its budget does not allow it; nothing was sent, and the job waits for ``retry()``.
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
        **filing: Unpack[SubmitArguments],
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
            **filing: Label, group, tags, tenant, and where its archive is wanted (see ``SubmitArguments``).

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
        (record,) = await supervisor.ask([self._planned(config, idempotency_key, utc_now(), **filing)])
        if record.state is JobState.UNCONFIRMED:
            raise unconfirmed(record)
        return handle_on(record, supervisor)

    async def submit_many(
        self,
        configs: Iterable[FineTuneConfig],
        *,
        label: Callable[[FineTuneConfig], str] | Sequence[str] | None = None,
        idempotency_key: Callable[[FineTuneConfig], str] | Sequence[str] | None = None,
        folder: str | Path | None = None,
        file_name: str | None = None,
        force: bool = False,
        **filing: Unpack[SharedFilingArguments],
    ) -> list[Job]:
        """Queue any number of configs and return their jobs, in order, when all are in the ledger; then they are sent.

        Nothing is raised for a job that is refused later, or whose key was sent earlier with an unknown outcome: look
        at ``job.state``, or ``await job.submitted()``. A session that is closed before then leaves what it has not sent
        planned: ``job.retry()`` or ``crynux-async resume --send`` sends that.

        Args:
            configs: What to train.
            label: Makes the label of each job from its config, called for all of them before any is queued; or the
                labels in the order of ``configs``.
            idempotency_key: Makes the key of each job from its config, or the keys in the order of ``configs``, as in
                ``enqueue``.
            folder: Where their archives are brought as soon as there are any (see ``SubmitArguments``).
            file_name: Their names there.
            force: Send them even if they cannot work.
            **filing: Budget, group, tags and tenant of all of them (see ``FilingArguments``).

        Raises:
            ConfigError: Some of them cannot work, all of which are named by index, label and field; none is queued.
            ConflictError: A key stands for another config already; none of the new jobs is sent.
            UsageError: The session is not open, or a name cannot be kept.
            LedgerError: They cannot be remembered; none of those will be sent.
        """
        supervisor = self._open_supervisor()
        # Those of a generator are there nowhere else, and a hundred thousand of them are 34 MB.
        chosen = list(configs) if isinstance(configs, Sequence) else KeptConfigs(configs)
        labels = [given or "" for given in _one_for_each(label, chosen, "label")]
        keys = _one_for_each(idempotency_key, chosen, "idempotency_key")
        await self._require_adviser().check_all(chosen, labels, force=force)

        now = utc_now()
        # What is kept of a config is enough for a record, and needs no config to be made anew.
        wanted = chosen.kept if isinstance(chosen, KeptConfigs) else chosen

        def planned(place: int) -> Record:
            config, key, named = wanted[place], keys[place], labels[place]
            return self._planned(config, key, now, label=named, folder=folder, file_name=file_name, **filing)

        records = await in_slices(planned, range(len(chosen)))
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
            force: Send it even if it cannot work, or its archive may not fit.
            **filing: Label, group, tags and tenant (see ``FilingArguments``).

        Raises:
            UsageError: No archive could come to this folder, or be called so; nothing was sent.
            CrynuxError: Whatever ``submit()``, ``Job.wait()`` and ``Job.download()`` raise.
        """
        # What is asked for again may be there already, and needs no room then.
        has_room = force or idempotency_key is not None
        await self.check_target(config, folder, name=name, label=filing.get("label", ""), has_room=has_room)
        job = await self.submit(config, idempotency_key=idempotency_key, force=force, **filing)
        return await job.download(folder, name=name)

    async def check_target(
        self,
        config: FineTuneConfig,
        folder: str | Path = ".",
        *,
        name: str | None = None,
        label: str = "",
        has_room: bool = False,
    ) -> None:
        """Refuse a folder or a file name that the model of a config could not have, before it is paid for.

        Args:
            config: What would be trained.
            folder: Where the archive is to go; need not exist, and is not made.
            name: File name, as in ``Job.download``.
            label: The caller's own name for the job.
            has_room: Whether it is known that the archive will fit; else the folder must have room for it now.

        Raises:
            UsageError: No archive could come there or be called so; says why, in ``field`` too.
        """
        record = Record(job_id=new_job_id(), config=config, label=storable(label, "label"), planned_at=utc_now())
        await self._open_supervisor().check_target(record, Path(folder), name, has_room=has_room)

    def price(self, config: FineTuneConfig) -> int | None:
        """Return what one try of a config may cost at most, in wei (10**-18 CNX), or None where that is not known.

        Raises:
            UsageError: The session is not open.
        """
        return self._open_supervisor().accounts.price(config)

    async def spent(self, *, since: datetime | None = None, group: str | None = None) -> "Spending":
        """Return what the tasks of jobs hold and have spent, as far as prices are known, whoever sent them.

        Args:
            since: Only of jobs planned at or after this, aware.
            group: Only of jobs of this set.

        Raises:
            LedgerError: The ledger cannot be read.
            UsageError: The session is not open, or the time has no time zone.
        """
        supervisor = self._open_supervisor()
        where = JobFilter(backend=supervisor.backend.name, since=aware(since, "since"), group=group)
        held, spent = await supervisor.spent(where)
        from crynux_async.session_values import Spending

        return Spending(held=held, spent=spent)

    async def balance(self) -> int | None:
        """Return what the account that pays has, in wei (10**-18 CNX), or None where that cannot be asked.

        It cannot at a bridge: who has an API key has no account.

        Raises:
            UsageError: The session is not open.
            BackendError: The service did not answer.
        """
        return await self._open_supervisor().accounts.balance()

    def forecast(self, configs: Sequence[FineTuneConfig]) -> "Forecast":
        """Return when new jobs would be sent and end, were they queued now.

        Args:
            configs: What they would train.

        Raises:
            UsageError: The session is not open.
        """
        return self._open_supervisor().forecast(configs)

    def statistics(self) -> "SessionStatistics":
        """Return what this session has done and is doing."""
        supervisor = self._supervisor
        if supervisor is None:
            raise UsageError("the session is not open; use 'async with Session(...) as session'")
        from crynux_async.session_values import SessionStatistics

        polls, bucket = supervisor.follower.polls.statistics(), supervisor.submitter.gate.bucket
        return SessionStatistics(
            jobs={state: count for state, count in supervisor.register.counts.items() if count},
            queued=supervisor.submitter.waiting,
            creating=supervisor.submitter.creating,
            downloading=supervisor.fetcher.active,
            polls=polls.polls,
            poll_errors=polls.errors,
            poll_delay=polls.target_delay,
            refusals=bucket.refusals if bucket else 0,
            limit_per_minute=bucket.limit_per_minute if bucket else None,
            silent_for=supervisor.reach.silent_for,
            trouble=supervisor.reach.trouble,
            is_rate_limited=bucket is not None,
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

    async def jobs_that_need(self, key_id: str) -> list[str]:
        """Return the ids of the jobs in this session's ledger whose results only one API key can fetch.

        ``BridgeAdmin.rotate_key(key, session.jobs_that_need)`` and ``retire_keys`` ask it.

        Args:
            key_id: The key's fingerprint (``Settings.key_id``).

        Raises:
            UsageError: The session is not open.
            LedgerError: The ledger cannot be read.
        """
        return await jobs_that_need(self.ledger, key_id, self.service)

    async def take_over(self) -> None:
        """Go on at once with the jobs of processes that have ended since the last call.

        A session does that by itself within the third of a lease (20 s at a bridge). Whoever runs several workers and
        wants it sooner calls this every second: it costs two reads.

        Raises:
            LedgerError: The ledger cannot be read or written; the next call may work.
            UsageError: The session is not open.
        """
        await self._open_supervisor().hear_leavers()

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

    async def _drive(self, supervisor: Supervisor, started: "asyncio.Future[None]") -> None:
        """Drive jobs until the session is closed, then give everything back: in the one task that no caller cancels."""
        try:
            await supervisor.run(started)
        finally:
            await self._release()

    async def _release(self) -> None:
        """Give back connections and the ledger, once; what was cut off in the middle of it is not given back yet."""
        try:
            if self._backend is not None and isinstance(self._service, str):
                await self._backend.close()
            self._backend = None
        finally:
            if self._ledger is not None:
                await self._ledger.close()
            self._ledger = None

    def _check(self, config: FineTuneConfig, *, force: bool) -> None:
        self._require_adviser().check(config, force=force)

    def _planned(
        self,
        config: FineTuneConfig | KeptConfig,
        idempotency_key: str | None,
        at: datetime,
        /,
        *,
        label: str = "",
        budget: Budget | None = None,
        group: str = "",
        tags: Mapping[str, str] | None = None,
        tenant: str = "",
        folder: str | Path | None = None,
        file_name: str | None = None,
    ) -> Record:
        """Return the record of a new job, planned ``at`` a time that several may have in common.

        Raises:
            UsageError: A name cannot be kept, that of the archive is not a template, or a budget is to pay what nobody
                knows the price of.
        """
        job_id, budget = new_job_id(), budget or self._budget
        if budget is not None and self.price(as_config(config)) is None:
            message = f"the budget {budget.name!r} needs a price: the service tells none; give Session(price=...)"
            raise UsageError(message, field="price")
        filing = filed(group=group, tags=tags, tenant=tenant, budget=budget)
        if self._ear is not None:
            filing = attrs.evolve(filing, tags={**self._ear.planned(job_id, as_config(config)), **filing.tags})
        record = Record(
            job_id=job_id,
            config=config,
            label=storable(label, "label"),
            filing=filing,
            idempotency_key=usable_key(idempotency_key),
            planned_at=at,
        )
        if folder is not None:
            where = folder if isinstance(folder, Path) else Path(folder)
            self._open_supervisor().want_from_the_start(record, where, file_name)
        return record

    def _require_adviser(self) -> Adviser:
        assert self._adviser is not None, "an open session has one"
        return self._adviser

    def _withdraw(self, job: Job) -> None:
        """Give a job up that only this caller knows of, unless it is under way."""
        if self._supervisor is not None:
            self._supervisor.submitter.withdraw(record_of(job))


def _ear_of(observer: "Observer", session: Session) -> "Ear":
    from crynux_async.supervision.observer import Ear

    return Ear(observer.watch(session))


def _one_for_each(
    given: Callable[[FineTuneConfig], str] | Sequence[str] | None, configs: Sequence[FineTuneConfig], field: str
) -> Sequence[str | None]:
    """Return the label or key of each config.

    Raises:
        UsageError: There are more or fewer than configs, or one text was given for all of them.
    """
    if given is None:
        return [None] * len(configs)
    if callable(given):
        return [given(config) for config in configs]
    if isinstance(given, str) or len(given) != len(configs):
        message = f"give one for each of the {len(configs)} configs: a key that is shared would make them one job"
        raise UsageError(message, field=field)
    return list(given)
