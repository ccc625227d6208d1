"""The error tree: as drawn, picklable, with its facts as attributes."""

import copy
import inspect
import pickle
import re
from collections.abc import Iterator
from typing import Any

import pytest

from crynux_async import errors
from crynux_async.errors import (
    BackendError,
    BudgetExceededError,
    ConfigError,
    ConflictError,
    CrynuxError,
    IncompleteError,
    LeaseLostError,
    LedgerBusyError,
    LedgerError,
    Problem,
    RangeError,
    RateLimitedError,
    SettingsError,
    SubmissionUnknownError,
    WaitTimeoutError,
)

FACTS: dict[str, Any] = {"job_id": "j", "task_id": 7, "url": "https://b.example/v1", "field": "rank"}
ANSWER: dict[str, Any] = {"status": 400, "answer": "what the bridge said"}
OWN_FACTS: dict[type[CrynuxError], dict[str, Any]] = {
    RateLimitedError: {"wait": 59.94},
    RangeError: {"total_bytes": 100},
    IncompleteError: {"received": 10, "expected": 20},
    ConflictError: {"differences": {"rank": (4, 8)}},
    BudgetExceededError: {"budget": "sweep", "amount": 3 * 10**18, "limit": 5 * 10**18, "held": 10**18, "spent": 2**70},
    LedgerError: {"path": "jobs.db"},
    LedgerBusyError: {"path": "jobs.db"},
    LeaseLostError: {"path": "jobs.db", "job_ids": ("j", "k")},
}


def subclasses(cls: type[CrynuxError]) -> Iterator[type[CrynuxError]]:
    yield cls
    for below in cls.__subclasses__():
        yield from subclasses(below)


ALL = sorted(
    {cls for cls in subclasses(CrynuxError) if cls.__module__ == errors.__name__ and not cls.__name__.startswith("_")},
    key=lambda cls: cls.__name__,
)
WITH_ANSWER = [cls for cls in ALL if issubclass(cls, BackendError | SubmissionUnknownError)]


def make(cls: type[CrynuxError]) -> CrynuxError:
    if issubclass(cls, ConfigError | SettingsError):
        return cls([Problem(field="rank", message="is wrong"), Problem(field="seed", message="is wrong")])
    answer = ANSWER if cls in WITH_ANSWER else {}
    return cls("what happened", **FACTS, **answer, **OWN_FACTS.get(cls, {}))


def facts_of(error: CrynuxError) -> tuple[Any, ...]:
    return type(error), str(error), error.args, vars(error)


def drawn_tree() -> dict[str, str]:
    """Return the parent of each class in the drawing at the top of the module."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:│   |    |├── |└── )*)([A-Z]\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            if depth:
                parents[match[2]] = above[depth - 1]
    return parents


def real_parent(cls: type[CrynuxError]) -> str:
    return next(base.__name__ for base in cls.__mro__[1:] if not base.__name__.startswith("_"))


def test_tree_is_as_drawn() -> None:
    assert drawn_tree() == {cls.__name__: real_parent(cls) for cls in ALL if cls is not CrynuxError}


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigError", ValueError),
        ("SettingsError", ValueError),
        ("UsageError", RuntimeError),
        ("WaitTimeoutError", TimeoutError),
    ],
)
def test_error_with_a_builtin_meaning_is_one_of_that_kind(name: str, builtin: type[Exception]) -> None:
    assert issubclass(getattr(errors, name), builtin)


@pytest.mark.parametrize("cls", ALL)
def test_every_error_keeps_what_it_was_given(cls: type[CrynuxError]) -> None:
    error = make(cls)
    given = {"field": "rank"} if issubclass(cls, ConfigError | SettingsError) else {**FACTS, **OWN_FACTS.get(cls, {})}
    assert {name: getattr(error, name) for name in given} == given


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_every_error_survives_pickling_with_all_its_facts(cls: type[CrynuxError], protocol: int) -> None:
    error = make(cls)
    error.add_note("a note")
    assert facts_of(pickle.loads(pickle.dumps(error, protocol))) == facts_of(error)


@pytest.mark.parametrize("cls", ALL)
def test_copy_of_every_error_is_equal_and_independent(cls: type[CrynuxError]) -> None:
    error = make(cls)
    twin = copy.copy(error)
    assert facts_of(twin) == facts_of(error)
    twin.job_id = "another"
    assert error.job_id != "another"


@pytest.mark.parametrize("cls", ALL)
def test_facts_of_every_error_are_none_when_not_given(cls: type[CrynuxError]) -> None:
    arguments: tuple[Any, ...] = ([],) if issubclass(cls, ConfigError | SettingsError) else ("what happened",)
    required = OWN_FACTS[cls] if cls in {IncompleteError, BudgetExceededError, LeaseLostError} else {}
    error = cls(*arguments, **required)
    assert {getattr(error, name) for name in FACTS} == {None}


@pytest.mark.parametrize("cls", WITH_ANSWER)
def test_text_of_an_error_is_its_message_and_not_the_whole_answer(cls: type[CrynuxError]) -> None:
    error = make(cls)
    assert str(error) == "what happened"
    assert ANSWER["answer"] not in repr(error)


@pytest.mark.parametrize("cls", ALL)
def test_every_error_has_a_docstring_and_ends_in_error(cls: type[CrynuxError]) -> None:
    assert cls.__name__.endswith("Error")
    assert inspect.getdoc(cls) != inspect.getdoc(cls.__base__)


def test_error_with_problems_lists_each_on_a_line_of_its_own() -> None:
    assert str(make(ConfigError)) == "this config cannot be sent: 2 problems\n  rank: is wrong\n  seed: is wrong"


def test_error_with_one_problem_says_so() -> None:
    assert "1 problem\n" in str(SettingsError([Problem(field="rank", message="is wrong")]))


def test_wait_timeout_caught_as_timeout_has_its_job() -> None:
    with pytest.raises(TimeoutError) as caught:
        raise WaitTimeoutError("waiting ended", job_id="j")
    assert isinstance(caught.value, WaitTimeoutError)
    assert caught.value.job_id == "j"
