"""What a person sees while a sweep of hundreds runs: a bar, counts, the clock, the last failures; lines in a log."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from crynux_async.cli.console import one_line
from crynux_async.cli.units import duration
from crynux_async.clock import utc_now
from crynux_async.session import Session
from crynux_async.states import JobState
from crynux_async.sweeps import SweepRun

_REFRESH = 0.5
_LINE_EVERY = 60.0  # off a terminal: a log wants to be read, and silence looks like a hang
_FAILURES_SHOWN = 4
_BAR = 60
_ORDER = ("done", "running", "waiting", "failed", "unconfirmed", "stopped")
_STYLES = {"done": "green", "running": "cyan", "failed": "bold red", "unconfirmed": "bold yellow"}


def counted(states: Iterable[str]) -> dict[str, int]:
    """Return how many trials are where, without the zeros."""
    counts = Counter(states)
    return {state: counts[state] for state in _ORDER if counts[state]}


class SweepBoard:
    """The trials of a sweep while they run.

    Args:
        session: Where they run.
        console: Where to draw.
        running: The sweep.
    """

    def __init__(self, session: Session, console: Console, running: SweepRun) -> None:
        self._session = session
        self._console = console
        self._running = running
        self._began_at = utc_now()

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the trials while the block runs."""
        task = asyncio.create_task(self._live() if self._console.is_terminal else self._lines())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def view(self) -> Group:
        """Return what is shown now."""
        trials = self._running.trials
        counts = counted(trial.state for trial in trials)
        over = sum(count for state, count in counts.items() if state not in ("running", "waiting"))
        styled = [(f"{count} ", (state, _STYLES.get(state, "dim")), "  ") for state, count in counts.items()]
        failed = [trial for trial in trials if trial.state == "failed"][-_FAILURES_SHOWN:]
        said = [one_line(f"{trial.label}: {trial.error or 'failed'}") for trial in failed]
        return Group(
            ProgressBar(total=max(1, len(trials)), completed=over, width=min(_BAR, self._console.width - 2)),
            Text.assemble(*(part for parts in styled for part in parts)),
            Text(self._clock(), style="dim"),
            *(Text(text, no_wrap=True, overflow="ellipsis") for text in said),
        )

    def _counts(self) -> dict[str, int]:
        return counted(trial.state for trial in self._running.trials)

    def _clock(self) -> str:
        statistics = self._session.statistics()
        passed = f"{duration((utc_now() - self._began_at).total_seconds())} so far"
        limit = statistics.limit_per_minute
        rate = "rate limit not known yet" if limit is None else f"{limit:g} creates a minute"
        last = max((job.eta for job in self._waiting() if job.eta), default=None)
        sent = "" if last is None else f", last sent in {duration(max(0.0, (last - utc_now()).total_seconds()))}"
        return f"{passed}, {rate}{sent}"

    def _waiting(self) -> Iterable:  # type: ignore[type-arg]
        planned = [trial.job for trial in self._running.trials if trial.job.state is JobState.PLANNED]
        return planned[-1:]  # they are sent in order: the last one knows

    async def _live(self) -> None:
        with Live(self.view(), console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(self.view(), refresh=True)
                    await asyncio.sleep(_REFRESH)
            finally:
                live.update(self.view(), refresh=True)

    async def _lines(self) -> None:
        said = ""
        waited = 0.0
        while True:
            now = ", ".join(f"{count} {state}" for state, count in self._counts().items())
            if now != said or waited >= _LINE_EVERY:
                self._console.print(f"{utc_now():%H:%M:%S} {now}")
                said, waited = now, 0.0
            await asyncio.sleep(_REFRESH)
            waited += _REFRESH
