"""What parallel downloads promise each other of a disk."""

import asyncio
import contextlib
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.downloads.room import Room
from crynux_async.errors import CorruptArchiveError, DownloadError, ServerError
from tests.fake_result import OPTIONS, Answer, FakeService, fetch, names_in, some_bytes, verify_is

_Usage = namedtuple("_Usage", "total used free")
CONTENT = some_bytes(400_000)


class Disk:
    """A disk of its own size, on which notes take no room."""

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
                sizes[status.st_ino] = 0 if path.suffix == ".json" else status.st_size
        return sizes

    def usage(self, _: object) -> _Usage:
        return _Usage(self.size, self.size - self.free, self.free)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    made = Disk(tmp_path, 1_300_000)
    monkeypatch.setattr(shutil, "disk_usage", made.usage)
    return made


async def fetch_all(folder: Path, room: Room, count: int, **options: Any) -> list[Any]:
    """Fetch results side by side, a piece a second each, and return what came of each."""
    slow = Answer(pause=1.0, piece=50_000)
    services = [FakeService(CONTENT, attrs.evolve(slow)) for _ in range(count)]
    return await asyncio.gather(
        *(fetch(service, folder / f"{number}.zip", room=room, **options) for number, service in enumerate(services)),
        return_exceptions=True,
    )


async def test_four_downloads_where_three_fit_are_three_files_and_one_typed_error(disk: Disk) -> None:
    ended = await fetch_all(disk.root, Room(), 4)
    refused = [each for each in ended if isinstance(each, DownloadError)]
    assert len(refused) == 1
    assert re.search(r"is full: .* needs 400000 more bytes, \d+ are free, \d+ of them promised", str(refused[0]))
    assert len([name for name in names_in(disk.root) if name.endswith(".zip")]) == 3


async def test_margin_stays_free_whatever_runs(disk: Disk) -> None:
    seen: list[int] = []
    options = attrs.evolve(OPTIONS, free_space_margin=200_000)
    ended = await fetch_all(disk.root, Room(), 4, options=options, on_progress=lambda _: seen.append(disk.free))
    assert sum(isinstance(each, DownloadError) for each in ended) == 2
    assert min(seen) == disk.free == 500_000


@pytest.mark.skip(reason="room seems taken now and then after downloads that ended: an open fault")
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
    ended = await fetch_all(disk.root, room, 3)
    assert not [each for each in ended if isinstance(each, Exception)]


async def test_promise_is_kept_while_a_download_waits_to_ask_again(disk: Disk) -> None:
    room = Room()
    cut = FakeService(CONTENT, Answer(cut_after=0), Answer(error=ServerError("503")), Answer(error=ServerError("503")))
    waiting = asyncio.create_task(fetch(cut, disk.root / "first.zip", room=room))
    await asyncio.sleep(0.5)
    ended = await fetch_all(disk.root, room, 3)
    assert sum(isinstance(each, DownloadError) for each in ended) == 1
    await waiting


async def test_download_that_continues_needs_room_for_the_rest_alone(disk: Disk) -> None:
    service = FakeService(CONTENT, Answer(cut_after=300_000, piece=1000), Answer(error=DownloadError("stop")))
    path = disk.root / "7.zip"
    with pytest.raises(DownloadError, match="stop"):
        await fetch(service, path)
    disk.size = 400_000
    done = await fetch(service, path)
    assert done.fetched_bytes == 100_000


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second disk")
def test_promises_on_another_disk_do_not_count(disk: Disk) -> None:
    if os.stat("/dev/shm").st_dev == disk.root.stat().st_dev:
        pytest.skip("needs a second disk")
    room = Room()
    room.promise(disk.root / "1.zip.part", total_bytes=1_000_000, margin=0)
    room.promise(Path("/dev/shm/1.zip.part"), total_bytes=1_300_000, margin=0)
    with pytest.raises(
        DownloadError, match=r"2\.zip needs 400000 more bytes and 5 to spare, 1300000 are free, 1000000"
    ):
        room.promise(disk.root / "2.zip.part", total_bytes=400_000, margin=5)


def test_promise_anew_replaces_the_earlier_one(disk: Disk) -> None:
    room = Room()
    for total in (1_300_000, 10, 1_300_000):
        room.promise(disk.root / "1.zip.part", total_bytes=total, margin=0)
    room.release(disk.root / "1.zip.part")
    room.promise(disk.root / "2.zip.part", total_bytes=1_300_000, margin=0)
