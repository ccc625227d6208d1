"""Who has which name in a folder: taken once, found again by its owner, given back."""

import asyncio
import errno
import fcntl
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crynux_async.downloads.names import MAX_NAME_BYTES, archive_name
from crynux_async.downloads.notes import Note, write_note
from crynux_async.downloads.reservations import forget_note, release_path, reserve_path
from crynux_async.errors import DownloadError, NotFoundError
from tests.fake_result import CONTENT, GONE, MONDAY, SIZE, Answer, FakeService, fetch, names_in


def owner_of(path: Path) -> str:
    note = json.loads(path.with_name(path.name + ".part.json").read_bytes())
    return str(note["owner"])


# Names that are taken


def test_reserve_path_passes_over_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "7.zip").symlink_to("nowhere")
    assert reserve_path(tmp_path, "7.zip") == tmp_path / "7-2.zip"


def test_reserve_path_of_a_long_name_stays_short_enough(tmp_path: Path) -> None:
    name = archive_name("\u00fc" * 300)
    (tmp_path / name).touch()
    again = reserve_path(tmp_path, name).name
    assert again != name
    assert len(again.encode()) <= MAX_NAME_BYTES
    assert again.endswith("-2.zip")


@pytest.mark.parametrize("taken", ["7.zip", "7.zip.part", "7.zip.part.json"])
def test_reserve_path_passes_over_what_is_there_and_leaves_it(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == tmp_path / "7-2.zip"
    assert names_in(tmp_path) == {taken, "7-2.zip.part.json"}
    assert (tmp_path / taken).read_text() == "mine"


def test_reserve_path_makes_the_folder(tmp_path: Path) -> None:
    path = reserve_path(tmp_path / "a" / "b", "7.zip", owner="job 1")
    assert owner_of(path) == "job 1"


def test_reserve_path_below_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="file"):
        reserve_path(tmp_path / "file", "7.zip")


def test_reserve_path_for_two_owners_gives_two_names(tmp_path: Path) -> None:
    first = reserve_path(tmp_path, "7.zip", owner="job 1")
    second = reserve_path(tmp_path, "7.zip", owner="job 2")
    assert (first.name, second.name) == ("7.zip", "7-2.zip")


def test_reserve_path_for_nobody_twice_gives_two_names(tmp_path: Path) -> None:
    assert reserve_path(tmp_path, "7.zip") != reserve_path(tmp_path, "7.zip")


def test_reserve_path_for_the_same_owner_gives_the_same_name(tmp_path: Path) -> None:
    reserve_path(tmp_path, "7.zip", owner="job 1")
    second = reserve_path(tmp_path, "7.zip", owner="job 2")
    assert reserve_path(tmp_path, "7.zip", owner="job 2") == second


def test_reserve_path_takes_over_the_empty_note_of_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / "7.zip.part.json").touch()
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    assert path == tmp_path / "7.zip"
    assert owner_of(path) == "job 1"


def test_reserve_path_on_a_full_disk_says_so_and_takes_nothing(tmp_path: Path) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", refuse)
        with pytest.raises(DownloadError, match="is full"):
            reserve_path(tmp_path, "7.zip", owner="job 1")
    assert names_in(tmp_path) == set()


def test_reserve_path_by_many_threads_gives_every_name_once(tmp_path: Path) -> None:
    (tmp_path / "7.zip.part.json").touch()
    with ThreadPoolExecutor(16) as threads:
        owners = [f"job {number}" for number in range(100)]
        paths = list(threads.map(lambda owner: reserve_path(tmp_path, "7.zip", owner=owner), owners))
    assert len(set(paths)) == 100
    assert [owner_of(path) for path in paths] == owners


def test_released_path_can_be_reserved_by_another(tmp_path: Path) -> None:
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    release_path(path, owner="job 1")
    assert names_in(tmp_path) == set()
    assert reserve_path(tmp_path, "7.zip", owner="job 2") == path


def test_release_of_what_another_owner_has_does_nothing(tmp_path: Path) -> None:
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    release_path(path, owner="job 2")
    assert owner_of(path) == "job 1"


