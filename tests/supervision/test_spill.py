"""Tasks that were accepted while the ledger could not be told: they are kept in a file, and come back."""

import json
import logging
from pathlib import Path

import pytest

from crynux_async.errors import LedgerError
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
