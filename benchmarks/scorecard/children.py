"""The programs that cases run in child processes: ``python -m benchmarks.scorecard.children PROGRAM [ARGUMENT ...]``.

Settings come from the environment, as a user's would. A program ends with one line of JSON on standard output, and with
exit code 3 where the library refused, with the error's type and message in that line.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import pickle
import pprint
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.scorecard.worlds import config
from benchmarks.transfers import memory_kib, restart_peak
from crynux_async import datasets
from crynux_async.archive import LoraArchive, verify_archive
from crynux_async.emulator import Emulator
from crynux_async.errors import ArchiveError, CrynuxError
from crynux_async.session import Session

REFUSED = 3
ATTACK_TRIES = 8
_TICK = 0.001
ACCEPTED = 3
"""How many creates of ``show`` are to go well."""


class _OneThread(ThreadPoolExecutor):
    """An executor that many may use and none may end."""

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="files")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: it ends with the process."""


def do_all_file_work_in_one_thread() -> None:
    """Let the download engine and the loop share one thread, because strace counts the calls of each thread apart."""
    thread = _OneThread()
    asyncio.get_running_loop().set_default_executor(thread)


def break_locks() -> None:
    """Let every lock succeed, as on file systems that know none."""
    import fcntl

    fcntl.flock = lambda *_: None


async def download(options: argparse.Namespace) -> Mapping[str, Any]:
    """Follow a task and download its result."""
    if options.one_thread:
        do_all_file_work_in_one_thread()
    if options.no_locks:
        break_locks()
    await asyncio.sleep(options.delay)
    async with Session(ledger=options.ledger, trust_env=False) as session:
        for earlier in await session.history():
            if earlier.path is not None:
                return {"path": str(earlier.path)}
        known = [job for job in session.jobs() if job.task_id == str(options.task_id)]
        job = known[0] if known else session.attach(options.task_id)
        return {"path": str(await job.download(options.folder))}


async def export(options: argparse.Namespace) -> Mapping[str, Any]:
    """Write the LoRA of an archive as one file."""
    path = LoraArchive.open(options.archive).export(options.folder / "lora.safetensors", overwrite=True)
    return {"path": str(path)}


async def pack(options: argparse.Namespace) -> Mapping[str, Any]:
    """Pack a data set of a few images."""
    packed = datasets.pack(options.images, options.folder / "cats.zip", overwrite=True)
    return {"path": str(packed.path)}


async def open_archive(options: argparse.Namespace) -> Mapping[str, Any]:
    """Verify an archive, say what was wrong with it and by how many MiB memory grew."""
    before = restart_peak()
    error = ""
    try:
        verify_archive(options.path)
    except ArchiveError as caught:
        error = str(caught)
    return {"error": error, "grown_mib": (memory_kib("VmHWM") - before) / 1024}


async def attack(options: argparse.Namespace) -> Mapping[str, Any]:
    """Do everything with each archive of a folder, and say what came of it, what memory grew by and how the loop fared.

    What an archive does to a loop happens each time, what a busy machine does to it does not: the best of a few tries
    counts.
    """
    import numpy as np  # so that its own memory does not count

    with contextlib.suppress(OSError):
        os.nice(-20)
    await asyncio.to_thread(lambda: np.ones((64, 64)) @ np.ones((64, 64)))
    gc.freeze()  # how long a collection takes follows from everything else that this process has imported
    return {path.name: await _attack(path, options.most_stop) for path in sorted(options.folder.glob("*.zip"))}


async def _attack(path: Path, most_stop: float) -> dict[str, Any]:
    """Use an archive in every way that holds a piece at a time."""
    target = path.with_suffix(".safetensors")
    uses: dict[str, Callable[[], object]] = {
        "verify": lambda: verify_archive(path),
        "health": lambda: LoraArchive.open(path).health(config()),
        "norms": lambda: LoraArchive.open(path).norms(),
        "export": lambda: LoraArchive.open(path).export(target),
        "diffusers": lambda: LoraArchive.open(path).export(target, program="diffusers", overwrite=True),
    }
    facts: dict[str, Any] = {"outcomes": {}, "grown_mib": 0.0, "stop_ms": 0.0}
    for name, use in uses.items():
        tries = [await _use(use)]
        while min(stop for _, _, stop in tries) > most_stop and len(tries) < ATTACK_TRIES:
            target.unlink(missing_ok=True)
            tries.append(await _use(use))
        facts["outcomes"][name] = tries[-1][0]
        facts["grown_mib"] = max(facts["grown_mib"], *(grown for _, grown, _ in tries))
        facts["stop_ms"] = max(facts["stop_ms"], min(stop for _, _, stop in tries))
    target.unlink(missing_ok=True)
    return facts


async def _use(use: Callable[[], object]) -> tuple[str, float, float]:
    """Do something in a thread; return why it was refused, the growth of memory in MiB and the longest stop in ms."""
    before = restart_peak()
    loop = asyncio.get_running_loop()
    begun: asyncio.Future[int] = loop.create_future()

    def work() -> str:
        loop.call_soon_threadsafe(begun.set_result, time.pthread_getcpuclockid(threading.get_ident()))
        try:
            use()
        except ArchiveError as error:
            return str(error)[:300]
        return ""

    working = asyncio.ensure_future(asyncio.to_thread(work))
    stops: list[float] = [0.0]
    sampler = asyncio.create_task(_sample_stops(stops, await begun))
    outcome = await working
    sampler.cancel()
    return outcome, (memory_kib("VmHWM") - before) / 1024, 1000 * max(stops)


