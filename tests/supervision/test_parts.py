"""The parts of a submission that wait for nothing: the queue, what an answer means."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crynux_async.errors import (
    AuthError,
    CrynuxError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    SubmissionUnknownError,
    UnreachableError,
)
from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.pacing.token_bucket import Outcome
from crynux_async.states import JobState, Signal
from crynux_async.supervision.create import Answer, columns_after, post, signal_of
from crynux_async.supervision.record import Record
from crynux_async.supervision.send_queue import SendQueue

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(name: str = "j1", **facts: Any) -> Record:
    return Record(job_id=name, planned_at=NOON, **facts)


def test_queue_gives_jobs_in_the_order_in_which_they_came() -> None:
    queue, jobs = SendQueue(), [record(f"j{number}") for number in range(3)]
    for job in jobs:
        queue.add(job)
    assert [queue.position(job) for job in jobs] == [0, 1, 2]
    assert [queue.take_first() for _ in range(4)] == [*jobs, None]


def test_job_that_is_put_back_keeps_its_place() -> None:
    queue, jobs = SendQueue(), [record(f"j{number}") for number in range(4)]
    for job in jobs:
        queue.add(job)
    taken = [queue.take_first(), queue.take_first()]
    assert taken == jobs[:2]
    queue.put_back(jobs[1])
    queue.put_back(jobs[0])
    assert [queue.take_first() for _ in range(4)] == jobs


@pytest.mark.parametrize("changes", [{"state": JobState.ABANDONED}, {"is_ours": False}, {"queue_number": 0}])
def test_job_that_is_not_to_be_sent_any_more_is_passed_over(changes: dict[str, Any]) -> None:
    queue, first, second = SendQueue(), record("j1"), record("j2")
    queue.add(first)
    queue.add(second)
    for name, value in changes.items():
        setattr(first, name, value)
    assert queue.first() is second
    assert len(queue) == 1


def test_job_that_is_queued_anew_is_not_sent_for_its_old_place() -> None:
    queue, first, second = SendQueue(), record("j1"), record("j2")
    queue.add(first)
    queue.add(second)
    queue.add(first)  # it was set aside, and its user has asked for it again
    assert [queue.take_first() for _ in range(3)] == [second, first, None]


class Service:
    """A service that answers a create with one error."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def create(self, payload: str) -> Any:
        raise self._error


MEANINGS = [
    (RateLimitedError("slow", wait=3.0), AttemptOutcome.LIMITED, Outcome.LIMITED, None),
    (UnreachableError("down"), AttemptOutcome.NOT_SENT, Outcome.RELEASED, None),
    (SubmissionUnknownError("lost"), AttemptOutcome.UNKNOWN, Outcome.CHARGED, Signal.LOST_SIGHT),
    (RejectedError("no", field="model_name"), AttemptOutcome.REJECTED, Outcome.RELEASED, Signal.TURNED_DOWN),
    (RejectedError("no", is_counted=True), AttemptOutcome.REJECTED, Outcome.CHARGED, Signal.TURNED_DOWN),
    (AuthError("no"), AttemptOutcome.REJECTED, Outcome.RELEASED, None),
    (QuotaError("no"), AttemptOutcome.REJECTED, Outcome.RELEASED, None),
    (ValueError("a bug"), AttemptOutcome.UNKNOWN, Outcome.CHARGED, Signal.LOST_SIGHT),
    (asyncio.CancelledError(), AttemptOutcome.UNKNOWN, Outcome.CHARGED, Signal.LOST_SIGHT),
]


@pytest.mark.parametrize(
    ("error", "outcome", "spent", "signal"), MEANINGS, ids=[type(row[0]).__name__ for row in MEANINGS]
)
async def test_answer_means_one_thing_for_ledger_gate_and_job(
    error: BaseException, outcome: AttemptOutcome, spent: Outcome, signal: Signal | None
) -> None:
    service: Any = Service(error)
    answer = await post(service, "payload")
    assert (answer.outcome, answer.spent) == (outcome, spent)
    assert signal_of(answer, is_repeatable=False) is signal
    assert isinstance(answer.error, CrynuxError)


async def test_unknown_outcome_of_a_create_that_may_be_repeated_leaves_the_job_waiting() -> None:
    service: Any = Service(SubmissionUnknownError("lost"))
    assert signal_of(await post(service, ""), is_repeatable=True) is None


def test_accepted_task_is_stored_with_its_state_whatever_the_user_has_decided() -> None:
    answer = Answer(outcome=AttemptOutcome.ACCEPTED, spent=Outcome.ACCEPTED, task_id="7")
    at = NOON + timedelta(seconds=1)
    for before, after in ((JobState.PLANNED, JobState.RUNNING), (JobState.ABANDONED, JobState.ABANDONED)):
        columns = columns_after(before, Signal.ACCEPTED, answer, at)
        assert columns == {"state": after, "task_id": "7", "submitted_at": at, "error": "", "error_facts": {}}


def test_refused_credential_keeps_the_job_planned_and_says_why() -> None:
    answer = Answer(outcome=AttemptOutcome.REJECTED, spent=Outcome.RELEASED, error=AuthError("unknown key"))
    columns = columns_after(JobState.PLANNED, None, answer, NOON)
    assert columns.keys() == {"error", "error_facts"}
    assert (columns["error"], columns["error_facts"]["kind"]) == ("unknown key", "AuthError")


def test_what_few_jobs_have_is_each_jobs_own() -> None:
    one, other = record("j1"), record("j2")
    assert one.seldom is other.seldom
    one.error, one.tries = AuthError("unknown key"), 2
    assert (other.error, other.tries, other.ended_at, other.archive) == (None, 1, None, None)
    assert (str(one.error), one.tries) == ("unknown key", 2)
    one.error, one.tries = None, 1
    assert (one.error, one.tries, one.is_own) == (None, 1, False)
    other.error = None
    assert other.seldom is record("j3").seldom
