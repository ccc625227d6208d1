"""The requests of one download: what is asked for, which answers are taken, and when to ask again.

See ``transfer`` for the theory.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import attrs

from crynux_async.backends.base import ResultStream, Validator
from crynux_async.clock import monotonic
from crynux_async.downloads.pace import DownloadOptions, Meter, Pace, TooSlowError
from crynux_async.downloads.part_file import PartFile
from crynux_async.errors import (
    DownloadError,
    IncompleteError,
    ProtocolError,
    RangeError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnreachableError,
)

# A GET is free to repeat. What is not here (a key refused, a task not found, a full disk) no repeating mends.
_ASK_AGAIN = (UnreachableError, TransportError, ServerError, ProtocolError, RangeError, RateLimitedError)
_LATEST_CALL = 0.95  # of a timeout must be left; setting it anew for every piece costs more than reading the piece


class AskLaterError(TransportError):
    """What was answered may be an accident: ask again, but not before ``wait`` seconds are over."""

    def __init__(self, message: str, *, wait: float, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.wait = wait


class OpenResult(Protocol):
    """Opens a result from a byte on, such as ``functools.partial(backend.open_result, task_id)``."""

    def __call__(
        self, *, start: int = 0, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the result from byte ``start`` on, if it is still the version of ``validator``."""


