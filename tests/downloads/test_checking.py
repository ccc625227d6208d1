"""Files that are checked while they grow."""

import asyncio
import threading
from pathlib import Path

import pytest

from crynux_async.backends.base import Validator
from crynux_async.downloads import checking
from crynux_async.downloads.part_file import PartFile
from crynux_async.errors import ArchiveError, CorruptArchiveError
from tests.fake_result import CONTENT, MONDAY, OTHER, SIZE, TUESDAY, Answer, FakeService, fetch, leave_part

pytestmark = pytest.mark.usefixtures("writes_of_two_pieces", "small_steps")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "STEP_BYTES", 2000)


class Watcher:
    """Verifies files as they grow, and remembers what it was shown.

    Attributes:
        files: The lengths that were shown of each file that was begun.
        verdicts: Contents that were judged, with the number of the file that they were begun as.
    """

    def __init__(self, *good: bytes) -> None:
        self.files: list[list[int]] = []
        self.verdicts: list[tuple[int, bytes]] = []
        self.busy = threading.Lock()
        self.looks = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self._good = good

    def __call__(self, path: Path) -> None:
        raise AssertionError("only what was begun can be stopped")

    def begin(self) -> "Growing":
        self.files.append([])
        return Growing(self, len(self.files) - 1)

    def judge(self, number: int, path: Path) -> None:
        content = path.read_bytes()
        self.verdicts.append((number, content))
        if content not in self._good:
            raise ArchiveError(f"{path} is not a good archive")


class Growing:
    def __init__(self, watcher: Watcher, number: int) -> None:
        self.watcher, self.number = watcher, number

    def advance(self, path: Path, arrived: int) -> None:
        assert self.watcher.busy.acquire(blocking=False), "two look at once"
        try:
            assert len(path.read_bytes()) >= arrived
            self.watcher.files[self.number].append(arrived)
            self.watcher.looks.set()
            self.watcher.go_on.wait(10)
        finally:
            self.watcher.busy.release()

    def __call__(self, path: Path) -> None:
        self.watcher.judge(self.number, path)


async def test_file_is_shown_as_it_grows_and_judged_once(path: Path) -> None:
    watcher = Watcher(CONTENT)
    await fetch(FakeService(CONTENT, Answer(pause=0.1)), path, verify=watcher)

    (shown,) = watcher.files
    assert shown == sorted(shown)
    assert len(shown) >= SIZE // 4000
    assert all(later - earlier >= 2000 for earlier, later in zip([0, *shown], shown, strict=False))
    assert watcher.verdicts == [(0, CONTENT)]


async def test_looks_that_fall_behind_are_short_and_the_last_bytes_are_left_to_the_judge(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "LOOK_BYTES", 3000)
    watcher = Watcher(CONTENT)
    check = checking.Check(watcher, asyncio.Semaphore(1))
    async with PartFile(path) as part:
        await part.restart(Validator(last_modified=MONDAY, total_bytes=SIZE))
        async with check.visiting(part):
            for piece, looked_at in ((CONTENT[:7000], [3000, 6000]), (CONTENT[7000:8500], [3000, 6000, 8500])):
                part.gatherer.append(piece)
                await part.gatherer.flush()
                check.grew(part)
                while len(watcher.files[0]) < len(looked_at):
                    await asyncio.sleep(1)
                assert watcher.files == [looked_at]

            watcher.go_on.clear()
            watcher.looks.clear()
            part.gatherer.append(CONTENT[8500:] + bytes(9000))
            await part.gatherer.flush()
            check.grew(part)
            assert await asyncio.to_thread(watcher.looks.wait, 10)
            asyncio.get_running_loop().call_soon(watcher.go_on.set)  # when the end of the visit is waited for
    assert watcher.files == [[3000, 6000, 8500, 11500]]


