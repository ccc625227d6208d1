"""Bring a result to disk whole, or not at all.

Theory of operation
-------------------
A transfer is a row of requests. Each continues the part file where the last one stopped, until it has the length that
was announced; then it is verified and published. An answer is taken only at the byte that was asked for and of the
version that is on disk, or from byte 0, and then everything begins again. Nothing is final without a known length.

Requests end badly for many reasons (a cut, silence, a trickle, a 5xx), and all of them mean the same: wait and ask for
the rest. What counts is whether the file grew: ``attempts`` requests in a row without progress end the download, and
what arrived stays for the next call, in this process or another. Progress means further than ever before in this
version, so a server that ignores ranges and cuts at random places cannot keep a download busy for ever.
"""

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import attrs
from attrs import validators

from crynux_async.backends.base import ResultStream, Validator
from crynux_async.clock import monotonic
from crynux_async.downloads.part_file import PartFile
from crynux_async.errors import (
    ArchiveError,
    CorruptArchiveError,
    DownloadError,
    IncompleteError,
    ProtocolError,
    RangeError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnreachableError,
)

_ASK_AGAIN = (UnreachableError, TransportError, ServerError, ProtocolError, RangeError, RateLimitedError)
_KEPT_BYTES = 8 << 20
_REPORT_INTERVAL = 0.2
_RATE_MEMORY = 3.0
_LATEST_CALL = 0.95  # of a time-out must be left; setting it anew for every piece costs more than reading the piece


def _number(default: float, *, above: bool = False) -> float:
    bound = validators.gt(0.0) if above else validators.ge(0.0)
    field: float = attrs.field(default=default, validator=[bound, validators.lt(math.inf)])
    return field


def _count(default: int, *, low: int) -> int:
    field: int = attrs.field(default=default, validator=[validators.instance_of(int), validators.ge(low)])
    return field


@attrs.frozen(kw_only=True)
class DownloadOptions:
    """How patient a download is. Durations are seconds.

    Attributes:
        chunk_bytes: Largest piece to read and write at once, >= 1.
        stall_timeout: Without a single byte, > 0; then the rest is asked for again.
        min_bytes_per_second: What a connection must bring on average over ``speed_window``; 0 allows any trickle.
        speed_window: How long a connection may be too slow, > 0.
        attempts: Requests in a row that may bring nothing new before the download gives up, >= 1.
        retry_delay: Before asking again; doubled with every request that brought nothing new.
        max_retry_delay: Longest time before asking again.
        free_space_margin: Bytes, >= 0, that must stay free beside the file.
    """

    chunk_bytes: int = _count(1 << 20, low=1)
    stall_timeout: float = _number(60.0, above=True)
    min_bytes_per_second: float = _number(1024.0)
    speed_window: float = _number(60.0, above=True)
    attempts: int = _count(8, low=1)
    retry_delay: float = _number(1.0)
    max_retry_delay: float = _number(60.0)
    free_space_margin: int = _count(16 << 20, low=0)

    def delay(self, failures: int) -> float:
        """Return how many seconds to wait after ``failures`` requests in a row that brought nothing new, >= 0."""
        return min(self.max_retry_delay, math.ldexp(self.retry_delay, max(0, min(failures, 64) - 1)))


@attrs.frozen(kw_only=True)
class Progress:
    """How far a download is.

    Attributes:
        received_bytes: Bytes of the result that are here, those of earlier calls included.
        total_bytes: Bytes of the whole result, or None where they are not known.
        bytes_per_second: Recent speed, >= 0.
    """

    received_bytes: int
    total_bytes: int | None
    bytes_per_second: float


@attrs.frozen(kw_only=True)
class DownloadedFile:
    """A result that is complete, verified and safe on disk.

    Attributes:
        path: Where it is.
        total_bytes: Its size.
        seconds: How long this call took.
        resumed_from: Bytes that were here before and could be kept.
        fetched_bytes: Bytes that came over the network during this call.
        attempts: Requests that were made, 0 where nothing was missing.
    """

    path: Path
    total_bytes: int
    seconds: float
    resumed_from: int
    fetched_bytes: int
    attempts: int


