"""What a person sees while a sweep of hundreds runs: a bar, counts, the clock, the last failures; lines in a log."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from crynux_async.cli.plain import one_line
from crynux_async.clock import utc_now
from crynux_async.money import to_cnx
from crynux_async.report.units import duration
from crynux_async.session import Session
from crynux_async.session_values import SessionStatistics
from crynux_async.sweeps import SweepRun, Trial
from crynux_async.sweeps.trial_states import counts_of

_REFRESH = 0.5
_LINE_EVERY = 60.0  # off a terminal: a log wants to be read, and silence looks like a hang
_FAILURES_SHOWN = 4
_BAR = 60
_UNDER_WAY = ("waiting", "running")
_STYLES = {"done": "green", "running": "cyan", "failed": "bold red", "unconfirmed": "bold yellow"}


def _until(when: datetime) -> str:
    return duration(max(0.0, (when - utc_now()).total_seconds()))


def _rate(statistics: SessionStatistics) -> Iterator[str]:
    """Say how many creates a minute go, where anything limits them."""
    if statistics.limit_per_minute is not None:
        yield f"{statistics.limit_per_minute:g} creates a minute"
    elif statistics.is_rate_limited:
        yield "rate limit not known yet"


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
        counts = counts_of(trial.state for trial in trials)
        over = sum(count for state, count in counts.items() if state not in _UNDER_WAY)
        styled = [(f"{count} ", (state, _STYLES.get(state, "dim")), "  ") for state, count in counts.items()]
        failed = [trial for trial in trials if trial.state == "failed"][-_FAILURES_SHOWN:]
        said = [one_line(f"{trial.label}: {trial.error or 'failed'}") for trial in failed]
        bar = ProgressBar(total=max(1, len(trials)), completed=over, width=min(_BAR, self._console.width - 2))
        return Group(
            Padding(bar, expand=False),  # a bar alone ends no line: what follows it was cut off at its right
            Text.assemble(*(part for parts in styled for part in parts), (self._cost(), "dim")),
            Text(self._clock(), style="dim"),
            *(Text(text, no_wrap=True, overflow="ellipsis") for text in said),
        )

    def _counts(self) -> dict[str, int]:
        return counts_of(trial.state for trial in self._running.trials)

    def _clock(self) -> str:
        statistics = self._session.statistics()
        passed = f"{duration((utc_now() - self._began_at).total_seconds())} so far"
        last = next((trial for trial in reversed(self._running.trials) if trial.state in _UNDER_WAY), None)
        return ", ".join([passed, *_rate(statistics), *self._outlook(last)])

    def _outlook(self, last: Trial | None) -> Iterator[str]:
        """Say when the last trial is sent and ends, as far as is known: they are sent in order."""
        if last is None:
            return
        if last.job.eta is not None:
            yield f"last sent in {_until(last.job.eta)}"
        forecast = self._session.forecast([last.point.config])
        sent_at = last.job.submitted_at or last.job.eta
        if sent_at and forecast.last_sent_at and forecast.ends_between:
            # What it tells is of a job that would be queued now, behind all others: only how long it takes is of use.
            soonest, latest = (sent_at + (end - forecast.last_sent_at) for end in forecast.ends_between)
            yield f"ends in {_until(soonest)} to {_until(latest)}"

    def _cost(self) -> str:
        costs = [trial.cost for trial in self._running.trials if trial.cost is not None]
        spent = sum(cost.spent for cost in costs)
        return f"{to_cnx(spent)} CNX spent" if spent and all(cost.is_complete for cost in costs) else ""

    async def _live(self) -> None:
        with Live(self.view(), console=self._console, auto_refresh=False) as live:
            try:
                while True:
                    live.update(self.view(), refresh=True)
                    await asyncio.sleep(_REFRESH)
            finally:
                # The last view stays on the screen: it must be the last state.
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
