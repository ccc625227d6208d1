"""Keeps the validation images of models beside their archives, where the service has any.

A model is there when its archive is: its images come after it, in a task of their own, and whatever becomes of them
neither fails nor delays it. The service deletes them with the task, so they are fetched at once and not when they are
asked for.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from crynux_async.downloads.images import images_beside, put_images
from crynux_async.errors import CrynuxError, NotFoundError, UsageError
from crynux_async.supervision.driving import Spawn
from crynux_async.supervision.record import Record
from crynux_async.threads import in_thread, to_the_end

_Fetch: TypeAlias = Callable[[Record], Awaitable[Sequence[bytes]]]

_log = logging.getLogger("crynux_async.supervision.image_keeper")


class ImageKeeper:
    """Stores validation images. Must be made inside a running event loop.

    Args:
        fetch: Returns the validation images of a job's task; None where the service hands out none.
        spawn: Starts a task.
        slots: How many jobs' images may be fetched and written at once, >= 1.
    """

    def __init__(self, fetch: _Fetch | None, spawn: Spawn, *, slots: int) -> None:
        self._fetch = fetch
        self._spawn = spawn
        self._slots = asyncio.Semaphore(slots)  # images wait in memory for a slow disk
        self._under_way: dict[Path, asyncio.Future[list[Path]]] = {}

    @property
    def active(self) -> int:
        """Of how many archives the images are under way."""
        return len(self._under_way)

    def keep(self, record: Record, archive: Path) -> None:
        """Begin to store the images of a job beside its archive, once; what goes wrong is logged.

        Args:
            record: The job.
            archive: Its archive, on disk.
        """
        if self._fetch is not None:
            with contextlib.suppress(UsageError):  # the session has just ended, and the model is there
                self._begin(record, archive, self._fetch)

    async def store(self, record: Record, archive: Path) -> list[Path]:
        """Return the images beside a job's archive, in order, storing them unless they are there.

        Args:
            record: The job.
            archive: Its archive, on disk.

        Raises:
            UsageError: The service hands out none, or the session was closed.
            BackendError: They could not be had; ``NotFoundError`` where there are none (any more).
            OSError: They cannot be written.
        """
        if self._fetch is None:
            raise UsageError(f"the service of {record!r} hands out no validation images", job_id=record.job_id)
        # Shielded, because others may wait for them, too.
        return await asyncio.shield(self._begin(record, archive, self._fetch))

    def _begin(self, record: Record, archive: Path, fetch: _Fetch) -> "asyncio.Future[list[Path]]":
        stored = self._under_way.get(archive)
        if stored is None:
            stored = asyncio.get_running_loop().create_future()
            stored.add_done_callback(lambda done: done.exception())  # nobody need wait for it
            self._spawn(self._run(record, archive, fetch, stored))
            self._under_way[archive] = stored
        return stored

    async def _run(self, record: Record, archive: Path, fetch: _Fetch, stored: "asyncio.Future[list[Path]]") -> None:
        # What those who wait are told where the end of the session cancels this task.
        error: Exception = UsageError("the session was closed before the validation images were there")
        try:
            async with self._slots:
                paths = await to_the_end(in_thread(images_beside, archive))
                if not paths:
                    images = await fetch(record)
                    paths = await to_the_end(in_thread(put_images, archive, images))
            stored.set_result(paths)
        except NotFoundError as failure:  # none were asked for, or the service has deleted them with the task
            _log.debug("no validation images of %r: %s", record, failure)
            error = failure
        except (CrynuxError, OSError) as failure:
            _log.warning("the validation images of %r are not stored, its model is: %s", record, failure)
            error = failure
        except Exception as failure:
            error = failure
            raise
        finally:
            del self._under_way[archive]
            if not stored.done():
                stored.set_exception(error)
