"""What a try at the relay needs next, decided from what is stored and what is seen alone.

Theory of operation. A try is a run of one task, repeated with new ids when it fails: three failures are repeated, as a
bridge does. The seed that the relay draws for a task selects one run in a hundred: then two siblings are created at
once, three nodes train the same, and what two of them agree on counts. One deadline covers everything from the start
to the upload, so a run is validated as soon as it can be; if nobody does it, the money comes back and the training is
lost.

Members are numbered through the try: 0 is the first run's task, 1 and 2 its siblings, 3 the second run's task, and so
on. The create of member 0 is the try's own; every other one, and every other call that changes something, is an action:
it is stored, with its fee, before it is done, and unclear outcomes are looked at before it is done again.

What a run needs follows from the states of its members:

==========================  ============================================================================================
members                     what is next
==========================  ============================================================================================
one, scored or in error     validate it alone
one, selected               create the siblings, as long as it is not in error: two more fees would change nothing
three, each scored, in      validate the group; but not three errors: the relay refuses that for ever, and refunds all
error or aborted            three at their deadline
queued, and no two scores   cancel it: its result could not be agreed with any more
are possible any more
validated                   wait for the upload
succeeded                   done: the archive can be fetched
group succeeded             the archive cannot be fetched: run it again, three times, which is no failure; its images
                            are kept
all ended otherwise         a failure: run it again with new ids, three times, then the try has failed
==========================  ============================================================================================

Source: crynux-relay service/validate_task.go, service/task_status.go, api/v1/inference_tasks/get_result.go;
crynux-bridge tasks/process_sd_ft_tasks.go (three repeats); measured with the real relay.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import groupby

import attrs

from crynux_async.backends.base import Phase
from crynux_async.backends.relay.ids import GROUP_SIZE
from crynux_async.backends.relay.tasks import ENDED, AbortReason, RelayTask, Status, reason_text
from crynux_async.money import to_cnx

REPEATS = 3
"""How many failed runs of a try are repeated."""

LOST_REPEATS = 3
"""How many runs are repeated whose archive cannot be fetched, one in a hundred: each has cost a fee, and as with
failures, nobody pays without end."""

_SPAREST = 30.0
_SPARSE = 10.0
_CLOSE = 2.0
_SHARE_OF_TIME = 0.02
_SPREAD = 0.25
# A little less than how late the waits above notice the two ends on average, spread as they are.
_LATE_SCORE = 4.0
_LATE_UPLOAD = 0.8
_SHARE_TO_LOSE = 0.1
_SCARCE = 300.0
_OVERTIME = 60.0  # seconds by which a task may outlive its deadline: the relay ends it within two
_PASSED = {
    Status.QUEUED: 0,
    Status.STARTED: 1,
    Status.PARAMETERS_UPLOADED: 1,
    Status.ERROR_REPORTED: 2,
    Status.SCORE_READY: 2,
    Status.VALIDATED: 3,
    Status.SUCCEEDED: 4,
}
"""How many of the instants of its life a task has passed: start, score, validation, upload."""
_DONE_BY_NODE = frozenset((Status.ERROR_REPORTED, Status.SCORE_READY))
_TO_VALIDATE = _DONE_BY_NODE | {Status.ABORTED}
_WAITING = frozenset((Status.QUEUED, Status.STARTED, Status.PARAMETERS_UPLOADED))
_UPLOADING = frozenset((Status.VALIDATED, Status.GROUP_VALIDATED))
_WINNERS = frozenset((Status.SUCCEEDED, Status.GROUP_SUCCEEDED))


class Kind(StrEnum):
    """What can be done to a member."""

    CREATE = "create"
    VALIDATE = "validate"
    CANCEL = "cancel"


@attrs.frozen(kw_only=True)
class Step:
    """Something to be done, or that was done.

    Attributes:
        kind: What.
        member: To which member; a group is validated through its first one.
        is_done: Whether it has an outcome.
        outcome: What became of it; "" when it went well, or is not done.
    """

    kind: Kind
    member: int
    is_done: bool = False
    outcome: str = ""


class Stage(StrEnum):
    """How far a run is, in the order of its life."""

    QUEUED = "queued"
    STARTED = "started"
    SCORED = "scored"
    VALIDATED = "validated"
    UPLOADED = "uploaded"


class End(StrEnum):
    """How a try ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@attrs.frozen(kw_only=True)
