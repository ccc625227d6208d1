"""The board's values: what is counted, expected and told of jobs, from rows alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from crynux_async.clock import monotonic, utc_now
from crynux_async.ledgers.base import AttemptOutcome, AttemptRow, EventRow, JobRow
from crynux_async.report.board import BoardRows, Pace, board_of, span_of
from crynux_async.report.board_values import Selection
from crynux_async.report.job_page import curve_of, job_view
from crynux_async.report.job_words import event_line, line_of, sentence_of
from crynux_async.report.live import board_lead
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.service import BRIDGE_FACTS
from crynux_async.training.simulation import simulate

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
CONFIG = FineTuneConfig(
    model_name="crynux-ai/stable-diffusion-v1-5",
    dataset_url="https://example.com/pictures.zip?signature=secret",
    max_train_steps=200,
    lr_scheduler="linear",
    lr_warmup_steps=0,
    seed=42,
)


def row(number: int, state: JobState = JobState.PLANNED, **changes: Any) -> JobRow:
    plain: dict[str, Any] = {
        "job_id": f"j{number}",
        "backend": "bridge",
        "key_id": "key",
        "config": CONFIG,
        "label": f"job {number}",
        "state": state,
        "planned_at": NOW,
    }
    return JobRow(**{**plain, **changes})


def attempt(number: int, seconds_ago: float, outcome: AttemptOutcome, **changes: Any) -> AttemptRow:
    at = utc_now() - timedelta(seconds=seconds_ago)
    return AttemptRow(
        job_id=f"a{number}",
        number=1,
        backend="bridge",
        key_id="key",
        began_at=at,
        answered_at=at,
        outcome=outcome,
        **changes,
    )


async def test_queue_is_sent_as_fast_as_the_limit_and_earlier_creates_allow() -> None:
    # One a minute, and one was sent 20 s ago: the next may go 40 s from now, and each later one a minute after that.
    past = [attempt(1, 20, AttemptOutcome.ACCEPTED)]
    pace = Pace.of(past, now=NOW, seconds=monotonic(), limit=1, burst=1)
    rows = BoardRows(counts={JobState.PLANNED: 3}, planned=[row(1), row(2), row(3)], all_planned=3)
    board = board_of(rows, Selection(), now=NOW, pace=pace)
    waits = [(line.expected_at - NOW).total_seconds() for line in board.queue if line.expected_at is not None]
    assert waits == pytest.approx([40, 100, 160], abs=2)
    assert board.last_expected_at == board.queue[-1].expected_at
    assert board.clock is not None
    assert board.clock.next_at == board.queue[0].expected_at
    assert (board.clock.limit_per_minute, board.clock.refusals) == (1, 0)


async def test_refusal_is_waited_for_and_counted() -> None:
    past = [attempt(1, 30, AttemptOutcome.ACCEPTED), attempt(2, 0, AttemptOutcome.LIMITED, wait=30.0)]
    pace = Pace.of(past, now=NOW, seconds=monotonic(), limit=1, burst=1)
    assert pace.clock.refusals == 1
    assert pace.clock.next_at is not None
    # A refused create spends a place, too: the one after it can pass 30 + 60 seconds later.
    assert (pace.clock.next_at - NOW).total_seconds() == pytest.approx(90, abs=2)


async def test_places_in_the_queue_count_the_jobs_of_other_tenants_and_show_none_of_them() -> None:
    pace = Pace.of([], now=NOW, seconds=monotonic(), limit=1, burst=1)
    planned = [row(1, tenant="ann"), row(2, tenant="bob"), row(3, tenant="ann")]
    rows = BoardRows(counts={JobState.PLANNED: 1}, planned=planned, all_planned=3, tenant="bob")
    board = board_of(rows, Selection(), now=NOW, pace=pace)
    assert [line.title for line in board.queue] == ["job 2"]
    assert board.queued == 1
    assert board.queue[0].expected_at is not None
    assert (board.queue[0].expected_at - NOW).total_seconds() == pytest.approx(60, abs=2)


def test_jobs_that_wait_for_somebody_are_not_in_the_queue() -> None:
    planned = [row(1, is_stopped=True), row(2)]
    aside = row(3, error="the key is used up")
    rows = BoardRows(counts={JobState.PLANNED: 3}, planned=planned, all_planned=2, set_aside=1, troubled=[aside])
    board = board_of(rows, Selection(), now=NOW)
    assert [line.title for line in board.queue] == ["job 2"]
    assert board.queued == 1
    [trouble] = board.trouble
    assert trouble.sentence.startswith("1 job set aside before being sent")
    assert "used up" not in trouble.sentence


def test_lead_says_how_many_do_what() -> None:
    counts = {JobState.RUNNING: 2, JobState.STALLED: 1, JobState.SUCCEEDED: 1, JobState.DOWNLOADED: 5}
    assert board_lead(board_of(BoardRows(counts=counts), Selection(), now=NOW)) == (
        "9 jobs: 2 training, 1 stalled, 1 at the service, not yet here."
    )
    assert board_lead(board_of(BoardRows(counts={JobState.DOWNLOADED: 1}), Selection(), now=NOW)) == (
        "1 job: nothing under way."
    )


def test_failures_are_told_by_reason_with_as_many_as_there_are() -> None:
    failed = [row(number, JobState.FAILED) for number in range(40)]
    board = board_of(BoardRows(counts={JobState.FAILED: 700}, troubled=failed), Selection(), now=NOW)
    [trouble] = board.trouble
    assert trouble.sentence == "700 jobs failed. The service gives no reason. Another try is paid for again."
    assert (len(trouble.jobs), trouble.count) == (5, 700)
    reasons = [row(1, JobState.FAILED, reason="CUDA out of memory"), row(2, JobState.FAILED)]
    board = board_of(BoardRows(counts={JobState.FAILED: 2}, troubled=reasons), Selection(), now=NOW)
    assert [each.count for each in board.trouble] == [1, 1]
    assert "Reason: CUDA out of memory." in board.trouble[0].sentence


def test_span_shows_when_jobs_ran_and_moves_once_a_minute() -> None:
    ran = row(1, JobState.DOWNLOADED, submitted_at=NOW - timedelta(minutes=10), ended_at=NOW - timedelta(minutes=5))
    runs = row(2, JobState.RUNNING, submitted_at=NOW - timedelta(minutes=2, seconds=30))
    span = span_of([runs, ran, row(3)], now=NOW)
    assert span is not None
    assert (span.begins_at, span.ends_at) == (NOW - timedelta(minutes=10), NOW)
    assert [(bar.left, bar.width, bar.row, bar.tone) for bar in span.bars] == [
        (0, 500, 0, "good"),
        (750, 250, 1, "busy"),
    ]
    assert span_of([runs], now=NOW - timedelta(seconds=20)) == span_of([runs], now=NOW - timedelta(seconds=40))
    assert span_of([row(3)], now=NOW) is None


def test_download_shows_how_much_is_here() -> None:
    data = {"received_bytes": 30, "total_bytes": 90, "task_id": "7"}
    event = EventRow(job_id="j1", number=5, at=NOW, kind="DownloadProgressed", data=data)
    line = line_of(row(1, JobState.SUCCEEDED, folder="/models"), event)
    assert (line.received_bytes, line.total_bytes, line.says) == (30, 90, "being fetched")
    assert event_line(event).says == "33 % of the archive is here"


def test_messages_and_paths_of_events_stay_inside() -> None:
    for kind, data in (
        ("DownloadFailed", {"message": "cannot write /srv/models/7.zip"}),
        ("ArchiveReady", {"path": "/srv/models/7.zip", "total_bytes": 9}),
        ("SomethingNew", {"path": "/srv"}),
    ):
        assert "/srv" not in event_line(EventRow(job_id="j1", number=1, at=NOW, kind=kind, data=data)).says


def test_every_state_has_a_sentence_and_only_a_reason_of_the_service_is_told() -> None:
    sentences = {state: sentence_of(row(1, state, error="see http://bridge:5028")) for state in JobState}
    assert all(text.endswith(".") and "bridge" not in text for text in sentences.values())
    assert sentence_of(row(1, JobState.FAILED)).endswith("The service gives no reason.")
    assert sentence_of(row(1, JobState.ABANDONED, reason="cancelled")).endswith("Reason: cancelled.")


def test_job_tells_its_config_as_asked_sent_and_used_what_differs_first() -> None:
    view = job_view(row(1), events=(), tasks=(), service=BRIDGE_FACTS)
    first = view.fields[0]
    assert (first.field, first.asked, first.sent, first.used) == ("lr_warmup_steps", 0, 1, 1)
    assert first.reason
    assert {field.field: field.asked for field in view.fields}["dataset_url"] == "https://example.com/pictures.zip?***"
    assert not any("secret" in f"{item.message}{item.action}" for item in view.advice)
    assert view.rounds == "200 steps in one round."
    assert view.missed == 0


def test_curve_is_the_learning_rate_from_its_warm_up_to_its_end() -> None:
    curve = curve_of(simulate(CONFIG, None))
    assert curve is not None
    assert (curve.steps, curve.scheduler, curve.kept_from) == (200, "linear", 0.0)
    (first_x, first_y), *_, (last_x, last_y) = curve.points
    # One step of warm-up, in which the rate is 0; then down to almost 0 at the end. Zero is drawn at 200.
    assert (first_x, first_y, last_x) == (0.0, 200.0, 1000.0)
    assert last_y > 195
    assert min(y for _, y in curve.points) == 0.0
    assert curve.says.startswith("linear: 0 at the first step")


def test_curve_of_several_rounds_shows_which_of_them_is_kept() -> None:
    # Of ten images: a round of 100 steps goes on to the end of its epoch, and the second one begins at step 111.
    curve = curve_of(simulate(CONFIG.evolve(max_train_steps=200, num_train_steps=100), 10))
    assert curve is not None
    assert curve.kept_from == pytest.approx(1000 * 110 / 199, abs=0.1)
