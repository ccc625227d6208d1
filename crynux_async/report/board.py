"""The board: what is told of all jobs, made of rows. Reading them is somebody else's business."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import attrs

from crynux_async.ledgers.base import AttemptRow, EventRow, JobRow
from crynux_async.pacing.gate import past_attempts
from crynux_async.pacing.token_bucket import TokenBucket
from crynux_async.report.board_values import (
    Bar,
    BoardView,
    JobLine,
    RateClock,
    Selection,
    Span,
    SweepLine,
    Trouble,
)
from crynux_async.report.job_words import NO_REASON, is_queued, line_of
from crynux_async.secret import mask_text
from crynux_async.states import ENDED, FOLLOWED, STAGES, UNFETCHED, JobState, Stage
from crynux_async.wording import counted

MOST_RUNNING = 30
"""Jobs under way that the board shows one by one."""

MOST_QUEUED = 8
"""Jobs of the queue that it shows one by one."""

MOST_PLANNED = 200
"""Planned jobs that are read to find out when each is sent."""

MOST_TROUBLED = 40
"""Jobs that went wrong of which the reasons are read."""

PAGE = 50
"""Jobs in the list at its end."""

LATEST = 200
"""Newest jobs that are looked through for sweeps, and for when jobs ran."""

_MOST_SWEEPS = 6
_MOST_BARS = 60
_MOST_NAMED = 5
_WIDTH = 1000
_LEAST_SPAN = timedelta(minutes=2)

UNDER_WAY = FOLLOWED | UNFETCHED
"""States of jobs on which somebody is at work."""

TROUBLED = frozenset({JobState.UNCONFIRMED, JobState.STALLED, JobState.REJECTED, JobState.FAILED, JobState.EXPIRED})
"""States of jobs of which somebody should know."""

SHOWN: Mapping[str, frozenset[JobState] | None] = MappingProxyType(
    {
        "all": None,
        "waiting": frozenset(state for state, stage in STAGES.items() if stage is Stage.SUBMIT),
        "running": UNDER_WAY,
        "trouble": TROUBLED,
        "done": frozenset({JobState.DOWNLOADED}),
        "given up": frozenset({JobState.ABANDONED}),
    }
)
"""What the list at the end of the board can be narrowed to: a word, and states."""


@attrs.frozen(kw_only=True)
class BoardRows:
    """What was read for a board.

    Attributes:
        counts: How many jobs are in which state.
        held: Wei that tasks may cost at most that have not ended.
        spent: Wei that tasks did cost.
        running: Jobs in ``UNDER_WAY``, the oldest first.
        planned: Jobs of everybody that are planned without an error, the oldest first: a place in the queue counts all.
        all_planned: How many of those there are.
        set_aside: How many planned jobs have an error.
        tenant: Whose jobs the board shows, or None for everybody's; all other rows are of those alone.
        troubled: The newest jobs in ``TROUBLED``, and planned ones with an error.
        latest: The newest jobs, the newest first.
        page: The jobs of the list at the end, and one more where there are more, the newest first.
        last_events: The newest event of running jobs, by job.
        attempts: The creates of the credential whose jobs wait, of late.
        sweeps: How many jobs of each of the latest sweeps are in which state.
        is_attended: Whether a session is at work on them.
    """

    counts: Mapping[JobState, int]
    held: int = 0
    spent: int = 0
    running: Sequence[JobRow] = ()
    planned: Sequence[JobRow] = ()
    all_planned: int = 0
    set_aside: int = 0
    tenant: str | None = None
    troubled: Sequence[JobRow] = ()
    latest: Sequence[JobRow] = ()
    page: Sequence[JobRow] = ()
    last_events: Mapping[str, EventRow] = attrs.field(factory=dict)
    attempts: Sequence[AttemptRow] = ()
    sweeps: Mapping[str, Mapping[JobState, int]] = attrs.field(factory=dict)
    is_attended: bool = True


def board_of(
    rows: BoardRows,
    selection: Selection,
    *,
    now: datetime,
    pace: "Pace | None" = None,
    shows_commands: bool = False,
) -> BoardView:
    """Return the board that rows tell of.

    Args:
        rows: What was read.
        selection: Which jobs ``rows.page`` are.
        now: The present moment.
        pace: When creates can pass, or None where nothing limits them.
        shows_commands: Whether whoever looks may be told what to type.
    """
    queue = [row for row in rows.planned if is_queued(row)]
    mine = [row for row in queue if rows.tenant in (None, row.tenant)]
    expected = {row.job_id: pace.expected_at(place) for place, row in enumerate(queue)} if pace is not None else {}
    stopped = sum(row.is_stopped and rows.tenant in (None, row.tenant) for row in rows.planned)
    queued = max(len(mine), rows.counts.get(JobState.PLANNED, 0) - rows.set_aside - stopped)
    page = rows.page[:PAGE]
    return BoardView(
        counts=rows.counts,
        spent=rows.spent,
        held=rows.held,
        running=[line_of(row, rows.last_events.get(row.job_id)) for row in rows.running[:MOST_RUNNING]],
        queue=[line_of(row, expected_at=expected.get(row.job_id)) for row in mine[:MOST_QUEUED]],
        queued=queued,
        last_expected_at=_last_expected_at(rows, mine, expected, pace),
        clock=pace.clock if pace is not None else None,
        trouble=list(_troubles(rows)),
        sweeps=[SweepLine(name=name, counts=counts) for name, counts in rows.sweeps.items()],
        span=span_of(rows.latest, now=now),
        selection=selection,
        jobs=[line_of(row, rows.last_events.get(row.job_id), expected_at=expected.get(row.job_id)) for row in page],
        older=page[-1].job_id if rows.page[PAGE:] else "",
        is_attended=rows.is_attended,
        shows_commands=shows_commands,
    )


def _last_expected_at(
    rows: BoardRows, mine: Sequence[JobRow], expected: Mapping[str, datetime], pace: "Pace | None"
) -> datetime | None:
    if pace is None or not mine:
        return None
    # Where not all were read, the last one of everybody's queue is at least as late.
    is_whole = len(rows.planned) >= rows.all_planned
    return expected[mine[-1].job_id] if is_whole else pace.expected_at(rows.all_planned - 1)


@attrs.frozen(kw_only=True)
class Pace:
    """When creates can pass the rate limit, as far as a ledger tells.

    Attributes:
        now: The present moment.
        seconds: The same by the event loop's clock.
        bucket: The limiter's bucket, as it follows from earlier creates.
    """

    now: datetime
    seconds: float
    bucket: TokenBucket

    @classmethod
    def of(
        cls, attempts: Sequence[AttemptRow], *, now: datetime, seconds: float, limit: float | None, burst: int | None
    ) -> "Pace":
        """Return the pace that earlier creates leave.

        Args:
            attempts: Those of one credential, in order.
            now: The present moment.
            seconds: The same by the event loop's clock.
            limit: Creates a minute where that is known, or None.
            burst: Creates at once where that is known, or None.
        """
        past = past_attempts(attempts, seconds)
        bucket = TokenBucket.replay(past, limit_per_minute=limit, burst=burst, now=seconds)
        return cls(now=now, seconds=seconds, bucket=bucket)

    def expected_at(self, place: int) -> datetime:
        """Return when the job at a place in the queue (0 is next) will be sent, to the second."""
        return self._moment(self.bucket.expected_at(place, self.seconds))

    @property
    def clock(self) -> RateClock:
        """When the next create may go."""
        ready = self.bucket.ready_at(self.seconds)
        return RateClock(
            limit_per_minute=self.bucket.limit_per_minute,
            next_at=self._moment(ready) if self.seconds < ready < math.inf else None,
            refusals=self.bucket.refusals,
        )

    def _moment(self, at: float) -> datetime:
        # To the second above: what is said to come must not be over when it is read, nor change with every look.
        when = self.now + timedelta(seconds=max(0.0, at - self.seconds))
        return datetime.fromtimestamp(math.ceil(when.timestamp() - 0.05), UTC)


def latest_sweeps(rows: Iterable[JobRow], tag: str) -> list[str]:
    """Return the names of the sweeps that the newest jobs belong to, the latest first."""
    return list(dict.fromkeys(row.tags[tag] for row in rows if tag in row.tags))[:_MOST_SWEEPS]


def span_of(rows: Iterable[JobRow], *, now: datetime) -> Span | None:
    """Return when the latest jobs ran, the latest of them at the bottom, or None where none was sent.

    Args:
        rows: Jobs, the newest first.
        now: The right edge, which is moved on to the next full minute: a picture must not change at every look.
    """
    sent = [(row.submitted_at, row) for row in rows if row.submitted_at is not None][:_MOST_BARS]
    if not sent:
        return None
    ends_at = datetime.fromtimestamp(60 * math.ceil(now.timestamp() / 60), UTC)
    begins_at = min(*(at for at, _ in sent), ends_at - _LEAST_SPAN)
    whole = (ends_at - begins_at).total_seconds()

    def place(at: datetime) -> int:
        return round(_WIDTH * min(1.0, max(0.0, (at - begins_at).total_seconds() / whole)))

    bars = []
    for number, (at, row) in enumerate(sorted(sent, key=lambda pair: pair[0])):
        line, left = line_of(row), place(at)
        until = row.ended_at if row.ended_at is not None and row.state in ENDED else ends_at
        width = max(4, place(until) - left)
        bars.append(Bar(left=left, width=width, row=number, tone=line.tone, title=f"{line.title}: {row.state}"))
    return Span(begins_at=begins_at, ends_at=ends_at, bars=bars, rows=len(bars))


def _troubles(rows: BoardRows) -> Iterator[Trouble]:
    """Yield what somebody should know, the gravest first."""
    by_kind: defaultdict[tuple[str, str], list[JobRow]] = defaultdict(list)
    for row in rows.troubled:
        reason = mask_text(row.reason) if row.state is JobState.FAILED else ""
        by_kind[row.state, reason].append(row)
    for state, sentence in _TROUBLES.items():
        for (kind, reason), found in by_kind.items():
            if kind != state:
                continue
            # Only the newest are read: of a state whose jobs all have one reason, the ledger knows how many there are.
            is_all = sum(other == state for other, _ in by_kind) == 1 and state is not JobState.PLANNED
            count = max(len(found), rows.counts.get(state, 0)) if is_all else len(found)
            said = sentence.format(jobs=counted(count, "job"), reason=_because(reason))
            yield Trouble(sentence=said, jobs=_named(found), count=count)


def _because(reason: str) -> str:
    return f"Reason: {reason.rstrip('.')}." if reason else NO_REASON


def _named(rows: Sequence[JobRow]) -> list[JobLine]:
    return [line_of(row) for row in rows[:_MOST_NAMED]]


_TROUBLES: Mapping[JobState, str] = MappingProxyType(
    {
        JobState.UNCONFIRMED: "The answer to the create of {jobs} was lost: the task may exist and be paid for. "
        "It is not sent again by itself.",
        JobState.STALLED: "{jobs}, still watched: longer under way than any healthy job can be, so most probably lost.",
        JobState.FAILED: "{jobs} failed. {reason} Another try is paid for again.",
        JobState.REJECTED: "{jobs} refused by the training service. Nothing is paid for them.",
        JobState.EXPIRED: "{jobs} of which the training service has nothing any more.",
        JobState.PLANNED: "{jobs} set aside before being sent, until somebody asks again. Nothing is paid.",
    }
)
