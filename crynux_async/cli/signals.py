"""The signals that end a command as Ctrl-C does: it cleans up, and says how to go on."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

BASE = 128  # what shells add to a signal's number
_PATIENT_PRESSES = 2  # of Ctrl-C; a third one does not wait for a loop that may not come to its next callback


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
    """Let Ctrl-C, SIGTERM and SIGHUP cancel this task; yields the numbers of those that came.

    Whoever presses Ctrl-C after that waits for nothing more: a KeyboardInterrupt ends the event loop, between two of
    its callbacks. asyncio's own handler raises it wherever Python is at that moment, and where that is in asyncio
    itself a callback is lost, and the loop may wait for its task without an end (case S5).
    """
    import asyncio  # here, as in exits: commands that wait for nothing start sooner without it

    task, loop, came, presses = asyncio.current_task(), asyncio.get_running_loop(), list[int](), 0

    def end(number: int) -> None:
        if task is not None and not came:
            task.cancel()
        came.append(number)

    def press() -> None:
        if not came:
            end(signal.SIGINT)
        elif presses <= _PATIENT_PRESSES:
            raise KeyboardInterrupt

    def hear_press(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > _PATIENT_PRESSES:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(press)

    # What is ignored stays so: nohup means it, and so does a shell that starts a command in the background.
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, before if before is signal.SIG_IGN else hear_press)
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)
        for number in numbers:
            loop.remove_signal_handler(number)
