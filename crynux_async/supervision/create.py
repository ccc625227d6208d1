"""One create: its answer, and what that means for the ledger, the gate and the job."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from crynux_async.backends.base import Backend, Phase
from crynux_async.errors import (
    AuthError,
    CrynuxError,
    ProtocolError,
    QuotaError,
    RateLimitedError,
    RejectedError,
    SubmissionUnknownError,
    UnreachableError,
)
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow
from crynux_async.pacing.token_bucket import Outcome
from crynux_async.states import JobState, Signal, advance, may
from crynux_async.supervision.stored_errors import columns_of_error
from crynux_async.values import Value, evolved

_log = logging.getLogger("crynux_async.supervision.create")


@attrs.frozen(kw_only=True)
class Answer(Value):
    """What became of one create.

    Attributes:
        outcome: For the ledger.
        spent: For the gate.
        task_id: The task that was made, or None.
        look_after: Seconds after which the service wishes to be asked about the task first, or None.
        progress: How far the task is in the service's own word, or "".
        phases: The phases of its life, as far as the service tells them.
        error: What to tell whoever waits, or None.
        interrupt: What ends the program, and may go on once all of this is stored; or None.
    """

    outcome: AttemptOutcome
    spent: Outcome
    task_id: str | None = None
    look_after: float | None = None
    progress: str = ""
    phases: Sequence[Phase] = ()
    error: CrynuxError | None = None
    interrupt: BaseException | None = None

    @property
    def wait(self) -> float | None:
        """Seconds that a refusal of the rate limit said to wait, or None."""
        return self.error.wait if isinstance(self.error, RateLimitedError) else None

    @property
    def concerns_all(self) -> bool:
        """Whether it is the credential that is refused, so that every other create would be, too."""
        return isinstance(self.error, AuthError | QuotaError)


async def post(backend: Backend, payload: str) -> Answer:
    """Send one create. Never raises: once bytes may have left, every end has a meaning."""
    try:
        created = await backend.create(payload)
        return Answer(
            outcome=AttemptOutcome.ACCEPTED,
            spent=Outcome.ACCEPTED,
            task_id=created.task_id,
            look_after=created.again_after,
            progress=created.stage,
            phases=created.phases,
        )
    # The order matters: these are kinds of BackendError, which is a kind of CrynuxError.
    except RateLimitedError as error:
        return Answer(outcome=AttemptOutcome.LIMITED, spent=Outcome.LIMITED, error=error)
    except UnreachableError as error:
        return Answer(outcome=AttemptOutcome.NOT_SENT, spent=Outcome.RELEASED, error=error)
    except SubmissionUnknownError as error:
        return Answer(outcome=AttemptOutcome.UNKNOWN, spent=Outcome.CHARGED, error=error)
    except CrynuxError as error:
        return Answer(outcome=AttemptOutcome.REJECTED, spent=spent_by(error), error=error)
    # Cancelled, interrupted or a bug: the bytes may have left in each of these cases, so the task may exist.
    except BaseException as error:
        _log.debug("create cut off", exc_info=True)
        interrupt = error if isinstance(error, KeyboardInterrupt | SystemExit) else None
        return Answer(outcome=AttemptOutcome.UNKNOWN, spent=Outcome.CHARGED, error=_cut_off(error), interrupt=interrupt)


def of_repeated(answer: Answer) -> Answer:
    """Return what the answer to a create says that repeats one of unknown outcome.

    Where what answered is no such service, nobody has looked for the task of the earlier one.
    """
    error = answer.error
    if not isinstance(error, ProtocolError) or error.task_id is not None:
        return answer
    return Answer(outcome=AttemptOutcome.UNKNOWN, spent=answer.spent, error=in_doubt(error))


def in_doubt(error: CrynuxError) -> SubmissionUnknownError:
    """Return what is told of a create whose outcome is not known, and could not be found out by sending it again."""
    if isinstance(error, SubmissionUnknownError):
        return error
    return SubmissionUnknownError(f"an answer was lost, and so the task may exist; asked again: {error}")


def spent_by(error: CrynuxError) -> Outcome:
    """Return whether a request that was refused counts against the rate limit all the same."""
    is_counted = isinstance(error, RejectedError) and error.is_counted
    return Outcome.CHARGED if is_counted else Outcome.RELEASED


def finished(attempt: AttemptRow, answer: Answer, at: datetime, *, keeps_payload: bool) -> AttemptRow:
    """Return an attempt with what became of it.

    Args:
        attempt: The attempt.
        answer: Its answer.
        at: When it came.
        keeps_payload: Whether the service needs the payload of a task later on. Where it does not, nothing can come of
            a payload whose outcome is known, and a hundred thousand of them are 80 MB.
    """
    return evolved(
        attempt,
        payload=attempt.payload if keeps_payload or answer.outcome is AttemptOutcome.UNKNOWN else "",
        answered_at=at,
        outcome=answer.outcome,
        task_id=answer.task_id,
        wait=answer.wait,
        status=getattr(answer.error, "status", None),
        answer=getattr(answer.error, "answer", "") if answer.outcome is AttemptOutcome.UNKNOWN else "",
    )


def signal_of(answer: Answer, *, is_repeatable: bool) -> Signal | None:
    """Return what a job learns from an answer, or None where it waits to be sent as before.

    Args:
        answer: The answer.
        is_repeatable: Whether the same create may be sent again after an unknown outcome.
    """
    if answer.outcome is AttemptOutcome.ACCEPTED:
        return Signal.ACCEPTED
    if answer.outcome is AttemptOutcome.UNKNOWN:
        # A bridge would make, and bill, a second task (case S4).
        return None if is_repeatable else Signal.LOST_SIGHT
    if answer.outcome is AttemptOutcome.REJECTED and not answer.concerns_all:
        return Signal.TURNED_DOWN
    return None


def columns_after(state: JobState, signal: Signal | None, answer: Answer, at: datetime) -> Mapping[str, Any]:
    """Return how an answer changes the row of a job.

    A user may have given the job up while the create was under way: then it stays given up, and its task is stored all
    the same, because it is paid for.
    """
    if signal is None:
        # The row stays PLANNED: a wrong key once rejected every queued job, durably.
        return columns_of_error(answer.error) if answer.concerns_all else {}
    following = advance(state, signal) if may(state, signal) else state
    if signal is Signal.ACCEPTED:
        return {"state": following, "task_id": answer.task_id, "submitted_at": at, **columns_of_error(None)}
    return {"state": following, "ended_at": at, **columns_of_error(answer.error)}


def _cut_off(error: BaseException) -> SubmissionUnknownError:
    said = "the session was closed" if isinstance(error, asyncio.CancelledError) else repr(error)
    return SubmissionUnknownError(
        f"the create was under way when {said}; the task may exist and is not sent again by itself"
    )
