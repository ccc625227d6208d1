"""The bridge's rate limiter: golang.org/x/time/rate v0.1.0, with the bridge's one mistake.

Every create reserves a token. When the reservation would have to wait, the bridge refuses the create and forgets the
reservation without cancelling it, so a refused create costs a token as well. Time is in integer nanoseconds and tokens
are 64-bit floats, with the same truncations as in Go, so that the waits are the same to the last digit.

Source: golang.org/x/time v0.1.0 rate/rate.go (advance, reserveN, SetLimitAt); crynux-bridge
api/ratelimit/ratelimit.go.
"""

import attrs

_SECOND = 1_000_000_000
_LONGEST = 2**63 - 1


class GoLimiter:
    """A token bucket that starts full and may be overdrawn without bound.

    Args:
        rate: Tokens per second; nothing is refilled at a rate of 0 or less.
        burst: The most tokens that the bucket holds; below 1 no reservation succeeds.
    """

    __slots__ = ("_last", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = 0.0
        self._last: int | None = None

    def reserve(self, now: int) -> int | None:
        """Take one token, now or later.

        Args:
            now: Nanoseconds on a clock that does not go back.

        Returns:
            Nanoseconds until the token is there, 0 when it is there already; None when there will never be one.
        """
        if self.rate == 0:
            return self._reserve_without_rate()
        tokens = self._advance(now) - 1.0
        wait = self._duration(-tokens) if tokens < 0 else 0
        # More than the bucket holds is never to be had, and nothing is booked for it.
        if self.burst < 1:
            return None
        self._last = now
        self._tokens = tokens
        return wait

    def set_rate(self, now: int, rate: float) -> None:
        """Change the rate from ``now`` on; the burst and any debt stay as they are."""
        self._tokens = self._advance(now)
        self._last = now
        self.rate = rate

    def _reserve_without_rate(self) -> int | None:
        # As reserveN does, which takes from the burst itself then.
        if self.burst < 1:
            return None
        self.burst -= 1
        return 0

    def _advance(self, now: int) -> float:
        # A Go limiter that was never used dates from the year 1, and that span saturates: hence it is full.
        elapsed = _LONGEST if self._last is None else max(0, now - self._last)
        return min(self._tokens + self._refill(elapsed), float(self.burst))

    def _refill(self, elapsed: int) -> float:
        if self.rate <= 0:
            return 0.0
        # As Duration.Seconds: whole seconds and the rest are made floats apart.
        seconds, nanoseconds = divmod(elapsed, _SECOND)
        return (float(seconds) + float(nanoseconds) / 1e9) * self.rate

    def _duration(self, tokens: float) -> int:
        if self.rate <= 0:
            return _LONGEST
        # Truncated, as Go converts a float to a Duration.
        return min(int(1e9 * (tokens / self.rate)), _LONGEST)


@attrs.frozen(kw_only=True)
class Verdict:
    """What the limiter says about one create.

    Attributes:
        allowed: Whether the create may go on.
        wait: Seconds that the refusal names; 0.0 when allowed, or when no wait would ever help.
    """

    allowed: bool
    wait: float = 0.0


class Buckets:
    """One limiter per API key, made at its first use, in memory only."""

    __slots__ = ("_limiters",)

    def __init__(self) -> None:
        self._limiters: dict[int, GoLimiter] = {}

    def check(self, key: int, limit: int, now: float) -> Verdict:
        """Spend one token of ``key``.

        Args:
            key: The number of the key.
            limit: Creates per minute; counts only while the key has no limiter yet.
            now: Seconds on the server's clock.
        """
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._limiters[key] = _limiter(limit)
        wait = limiter.reserve(_nanoseconds(now))
        if wait is None:
            return Verdict(allowed=False)
        return Verdict(allowed=wait == 0, wait=_seconds(wait))

    def change(self, key: int, limit: int, now: float) -> None:
        """Change the limit of ``key``: of a limiter in use the rate only, never its burst or its debt."""
        limiter = self._limiters.get(key)
        if limiter is None:
            self._limiters[key] = _limiter(limit)
        else:
            limiter.set_rate(_nanoseconds(now), _rate(limit))

    def forget(self) -> None:
        """Lose every limiter, as a restart of the server does."""
        self._limiters.clear()


def _limiter(limit: int) -> GoLimiter:
    return GoLimiter(_rate(limit), limit)


def _rate(limit: int) -> float:
    return float(limit) * (1.0 / 60.0)


def _nanoseconds(now: float) -> int:
    return round(now * 1e9)


def _seconds(wait: int) -> float:
    seconds, nanoseconds = divmod(wait, _SECOND)
    return float(seconds) + float(nanoseconds) / 1e9