class Run:
    """One run of a try: its task, and its siblings when it was selected.

    Attributes:
        number: Which run of the try, from 0.
        members: What the relay shows of each, by its number in the try.
        is_selected: Whether the network wants it checked by a group of three.
        steps: What was stored of its steps.
    """

    number: int
    members: Mapping[int, RelayTask]
    is_selected: bool
    steps: Sequence[Step] = ()

    @property
    def first(self) -> int:
        """The number of its first member in the try."""
        return self.number * GROUP_SIZE

    @property
    def places(self) -> range:
        """The numbers of all members that it has, or will have."""
        return range(self.first, self.first + (GROUP_SIZE if self.is_selected else 1))

    @property
    def missing(self) -> list[int]:
        """Members that are not seen: not created, or their create is not yet known to have happened."""
        return [member for member in self.places if member not in self.members]

    @property
    def winner(self) -> int | None:
        """The member that has delivered a result, or None."""
        return next((member for member, task in self.members.items() if task.status in _WINNERS), None)

    @property
    def is_over(self) -> bool:
        """Whether nothing can come of it any more but what there is."""
        first = self.members.get(self.first)
        if first is None:
            return self.was_refused
        # Siblings that were not created before it ended are not created any more.
        return first.status in ENDED and all(task.status in ENDED for task in self.members.values())

    @property
    def was_refused(self) -> bool:
        """Whether one of its creates was refused for good."""
        return any(step.kind is Kind.CREATE and step.outcome for step in self.steps)

    @property
    def is_lost(self) -> bool:
        """Whether it was trained and checked, and its archive cannot be fetched all the same."""
        return self.winner is not None and self.members[self.winner].status is Status.GROUP_SUCCEEDED

    @property
    def spent(self) -> int:
        """Wei that it has cost so far."""
        return sum(task.spent for task in self.members.values())

    @property
    def was_cancelled(self) -> bool:
        """Whether its owner cancelled it, and not a step of its own."""
        own = {step.member for step in self.steps if step.kind is Kind.CANCEL}
        return any(
            task.abort_reason is AbortReason.CREATOR_CANCELLED and member not in own
            for member, task in self.members.items()
        )

    @property
    def stage(self) -> Stage:
        """How far it is; of a group, how far the member is that it waits for.

        One that has ended without a result is where the run after it begins: its node may never have come to a score.
        """
        statuses = [task.status for task in self.members.values()]
        if any(status in _WINNERS for status in statuses):
            return Stage.UPLOADED
        if any(status in _UPLOADING for status in statuses):
            return Stage.VALIDATED
        open_ones = [status for status in statuses if status not in ENDED]
        if Status.QUEUED in open_ones or not open_ones:
            return Stage.QUEUED
        return Stage.STARTED if any(status in _WAITING for status in open_ones) else Stage.SCORED

    def step(self, kind: Kind, member: int) -> Step | None:
        """Return a stored step, or None."""
        return next((step for step in self.steps if (step.kind, step.member) == (kind, member)), None)

    def explain(self, model: str = "") -> str:
        """Return why nothing came of it, for people.

        Args:
            model: The base model, where it is known: what is left of a run that is over does not tell it.
        """
        if self.is_lost:
            return "the network checked it, and the relay gives the archives of checked tasks to nobody"
        aborted = [task.abort_reason for task in self.members.values() if task.status is Status.ABORTED]
        reasons = [reason_text(reason, model) for reason in dict.fromkeys(aborted)]
        if any(task.status is Status.INVALIDATED for task in self.members.values()):
            reasons.append("a result that no second node confirmed was declared void, and its fee is gone")
        return "; ".join([*reasons, *(step.outcome for step in self.steps if step.outcome)])


@attrs.frozen(kw_only=True)
class Progress:
    """Where a try is.

    Attributes:
        end: How it ended, or None while it goes on.
        stage: How far its last run is.
        run: The number of that run, from 0.
        winner: The member whose archive can be fetched, or None.
        reasons: Why each run that failed did, in order.
        spent: Wei that it has cost so far.
        with_images: Members whose validation images can be fetched, in order.
    """

    end: End | None
    stage: Stage
    run: int
    winner: int | None
    reasons: tuple[str, ...]
    spent: int
    with_images: tuple[int, ...]


