"""Hearing of jobs: whoever waits for one or reads its events is told, whichever process follows it."""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from crynux_async.supervision.event_reader import Bookmark, EventReader
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister

if TYPE_CHECKING:
    from crynux_async.events import Event


class Hearing:
    """Tells callers what becomes of jobs. What others write is listened to for as long as somebody is told of it.

    Args:
        register: Has the jobs of this session.
        onlookers: Has those of others.
        reader: Reads events.
        is_closed: Whether nothing can be read any more.
    """

    def __init__(
        self, register: JobRegister, onlookers: Onlookers, reader: EventReader, is_closed: Callable[[], bool]
    ) -> None:
        self._register = register
        self._onlookers = onlookers
        self._reader = reader
        self._is_closed = is_closed

    async def catch_up(self, records: Iterable[Record]) -> None:
        """Read jobs of others again that had ended badly when they were read last: they may have another try by now.

        Raises:
            LedgerError: They cannot be read.
        """
        if not self._is_closed():
            await self._onlookers.catch_up(record for record in records if record.has_failed)

    @contextmanager
    def watching(self, records: Iterable[Record]) -> Iterator[None]:
        """A block in which the session hears of what others write about jobs."""
        self._onlookers.watch(records)
        try:
            yield
        finally:
            self._onlookers.let_be()

    async def events(self, record: Record, after: int | None) -> "AsyncGenerator[Event, None]":
        """Yield the events of a job, whoever holds it: those behind a number, and then what comes."""
        async with self.reading(record, after) as bookmark, aclosing(self._reader.read(record, bookmark)) as events:
            async for event in events:
                yield event

    def reading(self, record: Record, after: int | None) -> "Reading":
        """Return a block in which somebody reads the events of a job, whoever holds it."""
        return Reading(record, self._reader.bookmark(record, after), self._onlookers)

    async def as_completed(self, records: Collection[Record]) -> AsyncGenerator[Record, None]:
        """Yield each of ``records`` once when nothing more comes of it by itself, whoever follows it."""
        await self.catch_up(records)
        try:
            async with aclosing(self._register.as_completed(records)) as ends:
                self._onlookers.watch(records)
                async for record in ends:
                    yield record
        finally:
            self._onlookers.let_be()


class Reading:
    """A block in which somebody reads the events of one job, with their place in them.

    No generator, because thousands of readers wait: each open one would take as much as all of the rest.
    """

    __slots__ = ("_onlookers", "bookmark", "record")

    def __init__(self, record: Record, bookmark: Bookmark, onlookers: Onlookers) -> None:
        self.record = record
        self.bookmark = bookmark
        self._onlookers = onlookers

    async def __aenter__(self) -> Bookmark:
        await self._onlookers.catch_up((self.record,))
        self.record.begin_reading()
        self._onlookers.watch((self.record,))
        return self.bookmark

    async def __aexit__(self, *_: object) -> None:
        self.record.end_reading()
        self._onlookers.let_be()
