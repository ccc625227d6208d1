"""Regular expressions for module names, in bounded time."""

import math
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crynux_async.training import patterns
from crynux_async.training.patterns import Matches, matches, ways
from crynux_async.training.unet_modules import module_sizes

NAMES = tuple(module_sizes())
PIECES = (
    ".*",
    ".+",
    ".?",
    ".*?",
    "(.|..)",
    "(a|.)",
    r"\w*",
    "[a-z_0-9.]*",
    ".{0,60}",
    "(.*)",
    "(.?)",
    "x",
    r"\.to_k",
    "$",
)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (r".*attn2\.to_k", 16),  # as the node's code was seen to select
        ("to_k", 0),
        ("(", 0),
        ("*", 0),
        ("(" * 5000 + ")" * 5000, 0),
        (r"[[c]\w+", 4),  # conv_in, conv_out, conv_norm_out, conv_act; "[[" is warned of, and no error
    ],
)
def test_expression_matches_whole_names(pattern: str, count: int) -> None:
    found = matches(pattern, NAMES)
    assert found.outcome == "known"
    assert len(found.names) == count


@pytest.mark.parametrize(
    "pattern",
    [
        r"(\w+\.?)+\.to_kk",
        r"(\w+\.?)+\.to_k",  # it selects, and a node would never know it
        "(.*)*x",
        r"(?:\w+\.?)+ x",
        r"(?x) ( \w+ \.? ) + \.to_kk",
        ".*.*.*.*.*.*.*.*x",
        ".?" * 40 + "x",
        "(.|..)" * 40 + "x",
    ],
)
def test_expression_that_never_ends_is_given_up(pattern: str) -> None:
    assert matches(pattern, NAMES) == Matches(outcome="too long")


@pytest.mark.parametrize(
    "pattern", [r"(?:.*\.)?to_k", r"(?i).*TO_K", r"(?=down).*attn\d\.(to_k|to_v)", r"(\w+\.)+to_k"]
)
def test_expression_tried_elsewhere_matches_what_it_would_here(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: (runs.append(args), run(*args, **options))[1])
    elsewhere = matches(pattern, NAMES)
    monkeypatch.setattr(patterns, "ways", lambda _: 1)
    assert elsewhere == matches(pattern, NAMES)
    assert (len(runs), len(elsewhere.names) >= 16) == (1, True)


@pytest.mark.parametrize("pattern", [r".*attn2\.to_k", r".*\.(to_k|to_q|to_v|to_out\.0)", "up_blocks.*attn.*"])
def test_usual_expression_needs_no_process(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    assert matches(pattern, NAMES).names


def tries(pieces: Sequence[str], name: str) -> int:
    """How many ways into a name an engine goes that tries all of them: each piece at every end that it can have."""
    if not pieces:
        return 1
    ends = [end for end in range(len(name) + 1) if re.fullmatch(pieces[0], name[:end])]
    alike = 2 if pieces[0] == "(a|.)" and name[:1] == "a" else 1  # both of its choices fit
    return 1 + alike * sum(tries(pieces[1:], name[end:]) for end in ends)


@given(
    st.lists(st.sampled_from(PIECES), max_size=14), st.sampled_from(["a" * 64, "x" * 63 + "a", "down_blocks.0." * 4])
)
@settings(max_examples=100)
def test_expression_that_is_tried_at_once_has_no_more_ways_than_were_counted(pieces: list[str], name: str) -> None:
    pattern = "".join(pieces)
    assume(ways(pattern) <= 20_000)
    # Each way is gone into at every piece of the expression.
    assert tries(pieces, name) <= ways(pattern) * (len(pieces) + 1)


@pytest.mark.parametrize(
    "pattern", ["(a*)*", "(a+){2,}", "(a?) ?", "(?=a)", r"(?P<x>a)", "a" * 6000, "|" * 70, "a*" * 70]
)
def test_expression_whose_ways_cannot_be_counted_has_no_bound(pattern: str) -> None:
    assert ways(pattern) == math.inf


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi", "/opt/my_app", None])
def test_program_that_is_not_python_itself_is_not_started_anew(
    executable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(subprocess, "run", None)
    assert matches("(a*)*", NAMES) == Matches(outcome="untried")


def test_frozen_program_is_not_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "run", None)
    assert matches("(a*)*", NAMES) == Matches(outcome="untried")


@pytest.mark.parametrize("error", [OSError("no more processes"), subprocess.TimeoutExpired("python", 30)])
def test_expression_is_untried_where_no_process_can_be_started(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert matches("(a*)*", NAMES) == Matches(outcome="untried")
