"""What a case is."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import attrs


class Verdict(StrEnum):
    """How a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class SkippedError(Exception):
    """This machine lacks what the case needs; the message says what."""


@attrs.frozen(kw_only=True)
class Context:
    """What a case gets.

    Attributes:
        seeds: How often to repeat what is random, >= 1. Fewer is faster and proves less.
        folder: A private folder, empty.
    """

    seeds: int
    folder: Path


@attrs.frozen(kw_only=True)
class Case:
    """One fault and its pass condition.

    Attributes:
        name: Its short name, such as "R1".
        fault: What is done.
        run: Does it and returns what was seen, in a few words; raises AssertionError where the condition does not hold
            and SkippedError where it cannot be done here.
    """

    name: str
    fault: str
    run: Callable[[Context], str]


@attrs.frozen(kw_only=True)
class Result:
    """What became of a case.

    Attributes:
        name: The case.
        fault: What was done.
        verdict: How it ended.
        detail: What was seen, or why it failed or was skipped.
        seconds: Real time it took.
    """

    name: str
    fault: str
    verdict: Verdict
    detail: str
    seconds: float
