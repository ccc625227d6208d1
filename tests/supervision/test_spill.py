"""Tasks that were accepted while the ledger could not be told: they are kept in a file, and come back."""

import errno
import fcntl
import json
import logging
import os
from pathlib import Path

import pytest

from crynux_async import files
from crynux_async.errors import LedgerBusyError, LedgerError
from crynux_async.supervision import spill
from crynux_async.supervision.spill import Spill


class Book:
    """Whom tasks are left to."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.left: list[tuple[str, int, str]] = []

    async def hand_over(self, job_id: str, attempt: int, task_id: str) -> None:
        if job_id in self.refused:
            raise LedgerError("there is no such job")
        self.left.append((job_id, attempt, task_id))


async def test_tasks_that_were_kept_are_given_back_once_in_their_order(tmp_path: Path) -> None:
    path, book = tmp_path / "spill.jsonl", Book()
    for number in (1, 2):
        Spill(path, "bridge").keep(f"job {number}", number, str(70 + number))
    await Spill(path, "bridge").give_back(book.hand_over)
    assert book.left == [("job 1", 1, "71"), ("job 2", 2, "72")]
    await Spill(path, "bridge").give_back(book.hand_over)
    assert len(book.left) == 2
    assert path.read_bytes() == b""


async def test_tasks_of_other_services_and_lines_that_are_none_stay(tmp_path: Path) -> None:
    path, book = tmp_path / "spill.jsonl", Book()
    Spill(path, "other").keep("theirs", 1, "1")
    with path.open("a") as file:
        file.write("torn {\n")
    Spill(path, "bridge").keep("mine", 1, "2")
    before = path.read_text().splitlines()
    await Spill(path, "bridge").give_back(book.hand_over)
    assert book.left == [("mine", 1, "2")]
    assert path.read_text().splitlines() == before[:2]


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\0\r",
        b"[" * 100_000,
        b'"mine"',
        b'{"backend": "bridge", "job_id": "a", "task_id": "1"}',
        b'{"backend": "bridge", "job_id": "a", "attempt": null, "task_id": "1"}',
        b'{"backend": "bridge", "job_id": "a", "attempt": 1e400, "task_id": "1"}',
        b'{"backend": "bridge", "job_id": "a", "attempt": 1, "task_id": null}',
        b'{"backend": "bridge", "job_id": "a", "attempt": 1, "task_',
    ],
)
async def test_line_that_is_damaged_keeps_no_other_from_being_given_back(tmp_path: Path, line: bytes) -> None:
    path, book = tmp_path / "spill.jsonl", Book()
    path.write_bytes(line)
    Spill(path, "bridge").keep("mine", 1, "2")
    await Spill(path, "bridge").give_back(book.hand_over)
    assert book.left == [("mine", 1, "2")]
    assert path.read_bytes().rstrip() == line.rstrip()


async def test_ledger_that_is_busy_is_not_waited_for_and_every_task_stays(tmp_path: Path) -> None:
    path = tmp_path / "spill.jsonl"
    Spill(path, "bridge").keep("a", 1, "1")
    before = path.read_bytes()

    async def hand_over(job_id: str, attempt: int, task_id: str) -> None:
        raise LedgerBusyError("another process holds the file")

    with pytest.raises(LedgerBusyError):
        await Spill(path, "bridge").give_back(hand_over)
    assert path.read_bytes() == before


async def test_disk_without_locks_keeps_tasks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int, __: Path, ___: float) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files, "lock_within", refuse)
    path, book = tmp_path / "spill.jsonl", Book()
    Spill(path, "bridge").keep("a", 1, "1")
    await Spill(path, "bridge").give_back(book.hand_over)
    assert book.left == [("a", 1, "1")]


async def test_task_that_cannot_be_left_now_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, book = tmp_path / "spill.jsonl", Book("a")
    for name in ("a", "b"):
        Spill(path, "bridge").keep(name, 1, f"task of {name}")
    with caplog.at_level(logging.ERROR):
        await Spill(path, "bridge").give_back(book.hand_over)
    assert book.left == [("b", 1, "task of b")]
    assert [json.loads(line)["job_id"] for line in path.read_text().splitlines()] == ["a"]
    assert "there is no such job" in caplog.text


async def test_file_is_private_and_made_only_when_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "spill.jsonl"
    await Spill(path, "bridge").give_back(Book().hand_over)
    assert not path.exists()
    Spill(path, "bridge").keep("a", 1, "1")
    assert path.stat().st_mode & 0o777 == 0o600


def test_file_that_cannot_be_written_is_logged_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Spill(tmp_path / "missing" / "spill.jsonl", "bridge").keep("a", 1, "71")
    assert "task 71 of job a" in caplog.text


def test_without_a_file_nothing_is_kept() -> None:
    Spill(None, "bridge").keep("a", 1, "1")


async def test_file_is_not_locked_while_a_task_is_handed_over_so_that_others_can_keep_theirs(tmp_path: Path) -> None:
    path = tmp_path / "spill.jsonl"
    Spill(path, "bridge").keep("a", 1, "1")

    async def hand_over(job_id: str, attempt: int, task_id: str) -> None:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # or this raises
        Spill(path, "bridge").keep("b", 1, "2")

    await Spill(path, "bridge").give_back(hand_over)
    assert [json.loads(line)["job_id"] for line in path.read_text().splitlines()] == ["b"]


async def test_lock_that_is_never_given_back_holds_nobody_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill, "_PATIENCE", 0.0)
    path, book = tmp_path / "spill.jsonl", Book()
    Spill(path, "bridge").keep("a", 1, "71")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        Spill(path, "bridge").keep("b", 1, "72")
        await Spill(path, "bridge").give_back(book.hand_over)
    assert "task 72 of job b" in caplog.text
    await Spill(path, "bridge").give_back(book.hand_over)
    assert book.left == [("a", 1, "71")]


async def test_task_that_is_cut_short_by_a_full_disk_does_not_spoil_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, book = tmp_path / "spill.jsonl", Book()

    def write_half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_all", write_half)
        Spill(path, "bridge").keep("a", 1, "1")
    Spill(path, "bridge").keep("b", 1, "2")
    await Spill(path, "bridge").give_back(book.hand_over)
    assert book.left == [("b", 1, "2")]
