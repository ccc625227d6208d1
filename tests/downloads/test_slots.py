"""What downloads that run side by side share: who waits for whom, and who holds nothing meanwhile."""

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from crynux_async.clock import monotonic
from crynux_async.downloads.book import check_slots
from crynux_async.downloads.reservations import Reservation
from crynux_async.downloads.transfer import Shared, download
from crynux_async.errors import IncompleteError, NotFoundError, RateLimitedError
from tests.fake_result import CONTENT, GONE, OPTIONS, Answer, FakeService, fetch, names_in

pytestmark = pytest.mark.usefixtures("writes_of_two_pieces")


class Slots:
    """A semaphore that tells whether it is held."""

    held = False

    async def __aenter__(self) -> None:
        self.held = True

    async def __aexit__(self, *_: object) -> None:
        self.held = False


async def test_download_that_waits_to_ask_again_holds_no_slot_and_no_file(path: Path, part: Path) -> None:
    slots = asyncio.Semaphore(1)
    service = FakeService(CONTENT, Answer(cut_after=4000), Answer(error=RateLimitedError("later", wait=100.0)))
    waiting = asyncio.create_task(fetch(service, path, slots=slots))
    await asyncio.sleep(50)
    assert not slots.locked()
    with part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await waiting
    assert path.read_bytes() == CONTENT


async def test_silent_results_keep_a_healthy_one_waiting_for_one_time_out_at_most(tmp_path: Path) -> None:
    slots = asyncio.Semaphore(4)
    silent = FakeService(CONTENT)
    silent.default = Answer(opening=1e9)
    downloads = [asyncio.create_task(fetch(silent, tmp_path / f"{n}.zip", slots=slots)) for n in range(4)]
    await asyncio.sleep(0.1)
    await fetch(FakeService(CONTENT), tmp_path / "healthy.zip", slots=slots)
    assert monotonic() <= OPTIONS.stall_timeout + 0.1
    for each in await asyncio.gather(*downloads, return_exceptions=True):
        assert isinstance(each, IncompleteError)


async def test_download_holds_its_slot_while_it_asks_writes_and_verifies(path: Path) -> None:
    slots = Slots()
    seen: list[bool] = []
    service = FakeService(CONTENT, Answer(on_piece=lambda _: seen.append(slots.held)))
    await fetch(service, path, verify=lambda _: seen.append(slots.held), slots=slots)
    assert all(seen)
    assert len(seen) == 11
    assert not slots.held


async def test_reserved_name_is_taken_with_the_first_slot_and_not_before(tmp_path: Path) -> None:
    slots = asyncio.Semaphore(1)
    await slots.acquire()
    place = Reservation(folder=tmp_path, name="7.zip", owner="job 1")
    shared = Shared(slots=slots)
    task = asyncio.create_task(download(FakeService(CONTENT).open_result, place, verify=None, shared=shared))
    await asyncio.sleep(1)
    assert names_in(tmp_path) == set()
    slots.release()
    done = await task
    assert done.path == tmp_path / "7.zip"
    assert names_in(tmp_path) == {"7.zip"}


async def test_reserved_name_is_given_back_when_nothing_comes(tmp_path: Path) -> None:
    place = Reservation(folder=tmp_path, name="7.zip", owner="job 1")
    with pytest.raises(NotFoundError):
        await download(FakeService(CONTENT, GONE).open_result, place, verify=None)
    assert names_in(tmp_path) == set()


async def test_download_holds_a_slot_exactly_while_it_is_verified(path: Path) -> None:
    slots = Slots()
    seen: list[bool] = []
    service = FakeService(CONTENT, Answer(on_piece=lambda _: seen.append(slots.held)))
    await fetch(service, path, verify=lambda _: seen.append(slots.held), check_slots=slots)
    assert seen.count(True) == 1
    assert seen[-1]
    assert not slots.held


@pytest.mark.parametrize(("processors", "at_once"), [(1, 1), (2, 1), (3, 1), (8, 4)])
async def test_check_slots_leave_half_of_the_processors(
    monkeypatch: pytest.MonkeyPatch, processors: int, at_once: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(processors)))
    slots = check_slots()
    for _ in range(at_once):
        assert not slots.locked()
        await slots.acquire()
    assert slots.locked()
