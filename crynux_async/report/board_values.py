"""What the watching pages are told: plain values, whoever collected them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeAlias

import attrs

from crynux_async.states import JobState
from crynux_async.training.effective import EffectiveField

Tone: TypeAlias = Literal["good", "busy", "waiting", "trouble", "quiet"]
"""How a state is coloured: the same meaning on every page."""


@attrs.frozen(kw_only=True)
class JobLine:
    """One job in a list.

    Attributes:
        job_id: Its name.
        title: What people call it: its label, or its name cut short.
        state: What is believed of it.
        tone: How that is coloured.
        says: What is known of it, in a few words.
        what: What is trained, in a few words.
        sweep: The sweep that it belongs to, or "".
        planned_at: When it was planned.
        submitted_at: When it was accepted, or None.
        ended_at: When its end was noticed, or None.
        expected_at: When it will be sent as far as is known, or None.
        received_bytes: Bytes of its archive that have arrived, or None while none is fetched.
        total_bytes: Bytes of its archive, or None where that is not known.
    """

    job_id: str
    title: str
    state: JobState
    tone: Tone
    says: str
    what: str
    sweep: str = ""
    planned_at: datetime
    submitted_at: datetime | None = None
    ended_at: datetime | None = None
    expected_at: datetime | None = None
    received_bytes: int | None = None
    total_bytes: int | None = None


@attrs.frozen(kw_only=True)
class RateClock:
    """When the rate limit lets the next create pass.

    Attributes:
        limit_per_minute: Creates a minute, or None while that is not known.
        next_at: When the next one may go, or None for now.
        refusals: Creates that were refused, as far as they are remembered.
    """

    limit_per_minute: float | None
    next_at: datetime | None
    refusals: int = 0


@attrs.frozen(kw_only=True)
class Trouble:
    """Something that somebody should know, with the jobs that it is about.

    Attributes:
        sentence: What happened, what is known, and what to do.
        jobs: Some of the jobs.
        count: How many there are, >= 1.
    """

    sentence: str
    jobs: Sequence[JobLine]
    count: int


@attrs.frozen(kw_only=True)
class SweepLine:
    """One sweep in a list.

    Attributes:
        name: Its name.
        counts: How many of its jobs are in which state.
    """

    name: str
    counts: Mapping[JobState, int]

    @property
    def total(self) -> int:
        """How many jobs it has."""
        return sum(self.counts.values())


@attrs.frozen(kw_only=True)
class Bar:
    """One job in the picture of when jobs ran, in thousandths of the whole width.

    Attributes:
        left: Where it begins.
        width: How long it is, >= 1.
        row: In which row, from 0.
        tone: How it is coloured.
        title: Which job.
    """

    left: int
    width: int
    row: int
    tone: Tone
    title: str


@attrs.frozen(kw_only=True)
class Span:
    """When the latest jobs ran.

    Attributes:
        begins_at: The left edge.
        ends_at: The right edge.
        bars: The jobs.
        rows: How many rows there are.
    """

    begins_at: datetime
    ends_at: datetime
    bars: Sequence[Bar]
    rows: int


@attrs.frozen(kw_only=True)
class Selection:
    """Which jobs the list at the end shows.

    Attributes:
        show: A key of ``SHOWN``.
        search: What was searched for, or "".
        before: The job before which the list goes on, or "" for the newest.
    """

    show: str = "all"
    search: str = ""
    before: str = ""


@attrs.frozen(kw_only=True)
class BoardView:
    """All jobs, as they are now.

    Attributes:
        counts: How many jobs are in which state.
        spent: Wei that tasks did cost.
        held: Wei that tasks may cost at most whose cost is not known yet.
        running: Jobs whose task runs or whose archive is fetched, the longest first.
        queue: Jobs that wait for their turn, the next one first.
        queued: How many do.
        last_expected_at: When the last of them will be sent as far as is known, or None.
        clock: The rate limit, or None where there is none.
        trouble: What somebody should know, the gravest first.
        sweeps: The latest sweeps.
        span: When the latest jobs ran, or None where none has.
        selection: Which jobs ``jobs`` are.
        jobs: The list at the end, the newest first.
        older: The job behind which there are more of them, or "".
        is_attended: Whether a session is at work on them, as far as can be told.
        shows_commands: Whether whoever looks may be told what to type.
    """

    counts: Mapping[JobState, int]
    spent: int = 0
    held: int = 0
    running: Sequence[JobLine] = ()
    queue: Sequence[JobLine] = ()
    queued: int = 0
    last_expected_at: datetime | None = None
    clock: RateClock | None = None
    trouble: Sequence[Trouble] = ()
    sweeps: Sequence[SweepLine] = ()
    span: Span | None = None
    selection: Selection = attrs.field(factory=Selection)
    jobs: Sequence[JobLine] = ()
    older: str = ""
    is_attended: bool = True
    shows_commands: bool = False

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return sum(self.counts.values())

    @property
    def training(self) -> int:
        """How many jobs train as far as is known; what is stalled is most probably lost, and counts as trouble."""
        return self.count(JobState.RUNNING, JobState.ATTACHED)

    def count(self, *states: JobState) -> int:
        """Return how many jobs are in any of these states."""
        return sum(self.counts.get(state, 0) for state in states)


@attrs.frozen(kw_only=True)
class EventLine:
    """Something that happened to a job.

    Attributes:
        number: Its number.
        at: When.
        says: What happened, in a few words.
        tone: How it is coloured.
    """

    number: int
    at: datetime
    says: str
    tone: Tone


@attrs.frozen(kw_only=True)
class Curve:
    """A learning rate over the steps of a job.

    Attributes:
        points: (x, y) of the curve, x from 0 to 1000, y from 0 (the peak) to 200 (zero).
        kept_from: Where the round begins whose weights are the result, 0 to 1000.
        top: The largest learning rate.
        steps: The last step.
        scheduler: The scheduler's name.
        says: The curve in a sentence.
    """

    points: Sequence[tuple[float, float]]
    kept_from: float
    top: float
    steps: int
    scheduler: str
    says: str


@attrs.frozen(kw_only=True)
class AdviceLine:
    """One thing to know about a config.

    Attributes:
        code: Its code.
        severity: "error", "warning" or "note".
        field: The field that it is about, or "".
        message: What happens.
        action: What to do about it.
    """

    code: str
    severity: str
    field: str
    message: str
    action: str


@attrs.frozen(kw_only=True)
class ArchiveView:
    """What is known of a job's archive.

    Attributes:
        total_bytes: Its size.
        is_here: Whether it is on this machine, so that it can be had.
        verdict: What the weights say, or "".
        action: What to do about that, or "".
        problems: What is wrong with it, sentence by sentence.
        norm: ||B A|| over all modules, or None where it is not known.
        blocks: (block, ||B A||, percentage of the largest).
        images: How many pictures of the model there are.
        exports: (program, what it calls itself) for each file that can be had.
    """

    total_bytes: int | None
    is_here: bool
    verdict: str = ""
    action: str = ""
    problems: Sequence[str] = ()
    norm: float | None = None
    blocks: Sequence[tuple[str, float, int]] = ()
    images: int = 0
    exports: Sequence[tuple[str, str]] = ()


@attrs.frozen(kw_only=True)
class JobView:
    """One job, with all that may be told of it.

    Attributes:
        line: What a list says of it.
        sentence: How it stands, and what to do about that.
        facts: Names and texts.
        tries: How many tries it has had or has.
        cost: What its tasks did cost, in wei, or None where not all prices are known.
        held: What they may cost at most that have not ended, in wei.
        events: What happened, the latest first.
        missed: How many earlier events are not shown.
        fields: Its config, what was changed first; () where it is not known.
        curve: Its learning rate, or None where its length is not known.
        rounds: Its rounds in a sentence, or "".
        advice: What to know about its config.
        archive: Its archive, or None while there is none.
    """

    line: JobLine
    sentence: str
    facts: Sequence[tuple[str, str]] = ()
    tries: int = 1
    cost: int | None = None
    held: int = 0
    events: Sequence[EventLine] = ()
    missed: int = 0
    fields: Sequence[EffectiveField] = ()
    curve: Curve | None = None
    rounds: str = ""
    advice: Sequence[AdviceLine] = ()
    archive: ArchiveView | None = None
