"""Spans and metrics of sessions, as the real SDK of OpenTelemetry exports them. On virtual time."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from crynux_async import FineTuneConfig, JobFailedError, Session
from crynux_async.errors import RateLimitedError
from crynux_async.integrations.opentelemetry import Telemetry
from crynux_async.testing import running_emulator
from tests.fake_backend import FakeBackend, make_config

FAILING = {"model_name": "x/fail"}


@attrs.define(eq=False)
class Exported:
    """Where telemetry goes in a test, and what has come."""

    exporter: InMemorySpanExporter = attrs.field(factory=InMemorySpanExporter)
    reader: InMemoryMetricReader = attrs.field(factory=InMemoryMetricReader)
    traces: TracerProvider = attrs.field(factory=lambda: TracerProvider(shutdown_on_exit=False))
    telemetry: Telemetry = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.traces.add_span_processor(SimpleSpanProcessor(self.exporter))
        meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.telemetry = Telemetry(self.traces, meters)

    def spans(self, name: str) -> Sequence[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str) -> ReadableSpan:
        (found,) = self.spans(name)
        return found

    def points(self, name: str) -> dict[str, Any]:
        """Return the data points of a metric by their state, outcome or ""."""
        data = self.reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics
        points = {}
        for point in (point for metric in found if metric.name == name for point in metric.data.data_points):
            facts: Any = point.attributes
            assert facts["crynux.service.name"]
            points[facts.get("crynux.job.state", facts.get("crynux.create.outcome", ""))] = point
        return points

    def units(self) -> dict[str, str | None]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return {metric.name: metric.unit for metric in data.resource_metrics[0].scope_metrics[0].metrics}


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def identity(*spans: ReadableSpan) -> set[int]:
    return {span.context.span_id for span in spans if span.context is not None}


def parents(*spans: ReadableSpan) -> set[int]:
    return {span.parent.span_id for span in spans if span.parent is not None}


def test_it_is_imported_only_by_whoever_asks_for_it() -> None:
    seen = "import sys, crynux_async.session, crynux_async.cli.app; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", seen], check=False).returncode == 0


async def test_job_is_one_trace_from_submit_to_archive_with_links_to_its_requests(tmp_path: Path) -> None:
    seen = Exported()
    async with running_emulator() as bridge:
        options: Any = bridge.settings()
        with seen.traces.get_tracer("app").start_as_current_span("POST /jobs") as asked:
            async with Session(observer=seen.telemetry, **options) as session:
                job = await session.submit(make_config(), label="first", group="g")
                path = await job.download(tmp_path)
    request, submit = seen.span("POST /jobs"), seen.span("crynux.submit")
    create, download, whole = seen.span("crynux.create"), seen.span("crynux.download"), seen.span("crynux.job")
    assert submit.parent == asked.get_span_context()
    traces = {span.context.trace_id for span in (request, submit, create, download, whole) if span.context}
    assert len(traces) == 1
    assert parents(create, download, whole) == identity(submit)
    assert linked(whole) == identity(create, download)
    assert (submit.kind, create.kind, whole.kind) == (SpanKind.PRODUCER, SpanKind.CLIENT, SpanKind.CONSUMER)
    facts: Any = whole.attributes
    assert facts["crynux.job.id"] == job.job_id
    assert facts["crynux.task.id"] == job.task_id
    assert facts["crynux.job.state"] == "downloaded"
    assert (facts["crynux.job.label"], facts["crynux.job.group"]) == ("first", "g")
    assert facts["crynux.archive.size"] == path.stat().st_size
    assert whole.status.status_code is StatusCode.UNSET
    assert job.ended_at is not None
    # The archive comes after the end of the task, and the span lasts until then.
    assert seconds(whole) >= (job.ended_at - job.planned_at).total_seconds() - 0.001
    assert [event.name for event in whole.events][:3] == ["queued", "submitted", "running"]


async def test_job_is_counted_by_its_end_with_waits_bytes_and_polls(tmp_path: Path) -> None:
    seen, backend = Exported(), FakeBackend(duration=600)
    async with Session(observer=seen.telemetry, backend=backend, api_key="k" * 44, rate_limit=1, price=15) as session:
        jobs = [session.submit_nowait(make_config(seed=seed)) for seed in (1, 2)]
        await jobs[0].submitted()
        during = {name: seen.points(f"crynux.job.{name}") for name in ("count", "queued")}
        paths = await asyncio.gather(*(job.download(tmp_path) for job in jobs))
        polls, delay = seen.points("crynux.poll.requests")[""], seen.points("crynux.poll.delay")[""]
        after = seen.points("crynux.job.count")
        assert polls.value == session.statistics().polls == backend.polls > 0
    assert {state: point.value for state, point in during["count"].items() if point.value} == {
        "planned": 1,
        "running": 1,
    }
    assert during["queued"][""].value == 1
    assert {point.value for point in after.values()} == {0}
    assert delay.value > 0
    ended = seen.points("crynux.job.duration")["downloaded"]
    assert (ended.count, ended.min > 600) == (2, True)
    # One create a minute: the second job waits that long at the gate, and the first one does not.
    wait = seen.points("crynux.create.wait_time")[""]
    assert (wait.count, wait.min < 1, 59 < wait.max < 62) == (2, True, True)
    assert seen.points("crynux.download.io")[""].value == sum(path.stat().st_size for path in paths)
    assert seen.points("crynux.job.cost")[""].value == 30
    assert seen.units() == {
        "crynux.create.duration": "s",
        "crynux.create.wait_time": "s",
        "crynux.download.duration": "s",
        "crynux.download.io": "By",
        "crynux.job.cost": "{CNX}",
        "crynux.job.duration": "s",
    }


async def test_job_that_fails_and_its_retry_are_two_spans_of_one_trace() -> None:
    seen, backend = Exported(), FakeBackend()
    async with Session(observer=seen.telemetry, backend=backend, api_key="k" * 44, rate_limit=60) as session:
        job = await session.submit(make_config(**FAILING))
        with pytest.raises(JobFailedError):
            await job.wait()
        backend.duration = lambda config: 0 if len(backend.created) < 2 else 10_000.0
        await job.retry()
        await job.submitted()
    failed, retried = seen.spans("crynux.job")
    first, second = seen.spans("crynux.create")
    assert (failed.status.status_code, retried.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    facts: Any = [failed.attributes, retried.attributes]
    assert [each["crynux.job.try"] for each in facts] == [1, 2]
    # The session ended before the second try did: what it has seen of it is exported all the same.
    assert [each["crynux.job.state"] for each in facts] == ["failed", "running"]
    assert facts[0]["error.type"] == "failed"
    assert parents(failed, retried) == identity(seen.span("crynux.submit"))
    assert (linked(failed), linked(retried)) == (identity(first), identity(second))
    points = seen.points("crynux.job.duration")
    assert {state: point.count for state, point in points.items()} == {"failed": 1}


async def test_refused_create_is_a_span_of_its_own_and_counted() -> None:
    seen, backend = Exported(), FakeBackend()
    backend.answers.append(RateLimitedError("too many requests", wait=30.0))
    async with Session(observer=seen.telemetry, backend=backend, api_key="k" * 44) as session:
        job = await session.submit(make_config())
        await job.wait()
    refused, accepted = seen.spans("crynux.create")
    facts: Any = [refused.attributes, accepted.attributes]
    assert [each["crynux.create.outcome"] for each in facts] == ["refused", "accepted"]
    assert (facts[0]["error.type"], facts[1].get("error.type")) == ("RateLimitedError", None)
    assert refused.status.status_code is StatusCode.ERROR
    assert linked(seen.span("crynux.job")) == identity(refused, accepted)
    assert seen.points("crynux.create.refusals")[""].value == 1
    assert seen.points("crynux.create.wait_time")[""].max >= 30


async def test_job_that_another_process_goes_on_with_stays_in_the_trace_of_whoever_asked(tmp_path: Path) -> None:
    first, second = Exported(), Exported()
    backend = FakeBackend(duration=3600)
    place: dict[str, Any] = {"backend": backend, "api_key": "k" * 44, "rate_limit": 60, "ledger": tmp_path / "jobs.db"}
    async with Session(observer=first.telemetry, **place) as session:
        job = await session.submit(make_config(), folder=tmp_path)
        planned_at = job.planned_at
    async with Session(observer=second.telemetry, **place) as session:
        (again,) = session.jobs()
        await again.download(tmp_path)
    left, whole = first.span("crynux.job"), second.span("crynux.job")
    assert left.context is not None
    assert whole.context is not None
    assert whole.context.trace_id == left.context.trace_id
    assert parents(whole, left) == identity(first.span("crynux.submit"))
    facts: Any = [left.attributes, whole.attributes]
    assert [each["crynux.job.state"] for each in facts] == ["running", "downloaded"]
    assert linked(left) == identity(first.span("crynux.create"))
    assert linked(whole) == identity(second.span("crynux.download"))
    # The whole of it, whoever began it.
    assert whole.start_time == int(planned_at.timestamp() * 1_000_000) * 1000
    assert second.spans("crynux.submit") == second.spans("crynux.create") == []


async def test_archive_that_is_asked_for_later_is_a_download_and_no_second_end(tmp_path: Path) -> None:
    seen = Exported()
    async with Session(observer=seen.telemetry, backend=FakeBackend(), api_key="k" * 44, rate_limit=60) as session:
        job = await session.submit(make_config())
        await job.wait()
        whole = seen.span("crynux.job")
        await job.download(tmp_path)
    assert seen.span("crynux.job") is whole
    download = seen.span("crynux.download")
    assert download.parent == whole.parent
    assert {state: point.count for state, point in seen.points("crynux.job.duration").items()} == {"succeeded": 1}


async def test_download_that_breaks_off_is_a_span_with_its_error_and_bytes_are_counted_once(tmp_path: Path) -> None:
    seen = Exported()
    async with running_emulator() as bridge:
        options: Any = bridge.settings()
        async with Session(observer=seen.telemetry, **options) as session:
            job = await session.submit(make_config())
            await job.wait()
            bridge.add_fault("cut", on="result", bytes=1000)
            path = await job.download(tmp_path)
    broken, rest = seen.spans("crynux.download")
    facts: Any = broken.attributes
    assert (broken.status.status_code, rest.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert facts["error.type"] == "TransportError"
    assert seen.points("crynux.download.io")[""].value == path.stat().st_size


class Broken(Telemetry):
    """Telemetry that cannot cope with anything."""

    def watch(self, session: Session) -> Any:
        def fail(*_: object) -> None:
            raise ArithmeticError

        return SimpleNamespace(opened=fail, planned=fail, happened=fail, closed=fail)


async def test_telemetry_that_is_broken_disturbs_no_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Session(observer=Broken(), backend=FakeBackend(), api_key="k" * 44, rate_limit=60) as session:
        assert (await session.run(FineTuneConfig.from_dict(make_config().to_dict()), tmp_path)).is_file()
    assert "ArithmeticError" in caplog.text


async def test_one_telemetry_counts_the_jobs_of_several_sessions_and_of_none_that_is_closed() -> None:
    seen = Exported()
    async with Session(observer=seen.telemetry, backend=FakeBackend(), api_key="k" * 44, rate_limit=60) as one:
        await one.submit(make_config())
        other = FakeBackend()
        other.name = "other"
        async with Session(observer=seen.telemetry, backend=other, api_key="k" * 44, rate_limit=60) as two:
            await asyncio.gather(*(two.submit(make_config(seed=seed)) for seed in (1, 2)))
            data = seen.reader.get_metrics_data()
        assert seen.points("crynux.job.count")["running"].value == 1
    assert data is not None
    (counts,) = [each for each in data.resource_metrics[0].scope_metrics[0].metrics if each.name == "crynux.job.count"]
    running = [point for point in counts.data.data_points if point.attributes["crynux.job.state"] == "running"]
    assert {point.attributes["crynux.service.name"]: point.value for point in running} == {"fake": 1, "other": 2}
    assert seen.points("crynux.job.count") == {}


@pytest.mark.real_time
async def test_metrics_are_collected_from_another_thread() -> None:
    seen = Exported()
    async with Session(observer=seen.telemetry, backend=FakeBackend(), api_key="k" * 44, rate_limit=60) as session:
        await session.submit(make_config())
        points = await asyncio.to_thread(seen.points, "crynux.job.count")
    assert points["running"].value == 1