async def _sample_stops(stops: list[float], clock: int) -> None:
    """Append for how many seconds each timer was late because of a thread: what that thread computed meanwhile."""
    while True:
        due, computed = time.perf_counter() + _TICK, time.clock_gettime(clock)
        await asyncio.sleep(_TICK)
        stops.append(min(time.perf_counter() - due, time.clock_gettime(clock) - computed))


async def ask(options: argparse.Namespace) -> Mapping[str, Any]:
    """Submit, follow or download, say what came of it and by how many MiB memory grew."""
    async with Session(trust_env=False) as session:
        before = restart_peak()
        try:
            if options.what == "create":
                await session.submit(config())
            elif options.what == "status":
                await session.attach(options.task_id).wait()
            else:
                await session.attach(options.task_id).download(options.folder)
            outcome = "done"
        except CrynuxError as error:
            outcome = type(error).__name__
        return {"outcome": outcome, "grown_mib": (memory_kib("VmHWM") - before) / 1024}


async def show(options: argparse.Namespace) -> Mapping[str, Any]:
    """Submit and download whatever comes of it, log everything, and show every public object in every way there is."""
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
    display = Display(options.folder / "shown")
    async with Session(ledger=options.folder / "jobs.db", trust_env=False) as session:
        listening = asyncio.create_task(_show_events(session, display))
        await asyncio.sleep(0)
        for number in range(1, options.creates + 1):
            with display.errors():
                await session.submit(config(number), label=f"trial {number}")
        for job in session.jobs():
            for _ in range(3 if job.task_id else 1):
                with display.errors():
                    await job.download(options.folder, name="{task_id}-{label}-{model}.zip")
        display.objects(session, session.settings, session.statistics(), *session.jobs(), *await session.history())
        display.objects(*await session.unconfirmed(), *await session.reconcile())
        display.objects(session._backend, *(job.error for job in session.jobs()))
    await listening
    return display.counts


async def _show_events(session: Session, display: "Display") -> None:
    async for event in session.events():
        display.objects(event)
        display.counts["events"] += 1


class Display:
    """Writes what objects and exceptions show of themselves to a file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._file = path.open("ab")

    def objects(self, *objects: object) -> None:
        """Write all that can be seen of some objects."""
        for each in objects:
            self.counts["objects"] += 1
            texts = [str(each), repr(each), f"{each}", ascii(each), pprint.pformat(each)]
            self._write("\n".join(texts).encode())
            with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):  # not everything can be pickled
                self._write(pickle.dumps(each))
                self.counts["pickles"] += 1

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Write all that can be seen of the error that the block ends with, if it does."""
        try:
            yield
        except CrynuxError as error:
            self.counts["errors"] += 1
            self.objects(error, vars(error), error.__reduce__())
            full = traceback.TracebackException.from_exception(error, capture_locals=True)
            self._write("".join(full.format()).encode())

    def _write(self, data: bytes) -> None:
        self._file.write(data + b"\n")
        self._file.flush()


async def emulate(options: argparse.Namespace) -> Mapping[str, Any]:
    """Run an emulated bridge, say where it is and with which key, and go on until standard input is closed."""
    async with Emulator(**json.loads(options.settings)) as bridge:
        print(json.dumps({"url": bridge.url, "api_key": bridge.new_key()}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    return {}


PROGRAMS: dict[str, Callable[[argparse.Namespace], Awaitable[Mapping[str, Any]]]] = {
    "download": download,
    "export": export,
    "pack": pack,
    "open": open_archive,
    "attack": attack,
    "ask": ask,
    "show": show,
    "emulate": emulate,
}


def main() -> int:
    """Run one program and return its exit code."""
    options = _parse()
    try:
        result: Mapping[str, Any] = asyncio.run(PROGRAMS[options.program](options))  # type: ignore[arg-type]
    except CrynuxError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return REFUSED
    print(json.dumps(result))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorecard.children", description=__doc__)
    programs = parser.add_subparsers(dest="program", required=True)
    one = programs.add_parser("download")
    one.add_argument("task_id", type=int)
    one.add_argument("folder", type=Path)
    one.add_argument("--one-thread", action="store_true")
    one.add_argument("--no-locks", action="store_true")
    one.add_argument("--delay", type=float, default=0.0)
    one.add_argument("--ledger", type=Path)
    programs.add_parser("open").add_argument("path", type=Path)
    six = programs.add_parser("export")
    six.add_argument("archive", type=Path)
    six.add_argument("folder", type=Path)
    seven = programs.add_parser("pack")
    seven.add_argument("images", type=Path)
    seven.add_argument("folder", type=Path)
    five = programs.add_parser("attack")
    five.add_argument("folder", type=Path)
    five.add_argument("most_stop", type=float)
    three = programs.add_parser("ask")
    three.add_argument("what", choices=("create", "status", "result"))
    three.add_argument("task_id", type=int)
    three.add_argument("folder", type=Path)
    four = programs.add_parser("show")
    four.add_argument("folder", type=Path)
    four.add_argument("creates", type=int)
    two = programs.add_parser("emulate")
    two.add_argument("settings", nargs="?", default="{}")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
