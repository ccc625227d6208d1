"""``Settings``: where they come from, what is refused, and that the key shows itself nowhere."""

import copy
import logging
import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.errors import SettingsError
from crynux_async.secret import Secret
from crynux_async.settings import Settings

KEY = "q3hXHA_8O0LuGJ1_tou4_KamMlQqAo-aYwyAIDttdmI="


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("CRYNUX_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Write a settings file and return the environment that names it."""

    def write(text: str) -> dict[str, str]:
        path = tmp_path / "my.toml"
        path.write_text(text, encoding="utf-8")
        return {"CRYNUX_SETTINGS": str(path)}

    return write


def problems_of(**kwargs: Any) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(**{"environ": {}, **kwargs})
    return {problem.field: problem.message for problem in caught.value.problems}


# Where they come from


def test_settings_without_anything_are_those_of_the_official_bridge() -> None:
    settings = Settings.load(environ={})
    assert settings == Settings()
    assert (settings.base_url, settings.api_key) == ("https://bridge.crynux.io", None)


def test_argument_beats_environment_and_file(file: Callable[[str], dict[str, str]]) -> None:
    environ = {**file("max_polls = 1\n"), "CRYNUX_MAX_POLLS": "2"}
    assert Settings.load(environ=environ, max_polls=3).max_polls == 3


def test_environment_beats_file(file: Callable[[str], dict[str, str]]) -> None:
    assert Settings.load(environ={**file("max_polls = 1\n"), "CRYNUX_MAX_POLLS": "2"}).max_polls == 2


def test_file_beats_default(file: Callable[[str], dict[str, str]]) -> None:
    settings = Settings.load(environ=file(f'max_polls = 1\nrate_limit = 2.5\nprime_key = false\napi_key = "{KEY}"\n'))
    assert (settings.max_polls, settings.rate_limit, settings.prime_key) == (1, 2.5, False)
    assert settings.api_key == Secret(KEY)


def test_environment_of_the_process_counts_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYNUX_API_KEY", KEY)
    assert Settings.load().api_key == Secret(KEY)


def test_file_in_the_home_folder_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".config" / "crynux-async"
    folder.mkdir(parents=True)
    (folder / "settings.toml").write_text("max_polls = 9\n", encoding="utf-8")
    assert Settings.load(environ={}).max_polls == 9


def test_home_folder_that_cannot_be_known_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user without an entry
    assert Settings.load(environ={}) == Settings()


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_blank_argument_counts_as_not_given(blank: str | None) -> None:
    assert Settings.load(environ={"CRYNUX_API_KEY": KEY}, api_key=blank).api_key == Secret(KEY)


def test_blank_variable_counts_as_not_given(file: Callable[[str], dict[str, str]]) -> None:
    assert Settings.load(environ={**file("max_polls = 1\n"), "CRYNUX_MAX_POLLS": " "}).max_polls == 1


def test_false_and_zero_count_as_given() -> None:
    settings = Settings.load(environ={"CRYNUX_PRIME_KEY": "1"}, prime_key=False, close_timeout=0)
    assert (settings.prime_key, settings.close_timeout) == (False, 0.0)


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("Yes", True), ("on", True), ("0", False), ("no", False)]
)
def test_flag_in_the_environment_is_read_in_every_usual_way(text: str, value: bool) -> None:
    assert Settings.load(environ={"CRYNUX_TRUST_ENV": text}).trust_env is value


@pytest.mark.parametrize(("text", "value"), [("16", 16), (" 16 ", 16), ("16.0", 16)])
def test_whole_number_in_the_environment_is_read(text: str, value: int) -> None:
    polls = Settings.load(environ={"CRYNUX_MAX_POLLS": text}).max_polls
    assert (polls, type(polls)) == (value, int)


@pytest.mark.parametrize("url", ["http://localhost:5028/", " http://localhost:5028 ", "http://localhost:5028"])
def test_base_url_loses_spaces_and_last_slash(url: str) -> None:
    assert Settings.load(environ={}, base_url=url).base_url == "http://localhost:5028"


# What is refused


def test_wrong_settings_list_every_problem_at_once(file: Callable[[str], dict[str, str]]) -> None:
    environ = {**file("max_pols = 1\n"), "CRYNUX_RATE_LIMIT": "-1", "CRYNUX_BASE_URL": "nowhere"}
    problems = problems_of(environ=environ, ratelimit=5, read_timeout=0, api_key="short")
    assert set(problems) == {"max_pols", "ratelimit", "rate_limit", "base_url", "read_timeout", "api_key"}