def test_release_twice_does_nothing(tmp_path: Path) -> None:
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    release_path(path, owner="job 1")
    release_path(path, owner="job 1")


# Names and downloads together


async def test_reserved_path_is_continued_by_the_same_owner_after_a_failure(tmp_path: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=6000), GONE)
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    with pytest.raises(NotFoundError):
        await fetch(service, path, owner="job 1")
    release_path(path, owner="job 1")
    assert reserve_path(tmp_path, "7.zip", owner="job 2") == tmp_path / "7-2.zip"
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == path
    done = await fetch(service, path, owner="job 1")
    assert done.resumed_from == 6000


async def test_reserved_path_is_free_again_when_nothing_came(tmp_path: Path) -> None:
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    with pytest.raises(NotFoundError):
        await fetch(FakeService(CONTENT, GONE), path, owner="job 1")
    release_path(path, owner="job 1")
    assert names_in(tmp_path) == set()


async def test_finished_path_is_passed_over_by_the_next_reservation(tmp_path: Path) -> None:
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    await fetch(FakeService(CONTENT), path, owner="job 1")
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == tmp_path / "7-2.zip"


async def test_path_whose_note_a_crash_left_is_given_back_to_its_owner_and_finished(tmp_path: Path) -> None:
    path = tmp_path / "7.zip"
    path.write_bytes(CONTENT)
    note = {"owner": "job 1", "last_modified": MONDAY, "total_bytes": SIZE}
    path.with_name("7.zip.part.json").write_text(json.dumps(note))
    release_path(path, owner="job 1")
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == path
    done = await fetch(FakeService(CONTENT), path, owner="job 1")
    assert done.fetched_bytes == 0
    assert names_in(tmp_path) == {"7.zip"}


def test_reserved_path_that_a_foreign_file_took_is_passed_over(tmp_path: Path) -> None:
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    path.write_text("mine")
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == tmp_path / "7-2.zip"


async def test_many_jobs_of_one_name_all_get_their_own_file(tmp_path: Path) -> None:
    async def one(number: int) -> Path:
        content = f"result {number}".encode()
        path = await asyncio.to_thread(reserve_path, tmp_path, "lora.zip", owner=f"job {number}")
        await fetch(FakeService(content, Answer(pause=number % 3)), path, owner=f"job {number}")
        assert path.read_bytes() == content
        return path

    paths = await asyncio.gather(*(one(number) for number in range(20)))
    assert len(set(paths)) == 20
    assert names_in(tmp_path) == {path.name for path in paths}


# What earlier processes left


def leave_part_of(path: Path, owner: str, arrived: int) -> None:
    """Leave what a process leaves that was killed in the middle of a download."""
    path.with_name(f"{path.name}.part").write_bytes(CONTENT[:arrived])
    note = {"owner": owner, "last_modified": MONDAY, "total_bytes": SIZE}
    path.with_name(f"{path.name}.part.json").write_text(json.dumps(note))


@pytest.mark.parametrize("may_be_listed", [True, False])
async def test_own_part_is_continued_also_when_the_name_before_it_is_free_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_be_listed: bool
) -> None:
    (tmp_path / "cat.zip").write_text("another cat")
    leave_part_of(tmp_path / "cat-2.zip", "job 1", 9000)
    if may_be_listed:
        (tmp_path / "cat.zip").unlink()
    else:
        monkeypatch.setattr(os, "listdir", refuse_to_list)
    assert reserve_path(tmp_path, "cat.zip", owner="job 2").name != "cat-2.zip"
    path = reserve_path(tmp_path, "cat.zip", owner="job 1")
    assert path == tmp_path / "cat-2.zip"
    done = await fetch(FakeService(CONTENT), path, owner="job 1")
    assert (done.resumed_from, done.fetched_bytes) == (9000, 1000)


def refuse_to_list(folder: str) -> list[str]:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)


@pytest.mark.parametrize("blank", [b"", bytes(62)])
async def test_note_that_lost_its_bytes_with_the_power_costs_the_name_and_the_part_nothing(
    tmp_path: Path, blank: bytes
) -> None:
    leave_part_of(tmp_path / "7.zip", "job 1", 6000)
    (tmp_path / "7.zip.part.json").write_bytes(blank)
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    assert path == tmp_path / "7.zip"
    assert owner_of(path) == "job 1"
    await fetch(FakeService(CONTENT), path, owner="job 1")
    assert path.read_bytes() == CONTENT
    assert names_in(tmp_path) == {"7.zip"}


