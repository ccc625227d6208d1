"""The transfers of a session: who waits for which, where results were put, and what all of them share.

Theory of operation
-------------------
Whoever asks for a result at a place joins the transfer that brings it there, or begins one. A place is a folder without
symbolic links and a name, so that one folder by two paths is one place. A transfer goes on while anybody waits for it;
when the last one leaves it is ended, and what arrived stays. Whoever comes while it is ending waits for its end and
begins anew: nobody is told of a cancellation but those who were cancelled themselves. Whatever ends a transfer reaches
everybody who waits for it, as it was; a session that closes is a UsageError.

A finished file keeps its note until its place has been recorded: a process that ends between the two leaves a file that
the next one knows for its own.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import attrs

from crynux_async import files
from crynux_async.downloads.checking import Verify
from crynux_async.downloads.finished import FinishedFile, find_finished
from crynux_async.downloads.pace import DownloadOptions, Progress
from crynux_async.downloads.requests import OpenResult
from crynux_async.downloads.reservations import Reservation, forget_note
from crynux_async.downloads.transfer import Shared, download
from crynux_async.errors import CrynuxError, UsageError
from crynux_async.processors import verifying_at_once
from crynux_async.threads import clean_up, in_thread, to_the_end

_Key = tuple[str, Path, str]

Spawn = Callable[[Coroutine[Any, Any, None]], None]
"""Starts a task; raises UsageError where nothing is started any more."""


@attrs.frozen(kw_only=True)
class Order:
    """One result, wanted at one place.

    Attributes:
        owner: Whom the file belongs to, in words that other processes would use too, such as a service and a task.
        folder: Where it is wanted; made if it does not exist.
        name: What it should be called.
        open_result: Where the bytes come from.
        known: Places where this result was put before, as far as the caller remembers: the last one that was recorded.
        record: Called when the file has its name: has its place remembered and returns whether it is. Until then the
            note beside the file says whose it is.
        failed: Called once with what ended a transfer, before those who wait are told.
        on_progress: Called on the loop at most every 0.2 seconds, and at the end.
    """

    owner: str
    folder: Path
    name: str
    open_result: OpenResult
    known: tuple[FinishedFile, ...] = ()
    record: Callable[[FinishedFile], Awaitable[bool]]
    failed: Callable[[Exception], None]
    on_progress: Callable[[Progress], None] | None = None


@attrs.define(eq=False)
class _Transfer:
    """One transfer and those who wait for it."""

    done: "asyncio.Future[FinishedFile]"
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)
    callers: int = 0
    has_ended: asyncio.Event = attrs.field(factory=asyncio.Event)


class TransferBook:
    """Brings results to disk, a few at a time. Must be made inside a running event loop.

    Args:
        spawn: Starts a task.
        slots: How many transfers may ask, write or verify at once, >= 1.
        verify: Raises ArchiveError when a complete file is not good; called in a thread. None checks the length only.
        options: How patient to be.
        most_bytes: A result that announces more is not fetched; None for no bound.
    """

    def __init__(
        self,
        spawn: Spawn,
        *,
        slots: int,
        verify: Verify | None,
        options: DownloadOptions | None = None,
        most_bytes: int | None = None,
    ) -> None:
        self._spawn = spawn
        self._verify = verify
        self._options = options or DownloadOptions()
        self._most_bytes = most_bytes
        self._shared = Shared(slots=asyncio.Semaphore(slots), check_slots=check_slots())
        self._transfers: dict[_Key, _Transfer] = {}
        self._finished: dict[str, tuple[FinishedFile, ...]] = {}

    @property
    def active(self) -> int:
        """How many transfers run or wait."""
        return len(self._transfers)

    def is_fetching(self, owner: str) -> bool:
        """Whether a transfer for this owner runs or waits."""
        return any(key[0] == owner for key in self._transfers)

    async def fetch(self, order: Order) -> FinishedFile:
        """Return a result's file when it is whole, checked and where it is wanted.

        Raises:
            UsageError: The folder cannot be one, or the session was closed; what arrived is kept.
            CrynuxError: The result could not be had.
        """
        # Before the key: one folder by two paths must be one transfer, or two would write one part file.
        order = attrs.evolve(order, folder=await _resolve(order.folder))
        key = (order.owner, order.folder, order.name)
        # One that is being cancelled would answer with a cancellation that this caller did not ask for.
        while (transfer := self._transfers.get(key)) is not None and transfer.scope.cancel_called:
            await transfer.has_ended.wait()
        transfer = transfer or self._start(order, key)
        transfer.callers += 1
        try:
            # The future is everybody's: cancelled by one caller, a plain await would cancel it for all.
            return await asyncio.shield(transfer.done)
        except CrynuxError as error:
            raise copy.copy(error) from error.__cause__  # one that many raise would pile up their tracebacks
        finally:
            transfer.callers -= 1
            if not transfer.callers and not transfer.done.done():
                transfer.scope.cancel()

    async def forget_note(self, file: FinishedFile, owner: str) -> None:
        """Remove the note beside a finished file whose place has been recorded after all."""
        await clean_up(partial(forget_note, file.path, owner=owner))

    def _start(self, order: Order, key: _Key) -> _Transfer:
        transfer = _Transfer(asyncio.get_running_loop().create_future())
        # Before it is listed: a session that is closed refuses here, and nobody may wait for what never begins.
        self._spawn(self._run(transfer, order, key))
        self._transfers[key] = transfer
        return transfer

    async def _run(self, transfer: _Transfer, order: Order, key: _Key) -> None:
        # What waiters are told where neither a result nor an error came: the session has ended this task.
        error: Exception = UsageError(
            "the session was closed before the archive was there; what arrived is kept for the next download"
        )
        try:
            with transfer.scope:
                transfer.done.set_result(await self._have(order))
        except Exception as failure:
            error = failure
            order.failed(failure)
        finally:
            del self._transfers[key]
            if transfer.callers and not transfer.done.done():
                transfer.done.set_exception(error)
                transfer.done.exception()  # retrieved: a caller who is cancelled just now does not ask for it
            transfer.has_ended.set()

    async def _have(self, order: Order) -> FinishedFile:
        """Return the result's file, fetching it unless it is there already."""
        known = (*order.known, *self._finished.get(order.owner, ()))
        found = await to_the_end(in_thread(find_finished, order.folder, order.name, known)) if known else None
        if found is None:
            found = await self._transfer(order)
            is_recorded = await order.record(found)
            self._remember(order.owner, order.known)  # from now on the caller knows the new place in their stead
        else:
            is_recorded = True
            if found not in known:
                self._remember(order.owner, (found,))
        if is_recorded:
            await self.forget_note(found, order.owner)
        return found

    def _remember(self, owner: str, files: Iterable[FinishedFile]) -> None:
        kept = self._finished.get(owner, ())
        if new := tuple(file for file in files if file not in kept):
            self._finished[owner] = (*kept, *new)

    async def _transfer(self, order: Order) -> FinishedFile:
        file = await download(
            order.open_result,
            Reservation(folder=order.folder, name=order.name, owner=order.owner),
            options=self._options,
            verify=self._verify,
            on_progress=order.on_progress,
            most_bytes=self._most_bytes,
            keep_note=True,
            shared=self._shared,
        )
        return FinishedFile(path=file.path, total_bytes=file.total_bytes)


def check_slots() -> asyncio.Semaphore:
    """Return what downloads share so that checking takes half of the processors at most, and at least one."""
    # Inflating and checksums leave the interpreter's lock, so they do take processors from the event loop.
    return asyncio.Semaphore(verifying_at_once())


async def _resolve(folder: Path) -> Path:
    """Return the folder as an absolute path without symbolic links.

    Raises:
        UsageError: No folder can be called so.
    """
    resolving = in_thread(files.resolve, Path(folder))
    try:
        return await to_the_end(resolving)
    except (ValueError, RuntimeError, OSError) as error:
        raise UsageError(f"{str(folder)!r} cannot be a folder: {error}", field="folder") from error
