"""What becomes of the three tasks of a group when it is validated.

Nothing but the table: who agreed with whom, who was fastest, and what that means for each.

Source: crynux-relay service/validate_task.go (ValidateTaskGroup).
"""

from collections.abc import Sequence
from itertools import pairwise

import attrs

from crynux_async.emulator.relay.tasks import AbortReason, Status, Task

_REWARDS = (10, 5, 2)
# A perceptual hash of 64 bits for each validation image, one behind the other.
_HASH_DIGITS = 16


@attrs.frozen(kw_only=True)
class Verdict:
    """What one member becomes.

    Attributes:
        task: The member.
        status: Its next status; END_ABORTED for a member that is aborted already leaves it as it is.
        reason: Why it is aborted.
        qos_score: What its speed is worth; None when nobody finished.
    """

    task: Task
    status: Status
    reason: AbortReason = AbortReason.NONE
    qos_score: int | None

    @property
    def is_lawful(self) -> bool:
        """Whether the relay can bring it about: only a scored task can be given its fee back for agreeing."""
        return self.status is not Status.END_GROUP_REFUND or self.task.status is Status.SCORE_READY


def verdicts(tasks: Sequence[Task], threshold: int) -> tuple[Verdict, ...]:
    """Return what becomes of the three members, the fastest first, in the order in which the relay brings it about.

    Args:
        tasks: Three tasks, each scored, with an error reported, or aborted.
        threshold: The distance of two image hashes from which on they differ; 0 lets nothing agree.
    """
    # The fastest is the winner whose result is kept; equal times go by the order of the creates.
    ordered = sorted(tasks, key=lambda task: (task.run_seconds, task.sequence))
    finished = [task for task in ordered if task.status is not Status.END_ABORTED]
    statuses = _statuses(finished, threshold)
    reason = AbortReason.GROUP_TIMEOUT if len(finished) < 2 else AbortReason.INCORRECT_RESULT
    worth = dict(zip((task.sequence for task in finished), _REWARDS, strict=False))
    return tuple(
        Verdict(
            task=task,
            status=statuses.get(task.sequence, Status.END_ABORTED),
            reason=task.abort_reason if task.status is Status.END_ABORTED else reason,
            qos_score=worth.get(task.sequence, 0) if finished else None,
        )
        for task in ordered
    )


def agree(first: Task, second: Task, threshold: int) -> bool:
    """Return whether two finished tasks say the same; two reports of errors do, whatever they report."""
    if first.status is not second.status:
        return False
    # Reports of errors agree, and so two of them outvote the only good result.
    if first.status is not Status.SCORE_READY:
        return True
    one, other = first.score.removeprefix("0x"), second.score.removeprefix("0x")
    # Another number of images is another result, however alike the first ones are.
    if len(one) != len(other):
        return False
    # Each image by itself: one that is too far off makes the whole result another.
    cuts = pairwise(range(0, len(one) + 1, _HASH_DIGITS))
    return all(_distance(one[start:end], other[start:end]) < threshold for start, end in cuts)


def _statuses(finished: Sequence[Task], threshold: int) -> dict[int, Status]:
    """Return the next status of each member that does not end aborted."""
    pair = _majority(finished, threshold)
    if pair is None:
        return {}
    first, second = pair
    found: dict[int, Status] = {}
    if first.status is Status.SCORE_READY:
        found = {first.sequence: Status.GROUP_VALIDATED, second.sequence: Status.END_GROUP_REFUND}
    for third in finished:
        if third is not first and third is not second:
            matches = agree(first, third, threshold)
            found[third.sequence] = Status.END_GROUP_REFUND if matches else Status.END_INVALIDATED
    return found


def _majority(finished: Sequence[Task], threshold: int) -> tuple[Task, Task] | None:
    """Return the fastest two that agree."""
    for index, task in enumerate(finished):
        for other in finished[index + 1 :]:
            if agree(task, other, threshold):
                return task, other
    return None


def _distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()
