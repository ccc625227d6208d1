"""The gate before one key: every create of every session, and of every process on the same ledger, passes it.

``token_bucket.TokenBucket`` decides. Here is who shares which bucket: sessions of one event loop that use one key share
one ``Gate``; processes on one ledger share its row, read and written back in one exclusive transaction per decision.
"""

import asyncio
import functools
import weakref
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

from crynux_async.clock import monotonic, utc_now
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, GateRow, Ledger
from crynux_async.pacing.bucket_snapshot import BucketSnapshot
from crynux_async.pacing.token_bucket import Attempt, Outcome, TokenBucket

if TYPE_CHECKING:
    import cattrs

_OTHERS_WAIT = 1.0  # how long to wait for the answer to another process's create before looking again
_SPENT = {
    AttemptOutcome.ACCEPTED: Outcome.ACCEPTED,
    AttemptOutcome.REFUSED: Outcome.LIMITED,
    AttemptOutcome.REJECTED: Outcome.CHARGED,
    AttemptOutcome.UNKNOWN: Outcome.CHARGED,
    AttemptOutcome.NOT_SENT: Outcome.RELEASED,
}


@attrs.frozen(kw_only=True)
class Entry:
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

    def expected_at(self, position: int) -> float:
        """Return when the create at a place in the queue (0 is next) will be sent, in loop seconds."""

    @property
    def bucket(self) -> TokenBucket:
        """The bucket as it was last seen."""


class LocalGate:
    """A gate for the sessions of one event loop.

    Args:
        bucket: The bucket behind it.
    """

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._watchers: weakref.WeakSet[asyncio.Event] = weakref.WeakSet()

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
        when = self._bucket.ready_at(now)
        return Entry(when=when) if when > now else Entry(ticket=self._bucket.sent(now))

    async def leave(self, ticket: int, outcome: Outcome, wait: float | None = None) -> None:
        """Tell what became of the create with this ticket."""
        report(self._bucket, ticket, outcome, wait)
        for wake in self._watchers:
            wake.set()

    def expected_at(self, position: int) -> float:
        """Return when the create at a place in the queue will be sent, in loop seconds."""
        return self._bucket.expected_at(position, monotonic())


class LedgerGate:
    """A gate for every process on one ledger: the bucket lives in a row of it.

    Args:
        ledger: Where the row is.
        backend: The service.
        key_id: Fingerprint of the key.
        fresh: Makes the bucket where the row says nothing that holds here.
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
        fresh: Callable[[], TokenBucket],
        given: tuple[float | None, int | None],
        lost_after: float,
        owner: str = "",
        is_gone: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._ledger = ledger
        self._backend = backend
        self._key_id = key_id
        self._fresh = fresh
        self._given = given
        self._is_configured = False
        self._lost_after = lost_after
        self._owner = owner
        self._is_gone = is_gone
        self._bucket = fresh()
        self._boot = boot_id()
        self._watchers: weakref.WeakSet[asyncio.Event] = weakref.WeakSet()

    def watch(self, wake: asyncio.Event) -> None:
        """Set ``wake`` whenever this process changed the gate, for as long as somebody holds it."""
        self._watchers.add(wake)

    @property
    def bucket(self) -> TokenBucket:
        """The bucket as it was last seen."""
        return self._bucket

    async def enter(self) -> Entry:
        """Return a ticket for one create, or when to ask again."""
        async with self._ledger.gate(self._backend, self._key_id) as cell:
            now = monotonic()
            bucket = self._read(cell.row)
            bucket.charge_lost(now - self._lost_after, now, self._has_ended)
            if not self._is_configured:
                bucket.reconfigure(*self._given, now)
            when = bucket.ready_at(now)
            entry = Entry(when=min(when, now + _OTHERS_WAIT))
            if when <= now:
                entry = Entry(ticket=bucket.sent(now, self._owner))
            if entry.ticket is not None or cell.row is None or not self._is_configured:
                cell.row = self._row(bucket)
        self._bucket = bucket
        self._is_configured = True
        return entry

    async def leave(self, ticket: int, outcome: Outcome, wait: float | None = None) -> None:
        """Tell what became of the create with this ticket."""
        async with self._ledger.gate(self._backend, self._key_id) as cell:
            bucket = self._read(cell.row)
            report(bucket, ticket, outcome, wait)
            cell.row = self._row(bucket)
        self._bucket = bucket
        for wake in self._watchers:
            wake.set()

    def expected_at(self, position: int) -> float:
        """Return when the create at a place in this process's queue will be sent, in loop seconds."""
        return self._bucket.expected_at(position, monotonic())

    def _has_ended(self, owner: str) -> bool:
        return owner not in ("", self._owner) and self._is_gone(owner)

    def _read(self, row: GateRow | None) -> TokenBucket:
        if row is None or row.boot_id != self._boot:
            return self._fresh()
        snapshot = _converter().structure(row.snapshot, BucketSnapshot)
        return TokenBucket.restore(snapshot, monotonic())

    def _row(self, bucket: TokenBucket) -> GateRow:
        return GateRow(boot_id=self._boot, snapshot=_converter().unstructure(bucket.snapshot()))


def report(bucket: TokenBucket, ticket: int, outcome: Outcome, wait: float | None) -> None:
    """Tell a bucket what became of a create."""
    now = monotonic()
    if outcome is Outcome.LIMITED:
        bucket.limited(ticket, now, wait)
    elif outcome is Outcome.ACCEPTED:
        bucket.accepted(ticket, now)
    elif outcome is Outcome.RELEASED:
        bucket.released(ticket, now)
    else:
        bucket.charged(ticket, now)


def past_attempts(rows: Iterable[AttemptRow]) -> list[Attempt]:
    """Return a ledger's attempts on this loop's clock, as far as the dates tell; none lies in the future."""
    now, today = monotonic(), utc_now()

    def on_this_clock(when: datetime) -> float:
        return now - max(0.0, (today - when).total_seconds())

    return [
        Attempt(
            sent_at=on_this_clock(row.began_at),
            answered_at=on_this_clock(max(row.answered_at, row.began_at)) if row.answered_at else None,
            outcome=_SPENT[row.outcome] if row.outcome else None,
            wait=row.wait,
        )
        for row in rows
    ]


@functools.cache
def boot_id() -> str:
    """Return a text that is the same exactly for processes whose monotonic clocks agree: the name of this boot."""
    path = Path("/proc/sys/kernel/random/boot_id")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


@functools.cache
def _converter() -> "cattrs.Converter":
    import cattrs

    return cattrs.Converter()


# The only state of the module: sessions that do not know of each other must share one gate, or they break the limit
# together. It holds nothing alive, and nothing of one event loop reaches another.
_GATES: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.WeakValueDictionary[tuple[str, str], LocalGate]]"
_GATES = weakref.WeakKeyDictionary()


def shared_gate(
    backend: str, key_id: str, make: Callable[[], TokenBucket], *, given: tuple[float | None, int | None]
) -> LocalGate:
    """Return the gate of a key on the running loop, made by the first session that asks.

    Args:
        backend: The service.
        key_id: Fingerprint of the key.
        make: Makes the bucket behind a new gate.
        given: Limit per minute and burst as the user named them, or None; of two sessions the last one that names a
            limit is right.
    """
    gates = _GATES.setdefault(asyncio.get_running_loop(), weakref.WeakValueDictionary())
    gate = gates.get((backend, key_id))
    if gate is None:
        gate = gates[backend, key_id] = LocalGate(make())
    elif given[0] is not None:
        gate.bucket.reconfigure(*given, monotonic())
    return gate
