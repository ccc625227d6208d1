"""``Record``: what the library keeps of one job while a session knows it.

Users never hold a record; a ``Job`` is a handle on one. A hundred thousand records must fit, so whoever reads or waits
(few jobs have anybody) stands in a slot of its own, and what only the ledger needs to know is not here.
"""

import asyncio
import functools
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Generic, Self, TypeVar, overload

import attrs

from crynux_async.errors import CrynuxError, JobError
from crynux_async.states import ENDED, GOOD, JobState
from crynux_async.supervision.filing import UNFILED, Filing
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.keeping import KeptConfig, as_kept, config_of
from crynux_async.values import Value

_T = TypeVar("_T")

UNKNOWN_CONFIG = (
    "its config is not known, so it cannot be sent: its task was attached, or a later version of crynux_async has "
    "written it"
)
"""What is said of a job that is to be sent and has no config here."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class Wanted(Value):
    """A download that somebody asked for.

    Attributes:
        folder: Where the archive is wanted.
        name: The template of its name.
        is_standing: Whether it is fetched without anybody waiting for it.
    """

    folder: Path
    name: str
    is_standing: bool = attrs.field(default=False, eq=False)


# One for all jobs whose archives are wanted in one folder.
@functools.lru_cache(maxsize=64)
def shared_wish(folder: Path, name: str, is_standing: bool) -> Wanted:
    """Return the wish for an archive in a folder, under a template of a name."""
    return Wanted(folder=folder, name=name, is_standing=is_standing)


@attrs.frozen(kw_only=True, weakref_slot=False)
class StoredArchive(Value):
    """An archive that is safe on disk.

    Attributes:
        path: Where it is.
        total_bytes: Its size, or None where an earlier version did not remember it.
        host: The machine on which it is, or "" where an earlier version did not remember it.
    """

    path: Path
    total_bytes: int | None
    host: str = ""


class Audience:
    """Who wants to hear of one job: who waits, how many read its events, and how often they were called.

    Attributes:
        waiters: Who is to be woken; between two waits of one caller, nobody stands here for it.
        waiting: How many callers wait, those that were just woken and may wait again included.
        readers: How many read events.
        has_been_heard: Whether anybody ever did.
        news: How often readers were called.
    """

    __slots__ = ("has_been_heard", "news", "readers", "waiters", "waiting")

    def __init__(self) -> None:
        self.waiters: list[asyncio.Future[None]] = []
        self.waiting = 0
        self.readers = 0
        self.has_been_heard = False
        self.news = 0


class _Seldom:
    """What few of the jobs have that live."""

    __slots__ = ("archive", "audience", "ended_at", "error", "is_own", "resubmitted_as", "tries")

    def __init__(self) -> None:
        self.error: CrynuxError | None = None
        self.ended_at: datetime | None = None
        self.archive: StoredArchive | None = None
        self.tries = 1
        self.resubmitted_as: str | None = None
        self.is_own = False
        self.audience: Audience | None = None


# Of every job that has nothing of it, and never changed.
_NOTHING = _Seldom()


class _OfSeldom(Generic[_T]):
    """An attribute of a record that stands in a ``_Seldom``, which is made when it gets another value than usual."""

    def __init__(self, usual: _T) -> None:
        self._usual = usual

    def __set_name__(self, _: type, name: str) -> None:
        self._name = name.removeprefix("_")

    @overload
    def __get__(self, record: None, _: type) -> Self: ...
    @overload
    def __get__(self, record: "Record", _: type) -> _T: ...
    def __get__(self, record: "Record | None", _: type) -> Self | _T:
        if record is None:
            return self
        value: _T = getattr(record.seldom, self._name)
        return value

    def __set__(self, record: "Record", value: _T) -> None:
        if record.seldom is _NOTHING:
            if value is self._usual:
                return
            record.seldom = _Seldom()
        setattr(record.seldom, self._name, value)


# Without what attrs would do at each change: nothing is converted but a config, by its own property.
@attrs.define(eq=False, kw_only=True, on_setattr=attrs.setters.NO_OP)
class Record:
    """One job as a session knows it. Only the register changes state, task and error.

    Attributes:
        job_id: This library's name for it, unique.
        kept_config: What is trained as it is kept, or None for a task that was attached by its id.
        label: The caller's own name for it, or "".
        filing: What else its user files it under.
        idempotency_key: The caller's name for the intention that it stands for, or None.
        task_id: The service's name of its newest task, or None before it is accepted.
        state: What is believed of it.
        error: Why it ended badly, or why it was not sent, or None.
        planned_at: When it was planned or attached.
        submitted_at: When it was accepted, or None.
        ended_at: When its end was noticed, or None.
        wanted: The download that was asked for, or None.
        archive: What is on disk, or None.
        seldom: Those of the other attributes that few jobs have.
        tries: How many tries it has had or has, >= 1.
        last_event: The number of its newest event, >= 0.
        attempts: The largest number of its creates, >= 0.
        queue_number: Its place among everything that was ever queued here, > 0; 0 where it does not wait to be sent.
        resubmitted_as: The job that replaces it, or None.
        is_ours: Whether this session holds its lease; if not, it is another's, and nothing about it may be written.
        is_saved: Whether the ledger has it.
        is_resumed: Whether an earlier process planned it, so that only dates tell how old it is.
        is_own: Whether the service, which shows tasks to their owners alone, has shown its task to this session.
    """

    job_id: str
    kept_config: KeptConfig | None = attrs.field(default=None, alias="config", converter=as_kept)
    label: str = ""
    filing: Filing = UNFILED
    idempotency_key: str | None = None
    task_id: str | None = None
    state: JobState = JobState.PLANNED
    planned_at: datetime
    submitted_at: datetime | None = None
    wanted: Wanted | None = None
    last_event: int = 0
    attempts: int = 0
    queue_number: int = 0
    is_ours: bool = True
    is_saved: bool = False
    is_resumed: bool = False
    seldom: _Seldom = attrs.field(default=_NOTHING, init=False)

    error = _OfSeldom["CrynuxError | None"](None)
    ended_at = _OfSeldom["datetime | None"](None)
    archive = _OfSeldom["StoredArchive | None"](None)
    tries = _OfSeldom[int](1)
    resubmitted_as = _OfSeldom["str | None"](None)
    is_own = _OfSeldom[bool](False)
    _audience = _OfSeldom["Audience | None"](None)

    def __repr__(self) -> str:
        task = f"task {self.task_id}" if self.task_id is not None else "no task yet"
        label = f" {self.label!r}" if self.label else ""
        return f"<Job {self.job_id}{label} {self.state}, {task}>"

    @property
    def config(self) -> FineTuneConfig | None:
        """What is trained, made anew each time; or None for a task that was attached by its id."""
        return None if self.kept_config is None else config_of(self.kept_config)

    @config.setter
    def config(self, config: FineTuneConfig | None) -> None:
        self.kept_config = as_kept(config)

    @property
    def done(self) -> bool:
        """Whether nothing more will happen to the remote task that could be seen."""
        return self.state in ENDED

    @property
    def is_set_aside(self) -> bool:
        """Whether it is left unsent, for want of money or of a credential, until its user says so."""
        return self.state is JobState.PLANNED and self.error is not None

    @property
    def rests(self) -> bool:
        """Whether nothing more comes of it by itself: it is done, or left unsent."""
        return self.done or self.is_set_aside

    @property
    def has_failed(self) -> bool:
        """Whether whoever waits for its model would be told at once why there is none."""
        return self.state not in GOOD and (self.done or self.state is JobState.STALLED or self.error is not None)

    @property
    def is_cut_off(self) -> bool:
        """Whether its process has ended in the middle of its create, and no other has taken it over and said so yet."""
        return self.state is JobState.UNCONFIRMED and self.ended_at is None

    @property
    def reason(self) -> str:
        """Why it ended without a model as far as the service tells, or ""."""
        return self.error.reason if isinstance(self.error, JobError) else ""

    @property
    def is_heard(self) -> bool:
        """Whether anybody reads this job's own events."""
        audience = self.seldom.audience
        return audience is not None and audience.readers > 0

    @property
    def has_been_heard(self) -> bool:
        """Whether anybody reads this job's own events, or ever did here."""
        audience = self.seldom.audience
        return audience is not None and audience.has_been_heard

    @property
    def is_awaited(self) -> bool:
        """Whether anybody waits for this job or reads its events."""
        audience = self.seldom.audience
        return audience is not None and bool(audience.waiting or audience.readers)

    @property
    def news(self) -> int:
        """A number that changes whenever there may be more events."""
        return 0 if self._audience is None else self._audience.news

    def begin_reading(self) -> None:
        """Enter one reader more of this job's events."""
        audience = self._audience = self.seldom.audience or Audience()
        audience.readers += 1
        audience.has_been_heard = True

    def end_reading(self) -> None:
        """Enter one reader less."""
        assert self._audience is not None, "somebody reads"
        self._audience.readers -= 1

    def call(self, waiter: "asyncio.Future[None]") -> None:
        """Have a waiter woken at the next change of the job."""
        audience = self._audience = self.seldom.audience or Audience()
        audience.waiters.append(waiter)

    def do_not_call(self, waiter: "asyncio.Future[None]") -> None:
        """Forget a waiter that is woken otherwise, or waits no more."""
        if self._audience is not None:
            with suppress(ValueError):  # it was called meanwhile
                self._audience.waiters.remove(waiter)

    def call_readers(self) -> None:
        """Let every reader look for more events."""
        if self._audience is not None and self._audience.readers:
            self._audience.news += 1
            self.wake()

    def wake(self) -> None:
        """Let every waiter look again."""
        audience = self.seldom.audience
        if audience is not None:
            waiters, audience.waiters = audience.waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def until(self, condition: Callable[[], bool], check_open: Callable[[], None]) -> None:
        """Wait until a condition holds; it is looked at whenever the job has changed.

        Args:
            condition: Called without arguments.
            check_open: Raises when nothing will change any more.
        """
        if condition():
            return
        audience = self._audience = self.seldom.audience or Audience()
        audience.waiting += 1
        try:
            while not condition():
                check_open()
                waiter = asyncio.get_running_loop().create_future()
                self.call(waiter)
                try:
                    await waiter
                except asyncio.CancelledError:
                    # Or a caller who times out a thousand times on one job leaves a thousand waiters behind.
                    self.do_not_call(waiter)
                    raise
        finally:
            audience.waiting -= 1


class OnlookerRecord(Record):
    """The record of a job that this session has never held: it is kept as long as somebody has a handle on it."""

    __slots__ = ()


def new_job_id() -> str:
    """Return a name for a new job: 128 bits, so that no two are ever alike, in whichever ledgers they meet."""
    return f"j{secrets.token_hex(16)}"
