"""What a session does now and then that drives no job: it warns of models that will be deleted, and trims events."""

import asyncio
import logging
from datetime import datetime, timedelta

from crynux_async.backends.base import Backend
from crynux_async.clock import utc_now
from crynux_async.errors import LedgerError
from crynux_async.ledgers.base import JobFilter, JobRow, Ledger
from crynux_async.settings import Settings
from crynux_async.states import UNFETCHED

_log = logging.getLogger("crynux_async.supervision.chores")

_EVERY = 3600.0
_WARN_BEFORE = timedelta(days=1)
_LONGEST_TASK = timedelta(days=7)
_WARNED_AT_ONCE = 500


class Chores:
    """Does them, each in a task that the supervisor gives it.

    Args:
        backend: Says how long results are kept.
        settings: How many events are kept, and how long.
        ledger: Has rows and events.
        trims_events: Whether events are trimmed here; one of the sessions on a ledger is enough.
    """

    def __init__(self, backend: Backend, settings: Settings, ledger: Ledger, *, trims_events: bool) -> None:
        self._backend = backend
        self._settings = settings
        self._ledger = ledger
        self._trims_events = trims_events

    async def warn(self) -> None:
        """Warn once of each model that nobody has fetched before the service deletes it, for ever."""
        retention = self._backend.facts.retention
        warned: set[str] = set()
        while retention is not None:
            kept_since = utc_now() - timedelta(seconds=retention)
            expiring = [
                row
                for row in await self._unfetched(kept_since)
                if row.ended_at and row.ended_at < kept_since + _WARN_BEFORE
            ]
            for row in expiring:
                if row.job_id not in warned:
                    _log.warning(
                        "task %s ended %s and was not downloaded; the service deletes it after %g days by default",
                        row.task_id,
                        f"{row.ended_at:%Y-%m-%d %H:%M} UTC",
                        retention / 86_400,
                    )
            warned = {row.job_id for row in expiring}
            await asyncio.sleep(_EVERY)

    async def trim_events(self) -> None:
        """Remove events that are old or too many, for ever."""
        while self._trims_events:
            try:
                await self._ledger.trim_events(
                    before=utc_now() - timedelta(seconds=self._settings.event_age), keep=self._settings.max_events
                )
            except LedgerError as error:
                _log.info("old events stay for now: %s", error)
            await asyncio.sleep(_EVERY)

    async def _unfetched(self, since: datetime) -> list[JobRow]:
        """Return the oldest jobs in the ledger whose model nobody has fetched, this session's or not."""
        # By the ledger, because no session holds a model of which nothing is wanted; and a bounded number, because a
        # month of them would be a hundred megabytes of rows.
        where = JobFilter(backend=self._backend.name, states=UNFETCHED, since=since - _LONGEST_TASK)
        try:
            rows = await self._ledger.jobs(where, limit=_WARNED_AT_ONCE)
        except LedgerError as error:
            _log.info("models that nobody has fetched are looked for later: %s", error)
            return []
        return [row for row in rows if row.ended_at is not None]
