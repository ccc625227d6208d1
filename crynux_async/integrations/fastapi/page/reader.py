"""Reads what the watching pages show, and has it rendered."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import attrs

from crynux_async.archive import Health, LoraArchive, Norms
from crynux_async.backends.credentials import is_wallet
from crynux_async.clock import monotonic, utc_now
from crynux_async.downloads.images import images_beside
from crynux_async.errors import ArchiveError, UsageError
from crynux_async.integrations.fastapi.page.sources import Viewer
from crynux_async.job import Job
from crynux_async.ledgers.base import AttemptRow, EventRow, JobRow
from crynux_async.report.board import (
    LATEST,
    MOST_PLANNED,
    MOST_RUNNING,
    MOST_TROUBLED,
    PAGE,
    SHOWN,
    TROUBLED,
    UNDER_WAY,
    BoardRows,
    Pace,
    board_of,
    latest_sweeps,
)
from crynux_async.report.board_values import ArchiveView, BoardView, JobView, Selection
from crynux_async.report.job_page import archive_view, job_view
from crynux_async.report.values import SweepView
from crynux_async.states import JobState
from crynux_async.supervision.cut_off import as_left
from crynux_async.supervision.owners import may_follow
from crynux_async.sweeps.notes import TAG
from crynux_async.sweeps.remembered import recall
from crynux_async.sweeps.trial import Known, Trial
from crynux_async.sweeps.view import Subject, view_of
from crynux_async.training.service import ValueMapping

_MOST_EVENTS = 100
_MOST_READINGS = 256
_MOST_KNOWN = 5000
_PAST = timedelta(hours=1)


@attrs.frozen(kw_only=True)
class _Reading:
    health: Health | None
    norms: Norms | None


class Reader:
    """Reads what pages show. What archives say is read once and remembered."""

    def __init__(self) -> None:
        self._readings: dict[tuple[str, int, int], _Reading] = {}
        self._known: dict[tuple[str | None, str], dict[str, Known]] = {}

    async def board(self, viewer: Viewer, selection: Selection) -> BoardView:
        """Return the board.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        rows = await _board_rows(viewer, selection)
        pace, source = None, viewer.source
        waiting = rows.planned[0] if rows.planned else None
        # No rate limit holds up what a wallet creates.
        if waiting is not None and not is_wallet(waiting.key_id):
            attempts = await _attempts(viewer, waiting)
            pace = Pace.of(attempts, now=utc_now(), seconds=monotonic(), limit=source.limit, burst=source.burst)
        return board_of(rows, selection, now=utc_now(), pace=pace, shows_commands=source.shows_commands)

    async def job(self, viewer: Viewer, row: JobRow) -> JobView:
        """Return the page of a job.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        ledger = viewer.source.ledger
        (left,) = await as_left(ledger, [row])
        return job_view(
            left,
            events=await ledger.events(row.job_id, after=max(0, row.last_event - _MOST_EVENTS)),
            tasks=await ledger.tasks([row.job_id]),
            service=viewer.source.facts_of(row),
            archive=await asyncio.to_thread(self._archive, row) if row.path is not None else None,
        )

    async def sweep(self, viewer: Viewer, name: str, base: str) -> SweepView | None:
        """Return the page of a sweep, or None where there is none.

        Args:
            viewer: Who looks.
            name: Its name.
            base: The address of the board, for that of its pictures.

        Raises:
            LedgerError: The ledger cannot be read.
        """
        newest = await viewer.newest_of_sweep(name)
        if newest is None:
            return None
        service = newest.backend
        known = self._known.setdefault((viewer.tenant, f"{service} {name}"), {})
        async with viewer.source.open_session(newest) as session:
            found = await recall(session, name, tenant=viewer.tenant, known=known)
            # To the minute: a page that says when it was made would be another one at every look.
            minute = utc_now().replace(second=0, microsecond=0)
            mapping = session.service_facts.mapping
            collect = partial(_sweep_view, found.subject, found.trials, mapping, base=base, written_at=minute)
            view = await asyncio.to_thread(collect)
        self._forget()
        return view

    def _archive(self, row: JobRow) -> ArchiveView:
        assert row.path is not None
        path = Path(row.path)
        try:
            found = path.stat()
        except OSError:
            return archive_view(row, None, None, images=0, is_here=False)
        key = row.path, found.st_mtime_ns, found.st_size
        reading = self._readings.get(key)
        if reading is None:
            reading = self._readings[key] = _read(path, row)
            while len(self._readings) > _MOST_READINGS:
                del self._readings[next(iter(self._readings))]
        images = len(images_beside(path))
        return archive_view(row, reading.health, reading.norms, images=images, is_here=True)

    def _forget(self) -> None:
        while len(self._known) > 1 and sum(map(len, self._known.values())) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]


def _read(path: Path, row: JobRow) -> _Reading:
    try:
        archive = LoraArchive.open(path)
        health = archive.health(row.config)
    except (ArchiveError, OSError):
        return _Reading(health=None, norms=None)
    try:
        return _Reading(health=health, norms=archive.norms())
    except UsageError:  # numpy is an extra
        return _Reading(health=health, norms=None)


def _sweep_view(
    subject: Subject, trials: Sequence[Trial], mapping: ValueMapping, *, base: str, written_at: datetime
) -> SweepView:
    images = {trial: _addresses(trial.job, base) for trial in trials if trial.job.path is not None}
    return view_of(subject, trials, written_at=written_at, images=images, mapping=mapping, public=True)


def _addresses(job: Job, base: str) -> list[str]:
    assert job.path is not None
    return [f"{base}/jobs/{job.job_id}/images/{number}" for number in range(len(images_beside(job.path)))]


async def _board_rows(viewer: Viewer, selection: Selection) -> BoardRows:
    ledger = viewer.source.ledger
    waiting = viewer.filter(states={JobState.PLANNED})
    everybody = attrs.evolve(waiting, tenant=None, has_error=False)
    held, spent = await ledger.spent(viewer.filter())
    running = await ledger.jobs(viewer.filter(states=UNDER_WAY), limit=MOST_RUNNING)
    # As whoever takes them over finds them: of a create that was cut off, nobody may read that nothing was sent.
    planned = await as_left(ledger, await ledger.jobs(everybody, limit=MOST_PLANNED))
    left = {row.job_id: row for row in planned if row.state is not JobState.PLANNED}
    latest = await ledger.jobs(viewer.filter(), limit=LATEST, newest_first=True)
    troubled = await ledger.jobs(viewer.filter(states=TROUBLED), limit=MOST_TROUBLED, newest_first=True)
    set_aside = attrs.evolve(waiting, has_error=True)
    aside = await ledger.jobs(set_aside, limit=MOST_TROUBLED, newest_first=True)
    mine = [row for row in left.values() if viewer.tenant in (None, row.tenant)]
    page = await _page(viewer, selection, latest)
    return BoardRows(
        counts=_with_left(await ledger.count(viewer.filter()), len(mine)),
        held=held,
        spent=spent,
        running=running,
        planned=[row for row in planned if row.job_id not in left],
        all_planned=sum((await ledger.count(everybody)).values()) - len(left),
        set_aside=sum((await ledger.count(set_aside)).values()),
        tenant=viewer.tenant,
        troubled=[*mine, *troubled, *aside],
        latest=[left.get(row.job_id, row) for row in latest],
        page=[left.get(row.job_id, row) for row in page],
        last_events=await _last_events(viewer, running),
        sweeps={name: await ledger.count(viewer.filter(tags={TAG: name})) for name in latest_sweeps(latest, TAG)},
        is_attended=await _is_attended(viewer),
    )


async def _is_attended(viewer: Viewer) -> bool:
    now, holders = utc_now(), await viewer.source.ledger.holders()
    return any(holder.until >= now and may_follow(holder.fence.owner) for holder in holders)


def _with_left(counts: Mapping[JobState, int], left: int) -> dict[JobState, int]:
    """Return counts in which jobs whose create was cut off are unconfirmed."""
    changed = dict(counts)
    if left:
        changed[JobState.PLANNED] = changed.get(JobState.PLANNED, left) - left
        changed[JobState.UNCONFIRMED] = changed.get(JobState.UNCONFIRMED, 0) + left
    return {state: count for state, count in changed.items() if count}


async def _page(viewer: Viewer, selection: Selection, latest: Sequence[JobRow]) -> Sequence[JobRow]:
    """Return the jobs of the list at the end of the board, and one more where there are more."""
    ledger, search = viewer.source.ledger, selection.search
    if selection == Selection():
        return latest[: PAGE + 1]
    where = viewer.filter(states=SHOWN[selection.show], before=selection.before or None)
    kinds = [attrs.evolve(where, label_prefix=search)] if search else [where]
    if search and search.isascii() and search.isalnum():
        kinds = [attrs.evolve(where, task_id=search), attrs.evolve(where, job_id_prefix=search), *kinds]
    found = [row for kind in kinds for row in await ledger.jobs(kind, limit=PAGE + 1, newest_first=True)]
    return list({row.job_id: row for row in found}.values())[: PAGE + 1]


async def _last_events(viewer: Viewer, rows: Iterable[JobRow]) -> dict[str, EventRow]:
    found = [await viewer.source.ledger.events(row.job_id, after=max(0, row.last_event - 1), limit=1) for row in rows]
    return {events[0].job_id: events[0] for events in found if events}


async def _attempts(viewer: Viewer, row: JobRow) -> Sequence[AttemptRow]:
    return await viewer.source.ledger.attempts(backend=row.backend, key_id=row.key_id, since=utc_now() - _PAST)
