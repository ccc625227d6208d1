"""Where the trials of sweeps are, by the states of their jobs: all that a list of sweeps needs."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from crynux_async.states import GOOD, STAGES, JobState, Stage

if TYPE_CHECKING:
    from crynux_async.ledgers.rows import JobRow
    from crynux_async.report.values import TrialState

_ORDER = ("done", "running", "waiting", "failed", "unconfirmed", "stopped")


def state_of(state: JobState, *, is_set_aside: bool = False) -> "TrialState":
    """Return where a trial is whose job is in a state.

    Args:
        state: Of the job.
        is_set_aside: Whether it would not be sent: for want of money or of a credential, until its user says so, or
            because the sweep was stopped.
    """
    if state in GOOD:
        return "done"
    found = _STATES.get(state) or _BY_STAGE[STAGES[state]]
    return "stopped" if found == "waiting" and is_set_aside else found


def state_in(row: "JobRow") -> "TrialState":
    """Return where the trial of a job is, as far as its ledger knows; what waits with an error was set aside."""
    return state_of(row.state, is_set_aside=bool(row.error))


def counts_of(states: Iterable[str]) -> dict[str, int]:
    """Return how many trials are where, without the zeros."""
    counts = Counter(states)
    return {state: counts[state] for state in _ORDER if counts[state]}


_STATES: "Mapping[JobState, TrialState]" = {JobState.UNCONFIRMED: "unconfirmed", JobState.ABANDONED: "stopped"}
_BY_STAGE: "Mapping[Stage, TrialState]" = {
    Stage.SUBMIT: "waiting",
    Stage.FOLLOW: "running",
    Stage.FETCH: "done",
    Stage.OVER: "failed",
}
