"""What a bridge remembers of a task's course, read from its traces, and said in a sentence. Pure.

Only the owner of a bridge can have it: everybody else is told "failed" and nothing more. The node is not in a trace.

Source: crynux-bridge tasktrace/store.go (the form), tasks/process_tasks.go (events and their details), models
(TaskAbortReason, TaskError).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs

from crynux_async.backends.bridge.wire import parse_time, raise_for
from crynux_async.backends.http.answer import Answer
from crynux_async.errors import ProtocolError
from crynux_async.values import Value

_NO_ANSWER = (
    "the node gave no result until its time was up: a data set that it cannot load, a wrong column, too little memory, "
    "an archive too large to upload, or a timeout that is too short"
)
_IN_THE_QUEUE = "no node took it before its time was up: none with enough memory was free or had the base model"
_ABORTED = {
    2: "the node could not download the base model",
    3: "three nodes that checked each other did not agree",
    4: "the fee was too low",
    5: "fewer than two of three nodes that checked each other finished",
    6: "the node reported an error",
    7: "the bridge cancelled it",
    8: "the bridge did not validate it in time",
    9: "the node did not upload its result in time",
    10: "the node was expelled from the network",
}
_BAD_ARGUMENTS = "the node did not accept the arguments"
_RESULT = ("result_downloaded", "end_success")


@attrs.frozen(kw_only=True)
class TracedTry(Value):
    """One task of the relay that the bridge made for a job: a round, or a try of one.

    Attributes:
        commitment: The relay's name of it, or "" before it was sent there.
        status: The bridge's word, such as "end_aborted".
        role: "primary", "retry" for every later one, "validation" for one that checks another.
        created_at: When the bridge made it, aware UTC, or None.
        started_at: When a node took it, or None.
        ended_at: When the last thing happened to it, or None.
        abort_reason: The relay's number, 0 for none.
        task_error: The relay's number, 0 for none.
        refusal: What the relay said where it refused it, or "".
    """

    commitment: str
    status: str
    role: str
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    abort_reason: int = 0
    task_error: int = 0
    refusal: str = ""

    @property
    def has_result(self) -> bool:
        """Whether it ended with a checkpoint."""
        return self.status in _RESULT

    @property
    def cause(self) -> str:
        """Why it ended without a result, for people, or "" where it did not, or nothing is known."""
        if self.refusal:
            return f"the relay refused it ({self.refusal})"
        if self.task_error:
            return _BAD_ARGUMENTS
        # The relay has one number for a queue that was too long and a node that fell silent; the start tells them
        # apart.
        if self.abort_reason == 1:
            return _NO_ANSWER if self.started_at else _IN_THE_QUEUE
        return _ABORTED.get(self.abort_reason, "")

    @property
    def seconds(self) -> float | None:
        """How long it took, or None where that is not known."""
        if self.created_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.created_at).total_seconds()


@attrs.frozen(kw_only=True)
class Course(Value):
    """The course of one job.

    Attributes:
        task_id: The bridge's number of the job, as text.
        tries: Every task that was made for it, in order.
    """

    task_id: str
    tries: tuple[TracedTry, ...]

    @property
    def reason(self) -> str:
        """Why it has no result, for people, or "" where the trace does not tell."""
        failed = [one for one in self.tries if one.cause and not one.has_result]
        if not failed:
            return ""
        causes = Counter(one.cause for one in failed)
        # A single cause is that of all tries, whose number is said before it.
        said = "; ".join(f"{_times(count) if len(causes) > 1 else ''}{cause}" for cause, count in causes.items())
        done = sum(one.has_result for one in self.tries)
        before = f" after {done} round{'s' if done != 1 else ''} with a result" if done else ""
        tries = f"{len(failed)} {'tries' if len(failed) != 1 else 'try'} failed{before}"
        return f"{tries}{_durations(failed)}: {said} [{_numbers(failed[-1])}]{_times_of_day(self.tries)}"


def read_courses(answer: Answer) -> dict[str, Course]:
    """Return the courses of all jobs in a list of traces, by task id.

    Raises:
        AuthError: The token is not accepted.
        ServerError, ProtocolError: No traces.
    """
    if answer.status != 200:
        raise_for(answer)
    try:
        traces: list[Any] = list(answer.json["data"])
    except (KeyError, TypeError) as error:
        raise _no_traces(answer) from error
    read = [trace for trace in traces if isinstance(trace, Mapping)]
    if traces and not read:
        raise _no_traces(answer)
    courses = (_course_if_readable(trace) for trace in read)
    return {course.task_id: course for course in courses if course is not None}


def _no_traces(answer: Answer) -> ProtocolError:
    return ProtocolError("no bridge answers traces like this; is base_url right?", status=200, url=answer.url)


def _course_if_readable(trace: Mapping[str, Any]) -> Course | None:
    # One trace of another form must not keep the reasons of all other jobs from being known.
    try:
        return _course(trace)
    except (TypeError, AttributeError, ValueError):
        return None


def _course(trace: Mapping[str, Any]) -> Course | None:
    if trace.get("source") != "image_finetune":
        return None
    tasks: Sequence[Mapping[str, Any]] = trace.get("parallel_tasks") or ()
    numbers = {task.get("client_task_id") for task in tasks}
    # Where the create was answered with an error, only the tasks have the job's id.
    number = (((trace.get("response") or {}).get("data") or {}).get("id")) or next(iter(numbers), None)
    return None if not number else Course(task_id=str(number), tries=tuple(_try(task) for task in tasks))


def _try(task: Mapping[str, Any]) -> TracedTry:
    events: Sequence[Mapping[str, Any]] = task.get("events") or ()
    details = dict(_details(events))
    named = {str(event.get("name")): parse_time(event.get("timestamp")) for event in events}
    return TracedTry(
        commitment=str(task.get("task_id_commitment") or ""),
        status=str(task.get("status") or ""),
        role=str(task.get("role") or ""),
        created_at=parse_time(task.get("created_at")),
        started_at=named.get("task_started"),
        ended_at=parse_time(events[-1].get("timestamp")) if events else None,
        abort_reason=_number(details.get("abort_reason")),
        task_error=_number(details.get("task_error")),
        refusal=" ".join(str(details.get("error") or "").split())[:200],
    )


def _details(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield what events say of a task, the last word last; a nought never takes back what was said before."""
    for event in events:
        for name, value in (event.get("details") or {}).items():
            if value or name == "chain_status":
                yield name, value


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _times(count: int) -> str:
    return "" if count == 1 else f"{count} times "


def _durations(failed: Sequence[TracedTry]) -> str:
    seconds = sorted(one.seconds for one in failed if one.seconds is not None)
    if not seconds:
        return ""
    low, high = round(seconds[0]), round(seconds[-1])
    return f" after {low} s" if low == high else f" after {low} to {high} s"


def _times_of_day(tries: Sequence[TracedTry]) -> str:
    """Return when each try ran, in order: what the operator of a node or a relay is asked about."""
    said = [_span(one.created_at, one.ended_at, one.has_result) for one in tries if one.created_at and one.ended_at]
    return f" (UTC: {', '.join(said)})" if said else ""


def _span(began: datetime, ended: datetime, has_result: bool) -> str:
    end = f"{ended:%H:%M:%S}" if began.date() == ended.date() else f"{ended:%Y-%m-%d %H:%M:%S}"
    return f"{began:%Y-%m-%d %H:%M:%S} to {end}{' with a result' if has_result else ''}"


def _numbers(one: TracedTry) -> str:
    """Return the relay's own numbers of a failure, for whoever looks them up."""
    return f"abort reason {one.abort_reason}, task error {one.task_error}" if not one.refusal else one.status
