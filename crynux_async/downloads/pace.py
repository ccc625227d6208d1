"""How patient a download is, whether a connection brings enough, and how far everything is."""

import math
from collections.abc import Callable

import attrs
from attrs import validators

from crynux_async.clock import monotonic
from crynux_async.errors import TransportError

_REPORT_INTERVAL = 0.2
_RATE_MEMORY = 3.0


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
        # Bounded: ldexp overflows after a thousand doublings, and the longest delay is reached long before.
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


class TooSlowError(TransportError):
    """A connection that was too slow from its beginning."""


@attrs.define(eq=False)
class Pace:
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
        # Of what really went by: a loop that was held up must not make a good connection look slow.
        if self.count < self.options.min_bytes_per_second * elapsed:
            # One that was never good counts as no progress (``Requests``), or a trickle went on for ever (fault case
            # D8).
            kind = TransportError if self.was_good else TooSlowError
            raise kind(f"only {self.count} bytes came in {elapsed:.0f} seconds")
        self.since, self.count, self.was_good = now, 0, True


@attrs.define(eq=False)
class Meter:
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
            # Weighted by time, so that the mean does not depend on how often it is reported.
            weight = -math.expm1(-elapsed / _RATE_MEMORY)
            self.rate += weight * (self.count / elapsed - self.rate)
            self.since, self.count = now, 0
        if self.report is not None:
            self.report(Progress(received_bytes=received, total_bytes=total, bytes_per_second=self.rate))
