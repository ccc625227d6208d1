"""The page of a sweep on disk: collected, rendered, and put in its place whole, once or while the sweep runs."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from crynux_async.clock import utc_now
from crynux_async.errors import UsageError
from crynux_async.files import new_file
from crynux_async.report import SweepView, render
from crynux_async.report.page import require_templates
from crynux_async.states import GOOD, JobState
from crynux_async.sweeps.again import options_of
from crynux_async.sweeps.pictures import Pictures, pictures_beside, pictures_by, pictures_in, service_images
from crynux_async.sweeps.trial import Trial
from crynux_async.sweeps.view import Subject, view_of

if TYPE_CHECKING:
    from crynux_async.session import Session

_EVERY = 10.0
_MOST_OF_THE_TIME = 0.05
"""The part of the time that rendering may take while a sweep runs: a page of a thousand trials takes a second."""

_log = logging.getLogger("crynux_async.sweeps.page")


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _source(images: "str | Pictures | None") -> Pictures | None:
    return _absolute(images) if isinstance(images, str | Path) else images


@attrs.frozen
class Report:
    """A page about a sweep: one file that opens anywhere, offline.

    Args:
        path: The file; its folder is made where it is missing.
        images: Where pictures of the models come from: a folder with files that are named like the archives and have
            more behind their names, a function of a trial that returns PNG or JPEG files and is called in a thread,
            or None for the service's validation images.
        across: The parameter whose values stand side by side in the grid of pictures, or None to choose.
        down: The parameter whose values stand below each other, or None to choose.
        options: What the command that the page names must be given, such as "--relay --ledger cats.db"; None for what
            the session itself tells.
    """

    path: Path = attrs.field(converter=_absolute)
    images: Pictures | None = attrs.field(default=None, converter=_source, kw_only=True)
    across: str | None = attrs.field(default=None, kw_only=True)
    down: str | None = attrs.field(default=None, kw_only=True)
    options: str | None = attrs.field(default=None, kw_only=True)

    def prepare(self) -> None:
        """Make sure that it can be written, before anything is paid for.

        Raises:
            UsageError: jinja2 is missing, the file cannot be where it should, or there is no such folder of pictures.
        """
        require_templates()
        if isinstance(self.images, Path) and not self.images.is_dir():
            raise UsageError(f"there is no folder of pictures at {self.images}", field="images")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.path.parent} cannot be made: {error.strerror}", field="report") from error
        if self.path.is_dir():
            raise UsageError(f"{self.path} is a folder; the report is one file", field="report")

    def check_parameters(self, names: Sequence[str]) -> None:
        """Make sure that pictures can be put in order as was asked.

        Args:
            names: The parameters that any of the trials changes.

        Raises:
            UsageError: One that was asked for is none of them; says which there are.
        """
        for option, name in (("across", self.across), ("down", self.down)):
            if name is not None and name not in names:
                known = ", ".join(names) or "nothing"
                raise UsageError(
                    f"{option}={name!r} is not a parameter of this sweep: its trials change {known}", field=option
                )


class ReportWriter:
    """Writes the page of a sweep, as often as is wished; pictures are fetched once.

    Args:
        report: What is written where.
        subject: The sweep.
        session: Where it runs.
    """

    def __init__(self, report: Report, subject: Subject, session: "Session") -> None:
        self._report = report
        self._subject = subject
        self._session = session
        self._pictures: dict[Trial, Sequence[bytes]] = {}

    async def write(self, trials: Sequence[Trial]) -> Path:
        """Put a new page in the place of the old one: whoever reads it sees one of both, whole.

        Raises:
            UsageError: As ``Report.prepare``.
            OSError: It cannot be written.
        """
        # Each time, not only at the start: the folder may have gone since.
        await asyncio.to_thread(self._report.prepare)
        pictures = await self._collect([trial for trial in trials if trial.job.state in GOOD])
        collect = partial(
            view_of,
            self._subject,
            list(trials),
            written_at=utc_now(),
            images=pictures,
            refusals=self._session.statistics().refusals,
            last_sent_at=_last_sent_at(trials),
            mapping=self._session.service_facts.mapping,
            options=options_of(self._session) if self._report.options is None else self._report.options,
        )
        await asyncio.to_thread(self._put, collect)
        return self._report.path

    @contextlib.asynccontextmanager
    async def kept_up(self, trials: Callable[[], Sequence[Trial]]) -> AsyncIterator[None]:
        """Write the page now and then while the block runs, and once more at its end.

        Raises:
            OSError: It could not be written at the end.
        """
        writer = asyncio.create_task(self._go_on(trials), name="report")
        try:
            yield
        except BaseException:
            await self._end(writer)
            try:
                await self.write(trials())
            except OSError as error:  # what ended the sweep is what must be told
                self._warn(error)
            raise
        await self._end(writer)
        await self.write(trials())

    @staticmethod
    async def _end(writer: "asyncio.Task[None]") -> None:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)

    def _warn(self, error: OSError) -> None:
        _log.warning("the report %s is not written for now: %s", self._report.path, error)

    async def _go_on(self, trials: Callable[[], Sequence[Trial]]) -> None:
        written: list[str] = []
        while True:
            states, took = [str(trial.state) for trial in trials()], 0.0
            # By states alone: while none has changed, a page is not worth the second that it may take.
            if states != written:
                began = time.perf_counter()
                try:
                    await self.write(trials())
                    written = states
                except OSError as error:  # a full disk must not end a sweep, and may be mended before its end
                    self._warn(error)
                took = time.perf_counter() - began
            await asyncio.sleep(max(_EVERY, took / _MOST_OF_THE_TIME))

    async def _collect(self, good: Sequence[Trial]) -> Mapping[Trial, Sequence[bytes]]:
        source = self._report.images
        if isinstance(source, Path):
            return await asyncio.to_thread(pictures_in, source, good)
        if source is None:
            return {**await self._made(good, None), **await asyncio.to_thread(pictures_beside, good)}
        return await self._made(good, source)

    async def _made(
        self, good: Sequence[Trial], make: Callable[[Trial], Sequence[bytes]] | None
    ) -> Mapping[Trial, Sequence[bytes]]:
        """Return pictures that are made or fetched once, and remembered: both may take long."""
        for trial in good:
            if trial in self._pictures:
                continue
            # Those without an archive that was read are asked for again next time.
            if make is not None and trial.archive is not None:
                self._pictures[trial] = await asyncio.to_thread(pictures_by, make, trial)
            # Where the archive is on disk, the service's images lie beside it.
            elif make is None and trial.job.path is None:
                self._pictures[trial] = await service_images(trial.job)
        return {trial: pictures for trial, pictures in self._pictures.items() if pictures}

    def _put(self, collect: Callable[[], SweepView]) -> None:
        view = collect()
        text = render(view, images_across=self._report.across, images_down=self._report.down)
        with new_file(self._report.path, replace=True) as file:
            file.write(text.encode())


def _last_sent_at(trials: Sequence[Trial]) -> datetime | None:
    planned = [trial.job for trial in trials if trial.job.state is JobState.PLANNED]
    return planned[-1].eta if planned else None  # they are sent in order: the last one knows