@pytest.mark.parametrize("network", ["moonnet", "ftp://relay.example"])
def test_unknown_network_is_refused_with_the_address_of_a_relay_and_not_of_a_bridge(network: str) -> None:
    problem = problems_of(network=network)["network"]
    assert problem.startswith("must be mainnet, staging or the address of a relay")
    assert "such as https://relay." in problem
    assert "bridge" not in problem


@pytest.mark.parametrize(
    ("wrong", "near"), [("rate_limt", "rate_limit"), ("API_KEY", "api_key"), ("baseurl", "base_url")]
)
def test_unknown_argument_near_a_setting_says_which(wrong: str, near: str) -> None:
    assert f"did you mean {near}?" in problems_of(**{wrong: "x"})[wrong]


def test_unknown_name_in_the_file_says_which_file(file: Callable[[str], dict[str, str]]) -> None:
    environ = file("rate_limt = 5\n")
    message = problems_of(environ=environ)["rate_limt"]
    assert environ["CRYNUX_SETTINGS"] in message
    assert "rate_limit?" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            (name, value)
            for name in ("max_creates", "max_polls", "max_downloads", "max_connections")
            for value in (0, 1.5)
        ],
        *[(name, 0) for name in ("rate_limit", "rate_burst", "poll_delay", "min_poll_interval", "max_poll_rate")],
        *[(name, 0) for name in ("connect_timeout", "request_timeout", "read_timeout")],
        *[(name, -1) for name in ("unreachable_timeout", "close_timeout")],
        *[("rate_limit", value) for value in ("nan", "inf", True, "five", [5], 10**400)],
        *[("max_polls", value) for value in (True, "8.5", "nan", "inf", "many", -(10**400))],
        *[("prime_key", value) for value in ("perhaps", 2)],
        ("chunk_bytes", 4095),
        ("ca_bundle", "/nowhere/ca.pem"),
        *[("archives", value) for value in ("/nowhere/archives", __file__, "a\0b", 5)],
        *[("host", value) for value in ("a\nb", "h" * 254, 5)],
    ],
    ids=lambda value: str(value)[:20],
)
def test_setting_out_of_bounds_is_refused(name: str, value: Any) -> None:
    assert list(problems_of(**{name: value})) == [name]


@pytest.mark.parametrize(
    "url",
    [
        "bridge.crynux.io",
        "ftp://bridge.crynux.io",
        "https://",
        "https://:5028",
        "http://localhost:0",
        "http://localhost:65536",
        "http://localhost:port",
        "http://[::1",
        "http://local host",
        "http://local\nhost",
        "https://bridge.crynux.io/?",
        "https://bridge.crynux.io?a=b",
        "https://bridge.crynux.io#top",
        "https://user:password@bridge.crynux.io",
        5028,
    ],
)
def test_base_url_that_no_request_can_go_to_is_refused(url: Any) -> None:
    assert list(problems_of(base_url=url)) == ["base_url"]


def test_proxy_with_a_password_is_taken_and_not_shown() -> None:
    settings = Settings(proxy="http://me:pass@word@proxy.example:3128")
    assert settings.proxy == "http://me:pass@word@proxy.example:3128"
    assert "word" not in repr(settings)


def test_proxy_with_a_wrong_port_is_refused_without_its_password() -> None:
    message = problems_of(proxy="http://me:password@proxy.example:99999")["proxy"]
    assert "proxy.example" in message
    assert "password" not in message


@pytest.mark.parametrize(
    "key",
    ["abcdefg", f"Bearer {KEY}", f"{KEY[:20]}\n{KEY[20:]}", f"{KEY}\x00", f"{KEY[:-1]}é", f"{KEY}\u200b", KEY.encode()],
    ids=["short", "prefix", "newline", "nul", "accent", "zero width", "bytes"],
)
def test_key_that_no_key_looks_like_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(api_key=key)
    shown = "".join(traceback.format_exception(caught.value))
    assert caught.value.field == "api_key"
    assert KEY[:10] not in shown


def test_key_with_spaces_around_it_is_trimmed() -> None:
    assert Settings(api_key=f" {KEY}\n").api_key == Secret(KEY)


@pytest.mark.parametrize("content", [b"max_polls = [", b"\xff", b"max_polls"])
def test_file_that_cannot_be_parsed_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    assert str(path) in problems_of(environ={"CRYNUX_SETTINGS": str(path)})["CRYNUX_SETTINGS"]