def failure(found: Progress) -> str:
    """Return why each run of a try failed and what became of the money, for people; "" where none has.

    Args:
        found: Where the try is.
    """
    if not found.reasons:
        return ""
    money = f"it has cost {to_cnx(found.spent)} CNX" if found.spent else "everything that was paid is refunded"
    if len(found.reasons) == 1:
        return f"{found.reasons[0]}; {money}"
    numbered = enumerate(found.reasons, start=1)
    parts = [
        (reason, [number for number, _ in numbers]) for reason, numbers in groupby(numbered, key=lambda item: item[1])
    ]
    return "; ".join([*(f"{_runs(numbers)}: {reason}" for reason, numbers in parts), money])


def _runs(numbers: Sequence[int]) -> str:
    return f"run {numbers[0]}" if len(numbers) == 1 else f"runs {numbers[0]} to {numbers[-1]}"


def progress(runs: Sequence[Run]) -> Progress:
    """Return where a try is.

    Args:
        runs: Its runs in order, at least the first.
    """
    last = runs[-1]
    winner = last.winner
    model = next((task.model for task in last.members.values()), "")
    is_success = winner is not None and last.members[winner].status is Status.SUCCEEDED
    end = None
    if is_success:
        end = End.SUCCEEDED
    elif last.is_over and last.was_cancelled:
        end = End.CANCELLED
    elif last.is_over and not _may_run_again(runs):
        end = End.FAILED
    return Progress(
        end=end,
        stage=last.stage,
        run=last.number,
        winner=winner if is_success else None,
        reasons=tuple(run.explain(model) for run in runs if run.is_over and (run.winner is None or run.is_lost)),
        spent=sum(run.spent for run in runs),
        with_images=tuple(run.winner for run in runs if run.winner is not None),
    )


def next_step(runs: Sequence[Run]) -> Step | None:
    """Return what a try needs next, or None when it can only wait, or has ended.

    A step that is stored and not done is returned again as it stands, unless what is seen has made it needless.

    Args:
        runs: Its runs in order, at least the first; a later one as soon as its create is stored.
    """
    last = runs[-1]
    wanted = _wanted(runs, last)
    for step in wanted:
        stored = last.step(step.kind, step.member)
        if stored is None or not stored.is_done:
            return stored or step
    return None


def again_after(run: Run, now: float) -> float:
    """Return after how many seconds a run should be looked at again.

    While it waits for a node nothing can be done for it, and it may wait for as long as it may run. Once it runs, every
    second until it is validated is taken from the node's time to upload, so it is looked at the more often the nearer
    its deadline is.

    Args:
        run: The run.
        now: The relay's time, in seconds since 1970.
    """
    if run.stage is Stage.QUEUED:
        return first_look_after(max((task.timeout for task in run.members.values()), default=0))
    # One deadline covers validation and upload as well: each second here is taken from the node's upload.
    if run.stage is not Stage.STARTED:
        return _CLOSE
    deadlines = [task.deadline for task in run.members.values() if task.status not in ENDED]
    left = min((deadline for deadline in deadlines if deadline is not None), default=now) - now
    return min(_SPARSE, max(_CLOSE, left * _SHARE_OF_TIME))


def phases_of(run: Run, now: float) -> tuple[Phase, ...]:
    """Return the phases of a run's life: from its start to its score, and from its validation to its upload.

    At the end of the first it must be validated, and after the second its archive can be fetched. None are told of a
    group, whose members' lives lie beside each other, of a run that has ended without a result, and where the relay
    does not tell when they began, or tells what cannot be: nothing is to be learned from a clock that was set.

    Args:
        run: The run.
        now: The relay's time, in seconds since 1970.
    """
    tasks = list(run.members.values())
    if run.is_selected or len(tasks) != 1:
        return ()
    (task,) = tasks
    passed = _PASSED.get(task.status)
    if passed is None:
        return ()
    told = (task.started_at, task.scored_at, task.validated_at, task.uploaded_at)[:passed]
    if None in told or not _can_be(task, [date.timestamp() for date in told if date is not None], now):
        return ()
    started, scored, validated, uploaded = (*told, None, None, None, None)[:4]
    within, is_error = look_within(run, now), task.status is Status.ERROR_REPORTED
    training = Phase(name=Stage.STARTED.value, late=_LATE_SCORE, within=within)
    upload = Phase(name=Stage.VALIDATED.value, late=_LATE_UPLOAD, within=within)
    if started is not None:
        training = attrs.evolve(training, age=_age(started, now), took=_took(started, scored), failed=is_error)
    if validated is not None:
        upload = attrs.evolve(upload, age=_age(validated, now), took=_took(validated, uploaded))
    return training, upload


