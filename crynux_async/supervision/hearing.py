"""Hearing of jobs: whoever waits for one or reads its events is told, whichever process follows it."""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator
from contextlib import aclosing, contextmanager

from crynux_async.events import Event
from crynux_async.supervision.event_reader import EventReader
from crynux_async.supervision.onlookers import Onlookers
from crynux_async.supervision.record import Record
from crynux_async.supervision.register import JobRegister


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

    async def events(self, record: Record, after: int | None) -> AsyncGenerator[Event, None]:
        """Yield the events of a job, whoever holds it: those behind a number, and then what comes."""
        await self._onlookers.catch_up((record,))
        with record.heard(), self.watching((record,)):
            async with aclosing(self._reader.read(record, after)) as events:
                async for event in events:
                    yield event

    async def as_completed(self, records: Collection[Record]) -> AsyncGenerator[Record, None]:
        """Yield each of ``records`` once when nothing more can be seen of its task, whoever follows it."""
        await self.catch_up(records)
        try:
            async with aclosing(self._register.as_completed(records)) as ends:
                self._onlookers.watch(records)
                async for record in ends:
                    yield record
        finally:
            self._onlookers.let_be()
