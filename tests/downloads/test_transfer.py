"""The download engine against a service that misbehaves as told."""

import asyncio
import errno
import fcntl
import itertools
import os
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.archive.zip_members import reading
from crynux_async.backends.base import Validator
from crynux_async.clock import monotonic
from crynux_async.downloads import gathering
from crynux_async.downloads.gathering import Gatherer
from crynux_async.downloads.pace import Progress
from crynux_async.errors import (
    ArchiveError,
    CorruptArchiveError,
    DownloadError,
    IncompleteError,
    NotFoundError,
    ProtocolError,
    RateLimitedError,
    ServerError,
    TransportError,
    UnreachableError,
)
from crynux_async.testing import virtual_time_run
from tests.fake_result import (
    CONTENT,
    GONE,
    MONDAY,
    OPTIONS,
    OTHER,
    SIZE,
    TUESDAY,
    Answer,
    FakeService,
    fetch,
    leave_part,
    names_in,
    some_bytes,
    verify_is,
)

pytestmark = pytest.mark.usefixtures("writes_of_two_pieces")


# --- when all goes well


async def test_download_of_a_whole_result_leaves_the_file_and_nothing_else(path: Path) -> None:
    done = await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == {"7.zip"}
    assert (done.path, done.total_bytes, done.fetched_bytes) == (path, SIZE, SIZE)
    assert (done.resumed_from, done.attempts) == (0, 1)


async def test_download_without_verify_checks_the_length_alone(path: Path) -> None:
    await fetch(FakeService(b"no archive at all"), path, verify=None)
    assert path.read_bytes() == b"no archive at all"


async def test_download_of_an_empty_result_is_an_empty_file(path: Path) -> None:
    await fetch(FakeService(b""), path, verify=None)
    assert path.read_bytes() == b""


async def test_download_in_one_byte_pieces_is_the_same_file(path: Path) -> None:
    await fetch(FakeService(CONTENT[:300], Answer(piece=1)), path)
    assert path.read_bytes() == CONTENT[:300]


async def test_download_says_how_long_it_took(path: Path) -> None:
    done = await fetch(FakeService(CONTENT, Answer(pause=0.5)), path)
    assert done.seconds == pytest.approx(10 * 0.5)


async def test_download_reads_on_while_it_writes_until_enough_has_gathered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    service = FakeService(CONTENT[:6000], Answer(on_piece=lambda number: order.append(f"read {number}")))

    async def slow_write(self: Gatherer, pieces: list[bytes]) -> None:
        await asyncio.sleep(1)
        await original(self, pieces)
        order.append(f"written {self.written}")

    original = Gatherer._write
    monkeypatch.setattr(Gatherer, "_write", slow_write)
    monkeypatch.setattr(gathering, "GATHERED_BYTES", 2000)
    monkeypatch.setattr(gathering, "WORTH_A_WRITE", 1)
    await fetch(service, path)
    assert order == [
        *("read 0", "read 1", "read 2", "written 1000"),
        *("read 3", "read 4", "written 3000"),
        *("read 5", "written 5000", "written 6000"),
    ]


# --- continuing


async def test_download_cut_in_the_middle_asks_for_the_rest_of_the_same_version(path: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=3500))
    done = await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert service.requests == [(0, None), (3500, service.validator)]
    assert (done.fetched_bytes, done.attempts, done.resumed_from) == (SIZE, 2, 0)


async def test_download_that_ends_early_without_error_asks_for_the_rest(path: Path) -> None:
    service = FakeService(CONTENT, Answer(end_after=4000))
    await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert [start for start, _ in service.requests] == [0, 4000]


async def test_download_in_the_next_call_continues_the_part_file(path: Path, part: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=6000), GONE)
    with pytest.raises(NotFoundError):
        await fetch(service, path)
    assert part.read_bytes() == CONTENT[:6000]
    done = await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert (done.resumed_from, done.fetched_bytes) == (6000, SIZE - 6000)
    assert service.requests[-1] == (6000, service.validator)


