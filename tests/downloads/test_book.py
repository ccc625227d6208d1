"""Transfers that callers share: who is told what, where files are, what is fetched again and what is not."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.clock import monotonic
from crynux_async.downloads import disk
from crynux_async.downloads.book import Order, TransferBook
from crynux_async.downloads.finished import FinishedFile, find_finished
from crynux_async.errors import DownloadError, IncompleteError, NotFoundError, ServerError, UsageError
from tests.fake_result import CONTENT, GONE, OPTIONS, OTHER, SIZE, Answer, FakeService, names_in, verify_is


class Desk:
    """A book, the tasks in which it works, and what an owner of results would remember."""

    def __init__(self, *, slots: int = 4) -> None:
        self.book = TransferBook(self.spawn, slots=slots, verify=verify_is(CONTENT), options=OPTIONS)
        self.tasks: set[asyncio.Task[None]] = set()
        self.recorded: list[FinishedFile] = []
        self.failures: list[Exception] = []
        self.can_record = True
        self.is_closed = False

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self.is_closed:
            work.close()
            raise UsageError("the session is closed")
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        self.is_closed = True
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def record(self, file: FinishedFile) -> bool:
        if self.can_record:
            self.recorded.append(file)
        return self.can_record

    async def fetch(self, service: FakeService, folder: Path, name: str = "1.zip", owner: str = "task 1") -> Path:
        order = Order(
            owner=owner,
            folder=folder,
            name=name,
            open_result=service.open_result,
            known=tuple(self.recorded[-1:]),
            record=self.record,
            failed=self.failures.append,
        )
        return (await self.book.fetch(order)).path


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = Desk()
    yield desk
    await desk.close()


@pytest.fixture
def service() -> FakeService:
    return FakeService(CONTENT)


# Sharing


async def test_callers_of_one_place_share_one_transfer(desk: Desk, service: FakeService, tmp_path: Path) -> None:
    paths = await asyncio.gather(*(desk.fetch(service, tmp_path) for _ in range(5)))
    assert set(paths) == {tmp_path / "1.zip"}
    assert service.sent == SIZE
    assert names_in(tmp_path) == {"1.zip"}
    assert desk.book.active == 0


async def test_folder_by_a_link_and_by_its_own_name_is_one_place(
    desk: Desk, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "link").symlink_to("models")
    monkeypatch.chdir(tmp_path)
    folders = [Path("models"), Path("link"), tmp_path / "models", tmp_path / "link" / ".." / "models"]
    paths = await asyncio.gather(*(desk.fetch(service, folder) for folder in folders))
    assert set(paths) == {tmp_path / "models" / "1.zip"}
    assert await desk.fetch(service, Path("link")) == tmp_path / "models" / "1.zip"
    assert service.sent == SIZE


async def test_caller_that_leaves_leaves_the_transfer_to_the_others(
    desk: Desk, service: FakeService, tmp_path: Path
) -> None:
    service.default = Answer(pause=1.0)
    first = asyncio.create_task(desk.fetch(service, tmp_path))
    second = asyncio.create_task(desk.fetch(service, tmp_path))
    await asyncio.sleep(3.5)
    first.cancel()
    assert await second == tmp_path / "1.zip"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_transfer_that_nobody_wants_any_more_ends_and_keeps_what_arrived(
    desk: Desk, service: FakeService, tmp_path: Path
) -> None:
    service.default = Answer(pause=1.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4.5):
            await desk.fetch(service, tmp_path)
    await asyncio.sleep(1)
    assert desk.book.active == 0
    assert (tmp_path / "1.zip.part").stat().st_size == 4000
    assert desk.failures == []


async def test_caller_that_comes_while_a_transfer_is_ending_begins_anew(
    desk: Desk, service: FakeService, tmp_path: Path
) -> None:
    service.default = Answer(pause=1.0)
    first = asyncio.create_task(desk.fetch(service, tmp_path))
    await asyncio.sleep(4.5)
    first.cancel()
    await asyncio.sleep(0)
    assert desk.book.active == 1
    assert await desk.fetch(service, tmp_path) == tmp_path / "1.zip"
    assert service.sent == SIZE


# What ends a transfer


async def test_error_reaches_every_caller_and_is_told_once(desk: Desk, tmp_path: Path) -> None:
    service = FakeService(CONTENT, GONE)
    ended = await asyncio.gather(*(desk.fetch(service, tmp_path) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in ended] == [NotFoundError] * 3
    assert len({id(each) for each in ended}) == 3
    assert [type(each) for each in desk.failures] == [NotFoundError]
    assert names_in(tmp_path) == set()


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), ValueError("embedded null byte"), KeyError()]
)
async def test_error_that_is_not_ours_reaches_the_caller_as_it_was(
    desk: Desk, tmp_path: Path, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught:
        await desk.fetch(FakeService(CONTENT, Answer(error=error)), tmp_path)
    assert caught.value is error
    assert desk.failures == [error]
    assert desk.book.active == 0


async def test_error_in_a_task_group_is_an_error_and_no_silent_cancellation(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.fetch(FakeService(CONTENT, Answer(error=RuntimeError("no thread"))), tmp_path))
    assert caught.group_contains(RuntimeError, match="no thread")


async def test_session_that_closes_is_a_usage_error_for_every_caller(tmp_path: Path) -> None:
    service = FakeService(CONTENT)
    service.default = Answer(pause=1.0)
    desk = Desk()
    callers = [asyncio.create_task(desk.fetch(service, tmp_path)) for _ in range(2)]
    await asyncio.sleep(4.5)
    await desk.close()
    for caller in callers:
        with pytest.raises(UsageError, match="the session was closed before the archive was there"):
            await caller
    assert (tmp_path / "1.zip.part").stat().st_size == 4000


async def test_session_that_is_closed_is_a_usage_error_and_leaves_nothing_running(
    desk: Desk, service: FakeService, tmp_path: Path
) -> None:
    desk.is_closed = True
    with pytest.raises(UsageError, match="closed"):
        await desk.fetch(service, tmp_path)
    assert desk.book.active == 0


async def test_folder_with_a_nul_is_a_typed_error_that_names_the_field(desk: Desk, service: FakeService) -> None:
    with pytest.raises(UsageError, match="cannot be a folder") as caught:
        await desk.fetch(service, Path("a\0b"))
    assert caught.value.field == "folder"


async def test_caller_who_leaves_as_his_transfer_fails_hears_of_his_own_cancellation(
    desk: Desk, tmp_path: Path
) -> None:
    caller = asyncio.create_task(desk.fetch(FakeService(CONTENT, Answer(opening=1.0, error=GONE.error)), tmp_path))
    asyncio.get_running_loop().call_later(1.0, caller.cancel)
    with pytest.raises((asyncio.CancelledError, NotFoundError)):
        await caller
    await asyncio.sleep(1)
    assert desk.book.active == 0


# Asking again


async def test_two_folders_in_turn_are_two_files_and_two_transfers(
    desk: Desk, service: FakeService, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    paths = [await desk.fetch(service, folder) for folder in (a, b, a, b, a)]
    assert paths == [a / "1.zip", b / "1.zip", a / "1.zip", b / "1.zip", a / "1.zip"]
    assert service.sent == 2 * SIZE
    assert (names_in(a), names_in(b)) == ({"1.zip"}, {"1.zip"})
    assert len(desk.recorded) == 2


async def test_two_folders_in_turn_are_two_files_also_for_the_next_process(
    desk: Desk, service: FakeService, tmp_path: Path
) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for folder in (a, b):
        await desk.fetch(service, folder)
    again = Desk()
    again.recorded = desk.recorded[-1:]
    paths = [await again.fetch(service, folder) for folder in (a, b, a)]
    assert paths == [a / "1.zip", b / "1.zip", a / "1.zip"]
    assert service.sent == 2 * SIZE
    assert (names_in(a), names_in(b)) == ({"1.zip"}, {"1.zip"})


async def test_file_that_was_cut_is_fetched_again_under_another_name(
    desk: Desk, service: FakeService, tmp_path: Path
) -> None:
    path = await desk.fetch(service, tmp_path)
    os.truncate(path, 100)
    again = await desk.fetch(service, tmp_path)
    assert again == tmp_path / "1-2.zip"
    assert again.read_bytes() == CONTENT
    assert path.stat().st_size == 100
    assert await desk.fetch(service, tmp_path) == again
    assert service.sent == 2 * SIZE


async def test_file_that_is_gone_is_fetched_again(desk: Desk, service: FakeService, tmp_path: Path) -> None:
    (await desk.fetch(service, tmp_path)).unlink()
    assert (await desk.fetch(service, tmp_path)).read_bytes() == CONTENT


async def test_other_name_is_another_file(desk: Desk, service: FakeService, tmp_path: Path) -> None:
    names = ["1.zip", "cat.zip", "1.zip", "cat.zip"]
    assert [(await desk.fetch(service, tmp_path, name)).name for name in names] == names
    assert names_in(tmp_path) == {"1.zip", "cat.zip"}


async def test_file_that_had_to_be_numbered_is_found_again(desk: Desk, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "1.zip").write_text("mine")
    assert [await desk.fetch(service, tmp_path) for _ in range(3)] == [tmp_path / "1-2.zip"] * 3
    assert service.sent == SIZE


async def test_results_of_two_owners_are_never_each_others(desk: Desk, service: FakeService, tmp_path: Path) -> None:
    first = await desk.fetch(service, tmp_path, owner="task 1")
    desk.recorded.clear()
    assert await desk.fetch(service, tmp_path, owner="task 2") == tmp_path / "1-2.zip"
    assert first == tmp_path / "1.zip"


def test_copy_with_other_bytes_is_no_twin(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    known = FinishedFile(path=tmp_path / "a" / "1.zip", total_bytes=SIZE)
    known.path.write_bytes(CONTENT)
    (tmp_path / "1.zip").write_bytes(OTHER)
    assert find_finished(tmp_path, "1.zip", [known]) is None
    (tmp_path / "1-2.zip").write_bytes(CONTENT)
    assert find_finished(tmp_path, "1.zip", [known]) == FinishedFile(path=tmp_path / "1-2.zip", total_bytes=SIZE)
    os.truncate(known.path, 10)
    assert find_finished(tmp_path, "1.zip", [known]) is None


# Until it is recorded


async def test_note_stays_until_the_place_is_recorded(desk: Desk, service: FakeService, tmp_path: Path) -> None:
    desk.can_record = False
    await desk.fetch(service, tmp_path)
    assert names_in(tmp_path) == {"1.zip", "1.zip.part.json"}
    again = Desk()
    assert await again.fetch(service, tmp_path) == tmp_path / "1.zip"
    assert service.sent == SIZE
    assert [file.path for file in again.recorded] == [tmp_path / "1.zip"]
    assert names_in(tmp_path) == {"1.zip"}


async def test_note_of_a_file_that_was_recorded_later_is_removed_when_it_is_asked_for(
    desk: Desk, service: FakeService, tmp_path: Path
) -> None:
    desk.can_record = False
    path = await desk.fetch(service, tmp_path)
    desk.recorded = [FinishedFile(path=path, total_bytes=SIZE)]
    assert await desk.fetch(service, tmp_path) == path
    assert names_in(tmp_path) == {"1.zip"}


async def test_file_is_recorded_while_its_note_is_still_there(
    desk: Desk, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    async def record(file: FinishedFile) -> bool:
        seen.append(names_in(tmp_path))
        return True

    monkeypatch.setattr(desk, "record", record)
    await desk.fetch(service, tmp_path)
    assert seen == [{"1.zip", "1.zip.part.json"}]
    assert names_in(tmp_path) == {"1.zip"}


# What all of them share


async def test_silent_results_hold_up_a_healthy_one_for_one_time_out_at_most(desk: Desk, tmp_path: Path) -> None:
    silent = FakeService(CONTENT)
    silent.default = Answer(opening=1e9)
    waiting = [asyncio.create_task(desk.fetch(silent, tmp_path, owner=f"silent {n}")) for n in range(4)]
    await asyncio.sleep(0.1)
    await desk.fetch(FakeService(CONTENT), tmp_path, owner="healthy")
    assert monotonic() <= OPTIONS.stall_timeout + 0.1
    for each in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(each, IncompleteError)


async def test_thousand_orders_take_no_name_and_no_file_before_their_turn(tmp_path: Path) -> None:
    desk = Desk(slots=2)
    service = FakeService(CONTENT)
    service.default = Answer(pause=1.0)
    tasks = [asyncio.create_task(desk.fetch(service, tmp_path, owner=f"task {n}")) for n in range(200)]
    await asyncio.sleep(5)
    assert desk.book.active == 200
    assert len(names_in(tmp_path)) == 2 * 2
    await desk.close()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in ended} == {UsageError}


async def test_transfers_share_the_room_of_a_disk(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = attrs.make_class("Usage", ["total", "used", "free"])
    monkeypatch.setattr("shutil.disk_usage", lambda _: used(10**6, 0, 2 * SIZE + 100))
    monkeypatch.setattr(disk, "_fallocate", lambda: None)
    services = [FakeService(CONTENT, Answer(pause=1.0)) for _ in range(3)]
    fetches = (desk.fetch(each, tmp_path, owner=f"task {n}") for n, each in enumerate(services))
    ended = await asyncio.gather(*fetches, return_exceptions=True)
    assert sum(isinstance(each, DownloadError) for each in ended) == 1


async def test_is_fetching_tells_while_a_transfer_waits_to_ask_again(desk: Desk, tmp_path: Path) -> None:
    service = FakeService(CONTENT, Answer(error=ServerError("503")))
    task = asyncio.create_task(desk.fetch(service, tmp_path))
    await asyncio.sleep(0.5)
    assert desk.book.is_fetching("task 1")
    assert not desk.book.is_fetching("task 2")
    await task
    assert not desk.book.is_fetching("task 1")
