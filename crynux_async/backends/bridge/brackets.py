"""Finding the task of a create whose answer was lost, between the numbers of tasks whose answers came.

Theory of operation. A bridge numbers the tasks of all its users in one sequence, and gives the number while it answers
the create. So a lost task has a larger number than every task that was answered before its create began, and a smaller
one than every task whose create began after it had ended: its bracket. The bridge has no list, but it hands a result
out to its owner only, and so tells of every finished task in the bracket whether it was made with this key. Of a task
that has no result (yet) it says the same as of one that does not exist; the status, which needs no key, tells those two
apart.

A task is found where the whole bracket was looked at, exactly one task of this key is left in it that no other job has,
no other lost create can have made it, and every other task in it has another owner: another program may use the key, so
that one without a result may be the lost one. Everything else is said and left to the user: a model under a wrong name
is worse than none.

Source: crynux-bridge api/v1/image/finetune.go (order of the checks), models/client_task.go (one sequence).
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

import attrs

from crynux_async.backends.base import Finding, LostCreate, Verdict
from crynux_async.backends.bridge.facts import RETENTION
from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.backends.bridge.wire import RemoteStatus
from crynux_async.clock import utc_now
from crynux_async.errors import NotFoundError
from crynux_async.values import Value

_MOST_REQUESTS_EACH = 2  # one for a byte of the result; where there is none, one for the status, else for the archive
_GAP = 20  # so many numbers in a row that no task has: the sequence has not come further (failed inserts leave holes)


class Standing(StrEnum):
    """What the bridge says of one number."""

    OURS = "made with this key"
    OTHERS = "made with another key"
    RUNNING = "still running, whoever made it"
    WITHOUT_RESULT = "ended without a result, whoever made it"
    MISSING = "no task, or not any more"


@attrs.frozen(kw_only=True)
class Bracket(Value):
    """The numbers that a lost task can have.

    Attributes:
        job_id: Whose task it is.
        above: It is larger than this, >= 0, or None where no task is known that was made before.
        below: It is smaller than this, or None where no task is known that was made after.
    """

    job_id: str
    above: int | None
    below: int | None

    def span(self, at_most: int) -> range:
        """Return the numbers in it, those nearest to the known end first; where only one end is known, so many."""
        if self.above is None and self.below is None:
            return range(0)
        if self.above is None:
            assert self.below is not None
            # Downwards: the lost task was made shortly before the first that is known.
            return range(self.below - 1, max(0, self.below - 1 - at_most), -1)
        return range(self.above + 1, self.above + 1 + at_most if self.below is None else self.below)

    def has_lower_end(self, at_most: int) -> bool:
        """Whether the numbers to look at have a lower end: a known one, or 1, with which every bridge begins."""
        return self.above is not None or (self.below is not None and self.below - 1 <= at_most)

    def size(self, known: frozenset[str], at_most: int) -> int:
        """Return how many numbers in it belong to no other job."""
        span = self.span(at_most)
        # Others use the bridge, too, so that millions may lie in it: none of them is written down.
        return len(span) - sum(int(number) in span for number in known)

    def numbers(self, known: frozenset[str], at_most: int) -> list[int]:
        """Return the numbers to look at, those nearest to the known end first; those of other jobs are left out."""
        return [number for number in self.span(at_most) if str(number) not in known]


def bracket_of(lost: LostCreate) -> Bracket:
    """Return the bracket of a lost create: numbers are compared as numbers, "10" comes after "9"."""
    return Bracket(
        job_id=lost.job_id,
        above=max(map(int, lost.before), default=None),
        below=min(map(int, lost.after), default=None),
    )


def candidates(lost: LostCreate, *, at_most: int) -> Iterable[str]:
    """Yield the numbers in the bracket of a lost create, unless it may still be under way."""
    return map(str, bracket_of(lost).span(at_most)) if lost.is_closed else ()


def search_requests(lost: Sequence[LostCreate], *, known: frozenset[str], at_most: int) -> int:
    """Return how many requests ``find_lost`` makes at most: two for each number, which several brackets may share."""
    numbers: set[int] = set()
    for one in lost:
        numbers.update(_worth_asking(one, known, at_most))
    return _MOST_REQUESTS_EACH * len(numbers)


async def find_lost(
    client: BridgeClient, lost: Sequence[LostCreate], *, known: frozenset[str], at_most: int
) -> list[Finding]:
    """Look for the tasks of lost creates, and say of each that is wanted what was found.

    Args:
        client: The bridge, with the key that made the creates.
        lost: All that are lost with this key.
        known: Numbers that belong to other jobs.
        at_most: A bracket with more numbers than this is left alone.

    Raises:
        AuthError, QuotaError: The key is not accepted.
        UnreachableError, TransportError, ServerError, ProtocolError: No answer that counts.
    """
    standings: dict[int, Standing] = {}
    for one in lost:
        await _ask_all(client, bracket_of(one), _worth_asking(one, known, at_most), standings)
    now = utc_now()
    wanted = [one for one in lost if one.is_wanted]
    return [judge(one, lost, standings, known=known, at_most=at_most, now=now) for one in wanted]


async def _ask_all(
    client: BridgeClient, bracket: Bracket, numbers: Sequence[int], standings: dict[int, Standing]
) -> None:
    missing = 0
    # One after the other: every question with a key costs the bridge a bcrypt.
    for number in numbers:
        if number not in standings:
            standings[number] = await _ask(client, str(number))
        missing = missing + 1 if standings[number] is Standing.MISSING else 0
        # Ids rise without large gaps, so so many missing ones in a row are the end of all that was made.
        if bracket.below is None and missing >= _GAP:
            return


async def _ask(client: BridgeClient, number: str) -> Standing:
    """Find out what the bridge says of one number."""
    # The only question that tells whose a task is: its result is refused to other keys.
    is_owned = await client.owns(number)
    if is_owned is not None:
        return Standing.OURS if is_owned else Standing.OTHERS
    try:
        word = await client.status(number)
    except NotFoundError:
        return Standing.MISSING
    return Standing.WITHOUT_RESULT if word in (RemoteStatus.SUCCESS, RemoteStatus.FAILED) else Standing.RUNNING


def _worth_asking(lost: LostCreate, known: frozenset[str], at_most: int) -> list[int]:
    """Return the numbers to ask about: none while the create may still be under way, or where there are too many."""
    if not lost.is_closed or not lost.is_wanted:
        return []
    bracket = bracket_of(lost)
    # All or nothing: half a bracket can neither find a task nor prove that there is none.
    # Where an end is missing, ``numbers`` stops at ``at_most`` by itself.
    return [] if bracket.size(known, at_most) > at_most else bracket.numbers(known, at_most)


def judge(
    lost: LostCreate,
    others: Sequence[LostCreate],
    standings: Mapping[int, Standing],
    *,
    known: frozenset[str],
    at_most: int,
    now: datetime,
) -> Finding:
    """Say what the standings of the numbers in its bracket mean for one lost create."""
    bracket = bracket_of(lost)
    if not lost.is_closed:
        return _open(lost, "a create is still under way around it; look again when that has ended")
    if bracket.above is None and bracket.below is None:
        return _open(
            lost,
            "no other task is known, so there is no number to look at; the next job that is accepted "
            "gives one: submit it, then look again",
        )
    size = bracket.size(known, at_most)
    if size > at_most:
        return _open(
            lost,
            f"{size} numbers lie in its bracket, more than at_most={at_most}; "
            f"at_most={size} looks at all of them with {_MOST_REQUESTS_EACH * size} requests at most",
        )
    numbers = bracket.numbers(known, at_most)
    asked = {number: standings[number] for number in numbers if number in standings}
    return _judge_asked(lost, others, asked, at_most=at_most, now=now)


def _judge_asked(
    lost: LostCreate, others: Sequence[LostCreate], asked: Mapping[int, Standing], *, at_most: int, now: datetime
) -> Finding:
    bracket = bracket_of(lost)
    ours = [number for number, standing in asked.items() if standing is Standing.OURS]
    running = sum(standing is Standing.RUNNING for standing in asked.values())
    unclear = [number for number, standing in asked.items() if standing is Standing.WITHOUT_RESULT]
    is_whole = bracket.below is not None or _reached_the_end(asked)
    # What still runs may turn out to be ours: nothing is ruled out before it has ended, and where another program uses
    # this key, the one that has ended may be that program's.
    if running:
        mine = f"; made with this key is {_listed(ours)}" if ours else ""
        return _open(
            lost,
            f"{running} tasks in its bracket still run, and whose they are is told only when they end; "
            f"look again later{mine}",
        )
    if ours:
        return _judge_ours(lost, ours, _doubts(lost, others, ours, unclear, is_whole=is_whole))
    why_open = _why_not_ruled_out(bracket, asked, unclear, at_most=at_most, is_whole=is_whole)
    return _open(lost, why_open) if why_open else _not_created(lost, asked, now)


def _why_not_ruled_out(
    bracket: Bracket, asked: Mapping[int, Standing], unclear: Sequence[int], *, at_most: int, is_whole: bool
) -> str | None:
    """Return why a create may have made a task all the same, where none of this key was found; None if it has not."""
    if not bracket.has_lower_end(at_most):
        return (
            f"none of the {len(asked)} tasks before the first known one was made with this key; "
            f"at_most={2 * at_most} looks at more"
        )
    if not is_whole:
        return (
            f"none of the first {len(asked)} tasks after the last known one was made with this key; "
            f"at_most={2 * at_most} looks at more, and a job that is accepted now closes the bracket"
        )
    if unclear:
        return (
            f"{len(unclear)} tasks in its bracket ended without a result, and whose they were cannot be told, so "
            "no model can come of them. Resubmit it if you accept that one of them may have been paid"
        )
    if bracket.above is None and Standing.OTHERS in asked.values():
        return (
            "none of the tasks before the first known one is said to be made with this key, but the first task of a "
            "new key is never said to be its own, and its model cannot be fetched. Resubmit it if you accept that it "
            "may have been paid"
        )
    return None


def _judge_ours(lost: LostCreate, ours: Sequence[int], doubts: Sequence[str]) -> Finding:
    if len(ours) == 1 and not doubts:
        return Finding(
            job_id=lost.job_id,
            verdict=Verdict.FOUND,
            task_id=str(ours[0]),
            candidates=[str(ours[0])],
            explanation=f"task {ours[0]} is the only one in its bracket that was made with this key",
        )
    why = "; ".join(doubts or ["another program may use this key"])
    return Finding(
        job_id=lost.job_id,
        verdict=Verdict.AMBIGUOUS,
        candidates=[str(number) for number in sorted(ours)],
        explanation=f"made with this key in its bracket: {_listed(ours)}; {why}",
    )


def _doubts(
    lost: LostCreate, others: Sequence[LostCreate], ours: Sequence[int], unclear: Sequence[int], *, is_whole: bool
) -> list[str]:
    """Return why tasks of this key may not be that of a lost create; empty where each of them can only be that.

    Args:
        lost: The create.
        others: Every lost create of the key.
        ours: The tasks of this key that no other job has.
        unclear: Tasks of which nobody can tell whose they are.
        is_whole: Whether every number was looked at that the task can have.
    """
    doubts = []
    # Two creates that were lost together share a bracket: to guess would swap their models.
    rivals = [other.job_id for other in others if other.job_id != lost.job_id and _may_have(other, ours)]
    if rivals:
        doubts.append(f"it may also be that of {', '.join(rivals)}")
    # Without a lower end any older job of the key could be meant, and its model would get this job's name.
    if bracket_of(lost).above is None:
        doubts.append("earlier jobs of this key may be among them")
    if unclear:
        doubts.append(
            f"another program may use this key, and whose {_listed(unclear)} was cannot be told, which ended without "
            "a result"
        )
    if not is_whole:
        doubts.append(
            "another program may use this key, and not all numbers were looked at that it can have: a larger at_most "
            "looks at more, and a job that is accepted now closes the bracket"
        )
    return doubts


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def _may_have(lost: LostCreate, numbers: Iterable[int]) -> bool:
    """Whether any of these numbers lies in the bracket of a lost create."""
    bracket = bracket_of(lost)
    return any(
        (bracket.above is None or number > bracket.above) and (bracket.below is None or number < bracket.below)
        for number in numbers
    )


def _reached_the_end(asked: Mapping[int, Standing]) -> bool:
    """Whether the numbers end with a gap that only the end of the sequence explains."""
    newest = [asked[number] for number in sorted(asked)[-_GAP:]]
    return len(newest) == _GAP and all(standing is Standing.MISSING for standing in newest)


def _not_created(lost: LostCreate, asked: Mapping[int, Standing], now: datetime) -> Finding:
    missing = sum(standing is Standing.MISSING for standing in asked.values())
    # What is missing was never made, unless the bridge has deleted it meanwhile.
    # Half of it: the operator may have set fewer days than the example config.
    if missing and now - lost.began_at > timedelta(seconds=RETENTION) / 2:
        return _open(
            lost,
            f"{missing} numbers in its bracket have no task any more, and a bridge deletes tasks 7 days "
            "after their end by default; if it was created, its model is gone",
        )
    said = (
        "no number lies in its bracket" if not asked else f"none of the {len(asked)} numbers in its bracket is its own"
    )
    return Finding(
        job_id=lost.job_id,
        verdict=Verdict.NOT_CREATED,
        explanation=f"it was not created: {said}. Sending it again is safe",
    )


def _open(lost: LostCreate, explanation: str) -> Finding:
    return Finding(job_id=lost.job_id, verdict=Verdict.OPEN, explanation=explanation)
