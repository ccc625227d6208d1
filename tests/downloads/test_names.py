"""Names of archives: from templates, portable, never taken twice."""

import asyncio
import errno
import json
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crynux_async.downloads.names import MAX_NAME_BYTES, archive_name, release_path, reserve_path, unused_path
from crynux_async.errors import DownloadError, NotFoundError, UsageError
from tests.fake_result import CONTENT, GONE, MONDAY, SIZE, Answer, FakeService, fetch, names_in

FACTS: dict[str, str | int | None] = {
    "task_id": 7,
    "job_id": "j-1",
    "label": "cats",
    "model_name": "runwayml/stable-diffusion-v1-5",
}


def owner_of(path: Path) -> str:
    note = json.loads(path.with_name(path.name + ".part.json").read_bytes())
    return str(note["owner"])


# Templates


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{task_id}.zip", "7.zip"),
        ("{task_id}-{label}.zip", "7-cats.zip"),
        ("{model_name} {task_id}", "runwayml-stable-diffusion-v1-5-7.zip"),
        ("{{{label}}}.zip", "{cats}.zip"),
        ("results/{task_id}.zip", "results-7.zip"),
        ("..\\..\\{task_id}.ZIP", "7.zip"),
        ("{task_id}.zip.part", "7.zip.part.zip"),
        ("lora", "lora.zip"),
        ("", "archive.zip"),
        ("...", "archive.zip"),
        ("CON", "_CON.zip"),
        ("com1.{task_id}.zip", "_com1.7.zip"),
        ("console", "console.zip"),
        ("-rf {task_id}", "rf-7.zip"),
        ("a\x00b\nc\u202ed", "a-b-c-d.zip"),
        ('a<b>c:d"e|f?g*h', "a-b-c-d-e-f-g-h.zip"),
        ("Katze u\u0308ber", "Katze-\u00fcber.zip"),
    ],
)
def test_archive_name_from_template_is_portable(template: str, name: str) -> None:
    assert archive_name(template, **FACTS) == name


def test_archive_name_without_label_leaves_no_trace_of_it() -> None:
    assert archive_name("{task_id}-{label}.zip", task_id=7, label=None) == "7.zip"


def test_archive_name_with_unknown_placeholder_names_the_possible_ones() -> None:
    with pytest.raises(UsageError, match=r"\{seed\}.*\{job_id\}, \{label\}, \{model_name\}, \{task_id\}"):
        archive_name("{seed}.zip", **FACTS)


@pytest.mark.parametrize("template", ["{task_id", "task_id}", "{}", "{0}", "{label.upper}", "{label[0]}"])
def test_archive_name_from_nonsense_is_refused(template: str) -> None:
    with pytest.raises(UsageError):
        archive_name(template, **FACTS)


@pytest.mark.parametrize("template", ["{task_id:>1000000000}", "{label!r}", "{task_id:{label}}"])
def test_archive_name_with_formatting_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="a name alone"):
        archive_name(template, **FACTS)


@given(st.text(), st.text())
@example("x" * 300, "")
@example("\ud800", "\U0001f431" * 100)
@example("NUL", "\u2028")
def test_archive_name_of_anything_is_safe_everywhere(label: str, model_name: str) -> None:
    name = archive_name("{label}{model_name}", label=label, model_name=model_name)
    stem = name.removesuffix(".zip")
    assert len(name.encode()) <= MAX_NAME_BYTES
    assert name != stem
    assert name == os.path.basename(name) == unicodedata.normalize("NFC", name)
    assert stem
    assert stem == stem.strip(" .-")
    assert not set(name) & set('<>:"/\\|?*')
    assert all(character.isprintable() or unicodedata.category(character) == "Cn" for character in name)
    assert stem.partition(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT9"}


# Names that are taken


@pytest.mark.parametrize("taken", ["7.zip", "7.zip.part", "7.zip.part.json"])
def test_unused_path_passes_over_what_is_there(tmp_path: Path, taken: str) -> None:
    assert unused_path(tmp_path, "7.zip") == tmp_path / "7.zip"
    (tmp_path / taken).touch()
    assert unused_path(tmp_path, "7.zip") == tmp_path / "7-2.zip"
    (tmp_path / "7-2.zip").touch()
    assert unused_path(tmp_path, "7.zip") == tmp_path / "7-3.zip"


def test_unused_path_passes_over_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "7.zip").symlink_to("nowhere")
    assert unused_path(tmp_path, "7.zip") == tmp_path / "7-2.zip"


def test_unused_path_of_a_long_name_stays_short_enough(tmp_path: Path) -> None:
    name = archive_name("\u00fc" * 300)
    (tmp_path / name).touch()
    again = unused_path(tmp_path, name).name
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
