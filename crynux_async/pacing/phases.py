"""When to look at a task whose life has phases: at whose ends something is to be done, and how long they usually take.

Theory of operation
-------------------
A service whose tasks need more than a create says when it wants to be asked again: a *wish*, which knows nothing of how
long a training takes. It also tells the phases of a task's life, when each began, and how long those took that are
over. So each phase of each kind of job has a hazard of its own (crynux_async.pacing.hazard), which counts from the
phase's beginning, and what it learns is exact however late the end was seen: the service tells when that was. What is
not over is counted up to the last look, as at any other job. A phase can be as short as a few seconds, and the first
bin of a hazard is ten: so hazards of phases count in tenths of a second.

*Price.* The service says how late the end of each phase may be noticed on average, which is about how late its wishes
notice it. With what was learned the same lateness, all phases together, is had with the fewest looks. At the price
``c`` looks are ``sqrt(2 c / lambda)`` apart and hide an end for half of that, so all ends of a task together for
``sqrt(c)`` times the sum of ``E[1 / sqrt(2 lambda)]`` over its phases, and ::

    c = (sum of late / sum of E[1 / sqrt(2 lambda)]) ** 2

There is one price for all phases, because a second late is a second late in each of them: with a price for each, a look
could be taken from where it saves less and given to where it saves more.

*What is to come.* A phase that has not begun may begin at any moment, and its task is looked at as if it had begun with
the last look: nothing can have been hidden for longer than that.

*Little is known.* The wish is as good as ever, and with few ends the hazard is a guess. Of n ends, intervals are at
most n / 16 wishes: where none of n has ended the next one does about once in n times, and what such an interval hides
of it, in expectation, is a thirtieth of a wish. The price is taken ``(n / (n + 16)) ** 2`` times, so that intervals
grow with what is known. With fewer than 16 ends the wish itself is kept; no interval is ever shorter than half of it.

*Bounds that rest on nothing learned.* The service's ``within``, and half of the phase's age and a minute
(crynux_async.pacing.poll_queue).
"""

import math
from collections.abc import Iterator, Sequence

import attrs

from crynux_async.backends.base import Phase
from crynux_async.pacing.hazard import Hazard
from crynux_async.values import Value

PER_SECOND = 10.0
"""Hazards of phases count in tenths of a second."""

LEAST_ENDS = 16.0
"""So many ends of a phase must have been seen before anything is planned by them."""

_MOST_LOOKS = 2.0  # times as many as the wish asks for


@attrs.frozen(kw_only=True)
class Counted(Value):
    """How far the life of a task was counted.

    Attributes:
        name: The phase.
        age: Up to which of its seconds it was counted, >= 0.
        at: When that was, in the queue's seconds.
    """

    name: str
    age: float
    at: float


@attrs.frozen(kw_only=True)
class Lesson(Value):
    """What is news of one phase of a task.

    Attributes:
        name: The phase.
        seen: Up to which of its seconds it was counted before.
        age: How old it has become since, in seconds.
        ended: Whether it ended then.
        failed: Whether it did so without what it is for.
    """

    name: str
    seen: float
    age: float
    ended: bool = False
    failed: bool = False

    def teach(self, hazard: Hazard) -> None:
        """Let the hazard of the phase learn it."""
        hazard.observe_running(self.seen * PER_SECOND, self.age * PER_SECOND)
        if self.ended:
            # The service tells when that was, so there is no interval in which it may have been.
            at = max(self.seen, self.age) * PER_SECOND
            hazard.observe_end(at, at, failed=self.failed)


def current(phases: Sequence[Phase]) -> Phase | None:
    """Return the phase that lasts, or that is to begin next; None where all are over, or none are told."""
    return next((phase for phase in phases if phase.took is None), None)


def counted_at(phases: Sequence[Phase], now: float) -> Counted | None:
    """Return how far a task's life is counted once what it shows now is learned.

    Args:
        phases: What it shows; where none is told, nothing is counted.
        now: The time, in the queue's seconds.
    """
    phase = current(phases)
    return None if phase is None else Counted(name=phase.name, age=phase.age, at=now)


def lessons(counted: Counted | None, phases: Sequence[Phase], now: float) -> Iterator[Lesson]:
    """Yield what is news of the phases of a task.

    Args:
        counted: What was counted of it; None where that is nothing, and everything was seen from its beginning.
        phases: What it shows now.
        now: The time, in the queue's seconds.
    """
    names = [phase.name for phase in phases]
    first, seen = 0, 0.0
    if counted is not None and counted.name in names and not _is_new_life(counted, phases, now):
        first, seen = names.index(counted.name), counted.age
    for phase in phases[first:]:
        if phase.took is None:
            if phase.age > seen:
                yield Lesson(name=phase.name, seen=seen, age=phase.age)
            return
        yield Lesson(name=phase.name, seen=seen, age=phase.took, ended=True, failed=phase.failed)
        seen = 0.0


def _is_new_life(counted: Counted, phases: Sequence[Phase], now: float) -> bool:
    """Whether a task was made anew since it was counted, and lives through the same phases again.

    A new life begins after the old one was last seen. What goes on began before that, also where a look was answered
    late, or where this machine has slept and the service's clock has not, so that its phases are older than expected.
    """
    return now - phases[0].age > counted.at


def price(late: Sequence[float], hazards: Sequence[Hazard]) -> float | None:
    """Return the expected hidden delay, in seconds, at which to look so that ends are noticed as late as allowed.

    Args:
        late: How late the end of each phase may be noticed on average, in seconds, > 0.
        hazards: The hazard of each. Those of which little was seen do not count.

    Returns:
        The price, or None where too little was seen of all of them.
    """
    known = [(allowed, hazard) for allowed, hazard in zip(late, hazards, strict=True) if is_known(hazard)]
    if not known:
        return None
    usual = sum(hazard.usual_lateness for _, hazard in known) / math.sqrt(PER_SECOND)
    times = sum(allowed for allowed, _ in known) / usual
    found = times * times
    return found if 0.0 < found < math.inf else None


def is_known(hazard: Hazard) -> bool:
    """Whether enough ends of a phase were seen to plan by them."""
    return hazard.totals[0] >= LEAST_ENDS


def learned_wait(hazard: Hazard, age: float, target_delay: float, wish: float) -> float:
    """Return after how many seconds a task is to be looked at, by what was learned of the phase that lasts.

    Args:
        hazard: The phase's.
        age: Seconds since it began, >= 0.
        target_delay: The price when all is known, in seconds, > 0.
        wish: After how many seconds the service wishes to be asked, > 0: the answer where little is known.
    """
    ends = hazard.totals[0]
    trust, reach = ends / (ends + LEAST_ENDS), max(1.0, ends / LEAST_ENDS)
    wait = hazard.next_delay(age * PER_SECOND, target_delay * trust * trust * PER_SECOND) / PER_SECOND
    return max(min(wait, wish * reach), wish / min(_MOST_LOOKS, reach))
