"""Where trials are, by what a ledger has of their jobs."""

import pytest

from crynux_async.ledgers.conformance.support import job
from crynux_async.states import JobState
from crynux_async.sweeps import TrialState
from crynux_async.sweeps.trial_states import counts_of, state_in


@pytest.mark.parametrize(
    ("state", "error", "where"),
    [
        (JobState.PLANNED, "", "waiting"),
        (JobState.PLANNED, "the budget is spent", "stopped"),
        (JobState.RUNNING, "", "running"),
        (JobState.UNCONFIRMED, "the answer was lost", "unconfirmed"),
        (JobState.SUCCEEDED, "", "done"),
        (JobState.DOWNLOADED, "", "done"),
        (JobState.FAILED, "no node could load it", "failed"),
        (JobState.ABANDONED, "", "stopped"),
    ],
)
def test_trial_is_where_its_job_is_and_stopped_where_that_waits_with_an_error(
    state: JobState, error: str, where: TrialState
) -> None:
    assert state_in(job("a", state=state, error=error)) == where


def test_counts_come_in_one_order_and_without_zeros() -> None:
    assert list(counts_of(["failed", "waiting", "done", "failed"]).items()) == [
        ("done", 1),
        ("waiting", 1),
        ("failed", 2),
    ]
