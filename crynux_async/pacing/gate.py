"""The gate before one key: every create of every session, and of every process on the same ledger, passes it.

``token_bucket.TokenBucket`` decides. Here is who shares which bucket: sessions of one event loop that use one key share
one ``Gate``; processes on one ledger share its row, read and written back in one exclusive transaction per decision.
"""

import asyncio
import functools
import math
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import attrs

from crynux_async.clock import monotonic, utc_now
from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, GateCell, Ledger
from crynux_async.pacing.bucket_snapshot import BucketSnapshot
from crynux_async.pacing.token_bucket import Attempt, Outcome, TokenBucket
from crynux_async.values import Value

if TYPE_CHECKING:
    import cattrs

    from crynux_async.ledgers.base import GateRow

_OTHERS_WAIT = 1.0  # how long to wait at least for the answer to another process's create before looking again
_LONGEST_PAUSE = 30.0  # after so long, look whether another process was told of a higher limit
_TIMER_ERROR = 1e-3  # a timer may ring a trifle before its time; who is told to wait for that trifle would spin
_SAME_CLOCK = 1.0  # seconds between an event loop's clock and the system's: uvloop's stands still during a turn
_SPENT = {
    AttemptOutcome.ACCEPTED: Outcome.ACCEPTED,
    AttemptOutcome.LIMITED: Outcome.LIMITED,
    AttemptOutcome.REJECTED: Outcome.CHARGED,
    AttemptOutcome.UNKNOWN: Outcome.CHARGED,
    AttemptOutcome.NOT_SENT: Outcome.RELEASED,
}


@attrs.frozen(kw_only=True)
class Entry(Value):
    """What the gate says to somebody who wants to send.

    Attributes:
        ticket: The number to give back with the answer, or None when nothing may be sent yet.
        when: When to ask again, in loop seconds, where there is no ticket.
    """

    ticket: int | None = None
    when: float = 0.0


class Gate(Protocol):
    """Decides when a create may be sent."""

    def watch(self, wake: asyncio.Event) -> None:
        """Set ``wake`` whenever the gate may have opened, for as long as somebody holds it."""

    async def enter(self) -> Entry:
        """Return a ticket for one create, or when to ask again."""

    async def leave(self, ticket: int, outcome: Outcome, wait: float | None = None) -> None:
        """Tell what became of the create with this ticket; ``wait`` is what a refusal said, in seconds."""

    async def look(self) -> None:
        """See what became of others' creates, without asking for a ticket."""

    def expected_at(self, position: int) -> float:
        """Return when the create at a place in the queue (0 is next) will be sent, in loop seconds."""

    def limit_changed(self, limit_per_minute: float) -> None:
        """Note that the key has another limit now. Its burst stays what it was, as in the bridge's own bucket."""

    @property
    def bucket(self) -> TokenBucket | None:
        """The bucket as it was last seen, or None where nothing is limited."""


class _Watchers:
    """Events to set whenever a gate may have opened, each for as long as somebody holds it."""

    def __init__(self) -> None:
        self._events: tuple[weakref.ref[asyncio.Event], ...] = ()

    def add(self, wake: asyncio.Event) -> None:
        """Set this event, too; once, however often it is added."""
        held = (event for event in self._events if event() not in (None, wake))
        self._events = (*held, weakref.ref(wake))

    def wake(self) -> None:
        """Set every event."""
        for reference in self._events:
            if (event := reference()) is not None:
                event.set()