def look_within(run: Run, now: float) -> float:
    """Return within how many seconds to look at a run again, however long its training usually takes.

    What is seen late is taken from the node's time to upload: never more than a tenth of what is left, and where that
    is little, as little as ``again_after`` says.

    Args:
        run: The run.
        now: The relay's time, in seconds since 1970.
    """
    left = min((_left(task, now) for task in run.members.values()), default=0.0)
    return left * _SHARE_TO_LOSE if left >= _SCARCE else again_after(run, now)


def first_look_after(timeout: float) -> float:
    """Return after how many seconds a task that waits for a node should be looked at, the first time and each other.

    A node may take it at once, and what it has done waits until it is seen: so a task that may take little is looked at
    as soon as one that has as little time left.

    Args:
        timeout: Seconds that it may take.
    """
    return min(_SPAREST, max(_CLOSE, timeout * _SHARE_OF_TIME))


def spread(seconds: float, commitment: str) -> float:
    """Return a wait that is shorter by up to a quarter, and by another part for each task.

    Tasks that were created together would be looked at together for ever, and hold up everything else each time.

    Args:
        seconds: The longest wait.
        commitment: What the task is called; its last digits are as good as random.
    """
    return seconds * (1 - _SPREAD * int(commitment[-4:], 16) / 0x10000)


def _left(task: RelayTask, now: float) -> float:
    """Return how many seconds a task has left, or will have when a node takes it."""
    return task.timeout if task.deadline is None else task.deadline - now


def _can_be(task: RelayTask, passed: Sequence[float], now: float) -> bool:
    """Whether the instants that a task has passed, in seconds since 1970, are in order and within its time."""
    until = [] if task.status in ENDED else [max([now, *passed])]
    life = [*passed, *until]
    return life == sorted(life) and life[-1] - life[0] <= task.timeout + _OVERTIME


def _age(began: datetime, now: float) -> float:
    return max(0.0, now - began.timestamp())


def _took(began: datetime, ended: datetime | None) -> float | None:
    return None if ended is None else max(0.0, (ended - began).total_seconds())


def _wanted(runs: Sequence[Run], last: Run) -> Iterator[Step]:
    """Yield the steps that what is seen asks for, the most urgent first."""
    if last.is_over:
        # Its number is that of the next group's first member, so that all names of the run follow from it.
        if progress(runs).end is None:
            yield Step(kind=Kind.CREATE, member=last.first + GROUP_SIZE)
        return
    first = last.members.get(last.first)
    if first is None:
        # The row of its create is stored, and the create may not have been sent: a crash lies between the two.
        if last.number:
            yield Step(kind=Kind.CREATE, member=last.first)
        return
    if last.missing and first.status not in ENDED and first.status is not Status.ERROR_REPORTED:
        yield from (Step(kind=Kind.CREATE, member=member) for member in last.missing)
        return
    # Before the validation: what waits could hold it up for as long as its timeout.
    yield from _cancels(last)
    if _can_be_validated(last):
        yield Step(kind=Kind.VALIDATE, member=last.first)


def _cancels(run: Run) -> Iterator[Step]:
    """Yield the cancels of members that wait for nothing: two scores that agree cannot come together any more."""
    possible = sum(task.status in _WAITING or task.status is Status.SCORE_READY for task in run.members.values())
    if run.is_selected and possible < 2:
        for member, task in run.members.items():
            if task.status is Status.QUEUED:
                yield Step(kind=Kind.CANCEL, member=member)


def _can_be_validated(run: Run) -> bool:
    statuses = [task.status for task in run.members.values()]
    if not run.is_selected:
        return statuses[0] in _DONE_BY_NODE
    # Three errors are refused for ever, and each attempt makes the shown balance too high until the relay restarts.
    is_ready = not run.missing and all(status in _TO_VALIDATE for status in statuses)
    return is_ready and any(status is not Status.ERROR_REPORTED for status in statuses)


def _may_run_again(runs: Sequence[Run]) -> bool:
    lost = sum(run.is_lost for run in runs)
    failures = sum(run.is_over and not run.is_lost for run in runs)
    # A selected run that was too dear is not drawn again: that would evade the network's check.
    return failures <= REPEATS and lost <= LOST_REPEATS and not runs[-1].was_refused
