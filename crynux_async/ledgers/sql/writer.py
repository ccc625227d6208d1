"""Brings writes to disk: the one task that writes, and the queue before it.

Theory of operation. A commit costs one wait for the disk (or the server), whatever is in it. So everything that waits
while one commit is under way goes into the next one together, and each caller hears of its own rows only (group
commit: DeWitt et al., "Implementation Techniques for Main Memory Database Systems", SIGMOD 1984, section 5). Usually
all steps are taken, at one trip to the database. Where one is refused, the same requests are done again, each behind a
savepoint, so that none takes another with it.

Where the answer to a commit can get lost, each transaction leaves a random number on the owner's lease; whether it has
arrived is found out by asking for that, and never by doing it twice. Until the answer comes nothing else is written;
who ends meanwhile is told that nobody knows.

Trouble that passes (``LedgerBusyError``) is told to the requests that it hit; the writer goes on with the next ones.
Any other trouble stops it for good: a failed fsync drops the pages that it could not write, so the next one succeeds
without having saved them (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
"""

import asyncio
import copy
import logging
import math
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

import attrs

from crynux_async.clock import monotonic
from crynux_async.errors import CrynuxError, LedgerBusyError, LedgerError, UsageError
from crynux_async.ledgers.checks import VALUE_ERRORS, no_such_value
from crynux_async.ledgers.sql import queries
from crynux_async.ledgers.sql.connection import Connection, StepRefusedError
from crynux_async.ledgers.sql.requests import Request
from crynux_async.ledgers.sql.steps import mark_step, merged

_log = logging.getLogger("crynux_async.ledgers")
_T = TypeVar("_T")

_COLLISIONS = 10  # so often a transaction is done before its requests are told of others that were in its way
_ASKED_AGAIN = 0.5  # seconds between two questions to a database that is away

Work: TypeAlias = Callable[[Connection], Awaitable[tuple[_T, bool]]]
"""What is done alone in a transaction; returns its result, and whether there is anything to commit."""


@attrs.define(eq=False)
class _Write:
    request: Request[Any]
    done: "asyncio.Future[Any]"


@attrs.define(eq=False)
class _Alone:
    work: Work[Any]
    done: "asyncio.Future[Any]"


class _Mark:
    """What a transaction leaves on a lease."""

    __slots__ = ("lease", "number", "step")

    def __init__(self, lease: int, number: int) -> None:
        self.lease = lease
        self.number = number
        self.step = mark_step(lease, number)


