"""A file is checked while it grows, where whoever checks it can begin before all of it is there.

Theory of operation
-------------------
What takes time about an archive is to unpack it. Done behind the last byte, that is added to the transfer; done while
the bytes come, it is hidden behind a network that is slower than a processor. So for every few MiB a thread is told how
far to look, one call at a time, and none while others check that share the machine's processors. A call reads what is
on disk and never fails; only the one at the end judges. Where the network is faster, calls fall behind; each looks at
few MiB all the same, so that the last one, which may use more threads, begins soon after the last byte. A file that
begins again, with another version or the same, is another file and is checked anew; between two visits of a transfer
it stays the same.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from crynux_async.downloads.gathering import Gatherer
from crynux_async.downloads.part_file import PartFile
from crynux_async.threads import in_thread, to_the_end

STEP_BYTES = 4 << 20
"""A thread is not worth less."""

LOOK_BYTES = 8 << 20
"""A thread looks at no more before it asks for its turn again: some 25 ms of unpacking."""

Slots = AbstractAsyncContextManager[object]
"""What bounds how many do something at once, such as a semaphore; entered again and again."""


class Verify(Protocol):
    """Verifies a complete file; called in a thread."""

    def __call__(self, path: Path, /) -> object:
        """Return anything, or raise ArchiveError where the file is not good."""


@runtime_checkable
class Stoppable(Protocol):
    """A ``Verify`` that can be stopped."""

    def stop(self) -> None:
        """Have a call end soon that runs in a thread; what it says then does not matter."""


class Growing(Protocol):
    """Verifies one file of which there is more and more; its calls are made in threads, one after another."""

    def advance(self, path: Path, arrived: int, /) -> None:
        """Look at the bytes before ``arrived``, of which some were looked at before; whatever is wrong waits."""

    def __call__(self, path: Path, /) -> object:
        """Verify the complete file; raises ArchiveError."""


@runtime_checkable
class VerifiesWhatGrows(Verify, Protocol):
    """A ``Verify`` that can also begin while the file grows."""

    def begin(self) -> Growing:
        """Return what verifies one file."""


class Check:
    """The check of one download's copies.

    Args:
        verify: Verifies a complete file, or None for nothing but its length.
        slots: Held while a thread checks.

    Attributes:
        slots: As given.
    """

    def __init__(self, verify: Verify | None, slots: Slots) -> None:
        self.slots = slots
        self._verify = verify
        self._growing: Growing | None = None
        # Which file that is: one that begins again within a visit gets another gatherer.
        self._gatherer: Gatherer | None = None
        self._looked_at = 0
        self._looking: asyncio.Task[None] | None = None
        self._is_visited = False

    def verify(self) -> Verify | None:
        """Return what verifies the file that is complete now, from where it was looked at last."""
        if self._growing is None and isinstance(self._verify, VerifiesWhatGrows):
            return self._verify.begin()  # it may be stoppable
        return self._growing or self._verify

    @contextlib.asynccontextmanager
    async def visiting(self, part: PartFile) -> AsyncIterator[None]:
        """Let the file grow in this block: at its end nothing looks at it any more."""
        # The same file as in the last visit, or else ``Growing`` finds that it is another one.
        self._gatherer = part.gatherer
        self._is_visited = True
        try:
            yield
        finally:
            self._is_visited = False
            if self._looking is not None:
                await to_the_end(self._looking)
            if self._gatherer is not part.gatherer:
                self._growing = None

    def grew(self, part: PartFile) -> None:
        """Have a thread look at what has come, if there is enough of it and none does so already."""
        if not isinstance(self._verify, VerifiesWhatGrows) or self._looking is not None:
            return
        if self._gatherer is not part.gatherer:
            self._gatherer, self._growing = part.gatherer, None
        if self._growing is None:
            self._growing, self._looked_at = self._verify.begin(), 0
        if self._is_worth_a_look(part):
            self._looking = asyncio.create_task(self._look(self._growing, part))

    def _is_worth_a_look(self, part: PartFile) -> bool:
        is_same = self._is_visited and self._gatherer is part.gatherer
        return is_same and part.written - self._looked_at >= STEP_BYTES

    async def _look(self, growing: Growing, part: PartFile) -> None:
        try:
            while self._is_worth_a_look(part):
                self._looked_at = min(part.written, self._looked_at + LOOK_BYTES)
                async with self.slots:
                    await to_the_end(in_thread(growing.advance, part.part_path, self._looked_at))
        finally:
            self._looking = None