async def test_download_that_was_complete_before_the_call_makes_no_request(path: Path) -> None:
    leave_part(path, CONTENT)
    service = FakeService(CONTENT)
    done = await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert service.requests == []
    assert (done.resumed_from, done.fetched_bytes, done.attempts) == (SIZE, 0, 0)


@pytest.mark.parametrize("note_text", ["", "{", "[]", "null", '{"owner": 1}', '{"owner": "", "total_bytes": "9"}'])
async def test_download_with_a_part_file_of_unknown_version_begins_again(
    path: Path, note: Path, note_text: str
) -> None:
    leave_part(path, OTHER[:6000])
    note.write_text(note_text)
    service = FakeService(CONTENT)
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert service.requests == [(0, None)]


async def test_download_with_a_part_file_without_note_begins_again(path: Path, note: Path) -> None:
    leave_part(path, OTHER[:6000])
    note.unlink()
    await fetch(FakeService(CONTENT), path, verify=None)
    assert path.read_bytes() == CONTENT


async def test_download_of_an_undated_result_begins_again_after_a_cut(path: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=6000), last_modified=None)
    await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert service.requests == [(0, None), (0, None)]


async def test_download_with_more_on_disk_than_there_should_be_begins_again(path: Path) -> None:
    leave_part(path, CONTENT + b"more")
    service = FakeService(CONTENT)
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert service.requests == [(0, None)]


# --- answers that must not be appended


async def test_download_of_a_changed_result_is_the_new_version_alone(path: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=6000), Answer(switch=(OTHER, TUESDAY)))
    done = await fetch(service, path, verify=None)
    assert path.read_bytes() == OTHER
    assert done.resumed_from == 0


async def test_download_of_a_result_that_changed_since_the_last_call_keeps_nothing_of_it(path: Path) -> None:
    leave_part(path, CONTENT[:6000])
    service = FakeService(OTHER, last_modified=TUESDAY)
    done = await fetch(service, path, verify=None)
    assert path.read_bytes() == OTHER
    assert (done.resumed_from, done.fetched_bytes) == (0, SIZE)


@pytest.mark.parametrize(
    "lie", [Validator(last_modified=TUESDAY, total_bytes=SIZE), Validator(last_modified=MONDAY, total_bytes=SIZE + 1)]
)
async def test_download_of_a_range_of_another_version_begins_again(path: Path, lie: Validator) -> None:
    service = FakeService(CONTENT, Answer(cut_after=6000), Answer(pretend=lie, spoil=lambda body: b"x" * len(body)))
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert [start for start, _ in service.requests] == [0, 6000, 0]


async def test_download_from_a_service_that_ignores_ranges_begins_again(path: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=6000), Answer(ignore_range=True))
    done = await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert done.fetched_bytes == SIZE + 6000


async def test_download_answered_from_another_byte_asks_again_and_keeps_what_it_has(path: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=6000), Answer(pretend_start=5000))
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert [start for start, _ in service.requests] == [0, 6000, 6000]


async def test_download_from_a_service_that_cannot_do_ranges_asks_for_everything_in_the_end(path: Path) -> None:
    broken = Answer(error=ProtocolError("a part of a result came without saying which"))
    service = FakeService(CONTENT, Answer(cut_after=6000), broken, broken, broken, broken)
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert [start for start, _ in service.requests] == [0, 6000, 6000, 6000, 6000, 0]


async def test_download_keeps_what_it_has_when_ranges_fail_only_now_and_then(path: Path) -> None:
    page = Answer(error=ProtocolError("a proxy's page"))
    service = FakeService(CONTENT, Answer(cut_after=3000), page, page, page, Answer(cut_after=1000), page, page, page)
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert [start for start, _ in service.requests] == [0, 3000, 3000, 3000, 3000, 4000, 4000, 4000, 4000]


