"""Help is drawn as it stands in the docstrings: a line that ends within a sentence would end there on the screen."""

import io
from collections.abc import Iterator

import pytest
from cyclopts import App
from rich.console import Console

from crynux_async.cli.app import COMMANDS, app_for


def commands(below: App, *words: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command, and of every group of commands."""
    yield words
    for name in below:
        if not name.startswith("-"):
            yield from commands(below[name], *words, name)


@pytest.mark.parametrize("words", list(commands(app_for(["run"]))), ids=" ".join)
def test_no_line_of_help_breaks_a_sentence_where_there_is_room_for_it(words: tuple[str, ...]) -> None:
    drawn = io.StringIO()
    app_for(words).help_print(list(words), console=Console(file=drawn, width=1000))
    lines = [line.strip("│ ") for line in drawn.getvalue().splitlines() if not line.startswith(("Usage", "╭", "╰"))]
    assert [line for line in lines if line and not line.endswith((".", ":", ";", "]", ")", "*"))] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_says_of_each_what_its_own_help_begins_with(name: str) -> None:
    _, line = COMMANDS[name]
    assert line == app_for([name])[name].help.splitlines()[0]
