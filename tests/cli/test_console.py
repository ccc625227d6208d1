"""What comes from outside is printed as it is."""

import ast
from pathlib import Path

import pytest
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import crynux_async.cli
from crynux_async.cli.console import open_console
from crynux_async.cli.plain import PlainOutput, one_line, open_output


@pytest.mark.parametrize("text", ["[red]x[/]", "[/]", "models[v2]", ":bomb:", "a" * 300, "word " * 60 + "end"])
@pytest.mark.parametrize("wrapped", [str, Text])
def test_text_from_outside_is_printed_literally_and_in_one_piece(
    text: str, wrapped: type, capsys: pytest.CaptureFixture[str]
) -> None:
    open_console().print(wrapped(text))
    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize("text", ["[red]x[/]", "[/]", "a" * 300])
def test_cell_of_a_table_is_printed_literally_and_uncut(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(box=None)
    table.add_column("what")
    table.add_row(text)
    open_console().print_page(table)
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("text", ["/home/" + "deep/" * 30 + "30.zip", "[red]x[/]"])
def test_page_wraps_words_and_breaks_no_path_in_two(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = Padding(Group(Text(f"{'word ' * 40}{text} {'word ' * 40}"), "second"), (0, 0, 0, 2), expand=False)
    open_console().print_page(page)
    lines = capsys.readouterr().out.splitlines()
    assert text in " ".join(lines)
    assert (any(text in line for line in lines), len(lines) > 3) == (True, True)
    assert max(len(line.rstrip()) for line in lines) <= max(80, 2 + len(text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title"),
        ("\x9b2J", "\\x9b2J"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("del\x7f", "del\\x7f"),
    ],
)
def test_control_is_spelt_out(text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    open_console(stderr=True).print(text)
    assert capsys.readouterr().err.rstrip("\n") == said


@pytest.mark.parametrize(
    "parts",
    [("a [red]b[/] :bomb:  ", ("c", "bold red"), ""), ("\x1b[31m\u202e", ("\x9b", "dim")), ("tab\tafter", "ü日本")],
)
def test_line_looks_without_rich_as_rich_prints_it_off_a_terminal(
    parts: tuple[str | tuple[str, str], ...], capsys: pytest.CaptureFixture[str]
) -> None:
    open_console().print_line(*parts)
    drawn = capsys.readouterr().out
    PlainOutput().print_line(*parts)
    assert capsys.readouterr().out == drawn


def test_line_keeps_its_styles_in_a_pipe_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    open_output().print_line(("red", "red"))
    assert "\x1b[" in capsys.readouterr().out


def test_line_ends_of_a_label_make_no_second_line() -> None:
    assert one_line("two\nlines\r\u2028\x85.") == "two\\nlines\\r\\u2028\\x85."


def test_every_console_of_the_commands_is_the_literal_one() -> None:
    folder = Path(crynux_async.cli.__path__[0])
    makers = {
        path.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console"
    }
    assert makers == set()
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    assert [name for name, text in texts.items() if "rich.markup" in text or "markup=True" in text] == []
