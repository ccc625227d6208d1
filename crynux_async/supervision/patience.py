"""For how long a service that cannot be reached is tried again before a submit fails."""

import attrs

from crynux_async.supervision.record import Record
from crynux_async.values import Value

FORGIVEN = 4
"""How many times the limit a job waits at most, where others are answered in between and it never is."""

_FIRST_RETRY = 1.0
_LONGEST_RETRY = 60.0


@attrs.frozen(kw_only=True)
class _InVain(Value):
    """What a job has waited in vain.

    Attributes:
        tried_at: When it was tried last, in loop seconds.
        answers: Creates of its key that were answered before that.
        outage: Seconds in vain in this outage.
        in_all: Seconds in vain in all outages since this session was answered.
    """

    tried_at: float
    answers: int
    outage: float = 0.0
    in_all: float = 0.0


class Patience:
    """The policy for jobs that were certainly not sent: all of them wait, longer each time, each for a bounded time.

    What counts for a job is how long it was tried in vain, not how long ago that began: a machine that slept for a
    night, or a gate that was shut, has used up nobody's patience, and neither has an outage that was over in between.
    Over is one when the service answers this session, or a create of another one with the same key. The other may have
    a network where this one has none, so its answers renew the patience of a job for a bounded time only.

    Args:
        limit: Seconds in vain after which a job fails.
        longest_try: Seconds that one try can take.
    """

    def __init__(self, limit: float, longest_try: float) -> None:
        self._limit = limit
        self._longest_try = longest_try
        self._retry = _FIRST_RETRY
        self._held = 0.0
        self._in_vain: dict[str, _InVain] = {}
        self.not_before = 0.0
        """When the next create may be sent, in loop seconds."""

    def heard(self) -> None:
        """Enter that the service has answered."""
        self._retry = _FIRST_RETRY
        self.not_before = 0.0
        self._in_vain.clear()

    def hold(self, now: float) -> None:
        """Let nothing go for a while, longer each time."""
        self._held = self._retry
        self.not_before = now + self._held
        self._retry = min(2 * self._retry, _LONGEST_RETRY)

    def is_left(self, record: Record, now: float, answers: int) -> bool:
        """Enter that a job was tried in vain, hold everything, and say whether the job is to be tried again.

        Args:
            record: The job.
            now: The time, in loop seconds.
            answers: Creates of this key that were answered so far, those of other sessions included.
        """
        before = self._in_vain.pop(record.job_id, None) or _InVain(tried_at=now, answers=answers)
        # No two tries lie further apart than this, unless the machine slept or the gate was shut.
        waited = min(now - before.tried_at, self._held + self._longest_try)
        self.hold(now)
        outage = 0.0 if answers > before.answers else before.outage + waited
        in_all = before.in_all + waited
        if outage >= self._limit or in_all >= FORGIVEN * self._limit:
            return False
        self._in_vain[record.job_id] = _InVain(tried_at=now, answers=answers, outage=outage, in_all=in_all)
        return True
