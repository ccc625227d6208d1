"""What parallel downloads promise each other of a disk."""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import threading
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.downloads import disk as downloads_disk
from crynux_async.downloads.room import Room
from crynux_async.errors import CorruptArchiveError, DownloadError, ServerError
from tests.fake_result import OPTIONS, Answer, FakeService, fetch, leave_part, names_in, some_bytes, verify_is

_Usage = namedtuple("_Usage", "total used free")
BLOCK = 4096
CONTENT = some_bytes(100 * BLOCK)


class Disk:
    """A disk of its own size, in blocks of 4096 bytes, on which notes take no room."""

    def __init__(self, root: Path, size: int) -> None:
        self.root = root
        self.size = size

    @property
    def free(self) -> int:
        return self.size - sum(self._files().values())

    def _files(self) -> dict[int, int]:
        sizes: dict[int, int] = {}
        for path in self.root.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                taken = max(-(-status.st_size // BLOCK) * BLOCK, status.st_blocks * 512)
                sizes[status.st_ino] = 0 if ".json" in path.suffixes else taken
        return sizes

    def usage(self, _: object) -> _Usage:
        return _Usage(self.size, self.size - self.free, self.free)

    def refuses(self, descriptor: int, total_bytes: int) -> bool:
        status = os.fstat(descriptor)
        return total_bytes - max(status.st_size, status.st_blocks * 512) > self.free


@pytest.fixture
def keeping_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk with room for three results, whose file system keeps room for files if the one below does."""
    made = Disk(tmp_path, 320 * BLOCK)
    monkeypatch.setattr(shutil, "disk_usage", made.usage)
    real, lock = downloads_disk._fallocate(), threading.Lock()

    def allocate(descriptor: int, mode: int, start: int, size: int) -> None:
        assert real is not None
        with lock:
            if made.refuses(descriptor, size):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor, mode, start, size)

    monkeypatch.setattr(downloads_disk, "_fallocate", lambda: allocate if real else None)
    return made


@pytest.fixture(params=["keeps", "does not keep"])
def disk(request: pytest.FixtureRequest, keeping_disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Disk:
    if request.param == "does not keep":
        monkeypatch.setattr(downloads_disk, "_fallocate", lambda: None)
    return keeping_disk


def can_keep_room(folder: Path) -> bool:
    path = folder / "probe"
    descriptor = downloads_disk.open_locked(str(path))
    try:
        downloads_disk.keep_room(descriptor, str(path), 10 * BLOCK)
        return os.fstat(descriptor).st_blocks * 512 >= 10 * BLOCK
    finally:
        os.close(descriptor)
        path.unlink()


async def fetch_all(folder: Path, rooms: Sequence[Room], **options: Any) -> list[Any]:
    """Fetch results side by side, a piece a second each, and return what came of each."""
    slow = Answer(pause=1.0, piece=50_000)
    services = [FakeService(CONTENT, attrs.evolve(slow)) for _ in rooms]
    return await asyncio.gather(
        *(
            fetch(service, folder / f"{number}.zip", room=room, **options)
            for number, (service, room) in enumerate(zip(services, rooms, strict=True))
        ),
        return_exceptions=True,
    )


async def test_four_downloads_where_three_fit_are_three_files_and_one_typed_error(disk: Disk) -> None:
    ended = await fetch_all(disk.root, [Room()] * 4)
    refused = [each for each in ended if isinstance(each, DownloadError)]
    assert len(refused) == 1
    assert re.search(r"is full: .* needs 409600 more bytes, \d+ are free", str(refused[0]))
    assert len([name for name in names_in(disk.root) if name.endswith(".zip")]) == 3


async def test_four_downloads_that_know_nothing_of_each_other_do_not_take_each_others_room(keeping_disk: Disk) -> None:
    if not can_keep_room(keeping_disk.root):
        pytest.skip("needs a file system that keeps room for files")
    ended = await fetch_all(keeping_disk.root, [Room() for _ in range(4)])
    assert [type(each) for each in ended if isinstance(each, Exception)] == [DownloadError]


async def test_what_is_written_during_the_look_refuses_nobody(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room()
    other = disk.root / "1.zip.part"
    other.write_bytes(b"")
    room.promise(other, total_bytes=200 * BLOCK, margin=0)

    def usage_after_a_write(path: object) -> _Usage:
        if not other.stat().st_size:
            other.write_bytes(bytes(100 * BLOCK))
        return disk.usage(path)

    monkeypatch.setattr(shutil, "disk_usage", usage_after_a_write)
    room.promise(disk.root / "2.zip.part", total_bytes=120 * BLOCK, margin=0)


async def test_margin_stays_free_whatever_runs(disk: Disk) -> None:
    seen: list[int] = []
    options = attrs.evolve(OPTIONS, free_space_margin=200_000)
    ended = await fetch_all(disk.root, [Room()] * 4, options=options, on_progress=lambda _: seen.append(disk.free))
    assert sum(isinstance(each, DownloadError) for each in ended) == 2
    assert min(seen) == disk.free == 120 * BLOCK


async def test_room_of_downloads_that_ended_is_free_again(disk: Disk) -> None:
    room = Room()
    gone = FakeService(CONTENT)
    gone.default = Answer(error=ServerError("503"))
    bad = FakeService(CONTENT)
    for _ in range(5):
        with pytest.raises(DownloadError):
            await fetch(gone, disk.root / "gone.zip", room=room)
        with pytest.raises(CorruptArchiveError):
            await fetch(bad, disk.root / "bad.zip", room=room, verify=verify_is(b"good"), refetch=0)
        for path in disk.root.glob("*.corrupt"):
            path.unlink()
    ended = await fetch_all(disk.root, [room] * 3)
    assert not [each for each in ended if isinstance(each, Exception)]


async def test_promise_is_kept_while_a_download_waits_to_ask_again(disk: Disk) -> None:
    room = Room()
    cut = FakeService(CONTENT, Answer(cut_after=0), Answer(error=ServerError("503")), Answer(error=ServerError("503")))
    waiting = asyncio.create_task(fetch(cut, disk.root / "first.zip", room=room))
    await asyncio.sleep(0.5)
    ended = await fetch_all(disk.root, [room] * 3)
    assert sum(isinstance(each, DownloadError) for each in ended) == 1
    await waiting


async def test_download_that_continues_needs_room_for_the_rest_alone(disk: Disk) -> None:
    service = FakeService(CONTENT, Answer(cut_after=300_000, piece=1000), Answer(error=DownloadError("stop")))
    path = disk.root / "7.zip"
    with pytest.raises(DownloadError, match="stop"):
        await fetch(service, path)
    disk.size = 100 * BLOCK
    done = await fetch(service, path)
    assert done.fetched_bytes == len(CONTENT) - 300_000


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second disk")
def test_promises_on_another_disk_do_not_count(disk: Disk) -> None:
    if os.stat("/dev/shm").st_dev == disk.root.stat().st_dev:
        pytest.skip("needs a second disk")
    room = Room()
    room.promise(disk.root / "1.zip.part", total_bytes=1_000_000, margin=0)
    room.promise(Path("/dev/shm/1.zip.part"), total_bytes=1_310_720, margin=0)
    with pytest.raises(
        DownloadError, match=r"2\.zip needs 400000 more bytes and 5 to spare, 1310720 are free, 1000000"
    ):
        room.promise(disk.root / "2.zip.part", total_bytes=400_000, margin=5)


def test_promise_anew_replaces_the_earlier_one(disk: Disk) -> None:
    room = Room()
    for total in (1_300_000, 10, 1_300_000):
        room.promise(disk.root / "1.zip.part", total_bytes=total, margin=0)
    room.release(disk.root / "1.zip.part")
    room.promise(disk.root / "2.zip.part", total_bytes=1_300_000, margin=0)


async def test_room_that_was_kept_is_given_back_when_a_download_ends_early(keeping_disk: Disk) -> None:
    service = FakeService(CONTENT, Answer(cut_after=10 * BLOCK), Answer(error=DownloadError("stop")))
    with pytest.raises(DownloadError, match="stop"):
        await fetch(service, keeping_disk.root / "7.zip")
    assert keeping_disk.free == 310 * BLOCK
    assert names_in(keeping_disk.root) == {"7.zip.part", "7.zip.part.json"}


async def test_room_that_a_killed_process_kept_is_not_needed_twice(keeping_disk: Disk) -> None:
    if not can_keep_room(keeping_disk.root):
        pytest.skip("needs a file system that keeps room for files")
    path = keeping_disk.root / "7.zip"
    leave_part(path, CONTENT[: 10 * BLOCK], total=len(CONTENT))
    descriptor = downloads_disk.open_locked(f"{path}.part")
    downloads_disk.keep_room(descriptor, f"{path}.part", len(CONTENT))
    os.close(descriptor)
    keeping_disk.size = len(CONTENT)
    assert (await fetch(FakeService(CONTENT), path)).resumed_from == 10 * BLOCK


async def test_download_that_finds_the_quota_used_up_keeps_what_arrived(
    keeping_disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    path = keeping_disk.root / "7.zip"
    leave_part(path, CONTENT[: 10 * BLOCK], total=len(CONTENT))
    monkeypatch.setattr(downloads_disk, "_fallocate", lambda: refuse)
    service = FakeService(CONTENT)
    with pytest.raises(DownloadError, match="the quota is used up"):
        await fetch(service, path)
    assert service.sent == 0
    assert path.with_name("7.zip.part").stat().st_size == 10 * BLOCK


async def test_download_on_a_file_system_that_refuses_to_keep_room_is_the_same(
    keeping_disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(downloads_disk, "_fallocate", lambda: refuse)
    await fetch(FakeService(CONTENT), keeping_disk.root / "7.zip")
    assert (keeping_disk.root / "7.zip").read_bytes() == CONTENT
