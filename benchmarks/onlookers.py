"""What it costs to wait for the jobs of other processes: memory for each handle, and a processor's time for an hour.

``python -m benchmarks.onlookers``; ``benchmarks.ledger`` prints both as well.
"""

import asyncio
import gc
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.reporting import finish, show_table
from crynux_async.backends.base import Look, Task
from crynux_async.backends.bridge.backend import BridgeBackend
from crynux_async.errors import UnreachableError
from crynux_async.ledgers.base import JobRow
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig

HANDLES = 10_000
LISTENING = 10.0
BACKEND = "https://bridge.example"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = 3600.0


class OutOfReach(BridgeBackend):
    """A bridge that answers nothing."""

    async def look(self, task: Task) -> Look:
        """Find nobody there."""
        raise UnreachableError("this bridge does not exist")


def make_running(number: int) -> JobRow:
    """Return one running point of a sweep."""
    config = FineTuneConfig(
        model_name="crynux-ai/stable-diffusion-v1-5",
        dataset_url="https://data.example/pictures.zip",
        max_train_steps=1000 + number,
        seed=1 + number,
    )
    return JobRow(
        job_id=f"j{number:032x}",
        backend=BACKEND,
        key_id="0123456789abcdef",
        config=config,
        label=f"trial {number}",
        state=JobState.RUNNING,
        task_id=str(number + 1),
        planned_at=NOW,
        submitted_at=NOW,
    )


@asynccontextmanager
async def onlooker(path: Path, jobs: int) -> AsyncIterator[Session]:
    """Open a session that takes nothing over, on a file of which another one holds so many running jobs."""
    ledger = SqliteLedger(path)
    await ledger.open()
    fence = await ledger.enter("another", seconds=HOUR)
    await ledger.add([make_running(number) for number in range(jobs)], fence=fence)
    settings = Settings(base_url=BACKEND, api_key="k" * 44)
    async with _backend(settings) as backend, Session(settings, ledger=path, backend=backend, follow=False) as it:
        yield it
    await ledger.close()


@asynccontextmanager
async def _backend(settings: Settings) -> AsyncIterator[OutOfReach]:
    """Make a backend, and close it."""
    backend = OutOfReach(settings)
    try:
        yield backend
    finally:
        await backend.close()


async def _bytes_per_handle(path: Path) -> float:
    async with onlooker(path, HANDLES) as session:
        await session.history(limit=1)
        gc.collect()
        tracemalloc.start()
        handles = await session.history()
        async with aclosing(session.as_completed(handles)) as ends:
            waiting = asyncio.ensure_future(anext(ends))
            await asyncio.sleep(2.0)
            gc.collect()
            used, _ = tracemalloc.get_traced_memory()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        tracemalloc.stop()
        assert len(handles) == HANDLES
    return used / HANDLES


async def _waiting_seconds(path: Path) -> float:
    async with onlooker(path, 1) as session:
        (handle,) = await session.history()
        waiting = asyncio.create_task(handle.wait())
        await asyncio.sleep(1.0)  # what is done once
        before = time.process_time()
        await asyncio.sleep(LISTENING)
        used = time.process_time() - before
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    return used


def bytes_per_handle(folder: Path) -> float:
    """Return how many bytes a handle on another's job takes while it waits, with its config."""
    return asyncio.run(_bytes_per_handle(folder / "handles.db"))


def waiting_seconds_per_hour(folder: Path) -> float:
    """Return how many seconds of a processor a session takes in an hour in which it waits and nothing happens."""
    return asyncio.run(_waiting_seconds(folder / "waiting.db")) / LISTENING * HOUR


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as folder:
        memory, seconds = bytes_per_handle(Path(folder)), waiting_seconds_per_hour(Path(folder))
    rows = [(f"bytes for each of {HANDLES:,} handles that wait", memory), ("seconds for an hour of waiting", seconds)]
    show_table("Waiting for the jobs of another process", ("figure", "value"), rows)
    finish("onlookers", {"bytes_per_handle": round(memory), "seconds_per_hour": round(seconds, 2)})


if __name__ == "__main__":
    main()