def test_file_that_is_asked_for_and_missing_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "nothing.toml")
    said = problems_of(environ={"CRYNUX_SETTINGS": path})["CRYNUX_SETTINGS"]
    assert said == f"there is no file {path}; name another one, or leave the variable out"


# The key


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{0!r}".format,
        "%s".__mod__,
        lambda value: f"{value}",
        lambda value: f"{value!s:>10}",
        lambda value: str([value]),
        lambda value: str({"key": value}),
    ],
)
@pytest.mark.parametrize("value", [Secret(KEY), Settings(api_key=Secret(KEY))], ids=["secret", "settings"])
def test_key_is_masked_however_it_is_shown(value: Any, show: Callable[[Any], str]) -> None:
    text = show(value)
    assert "***" in text
    assert KEY not in text


@pytest.mark.parametrize("take", [attrs.asdict, attrs.astuple, lambda value: value.__getstate__()])
def test_key_is_masked_in_what_is_taken_out_of_settings(take: Callable[[Any], Any]) -> None:
    assert KEY not in str(take(Settings(api_key=Secret(KEY))))


def test_settings_have_no_dict_that_could_be_dumped() -> None:
    with pytest.raises(TypeError):
        vars(Settings())
    with pytest.raises(TypeError):
        vars(Secret(KEY))


def test_key_is_masked_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(api_key=Secret(KEY))
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("crynux_async.test").debug("%s %r %s", settings, settings.api_key, settings.api_key)
    assert "***" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("value", [Secret(KEY), Settings(api_key=Secret(KEY))], ids=["secret", "settings"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_key_is_never_pickled(value: Any, protocol: int) -> None:
    with pytest.raises(TypeError, match="CRYNUX_API_KEY"):
        pickle.dumps(value, protocol)


def test_settings_without_a_key_are_pickled() -> None:
    settings = Settings(max_polls=7)
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copy_of_settings_has_the_key(duplicate: Callable[[Settings], Settings]) -> None:
    settings = Settings(api_key=Secret(KEY))
    assert duplicate(settings) == settings


@pytest.mark.parametrize(
    "address", ["https://bridge.example/v1", "https://bridge.example/v1/", "https://bridge.example/v1/images/models"]
)
def test_address_with_the_version_or_a_route_is_refused_with_the_right_one(address: str) -> None:
    assert "https://bridge.example" in problems_of(base_url=address)["base_url"].rpartition(": ")[2]


def test_address_with_a_prefix_before_the_version_keeps_the_prefix() -> None:
    assert problems_of(base_url="https://proxy.example/crynux/v1")["base_url"].endswith("https://proxy.example/crynux")


def test_socks_proxy_is_refused_by_name() -> None:
    message = problems_of(proxy="socks5://me:hunter2@proxy.example:1080")["proxy"]
    assert "socks5" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    "address",
    [
        "me:hunter2@proxy.example:1080",
        "http:/me:hunter2@proxy.example:1080",
        "http//me:hunter2@proxy.example:1080",
        "http://me:un/hunter2@proxy.example:1080",
        "http://me:un@hunter2@proxy.example:port",
        "http://me:un\nhunter2@proxy.example",
        "htp://me:hunter2@proxy.example",
    ],
)
@pytest.mark.parametrize("name", ["proxy", "base_url", "network"])
def test_password_in_what_is_no_address_is_shown_nowhere(name: str, address: str) -> None:
    message = problems_of(**{name: address})[name]
    assert "proxy.example" in message
    assert "hunter2" not in message


def test_key_in_quotes_is_named(tmp_path: Path) -> None:
    assert "quotes" in problems_of(api_key='"q3hXHA_8O0LuGJ1_tou4_KamMlQqAo-aYwyAIDttdmI="')["api_key"]


@pytest.mark.parametrize("name", ["base_url", "proxy", "network"])
def test_address_in_quotes_is_named(name: str) -> None:
    assert "quotes" in problems_of(**{name: '"https://bridge.example"'})[name]


def test_settings_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_bytes(b"\xef\xbb\xbfrate_limit = 20\n")
    assert Settings.load(environ={"CRYNUX_SETTINGS": str(path)}).rate_limit == 20


def test_shared_folder_is_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archives").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Settings(archives="archives").archives == str(tmp_path / "archives")
    assert Settings.load(environ={"CRYNUX_ARCHIVES": "archives"}).archives == str(tmp_path / "archives")


def test_ca_bundle_in_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings.load(environ={"CRYNUX_CA_BUNDLE": "~/ca.pem"}).ca_bundle == str(tmp_path / "ca.pem")
