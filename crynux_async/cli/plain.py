"""Lines of text for people, printed as they are: where no terminal shows them, nothing of rich is needed for that.

What comes from outside may hold escape sequences that recolour a terminal, clear it or rewrite what stands in it: what
controls anything is spelt out here. ``console`` does the same for everything that rich draws.
"""

import os
import re
import sys
from typing import Protocol, TypeAlias

Part: TypeAlias = str | tuple[str, str]
"""A part of a line: a text, or a text and its style."""

_TAB_SIZE = 8
# Controls of C0 and C1, and what turns the direction of writing round (Unicode TR36, "bidirectional text spoofing").
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_LINE_ENDS = re.compile("[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_ASKED_FOR = ("FORCE_COLOR", "TTY_COMPATIBLE")  # by these rich may take for a terminal what is none


class Output(Protocol):
    """Where lines are printed."""

    @property
    def is_terminal(self) -> bool:
        """Whether it can show colours, and cuts or breaks what is wider than it."""

    @property
    def width(self) -> int:
        """Characters in a line."""

    def print_line(self, *parts: Part) -> None:
        """Print a line."""


class PlainOutput:
    """Standard output that is a file or a pipe."""

    is_terminal = False
    width = 80

    def print_line(self, *parts: Part) -> None:
        """Print a line, without its styles."""
        line = "".join(part if isinstance(part, str) else part[0] for part in parts)
        print(spelt(line.expandtabs(_TAB_SIZE)))  # noqa: T201  # the command's output


def open_output() -> Output:
    """Return where a command prints lines: plain where nobody would see more than that."""
    if not sys.stdout.isatty() and not any(name in os.environ for name in _ASKED_FOR):
        return PlainOutput()
    from crynux_async.cli.console import open_console  # here, as is said above

    return open_console()


def one_line(text: str) -> str:
    """Return a text from outside for a place in a line: a label of two lines must not look like two entries."""
    return spelt(_LINE_ENDS.sub(_code, text))


def spelt(text: str) -> str:
    """Return a text with every control in it spelt out, but for ends of lines."""
    return _CONTROL.sub(_code, text)


def _code(found: "re.Match[str]") -> str:
    return found[0].encode("unicode_escape").decode("ascii")
