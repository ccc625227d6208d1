"""Bring a result to disk whole, or not at all.

Theory of operation
-------------------
A transfer is a row of requests. Each continues the part file where the last one stopped, until it has the length that
was announced; then it is verified and published (``final_name``). An answer is taken only at the byte that was asked
for and of the version that is on disk, or from byte 0, and then everything begins again. Nothing is final without a
known length.

Requests end badly for many reasons (a cut, silence, a trickle, a 5xx), and all of them mean the same: wait and ask for
the rest. What counts is whether the file grew: ``attempts`` requests in a row without progress end the download, and
what arrived stays for the next call, in this process or another. Progress means further than ever before in this
version, so a server that ignores ranges and cuts at random places cannot keep a download busy for ever.

A transfer works in visits. During a visit it holds a slot, the open part file and its lock; between two visits it waits
and holds nothing but the promise of its room, so that results which do not come never keep those waiting that would.
"""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import attrs

from crynux_async.clock import monotonic
from crynux_async.downloads import final_name
from crynux_async.downloads.checking import Check, Slots, Verify
from crynux_async.downloads.pace import DownloadOptions, Meter, Progress
from crynux_async.downloads.part_file import PartFile, tidy_part
from crynux_async.downloads.requests import OpenResult, Requests
from crynux_async.downloads.reservations import Reservation
from crynux_async.downloads.room import Room
from crynux_async.errors import ArchiveError, CorruptArchiveError, DownloadError
from crynux_async.threads import clean_up, in_thread, to_the_end

_KEPT_BYTES = 8 << 20


@attrs.frozen(kw_only=True)
class Shared:
    """What downloads that run side by side share; by default each has its own.

    Attributes:
        room: Keeps them from taking each other's room.
        slots: Held while something is asked for, written or verified, and not while waiting to ask again.
        check_slots: Held while a file is verified. Fewer than the machine has processors leave the event loop one, and
            all are done sooner.
    """

    room: Room = attrs.field(factory=Room)
    slots: Slots = attrs.field(factory=contextlib.nullcontext)
    check_slots: Slots = attrs.field(factory=contextlib.nullcontext)


@attrs.frozen(kw_only=True)
class DownloadedFile:
    """A result that is complete, verified and safe on disk.

    Attributes:
        path: Where it is.
        total_bytes: Its size.
        seconds: How long this call took.
        resumed_from: Bytes that were here before and could be kept.
        fetched_bytes: Bytes that came over the network during this call.
        attempts: Requests that were made, 0 where nothing was missing.
    """

    path: Path
    total_bytes: int
    seconds: float
    resumed_from: int
    fetched_bytes: int
    attempts: int


async def download(
    open_result: OpenResult,
    target: str | Path | Reservation,
    *,
    verify: Verify | None,
    options: DownloadOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    refetch: int = 1,
    most_bytes: int | None = None,
    owner: str = "",
    adopt: bool = False,
    keep_note: bool = False,
    shared: Shared | None = None,
) -> DownloadedFile:
    """Fetch a result to a file that has its name only when it is complete, verified and on disk.

    A call that fails or is cancelled leaves what arrived, and the next one continues there. A file that is not this
    download's own is never replaced.

    Args:
        open_result: Where the bytes come from.
        target: The final name, in a folder that is made if it is not there; or one that is taken with the first slot.
        verify: Raises ArchiveError when a complete file is not good; called in a thread. None checks the length only.
        options: How patient to be.
        on_progress: Called on the loop at most every 0.2 seconds, and at the end.
        refetch: How often, >= 0, to fetch everything once more when ``verify`` finds the file damaged.
        most_bytes: A result that announces more is not fetched; None for no bound.
        owner: Whom the file belongs to, such as a job id: the part file of another owner is not continued. That of the
            reservation where ``target`` is one.
        adopt: Whether a file that already has the name is known to be this owner's, finished by an earlier call; it
            is verified and returned.
        keep_note: Whether the note stays beside the finished file, until ``reservations.forget_note``.
        shared: What it has in common with others.

    Raises:
        IncompleteError: Requests brought nothing new for too long, or no size was ever announced.
        CorruptArchiveError: Every copy was refused by ``verify``; the last one is kept under a name in ``.corrupt``.
        DownloadError: The disk is full or not writable, the name is taken, the result is too large, or another download
            is writing the file.
        BackendError: The service does not give the result (deleted, not ours, key refused).
    """
    began = monotonic()
    options, shared = options or DownloadOptions(), shared or Shared()
    _keep_freed_memory(_KEPT_BYTES)
    path, owner = (target, target.owner) if isinstance(target, Reservation) else (Path(target), owner)
    place = _Place(target=path, owner=owner, adopt=adopt, options=options, room=shared.room)
    meter = Meter(report=on_progress)
    check = Check(verify, shared.check_slots)
    requests = Requests(
        open_result=open_result, options=options, most_bytes=most_bytes, meter=meter, on_growth=check.grew
    )
    copies = _Copies(requests=requests, check=check, refetch=refetch, keep_note=keep_note)
    part = await _visit(place, copies, shared.slots)
    return DownloadedFile(
        path=part.path,
        total_bytes=part.written,
        seconds=monotonic() - began,
        resumed_from=requests.resumed_from,
        fetched_bytes=requests.fetched_bytes,
        attempts=requests.made,
    )


