"""For how long a service that cannot be reached is tried again before a submit fails."""

from crynux_async.supervision.record import Record

_FIRST_RETRY = 1.0
_LONGEST_RETRY = 60.0


class Patience:
    """The policy for jobs that were certainly not sent: all of them wait, longer each time, each for a bounded time.

    What counts for a job is how long it was tried in vain, not how long ago that began: a machine that slept for a
    night, or a gate that was shut, has used up nobody's patience, and neither has an outage that was over in between.

    Args:
        limit: Seconds in vain after which a job fails.
        longest_try: Seconds that one try can take.
    """

    def __init__(self, limit: float, longest_try: float) -> None:
        self._limit = limit
        self._longest_try = longest_try
        self._retry = _FIRST_RETRY
        self._held = 0.0
        self._in_vain: dict[str, tuple[float, float]] = {}
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

    def is_left(self, record: Record, now: float) -> bool:
        """Enter that a job was tried in vain, hold everything, and say whether the job is to be tried again."""
        tried_at, in_vain = self._in_vain.get(record.job_id, (now, 0.0))
        # No two tries lie further apart than this, unless the machine slept or the gate was shut.
        in_vain += min(now - tried_at, self._held + self._longest_try)
        self.hold(now)
        if in_vain >= self._limit:
            self._in_vain.pop(record.job_id, None)
            return False
        self._in_vain[record.job_id] = now, in_vain
        return True
