"""The file of keys: whole at every moment, private from its first byte on, and shared by processes."""

import fcntl
import os
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from crynux_async.backends.bridge import key_book
from crynux_async.backends.bridge.kept_keys import KeptKeys
from crynux_async.backends.bridge.key_book import BridgeKey, KeyBook
from crynux_async.errors import SettingsError
from crynux_async.secret import Secret
from crynux_async.settings import Settings

BRIDGE = "http://127.0.0.1:5028"


def key(name: str, **changes: object) -> BridgeKey:
    values: dict[str, object] = {
        "api_key": Secret(name.ljust(43, "x") + "="),
        "bridge": BRIDGE,
        "made_at": datetime(2026, 1, 1, tzinfo=UTC),
        "expires_at": datetime(2027, 1, 1, tzinfo=UTC),
        "roles": ("chat",),
        "rate_limit": 60,
        "use_limit": -1,
    }
    return BridgeKey(**{**values, **changes})  # type: ignore[arg-type]


def test_keys_come_back_in_the_order_in_which_they_were_put(tmp_path: Path) -> None:
    book = KeyBook(tmp_path / "a" / "keys.json")
    first, second, elsewhere = key("first"), key("second", roles=("chat", "admin")), key("third", bridge="http://other")
    for one in (first, second, elsewhere):
        book.put(one)
    book.put(attrs.evolve(first, is_ready=True))
    assert KeyBook(book.path).keys(BRIDGE) == [attrs.evolve(first, is_ready=True), second]
    book.remove(first.api_key)
    assert book.keys(BRIDGE) == [second]
    assert book.keys("http://other") == [elsewhere]


def test_file_that_is_not_there_has_no_keys(tmp_path: Path) -> None:
    assert KeyBook(tmp_path / "keys.json").keys(BRIDGE) == []


def test_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        KeyBook(tmp_path / "keys.json").put(key("first"))
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_cut_at_any_step_of_a_write_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = KeyBook(tmp_path / "keys.json")
    book.put(key("first"))
    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, _killed)
            with pytest.raises(KeyboardInterrupt):
                book.put(key("second"))
        assert book.keys(BRIDGE) == [key("first")]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    books = [KeyBook(tmp_path / "keys.json") for _ in range(8)]
    threads = [
        threading.Thread(target=book.put, args=(key(f"k{number}{index}"),))
        for number, book in enumerate(books)
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(books[0].keys(BRIDGE)) == 32


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{}]}', '{"keys": [{"api_key": 1}]}'])
def test_file_of_another_kind_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    for call in (lambda: KeyBook(path).keys(BRIDGE), lambda: KeyBook(path).put(key("first"))):
        with pytest.raises(SettingsError, match=r"keys\.json is not a key file of this library; keep it"):
            call()
    assert path.read_text() == content


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        KeyBook(tmp_path / "file" / "keys.json").put(key("first"))


def test_lock_that_another_process_never_gives_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_book, "_PATIENCE", 0.0)
    book = KeyBook(tmp_path / "keys.json")
    book.put(key("first"))
    with book.path.with_name("keys.json.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SettingsError, match="is locked by another process"):
            book.put(key("second"))
    assert book.keys(BRIDGE) == [key("first")]


def test_key_shows_its_prefix_alone() -> None:
    shown = repr(key("q3hXHA_8secret"))
    assert "secret" not in shown
    assert key("q3hXHA_8secret").prefix == "q3hXHA_8"


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.real_time
async def test_kept_keys_are_named_by_their_fingerprints_and_a_damaged_file_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    book, own = KeyBook(tmp_path / "keys.json"), key("own")
    settings = Settings(base_url=BRIDGE, api_key=own.api_key, keys=str(book.path))
    kept = KeptKeys(settings)
    for each in (key("first"), own, key("elsewhere", bridge="http://other")):
        book.put(each)
    first = attrs.evolve(settings, api_key=key("first").api_key).key_id
    assert await kept.key_ids() == {first}
    whole = book.path.read_bytes()
    book.path.write_bytes(whole[:-20])
    with caplog.at_level("WARNING", "crynux_async.backends.bridge"):
        assert [await kept.key_ids() for _ in range(3)] == [frozenset()] * 3
        assert len(caplog.records) == 1
        book.path.write_bytes(whole)
        assert await kept.key_ids() == {first}
        book.path.write_bytes(whole[:-20])
        await kept.key_ids()
        assert len(caplog.records) == 2
