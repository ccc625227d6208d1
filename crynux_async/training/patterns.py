r"""Which names a regular expression matches, found out in bounded time.

Nodes use Python's engine, and so does this module, because no other has the same outcome. That engine tries every way
to read a name, and it cannot be interrupted: for ``(\w+\.?)+\.to_kk`` there are more ways than anybody can wait for,
and an event loop would stand still meanwhile. An expression with few ways is tried at once. Any other is tried in a
process of its own, which the system ends when its time is over.

Source: peft tuners_utils.check_target_module_exists (``re.fullmatch`` on the name of every module).
"""

import json
import math
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Final, Literal

import attrs

from crynux_async.values import Value

SECONDS: Final = 0.1
"""Seconds of computing that an expression gets; usual ones take a thousandth."""

# Seconds, by the clock: to start Python on a busy machine may take some of them.
_LONGEST_START: Final = 30.0
_LONGEST_NAME: Final = 64
_LONGEST_PATTERN: Final = 5_000
_MOST_WAYS: Final = 20_000

# A repeated group multiplies with itself; what follows "(?", "(?:" aside, may do anything.
_IS_REPEATED: Final = r"\)\s*[*+?{]|\(\?(?!:)"

# The timer counts what the process computes, so a busy machine changes nothing. What the signal does by default ends
# the process even inside the engine; a handler in Python would wait until the engine is done.
_PROGRAM: Final = """
import json, re, signal, sys
pattern, names, seconds = json.load(sys.stdin)
signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
try:
    compiled = re.compile(pattern)
except (re.error, RecursionError, OverflowError):
    names = []
json.dump([name for name in names if compiled.fullmatch(name)], sys.stdout)
"""


@attrs.frozen
class Matches(Value):
    """What a regular expression matches.

    Attributes:
        names: The names that it matches whole; none when it is no regular expression.
        outcome: "known"; "too long" when it was given up; "untried" when no process could be started.
    """

    names: frozenset[str] = frozenset()
    outcome: Literal["known", "too long", "untried"] = "known"


def matches(pattern: str, names: Sequence[str]) -> Matches:
    """Return what a regular expression matches, after ``SECONDS`` of computing at most.

    Args:
        pattern: The expression.
        names: Names of at most 64 characters.
    """
    return Matches(_here(pattern, names)) if is_quick(pattern) else _elsewhere(pattern, names)


def is_quick(pattern: str) -> bool:
    """Return whether an expression is tried at once; any other waits for a process of its own."""
    return ways(pattern) <= _MOST_WAYS


def ways(pattern: str) -> float:
    """Return a bound for the ways to read a name of 64 characters; infinite when there is none.

    Each repetition can end at every character, but no two of them in another order; each choice doubles the ways.
    """
    if len(pattern) > _LONGEST_PATTERN or re.search(_IS_REPEATED, pattern):
        return math.inf
    repetitions = sum(map(pattern.count, "*+{"))
    choices = sum(map(pattern.count, "?|"))
    if repetitions + choices > _LONGEST_NAME:
        return math.inf
    places: float = _LONGEST_NAME**repetitions / math.factorial(repetitions)
    return places * 2.0**choices * (1 + pattern.count("("))


def _here(pattern: str, names: Sequence[str]) -> frozenset[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return frozenset()
    return frozenset(name for name in names if compiled.fullmatch(name))


def _elsewhere(pattern: str, names: Sequence[str]) -> Matches:
    import subprocess

    if not _is_interpreter(sys.executable):
        return Matches(outcome="untried")
    # Isolated and without site: nobody else's code runs there, and it starts sooner.
    command = [sys.executable, "-I", "-S", "-W", "ignore", "-c", _PROGRAM]
    question = json.dumps([pattern, list(names), SECONDS]).encode()
    try:
        # The command is our own; the expression is data on its standard input.
        done = subprocess.run(  # noqa: S603
            command, input=question, capture_output=True, timeout=_LONGEST_START, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return Matches(outcome="untried")
    if done.returncode == -signal.SIGVTALRM:
        return Matches(outcome="too long")
    return Matches(frozenset(json.loads(done.stdout))) if done.returncode == 0 else Matches(outcome="untried")


def _is_interpreter(executable: str | None) -> bool:
    """Whether a program is Python itself, and not one that has Python inside: that one would start anew."""
    name = os.path.basename(executable or "").lower()
    return name.startswith(("python", "pypy")) and not getattr(sys, "frozen", False)
