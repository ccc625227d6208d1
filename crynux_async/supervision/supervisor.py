"""The one task group: runs everything that drives jobs, and every task that they ask for.

``Supervisor.hand_on`` is the life of a job: submit, then follow, then fetch. Each stage drives any number of jobs at
once and calls it with a job that it has finished; nothing else moves a job from one to the next.

What may be done is decided by the pure modules (``token_bucket``, ``poll_queue``, ``states``); this module only keeps
their carriers alive, gives them tasks, and ends them in order: first no new create, then the answers of those under
way, then everything else, then the last words to the ledger. No failure of one of them ends the others.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.abc

from crynux_async.backends.base import Backend, HasImages, Phase
from crynux_async.budgets import Budget
from crynux_async.downloads.names import check_template
from crynux_async.errors import LedgerError, UsageError, only_error
from crynux_async.ledgers.base import JobFilter, Ledger, TaskRow
from crynux_async.pacing.gate import Gate
from crynux_async.settings import Settings
from crynux_async.states import STAGES, Signal, Stage, may
from crynux_async.supervision.abilities import Abilities
from crynux_async.supervision.accounts import Accounts
from crynux_async.supervision.chores import Chores
from crynux_async.supervision.credentials import Credentials
from crynux_async.supervision.doors import Doors, doors_of
from crynux_async.supervision.errands import Errands
from crynux_async.supervision.event_reader import EventReader
from crynux_async.supervision.fetcher import Fetcher, check_target
from crynux_async.supervision.follower import Follower
from crynux_async.supervision.hearing import Hearing
from crynux_async.supervision.image_keeper import ImageKeeper
from crynux_async.supervision.intake import Intake
from crynux_async.supervision.late_costs import LateCosts
from crynux_async.supervision.ledger_writer import LedgerWriter
from crynux_async.supervision.lost_creates import LostCreates
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.owners import new_owner
from crynux_async.supervision.reach import Reach
from crynux_async.supervision.record import Record, StoredArchive, Wanted, shared_wish
from crynux_async.supervision.register import JobRegister
from crynux_async.supervision.spending import Spending
from crynux_async.supervision.stepper import Stepper
from crynux_async.supervision.submitter import Submitter
from crynux_async.supervision.take_over import TakeOver
from crynux_async.supervision.tasks import TaskViews
from crynux_async.supervision.tries import SEND, STOP, Tries
from crynux_async.supervision.upkeep import Upkeep
from crynux_async.supervision.wishes import Wishes
from crynux_async.threads import in_thread, to_the_end
from crynux_async.training.config import FineTuneConfig

if TYPE_CHECKING:
    from crynux_async.backends.base import Finding, LostCreate
    from crynux_async.supervision.audit import Audit
    from crynux_async.supervision.forecast import Forecast
    from crynux_async.supervision.observer import Ear

_log = logging.getLogger("crynux_async.supervision.supervisor")

T = TypeVar("T")

_PLANNED_AT_ONCE = 200  # jobs between two turns of the event loop
_BEGIN_AGAIN = 5.0


class Supervisor:
    """Drives every job of a session. Must be made inside a running event loop.

    Args:
        backend: Who runs the tasks.
        settings: Limits, intervals and timeouts.
        ledger: Where jobs are remembered; open.
        gate: Decides when creates may be sent.
        follows: Whether it takes jobs over that nobody holds.
        sends_planned: Whether it sends what earlier processes planned under an idempotency key and did not send.
        keeps_events: Whether the events of every job are stored, and not only of those that somebody has read here.
        budget: The session's own; its limit counts for jobs of earlier sessions on the same one.
        price: What one try costs at most, in wei, where the service knows no prices; or None.
        ear: Hears what happens and what is done, or None.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        ledger: Ledger,
        gate: Gate,
        *,
        follows: bool = True,
        sends_planned: bool = False,
        keeps_events: bool = False,
        budget: Budget | None = None,
        price: int | None = None,
        ear: "Ear | None" = None,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._group: anyio.abc.TaskGroup | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self.backend = backend
        self._closed = False
        self._follows = follows
        self.register = JobRegister(keeps_events=keeps_events, ear=ear)
        self.reach = Reach()
        self.accounts = Accounts(backend, price)
        self._spending = Spending(ledger, self.accounts, budget)
        self._writer = LedgerWriter(
            ledger,
            self.register,
            backend=backend.name,
            key_id=backend.key_id,
            owner=new_owner(follows=follows),
            lease=backend.habits.lease,
            spending=self._spending,
            keeps_events=keeps_events,
        )
        self._tasks = TaskViews(backend, ledger)
        self._credentials = Credentials(backend, ledger)
        tell_of_step = partial(self.register.tell, is_stored=True)
        self._stepper = Stepper(backend, self._tasks, self._writer, self._spawn, tell=tell_of_step)
        self._chores = Chores(backend, settings, ledger, trims_events=keeps_events and follows)
        doors = doors_of(backend, self._writer.task_ended)
        self._make_drivers(gate, doors if ear is None else ear.listen_at(doors, self.accounts))
        self._make_dealings(sends_planned=sends_planned)
        self._make_helpers()
        self._make_upkeep()

    def _make_drivers(self, gate: Gate, doors: Doors) -> None:
        """Make who drives jobs: submit, follow, fetch."""
        self.submitter = Submitter(
            self.backend,
            self._settings,
            self.register,
            writer=self._writer,
            accounts=self.accounts,
            spending=self._spending,
            reach=self.reach,
            gate=gate,
            create=doors.create,
            spawn=self._spawn,
            hand_on=self.hand_on,
        )
        self.follower = Follower(
            self.backend,
            self._settings,
            self.register,
            self._spawn,
            tasks=self._tasks,
            credentials=self._credentials,
            accounts=self.accounts,
            reach=self.reach,
            on_look=self._stepper.looked,
            on_end=doors.task_ended,
            hand_on=self.hand_on,
        )
        fetch = (lambda record: self.abilities.images(record)) if isinstance(self.backend, HasImages) else None
        self._images = ImageKeeper(fetch, self._spawn, slots=self._settings.max_downloads)
        self.fetcher = Fetcher(
            self.backend,
            self._settings,
            self.register,
            self._tasks,
            credentials=self._credentials,
            open_result=doors.open_result,
            spawn=self._spawn,
            save=self._writer.flush,
            save_later=partial(self._writer.persist, self._writer.flush),
            places=self._places,
            images=self._images,
        )

    def _make_dealings(self, *, sends_planned: bool) -> None:
        """Make who deals with other sessions and with what earlier ones left, and who takes jobs in."""
        self.abilities = Abilities(
            self.backend,
            self._tasks,
            self.accounts,
            submitter=self.submitter,
            follower=self.follower,
            check_open=self.check_open,
        )
        self._lost = LostCreates(
            self.backend, self._ledger, self.register, self._writer, accounts=self.accounts, spending=self._spending
        )
        self.onlookers = Onlookers(self._ledger, self.register, self.submitter.is_under_way)
        self._take_over = TakeOver(
            self.backend,
            self._ledger,
            self.register,
            self.onlookers,
            writer=self._writer,
            submitter=self.submitter,
            lost=self._lost,
            credentials=self._credentials,
            hand_on=self.hand_on,
            sends_planned=sends_planned,
        )
        self._tries = Tries(
            self._ledger,
            self.register,
            self.onlookers,
            writer=self._writer,
            submitter=self.submitter,
            take_over=self._take_over,
        )
        self._intake = Intake(
            self.register,
            self.onlookers,
            writer=self._writer,
            submitter=self.submitter,
            tries=self._tries,
            spawn=self._spawn,
        )

    def _make_helpers(self) -> None:
        """Make who does for jobs what is asked for besides: wishes of others, models, costs that come late."""
        self._wishes = Wishes(
            self._ledger,
            self.register,
            self.onlookers,
            writer=self._writer,
            take_over=self._take_over,
            submitter=self.submitter,
            fetcher=self.fetcher,
            abilities=self.abilities,
            accounts=self.accounts,
            spawn=self._spawn,
            hand_on=self.hand_on,
        )
        self._errands = Errands(
            self.fetcher, self._credentials, writer=self._writer, take_to_fetch=self._wishes.take_to_fetch
        )
        self._late_costs = LateCosts(
            self.backend,
            self._ledger,
            self.onlookers,
            writer=self._writer,
            take_over=self._take_over,
            looks_back=self._follows,
        )
        self._take_over.grants |= {SEND: self._tries.grant, STOP: self._tries.grant_stop, **self._wishes.grants}
        self._writer.on_lost = self._lost_to_another
        self._writer.on_saved = self.submitter.look_again
        self._writer.on_open = self._late_costs.note
        self._lost.on_not_created = lambda record: self.submitter.repeat(record, None)

    def _make_upkeep(self) -> None:
        """Make who tells users what happens, and who keeps the session among others."""
        self.register.on_event = self._writer.enter_event
        is_closed = lambda: self._closed  # noqa: E731  # one for both
        reader = EventReader(self._ledger, self._writer.events, is_closed)
        self.hearing = Hearing(self.register, self.onlookers, reader, is_closed)
        self._upkeep = Upkeep(
            self.backend,
            self._ledger,
            self.register,
            writer=self._writer,
            take_over=self._take_over,
            follower=self.follower,
            follows=self._follows,
        )

    def hand_on(
        self,
        record: Record,
        *,
        config: FineTuneConfig | None = None,
        look_after: float | None = None,
        progress: str = "",
        phases: Sequence[Phase] = (),
    ) -> None:
        """Give a job to whoever drives it next: submit, then follow, then fetch.

        A planned job is sent only where somebody here has asked for that, and a model is fetched here only where that
        was the wish from the first moment, or an earlier process's; otherwise whoever wants it is waiting, and asks.

        Args:
            record: The job.
            config: What it trains, where that is at hand.
            look_after: Seconds after which the service wishes to be asked about a new task, or None.
            progress: How far a new task is in the service's own word, or "".
            phases: The phases of a new task's life, as far as the service tells them.
        """
        # Whatever is another's is over for this session, however far it is.
        stage = STAGES[record.state] if record.is_ours else Stage.OVER
        if stage is not Stage.FOLLOW:
            self.follower.forget(record)
            self._stepper.forget(record)
        if stage is Stage.SUBMIT:
            self.submitter.go_on(record)
        elif stage is Stage.FOLLOW:
            self.follower.follow(record, config or record.config, look_after, progress, phases)
        elif stage is Stage.FETCH and record.wanted is not None and (record.is_resumed or record.wanted.is_standing):
            if not self.fetcher.is_fetching(record):
                self._spawn(self._errands.fetch_wanted(record, record.wanted))
        elif stage is Stage.OVER:
            self._tasks.forget(record)

    async def run(self, started: "asyncio.Future[None]") -> None:
        """Run until ``stop()``, in whichever task calls this; ``started`` is set when jobs can be taken."""
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                await self._upkeep.begin()
                # Of its own, so that sending ends first and answers can still come (case S5).
                sending = anyio.CancelScope()
                group.start_soon(self._send, sending)
                for work in (
                    self.follower.run,
                    self._writer.run,
                    self.onlookers.run,
                    self._upkeep.keep_leases,
                    self._upkeep.hear_wishes,
                    self._late_costs.run,
                    self._chores.warn,
                    self._chores.trim_events,
                ):
                    group.start_soon(self._keep_alive, work)
                started.set_result(None)
                await self._stop.wait()
                sending.cancel()
                await self._drain()
                group.cancel_scope.cancel()
        except BaseException as error:
            # Nobody awaits this task before the session is open: its opener is told instead.
            if not started.done():
                started.set_exception(only_error(error))
                return
            raise
        finally:
            self._closed = True
            self._group = None
            # Waiters first: what follows may take as long as the ledger's lock lasts.
            self.register.close()
            self.onlookers.close()
            self._writer.close()
            with anyio.CancelScope(shield=True):
                await self._end()

    def stop(self) -> None:
        """Begin to end: creates under way get ``close_timeout`` seconds for their answer."""
        self._closed = True
        # At once: a create that began before its task hears of the end would be cut off (case S5).
        self.submitter.end()
        self._writer.give_up_after(self._settings.close_timeout)
        self._stop.set()

    def check_loop(self) -> None:
        """Raise UsageError elsewhere: what is queued from another loop or thread wakes nobody, and is paid for."""
        try:
            is_at_home = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_at_home = threading.get_ident() == self._thread
        if not is_at_home:
            raise UsageError(
                "a session is used on the event loop on which it was opened; from another thread call "
                "asyncio.run_coroutine_threadsafe(session.submit(config), loop).result() with that loop, or open a "
                "session here"
            )

    def check_open(self) -> None:
        """Raise UsageError when nothing follows jobs any more, or when this is not the session's event loop."""
        self.check_loop()
        if self._closed:
            raise UsageError(
                "the session is closed, so nothing follows the job any more; its task, if it has one, goes on at the "
                "service and can be followed again with session.attach(task_id)"
            )

    def submit(self, record: Record) -> None:
        """Take in a planned job and queue it.

        Raises:
            UsageError: The session is closed.
            LedgerError: Nothing can be remembered any more.
        """
        self.check_open()
        self._writer.check()
        self.register.add(record)
        self._writer.remember(record)
        self.submitter.enqueue(record)

    async def submit_all(self, records: Sequence[Record]) -> None:
        """Take in planned jobs and queue them; returns when all are in the ledger.

        Raises:
            UsageError: The session is closed.
            LedgerError: They could not be stored, and will not be sent.
        """
        for number, record in enumerate(records, start=1):
            self.submit(record)
            if number % _PLANNED_AT_ONCE == 0:
                await asyncio.sleep(0)
        await self.saved(records)

    async def stop_sending(self, records: Sequence[Record]) -> None:
        """Leave planned jobs unsent, here and in every later process, until their user says so.

        Raises:
            LedgerError: It could not be stored.
        """
        self.check_open()
        await self._apart(self._tries.stop(records))

    def attach(self, record: Record) -> None:
        """Take in a job that the service has already."""
        self.check_open()
        self.register.add(record)
        self._writer.remember(record)
        self.hand_on(record)

    def attach_again(self, record: Record) -> None:
        """Follow a job's task anew that was given up here, or was not known to the service; others go on as they do."""
        self.check_open()
        if record.is_ours and record.task_id is not None and may(record.state, Signal.NAMED):
            record.error = None
            self.register.learn(record, Signal.NAMED)
            self.hand_on(record, look_after=0.0)

    def abandon(self, record: Record) -> None:
        """Stop caring about a job, because the user says so: at once, or as soon as its owner hears of it.

        Raises:
            UsageError: The session is closed, or this is not its event loop.
        """
        self.check_loop()
        if record.is_ours:
            self._wishes.give_up(record)
        else:
            self.check_open()
            self._spawn(self._wishes.abandon(record))

    async def check_target(self, record: Record, folder: Path, name: str | None, *, has_room: bool) -> None:
        """Refuse a folder or a name to which a job's archive could not come.

        Raises:
            UsageError: It could not; says why.
        """
        template = name or self.backend.habits.file_name
        check = partial(check_target, record, folder, template, has_room=has_room)
        await to_the_end(in_thread(check))

    def want(self, record: Record, folder: Path, name: str | None) -> Wanted:
        """Remember that a job's archive is wanted, and return where; ``name`` is None for the service's usual one.

        Raises:
            UsageError: The name is not a template.
        """
        wanted = self._wanted(folder, name)
        if wanted != record.wanted:
            record.wanted = wanted
            self.register.note(record)
        return wanted

    def want_from_the_start(self, record: Record, folder: Path, name: str | None) -> None:
        """Have the archive of a new job fetched as soon as there is one, without anybody waiting for it.

        Raises:
            UsageError: The name is not a template.
        """
        record.wanted = self._wanted(folder, name, is_standing=True)

    def forecast(self, configs: Sequence[FineTuneConfig]) -> "Forecast":
        """Return when new jobs would be sent and end, were they queued now."""
        from crynux_async.supervision.forecast import Forecast

        if not configs:
            return Forecast(last_sent_at=None, ends_between=None)
        last = self.submitter.expected_after(len(configs))
        ages = [self.follower.usual_ages(config) for config in configs]
        known = [age for age in ages if age is not None]
        if last is None or len(known) < len(ages):
            return Forecast(last_sent_at=last, ends_between=None)
        soonest, latest = (timedelta(seconds=max(side)) for side in zip(*known, strict=True))
        return Forecast(last_sent_at=last, ends_between=(last + soonest, last + latest))

    async def hear_leavers(self) -> None:
        """Go on at once with what processes have left since the last call, where this session follows jobs of others.

        Raises:
            LedgerError: The ledger cannot be read or written.
        """
        if self._follows:
            await self._take_over.hear_leavers()

    async def ask(self, records: Sequence[Record]) -> list[Record]:
        """Return the jobs that the idempotency keys of new records stand for, when they are durable and queued.

        Raises:
            ConflictError: A key stands for something else already; none of the new jobs is sent.
            LedgerError: They could not be stored; none is sent.
            UsageError: The session is closed.
        """
        self.check_open()
        self._writer.check()
        return await self._intake.ask(records)

    async def retry(self, *records: Record, timeout: int | None = None, keeps_longer: bool = False) -> None:
        """Send jobs (again) because their user says so; returns when that is durable (see ``Tries.send_all``)."""
        self.check_open()
        self._writer.check()
        await self._apart(self._tries.send_all(records, timeout=timeout, keeps_longer=keeps_longer))

    async def cancel(self, record: Record) -> str:
        """Cancel a job, whoever holds it, and return what that means for the money, for people."""
        self.check_open()
        if record.is_ours:
            return await self.abilities.cancel(record)
        return await self._apart(self._wishes.cancel(record))

    def expected_at(self, record: Record) -> datetime | None:
        """Return when a queued job will be sent as far as is known, or None."""
        return self.submitter.expected_at(record)

    async def fetch(self, record: Record, wanted: Wanted) -> Path:
        """Bring a job's archive to disk, taking the job from whoever has it."""
        self.check_open()
        return await self._errands.fetch(record, wanted, partial(self.want, record, wanted.folder, wanted.name))

    async def check_may_have(self, record: Record, folder: Path, name: str | None) -> None:
        """Refuse a job whose archive could never come here.

        Raises:
            OwnershipError: Its task was made with another credential.
            UsageError: The session is closed.
        """
        self.check_open()
        await self.fetcher.check_may_have(record, folder, name or self.backend.habits.file_name)

    async def store_images(self, record: Record, archive: Path) -> list[Path]:
        """Return the validation images beside a job's archive, in order, storing them unless they are there."""
        self.check_open()
        return await self._images.store(record, archive)

    async def lost_creates(self) -> "list[LostCreate]":
        """Return the creates of this session's jobs whose outcome is not known."""
        return await self._lost.all()

    async def look_for_lost(self, *, at_most: int, evidence_bytes: int) -> "list[tuple[Finding, Record]]":
        """Look for the tasks of lost creates; those that are found are followed from now on."""
        found = await self._lost.look_for(at_most=at_most, evidence_bytes=evidence_bytes)
        for _, record in found:
            self.hand_on(record)
        return found

    async def price_of_looking(self, *, at_most: int) -> int:
        """Return how many requests ``look_for_lost`` makes at most."""
        return await self._lost.price(at_most=at_most)

    async def spent(self, where: JobFilter) -> tuple[int, int]:
        """Return the wei that the tasks of jobs hold and have spent.

        Raises:
            LedgerError: The ledger cannot be read, or not be told what this session knows.
        """
        self.check_open()
        await self._writer.persist(self._writer.flush)
        return await self._ledger.spent(where)

    async def find(self, where: JobFilter, *, limit: int | None = None, newest_first: bool = False) -> list[Record]:
        """Return the records of jobs in the ledger, whoever holds them, as new as this session knows them.

        Raises:
            LedgerError: The ledger cannot be read, or not be told what this session knows.
        """
        self.check_open()
        await self._writer.persist(self._writer.flush)
        return await self.onlookers.find(where, limit=limit, newest_first=newest_first)

    async def settle_costs(self) -> None:
        """Enter what tries have cost that were given up, as far as that is certain by now.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        await self._late_costs.settle_all()

    async def audit(self) -> "Audit":
        """Hold what the ledger has of money against the service's own list."""
        from crynux_async.supervision.audit import audit

        await self._writer.flush()
        return await audit(self.backend, self.backend.key_id, self._ledger)

    async def tasks(self, record: Record) -> list[TaskRow]:
        """Return every task that was ever made for a job, as the ledger has them."""
        await self._writer.flush()
        return await self._ledger.tasks([record.job_id])

    async def saved(self, records: Sequence[Record]) -> None:
        """Wait until certain new jobs are in the ledger.

        Raises:
            LedgerError: They could not be stored.
        """
        await self._writer.all_saved(records)

    def _wanted(self, folder: Path, name: str | None, *, is_standing: bool = False) -> Wanted:
        template = name or self.backend.habits.file_name
        check_template(template)  # now: when the archive is there, the job has been paid for
        # Absolute, because the next process may be somewhere else.
        return shared_wish(folder.absolute(), template, is_standing)

    async def _send(self, scope: anyio.CancelScope) -> None:
        with scope:
            await self.submitter.run()

    async def _keep_alive(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run something that goes on for ever, and begin again where it fails: every job depends on it."""
        while True:
            try:
                await work()
            except Exception:
                _log.exception("unexpected; it begins again in %g s", _BEGIN_AGAIN)
                await asyncio.sleep(_BEGIN_AGAIN)
            else:
                return

    def _lost_to_another(self, record: Record) -> None:
        self.hand_on(record)
        if record.is_awaited or self.register.has_end_watchers:
            self.onlookers.watch([record])

    async def _places(self, record: Record) -> tuple[StoredArchive, ...]:
        """Return where archives of a job's task were put, for this job or an earlier one of the same task."""
        try:
            rows = await self._ledger.jobs(JobFilter(backend=self.backend.name, task_id=record.task_id))
        except LedgerError as error:
            _log.info("whether task %s was downloaded before cannot be told: %s", record.task_id, error)
            return ()
        return tuple(
            StoredArchive(path=Path(row.path), total_bytes=row.total_bytes, host=row.host)
            for row in rows
            if row.path and row.total_bytes
        )

    async def _drain(self) -> None:
        """Wait for the answers of the creates and for the images under way, for a bounded time."""
        with anyio.move_on_after(self._settings.close_timeout):
            while self.submitter.creating or self._images.active:
                self._idle.clear()
                await self._idle.wait()

    async def _end(self) -> None:
        """Say the last words to the ledger: each of them, whatever becomes of the others."""
        for last_word in (self._writer.flush, self._upkeep.save_hazards, self._writer.leave):
            try:
                await self._writer.persist(last_word)
            except LedgerError as error:
                _log.error("the ledger could not be told everything: %s", error)
            except Exception:
                _log.exception("the ledger could not be told everything")

    async def _apart(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in a task of its own, because a caller that gives up must not leave the half of it."""
        answer: asyncio.Future[T] = self._loop.create_future()
        answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # its caller may be gone
        self._spawn(_answer(answer, work))
        return await asyncio.shield(answer)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._group is None:
            # Or Python would warn of a coroutine that was never awaited.
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


async def _answer(answer: "asyncio.Future[T]", work: Coroutine[Any, Any, T]) -> None:
    try:
        answer.set_result(await work)
    except Exception as error:
        answer.set_exception(error)
    except BaseException:
        answer.set_exception(UsageError("the session was closed meanwhile; ask again in another session"))
        raise
