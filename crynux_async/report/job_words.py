"""A job in words: how it stands, what is known of it, and what to do next. It says no more than is known.

Errors of this library name hosts, paths and values, so none of their texts is used here: a state has one sentence, and
what the service itself gave as the reason of a failure is put behind it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from crynux_async.ledgers.base import EventRow, JobRow
from crynux_async.report.board_values import EventLine, JobLine, Tone
from crynux_async.secret import mask_text
from crynux_async.states import JobState
from crynux_async.wording import counted

SWEEP_TAG = "sweep"
"""The tag with the name of the sweep that a job belongs to."""

MARKS: Mapping[JobState, str] = MappingProxyType(
    {
        JobState.PLANNED: "○",
        JobState.UNCONFIRMED: "?",
        JobState.ATTACHED: "◌",
        JobState.REJECTED: "✕",
        JobState.RUNNING: "◐",
        JobState.STALLED: "!",
        JobState.SUCCEEDED: "◕",
        JobState.FAILED: "✕",
        JobState.EXPIRED: "✕",
        JobState.DOWNLOADED: "●",
        JobState.ABANDONED: "■",
    }
)
"""A sign for each state, beside its word, for eyes that tell no colours apart."""

TONES: Mapping[JobState, Tone] = MappingProxyType(
    {
        JobState.PLANNED: "waiting",
        JobState.UNCONFIRMED: "trouble",
        JobState.ATTACHED: "busy",
        JobState.REJECTED: "trouble",
        JobState.RUNNING: "busy",
        JobState.STALLED: "trouble",
        JobState.SUCCEEDED: "busy",
        JobState.FAILED: "trouble",
        JobState.EXPIRED: "trouble",
        JobState.DOWNLOADED: "good",
        JobState.ABANDONED: "quiet",
    }
)

_SENTENCES: Mapping[JobState, str] = MappingProxyType(
    {
        JobState.PLANNED: "It waits for its turn. Nothing is paid yet.",
        JobState.UNCONFIRMED: "It was sent and the answer was lost: its task may exist and be paid for. It is not sent "
        "again by itself; look for its task first.",
        JobState.ATTACHED: "It follows an existing task, of which the training service has said nothing yet.",
        JobState.REJECTED: "The training service refused it. Nothing is paid. Change its config.",
        JobState.RUNNING: "The training service runs it.",
        JobState.STALLED: "It runs longer than any healthy job can, so it is most probably lost. It is still watched.",
        JobState.SUCCEEDED: "Its model is at the training service, and is not here yet.",
        JobState.FAILED: "The training service gave up on it. Another try is paid for again.",
        JobState.EXPIRED: "The training service does not have it any more. Another try is paid for again.",
        JobState.DOWNLOADED: "Its model is here, and every byte of it was checked.",
        JobState.ABANDONED: "It was given up. A task that ran went on at the training service.",
    }
)
_SET_ASIDE = "It was set aside before it was sent, and waits until somebody asks for it again. Nothing is paid."
_STOPPED = "It is not to be sent until somebody asks for it again. Nothing is paid."
NO_REASON = "The service gives no reason."


def is_queued(row: JobRow) -> bool:
    """Whether a job waits for its turn, and not for somebody."""
    return row.state is JobState.PLANNED and not row.is_stopped and not row.error


def sentence_of(row: JobRow) -> str:
    """Return how a job stands, and what to do about it."""
    if row.state is JobState.PLANNED and not is_queued(row):
        return _STOPPED if row.is_stopped else _SET_ASIDE
    said = _SENTENCES[row.state]
    if row.state is JobState.FAILED:
        return f"{said} {_reason(row)}"
    return f"{said} {_reason(row)}" if row.reason else said


def _reason(row: JobRow) -> str:
    return f"Reason: {mask_text(row.reason).rstrip('.')}." if row.reason else NO_REASON


def line_of(row: JobRow, last: EventRow | None = None, **known: Any) -> JobLine:
    """Return a job as a list shows it.

    Args:
        row: The job.
        last: Its newest event, or None.
        **known: What else is known: ``expected_at``.
    """
    data = last.data if last is not None and last.kind == "DownloadProgressed" else {}
    return JobLine(
        job_id=row.job_id,
        title=row.label or row.job_id[:10],
        state=row.state,
        tone=_tone(row),
        says=_says(row, last),
        what=_what(row),
        sweep=row.tags.get(SWEEP_TAG, ""),
        planned_at=row.planned_at,
        submitted_at=row.submitted_at,
        ended_at=row.ended_at,
        received_bytes=data.get("received_bytes"),
        total_bytes=data.get("total_bytes") if row.total_bytes is None else row.total_bytes,
        **known,
    )


def _tone(row: JobRow) -> Tone:
    return "trouble" if row.state is JobState.PLANNED and row.error else TONES[row.state]


def _says(row: JobRow, last: EventRow | None) -> str:
    if row.state is JobState.PLANNED and not is_queued(row):
        return "stopped" if row.is_stopped else "set aside"
    if row.state is JobState.FAILED:
        return mask_text(row.reason) or "no reason given"
    if row.state is JobState.SUCCEEDED:
        if last is not None and last.kind == "DownloadFailed":
            return "could not be fetched yet"
        return "being fetched" if row.folder else "not asked for here"
    if row.state is JobState.RUNNING and last is not None and last.kind == "JobProgressed":
        return str(last.data.get("stage", ""))
    return mask_text(row.reason)


def _what(row: JobRow) -> str:
    config = row.config
    if config is None:
        return "config not known"
    model = config.model_name.rpartition("/")[2]
    length = f", {config.max_train_steps:,} steps" if config.max_train_steps else ""
    return f"{model}, rank {config.rank}{length}"


def event_line(row: EventRow) -> EventLine:
    """Return an event as a page shows it. What it holds of paths and messages is left out."""
    says, tone = _EVENTS.get(row.kind, (row.kind, "quiet"))
    data = row.data
    if row.kind == "JobStateChanged":
        state = JobState(data["state"])
        says, tone = f"{state}", TONES[state]
    elif row.kind == "JobQueued":
        says = f"queued behind {counted(data['position'], 'other')}" if data.get("position") else "queued, and next"
    elif row.kind == "JobProgressed":
        says = f"the service says: {data.get('stage', '')}"
    elif row.kind == "StepTaken":
        says = " ".join(filter(None, (str(data.get("step", "")), str(data.get("outcome", "")))))
    elif row.kind == "DownloadProgressed" and data.get("total_bytes"):
        says = f"{100 * data['received_bytes'] // data['total_bytes']} % of the archive is here"
    return EventLine(number=row.number, at=row.at, says=says, tone=tone)


_EVENTS: Mapping[str, tuple[str, Tone]] = MappingProxyType(
    {
        "JobQueued": ("queued", "waiting"),
        "JobSubmitted": ("accepted; from here on it is paid for", "busy"),
        "JobProgressed": ("it has made progress", "busy"),
        "StepTaken": ("a step was taken", "busy"),
        "ImagesReady": ("pictures of the model are there", "good"),
        "DownloadProgressed": ("the archive is being fetched", "busy"),
        "ArchiveReady": ("the archive is here, whole and checked", "good"),
        "DownloadFailed": ("the archive could not be fetched; what arrived is kept", "trouble"),
    }
)