class LocalGate:
    """A gate for the sessions of one event loop.

    Args:
        bucket: The bucket behind it.
        lost_after: Seconds that no create can take: whoever sent it is gone.
        remember: Called with what is known of the key whenever that changes.
    """

    def __init__(
        self,
        bucket: TokenBucket,
        *,
        lost_after: float = math.inf,
        remember: Callable[[BucketSnapshot], None] = lambda _: None,
    ) -> None:
        self._bucket = bucket
        self._lost_after = lost_after
        self._remember = remember
        self._watchers = _Watchers()

    @property
    def bucket(self) -> TokenBucket:
        """The bucket behind it."""
        return self._bucket

    def watch(self, wake: asyncio.Event) -> None:
        """Set ``wake`` whenever the gate may have opened, for as long as somebody holds it."""
        self._watchers.add(wake)

    async def enter(self) -> Entry:
        """Return a ticket for one create, or when to ask again."""
        now = monotonic()
        self._bucket.charge_lost(now - self._lost_after, now)
        when = self._bucket.ready_at(now)
        if when > now:
            # Nobody answers for a create whose session is gone.
            return Entry(when=min(when, now + self._lost_after))
        ticket = self._bucket.sent(now)
        self._remember(self._bucket.snapshot())
        return Entry(ticket=ticket)

    async def leave(self, ticket: int, outcome: Outcome, wait: float | None = None) -> None:
        """Tell what became of the create with this ticket; one that was charged as lost meanwhile changes nothing."""
        if self._bucket.is_in_flight(ticket):
            report(self._bucket, ticket, outcome, wait, monotonic())
            self._remember(self._bucket.snapshot())
        self._watchers.wake()

    async def look(self) -> None:
        """Do nothing: the bucket is one object for all sessions of the loop."""

    def expected_at(self, position: int) -> float:
        """Return when the create at a place in the queue will be sent, in loop seconds."""
        return self._bucket.expected_at(position, monotonic())

    def limit_changed(self, limit_per_minute: float) -> None:
        """Note that the key has another limit now."""
        self._bucket.reconfigure(limit_per_minute, self._bucket.burst, monotonic())
        self._watchers.wake()


@attrs.frozen(kw_only=True, eq=False)
class _Given:
    """Limit per minute and burst as the user named them, or None; what is named anew is another one, though equal."""

    limit_per_minute: float | None
    burst: int | None


