"""The judge of the rate-limit tests: what the bridge's limiter does, written down from its Go source.

A port of ``reserveN``, ``advance`` and ``SetLimitAt`` of golang.org/x/time/rate v0.1.0, and of ``CheckRateLimit`` and
``UpdateRateLimit`` of crynux-bridge api/ratelimit/ratelimit.go, which never cancel a reservation. Times are integer
nanoseconds, tokens 64-bit floats. Shares no code with the package.
"""

SECOND = 10**9
INF_DURATION = 2**63 - 1


class GoLimiter:
    def __init__(self, limit: float, burst: int) -> None:
        self.limit = limit
        self.burst = burst
        self.tokens = 0.0
        self.last = -INF_DURATION  # Go's zero time: so long ago that the difference saturates

    def reserve(self, t: int) -> tuple[bool, int]:
        """reserveN(t, 1, InfDuration): whether the reservation is good, and its delay."""
        tokens = self._advance(t) - 1.0
        delay = self._duration_from_tokens(-tokens) if tokens < 0 else 0
        ok = self.burst >= 1
        if ok:
            self.last, self.tokens = t, tokens
        return ok, delay

    def set_limit(self, t: int, limit: float) -> None:
        self.tokens, self.last, self.limit = self._advance(t), t, limit

    def _advance(self, t: int) -> float:
        elapsed = min(t - min(self.last, t), INF_DURATION)
        return min(self.tokens + self._tokens_from_duration(elapsed), float(self.burst))

    def _duration_from_tokens(self, tokens: float) -> int:
        if self.limit <= 0:
            return INF_DURATION
        return min(int(float(SECOND) * (tokens / self.limit)), INF_DURATION)

    def _tokens_from_duration(self, d: int) -> float:
        return 0.0 if self.limit <= 0 else (float(d // SECOND) + float(d % SECOND) / 1e9) * self.limit


class Bridge:
    """One key's limiter behind CheckRateLimit; seconds in, what the answer says out."""

    def __init__(self, limit: int, *, burst: int | None = None, debt: float | None = None) -> None:
        self.limiter = GoLimiter(limit * (1 / 60.0), limit if burst is None else burst)
        if debt is not None:  # as if that many tokens too many had been taken at time 0
            self.limiter.last, self.limiter.tokens = 0, -debt

    def check(self, now: float) -> float | None:
        """Book one create; None when it may pass, else the seconds that the refusal names, with two digits."""
        ok, delay = self.limiter.reserve(round(now * SECOND))
        if ok and delay == 0:
            return None
        return float(f"{delay / SECOND if ok else 0.0:.2f}")

    def update(self, limit: int, now: float) -> None:
        self.limiter.set_limit(round(now * SECOND), limit * (1 / 60.0))