async def test_file_that_goes_on_after_a_cut_and_a_pause_is_the_same(path: Path) -> None:
    watcher = Watcher(CONTENT)
    service = FakeService(CONTENT, Answer(pause=0.1, cut_after=SIZE // 2), Answer(pause=0.1))
    await fetch(service, path, verify=watcher)

    (shown,) = watcher.files
    assert shown == sorted(shown)
    assert shown[-1] > SIZE // 2
    assert watcher.verdicts == [(0, CONTENT)]


async def test_another_version_is_another_file(path: Path) -> None:
    watcher = Watcher(OTHER)
    changed = Answer(pause=0.1, switch=(OTHER, TUESDAY))
    await fetch(FakeService(CONTENT, Answer(pause=0.1, cut_after=SIZE // 2), changed), path, verify=watcher)

    first, second = watcher.files
    assert max(first) <= SIZE // 2
    assert second[0] < second[-1]
    assert watcher.verdicts == [(1, OTHER)]


async def test_copy_that_is_refused_is_fetched_again_as_another_file(path: Path) -> None:
    watcher = Watcher()
    with pytest.raises(CorruptArchiveError):
        await fetch(FakeService(CONTENT, Answer(pause=0.1), Answer(pause=0.1)), path, verify=watcher)

    assert watcher.verdicts == [(0, CONTENT), (1, CONTENT)]


async def test_file_that_is_here_already_is_judged_as_it_is(path: Path) -> None:
    leave_part(path, CONTENT, dated=MONDAY)
    watcher = Watcher(CONTENT)
    await fetch(FakeService(CONTENT), path, verify=watcher)

    assert watcher.files == [[]]
    assert watcher.verdicts == [(0, CONTENT)]


async def test_nothing_looks_at_the_file_any_more_when_a_cancelled_visit_ends(path: Path) -> None:
    watcher = Watcher(CONTENT)
    watcher.go_on.clear()
    check = checking.Check(watcher, asyncio.Semaphore(1))

    async def visit(part: PartFile) -> None:
        async with check.visiting(part):
            check.grew(part)
            await asyncio.Event().wait()

    async with PartFile(path) as part:
        await part.restart(Validator(last_modified=MONDAY, total_bytes=SIZE))
        part.gatherer.append(CONTENT)
        await part.gatherer.flush()
        visiting = asyncio.create_task(visit(part))
        assert await asyncio.to_thread(watcher.looks.wait, 10)
        visiting.cancel()
        await asyncio.sleep(0)
        assert not visiting.done()
        watcher.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await visiting

    assert not watcher.busy.locked()
    assert watcher.files == [[SIZE]]


@pytest.mark.parametrize("is_here", [False, True])
async def test_cancelled_check_is_told_to_stop_and_ends_at_once(path: Path, part: Path, is_here: bool) -> None:
    judging, stopped, ended = threading.Event(), threading.Event(), threading.Event()

    class Judge(Growing):
        def __call__(self, path: Path) -> None:
            judging.set()
            assert stopped.wait(10)
            ended.set()
            raise ArchiveError("nothing is said any more")

        def stop(self) -> None:
            stopped.set()

    watcher = Watcher(CONTENT)
    watcher.begin = lambda: Judge(watcher, len(watcher.files) - 1)  # type: ignore[method-assign]
    watcher.files.append([])
    if is_here:
        leave_part(path, CONTENT, dated=MONDAY)
    download = asyncio.create_task(fetch(FakeService(CONTENT), path, verify=watcher))
    assert await asyncio.to_thread(judging.wait, 10)
    download.cancel()
    with pytest.raises(asyncio.CancelledError):
        await download
    assert await asyncio.to_thread(ended.wait, 10)

    assert part.read_bytes() == CONTENT
    await fetch(FakeService(CONTENT), path)
    assert path.read_bytes() == CONTENT


async def test_a_check_has_a_slot_each_time_it_looks_and_none_between(path: Path) -> None:
    slots = asyncio.Semaphore(1)
    watcher = Watcher(CONTENT)
    async with slots:
        download = asyncio.create_task(
            fetch(FakeService(CONTENT, Answer(pause=0.1)), path, verify=watcher, check_slots=slots)
        )
        await asyncio.sleep(60)
        assert watcher.files == [[]]
    await download

    assert watcher.verdicts == [(0, CONTENT)]
    assert not slots.locked()
