"""How the ``bridge`` commands are typed, and what their help says."""

from pathlib import Path

import pytest

from crynux_async.cli import bridge_keys
from crynux_async.cli.app import make_app
from crynux_async.cli.bridge_folder import in_folder
from crynux_async.cli.exits import Exit

KEY = "-Q3hXHA_8O0LuGJ1"


@pytest.mark.parametrize("words", [["delete", "mine", KEY, "--force"], ["delete", "mine", "--force", "--", KEY]])
def test_key_that_begins_with_a_hyphen_can_be_named(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[str] = []

    async def delete(folder: Path, prefix: str, *, force: bool, ledger: Path | None) -> Exit:
        named.append(prefix)
        assert (folder, force, ledger) == (Path("mine"), True, None)
        return Exit.DONE

    monkeypatch.setattr(bridge_keys, "delete", delete)
    make_app()(["bridge", "keys", *words], result_action="return_value")
    assert named == [KEY]


@pytest.mark.parametrize("command", ["bridge", "bridge init", "bridge keys rotate", "check", "export"])
def test_help_of_a_command_that_needs_no_key_asks_for_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_app()([*command.split(), "--help"], result_action="return_value")
    out = capsys.readouterr().out
    assert "CRYNUX_API_KEY" not in out
    assert "Exit codes" in out


def test_help_of_the_whole_says_where_the_key_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    make_app()(["--help"], result_action="return_value")
    assert "CRYNUX_API_KEY" in capsys.readouterr().out


def test_advice_names_the_folder_as_it_is_typed() -> None:
    assert in_folder("crynux-async bridge up FOLDER", Path("my bridge")) == "crynux-async bridge up 'my bridge'"