async def test_download_past_the_end_of_a_shorter_result_begins_again(path: Path) -> None:
    leave_part(path, CONTENT[:6000])
    service = FakeService(CONTENT[:4000])
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT[:4000]


async def test_download_with_more_bytes_than_announced_once_is_fetched_again(path: Path) -> None:
    service = FakeService(CONTENT, Answer(surplus=b"x" * 1500))
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert [start for start, _ in service.requests] == [0, 0]
    assert service.left_behind == 0


async def test_download_with_more_bytes_than_announced_twice_fails_and_writes_none_of_them(
    path: Path, part: Path
) -> None:
    service = FakeService(CONTENT, Answer(surplus=b"x"), Answer(surplus=b"x"))
    with pytest.raises(DownloadError, match=r"more than the announced 10000 bytes"):
        await fetch(service, path, verify=None)
    assert not path.exists()
    assert part.read_bytes() == CONTENT


async def test_download_of_a_result_that_always_changes_gives_up(path: Path) -> None:
    versions = [(some_bytes(SIZE, str(day)), f"Mon, {day:02d} Jan 2026 10:00:00 GMT") for day in range(1, 30)]
    service = FakeService(CONTENT, *(Answer(switch=version, cut_after=9000) for version in versions))
    with pytest.raises(DownloadError, match="changes again and again"):
        await fetch(service, path)
    assert len(service.requests) == OPTIONS.attempts + 2


# --- no size


async def test_download_without_a_size_is_final_once_the_service_says_that_no_more_follows(path: Path) -> None:
    service = FakeService(CONTENT, Answer(sized=False))
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert [start for start, _ in service.requests] == [0, SIZE]


async def test_download_without_a_size_that_ended_early_is_continued_where_the_size_is_told(path: Path) -> None:
    service = FakeService(CONTENT, Answer(sized=False, end_after=40))
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert service.sent == SIZE


async def test_download_without_a_size_ever_is_never_final(path: Path, part: Path) -> None:
    service = FakeService(CONTENT)
    service.default = Answer(sized=False, end_after=40, ignore_range=True)
    with pytest.raises(IncompleteError) as caught:
        await fetch(service, path, verify=None)
    assert (caught.value.received, caught.value.expected) == (40, None)
    assert names_in(path.parent) == {"7.zip.part", "7.zip.part.json"}
    assert service.sent == 40


async def test_download_without_size_and_date_fails_after_one_request(path: Path) -> None:
    service = FakeService(CONTENT, Answer(sized=False), last_modified=None)
    with pytest.raises(IncompleteError, match="Content-Length"):
        await fetch(service, path, verify=None)
    assert len(service.requests) == 1


# --- patience


@pytest.mark.parametrize(
    "error", [UnreachableError("no route"), TransportError("reset"), ServerError("502"), ProtocolError("a page")]
)
async def test_download_after_an_answer_that_does_not_count_asks_again(path: Path, error: Exception) -> None:
    service = FakeService(CONTENT, Answer(error=error))
    await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert monotonic() == pytest.approx(OPTIONS.retry_delay)


async def test_download_refused_for_good_fails_at_once(path: Path) -> None:
    service = FakeService(CONTENT, GONE)
    with pytest.raises(NotFoundError):
        await fetch(service, path)
    assert len(service.requests) == 1
    assert names_in(path.parent) == set()


async def test_download_told_to_wait_waits_that_long(path: Path) -> None:
    await fetch(FakeService(CONTENT, Answer(error=RateLimitedError("too many", wait=300.0))), path)
    assert monotonic() == pytest.approx(300)


async def test_download_without_progress_gives_up_after_the_attempts_with_growing_delays(path: Path) -> None:
    service = FakeService(CONTENT)
    service.default = Answer(error=ServerError("503"))
    with pytest.raises(IncompleteError, match="5 requests in a row") as caught:
        await fetch(service, path, options=attrs.evolve(OPTIONS, attempts=5, max_retry_delay=3.0))
    assert len(service.requests) == 5
    assert monotonic() == pytest.approx(1 + 2 + 3 + 3)
    assert isinstance(caught.value.__cause__, ServerError)


