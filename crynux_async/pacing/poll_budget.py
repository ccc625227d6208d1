"""How many polls there may be: the promised rate, the price that keeps to it, and the silence while nobody answers.

Theory of operation
-------------------
The promise, so many polls a second over all jobs, is kept twice. A token bucket hands out no more, whatever happens.
And the price moves so that no more is wanted: with R polls a second planned at the price in the settings and a budget Q
of nine tenths of the promise, the price is raised by ``(R/Q)^2``, because intervals grow with its square root. (Scaling
every plan back to the price in the settings makes this the fixed point of "multiply by (rate/Q)^2" without its
overshoot.)

When many different jobs in a row fail to be polled and none succeeds, it is the service that is gone: then one poll in
so many seconds is allowed until somebody gets an answer.
"""

import math
import sys

_HEADROOM = 0.9
_HIGHEST_SCALE = 100.0
# This many different jobs fail with no success between them: it is not the jobs.
_OUTAGE_JOBS = 8


class PollBudget:
    """At most ``burst + rate * T`` polls in any T seconds, and one probe at a time in an outage.

    Args:
        rate: Polls a second, > 0; None for no limit.
        burst: How many may come at once after a quiet time, >= 1.
        probe_interval: Seconds from one probe to the next in an outage.

    Attributes:
        load: Polls a second that are planned, as they would be without a budget. ``plan`` alone changes it.
        scale: How many times too many polls there would be at the price in the settings, at least 1.
    """

    __slots__ = (
        "_at",
        "_burst",
        "_failing",
        "_planned",
        "_probe_at",
        "_probe_interval",
        "_rate",
        "_tokens",
        "load",
        "scale",
    )

    def __init__(self, rate: float | None, burst: float, probe_interval: float) -> None:
        self._rate = rate
        self._burst = burst
        self._planned = math.inf if rate is None else _HEADROOM * rate
        self._tokens = burst
        self._at = -math.inf
        self._failing = 0
        self._probe_interval = probe_interval
        self._probe_at = -math.inf
        self.load = 0.0
        self.scale = 1.0

    @property
    def is_outage(self) -> bool:
        """Whether no poll succeeds."""
        return self._failing >= _OUTAGE_JOBS

    def plan(self, load: float) -> None:
        """Enter how many polls a second are planned, as they would be without a budget."""
        self.load = load
        self.scale = min(max(load / self._planned, 1.0), _HIGHEST_SCALE)

    def crowd(self, jobs: int) -> float:
        """Return the interval in seconds at which so many jobs use up the budget."""
        return jobs / self._planned

    def allowed(self, now: float) -> int:
        """Return how many polls may be made now."""
        if self.is_outage and now < self._probe_at:
            return 0
        tokens = sys.maxsize if self._rate is None else self._whole_tokens(now)
        return min(tokens, 1) if self.is_outage else tokens

    def spend(self, polls: int, now: float) -> None:
        """Take note that so many polls are made."""
        self._tokens -= polls
        if polls and self.is_outage:
            self._probe_at = now + self._probe_interval

    def next_at(self, at: float, now: float) -> float:
        """Return when a poll is allowed that is wanted at ``at``."""
        if self.is_outage:
            at = max(at, self._probe_at)
        if self._rate is not None and self._whole_tokens(now) < 1:
            at = max(at, self._at + (1.0 - self._tokens) / self._rate)
        return at

    def failed(self, *, again: bool) -> None:
        """Take note that a poll failed; ``again`` if the one before of that job did, too."""
        self._failing += not again

    def answered(self) -> None:
        """Take note that a poll was answered."""
        self._failing = 0

    def _whole_tokens(self, now: float) -> int:
        assert self._rate is not None
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
            self._at = now
        # The caller comes back at next_at(): a token that lacks a rounding error must not send it away again.
        return int(self._tokens + 1e-4)
