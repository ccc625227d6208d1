"""What a person sees while jobs run: a table that changes in place in a terminal, one line per change elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from crynux_async.cli.job_names import shortest_tasks
from crynux_async.cli.listing import STYLES
from crynux_async.cli.plain import one_line
from crynux_async.cli.waiting import said
from crynux_async.clock import monotonic, utc_now
from crynux_async.events import ArchiveReady, DownloadFailed, DownloadProgressed, Event, JobProgressed, JobStateChanged
from crynux_async.job import Job
from crynux_async.report.units import duration, size
from crynux_async.session import Session
from crynux_async.states import JobState

_REFRESH = 0.25
_BEAT = 1.0
_LINE_EVERY = 60.0  # off a terminal: silence looks like a hang


class Board:
    """The jobs of a command, as a table.

    Args:
        session: Where they run.
        console: Where to draw.
        jobs: Which jobs; None for all that the session has.
    """

    def __init__(self, session: Session, console: Console, jobs: Sequence[Job] | None = None) -> None:
        self._session = session
        self._jobs = jobs
        self._console = console
        self._progress: dict[str, tuple[int, int | None]] = {}
        self._notes: dict[str, str] = {}
        self._said_at = 0.0

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the jobs while the block runs."""
        shows = [self._live()] if self._console.is_terminal else [self._lines(), self._beats()]
        tasks = [asyncio.create_task(each) for each in (*shows, self._listen())]
        try:
            yield
        finally:
            await asyncio.sleep(0)
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def table(self) -> Table:
        """Return the table as it is now."""
        table = Table(box=None, pad_edge=False, expand=False, header_style="dim")
        jobs = self._shown()
        tasks = shortest_tasks(job.task_id for job in jobs)
        shown = [tasks.get(job.task_id or "", job.task_id or "") for job in jobs]
        table.add_column("job", no_wrap=True, min_width=16)
        table.add_column("task", no_wrap=True, min_width=max(map(len, ("task", *shown))), justify="right")
        table.add_column("state", no_wrap=True, min_width=11)
        table.add_column("time", no_wrap=True, min_width=11, justify="right")
        table.add_column("", no_wrap=True)
        for job, task in zip(jobs, shown, strict=True):
            state = Text(str(job.state), style=STYLES[job.state])
            name = Text(one_line(job.label or job.job_id), overflow="ellipsis")
            table.add_row(name, task, state, _age(job), self._detail(job))
        return table

    def _detail(self, job: Job) -> Text | ProgressBar:
        note = self._notes.get(job.job_id)
        if note:
            return Text(one_line(note), style="dim", overflow="ellipsis")
        received, total = self._progress.get(job.job_id, (0, None))
        if job.state is JobState.SUCCEEDED and total:
            return ProgressBar(total=total, completed=received, width=24)
        if job.state is JobState.PLANNED and (eta := job.eta):
            wait = max(0.0, (eta - utc_now()).total_seconds())
            return Text(f"sent in about {wait:.0f} s" if wait >= 1 else "next", style="dim")
        return Text(job.progress or "", style="dim")

    def _shown(self) -> Sequence[Job]:
        return self._session.jobs() if self._jobs is None else self._jobs

    def _shows(self, job_id: str) -> bool:
        return self._jobs is None or any(job.job_id == job_id for job in self._jobs)

    def _note(self, event: Event) -> None:
        if isinstance(event, DownloadProgressed):
            self._progress[event.job_id] = (event.received_bytes, event.total_bytes)
        elif isinstance(event, ArchiveReady):
            self._notes[event.job_id] = f"{size(event.total_bytes):>8}  {event.path.name}"
        elif isinstance(event, DownloadFailed):
            self._notes[event.job_id] = event.message

    async def _listen(self) -> None:
        async for event in self._session.events():
            self._note(event)

    async def _live(self) -> None:
        with Live(self._view(), console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(self._view(), refresh=True)
                    await asyncio.sleep(_REFRESH)
            finally:
                live.update(self._view(), refresh=True)

    def _view(self) -> Group:
        trouble = self._trouble()
        return Group(self.table(), *([Text(trouble, style="yellow")] if trouble else []))

    def _trouble(self) -> str:
        """Return what is wrong with a service that does not answer, or ""."""
        statistics = self._session.statistics()
        if statistics.silent_for is None:
            return ""
        return f"no answer for {duration(statistics.silent_for)}: {said(statistics)}"

    async def _beats(self) -> None:
        """Say how things stand when the service stops or begins to answer, and after a minute without a line."""
        was_silent = was_waiting = False
        self._said_at = monotonic()
        while True:
            await asyncio.sleep(_BEAT)
            trouble, waiting = self._trouble(), self._waiting()
            is_news = bool(trouble) != was_silent or (bool(waiting) and not was_waiting)
            if is_news or monotonic() - self._said_at >= _LINE_EVERY:
                self._print(f"{utc_now():%H:%M:%S} {'; '.join(filter(None, (self._standing(), waiting, trouble)))}")
            was_silent, was_waiting = bool(trouble), bool(waiting)

    def _standing(self) -> str:
        return ", ".join(f"{count} {state}" for state, count in summary(self._shown()).items())

    def _waiting(self) -> str:
        """Return when the next job will be sent, where that is not at once, or ""."""
        etas = [job.eta for job in self._shown() if job.state is JobState.PLANNED and job.eta is not None]
        seconds = (min(etas) - utc_now()).total_seconds() if etas else 0.0
        return f"the next one is sent in about {duration(seconds)}" if seconds >= _BEAT else ""

    async def _lines(self) -> None:
        for job in self._shown():
            if job.state is not JobState.PLANNED:  # it was under way before, and may be for hours
                self._say(utc_now(), job.job_id, job.task_id, str(job.state))
        async for event in self._session.events():
            if not self._shows(event.job_id):
                continue
            if isinstance(event, JobStateChanged):
                self._say(event.at, event.job_id, event.task_id, str(event.state))
            elif isinstance(event, JobProgressed):
                self._say(event.at, event.job_id, event.task_id, event.stage)

    def _say(self, at: datetime, job_id: str, task_id: str | None, word: str) -> None:
        task = "" if task_id is None else f" (task {task_id})"
        name = self._session.job(job_id).label or job_id
        self._print(f"{at:%H:%M:%S} {one_line(name)}{task}: {word}")

    def _print(self, line: str) -> None:
        self._console.print(line)
        self._said_at = monotonic()


def _age(job: Job) -> str:
    if job.submitted_at is None:
        return ""
    return duration(((job.ended_at or utc_now()) - job.submitted_at).total_seconds())


def summary(jobs: Sequence[Job]) -> dict[str, int]:
    """Return how many jobs are in which state, without the zeros."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[str(job.state)] = counts.get(str(job.state), 0) + 1
    return counts
