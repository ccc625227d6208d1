"""Regular expressions in a process of their own."""

import subprocess
import sys
from typing import Any

import pytest

from crynux_async.emulator.nodes import patterns
from crynux_async.emulator.nodes.patterns import matching

NAMES = ("mid_block.attn1.to_k", "mid_block.attn2.to_k", "conv_in")


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        (r".*attn2\.to_k", {NAMES[1]}),
        ("to_k", set()),
        (".*", set(NAMES)),
        (r"(?i)CONV_IN", {NAMES[2]}),
        (r"(?=conv).*", {NAMES[2]}),
        (r"[[a-z]\w+", {NAMES[2]}),  # a warning, no error
        ("(", set()),
        ("\ud800", set()),
        ("(" * 5000 + ")" * 5000, set()),
    ],
)
def test_expression_matches_whole_names_as_pythons_engine_does(pattern: str, matched: set[str]) -> None:
    assert matching(pattern, NAMES) == matched


@pytest.mark.parametrize("pattern", [r"(\w+\.?)+\.to_kk", r"(\w+\.?)+\.to_k", "(a|a)*b", "(.*)*x"])
def test_expression_that_never_ends_is_given_up(pattern: str) -> None:
    assert matching(pattern, ("a" * 40 + ".b.c.d.e.f.g", *NAMES)) is None


def test_expression_is_given_up_though_the_program_ignores_that_signal() -> None:
    program = (
        "import signal; signal.signal(signal.SIGVTALRM, signal.SIG_IGN)\n"
        "from crynux_async.emulator.nodes.patterns import matching\n"
        "print(matching('(a|a)*b', ('a' * 40,)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("None\n", 0)


def test_expression_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    run = subprocess.run

    def counted(*args: Any, **options: Any) -> Any:
        runs.append(args)
        return run(*args, **options)

    monkeypatch.setattr(patterns.subprocess, "run", counted)
    assert [matching("once|twice", NAMES) for _ in range(3)] == [frozenset()] * 3
    assert len(runs) == 1


@pytest.mark.parametrize("executable", ["", "/usr/bin/uwsgi", None])
def test_program_that_is_not_python_itself_is_not_started_anew(
    executable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(OSError, match="Python"):
        matching("never asked before", NAMES)
