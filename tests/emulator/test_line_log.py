"""The logs of emulated servers."""

import os
from pathlib import Path

import pytest

from crynux_async.emulator.line_log import LineLog


def test_lines_are_found_again(tmp_path: Path) -> None:
    log = LineLog(tmp_path / "log")
    log.append({"a": 1})
    log.append({"b": "ü\n"})
    log.close()
    again = LineLog(tmp_path / "log")
    assert list(again) == [{"a": 1}, {"b": "ü\n"}]
    again.close()


@pytest.mark.parametrize("torn", [b"{", b'{"a":2', b'{"a":2}'])
def test_unfinished_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"a":1}\n' + torn)
    log = LineLog(path)
    log.append({"a": 3})
    assert list(log) == [{"a": 1}, {"a": 3}]
    log.close()


def test_line_is_on_the_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    log = LineLog(tmp_path / "log")
    log.append({"a": 1})
    log.append({"a": 2})
    log.close()
    assert sizes == [8, 16]


def test_log_that_need_not_be_durable_is_not_forced_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", calls.append)
    log = LineLog(tmp_path / "log", durable=False)
    log.append({"a": 1})
    log.close()
    assert not calls