class Writer:
    """The only one that writes through a connection. Its task runs from the start until ``close``.

    Args:
        connection: Nobody else uses it.
        place: The file or database, for messages.
        committed: Called after every commit.

    Attributes:
        failure: Why nothing can be written any more, or None.
        lease: The number of the lease on which transactions leave their marks, or None.
        give_up_at: Until when (of ``clock.monotonic``) a database that is away is asked whether a commit has arrived.
    """

    def __init__(self, connection: Connection, place: str, committed: Callable[[], None]) -> None:
        self.failure: LedgerError | None = None
        self.lease: int | None = None
        self.give_up_at = math.inf
        self._connection = connection
        self._place = place
        self._committed = committed
        self._queue: deque[_Write | _Alone] = deque()
        self._under_way: Sequence[_Write | _Alone] = ()
        self._wake = asyncio.Event()
        self._is_closing = False
        # A task of its own, so that a caller who is cancelled in the middle of a commit undoes nothing.
        self._task = asyncio.create_task(self._run(), name="crynux_async ledger writer")

    async def write(self, request: Request[_T]) -> _T:
        """Make a request durable, all of it or nothing, and return its result; cancelling the caller does not undo it.

        Raises:
            CrynuxError: It is not stored.
        """
        done: asyncio.Future[_T] = _future()
        self._put(_Write(request, done))
        return await done

    def alone(self, work: Work[_T]) -> "asyncio.Future[_T]":
        """Do something in a transaction of its own, which is undone where its future is cancelled in time."""
        done: asyncio.Future[_T] = _future()
        self._put(_Alone(work, done))
        return done

    async def close(self) -> None:
        """Write what is left and end the task."""
        self._is_closing = True
        self._wake.set()
        await asyncio.wait([self._task])

    def _put(self, request: _Write | _Alone) -> None:
        if self._is_closing:
            raise UsageError("the ledger is closed")
        self._queue.append(request)
        self._wake.set()

    async def _run(self) -> None:
        try:
            while self._queue or not self._is_closing:
                if self._queue:
                    await self._next()
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:  # where anything is left, the task was cancelled by the end of its event loop
            self._is_closing = True
            reason = f"the event loop ended while {self._place} was written: whether these rows are there is not known"
            _refuse([*self._under_way, *self._queue], LedgerError(reason, path=self._place))

    async def _next(self) -> None:
        """Fill one transaction with what waits."""
        self._under_way = requests = self._take()
        try:
            if self.failure is not None:
                _refuse(requests, self.failure)
            else:
                await self._do(requests)
        except Exception as error:
            _refuse(requests, await self._trouble(error))
        await self._tend()
        self._under_way = ()

    async def _do(self, requests: Sequence[_Write | _Alone]) -> None:
        """Do requests in a transaction; where they met others that locked the same rows in another order, again."""
        for left in reversed(range(_COLLISIONS)):
            try:
                if isinstance(requests[0], _Alone):
                    await self._do_alone(requests[0])
                else:
                    await self._do_together([request for request in requests if isinstance(request, _Write)])
            except Exception as error:
                if not left or not self._connection.is_collision(error):
                    raise
                await self._connection.rollback()
            else:
                return

    def _take(self) -> list[_Write | _Alone]:
        """Take what goes into one transaction: the first in the queue alone, or every write that waits."""
        if isinstance(self._queue[0], _Alone):
            return [self._queue.popleft()]
        # One fsync for all that wait: 64 callers get an order of magnitude more commits a second than one.
        writes = [request for request in self._queue if isinstance(request, _Write)]
        self._queue = deque(request for request in self._queue if isinstance(request, _Alone))
        return [*sorted(writes, key=lambda write: write.request.meets)]

    async def _do_alone(self, request: _Alone) -> None:
        if request.done.cancelled():
            return
        await self._connection.begin()
        try:
            result, is_changed = await request.work(self._connection)
        except CrynuxError as error:
            await self._connection.rollback()
            _refuse([request], error)
            return
        except VALUE_ERRORS as error:  # the fault of this request: the ledger is as good as before
            await self._connection.rollback()
            _refuse([request], no_such_value(error, self._place))
            return
        # A claim whose caller has gone would hold jobs that nobody follows.
        if is_changed and not request.done.cancelled():
            mark = self._new_mark()
            if mark is not None:
                await self._connection.run(mark.step.statement, mark.step.rows)
            await self._known(self._connection.commit(), mark)
            self._committed()
        else:
            await self._connection.rollback()
        if not request.done.done():
            request.done.set_result(result)

    async def _do_together(self, writes: list[_Write]) -> None:
        mark = self._new_mark()
        steps = merged(step for write in writes for step in write.request.steps)
        try:
            await self._known(self._connection.write(steps if mark is None else [*steps, mark.step]), mark)
        except StepRefusedError:
            # One row at fault must not refuse what others wanted to store in the same transaction.
            await self._do_apart(writes)
        else:
            self._committed()
            for write in writes:
                _confirm(write, write.request.result)

    async def _do_apart(self, writes: list[_Write]) -> None:
        """Do writes of which at least one is refused, without losing the others."""
        await self._connection.begin()
        outcomes: list[tuple[_Write, Any, CrynuxError | None]] = []
        for write in writes:
            await self._connection.savepoint()
            try:
                outcomes.append((write, await write.request.apart(self._connection), None))
            except CrynuxError as error:
                outcomes.append((write, None, error))
                await self._connection.back_to_savepoint()
            await self._connection.release_savepoint()
        mark = self._new_mark()
        if mark is not None:
            await self._connection.run(mark.step.statement, mark.step.rows)
        await self._known(self._connection.commit(), mark)
        self._committed()
        for write, result, refusal in outcomes:
            if refusal is None:
                _confirm(write, result)
            else:
                _refuse([write], refusal)

    def _new_mark(self) -> "_Mark | None":
        if self.lease is None or not self._connection.leaves_marks:
            return None
        return _Mark(self.lease, secrets.randbits(62))

    async def _known(self, committing: Awaitable[None], mark: "_Mark | None") -> None:
        """Wait for a commit; where its answer is lost, find out by its mark whether it has arrived.

        Raises:
            LedgerBusyError: It has not.
            LedgerError: Nobody knows, and there is no more time to ask.
        """
        try:
            await committing
        except Exception as error:
            # Only a server can have committed and lost its answer; a file's commit has failed where it says so.
            if mark is None or not self._connection.is_lost_answer(error):
                raise
            if await self._ask(mark.lease) != [(mark.number,)]:
                message = f"the connection to {self._place} was cut before a commit arrived; nothing was stored"
                raise LedgerBusyError(message, path=self._place) from error

    async def _ask(self, lease: int) -> list[tuple[int, ...]]:
        """Return the mark on a lease, as soon as the database answers."""
        is_said = False
        while True:
            try:
                return await self._connection.fetch(queries.SELECT_MARK, {"id": lease})
            except Exception as error:
                if not isinstance(self._connection.explain(error), LedgerBusyError):
                    raise
                if self._is_closing or monotonic() >= self.give_up_at:
                    message = (
                        f"{self._place} went away in a commit and did not come back: whether it is stored is unknown"
                    )
                    raise LedgerError(message, path=self._place) from error
                if not is_said:
                    _log.warning("%s went away in a commit; nothing is stored or sent until it is back", self._place)
                    is_said = True
                await asyncio.sleep(_ASKED_AGAIN)

    async def _tend(self) -> None:
        """Let the connection do its housekeeping; what passes is tried again after a later write."""
        if self.failure is None:
            try:
                await self._connection.tend()
            except Exception as error:
                await self._trouble(error)

    async def _trouble(self, error: Exception) -> LedgerError:
        """Undo the transaction, and return what to tell its callers; stop for good where that is needed."""
        reason = error if isinstance(error, LedgerError) else self._connection.explain(error)
        try:
            await self._connection.rollback()
        except Exception as second:
            # A transaction that stays open would swallow every later write with it.
            reason = LedgerError(f"{reason} (and it could not be undone: {second})", path=self._place)
        # After a failed fsync a second one may succeed without the pages that were lost (fsyncgate, PostgreSQL 2018;
        # case S7).
        if not isinstance(reason, LedgerBusyError):
            self.failure = reason
            _log.error("nothing is stored any more: %s", reason)
        return reason


def _future() -> "asyncio.Future[Any]":
    return asyncio.get_running_loop().create_future()


def _confirm(write: _Write, result: Any) -> None:
    if not write.done.done():
        write.done.set_result(result)


def _refuse(requests: Iterable[_Write | _Alone], reason: CrynuxError) -> None:
    """Tell callers; each gets an exception of its own, because raising one changes it."""
    for request in requests:
        if not request.done.done():
            request.done.set_exception(_copy(reason))
            request.done.exception()  # seen, because nobody else may be left to see it
        elif isinstance(request, _Write) and request.done.cancelled():
            _log.error("rows whose caller did not wait for them are not stored: %s", reason)


def _copy(error: CrynuxError) -> CrynuxError:
    # Raised in several tasks, one exception would pile up the tracebacks of all of them.
    twin = copy.copy(error)
    twin.__cause__ = error
    return twin
