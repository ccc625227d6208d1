"""Words that no command understands: what is wrong is named, with the help that tells what would be right."""

import pytest

from crynux_async.cli.app import start
from crynux_async.cli.exits import Exit
from crynux_async.version import __version__


def answer(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the command line says of words that it cannot follow."""
    monkeypatch.setattr("sys.argv", ["crynux-async", *words.split()])
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == Exit.USAGE
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "wrong", "where"),
    [
        ("jobs --foo", "--foo", "jobs"),
        ("jobs nope", "Nothing takes 'nope'.", "jobs"),
        ("sweep lst", '"lst". Did you mean "list"?', "sweep"),
        ("sweep list --foo", "--foo", "sweep list"),
        ("bridge keys foo", '"foo"', "bridge keys"),
    ],
)
def test_wrong_word_is_answered_with_the_help_of_its_command(
    words: str, wrong: str, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = answer(words, monkeypatch, capsys)
    assert wrong in said
    assert said.endswith(f"See 'crynux-async {where} --help'")


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("swep", 'Did you mean "sweep"?'),
        ("--json nope", "There is no command 'nope'."),
        ("--foo", "There is no command '--foo'."),
        ("--json jobs", "--json comes behind the command, as in 'crynux-async jobs --json'."),
    ],
)
def test_wrong_beginning_is_answered_with_the_list_of_commands(
    words: str, wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = answer(words, monkeypatch, capsys)
    assert wrong in said
    assert said.endswith("See 'crynux-async --help'")


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version_is_told(flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["crynux-async", flag])
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == Exit.DONE
    assert capsys.readouterr().out == f"{__version__}\n"
