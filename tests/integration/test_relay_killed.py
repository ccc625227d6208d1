"""Owners of a job at the relay die at some of its writes and calls; the scorecard's W1 to W3 take all of them."""

from pathlib import Path

import pytest

from benchmarks.scorecard.relay_crashes import killed_in_turn, killed_once

# Around planning, create, validation, upload and download of a life of some 260 moments, and of one of some 600.
SINGLE = [1, 4, 7, 9, 11, 12, 13, 60, 150, 180, 190, 200, 220, 240, 250]
SELECTED = [10, 13, 16, 18, 20, 22, 24, 26, 30, 34, 200, 250, 300, 350, 450, 550]


@pytest.mark.parametrize("fatal", SINGLE)
def test_job_whose_owner_dies_is_paid_once_and_brought_home_by_the_next(fatal: int, tmp_path: Path) -> None:
    killed_once(fatal, is_selected=False, folder=tmp_path)


@pytest.mark.parametrize("fatal", SELECTED)
def test_selected_job_whose_owner_dies_is_checked_and_paid_as_if_nobody_had(fatal: int, tmp_path: Path) -> None:
    killed_once(fatal, is_selected=True, folder=tmp_path)


@pytest.mark.parametrize("fatal", [[13, 5], [22, 22], [150, 9], [30, 60]])
@pytest.mark.parametrize("is_selected", [False, True])
def test_two_owners_that_die_in_turn_lose_and_pay_nothing(fatal: list[int], is_selected: bool, tmp_path: Path) -> None:
    killed_in_turn(fatal, is_selected=is_selected, folder=tmp_path)
