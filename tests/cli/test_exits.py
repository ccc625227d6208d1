"""Exit codes: every kind of error has one that was chosen for it."""

import inspect

import pytest

from crynux_async import errors
from crynux_async.cli.exits import _CODES, Exit, exit_code
from crynux_async.errors import BudgetExceededError, ConflictError, CrynuxError

KINDS = [
    kind
    for name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, CrynuxError) and kind is not CrynuxError and not name.startswith("_")
]


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_error_has_an_exit_code_of_its_own(kind: type[CrynuxError]) -> None:
    assert issubclass(kind, tuple(listed for listed, _ in _CODES))


@pytest.mark.parametrize("kind", [ConflictError, BudgetExceededError])
def test_what_was_refused_before_sending_is_no_job_that_ended_badly(kind: type[CrynuxError]) -> None:
    error = kind.__new__(kind)
    assert exit_code(error) is Exit.USAGE
