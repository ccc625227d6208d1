"""How many processors there are for this process."""

import os

import pytest

from crynux_async.processors import processors, verifying_at_once


def test_processors_that_this_process_may_not_use_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 7})
    assert processors() == 2
    assert verifying_at_once() == 1


@pytest.mark.parametrize(("counted", "expected"), [(None, 1), (1, 1), (6, 6)])
def test_all_count_where_the_system_does_not_tell_which_may_be_used(
    monkeypatch: pytest.MonkeyPatch, counted: int | None, expected: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: counted)
    assert processors() == expected
