"""The virtual-time loop."""

import asyncio
import selectors
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiofiles
import pytest

import crynux_async.testing.virtual_time
from crynux_async.clock import monotonic, utc_now
from crynux_async.testing import VirtualTimeLoop, virtual_time_run


async def test_sleep_on_virtual_time_moves_both_clocks_and_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float | None] = []
    select = selectors.DefaultSelector.select

    def watched(self: selectors.DefaultSelector, timeout: float | None = None) -> Any:
        waits.append(timeout)
        return select(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", watched)
    before, wall = monotonic(), utc_now()
    await asyncio.sleep(36_000)
    assert monotonic() - before == pytest.approx(36_000)
    assert (utc_now() - wall).total_seconds() == pytest.approx(36_000)
    assert set(waits) == {0}


async def test_timers_on_virtual_time_fire_in_the_order_of_their_due_times() -> None:
    seen: list[float] = []
    loop = asyncio.get_running_loop()
    for delay in (3.0, 1.0, 2.0):
        loop.call_later(delay, seen.append, delay)
    await asyncio.sleep(5)
    assert seen == [1.0, 2.0, 3.0]


async def test_clock_while_a_thread_works_stands_still(tmp_path: Path) -> None:
    async def write() -> float:
        async with aiofiles.open(tmp_path / "file", "wb") as file:
            for _ in range(20):
                await file.write(b"x" * 100_000)
        return monotonic()

    task = asyncio.create_task(write())
    await asyncio.sleep(1)
    assert task.done()
    assert task.result() < 1


async def test_large_transfer_over_loopback_takes_no_virtual_time() -> None:
    size = 20_000_000

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * size)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    before = monotonic()
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with asyncio.timeout(10):
            assert len(await reader.read(-1)) == size
        writer.close()
    assert monotonic() - before < 10


def test_loop_with_nothing_left_to_happen_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crynux_async.testing.virtual_time, "_IDLE_WAIT", 0.0)

    async def wait_for_nothing() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing can ever happen"):
        virtual_time_run(wait_for_nothing)


def test_set_wall_clock_moves_the_date_but_no_timer() -> None:
    async def jump() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.set_wall_clock(loop.wall_time() + 86_400)
        before = loop.time()
        await asyncio.sleep(1)
        return loop.time() - before, loop.wall_time()

    elapsed, wall = virtual_time_run(jump, wall_start=1000.0)
    assert elapsed == pytest.approx(1)
    assert wall == pytest.approx(1000 + 86_400 + 1)


async def test_sleep_of_ten_thousand_days_ends() -> None:
    before = monotonic()
    for _ in range(4):
        await asyncio.sleep(2_500 * 86_400)
    assert monotonic() - before == pytest.approx(10_000 * 86_400)


async def test_program_that_waits_for_less_than_a_step_of_the_clock_gets_on() -> None:
    await asyncio.sleep(1e6)
    due = monotonic() + 1.0
    while monotonic() < due:
        await asyncio.sleep(max(due - monotonic(), 1e-12) / 2)


def test_clock_while_the_threads_of_a_run_are_ended_stands_still() -> None:
    loop = VirtualTimeLoop()

    class SlowPool(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            for _ in range(100 if wait else 0):  # turns of the loop, in each of which its clock might jump
                turned = threading.Event()
                loop.call_soon_threadsafe(turned.set)
                turned.wait()
            super().shutdown(wait, cancel_futures=cancel_futures)

    async def use_a_thread() -> None:
        loop.set_default_executor(SlowPool())

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(use_a_thread())
    assert loop.time() < 1
