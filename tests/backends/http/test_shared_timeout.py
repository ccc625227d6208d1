"""One timeout for many requests at once: whose time is over, and who is told what."""

import asyncio

import pytest

from crynux_async.backends.http.shared_timeout import SharedTimeout
from crynux_async.testing import VirtualTimeLoop


async def test_each_block_has_the_whole_time_from_its_own_beginning() -> None:
    timeout, loop, ends = SharedTimeout(10.0), asyncio.get_running_loop(), []

    async def wait(begin: float) -> None:
        await asyncio.sleep(begin)
        with pytest.raises(TimeoutError), timeout():
            await asyncio.Event().wait()
        ends.append(loop.time() - began)

    began = loop.time()
    await asyncio.gather(wait(4.0), wait(0.0), wait(15.0))
    assert ends == [pytest.approx(10.0), pytest.approx(14.0), pytest.approx(25.0)]
    assert len(timeout) == 0


async def test_who_is_done_in_time_is_left_alone_afterwards() -> None:
    timeout = SharedTimeout(10.0)
    with timeout():
        await asyncio.sleep(9.0)
    assert len(timeout) == 0
    await asyncio.sleep(100.0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_error_of_the_work_leaves_as_it_is() -> None:
    timeout = SharedTimeout(10.0)
    with pytest.raises(KeyError), timeout():
        raise KeyError("of the work")
    assert len(timeout) == 0


async def test_who_is_cancelled_by_somebody_else_stays_cancelled() -> None:
    timeout = SharedTimeout(10.0)

    async def wait() -> None:
        with timeout():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(9.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(timeout) == 0


async def test_who_is_cancelled_when_its_time_is_over_stays_cancelled() -> None:
    timeout, loop = SharedTimeout(10.0), asyncio.get_running_loop()

    async def wait() -> None:
        with timeout():
            await asyncio.Event().wait()

    loop.call_later(10.0, lambda: task.cancel())
    task = asyncio.create_task(wait())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_time_that_is_over_inside_another_timeout_ends_the_inner_block_alone() -> None:
    inner, outer = SharedTimeout(10.0), SharedTimeout(20.0)
    with pytest.raises(TimeoutError), outer():
        with pytest.raises(TimeoutError), inner():
            await asyncio.Event().wait()
        await asyncio.Event().wait()


async def test_time_begins_when_a_block_is_entered_and_not_when_it_is_made() -> None:
    timeout, loop = SharedTimeout(10.0), asyncio.get_running_loop()
    _, later = timeout(), timeout()
    await asyncio.sleep(9.0)
    began = loop.time()
    with pytest.raises(TimeoutError), later:
        await asyncio.Event().wait()
    assert (loop.time() - began, len(timeout)) == (pytest.approx(10.0), 0)


async def test_closed_timeout_bounds_nothing_any_more() -> None:
    timeout = SharedTimeout(10.0)
    with timeout():
        timeout.close()
        await asyncio.sleep(100.0)


@pytest.mark.parametrize(("after", "seconds"), [(5.0, 300.0), (9.9, 0.2)])
async def test_what_came_while_the_loop_stood_still_is_read_before_the_time_is_over(
    after: float, seconds: float
) -> None:
    timeout, loop, answer = SharedTimeout(10.0), asyncio.get_running_loop(), asyncio.Event()

    def stand_still() -> None:
        assert isinstance(loop, VirtualTimeLoop)
        loop.advance(seconds)
        loop.call_soon(answer.set)

    loop.call_later(after, stand_still)
    with timeout():
        await answer.wait()


async def test_loop_that_stands_still_again_and_again_ends_whose_time_is_over() -> None:
    timeout, loop = SharedTimeout(10.0), asyncio.get_running_loop()

    def stand_still() -> None:
        assert isinstance(loop, VirtualTimeLoop)
        loop.advance(2.0)
        timer[0] = loop.call_later(0.1, stand_still)

    timer = [loop.call_later(9.0, stand_still)]
    began = loop.time()
    with pytest.raises(TimeoutError), timeout():
        await asyncio.Event().wait()
    timer[0].cancel()
    assert loop.time() - began < 20.0