async def test_download_with_progress_in_every_request_never_gives_up(path: Path) -> None:
    service = FakeService(CONTENT)
    service.default = Answer(cut_after=100)
    await fetch(service, path, options=attrs.evolve(OPTIONS, attempts=1))
    assert path.read_bytes() == CONTENT
    assert len(service.requests) == 100


async def test_download_that_comes_no_further_than_before_gives_up_and_keeps_what_arrived(
    path: Path, part: Path
) -> None:
    service = FakeService(CONTENT)
    service.default = Answer(cut_after=5000, ignore_range=True)
    with pytest.raises(IncompleteError) as caught:
        await fetch(service, path)
    assert (caught.value.received, caught.value.expected) == (5000, SIZE)
    assert len(service.requests) == 1 + OPTIONS.attempts
    assert part.read_bytes() == CONTENT[:5000]


async def test_download_that_comes_less_far_every_other_time_gives_up(path: Path) -> None:
    cuts = [Answer(cut_after=cut, ignore_range=True) for cut in [5000, 3000] * 10]
    service = FakeService(CONTENT, *cuts)
    with pytest.raises(IncompleteError):
        await fetch(service, path, options=attrs.evolve(OPTIONS, attempts=4))
    assert len(service.requests) == 1 + 4


async def test_download_that_stalls_asks_for_the_rest_after_the_timeout(path: Path) -> None:
    service = FakeService(CONTENT, Answer(stall_after=3000))
    await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert [start for start, _ in service.requests] == [0, 3000]
    assert monotonic() == pytest.approx(OPTIONS.stall_timeout + OPTIONS.retry_delay)


async def test_download_that_is_never_answered_asks_again_after_the_timeout(path: Path) -> None:
    service = FakeService(CONTENT, Answer(opening=1e9))
    await fetch(service, path)
    assert monotonic() == pytest.approx(OPTIONS.stall_timeout + OPTIONS.retry_delay)


async def test_download_with_pauses_below_the_timeout_is_not_disturbed(path: Path) -> None:
    done = await fetch(
        FakeService(CONTENT, Answer(pause=59.0, opening=59.0)),
        path,
        options=attrs.evolve(OPTIONS, min_bytes_per_second=0),
    )
    assert done.attempts == 1