async def _visit(place: "_Place", copies: "_Copies", slots: Slots) -> PartFile:
    """Visit a place again and again until it has a good copy; return the part file, which is closed."""
    try:
        while True:
            async with slots, place.visit() as part:
                pause = await copies.work(part)
            if pause is None:
                return part
            await asyncio.sleep(pause)
    finally:
        await place.leave()


@functools.cache
def _keep_freed_memory(size: int) -> None:
    """Have the allocator reuse what a few pieces took, by freeing one block as large as all of them.

    glibc returns freed memory to the system above a threshold that follows the largest block ever freed. Left alone, it
    returned most pieces and paged them in again: 54,000 page faults for 600 MB in place of 8,300, and 1.24 s of CPU
    time in place of 0.70 s. Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    bytes(size)


@attrs.define(eq=False, kw_only=True)
class _Place:
    """Where a download goes: its name, its room, and its part file, opened for each visit."""

    target: Path | Reservation
    owner: str
    adopt: bool
    options: DownloadOptions
    room: Room
    _part: PartFile | None = None

    @contextlib.asynccontextmanager
    async def visit(self) -> AsyncIterator[PartFile]:
        """Take the name, the first time, and open the part file."""
        path = self.target if isinstance(self.target, Path) else await to_the_end(in_thread(self.target.take))
        self._part = PartFile(
            path,
            owner=self.owner,
            adopt=self.adopt,
            room=self.room,
            free_space_margin=self.options.free_space_margin,
        )
        async with self._part as part:
            yield part

    async def leave(self) -> None:
        """Give back what is not needed any more."""
        await clean_up(self._give_back)

    def _give_back(self) -> None:
        if self._part is not None:
            self.room.release(self._part.part_path)
            tidy_part(self._part.path)
        if isinstance(self.target, Reservation):
            self.target.give_back()


@attrs.define(eq=False, kw_only=True)
class _Copies:
    """Fetches copies of a result until one is good.

    Attributes:
        refused: Why copies were not good, with the digest of each.
    """

    requests: Requests
    check: Check
    refetch: int
    keep_note: bool
    refused: list[tuple[ArchiveError, str]] = attrs.field(factory=list, init=False)

    async def work(self, part: PartFile) -> float | None:
        """Do what can be done without waiting; return the seconds after which to go on, or None at the end.

        Raises:
            CorruptArchiveError: No copy was good, or this one is undamaged and not what it should be.
        """
        while True:
            async with self.check.visiting(part):
                pause = await self.requests.fetch(part)
            if pause is not None:
                return pause
            try:
                await final_name.check(part, self.check.verify(), self.check.slots)
            except ArchiveError as error:
                await self._refuse(part, error)
            else:
                part.release_room()
                await final_name.publish(part, keep_note=self.keep_note)
                self.requests.meter.show(monotonic(), part.written, part.total_bytes)
                return None

    async def _refuse(self, part: PartFile, error: ArchiveError) -> None:
        """Have everything fetched once more, or put the last copy aside."""
        # It had its final name before this call, so it is neither replaced nor put aside.
        if part.is_published:
            raise DownloadError(
                f"{part.path} exists already and is not good ({error}); move it away and download again"
            ) from error
        self.refused.append((error, await final_name.digest(part)))
        # Whole, and not what it should be: fetched again, it would be the same.
        if error.is_undamaged or len(self.refused) > self.refetch:
            part.release_room()
            kept = await final_name.set_aside(part)
            raise CorruptArchiveError(_say_refused(part.path, kept, self.refused)) from error
        self.requests.start_over()


def _say_refused(path: Path, kept: Path, refused: list[tuple[ArchiveError, str]]) -> str:
    if len(refused) == 1:
        times = "arrived and is not good"
    elif len({digest for _, digest in refused}) == 1:
        # Equal digests mean that nothing went wrong on the way.
        times = f"arrived {len(refused)} times, the same bytes each time, so it is not good where it comes from"
    else:
        times = f"arrived {len(refused)} times, not the same each time, and was never good"
    reasons = "; ".join(dict.fromkeys(str(error) for error, _ in refused))
    return f"{path.name} {times}: {reasons}. The last copy is kept as {kept}"
