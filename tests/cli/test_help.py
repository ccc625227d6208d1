"""Help is drawn as it stands in the docstrings: a line that ends within a sentence would end there on the screen."""

import io
import re
from collections.abc import Iterator

import pytest
from cyclopts import App
from rich.console import Console

from crynux_async.cli.app import COMMANDS, make_app, print_list


def commands(below: App, *words: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, and of every group of commands."""
    yield words
    for name in below:
        if not name.startswith("-"):
            yield from commands(below[name], *words, name)


@pytest.mark.parametrize("words", list(commands(make_app())), ids=" ".join)
def test_no_line_of_help_breaks_a_sentence_where_there_is_room_for_it(words: tuple[str, ...]) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, width=1000)
    if words:
        make_app().help_print(list(words), console=console)
    else:
        print_list(console)
    lines = [line.strip("│ ") for line in drawn.getvalue().splitlines() if not line.startswith(("Usage", "╭", "╰"))]
    assert [line for line in lines if line and not line.endswith((".", ":", ";", "]", ")", "*"))] == []


@pytest.mark.parametrize("words", [words for words in commands(make_app()) if words], ids=" ".join)
def test_usage_names_what_is_given_and_flags_have_no_default(words: tuple[str, ...]) -> None:
    drawn = io.StringIO()
    make_app().help_print(list(words), console=Console(file=drawn, width=1000))
    usage = drawn.getvalue().splitlines()[0]
    assert usage.startswith(f"Usage: crynux-async {' '.join(words)}")
    arguments = re.findall(r"^│ (?:\*  )?([A-Z_]+)  ", drawn.getvalue(), re.MULTILINE)
    assert re.findall(r" \[?([A-Z_]+)(?:\.\.\.)?\]?(?= |$)", usage)[-len(arguments) :] == arguments or not arguments
    assert "ARGS" not in usage
    assert "[default: False]" not in drawn.getvalue()


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_says_of_each_what_its_own_help_begins_with(name: str) -> None:
    _, line = COMMANDS[name]
    assert line == make_app()[name].help.splitlines()[0]


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_list_of_commands_looks_as_cyclopts_draws_it(width: int, is_terminal: bool) -> None:
    app = make_app()
    for name in COMMANDS:
        assert app[name].help  # what is said of a command is known once it is loaded
    drawn, listed = io.StringIO(), io.StringIO()
    app.help_print([], console=Console(file=drawn, width=width, force_terminal=is_terminal))
    print_list(Console(file=listed, width=width, force_terminal=is_terminal))
    assert listed.getvalue() == drawn.getvalue()
