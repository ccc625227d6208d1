"""Traces and metrics of sessions, through the API of OpenTelemetry: where no SDK is set up, it costs next to nothing.

::

    async with Session(observer=Telemetry()) as session: ...

It needs the extra ``otel``. A job may take days and be followed by several processes, and a span is only exported by
the process that began it, at its end. So nothing hangs on the job's own span:

- ``crynux.submit`` (producer), a moment long, in the trace of whoever asks for the job. Its context is stored with the
  job as the tag ``traceparent``, so that any process can go on with the trace.
- ``crynux.create`` and ``crynux.download`` (client), one for each request, below it. What the HTTP client tells of
  itself lies below them.
- ``crynux.job`` (consumer), from submit to archive, below it as well, with links to the creates and downloads that this
  process made. A process that ends before the job exports its part, with the state in which it left it.

Names and units follow https://opentelemetry.io/docs/specs/semconv/general/metrics/ and its models for messages and for
pools of database connections.
"""

import asyncio
import concurrent.futures
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar

import attrs
from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from crynux_async.errors import CrynuxError, UsageError
from crynux_async.events import (
    ArchiveReady,
    DownloadFailed,
    DownloadProgressed,
    Event,
    JobProgressed,
    JobQueued,
    JobStateChanged,
    JobSubmitted,
)
from crynux_async.job import Job
from crynux_async.ledgers.base import AttemptOutcome
from crynux_async.money import to_cnx
from crynux_async.session import Session
from crynux_async.session_values import SessionStatistics
from crynux_async.states import GOOD, STAGES, JobState, Stage
from crynux_async.supervision.observer import (
    CreateAnswered,
    CreateBegan,
    TaskEnded,
    TransferBegan,
    TransferEnded,
    TransferOpened,
)
from crynux_async.training.config import FineTuneConfig
from crynux_async.version import __version__

_NAME = "crynux_async"
_STATE, _OUTCOME, _ERROR = "crynux.job.state", "crynux.create.outcome", "error.type"
_LONG = (60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 24 * 3600, 72 * 3600)
_REMEMBERED = 10_000  # jobs whose span has ended with a model that nobody has asked for
_PATIENCE = 2.0  # seconds that a thread which collects metrics waits for the event loop

T = TypeVar("T")


