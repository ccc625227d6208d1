"""The signals that end a command as Ctrl-C does: it cleans up, and says how to go on."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

BASE = 128  # what shells add to a signal's number


def exit_code(number: int) -> int:
    """Return the exit code of a command that a signal ended."""
    return BASE + number


def end_on_sigterm() -> None:
    """Let SIGTERM end this process from now on.

    The system drops it for process 1 of a container unless there is a handler, and ``docker stop`` would have to kill.
    """
    signal.signal(signal.SIGTERM, _end)


def leave_signals_alone() -> None:
    """Let SIGINT and SIGTERM end this process as the system does: all is done, and Python only clears up.

    An exception from a handler would then be printed, and nobody could catch it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(exit_code(number))


@contextmanager
def cancelled_by_signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP cancel this task; yields the numbers of those that came."""
    import asyncio  # here, as in exits: commands that wait for nothing start sooner without it

    task, loop, came = asyncio.current_task(), asyncio.get_running_loop(), list[int]()

    def end(number: int) -> None:
        if task is not None and not came:
            task.cancel()
        came.append(number)

    # What is ignored stays so: nohup means it.
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield came
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
