"""Which creates of a try have no known outcome, and so which jobs may have a task that nobody knows."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from crynux_async.ledgers.rows import AttemptOutcome, AttemptRow

_SILENT = frozenset({AttemptOutcome.NOT_SENT, AttemptOutcome.LIMITED, AttemptOutcome.REJECTED})


def lost_attempts(attempts: Iterable[AttemptRow], try_number: int) -> list[AttemptRow]:
    """Return the attempts of a try whose outcome is not known, in the order in which they were begun.

    What an earlier try has lost is no doubt of this one: the user has sent the job again in the knowledge of it.
    """
    unknown = (
        attempt
        for attempt in attempts
        if attempt.try_number == try_number and attempt.outcome in (None, AttemptOutcome.UNKNOWN)
    )
    return sorted(unknown, key=lambda attempt: attempt.number)


def lost_attempt(attempts: Iterable[AttemptRow], try_number: int) -> AttemptRow | None:
    """Return the last attempt of a try whose outcome is not known, or None."""
    unknown = lost_attempts(attempts, try_number)
    return unknown[-1] if unknown else None


def doubtful_attempt(attempts: Iterable[AttemptRow], try_number: int) -> AttemptRow | None:
    """Return the attempt of a try that is to be repeated as it was, or None: its outcome is not known yet.

    One that was turned down at the door or never left says nothing of those before it. Of those that were rejected only
    the ones whose credential was refused leave a job without its end, and neither do they.

    Args:
        attempts: The attempts of a job that has no task, and has not ended.
        try_number: The try.
    """
    said = [attempt for attempt in attempts if attempt.try_number == try_number and attempt.outcome not in _SILENT]
    last = max(said, key=lambda attempt: attempt.number, default=None)
    return last if last is not None and last.outcome in (None, AttemptOutcome.UNKNOWN) else None


def jobs_in_doubt(attempts: Iterable[AttemptRow], tries: Mapping[str, int]) -> list[str]:
    """Return the jobs that were sent, and of which no answer has told whether they have a task.

    Args:
        attempts: The attempts of the jobs.
        tries: The try of each job that waits to be sent; it has no task.
    """
    by_job: dict[str, list[AttemptRow]] = defaultdict(list)
    for attempt in attempts:
        by_job[attempt.job_id].append(attempt)
    return [job_id for job_id, number in tries.items() if doubtful_attempt(by_job[job_id], number) is not None]
