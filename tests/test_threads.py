"""Work in threads whose end is waited for, whatever happens to the caller."""

import asyncio
import threading
from collections.abc import Callable

import anyio
import pytest

from crynux_async.threads import clean_up, in_thread, to_the_end


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Fill with everything that is waited for with ``asyncio.wait``."""
    original, seen = asyncio.wait, list[object]()

    async def wait(works: tuple[asyncio.Future[object]]) -> object:
        seen.append(works)
        return await original(works)

    monkeypatch.setattr(asyncio, "wait", wait)
    return seen


def blocked(release: threading.Event) -> Callable[[], str]:
    def work() -> str:
        assert release.wait(60)
        return "done"

    return work


def set_after(turns: int, release: threading.Event) -> None:
    """Set an event after so many turns of the loop."""
    if turns:
        asyncio.get_running_loop().call_soon(set_after, turns - 1, release)
    else:
        release.set()


async def test_work_in_a_cancelled_scope_is_waited_for_without_keeping_the_loop_busy(waits: list[object]) -> None:
    release, went_on = threading.Event(), False
    set_after(50, release)
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await to_the_end(in_thread(blocked(release))) == "done"
        await asyncio.sleep(10)
        went_on = True
    assert (len(waits), went_on) == (1, False)


async def test_work_of_a_cancelled_task_is_waited_for_and_the_cancellation_passed_on() -> None:
    release = threading.Event()
    work = in_thread(blocked(release))
    task = asyncio.create_task(to_the_end(work))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.result() == "done"


async def test_clean_up_without_a_thread_is_done_on_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    done: list[bool] = []
    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
    await clean_up(lambda: done.append(True))
    assert done == [True]