class LedgerGate:
    """A gate for every process on one ledger: the bucket lives in a row of it.

    Args:
        ledger: Where the row is.
        backend: The service.
        key_id: Fingerprint of the key.
        fresh: Makes the bucket where the row says nothing that holds here, at a time by the ledger's clock, in seconds.
        given: Limit per minute and burst as the user named them, or None; what an earlier session was told gives way.
        lost_after: Seconds that no create can take: whoever sent it is gone, and its place is free again.
        owner: Who asks, a name for ``is_gone``.
        is_gone: Whether somebody else has certainly ended: then the places of his creates are free at once.
    """

    def __init__(
        self,
        ledger: Ledger,
        backend: str,
        key_id: str,
        *,
        fresh: Callable[[float], TokenBucket],
        given: tuple[float | None, int | None],
        lost_after: float,
        owner: str = "",
        is_gone: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._ledger = ledger
        self._backend = backend
        self._key_id = key_id
        self._fresh = fresh
        self._given = _Given(limit_per_minute=given[0], burst=given[1])
        self._told: _Given | None = None
        self._lost_after = lost_after
        self._owner = owner
        self._is_gone = is_gone
        self._bucket = fresh(monotonic())
        self._ahead = 0.0  # how far the clock that all visitors share is ahead of this loop's, in seconds
        self._changes = 0
        self._shut_until = -math.inf
        self._watchers = _Watchers()

    def watch(self, wake: asyncio.Event) -> None:
        """Set ``wake`` whenever this process changed the gate, for as long as somebody holds it."""
        self._watchers.add(wake)

    @property
    def bucket(self) -> TokenBucket:
        """The bucket as it was last seen."""
        return self._bucket

    async def enter(self) -> Entry:
        """Return a ticket for one create, or when to ask again; asked before that, it does not look again."""
        if monotonic() < self._shut_until - _TIMER_ERROR:
            return Entry(when=self._shut_until)
        given, changes = self._given, self._changes
        entry = Entry()
        try:
            async with self._ledger.gate(self._backend, self._key_id) as cell:
                now, bucket = cell.now, self._read(cell)
                lost = bucket.charge_lost(now - self._lost_after, now, self._has_ended)
                if self._told is not given:
                    bucket.reconfigure(given.limit_per_minute, given.burst, now)
                entry = self._entry(bucket, now)
                # A lost create that is not written down would be charged anew at every visit, and the gate never open.
                if entry.ticket is not None or lost or self._told is not given or cell.row is None:
                    cell.row = _row(cell, bucket)
        except asyncio.CancelledError:
            if entry.ticket is not None:
                await self._take_back(entry.ticket)
            raise
        self._see(bucket, now)
        # While the row was written an answer may have come, or another limit: then what was found is no longer true.
        self._told = given
        if entry.ticket is None and self._changes == changes:
            self._shut_until = entry.when - self._ahead
        return attrs.evolve(entry, when=entry.when - self._ahead)

    async def leave(self, ticket: int, outcome: Outcome, wait: float | None = None) -> None:
        """Tell what became of the create with this ticket; one that was charged as lost meanwhile changes nothing."""
        async with self._ledger.gate(self._backend, self._key_id) as cell:
            now, bucket = cell.now, self._read(cell)
            # Whoever waits for less long than this process, or saw it stopped for a while, has charged it already.
            if bucket.is_in_flight(ticket):
                report(bucket, ticket, outcome, wait, now)
                cell.row = _row(cell, bucket)
        self._see(bucket, now)
        self._has_changed()

    async def look(self) -> None:
        """See what became of others' creates, without asking for a ticket.

        Raises:
            LedgerError: It cannot be seen.
        """
        async with self._ledger.gate(self._backend, self._key_id) as cell:
            now, bucket = cell.now, self._read(cell)
        self._see(bucket, now)

    async def _take_back(self, ticket: int) -> None:
        """Give back a ticket that nobody has; where it was not stored, another may have been given its number."""
        with anyio.CancelScope(shield=True), suppress(LedgerError):  # a create that is never answered is charged
            async with self._ledger.gate(self._backend, self._key_id) as cell:
                bucket = self._read(cell)
                if bucket.is_in_flight(ticket, self._owner):
                    bucket.released(ticket, cell.now)
                    cell.row = _row(cell, bucket)

    def expected_at(self, position: int) -> float:
        """Return when the create at a place in this process's queue will be sent, in loop seconds."""
        return self._bucket.expected_at(position, monotonic() + self._ahead) - self._ahead

    def limit_changed(self, limit_per_minute: float) -> None:
        """Note that the key has another limit now; the next create writes it down for every process."""
        self._given = _Given(limit_per_minute=limit_per_minute, burst=self._bucket.burst)
        self._has_changed()

    def _has_changed(self) -> None:
        self._changes += 1
        self._shut_until = -math.inf
        self._watchers.wake()

    def _entry(self, bucket: TokenBucket, now: float) -> Entry:
        """Take a ticket, or say when the gate may have opened; nothing that others do meanwhile wakes this process."""
        when = bucket.ready_at(now)
        if when <= now:
            return Entry(ticket=bucket.sent(now, self._owner))
        others = [create.sent_at for create in bucket.snapshot().in_flight if create.owner != self._owner]
        if others:
            # An answer that has been due for a minute is not due this very second.
            when = min(when, now + max(_OTHERS_WAIT, now - max(others)))
        return Entry(when=min(when, now + _LONGEST_PAUSE))

    def _has_ended(self, owner: str) -> bool:
        return owner not in ("", self._owner) and self._is_gone(owner)

    def _read(self, cell: GateCell) -> TokenBucket:
        row = cell.row
        snapshot = None if row is None or row.clock != cell.clock else _understood(row.snapshot)
        if snapshot is not None:
            return TokenBucket.restore(snapshot, cell.now)
        bucket = self._fresh(cell.now)
        bucket.reconfigure(self._given.limit_per_minute, self._given.burst, cell.now)
        return bucket

    def _see(self, bucket: TokenBucket, now: float) -> None:
        self._bucket = bucket
        # Read late: a wait that is counted from here ends too late by the way back from the ledger, never too early.
        self._ahead = now - monotonic()


def _row(cell: GateCell, bucket: TokenBucket) -> "GateRow":
    from crynux_async.ledgers.base import GateRow

    return GateRow(clock=cell.clock, snapshot=_converter().unstructure(bucket.snapshot()))


def report(bucket: TokenBucket, ticket: int, outcome: Outcome, wait: float | None, now: float) -> None:
    """Tell a bucket what became of a create by now."""
    if outcome is Outcome.LIMITED:
        bucket.limited(ticket, now, wait)
    elif outcome is Outcome.ACCEPTED:
        bucket.accepted(ticket, now)
    elif outcome is Outcome.RELEASED:
        bucket.released(ticket, now)
    else:
        bucket.charged(ticket, now)


def past_attempts(rows: Iterable[AttemptRow], now: float) -> list[Attempt]:
    """Return a ledger's attempts on the clock that says ``now``, as far as the dates tell; none lies in the future."""
    today = utc_now()

    def on_that_clock(when: datetime) -> float:
        return now - max(0.0, (today - when).total_seconds())

    return [
        Attempt(
            sent_at=on_that_clock(row.began_at),
            answered_at=on_that_clock(max(row.answered_at, row.began_at)) if row.answered_at else None,
            outcome=_SPENT[row.outcome] if row.outcome else None,
            wait=row.wait,
        )
        for row in rows
    ]


def _understood(stored: Any) -> BucketSnapshot | None:
    """Return what a row tells, or None where nothing can be made of it: damaged, or of another version."""
    import cattrs

    try:
        snapshot = _converter().structure(stored, BucketSnapshot)
    except (cattrs.BaseValidationError, TypeError, ValueError):
        return None
    # What was sent is in the ledger's attempts as well, so that little is lost with a row.
    return snapshot if snapshot.is_usable else None


@functools.cache
def _converter() -> "cattrs.Converter":
    import cattrs

    return cattrs.Converter()


class KeyMemory:
    """What keys were told, after the sessions that were told it are closed: one per clock, and bounded.

    A web handler that opens a session for every request must not learn the limit anew each time: each would be refused.
    Nothing here belongs to an event loop, and only values are kept.

    Args:
        most: Keys to remember, >= 1; the one that was used longest ago is forgotten first.
    """

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._told: dict[tuple[str, str], BucketSnapshot] = {}

    def remember(self, key: tuple[str, str], snapshot: BucketSnapshot) -> None:
        """Keep what is known of a key's bucket now."""
        self._told.pop(key, None)
        self._told[key] = snapshot
        if len(self._told) > self._most:
            # A session on another thread's event loop may forget the same keys at the same moment.
            for old in [*self._told][: -self._most]:
                self._told.pop(old, None)

    def recall(self, key: tuple[str, str]) -> BucketSnapshot | None:
        """Return what was known last, or None."""
        return self._told.get(key)


# The only state of the module. Sessions that do not know of each other must share one gate, or they break the limit
# together; and one that comes later must know what an earlier one was told, which nobody but the process can own.
# Gates are held weakly, none of one event loop reaches another, and loops with a clock of their own share nothing.
_GATES: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakValueDictionary[tuple[str, str], LocalGate]]"
_GATES = weakref.WeakKeyDictionary()
_MEMORY = KeyMemory()
_MEMORIES: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, KeyMemory]" = weakref.WeakKeyDictionary()


