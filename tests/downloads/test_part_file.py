"""What a download leaves on disk: names that are taken, locks, full and failing disks, crashes, cancellation."""

import asyncio
import errno
import fcntl
import os
import shutil
import tempfile
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.clock import monotonic
from crynux_async.downloads import gathering
from crynux_async.downloads.transfer import DownloadedFile
from crynux_async.errors import ArchiveError, CorruptArchiveError, DownloadError, NotFoundError, ServerError
from crynux_async.testing import VirtualTimeLoop, virtual_time_run
from tests.fake_result import (
    CONTENT,
    GONE,
    OPTIONS,
    OTHER,
    SIZE,
    TUESDAY,
    Answer,
    FakeService,
    fetch,
    leave_part,
    names_in,
)

pytestmark = pytest.mark.usefixtures("writes_of_two_pieces")


# --- names that are taken


async def test_download_to_a_name_that_is_taken_touches_nothing_and_asks_nothing(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    service = FakeService(CONTENT)
    with pytest.raises(DownloadError, match="exists already"):
        await fetch(service, path)
    assert path.read_text() == "mine"
    assert names_in(path.parent) == {"7.zip"}
    assert service.requests == []


async def test_download_to_a_folder_says_so(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(DownloadError, match="is a folder"):
        await fetch(FakeService(CONTENT), path, adopt=True)


async def test_download_to_a_dangling_link_touches_nothing(path: Path) -> None:
    path.parent.mkdir()
    path.symlink_to("nowhere")
    with pytest.raises(DownloadError, match="exists already"):
        await fetch(FakeService(CONTENT), path, adopt=True)


async def test_download_whose_name_is_taken_meanwhile_keeps_both_files(path: Path, part: Path) -> None:
    service = FakeService(CONTENT, Answer(on_piece=take_name(path)))
    with pytest.raises(DownloadError, match="was taken while it was fetched"):
        await fetch(service, path)
    assert path.read_text() == "mine"
    assert part.read_bytes() == CONTENT
    path.unlink()
    done = await fetch(service, path)
    assert done.fetched_bytes == 0
    assert path.read_bytes() == CONTENT


async def test_adopted_file_is_verified_and_not_fetched(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    service = FakeService(CONTENT)
    done = await fetch(service, path, adopt=True)
    assert service.requests == []
    assert (done.total_bytes, done.resumed_from) == (SIZE, SIZE)
    assert names_in(path.parent) == {"7.zip"}


async def test_adopted_file_that_is_not_good_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(OTHER)
    with pytest.raises(DownloadError, match="is not good"):
        await fetch(FakeService(CONTENT), path, adopt=True)
    assert path.read_bytes() == OTHER
    assert names_in(path.parent) == {"7.zip"}


async def test_part_file_of_another_owner_is_not_touched(path: Path, part: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=6000), GONE)
    with pytest.raises(NotFoundError):
        await fetch(service, path, owner="job 1")
    with pytest.raises(DownloadError, match="reserved by job 1"):
        await fetch(FakeService(OTHER), path, owner="job 2")
    assert part.read_bytes() == CONTENT[:6000]
    done = await fetch(service, path, owner="job 1")
    assert done.resumed_from == 6000


async def test_part_file_that_is_a_link_is_not_followed(path: Path, part: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    (tmp_path / "mine").write_text("mine")
    part.symlink_to(tmp_path / "mine")
    with pytest.raises(DownloadError):
        await fetch(FakeService(CONTENT), path)
    assert (tmp_path / "mine").read_text() == "mine"


async def test_part_file_that_is_a_pipe_is_refused(path: Path, part: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(part)
    with pytest.raises(DownloadError, match="not a regular file"):
        await fetch(FakeService(CONTENT), path)


# --- two downloads of one name


async def test_second_download_of_a_name_is_refused_and_the_first_one_goes_on(path: Path) -> None:
    first = asyncio.create_task(fetch(FakeService(CONTENT, Answer(pause=1.0)), path))
    await asyncio.sleep(2.5)
    second = FakeService(CONTENT)
    with pytest.raises(DownloadError, match="another download is writing"):
        await fetch(second, path)
    assert second.requests == []
    await first
    assert path.read_bytes() == CONTENT


async def test_second_download_is_refused_after_the_first_one_began_again(path: Path) -> None:
    service = FakeService(CONTENT, Answer(cut_after=3000), Answer(ignore_range=True, pause=1.0))
    first = asyncio.create_task(fetch(service, path))
    await asyncio.sleep(5)
    with pytest.raises(DownloadError, match="another download is writing"):
        await fetch(FakeService(CONTENT), path)
    await first
    assert path.read_bytes() == CONTENT


async def test_download_on_a_disk_that_cannot_tell_files_apart_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with pytest.raises(DownloadError, match="another file each time"):
        await fetch(FakeService(CONTENT), path)


async def test_download_that_locks_what_another_one_has_just_finished_does_not_touch_it(
    path: Path, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish_first(descriptor: int, operation: int) -> None:
        if part.stat().st_size:
            part.rename(path)
        flock(descriptor, operation)

    leave_part(path, CONTENT[:6000])
    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", finish_first)
    with pytest.raises(DownloadError, match="is not touched"):
        await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == CONTENT[:6000]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
async def test_download_where_locks_do_not_exist_works(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == CONTENT


async def test_file_that_another_process_still_writes_is_verified_again_when_it_rests(path: Path, part: Path) -> None:
    times: list[int] = []

    def verify(where: Path) -> None:
        before = where.stat().st_mtime_ns
        if len(times) < 3:
            os.utime(where, ns=(0, len(times) + 1))
        times.append(before)
        if where.stat().st_mtime_ns != before:
            raise ArchiveError("was changed while it was read")

    service = FakeService(CONTENT)
    await fetch(service, path, verify=verify)
    assert len(times) == 4
    assert len(service.requests) == 1


async def test_file_that_never_rests_is_fetched_again_in_the_end(path: Path) -> None:
    def verify(where: Path) -> None:
        calls.append(where)
        os.utime(where, ns=(0, len(calls)))
        raise ArchiveError("was changed while it was read")

    calls: list[Path] = []
    with pytest.raises(CorruptArchiveError):
        await fetch(FakeService(CONTENT), path, verify=verify)
    assert len(calls) == 2 * 20


_TRANSFER = st.tuples(st.floats(0, 5), st.lists(st.tuples(st.integers(0, SIZE), st.floats(0, 2)), max_size=3))


@settings(max_examples=40, deadline=None)
@given(first=_TRANSFER, second=_TRANSFER)
def test_two_downloads_of_one_name_without_locks_both_end_with_the_right_file(first: Any, second: Any) -> None:
    async def one(path: Path, plan: Any) -> DownloadedFile:
        delay, cuts = plan
        service = FakeService(CONTENT, *(Answer(cut_after=cut, pause=pause) for cut, pause in cuts))
        await asyncio.sleep(delay)
        return await fetch(service, path, verify=None, adopt=True)

    async def both(folder: str) -> None:
        path = Path(folder, "7.zip")
        done = await asyncio.gather(one(path, first), one(path, second))
        assert [each.total_bytes for each in done] == [SIZE, SIZE]
        assert path.read_bytes() == CONTENT
        assert names_in(path.parent) == {"7.zip"}

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(fcntl, "flock", lambda *_: None)
        virtual_time_run(lambda: both(folder))


def _take_away(draft: str, target: str) -> None:
    os.unlink(draft)


def _move(draft: str, target: str) -> None:
    os.rename(draft, target)


def _make_anew(draft: str, target: str) -> None:
    os.unlink(draft)
    Path(draft).write_bytes(b"half")


@pytest.mark.parametrize("rival", [_take_away, _move, _make_anew])
async def test_draft_that_another_download_makes_and_moves_too_stops_none_without_locks(
    path: Path, monkeypatch: pytest.MonkeyPatch, rival: Callable[[str, str], None]
) -> None:
    def replace(draft: Any, target: Any) -> None:
        if os.fspath(draft).endswith(".new"):  # the names that every download of this file knows
            rival(os.fspath(draft), os.fspath(target))
            met.append(os.path.basename(draft))
        genuine(draft, target)

    genuine, met = os.replace, list[str]()
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(os, "replace", replace)
    leave_part(path, OTHER[:1000], dated=TUESDAY)
    done = await fetch(FakeService(CONTENT), path, verify=None)
    assert (done.total_bytes, path.read_bytes()) == (SIZE, CONTENT)
    assert names_in(path.parent) == {"7.zip"}
    assert set(met) == {"7.zip.part.new", "7.zip.part.json.new"}


# --- writing


@pytest.mark.parametrize(("pause", "sizes"), [(1.2, [1000, 1000, 1000]), (10.0, [500] * 6)])
async def test_small_pieces_gather_for_two_seconds_at_most(
    path: Path, monkeypatch: pytest.MonkeyPatch, pause: float, sizes: list[int]
) -> None:
    def counting_writev(descriptor: int, pieces: list[memoryview]) -> int:
        seen.append(sum(map(len, pieces)))
        return writev(descriptor, pieces)

    seen: list[int] = []
    writev = os.writev
    monkeypatch.setattr(os, "writev", counting_writev)
    await fetch(FakeService(CONTENT[: sum(sizes)], Answer(piece=500, pause=pause)), path)
    assert seen == sizes


async def test_last_piece_before_a_silence_is_soon_on_disk(path: Path, part: Path) -> None:
    task = asyncio.create_task(fetch(FakeService(CONTENT, Answer(stall_after=100)), path))
    await asyncio.sleep(2.1)
    assert part.read_bytes() == CONTENT[:100]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- the disk


def take_name(path: Path) -> Callable[[int], None]:
    """Return what puts a foreign file where a download is going to be."""

    def write(_: int) -> None:
        path.write_text("mine")

    return write


def limit_disk(monkeypatch: pytest.MonkeyPatch, room: int, at_once: int = SIZE) -> None:
    """Let every write take some bytes at most, and all writes together no more than there is room for."""
    left = room

    def writev(descriptor: int, pieces: list[memoryview]) -> int:
        nonlocal left
        data = b"".join(pieces)[: min(at_once, left)]
        if not data:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= len(data)
        return os.write(descriptor, data)

    monkeypatch.setattr(os, "writev", writev)


@pytest.mark.parametrize("gathered", [1000, 1 << 20])
async def test_download_to_a_disk_that_fills_up_keeps_every_byte_that_fits_and_is_continued(
    path: Path, part: Path, monkeypatch: pytest.MonkeyPatch, gathered: int
) -> None:
    monkeypatch.setattr(gathering, "GATHERED_BYTES", gathered)
    service = FakeService(CONTENT)
    with pytest.MonkeyPatch.context() as patch:
        limit_disk(patch, 6543)
        with pytest.raises(DownloadError, match=r"is full: 7\.zip needs 3457 more bytes, \d+ are free"):
            await fetch(service, path)
    assert part.read_bytes() == CONTENT[:6543]
    assert service.open == 0
    done = await fetch(service, path)
    assert path.read_bytes() == CONTENT
    assert (done.resumed_from, done.fetched_bytes) == (6543, SIZE - 6543)


@pytest.mark.parametrize("at_once", [300, 1000, 1700, 5000])
async def test_download_to_a_disk_that_takes_less_than_it_is_given_is_whole(
    path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    limit_disk(monkeypatch, SIZE, at_once)
    await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == CONTENT


_Usage = namedtuple("_Usage", "total used free")


async def test_download_that_cannot_fit_fails_before_it_reads_anything(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(10**6, 10**6 - 10_100, 10_100))
    service = FakeService(CONTENT)
    with pytest.raises(DownloadError, match="needs 10000 more bytes and 200 to spare, 10100 are free"):
        await fetch(service, path, options=attrs.evolve(OPTIONS, free_space_margin=200))
    assert service.sent == 0
    await fetch(service, path, options=attrs.evolve(OPTIONS, free_space_margin=100))
    assert path.read_bytes() == CONTENT


async def test_download_where_free_space_is_not_told_goes_ahead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(0, 0, 0))
    await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
async def test_download_to_a_folder_that_is_not_writable_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(name: Any, *arguments: Any, **options: Any) -> int:
        if str(name).endswith(".part"):
            raise OSError(code, os.strerror(code), name)
        return original(name, *arguments, **options)

    original = os.open
    monkeypatch.setattr(os, "open", refuse)
    service = FakeService(CONTENT)
    with pytest.raises(DownloadError, match="choose another folder or change its permissions") as caught:
        await fetch(service, path)
    assert str(path) in str(caught.value)
    assert service.requests == []


async def test_download_below_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DownloadError, match="file"):
        await fetch(FakeService(CONTENT), tmp_path / "file" / "7.zip")


async def test_download_to_an_overlong_name_says_so(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="File name too long"):
        await fetch(FakeService(CONTENT), tmp_path / ("x" * 300))


def record_calls(monkeypatch: pytest.MonkeyPatch, fail: Callable[[str], OSError | None] = lambda _: None) -> list[str]:
    """Record what makes a file durable and final, in order; the fsyncs of files and folders apart."""
    calls: list[str] = []

    def recorder(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **options: Any) -> Any:
            kind = name
            if name == "fsync":
                kind = "fsync folder" if os.path.isdir(f"/proc/self/fd/{first}") else "fsync file"
            elif not isinstance(first, int):
                kind = f"{name} {Path(first).name}"
            calls.append(kind)
            error = fail(kind)
            if error is not None:
                raise error
            return original(first, *rest, **options)

        return call

    for name in ("fsync", "link", "rename", "unlink"):
        monkeypatch.setattr(os, name, recorder(name, getattr(os, name)))
    return calls


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to tell files from folders")
async def test_publishing_syncs_the_file_names_it_syncs_the_folder_and_forgets_in_this_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = record_calls(monkeypatch)
    await fetch(FakeService(CONTENT), path)
    steps = ["fsync file", "link 7.zip.part", "unlink 7.zip.part", "fsync folder"]
    assert [call for call in calls if call in steps] == steps
    assert calls.index("fsync folder") < calls.index("unlink 7.zip.part.json") == len(calls) - 1


async def test_failed_fsync_of_the_file_is_never_published_and_never_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = FakeService(CONTENT)
    with pytest.MonkeyPatch.context() as patch:
        calls = record_calls(
            patch, lambda kind: OSError(errno.EIO, "Input/output error") if kind == "fsync file" else None
        )
        with pytest.raises(DownloadError, match="could not be made durable"):
            await fetch(service, path)
    assert calls.count("fsync file") == 1
    assert not [call for call in calls if call.startswith(("link", "rename"))]
    assert names_in(path.parent) == {"7.zip.part.json"}
    done = await fetch(service, path)
    assert done.fetched_bytes == SIZE
    assert path.read_bytes() == CONTENT


async def test_failed_fsync_of_the_folder_is_told_and_the_next_call_finishes(path: Path) -> None:
    service = FakeService(CONTENT)
    with pytest.MonkeyPatch.context() as patch:
        record_calls(patch, lambda kind: OSError(errno.EIO, "Input/output error") if kind == "fsync folder" else None)
        with pytest.raises(DownloadError, match="Input/output error"):
            await fetch(service, path)
    done = await fetch(service, path)
    assert done.fetched_bytes == 0
    assert names_in(path.parent) == {"7.zip"}


async def test_folder_that_cannot_be_synced_is_no_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_calls(
        monkeypatch, lambda kind: OSError(errno.EINVAL, "Invalid argument") if kind == "fsync folder" else None
    )
    await fetch(FakeService(CONTENT), path)
    assert names_in(path.parent) == {"7.zip"}


async def test_download_where_hard_links_do_not_exist_is_renamed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = record_calls(monkeypatch, lambda kind: OSError(errno.EPERM, "no") if kind.startswith("link") else None)
    await fetch(FakeService(CONTENT), path)
    assert "rename 7.zip.part" in calls
    assert names_in(path.parent) == {"7.zip"}


async def test_download_where_hard_links_do_not_exist_replaces_nothing(
    path: Path, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_calls(monkeypatch, lambda kind: OSError(errno.EPERM, "no") if kind.startswith("link") else None)
    service = FakeService(CONTENT, Answer(on_piece=take_name(path)))
    with pytest.raises(DownloadError, match="was taken while it was fetched"):
        await fetch(service, path)
    assert path.read_text() == "mine"
    assert part.read_bytes() == CONTENT


# --- what a crash leaves


async def test_crash_between_the_two_names_is_finished_without_a_request(path: Path, part: Path) -> None:
    leave_part(path, CONTENT)
    os.link(part, path)
    service = FakeService(CONTENT)
    await fetch(service, path)
    assert service.requests == []
    assert names_in(path.parent) == {"7.zip"}
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("empty_part", [False, True])
async def test_crash_before_the_note_was_removed_is_finished_without_a_request(
    path: Path, part: Path, empty_part: bool
) -> None:
    leave_part(path, CONTENT)
    part.rename(path)
    if empty_part:
        part.touch()
    service = FakeService(CONTENT)
    await fetch(service, path)
    assert service.requests == []
    assert names_in(path.parent) == {"7.zip"}


@pytest.mark.parametrize("arrived", [0, 100])
async def test_foreign_file_beside_a_note_of_another_size_is_not_taken_for_ours(path: Path, arrived: int) -> None:
    leave_part(path, CONTENT[:arrived])
    path.write_bytes(b"mine")
    with pytest.raises(DownloadError, match="is not touched"):
        await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == b"mine"


async def test_drafts_of_a_crash_are_in_nobodys_way_and_removed(path: Path) -> None:
    leave_part(path, CONTENT[:100], dated=None)
    path.with_name("7.zip.part.new").write_bytes(b"draft")
    path.with_name("7.zip.part.json.new").write_bytes(b"draft")
    await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == CONTENT
    assert names_in(path.parent) == {"7.zip"}


# --- cancellation


class StepLoop(VirtualTimeLoop):
    """A loop whose threads are callbacks, so that every run takes the same steps."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()

        def work() -> None:
            # A thread that has begun is not stopped by the cancellation of its future.
            try:
                result = func(*args)
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        self.call_soon(work)
        return future


async def cancel_at(step: int, how: str, path: Path) -> bool:
    """Cancel a download after some turns of the loop; return whether it was still running."""
    service = FakeService(CONTENT, Answer(cut_after=2500), Answer(spoil=lambda body: b"\x00" * len(body)))
    # No delay: a loop that is never idle hardly moves the clock.
    task = asyncio.create_task(fetch(service, path, options=attrs.evolve(OPTIONS, retry_delay=0.0)))
    for _ in range(step):
        await asyncio.sleep(0)
        if task.done():
            return False
    before = monotonic()
    for _ in range(2 if how == "twice" else 1):
        for each in asyncio.all_tasks() - {asyncio.current_task()} if how == "all tasks" else {task}:
            each.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert monotonic() - before < 0.001
    assert service.open == 0
    return True


@pytest.mark.parametrize("how", ["once", "twice", "all tasks"])
def test_download_cancelled_at_any_step_leaves_what_the_next_call_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def run(step: int) -> bool:
        path = tmp_path / str(step) / "7.zip"
        was_running = await cancel_at(step, how, path)
        assert not path.exists() or path.read_bytes() == CONTENT
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await fetch(FakeService(CONTENT), path, adopt=True)
        assert path.read_bytes() == CONTENT
        assert names_in(path.parent) == {"7.zip"}
        return was_running

    monkeypatch.setattr(os, "fsync", lambda _: None)  # takes most of the time and has no step of its own
    step = 0
    with asyncio.Runner(loop_factory=StepLoop) as runner:
        while runner.run(run(step)):
            step += 1
    assert step > 60


async def test_download_cancelled_while_it_writes_waits_for_the_write_and_keeps_what_was_read(
    path: Path, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, gate = threading.Event(), threading.Event()

    def slow_writev(descriptor: int, pieces: list[memoryview]) -> int:
        writing.set()
        gate.wait(30)
        return writev(descriptor, pieces)

    writev = os.writev
    monkeypatch.setattr(os, "writev", slow_writev)
    monkeypatch.setattr(gathering, "WORTH_A_WRITE", 1)
    service = FakeService(CONTENT, Answer(stall_after=5000))
    task = asyncio.create_task(fetch(service, path))
    await asyncio.to_thread(writing.wait, 30)
    while service.sent < 5000:
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert part.read_bytes() == CONTENT[:5000]
    done = await fetch(FakeService(CONTENT), path)
    assert done.resumed_from == 5000


async def test_download_in_more_pieces_than_one_write_takes_is_whole(path: Path) -> None:
    content = CONTENT[:5000]
    sizes: list[int] = []
    gate = threading.Event()

    def counting_writev(descriptor: int, pieces: list[memoryview]) -> int:
        gate.wait(30)  # until everything has gathered
        sizes.append(len(pieces))
        return writev(descriptor, pieces)

    def open_gate(number: int) -> None:
        if number == 4999:
            gate.set()

    writev = os.writev
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", counting_writev)
        await fetch(FakeService(content, Answer(piece=1, on_piece=open_gate)), path)
    assert path.read_bytes() == content
    assert max(sizes) == 512


async def test_download_cancelled_while_it_verifies_ends_at_once_and_keeps_the_part_file(
    path: Path, part: Path
) -> None:
    verifying, gate = threading.Event(), threading.Event()

    def verify(_: Path) -> None:
        verifying.set()
        gate.wait(30)

    task = asyncio.create_task(fetch(FakeService(CONTENT), path, verify=verify))
    await asyncio.to_thread(verifying.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not gate.is_set()
    assert part.read_bytes() == CONTENT
    gate.set()
    done = await fetch(FakeService(CONTENT), path)
    assert done.fetched_bytes == 0


async def test_download_cancelled_while_it_waits_to_ask_again_ends_at_once(path: Path) -> None:
    service = FakeService(CONTENT)
    service.default = Answer(error=ServerError("503"))
    task = asyncio.create_task(fetch(service, path))
    await asyncio.sleep(2.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert monotonic() == pytest.approx(2.5)


async def test_download_in_a_timeout_block_ends_with_a_timeout_error(path: Path, part: Path) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await fetch(FakeService(CONTENT, Answer(stall_after=5000)), path)
    assert part.read_bytes() == CONTENT[:5000]