class Telemetry:
    """Watches any number of sessions: ``Session(observer=Telemetry())``.

    Args:
        tracer_provider: Where spans go; None for the global one.
        meter_provider: Where metrics go; None for the global one.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        self._listeners: weakref.WeakSet[_Listener] = weakref.WeakSet()
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._instruments = _Instruments(meter)
        for name, unit, told, read in _LEVELS:
            meter.create_observable_up_down_counter(name, [self._observing(read)], unit, told)
        for name, unit, told, read in _TOTALS:
            meter.create_observable_counter(name, [self._observing(read)], unit, told)
        for name, unit, told, read in _GAUGES:
            meter.create_observable_gauge(name, [self._observing(read)], unit, told)

    def watch(self, session: Session) -> "_Listener":
        """Return who listens to a session."""
        listener = _Listener(session, self._tracer, self._instruments)
        self._listeners.add(listener)
        return listener

    def _observing(self, read: "_Read") -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            for listener in list(self._listeners):
                found = listener.statistics()
                if found is not None:
                    yield from (Observation(number, {**listener.service, **more}) for number, more in read(found))

        return observe


_Read = Callable[[SessionStatistics], Iterable[tuple[int | float, Mapping[str, str]]]]


def _jobs_by_state(found: SessionStatistics) -> Iterable[tuple[int, Mapping[str, str]]]:
    # Every state, and those that have no job with 0: what is left out keeps its last value on most dashboards.
    return [(found.jobs.get(state, 0), {_STATE: state.value}) for state in JobState if STAGES[state] is not Stage.OVER]


_LEVELS: tuple[tuple[str, str, str, _Read], ...] = (
    ("crynux.job.count", "{job}", "Jobs that this process holds, by state.", _jobs_by_state),
    ("crynux.job.queued", "{job}", "Jobs that wait to be sent.", lambda found: [(found.queued, {})]),
    ("crynux.create.active", "{create}", "Creates under way.", lambda found: [(found.creating, {})]),
    (
        "crynux.download.active",
        "{download}",
        "Downloads that run or wait for a slot.",
        lambda found: [(found.downloading, {})],
    ),
)
_TOTALS: tuple[tuple[str, str, str, _Read], ...] = (
    ("crynux.poll.requests", "{request}", "Requests for a task's status.", lambda found: [(found.polls, {})]),
    ("crynux.poll.errors", "{request}", "Those without an answer.", lambda found: [(found.poll_errors, {})]),
)
_GAUGES: tuple[tuple[str, str, str, _Read], ...] = (
    (
        "crynux.poll.delay",
        "s",
        "How late ends are noticed on average, as polls are planned now.",
        lambda found: [(found.poll_delay, {})],
    ),
)


class _Instruments:
    """What is counted as it happens.

    Args:
        meter: Makes the instruments.
    """

    def __init__(self, meter: metrics.Meter) -> None:
        self.duration = meter.create_histogram(
            "crynux.job.duration",
            "s",
            "From submit to archive, or to an end without one.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self.create = meter.create_histogram("crynux.create.duration", "s", "Duration of creates.")
        self.wait = meter.create_histogram(
            "crynux.create.wait_time",
            "s",
            "Time in the queue, until the rate limit let the create pass.",
            explicit_bucket_boundaries_advisory=_LONG,
        )
        self.refusals = meter.create_counter("crynux.create.refusals", "{create}", "Creates that the limit refused.")
        self.download = meter.create_histogram("crynux.download.duration", "s", "Duration of requests for results.")
        self.bytes = meter.create_counter("crynux.download.io", "By", "Bytes of archives that came.")
        self.cost = meter.create_counter("crynux.job.cost", "{CNX}", "What ended tasks have cost, as far as is known.")


@attrs.define(eq=False, kw_only=True)
class _Followed:
    """What is known of one job.

    Attributes:
        span: From submit to archive; one that records nothing once that has ended.
        origin: The context of whoever asked for the job.
        began_at: When the span began.
        waits_since: Since when the job waits for its create.
        state: The state that was told last.
        trouble: What went wrong last, or "".
        create: The create under way, and when it began.
        transfer: The request for its result, and when it began.
        token: Puts the context of the task back that makes a request.
        received: Bytes of the result that are here and counted, or None before the first request.
    """

    span: Span
    origin: Context
    began_at: datetime
    waits_since: datetime
    state: JobState
    trouble: str = ""
    create: tuple[Span, datetime] | None = None
    transfer: tuple[Span, datetime] | None = None
    token: Any = None
    received: int | None = None


class _Listener:
    """Makes spans and counts for one session.

    Args:
        session: The session.
        tracer: Makes the spans.
        instruments: What is counted.
    """

    def __init__(self, session: Session, tracer: trace.Tracer, instruments: _Instruments) -> None:
        self._session = session
        self.service: Mapping[str, str] = {}
        self._tracer = tracer
        self._instruments = instruments
        self._open: dict[str, _Followed] = {}
        self._with_model: OrderedDict[str, _Followed] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tellers: Mapping[type[Event], Callable[[Any, _Followed], None]] = {
            JobQueued: self._queued,
            JobSubmitted: self._submitted,
            JobStateChanged: self._moved,
            JobProgressed: self._progressed,
            CreateBegan: self._create_began,
            CreateAnswered: self._create_answered,
            TaskEnded: self._task_ended,
            TransferBegan: self._transfer_began,
            TransferOpened: self._transfer_opened,
            TransferEnded: self._transfer_ended,
            DownloadProgressed: self._received,
            ArchiveReady: self._archive_ready,
            DownloadFailed: self._download_failed,
        }

    def opened(self) -> None:
        """Remember the event loop, on which alone a session may be asked, and what the service is called."""
        self._loop = asyncio.get_running_loop()
        self.service = {"crynux.service.name": self._session.service}

    def planned(self, job_id: str, config: FineTuneConfig) -> Mapping[str, str]:
        """Return the trace of whoever asks for a job, to be stored with it."""
        facts = {"crynux.job.id": job_id, "crynux.model.name": config.model_name}
        carrier: dict[str, str] = {}
        with self._tracer.start_as_current_span("crynux.submit", kind=SpanKind.PRODUCER, attributes=facts):
            propagate.inject(carrier)
        return carrier

    def happened(self, event: Event) -> None:
        """Enter what happened into the span of its job, and count it."""
        tell = self._tellers.get(type(event))
        if tell is not None:
            followed = self._open.get(event.job_id) or self._with_model.get(event.job_id) or self._begin(event)
            tell(event, followed)

    def closed(self) -> None:
        """End the spans of jobs that go on without this process."""
        self._loop = None
        for followed in self._open.values():
            followed.span.set_attribute(_STATE, followed.state.value)
            followed.span.end()
        self._open.clear()

    def statistics(self) -> SessionStatistics | None:
        """Return what the session does, from whichever thread; None where it is not open or too busy to say."""
        loop = self._loop
        if loop is None:
            return None
        if asyncio._get_running_loop() is loop:
            return self._session.statistics()
        answer: concurrent.futures.Future[SessionStatistics] = concurrent.futures.Future()
        try:
            loop.call_soon_threadsafe(_answer, answer, self._session.statistics)
            return answer.result(_PATIENCE)
        except (CrynuxError, RuntimeError, TimeoutError):  # it ends just now, or something holds the loop up
            return None

    def _begin(self, event: Event) -> _Followed:
        """Begin the span of a job: where it was planned, or as soon as this process hears of it."""
        job = self._job(event.job_id)
        is_another_try = isinstance(event, JobStateChanged) and event.state is JobState.PLANNED
        began_at = event.at if job is None or is_another_try else job.planned_at
        # Not the context of this task, which may be anybody's.
        origin = propagate.extract({} if job is None else job.tags, Context())
        span = self._tracer.start_span(
            "crynux.job", origin, SpanKind.CONSUMER, self._facts(event.job_id, job), start_time=_nanoseconds(began_at)
        )
        state = JobState.PLANNED if job is None else job.state
        followed = _Followed(span=span, origin=origin, began_at=began_at, waits_since=began_at, state=state)
        self._open[event.job_id] = followed
        return followed

    def _job(self, job_id: str) -> Job | None:
        try:
            return self._session.job(job_id)
        except UsageError:  # the session ends, and what was under way is still told of
            return None

    def _facts(self, job_id: str, job: Job | None) -> dict[str, str | int]:
        facts: dict[str, str | int] = {"crynux.job.id": job_id}
        if job is not None:
            facts |= {**self.service, "crynux.job.try": job.tries, "crynux.job.label": job.label}
            facts |= {"crynux.job.group": job.group}
        if job is not None and job.config is not None:
            facts |= {"crynux.model.name": job.config.model_name, "crynux.job.digest": job.config.digest()}
        return {name: fact for name, fact in facts.items() if fact != ""}

    def _queued(self, event: JobQueued, followed: _Followed) -> None:
        followed.waits_since = event.at
        _note(followed, event, "queued", {"crynux.job.position": event.position})

    def _submitted(self, event: JobSubmitted, followed: _Followed) -> None:
        followed.span.set_attribute("crynux.task.id", event.task_id or "")
        _note(followed, event, "submitted", {})

    def _progressed(self, event: JobProgressed, followed: _Followed) -> None:
        _note(followed, event, event.stage, {})

    def _moved(self, event: JobStateChanged, followed: _Followed) -> None:
        followed.state = event.state
        _note(followed, event, event.state.value, {})
        stage = STAGES[event.state]
        if stage is Stage.OVER:
            self._end(event, followed)
            self._with_model.pop(event.job_id, None)
        elif stage is Stage.FETCH and not self._is_wanted(event.job_id):
            self._end(event, followed)
            # Somebody may ask for its archive later on: that is a download, and no second end of the job.
            self._with_model[event.job_id] = followed
            if len(self._with_model) > _REMEMBERED:
                self._with_model.popitem(last=False)

    def _is_wanted(self, job_id: str) -> bool:
        job = self._job(job_id)
        return job is not None and job.folder is not None

    def _end(self, event: JobStateChanged, followed: _Followed) -> None:
        if self._open.pop(event.job_id, None) is None:
            return
        ended: dict[str, str] = {_STATE: event.state.value}
        if event.state not in GOOD and event.state is not JobState.ABANDONED:
            ended[_ERROR] = event.state.value
            followed.span.set_status(Status(StatusCode.ERROR, followed.trouble or event.state.value))
        followed.span.set_attributes(ended)
        followed.span.end(_nanoseconds(event.at))
        followed.span = trace.INVALID_SPAN
        seconds = (event.at - followed.began_at).total_seconds()
        self._instruments.duration.record(seconds, {**ended, **self.service})

    def _create_began(self, event: CreateBegan, followed: _Followed) -> None:
        waited = (event.at - followed.waits_since).total_seconds()
        self._instruments.wait.record(max(0.0, waited), self.service)
        facts: dict[str, str | int] = {
            "crynux.job.id": event.job_id,
            "crynux.job.try": event.try_number,
            "crynux.create.number": event.attempt,
        }
        followed.create = self._request("crynux.create", event, followed, facts)

    def _create_answered(self, event: CreateAnswered, followed: _Followed) -> None:
        followed.waits_since = event.at
        followed.trouble = str(event.error or "")
        outcome = {_OUTCOME: event.outcome.value}
        seconds, error = self._answered(event, followed, followed.create, event.error, outcome)
        followed.create = None
        self._instruments.create.record(seconds, {**outcome, **error, **self.service})
        if event.outcome is AttemptOutcome.LIMITED:
            self._instruments.refusals.add(1, self.service)

    def _task_ended(self, event: TaskEnded, followed: _Followed) -> None:
        followed.trouble = event.reason
        if event.spent is not None:
            cost = float(to_cnx(event.spent))
            followed.span.set_attribute("crynux.job.cost", cost)
            self._instruments.cost.add(cost, self.service)

    def _transfer_began(self, event: TransferBegan, followed: _Followed) -> None:
        facts = {"crynux.job.id": event.job_id, "crynux.task.id": event.task_id or ""}
        followed.transfer = self._request("crynux.download", event, followed, facts)

    def _transfer_opened(self, event: TransferOpened, followed: _Followed) -> None:
        _leave(followed)
        if followed.received is None or event.start < followed.received:
            followed.received = event.start  # what an earlier process fetched, or all of it anew
        self._count_up_to(event.start, followed)  # what came last before a cut, and was told by no event

    def _transfer_ended(self, event: TransferEnded, followed: _Followed) -> None:
        seconds, error = self._answered(event, followed, followed.transfer, event.error, {})
        followed.transfer = None
        self._instruments.download.record(seconds, {**error, **self.service})

    def _received(self, event: DownloadProgressed, followed: _Followed) -> None:
        self._count_up_to(event.received_bytes, followed)

    def _count_up_to(self, received_bytes: int, followed: _Followed) -> None:
        before = followed.received
        if before is not None and received_bytes > before:
            followed.received = received_bytes
            self._instruments.bytes.add(received_bytes - before, self.service)

    def _archive_ready(self, event: ArchiveReady, followed: _Followed) -> None:
        followed.span.set_attribute("crynux.archive.size", event.total_bytes)

    def _download_failed(self, event: DownloadFailed, followed: _Followed) -> None:
        _note(followed, event, "download failed", {"exception.message": event.message})

    def _request(
        self, name: str, event: Event, followed: _Followed, facts: Mapping[str, str | int]
    ) -> tuple[Span, datetime]:
        """Begin the span of a request, below which the HTTP client's own then is."""
        span = self._tracer.start_span(
            name, followed.origin, SpanKind.CLIENT, {**facts, **self.service}, start_time=_nanoseconds(event.at)
        )
        followed.span.add_link(span.get_span_context(), {"crynux.link": name})
        followed.token = context.attach(trace.set_span_in_context(span, followed.origin))
        return span, event.at

    def _answered(
        self,
        event: Event,
        followed: _Followed,
        request: tuple[Span, datetime] | None,
        error: BaseException | None,
        facts: Mapping[str, str],
    ) -> tuple[float, dict[str, str]]:
        """End the span of a request; return the seconds that it took, and what kind of error it ended with."""
        _leave(followed)
        assert request is not None, "what is answered has begun"
        span, began_at = request
        kind = {} if error is None else {_ERROR: type(error).__qualname__}
        span.set_attributes({**facts, **kind})
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end(_nanoseconds(event.at))
        return (event.at - began_at).total_seconds(), kind


def _leave(followed: _Followed) -> None:
    """Put the context of the task back, once."""
    token, followed.token = followed.token, None
    if token is not None:
        context.detach(token)


def _note(followed: _Followed, event: Event, name: str, facts: Mapping[str, str | int]) -> None:
    followed.span.add_event(name, facts, _nanoseconds(event.at))


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000


def _answer(answer: "concurrent.futures.Future[T]", read: Callable[[], T]) -> None:
    try:
        answer.set_result(read())
    except Exception as error:
        answer.set_exception(error)