class OpenResult(Protocol):
    """Opens a result from a byte on, such as ``functools.partial(backend.open_result, task_id)``."""

    def __call__(
        self, *, start: int = 0, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the result from byte ``start`` on, if it is still the version of ``validator``."""


async def download(
    open_result: OpenResult,
    path: str | Path,
    *,
    verify: Callable[[Path], object] | None,
    options: DownloadOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    refetch: int = 1,
    owner: str = "",
    adopt: bool = False,
    check_slots: AbstractAsyncContextManager[object] | None = None,
) -> DownloadedFile:
    """Bring a result to ``path``: complete, verified and durable, or not at all.

    What an earlier call left unfinished is continued. A file that already has the name is never replaced.

    Args:
        open_result: Opens the result; asked once for every attempt.
        path: The final name. Its folder is made if it does not exist.
        verify: Raises ArchiveError where the file is not good; called in a thread. None checks the length only.
        options: How patient to be.
        on_progress: Called on the loop at most every 0.2 seconds, and at the end.
        refetch: How often, >= 0, to fetch everything once more when ``verify`` refuses the file.
        owner: Whom the file belongs to, such as a job id: the part file of another owner is not continued.
        adopt: Whether a file that already has the name is known to be this owner's, finished by an earlier call; it
            is verified and returned.
        check_slots: Held while ``verify`` runs. Downloads that share a semaphore with fewer slots than the machine has
            processors leave the event loop one, and are done sooner.

    Raises:
        IncompleteError: Requests brought nothing new for too long, or no size was ever announced.
        CorruptArchiveError: Every copy was refused by ``verify``; the last one is kept under a name in ``.corrupt``.
        DownloadError: The disk is full or not writable, the name is taken, or another download is writing the file.
        BackendError: The service does not give the result (deleted, not ours, key refused).
    """
    began = monotonic()
    options = options or DownloadOptions()
    _keep_freed_memory(_KEPT_BYTES)
    async with PartFile(Path(path), owner=owner, adopt=adopt, free_space_margin=options.free_space_margin) as part:
        transfer = _Transfer(open_result=open_result, part=part, options=options, meter=_Meter(report=on_progress))
        await _fetch_good_copy(transfer, verify, refetch, check_slots)
        await part.publish()
        transfer.meter.show(monotonic(), part.written, part.total_bytes)
        return DownloadedFile(
            path=part.path,
            total_bytes=part.written,
            seconds=monotonic() - began,
            resumed_from=transfer.resumed_from,
            fetched_bytes=transfer.fetched_bytes,
            attempts=transfer.requests,
        )


@functools.cache
def _keep_freed_memory(size: int) -> None:
    """Have the allocator reuse what a few pieces took, by freeing one block as large as all of them.

    glibc returns freed memory to the system above a threshold that follows the largest block ever freed. Left alone, it
    returned most pieces and paged them in again: 54,000 page faults for 600 MB in place of 8,300, and 1.24 s of CPU
    time in place of 0.70 s. Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    bytes(size)


async def _fetch_good_copy(
    transfer: "_Transfer",
    verify: Callable[[Path], object] | None,
    refetch: int,
    check_slots: AbstractAsyncContextManager[object] | None,
) -> None:
    """Fetch until a copy passes ``verify``, or put the last one aside."""
    part = transfer.part
    refused: list[tuple[ArchiveError, str]] = []
    while True:
        await transfer.fetch()
        try:
            return await part.check(verify, check_slots)
        except ArchiveError as error:
            if part.is_published:
                raise DownloadError(
                    f"{part.path} exists already and is not good ({error}); move it away and download again"
                ) from error
            refused.append((error, await part.digest()))
            if len(refused) > refetch:
                kept = await part.set_aside()
                raise CorruptArchiveError(_say_refused(part.path, kept, refused)) from error
            transfer.start_over()


def _say_refused(path: Path, kept: Path, refused: list[tuple[ArchiveError, str]]) -> str:
    if len(refused) == 1:
        times = "arrived and is not good"
    elif len({digest for _, digest in refused}) == 1:
        times = f"arrived {len(refused)} times, the same bytes each time, so it is not good where it comes from"
    else:
        times = f"arrived {len(refused)} times, not the same each time, and was never good"
    reasons = "; ".join(dict.fromkeys(str(error) for error, _ in refused))
    return f"{path.name} {times}: {reasons}. The last copy is kept as {kept}"


class _TooSlowError(TransportError):
    """A connection that was too slow from its beginning."""


@attrs.define(eq=False)
class _Pace:
    """Whether one connection brings enough; ``since`` and ``count`` are of the window that is running."""

    options: DownloadOptions
    since: float
    count: int = 0
    was_good: bool = False

    def add(self, now: float, count: int) -> None:
        """Count bytes that came.

        Raises:
            TransportError: Too few came during a whole window.
        """
        self.count += count
        elapsed = now - self.since
        if elapsed < self.options.speed_window:
            return
        if self.count < self.options.min_bytes_per_second * elapsed:
            kind = TransportError if self.was_good else _TooSlowError
            raise kind(f"only {self.count} bytes came in {elapsed:.0f} seconds")
        self.since, self.count, self.was_good = now, 0, True


@attrs.define(eq=False)
class _Meter:
    """Turns counted bytes into progress reports."""

    report: Callable[[Progress], None] | None
    rate: float = 0.0
    count: int = 0
    since: float = attrs.field(factory=monotonic)

    def add(self, now: float, count: int, received: int, total: int | None) -> None:
        """Count bytes that came, and report them when it is time."""
        self.count += count
        if now - self.since >= _REPORT_INTERVAL:
            self.show(now, received, total)

    def show(self, now: float, received: int, total: int | None) -> None:
        """Report what was counted since the last report, as an exponential mean over about 3 seconds."""
        elapsed = now - self.since
        if elapsed > 0:
            weight = -math.expm1(-elapsed / _RATE_MEMORY)
            self.rate += weight * (self.count / elapsed - self.rate)
            self.since, self.count = now, 0
        if self.report is not None:
            self.report(Progress(received_bytes=received, total_bytes=total, bytes_per_second=self.rate))


@attrs.define(eq=False)
class _Transfer:
    """The requests of one download.

    Attributes:
        must_restart: Whether the next request is for the whole result, whatever is on disk.
        furthest: Bytes of the present version that were on disk at most.
        versions, overruns, unsized, wrong_ranges: How often the version changed, more came than was announced, a
            whole result came without a size, and a request for a range was answered wrongly.
    """

    open_result: OpenResult
    part: PartFile
    options: DownloadOptions
    meter: _Meter
    must_restart: bool = False
    requests: int = 0
    fetched_bytes: int = 0
    resumed_from: int = attrs.field(default=attrs.Factory(lambda self: self.part.resumable_from, takes_self=True))
    furthest: int = attrs.field(default=attrs.Factory(lambda self: self.part.resumable_from, takes_self=True))
    versions: int = 0
    overruns: int = 0
    unsized: int = 0
    wrong_ranges: int = 0

    def start_over(self) -> None:
        """Fetch everything again, whatever is on disk."""
        self.must_restart = True
        self.furthest = 0

    async def fetch(self) -> None:
        """Make the part file as long as was announced.

        Raises:
            DownloadError: Too many requests in a row brought nothing new.
        """
        failures = 0
        while self.must_restart or not self.part.is_complete:
            try:
                await self._request()
            except _ASK_AGAIN as error:
                await self.part.flush()
                if not self.must_restart and self.part.is_complete:
                    return
                failures = 0 if self._has_advanced(error) else failures + 1
                if failures >= self.options.attempts:
                    raise self._give_up(error, failures) from error
                asked = error.wait if isinstance(error, RateLimitedError) and error.wait else 0.0
                await asyncio.sleep(max(self.options.delay(failures), asked))

    async def _request(self) -> None:
        """Ask for what is missing and write what comes.

        Raises:
            TransportError: It was not all that is missing; the rest can be asked for.
        """
        start = 0 if self.must_restart else self.part.resumable_from
        self.requests += 1
        try:
            async with asyncio.timeout(self.options.stall_timeout) as patience:
                async with self.open_result(start=start, validator=self.part.validator if start else None) as stream:
                    patience.reschedule(None)
                    await self._place(stream, start)
                    await self._copy(stream, patience)
        except TimeoutError as error:
            raise TransportError(f"not a byte came for {self.options.stall_timeout:g} seconds") from error
        except RangeError as error:
            await self._answer_out_of_range(error)
            raise
        except ProtocolError:
            # A proxy's page goes away some time; a service that cannot do ranges must be asked for everything.
            self.wrong_ranges += bool(start)
            self.must_restart |= self.wrong_ranges >= max(1, self.options.attempts // 2)
            raise
        await self.part.flush()
        self._require_all()

    async def _place(self, stream: ResultStream, start: int) -> None:
        """Make the part file ready for the stream, or refuse the stream."""
        version = stream.validator
        if stream.start == 0:
            await self._begin_again(version)
        elif stream.start != start:
            raise ProtocolError(f"the result was asked for from byte {start} and came from byte {stream.start}")
        elif not _continues(self.part.validator, version):
            self.must_restart = True
            raise TransportError("the result is not the same as before; all of it is fetched again")
        else:
            self.wrong_ranges = 0
            await self.part.learn(version)
            await self.part.require_space()

    async def _begin_again(self, version: Validator) -> None:
        if self.part.validator not in (None, version):
            self.versions += 1
            self.furthest = 0
        if self.versions > self.options.attempts:
            raise DownloadError(f"{self.part.path.name} changes again and again while it is fetched; try again later")
        if version.total_bytes is None and self.unsized:
            raise self._unsized_error()
        self.must_restart = False
        self.resumed_from = 0
        await self.part.restart(version)

    async def _copy(self, stream: ResultStream, patience: asyncio.Timeout) -> None:
        """Append every piece of the stream, reading the next ones while the last are written."""
        part, stall = self.part, self.options.stall_timeout
        received = part.written
        room = math.inf if part.total_bytes is None else part.total_bytes
        pace = _Pace(options=self.options, since=monotonic())
        patience.reschedule(monotonic() + stall)
        async with _closing(stream.chunks(self.options.chunk_bytes)) as pieces:
            async for piece in pieces:
                now = monotonic()
                received += len(piece)
                self.fetched_bytes += len(piece)
                if received > room:
                    self._refuse_overrun()
                part.append(piece)
                if part.is_full:
                    patience.reschedule(None)  # a slow disk is not a silent peer
                    await part.make_room()
                pace.add(now, len(piece))
                self.meter.add(now, len(piece), received, part.total_bytes)
                due = patience.when()
                if due is None or due - now < _LATEST_CALL * stall:
                    patience.reschedule(monotonic() + stall)

    def _refuse_overrun(self) -> None:
        self.overruns += 1
        self.start_over()
        message = f"more than the announced {self.part.total_bytes} bytes of {self.part.path.name} came"
        if self.overruns > 1:
            raise DownloadError(f"{message}, twice; the service is not right about its size")
        raise TransportError(message)

    def _require_all(self) -> None:
        """Refuse an end that came early, or that nobody can tell from an early one."""
        if self.part.is_complete:
            return
        if self.part.total_bytes is None:
            self.unsized += 1
            if not self.part.resumable_from:
                raise self._unsized_error()
        raise TransportError(f"the connection ended after {self.part.written} of {self._announced()} bytes")

    async def _answer_out_of_range(self, error: RangeError) -> None:
        """Take a 416 that says that everything is here; begin again after any other."""
        known = self.part.validator
        if known is not None and known.total_bytes is None and error.total_bytes == self.part.written:
            await self.part.learn(attrs.evolve(known, total_bytes=error.total_bytes))
        else:
            self.must_restart = True

    def _has_advanced(self, error: Exception) -> bool:
        advanced = self.part.written > self.furthest and not isinstance(error, _TooSlowError)
        self.furthest = max(self.furthest, self.part.written)
        return advanced

    def _announced(self) -> str:
        return "an unknown number of" if self.part.total_bytes is None else str(self.part.total_bytes)

    def _unsized_error(self) -> IncompleteError:
        return IncompleteError(
            f"nobody says how long {self.part.path.name} is, so it cannot be told from one that was cut short; "
            "look for a proxy that removes Content-Length",
            received=self.part.written,
            expected=None,
        )

    def _give_up(self, error: Exception, failures: int) -> IncompleteError:
        return IncompleteError(
            f"{self.part.written} of {self._announced()} bytes of {self.part.path.name} are here, and "
            f"{failures} request{'s' if failures > 1 else ''} in a row brought nothing new (last: {error}); "
            "what arrived is kept, call again to continue",
            received=self.part.written,
            expected=self.part.total_bytes,
        )


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
