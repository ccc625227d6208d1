"""What runs in threads, and work in them whose end is waited for: it cannot be stopped, and must not be left behind.

In threads runs what blocks. By what stands here: the files, archives and images of downloads, and the import of what
the first one needs. The thread that verifies an archive has others help it, which end before it does
(``archive/side_by_side``). SQLite has a thread of its own (``ledgers/sqlite/connection``), and so has a study's storage
(``sweeps/optuna``). By ``asyncio.to_thread`` runs what takes a while in other places: a regular expression that advice
tries out, a keystore, the key file, the points of a sweep, an objective, a page, an export, and what a command reads
and asks of the system.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

_T = TypeVar("_T")


def in_thread(work: Callable[..., _T], *arguments: Any) -> "asyncio.Future[_T]":
    """Run ``work`` in a thread of the loop's executor."""
    return asyncio.get_running_loop().run_in_executor(None, work, *arguments)


async def to_the_end(work: "asyncio.Future[_T]") -> _T:
    """Await ``work`` to its end even when the caller is cancelled meanwhile; then pass the cancellation on."""
    cancelled: asyncio.CancelledError | None = None
    # A cancelled scope cancels again with every turn of the loop: without the shield, a slow disk meant a busy loop.
    with anyio.CancelScope(shield=True):
        while not work.done():
            try:
                # Not ``await work``, which would cancel the work together with the caller.
                await asyncio.wait((work,))
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # the caller wants to leave, not to hear of it
        raise cancelled
    return work.result()


async def clean_up(work: Callable[[], None]) -> None:
    """Run a short ``work`` to its end in a thread, or on the loop where no thread is to be had.

    Blocking for a moment is better than a lock that stays.
    """
    try:
        working = in_thread(work)
    except RuntimeError:
        # The executor is shut down: the loop or the interpreter is ending.
        work()
    else:
        await to_the_end(working)
