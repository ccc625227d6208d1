"""What we believe of a job, and the one table of how that may change.

Theory of operation: a job only ever moves along ``TRANSITIONS``. Whoever learns something (an answer to a create, a
status, a finished download, a decision of the user) hands it to ``advance`` as a ``Signal`` and gets the next state;
what the table does not list is a bug and raises. States in ``ENDED`` have no way out except through the user.

``RUNNING`` is the bridge's word and says no more than that: the bridge tells no difference between waiting for a node,
training, and hanging for ever. ``STALLED`` is our word for a job that runs longer than any healthy job can.
"""

from enum import StrEnum
from types import MappingProxyType


class JobState(StrEnum):
    """What we believe of a job."""

    PLANNED = "planned"
    UNCONFIRMED = "unconfirmed"
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
    REFUSED = "refused"
    LOST_SIGHT = "lost sight"
    SAID_RUNNING = "said running"
    SAID_SUCCESS = "said success"
    SAID_FAILED = "said failed"
    NOT_FOUND = "not found"
    OVERDUE = "overdue"
    STORED = "stored"
    ABANDON = "abandon"


_FOLLOWED = {
    Signal.SAID_RUNNING: None,
    Signal.SAID_SUCCESS: JobState.SUCCEEDED,
    Signal.SAID_FAILED: JobState.FAILED,
    Signal.NOT_FOUND: JobState.EXPIRED,
    Signal.ABANDON: JobState.ABANDONED,
}

# None: the signal is expected and changes nothing.
TRANSITIONS: MappingProxyType[JobState, dict[Signal, JobState | None]] = MappingProxyType(
    {
        JobState.PLANNED: {
            Signal.ACCEPTED: JobState.RUNNING,
            Signal.REFUSED: JobState.REJECTED,
            Signal.LOST_SIGHT: JobState.UNCONFIRMED,
            Signal.ABANDON: JobState.ABANDONED,
        },
        JobState.UNCONFIRMED: {Signal.ACCEPTED: JobState.RUNNING, Signal.ABANDON: JobState.ABANDONED},
        JobState.RUNNING: {**_FOLLOWED, Signal.OVERDUE: JobState.STALLED},
        JobState.STALLED: {**_FOLLOWED, Signal.OVERDUE: None},
        JobState.SUCCEEDED: {
            Signal.SAID_SUCCESS: None,
            Signal.STORED: JobState.DOWNLOADED,
            Signal.NOT_FOUND: JobState.EXPIRED,
            Signal.ABANDON: JobState.ABANDONED,
        },
        JobState.DOWNLOADED: {Signal.STORED: None},
        JobState.REJECTED: {},
        JobState.FAILED: {},
        JobState.EXPIRED: {},
        JobState.ABANDONED: {},
    }
)

FOLLOWED = frozenset({JobState.RUNNING, JobState.STALLED})
"""States in which the bridge is asked for the status."""

ENDED = frozenset(
    {
        JobState.UNCONFIRMED,
        JobState.REJECTED,
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.EXPIRED,
        JobState.DOWNLOADED,
        JobState.ABANDONED,
    }
)
"""States in which nothing more happens to the remote task that we could see."""

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
