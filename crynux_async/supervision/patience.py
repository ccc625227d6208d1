"""For how long a service that cannot be reached is tried again before a submit fails."""

import weakref

import attrs

from crynux_async.supervision.record import Record
from crynux_async.values import Value

FORGIVEN = 4
"""How many times the limit a job waits in vain at most, where others are answered in between and it never is."""

_FIRST_RETRY = 1.0
_LONGEST_RETRY = 60.0


@attrs.frozen(kw_only=True)
class _InVain(Value):
    """What a job has waited in vain.

    Attributes:
        tried_at: When it was tried last, in loop seconds.
        answers: Creates that were answered before that, those of other jobs and sessions included.
        outage: Seconds in vain in this outage.
        in_all: Seconds in vain in all outages together.
    """

    tried_at: float
    answers: int
    outage: float = 0.0
    in_all: float = 0.0


class Patience:
    """The policy for jobs that were certainly not sent: all of them wait, longer each time, each for a bounded time.

    What counts for a job is how long it was tried in vain, not how long ago that began: a machine that slept for a
    night, or a gate that was shut, has used up nobody's patience, and neither has an outage that was over in between.
    Over is one when the service answers any create with the same key, also of another job or session. The other session
    may have a network where this one has none, and the service may break down over this job alone: so answers to others
    renew the patience of a job for a bounded time only.

    Args:
        limit: Seconds in vain after which a job fails.
        longest_try: Seconds that one try can take.
    """

    def __init__(self, limit: float, longest_try: float) -> None:
        self._limit = limit
        self._longest_try = longest_try
        self._retry = _FIRST_RETRY
        self._held = 0.0
        self._heard = 0
        # A job that is given up, or lost to another session, takes its entry with it.
        self._in_vain: weakref.WeakKeyDictionary[Record, _InVain] = weakref.WeakKeyDictionary()
        self.not_before = 0.0
        """When the next create may be sent, in loop seconds."""

    def heard(self, record: Record) -> None:
        """Enter that the service has answered a create of this session's, for a job."""
        self._retry = _FIRST_RETRY
        self.not_before = 0.0
        self._heard += 1
        self.forget(record)

    def forget(self, record: Record) -> None:
        """Forget what a job has waited in vain: what becomes of it later is no part of that."""
        self._in_vain.pop(record, None)

    def hold(self, now: float) -> None:
        """Let nothing go for a while, longer each time."""
        self._held = self._retry
        self.not_before = now + self._held
        self._retry = min(2 * self._retry, _LONGEST_RETRY)

    def wait_until(self, when: float) -> None:
        """Let nothing go before a time, in loop seconds; it uses up nobody's patience."""
        self.not_before = max(self.not_before, when)

    def is_left(self, record: Record, now: float, answers: int) -> bool:
        """Enter that a job was tried in vain, hold everything, and say whether the job is to be tried again.

        Args:
            record: The job.
            now: The time, in loop seconds.
            answers: Creates of this key that were answered so far, as far as the gate knows.
        """
        answers += self._heard  # there may be no gate, and it does not count every answer
        before = self._in_vain.pop(record, None) or _InVain(tried_at=now, answers=answers)
        # No two tries lie further apart than this, unless the machine slept or the gate was shut.
        waited = min(now - before.tried_at, self._held + self._longest_try)
        self.hold(now)
        outage = 0.0 if answers > before.answers else before.outage + waited
        in_all = before.in_all + waited
        if outage >= self._limit or in_all >= FORGIVEN * self._limit:
            return False
        self._in_vain[record] = _InVain(tried_at=now, answers=answers, outage=outage, in_all=in_all)
        return True
