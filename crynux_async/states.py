"""What we believe of a job, and the one table of how that may change.

Theory of operation: a job only ever moves along ``TRANSITIONS``. Whoever learns something (an answer to a create, a
status, a finished download, a decision of the user) hands it to ``advance`` as a ``Signal`` and gets the next state;
what the table does not list is a bug and raises. States in ``ENDED`` have no way out except through the user. Where a
job stands in its life (``Stage``) follows from its state alone, by the second table; every set of states that anything
else asks about is at the end of this module, so that a new state is a line in each table and nothing else.

``ATTACHED`` is a task that the user has named and about which the service has not been asked yet. ``RUNNING`` is the
bridge's word and says no more than that: the bridge tells no difference between waiting for a node, training, and
hanging for ever. ``STALLED`` is our word for a job that runs longer than any healthy job can; how long
that is says the service (``Backend.stall_after``; at a bridge ``stall_seconds`` in ``training/lengths``).
"""

from enum import StrEnum
from types import MappingProxyType


class JobState(StrEnum):
    """What we believe of a job."""

    PLANNED = "planned"
    UNCONFIRMED = "unconfirmed"
    ATTACHED = "attached"
    REJECTED = "rejected"
    RUNNING = "running"
    STALLED = "stalled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    DOWNLOADED = "downloaded"
    ABANDONED = "abandoned"


class Signal(StrEnum):
    """Something learned about a job."""

    ACCEPTED = "accepted"
    TURNED_DOWN = "turned down"
    LOST_SIGHT = "lost sight"
    NOT_CREATED = "not created"
    NAMED = "named"
    SAID_RUNNING = "said running"
    SAID_SUCCESS = "said success"
    SAID_FAILED = "said failed"
    SAID_CANCELLED = "said cancelled"
    NOT_FOUND = "not found"
    OVERDUE = "overdue"
    STORED = "stored"
    ABANDON = "abandon"
    TRY_AGAIN = "try again"


_FOLLOWED = {
    Signal.SAID_RUNNING: None,
    Signal.SAID_SUCCESS: JobState.SUCCEEDED,
    Signal.SAID_FAILED: JobState.FAILED,
    Signal.SAID_CANCELLED: JobState.ABANDONED,
    Signal.NOT_FOUND: JobState.EXPIRED,
    Signal.ABANDON: JobState.ABANDONED,
}

# None: the signal is expected and changes nothing.
TRANSITIONS: MappingProxyType[JobState, dict[Signal, JobState | None]] = MappingProxyType(
    {
        JobState.PLANNED: {
            Signal.ACCEPTED: JobState.RUNNING,
            Signal.NAMED: JobState.ATTACHED,
            Signal.TURNED_DOWN: JobState.REJECTED,
            Signal.LOST_SIGHT: JobState.UNCONFIRMED,
            Signal.ABANDON: JobState.ABANDONED,
        },
        JobState.UNCONFIRMED: {
            Signal.ACCEPTED: JobState.RUNNING,
            Signal.NOT_CREATED: JobState.PLANNED,
            Signal.ABANDON: JobState.ABANDONED,
            Signal.TRY_AGAIN: JobState.PLANNED,
        },
        # Nothing is said of a task before the service has been asked; until then it cannot be overdue either.
        JobState.ATTACHED: {**_FOLLOWED, Signal.SAID_RUNNING: JobState.RUNNING, Signal.OVERDUE: None},
        JobState.RUNNING: {**_FOLLOWED, Signal.OVERDUE: JobState.STALLED},
        JobState.STALLED: {**_FOLLOWED, Signal.OVERDUE: None},
        JobState.SUCCEEDED: {
            Signal.SAID_SUCCESS: None,
            Signal.STORED: JobState.DOWNLOADED,
            # Deleted before it was fetched: services keep results for a time only.
            Signal.NOT_FOUND: JobState.EXPIRED,
            Signal.ABANDON: JobState.ABANDONED,
        },
        # Nothing that is learned later takes away a model that is on disk.
        JobState.DOWNLOADED: {Signal.STORED: None},
        JobState.REJECTED: {Signal.TRY_AGAIN: JobState.PLANNED},
        JobState.FAILED: {Signal.TRY_AGAIN: JobState.PLANNED},
        JobState.EXPIRED: {Signal.TRY_AGAIN: JobState.PLANNED, Signal.NAMED: JobState.ATTACHED},
        JobState.ABANDONED: {Signal.TRY_AGAIN: JobState.PLANNED, Signal.NAMED: JobState.ATTACHED},
    }
)


class Stage(StrEnum):
    """Who drives a job: each stage hands it on to the next."""

    SUBMIT = "submit"
    FOLLOW = "follow"
    FETCH = "fetch"
    OVER = "over"


STAGES: MappingProxyType[JobState, Stage] = MappingProxyType(
    {
        JobState.PLANNED: Stage.SUBMIT,
        JobState.ATTACHED: Stage.FOLLOW,
        JobState.RUNNING: Stage.FOLLOW,
        JobState.STALLED: Stage.FOLLOW,
        JobState.SUCCEEDED: Stage.FETCH,
        JobState.UNCONFIRMED: Stage.OVER,
        JobState.REJECTED: Stage.OVER,
        JobState.FAILED: Stage.OVER,
        JobState.EXPIRED: Stage.OVER,
        JobState.DOWNLOADED: Stage.OVER,
        JobState.ABANDONED: Stage.OVER,
    }
)

FOLLOWED = frozenset(state for state, stage in STAGES.items() if stage is Stage.FOLLOW)
"""States in which the service is asked how far the task is."""

ENDED = frozenset(state for state, stage in STAGES.items() if stage in (Stage.FETCH, Stage.OVER))
"""States in which nothing more happens to the remote task that we could see."""

UNFINISHED = frozenset(state for state, stage in STAGES.items() if stage is not Stage.OVER) | {JobState.UNCONFIRMED}
"""States whose jobs a session takes over from one that has ended: there is something left to do or to decide."""

WITHOUT_TASK = frozenset({JobState.PLANNED, JobState.UNCONFIRMED})
"""States of a job that has no task as far as is known, but whose creates may say otherwise."""

UNFETCHED = frozenset(state for state, stage in STAGES.items() if stage is Stage.FETCH)
"""States of a job whose model is at the service and not yet on disk."""

NEED_THE_CREDENTIAL = (UNFINISHED | UNFETCHED) - {JobState.PLANNED}
"""States of a job that can only be finished with the credential that created its task."""

GOOD = frozenset({JobState.SUCCEEDED, JobState.DOWNLOADED})
"""States of a job that has a model to show."""


def advance(state: JobState, signal: Signal) -> JobState:
    """Return the state after ``signal``.

    Raises:
        ValueError: The table has no such transition.
    """
    try:
        following = TRANSITIONS[state][signal]
    except KeyError:
        raise ValueError(f"a job that is {state} cannot learn {signal!r}") from None
    return state if following is None else following


def may(state: JobState, signal: Signal) -> bool:
    """Whether the table has a transition for ``signal``."""
    return signal in TRANSITIONS[state]
