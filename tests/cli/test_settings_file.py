"""Values put into a settings file: where they stand, before its tables, and nothing else is touched."""

import stat
import tomllib
from pathlib import Path

import pytest

from crynux_async.cli.settings_file import default_settings_file, put_settings, settings_in
from crynux_async.errors import UsageError


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