async def test_download_to_a_slow_disk_is_not_a_stall(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow_write(self: Gatherer, pieces: list[bytes]) -> None:
        await asyncio.sleep(500)
        await original(self, pieces)

    original = Gatherer._write
    monkeypatch.setattr(Gatherer, "_write", slow_write)
    monkeypatch.setattr(gathering, "GATHERED_BYTES", 1000)
    done = await fetch(FakeService(CONTENT[:4000]), path, options=attrs.evolve(OPTIONS, min_bytes_per_second=0))
    assert done.attempts == 1


async def test_download_that_stalls_after_its_last_byte_is_complete(path: Path) -> None:
    service = FakeService(CONTENT, Answer(stall_after=SIZE))
    done = await fetch(service, path)
    assert len(service.requests) == 1
    assert done.seconds == pytest.approx(OPTIONS.stall_timeout)


async def test_download_that_only_trickles_gives_up_and_keeps_what_arrived(path: Path, part: Path) -> None:
    service = FakeService(CONTENT)
    service.default = Answer(piece=20, pause=1.0)
    options = attrs.evolve(OPTIONS, attempts=3, min_bytes_per_second=21)
    with pytest.raises(IncompleteError, match="only 1200 bytes came in 60 seconds"):
        await fetch(service, path, options=options)
    assert len(service.requests) == 3
    assert part.read_bytes() == CONTENT[: 3 * 1200]


async def test_download_that_slows_down_after_a_good_minute_goes_on_with_another_connection(path: Path) -> None:
    def slow_down(number: int) -> None:
        if number == 70:
            answer.pause = 10.0

    answer = Answer(piece=50, pause=1.0, on_piece=slow_down)
    options = attrs.evolve(OPTIONS, min_bytes_per_second=40, attempts=1)
    done = await fetch(FakeService(CONTENT, answer), path, options=options)
    assert done.attempts == 2
    assert done.fetched_bytes == SIZE


async def test_download_with_the_trickle_rule_off_takes_any_trickle(path: Path) -> None:
    service = FakeService(CONTENT[:500], Answer(piece=1, pause=30.0))
    done = await fetch(service, path, options=attrs.evolve(OPTIONS, min_bytes_per_second=0))
    assert done.attempts == 1
    assert done.seconds == pytest.approx(500 * 30)


# --- verification


async def test_download_that_arrives_spoilt_once_is_fetched_again(path: Path) -> None:
    service = FakeService(CONTENT, Answer(spoil=lambda body: b"\x00" + body[1:]))
    await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == {"7.zip"}
    assert [start for start, _ in service.requests] == [0, 0]


async def test_download_that_is_the_same_and_bad_twice_is_put_aside_and_says_so(path: Path) -> None:
    service = FakeService(OTHER)
    with pytest.raises(CorruptArchiveError, match="the same bytes each time") as caught:
        await fetch(service, path, verify=verify_is(CONTENT))
    assert names_in(path.parent) == {"7.zip.corrupt"}
    assert path.with_name("7.zip.corrupt").read_bytes() == OTHER
    assert "7.zip.corrupt" in str(caught.value)
    assert isinstance(caught.value.__cause__, ArchiveError)
    assert len(service.requests) == 2


async def test_download_that_is_bad_twice_in_different_ways_says_so(path: Path) -> None:
    service = FakeService(
        CONTENT, Answer(spoil=lambda body: b"\x00" + body[1:]), Answer(spoil=lambda body: body[:-1] + b"\x00")
    )
    with pytest.raises(CorruptArchiveError, match="not the same each time"):
        await fetch(service, path)


async def test_file_that_the_disk_does_not_give_back_is_kept_and_not_called_corrupt(path: Path) -> None:
    def verify(where: Path) -> None:
        with reading(where):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(DownloadError, match="Input/output error; what arrived is kept") as caught:
        await fetch(FakeService(CONTENT), path, verify=verify)
    assert not isinstance(caught.value, CorruptArchiveError)
    assert names_in(path.parent) == {"7.zip.part", "7.zip.part.json"}
    service = FakeService(CONTENT)
    await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert not service.requests, "it is here already"


def lacks_memory(where: Path) -> None:
    raise MemoryError


def lacks_memory_for_a_member(where: Path) -> None:
    with reading(where):
        raise MemoryError


def lacks_memory_for_a_window(where: Path) -> None:
    with reading(where):
        raise zlib.error("Error -4 while decompressing data: insufficient memory")


@pytest.mark.parametrize("verify", [lacks_memory, lacks_memory_for_a_member, lacks_memory_for_a_window])
async def test_file_that_there_is_no_memory_to_verify_is_kept_and_not_called_corrupt(
    path: Path, verify: Callable[[Path], None]
) -> None:
    service = FakeService(CONTENT)
    with pytest.raises(DownloadError, match="not enough memory to verify it; what arrived is kept") as caught:
        await fetch(service, path, verify=verify)
    assert not isinstance(caught.value, CorruptArchiveError)
    assert names_in(path.parent) == {"7.zip.part", "7.zip.part.json"}
    await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert len(service.requests) == 1, "it is here already"


async def test_damaged_packed_bytes_are_the_files_fault(path: Path) -> None:
    def verify(where: Path) -> None:
        with reading(where):
            raise zlib.error("Error -3 while decompressing data: invalid block type")

    with pytest.raises(CorruptArchiveError, match="packed bytes are damaged: Error -3"):
        await fetch(FakeService(CONTENT), path, verify=verify)


async def test_download_with_a_corrupt_file_from_before_does_not_replace_it(path: Path) -> None:
    path.parent.mkdir()
    path.with_name("7.zip.corrupt").write_text("mine")
    with pytest.raises(CorruptArchiveError):
        await fetch(FakeService(OTHER), path, verify=verify_is(CONTENT), refetch=0)
    assert path.with_name("7.zip.corrupt").read_text() == "mine"
    assert path.with_name("7.zip.corrupt-2").read_bytes() == OTHER


async def test_download_that_is_corrupt_each_time_in_the_same_way_keeps_one_copy(path: Path) -> None:
    for _ in range(3):
        with pytest.raises(CorruptArchiveError, match=r"7\.zip\.corrupt"):
            await fetch(FakeService(OTHER), path, verify=verify_is(CONTENT), refetch=0)
    assert names_in(path.parent) == {"7.zip.corrupt"}


async def test_download_after_a_corrupt_one_begins_again(path: Path) -> None:
    with pytest.raises(CorruptArchiveError):
        await fetch(FakeService(OTHER), path, verify=verify_is(CONTENT), refetch=0)
    await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == CONTENT


async def test_refetch_that_is_cut_is_continued(path: Path) -> None:
    cuts = [Answer(cut_after=100) for _ in range(20)]
    service = FakeService(CONTENT, Answer(cut_after=9000, spoil=lambda body: b"\x00" + body[1:]), Answer(), *cuts)
    await fetch(service, path, options=attrs.evolve(OPTIONS, attempts=1))
    assert path.read_bytes() == CONTENT


async def test_verify_is_called_in_a_thread_on_the_part_file(path: Path, part: Path) -> None:
    seen: list[tuple[Path, bool]] = []
    await fetch(
        FakeService(CONTENT),
        path,
        verify=lambda where: seen.append((where, threading.current_thread() is threading.main_thread())),
    )
    assert seen == [(part, False)]


async def test_verify_that_cannot_read_the_file_is_a_download_error_and_keeps_it(path: Path, part: Path) -> None:
    def verify(where: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(where))

    with pytest.raises(DownloadError, match="Input/output error"):
        await fetch(FakeService(CONTENT), path, verify=verify)
    assert part.read_bytes() == CONTENT


async def test_part_file_that_somebody_shortened_is_fetched_again(path: Path, part: Path) -> None:
    service = FakeService(CONTENT, Answer(stall_after=SIZE))
    asyncio.get_running_loop().call_later(5, os.truncate, part, 10)
    await fetch(service, path, verify=None)
    assert path.read_bytes() == CONTENT
    assert len(service.requests) == 2


async def test_undamaged_file_that_is_not_what_it_should_be_is_fetched_once(path: Path) -> None:
    def verify(where: Path) -> None:
        raise ArchiveError(f"{where} holds no LoRA", is_undamaged=True)

    service = FakeService(CONTENT)
    with pytest.raises(CorruptArchiveError, match=r"arrived and is not good: .* holds no LoRA"):
        await fetch(service, path, verify=verify)
    assert len(service.requests) == 1
    assert names_in(path.parent) == {"7.zip.corrupt"}


async def test_result_that_announces_more_than_is_accepted_is_not_fetched(path: Path) -> None:
    service = FakeService(CONTENT)
    with pytest.raises(DownloadError, match="would be 10000 bytes long, and at most 9999 are accepted"):
        await fetch(service, path, most_bytes=SIZE - 1)
    assert service.sent == 0
    assert len(service.requests) == 1
    assert names_in(path.parent) == set()


async def test_result_that_announces_as_much_as_is_accepted_is_fetched(path: Path) -> None:
    await fetch(FakeService(CONTENT), path, most_bytes=SIZE)
    assert path.read_bytes() == CONTENT


# --- threads that cannot be had


async def test_download_without_a_thread_to_be_had_says_so_and_leaves_no_lock(
    path: Path, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    def break_threads(number: int) -> None:
        if number == 4:
            monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)

    with pytest.raises(RuntimeError, match="can't start new thread"):
        await fetch(FakeService(CONTENT, Answer(on_piece=break_threads, pause=3.0)), path)
    monkeypatch.undo()
    with part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await fetch(FakeService(CONTENT), path)


# --- progress


async def test_progress_is_reported_five_times_a_second_at_most_and_at_the_end(path: Path) -> None:
    seen: list[tuple[float, Progress]] = []
    service = FakeService(CONTENT, Answer(piece=10, pause=0.01))
    await fetch(service, path, on_progress=lambda progress: seen.append((monotonic(), progress)))
    times = [time for time, _ in seen]
    assert 40 <= len(seen) <= 51
    assert all(after - before >= 0.2 - 1e-9 for before, after in itertools.pairwise(times[:-1]))
    assert seen[-1][1].received_bytes == SIZE
    assert {progress.total_bytes for _, progress in seen} == {SIZE}
    assert seen[-2][1].bytes_per_second == pytest.approx(1000, rel=0.1)


async def test_progress_of_a_continued_download_counts_what_was_there_but_not_as_speed(path: Path) -> None:
    leave_part(path, CONTENT[:9000])
    seen: list[Progress] = []
    await fetch(FakeService(CONTENT, Answer(piece=100, pause=1.0)), path, on_progress=seen.append)
    assert seen[0].received_bytes == 9100
    assert max(progress.bytes_per_second for progress in seen) <= 100 + 1e-6


# --- whatever happens


_VERSIONS = [
    (some_bytes(size, str(size)), f"Mon, {day:02d} Jan 2026 10:00:00 GMT")
    for day, size in enumerate((5000, 9000, 9000, 12_345), 1)
]
_place = st.integers(0, 12_400)
_answer = st.one_of(
    st.builds(Answer, cut_after=_place),
    st.builds(Answer, end_after=_place),
    st.builds(Answer, stall_after=_place),
    st.builds(Answer, cut_after=_place, ignore_range=st.just(True)),
    st.builds(Answer, cut_after=_place, switch=st.sampled_from(_VERSIONS)),
    st.builds(Answer, end_after=_place, sized=st.just(False)),
    st.builds(Answer, pretend_start=st.integers(1, 12_400)),
    st.builds(Answer, surplus=st.just(b"surplus"), ignore_range=st.booleans()),
    st.builds(Answer, error=st.sampled_from([ServerError("502"), ProtocolError("a page"), NotFoundError("gone")])),
)


async def fetch_until_done(service: FakeService, path: Path, calls: int) -> None:
    for _ in range(calls):
        try:
            await fetch(service, path, verify=None)
        except (NotFoundError, DownloadError):
            assert not path.exists()
        else:
            return
    raise AssertionError("the script is over and the download still fails")


@settings(max_examples=80, deadline=None)
@given(st.lists(_answer, max_size=8), st.sampled_from([300, 1000, 20_000]))
def test_final_file_is_always_one_whole_version(script: list[Answer], chunk_bytes: int) -> None:
    async def run(folder: str) -> None:
        path = Path(folder, "7.zip")
        service = FakeService(_VERSIONS[0][0], *script, last_modified=_VERSIONS[0][1])
        await fetch_until_done(service, path, len(script) + 1)
        assert path.read_bytes() in [content for content, _ in _VERSIONS]
        assert names_in(path.parent) == {"7.zip"}

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # slow, and of no effect unless the machine stops
        virtual_time_run(lambda: run(folder))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.builds(Answer, cut_after=st.integers(0, SIZE)), st.just(GONE)), max_size=8))
def test_cuts_of_an_unchanged_result_cost_no_byte_twice(script: list[Answer]) -> None:
    async def run(folder: str) -> None:
        path = Path(folder, "7.zip")
        service = FakeService(CONTENT, *script)
        await fetch_until_done(service, path, len(script) + 1)
        assert path.read_bytes() == CONTENT
        assert service.sent == SIZE

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # slow, and of no effect unless the machine stops
        virtual_time_run(lambda: run(folder))
