"""What a session tells of itself and of its jobs, as values."""

from datetime import datetime

import attrs

from crynux_async.backends.base import Verdict
from crynux_async.job import Job
from crynux_async.states import JobState
from crynux_async.values import Value


@attrs.frozen(kw_only=True)
class SessionStatistics(Value):
    """What a session has done and is doing.

    Attributes:
        jobs: How many jobs are in which state; states without jobs are left out.
        queued: Jobs that wait to be sent.
        creating: Creates under way.
        downloading: Downloads that run or wait for a slot.
        polls: Status requests made.
        poll_errors: Status requests without an answer that counts.
        poll_delay: Seconds by which ends are noticed late on average, as polls are planned now, >= 0.
        refusals: Creates refused by the rate limit.
        limit_per_minute: The rate limit, given or learned, or None while it is not known.
        silent_for: Seconds since the first request without an answer that counts since the last one with one, or None.
        trouble: What was wrong with the last of them, for people, or "".
        is_rate_limited: Whether the service limits creates at all.
    """

    jobs: dict[JobState, int]
    queued: int
    creating: int
    downloading: int
    polls: int
    poll_errors: int
    refusals: int
    limit_per_minute: float | None
    silent_for: float | None = None
    trouble: str = ""
    poll_delay: float = 0.0
    is_rate_limited: bool = True


@attrs.frozen(kw_only=True)
class Unconfirmed(Value):
    """A create whose outcome is not known, and what is known around it.

    Attributes:
        job: The job.
        began_at: When the create was begun, aware UTC.
        digest: The config's digest.
        after: The newest task that was certainly made before it, or None where none is known.
        before: The oldest task that was certainly made after it, or None where none is known yet.
    """

    job: Job
    began_at: datetime
    digest: str
    after: str | None
    before: str | None


@attrs.frozen(kw_only=True)
class Reconciled(Value):
    """What looking for the task of one unconfirmed job has shown, or a task that was paid for and has no job.

    Attributes:
        job: The job. Where its task was found, it is followed again; where it certainly was not created, it is planned
            as if it had never been sent, and left until ``retry()`` sends it, which is what who waits for it is told.
            None for an orphan that was not adopted.
        verdict: What was found: "found", "ambiguous", "not created", "open" or "orphan".
        candidates: Tasks that may be it; of an orphan, what to ``attach``.
        explanation: What was done, what remains and what to do, for people.
    """

    job: Job | None
    verdict: Verdict
    candidates: tuple[str, ...]
    explanation: str


@attrs.frozen(kw_only=True)
class Spending(Value):
    """What jobs hold and have spent, in wei (10**-18 CNX), as far as prices are known.

    Attributes:
        held: What tasks may cost at most whose cost is not known yet, >= 0.
        spent: What tasks did cost, >= 0.
    """

    held: int
    spent: int
