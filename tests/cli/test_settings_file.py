"""Values put into a settings file: where they stand, before its tables, and nothing else is touched."""

import errno
import os
import stat
import tomllib
from pathlib import Path

import pytest

from crynux_async.backends.bridge.key_book import usual_book
from crynux_async.cli.ledger_place import existing_place, ledger_place
from crynux_async.cli.settings_file import default_settings_file, drop_settings, put_settings, settings_in
from crynux_async.errors import SettingsError, UsageError


def test_file_is_made_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "settings.toml"
    put_settings(path, {"api_key": "k", "rate_limit": 60})
    assert path.read_text() == 'api_key = "k"\nrate_limit = 60\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_value_is_changed_where_it_stands_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    table = '[table]\napi_key = "x"\n'
    path.write_text(f'# mine\nmax_polls = 8\napi_key="old"  # from Discord\n\n# api_key = "older"\n{table}')
    put_settings(path, {"api_key": 'new"', "base_url": "http://b"})
    changed = '# mine\nmax_polls = 8\napi_key = "new\\""\n\n# api_key = "older"\n'
    assert path.read_text() == f'{changed}base_url = "http://b"\n{table}'
    assert tomllib.loads(path.read_text())["api_key"] == 'new"'


def test_value_behind_a_byte_order_mark_is_changed_and_not_doubled(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(b'\xef\xbb\xbfapi_key = "old"\n')
    put_settings(path, {"api_key": "new"})
    assert settings_in(path) == {"api_key": "new"}


def test_file_that_is_no_toml_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("api_key = ")
    with pytest.raises(UsageError, match="cannot be read"):
        put_settings(path, {"api_key": "k"})
    assert path.read_text() == "api_key = "


def test_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert settings_in(tmp_path / "settings.toml") == {}


def test_place_is_that_from_which_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYNUX_SETTINGS", "/x/settings.toml")
    assert default_settings_file() == Path("/x/settings.toml")
    monkeypatch.setenv("CRYNUX_SETTINGS", " ")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_settings_file() == Path("/home/me/.config/crynux-async/settings.toml")


def test_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.toml"
    put_settings(path, {"api_key": "k"})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="cannot be written"):
        put_settings(path, {"api_key": "other"})
    assert [file.name for file in tmp_path.iterdir()] == ["settings.toml"]
    assert settings_in(path) == {"api_key": "k"}


def test_values_are_taken_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text('# mine\napi_key="k"\nmax_polls = 8\n[table]\napi_key = "x"\n')
    drop_settings(path, ("api_key", "rate_limit"))
    assert path.read_text() == '# mine\nmax_polls = 8\n[table]\napi_key = "x"\n'


@pytest.mark.parametrize("home", ["", "  "])
def test_user_without_a_home_is_told_which_variable_helps(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CRYNUX_SETTINGS", "CRYNUX_LEDGER", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    for place, variable in (
        (default_settings_file, "CRYNUX_SETTINGS"),
        (lambda: ledger_place(None), "CRYNUX_LEDGER"),
        (usual_book, "CRYNUX_KEYS"),
    ):
        with pytest.raises(SettingsError, match=f"HOME: is empty.*{variable}"):
            place()


def test_data_folder_that_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRYNUX_LEDGER", raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="set CRYNUX_LEDGER"):
        ledger_place(None, makes_folder=True)


def test_looking_for_a_ledger_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRYNUX_LEDGER", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(UsageError, match="there is no ledger"):
        existing_place(None)
    assert list(tmp_path.iterdir()) == []


def test_any_text_is_written_as_toml(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    put_settings(path, {"keys": "/home/mé/\N{FROG FACE}/keys.json"})
    assert settings_in(path) == {"keys": "/home/mé/\N{FROG FACE}/keys.json"}