@attrs.define(eq=False, kw_only=True)
class Requests:
    """The requests of one download.

    Attributes:
        on_growth: Called with the part file after each piece.
        made: How many there were.
        must_restart: Whether the next request is for the whole result, whatever is on disk.
        failures: Requests in a row that brought nothing new.
        furthest: Bytes of the present version that were on disk at most; None before the first visit.
        versions, overruns, unsized, wrong_ranges: How often the version changed, more came than was announced, a
            whole result came without a size, and a request for a range was answered wrongly.
    """

    open_result: OpenResult
    options: DownloadOptions
    meter: Meter
    most_bytes: int | None
    on_growth: Callable[[PartFile], None]
    must_restart: bool = False
    made: int = 0
    failures: int = 0
    fetched_bytes: int = 0
    resumed_from: int = 0
    furthest: int | None = None
    versions: int = 0
    overruns: int = 0
    unsized: int = 0
    wrong_ranges: int = 0

    def start_over(self) -> None:
        """Fetch everything again, whatever is on disk."""
        self.must_restart = True
        self.furthest = 0
        self.failures = 0

    async def fetch(self, part: PartFile) -> float | None:
        """Make the part file as long as was announced.

        Returns:
            None when it is; else the seconds after which to ask again.

        Raises:
            DownloadError: Too many requests in a row brought nothing new.
        """
        if self.furthest is None:
            self.resumed_from = self.furthest = part.resumable_from
        while self.must_restart or not part.is_complete:
            try:
                await self._request(part)
            except _ASK_AGAIN as error:
                # What came before the error counts: whether the file grew, and where the next request begins.
                await part.gatherer.flush()
                if not self.must_restart and part.is_complete:
                    break
                pause = self._next_pause(part, error)
                # Without one the visit goes on: it has its slot already.
                if pause:
                    return pause
        return None

    def _next_pause(self, part: PartFile, error: Exception) -> float:
        self.failures = 0 if self._has_advanced(part, error) else self.failures + 1
        if self.failures >= self.options.attempts:
            raise self._give_up(part, error) from error
        asked = error.wait if isinstance(error, RateLimitedError | AskLaterError) else None
        return max(self.options.delay(self.failures), asked or 0.0)

    async def _request(self, part: PartFile) -> None:
        """Ask for what is missing and write what comes.

        Raises:
            TransportError: It was not all that is missing; the rest can be asked for.
        """
        start = 0 if self.must_restart else part.resumable_from
        self.made += 1
        try:
            async with asyncio.timeout(self.options.stall_timeout) as patience:
                # No validator for byte 0: nothing has to match where everything is replaced.
                async with self.open_result(start=start, validator=part.validator if start else None) as stream:
                    # The disk's time is not the peer's: finding room and restarting may take long.
                    patience.reschedule(None)
                    await self._place(part, stream, start)
                    await self._copy(part, stream, patience)
        except TimeoutError as error:
            raise TransportError(f"not a byte arrived for {self.options.stall_timeout:g} seconds") from error
        except RangeError as error:
            await self._answer_out_of_range(part, error)
            raise
        except ProtocolError:
            # A proxy's page goes away some time; a service that cannot do ranges must be asked for everything.
            self.wrong_ranges += bool(start)
            self.must_restart |= self.wrong_ranges >= max(1, self.options.attempts // 2)
            raise
        await part.gatherer.flush()
        self._require_all(part)

    async def _place(self, part: PartFile, stream: ResultStream, start: int) -> None:
        """Make the part file ready for the stream, or refuse the stream."""
        version = stream.validator
        self._check_size(part, version)
        if stream.start == 0:
            # Also where more was asked for: If-Range did not match, or a proxy dropped the Range (case D3).
            await self._begin_again(part, version)
        elif stream.start != start:
            raise ProtocolError(f"the result was asked for from byte {start} and came from byte {stream.start}")
        elif not _continues(part.validator, version):
            self.must_restart = True
            # A 206 of another version comes from a server that ignores If-Range (case D2).
            raise TransportError("the result is not the same as before; all of it is fetched again")
        else:
            self.wrong_ranges = 0
            await part.learn(version)
            await part.require_space()

    def _check_size(self, part: PartFile, version: Validator) -> None:
        if self.most_bytes is not None and version.total_bytes is not None and version.total_bytes > self.most_bytes:
            raise DownloadError(
                f"{part.path.name} would be {version.total_bytes} bytes long, and at most {self.most_bytes} are "
                "accepted; nothing of it was fetched"
            )

    async def _begin_again(self, part: PartFile, version: Validator) -> None:
        if part.validator not in (None, version):
            self.versions += 1
            self.furthest = 0
        # Each version may advance and so reset the failures: without this bound it would never end.
        if self.versions > self.options.attempts:
            raise DownloadError(f"{part.path.name} changes again and again while it is fetched; try again later")
        # One whole result without a size may be a proxy's accident; the second is not (case D4).
        if version.total_bytes is None and self.unsized:
            raise self._unsized_error(part)
        self.must_restart = False
        self.resumed_from = 0
        await part.restart(version)

    async def _copy(self, part: PartFile, stream: ResultStream, patience: asyncio.Timeout) -> None:
        """Append every piece of the stream, reading the next ones while the last are written."""
        stall, gatherer = self.options.stall_timeout, part.gatherer
        received = part.written
        room = math.inf if part.total_bytes is None else part.total_bytes
        pace = Pace(options=self.options, since=monotonic())
        patience.reschedule(monotonic() + stall)
        async with _closing(stream.chunks(self.options.chunk_bytes)) as pieces:
            async for piece in pieces:
                now = monotonic()
                received += len(piece)
                self.fetched_bytes += len(piece)
                if received > room:
                    self._refuse_overrun(part)
                gatherer.append(piece)
                if gatherer.is_full:
                    patience.reschedule(None)  # a slow disk is not a silent peer
                    await gatherer.make_room()
                pace.add(now, len(piece))
                self.meter.add(now, len(piece), received, part.total_bytes)
                self.on_growth(part)
                due = patience.when()
                if due is None or due - now < _LATEST_CALL * stall:
                    patience.reschedule(monotonic() + stall)

    def _refuse_overrun(self, part: PartFile) -> None:
        self.overruns += 1
        self.start_over()
        message = f"more than the announced {part.total_bytes} bytes of {part.path.name} arrived"
        # Once may be damage on the way.
        if self.overruns > 1:
            raise DownloadError(f"{message}, twice; the service is wrong about its size")
        raise TransportError(message)

    def _require_all(self, part: PartFile) -> None:
        """Refuse an end that came early, or that nobody can tell from an early one."""
        if part.is_complete:
            return
        if part.total_bytes is None:
            self.unsized += 1
            # With a date, asking for what follows the last byte tells the size: the 416 names it.
            if not part.resumable_from:
                raise self._unsized_error(part)
        raise TransportError(f"the connection ended after {part.written} of {_announced(part)} bytes")

    async def _answer_out_of_range(self, part: PartFile, error: RangeError) -> None:
        """Take a 416 that says that everything is here; begin again after any other."""
        known = part.validator
        # Only where no size was known: a file that is known to be whole is not asked for.
        if known is not None and known.total_bytes is None and error.total_bytes == part.written:
            await part.learn(attrs.evolve(known, total_bytes=error.total_bytes))
        else:
            self.must_restart = True

    def _has_advanced(self, part: PartFile, error: Exception) -> bool:
        furthest = self.furthest or 0
        self.furthest = max(furthest, part.written)
        return part.written > furthest and not isinstance(error, TooSlowError)

    def _unsized_error(self, part: PartFile) -> IncompleteError:
        return IncompleteError(
            f"nobody says how long {part.path.name} is, so it cannot be told from one that was cut short; "
            "look for a proxy that removes Content-Length",
            received=part.written,
            expected=None,
        )

    def _give_up(self, part: PartFile, error: Exception) -> IncompleteError:
        return IncompleteError(
            f"{part.written} of {_announced(part)} bytes of {part.path.name} are here, and "
            f"{self.failures} request{'s' if self.failures > 1 else ''} in a row brought nothing new (last: {error}); "
            "what arrived is kept, call again to continue",
            received=part.written,
            expected=part.total_bytes,
        )


def _announced(part: PartFile) -> str:
    return "an unknown number of" if part.total_bytes is None else str(part.total_bytes)


def _continues(known: Validator | None, version: Validator) -> bool:
    """Whether bytes of ``version`` may follow bytes of ``known``."""
    return (
        known is not None
        and known.last_modified is not None
        and known.last_modified == version.last_modified
        and known.total_bytes in (None, version.total_bytes)
    )


@contextlib.asynccontextmanager
async def _closing(pieces: AsyncIterator[bytes]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Close an iterator that may be a generator, so that it does not end later, somewhere else."""
    try:
        yield pieces
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
