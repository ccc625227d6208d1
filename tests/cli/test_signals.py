"""Ctrl-C while a command waits: pressed once, twice, and three times."""

import asyncio
import os
import signal
from collections.abc import Callable

from crynux_async.cli.exits import Exit, execute

ALREADY = 600.0  # a wait that nobody has the time for


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def presses_of(*callbacks: Callable[[], None]) -> int:
    """Run a command whose end takes its time, in which one callback after the other is called; return its exit code."""

    async def work() -> int:
        waiting = iter(callbacks)

        async def wait() -> None:
            asyncio.get_running_loop().call_soon(next(waiting, lambda: None))
            await asyncio.sleep(ALREADY)

        try:
            await wait()
        finally:
            await wait()
        return 0

    return execute(work())


def test_ctrl_c_pressed_once_lets_a_command_clean_up() -> None:
    cleaned_up = []

    async def work() -> int:
        asyncio.get_running_loop().call_soon(press)
        try:
            await asyncio.sleep(ALREADY)
        finally:
            await asyncio.sleep(0)
            cleaned_up.append(True)
        return 0

    assert execute(work()) == Exit.INTERRUPTED
    assert cleaned_up


def test_ctrl_c_pressed_twice_waits_for_nothing_and_tears_no_callback_apart() -> None:
    whole = []

    def press_inside() -> None:
        press()
        whole.append(sum(range(100)))  # where asyncio's own handler raises, and what follows is lost

    assert presses_of(press_inside, press_inside) == Exit.INTERRUPTED
    assert len(whole) == 2


def test_ctrl_c_after_sigterm_waits_for_nothing() -> None:
    assert presses_of(lambda: os.kill(os.getpid(), signal.SIGTERM), press) == Exit.INTERRUPTED


def test_ctrl_c_pressed_three_times_ends_a_callback_that_does_not_return() -> None:
    def never_return() -> None:
        while True:
            press()

    async def work() -> int:
        asyncio.get_running_loop().call_soon(never_return)
        await asyncio.sleep(ALREADY)
        return 0

    assert execute(work()) == Exit.INTERRUPTED


def test_ctrl_c_is_handled_as_before_after_a_command() -> None:
    async def work() -> int:
        return 0

    before = signal.getsignal(signal.SIGINT)
    assert execute(work()) == Exit.DONE
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_stays_ignored_where_it_was() -> None:
    async def work() -> int:
        press()
        await asyncio.sleep(0)
        return 0

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert execute(work()) == Exit.DONE
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