def test_blank_note_beside_a_part_that_somebody_writes_is_left_to_him(tmp_path: Path) -> None:
    leave_part_of(tmp_path / "7.zip", "job 1", 6000)
    (tmp_path / "7.zip.part.json").write_bytes(bytes(62))
    with (tmp_path / "7.zip.part").open("r+b") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        assert reserve_path(tmp_path, "7.zip", owner="job 2") == tmp_path / "7-2.zip"
    assert (tmp_path / "7.zip.part").read_bytes() == CONTENT[:6000]


@pytest.mark.parametrize("text", [b"[" * 60_000, b'{"owner":' * 10_000, b'{"owner": "job 1"}' + b" " * 70_000])
def test_note_nested_or_long_without_end_is_somebody_elses(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "7.zip.part.json").write_bytes(text)
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == tmp_path / "7-2.zip"
    assert (tmp_path / "7.zip.part.json").read_bytes() == text


@pytest.mark.parametrize("kind", ["pipe", "link to a pipe", "dangling link", "folder"])
def test_thing_in_the_place_of_a_note_is_passed_over_at_once(tmp_path: Path, kind: str) -> None:
    note, pipe = tmp_path / "7.zip.part.json", tmp_path / "pipe"
    match kind:
        case "pipe":
            os.mkfifo(note)
        case "link to a pipe":
            os.mkfifo(pipe)
            note.symlink_to(pipe)
        case "dangling link":
            note.symlink_to(tmp_path / "victim")
        case "folder":
            note.mkdir()
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == tmp_path / "7-2.zip"
    assert not (tmp_path / "victim").exists()


def test_lock_that_another_never_gives_back_holds_nobody_up(tmp_path: Path) -> None:
    note = tmp_path / "7.zip.part.json"
    note.touch()
    with note.open("r+b") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        assert reserve_path(tmp_path, "7.zip", owner="job 1") == tmp_path / "7-2.zip"


def test_name_among_thousands_is_found_without_looking_at_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 1500):
        (tmp_path / ("lora.zip" if number == 1 else f"lora-{number}.zip")).touch()
    looks: list[str] = []
    for module, name in ((os, "open"), (os, "stat"), (os, "lstat"), (os.path, "lexists")):
        monkeypatch.setattr(module, name, counting(looks, name, getattr(module, name)))
    assert reserve_path(tmp_path, "lora.zip", owner="job 1").name == "lora-1500.zip"
    assert len(looks) < 20


def counting(looks: list[str], name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def look(*arguments: Any, **options: Any) -> Any:
        looks.append(name)
        return original(*arguments, **options)

    return look


# Until the finished file is recorded


async def test_note_that_is_kept_gives_the_finished_file_back_to_its_owner_until_it_is_forgotten(
    tmp_path: Path,
) -> None:
    path = reserve_path(tmp_path, "7.zip", owner="job 1")
    await fetch(FakeService(CONTENT), path, owner="job 1", keep_note=True)
    assert names_in(tmp_path) == {"7.zip", "7.zip.part.json"}
    release_path(path, owner="job 1")
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == path
    done = await fetch(FakeService(CONTENT), path, owner="job 1", keep_note=True)
    assert done.fetched_bytes == 0
    forget_note(path, owner="job 1")
    assert names_in(tmp_path) == {"7.zip"}
    assert reserve_path(tmp_path, "7.zip", owner="job 1") == tmp_path / "7-2.zip"


def test_forget_note_leaves_those_of_others_and_of_files_that_are_not_finished(tmp_path: Path) -> None:
    for owner in ("job 1", "job 2"):
        write_note(tmp_path / f"{owner}.zip", Note(owner=owner))
    forget_note(tmp_path / "job 1.zip", owner="job 1")
    forget_note(tmp_path / "job 2.zip", owner="job 1")
    assert names_in(tmp_path) == {"job 1.zip.part.json", "job 2.zip.part.json"}