def key_memory() -> KeyMemory:
    """Return what this process remembers of keys on the clock of the running loop."""
    loop = asyncio.get_running_loop()
    if abs(loop.time() - time.monotonic()) < _SAME_CLOCK:
        return _MEMORY
    return _MEMORIES.setdefault(loop, KeyMemory())


def shared_gate(
    backend: str,
    key_id: str,
    make: Callable[[], TokenBucket],
    *,
    given: tuple[float | None, int | None],
    lost_after: float,
) -> LocalGate:
    """Return the gate of a key on the running loop, made by the first session that asks.

    Args:
        backend: The service.
        key_id: Fingerprint of the key.
        make: Makes the bucket behind a new gate of a key of which nothing is remembered.
        given: Limit per minute and burst as the user named them, or None; of two sessions the last one that names a
            limit is right.
        lost_after: As for ``LocalGate``.
    """
    gates = _GATES.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
    key, memory = (backend, key_id), key_memory()
    gate = gates.get(key)
    if gate is None:
        told = memory.recall(key)
        bucket = make() if told is None else TokenBucket.restore(told, monotonic())
        gate = gates[key] = LocalGate(bucket, lost_after=lost_after, remember=functools.partial(memory.remember, key))
        if told is None:
            return gate
    if given[0] is not None:
        gate.bucket.reconfigure(*given, monotonic())
    return gate
