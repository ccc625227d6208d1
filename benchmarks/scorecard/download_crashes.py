"""Cases D5, D6 and D9: downloads that are killed, whose disk fails or is full, or that have company.

A child process downloads from the real emulator in this one; strace kills it, or refuses it a system call.
"""

import asyncio
import contextlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import attrs

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.children import REFUSED
from benchmarks.scorecard.processes import (
    Ended,
    Syscall,
    child,
    kill_points,
    on_tmpfs,
    require_strace,
    run,
    run_failing_at,
    run_killed_at,
    trace,
)
from benchmarks.scorecard.tasks import (
    Finished,
    check_final,
    environment,
    fetch,
    finish_task,
    look_at,
    names_in,
    on_real_time,
    repeat,
    sha256,
    starts,
)
from benchmarks.scorecard.worlds import World
from crynux_async import errors
from crynux_async.downloads import disk as reserving
from crynux_async.downloads.notes import read_note
from crynux_async.errors import CrynuxError, DownloadError

ALL_POINTS = 20
"""From so many seeds on, every point is tried; with fewer, as many points as seeds."""

_PIECE = 1 << 16
_AT_ONCE = 3


@attrs.frozen(kw_only=True)
class Scene:
    """A download that begins in an empty folder, as often as needed.

    Attributes:
        world: The bridge.
        task: What is downloaded.
        folder: Where to.
        is_replaced: Whether the archive is replaced half way, so that everything begins again.
    """

    world: World
    task: Finished
    folder: Path
    is_replaced: bool

    @property
    def part(self) -> Path:
        """The file in which the download grows."""
        return self.folder / f"{self.task.task_id}.zip.part"

    @property
    def final(self) -> Path:
        """The final name."""
        return self.folder / f"{self.task.task_id}.zip"

    @property
    def paths(self) -> list[Path]:
        """Every file that the download may touch."""
        endings = ("", ".part", ".part.json", ".part.new", ".part.json.new")
        return [self.folder, *(self.folder / f"{self.task.task_id}.zip{ending}" for ending in endings)]

    @property
    def env(self) -> dict[str, str]:
        """The environment of the child."""
        return environment(self.world, chunk_bytes=_PIECE)

    def command(self, *options: str) -> list[str]:
        """Return the command that downloads, all files in one thread."""
        return child("download", self.task.task_id, self.folder, "--one-thread", *options)

    def begin(self) -> None:
        """Empty the folder and let the same things happen on the way as ever."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.world.bridge.clear_faults()
        if self.is_replaced:
            self.world.bridge.add_fault("cut", on="result", bytes=self.task.size // 2)
            self.world.bridge.add_fault("changed", on="result")

    async def rehearse(self) -> list[Syscall]:
        """Return the system calls of a download that nothing happens to, after checking their order."""
        self.begin()
        ended, calls = await trace(self.command(), paths=self.paths, env=self.env)
        assert ended.code == 0, ended.out + ended.err
        await check_final(self.world, self.task, self.folder, is_there=True)
        self._check_order(calls)
        return calls

    async def look(self) -> None:
        """Check what a download that ended too early has left: its own files, nothing wrong under the final name."""
        self.world.bridge.clear_faults()
        strange = set(names_in(self.folder)) - {path.name for path in self.paths}
        assert not strange, f"{', '.join(strange)} left behind"
        if self.final.exists():
            current = await look_at(self.world, self.task.task_id)
            assert sha256(self.final) == current.sha256, "the final name has a file that is not what the bridge has"

    async def told(self, ended: Ended) -> Path:
        """Check the file that a download says to have made, and return it.

        It has another name where something is in the way that cannot be opened.
        """
        self.world.bridge.clear_faults()
        path = Path(json.loads(ended.out.splitlines()[-1])["path"])
        current = await look_at(self.world, self.task.task_id)
        assert sha256(path) == current.sha256, f"{path.name} is not what the bridge has"
        return path

    async def finish(self) -> None:
        """Let another process finish the download, which must go on where the last one stopped."""
        before = len(starts(self.world, self.task))
        expected = self._goes_on_from()
        ended = await run(self.command(), env=self.env)
        assert ended.code == 0, f"the next process: {ended.out}{ended.err}"
        await check_final(self.world, self.task, self.folder, is_there=True)
        asked = starts(self.world, self.task)[before:]
        assert asked[:1] == expected, f"asked from {asked}, and {expected} would go on"

    def _goes_on_from(self) -> list[int]:
        """Return from where the next request should ask; nothing where everything is here."""
        note = read_note(self.part.with_name(f"{self.part.name}.json"))
        if self.final.exists():
            return []
        if note is None or note.validator is None or not self.part.exists():
            return [0]
        size = self.part.stat().st_size
        return [] if size == note.validator.total_bytes else [size]

    def _check_order(self, calls: Sequence[Syscall]) -> None:
        """Check that everything is on disk before anything says so."""
        part, note, folder = f"<{self.part}>)", f'"{self.part}.json"', f"<{self.folder}>)"
        steps = [
            ("rename", f"{note}) = 0"),
            ("write", f"<{self.part}>, "),
            ("fsync", f"{part}"),
            ("link", f'"{self.part}", "{self.final}")'),
            ("fsync", f"{folder}"),
            ("unlink", f"{note}) = 0"),
        ]
        seen = [
            next((i for i, c in enumerate(calls) if c.name.startswith(name) and text in c.text), -1)
            for name, text in steps
        ]
        assert -1 not in seen, f"{steps[seen.index(-1)]} was not seen"
        assert seen == sorted(seen), f"{[steps[i] for i in sorted(range(len(steps)), key=seen.__getitem__)]}"
        last_write = max(i for i, c in enumerate(calls) if c.name.startswith("write") and f"<{self.part}>, " in c.text)
        assert last_write < seen[2], "something was written after the fsync"


def killed_at_every_syscall(context: Context) -> str:
    """D5: killed before each system call that changes a file, from the first byte to the final name."""

    async def attempt(scene: Scene, syscall: str, nth: int) -> Ended:
        ended = await run_killed_at(scene.command(), syscall, nth, paths=scene.paths, env=scene.env)
        assert ended.was_killed or ended.code == 0, ended.out + ended.err
        return ended

    killed, tried = on_real_time(partial(_at_every_point, context, attempt))
    assert killed >= 0.9 * tried, f"only {killed} of {tried} processes were killed"
    return (
        f"killed before {killed} of {tried} system calls; fsync(part), link, fsync(folder), unlink(note) in this order"
    )


def killed_before_the_ledger_knows(context: Context) -> str:
    """D11: killed at every step between the last byte and the ledger's record, and once more until it is all over."""
    require_strace()
    killed, tried = on_real_time(partial(_killed_near_the_end, context))
    assert killed >= 0.8 * tried, f"only {killed} of {tried} processes were killed"
    return f"killed at {killed} of {tried} steps from the last byte to the ledger's record: one file, one transfer"


async def _killed_near_the_end(context: Context, world: World) -> tuple[int, int]:
    task = await finish_task(world)
    scene = Scene(world=world, task=task, folder=context.folder / "out", is_replaced=False)
    ledger = context.folder / "ledger" / "jobs.db"
    command = scene.command("--ledger", str(ledger))
    logs = [ledger, ledger.with_name("jobs.db-wal")]
    scene.begin()
    _empty(ledger.parent)
    ended, calls = await trace(command, paths=[*scene.paths, *logs], env=scene.env)
    assert ended.code == 0, ended.out + ended.err
    hits = tried = 0
    at_most = None if context.seeds >= ALL_POINTS else 2 * context.seeds
    for paths, syscall, nth in _points_after_the_last_byte(calls, scene, logs, at_most):
        scene.begin()
        _empty(ledger.parent)
        before = len(starts(world, task))
        ended = await run_killed_at(command, syscall, nth, paths=paths, env=scene.env)
        assert ended.was_killed or ended.code == 0, ended.out + ended.err
        ended_well = await run(command, env=scene.env)
        where = f"at {syscall} {nth}: {names_in(scene.folder)}"
        assert ended_well.code == 0, f"{where}: {ended_well.out}{ended_well.err}"
        assert starts(world, task)[before:] == [0], f"{where}: asked from {starts(world, task)[before:]}"
        # Only who died between the record and the note's end leaves the note, which the next download removes.
        assert set(names_in(scene.folder)) - {f"{scene.part.name}.json"} == {scene.final.name}, where
        assert sha256(scene.final) == task.sha256, where
        hits += ended.was_killed
        tried += 1
    return hits, tried


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _points_after_the_last_byte(
    calls: Sequence[Syscall], scene: Scene, logs: Sequence[Path], at_most: int | None
) -> list[tuple[list[Path], str, int]]:
    """Return where to kill: which files' calls are counted, the system call, and its ordinal among them."""
    last = max(i for i, c in enumerate(calls) if c.name.startswith("write") and f"<{scene.part}>, " in c.text)
    points: dict[tuple[bool, str, int], None] = {}
    made: Counter[tuple[bool, int, str]] = Counter()
    for index, call in enumerate(calls):
        is_log = any(str(path) in call.text for path in logs)
        made[is_log, call.thread, call.name] += 1
        if index > last:
            points[is_log, call.name, made[is_log, call.thread, call.name]] = None
    every = [(list(logs) if is_log else scene.paths, name, nth) for is_log, name, nth in points]
    if at_most is None or at_most >= len(every):
        return every
    return [every[index * len(every) // at_most] for index in range(at_most)]


def disk_fails(context: Context) -> str:
    """D6: the disk is full, at first or on the way; any one system call fails."""
    require_strace()
    repeat(context, _full_at_first)
    repeat(context, _room_is_kept)
    repeat(context, _full_on_the_way)
    refused = {}
    for error in ("EIO", "ENOSPC"):
        refused[error] = on_real_time(partial(_at_every_point, context, partial(_fail, error=error)))
    failed = ", ".join(f"{count} of {tried} by {error}" for error, (count, tried) in refused.items())
    return f"{3 * context.seeds} full disks, then room; one call refused: {failed} ended typed, all were finished later"


async def _fail(scene: Scene, syscall: str, nth: int, *, error: str) -> Ended:
    """Let one system call of a download fail."""
    ended = await run_failing_at(scene.command(), syscall, nth, error, paths=scene.paths, env=scene.env)
    assert ended.code in (0, REFUSED), ended.out + ended.err
    if ended.code == REFUSED:
        said = json.loads(ended.out.splitlines()[-1])
        assert issubclass(getattr(errors, said["error"]), DownloadError), said
    if (syscall, nth) == ("fsync", 1):
        # What a failed fsync leaves may look well and be lost: nobody may go on with it.
        assert ended.code == REFUSED, "an fsync that failed was taken for success"
        assert not scene.part.exists(), "a part file whose fsync failed was kept"
        assert not scene.final.exists(), "a file whose fsync failed has the final name"
    return ended


Attempt = Callable[[Scene, str, int], Awaitable[Ended]]


async def _at_every_point(context: Context, attempt: Attempt, world: World) -> tuple[int, int]:
    """Do something at every system call of a download, each time look at what it left and let another process finish.

    Returns:
        How often the download ended too early, and how many points there were.
    """
    require_strace()
    at_most = None if context.seeds >= ALL_POINTS else context.seeds
    hits = tried = 0
    for is_replaced in (False, True):
        task = await finish_task(world, seed=1 + is_replaced)
        scene = Scene(world=world, task=task, folder=context.folder / "out", is_replaced=is_replaced)
        for syscall, nth in kill_points(await scene.rehearse(), at_most):
            scene.begin()
            try:
                ended = await attempt(scene, syscall, nth)
                if ended.code:
                    await scene.look()
                    hits += 1
                    await scene.finish()
                final = scene.final if ended.code else await scene.told(ended)
                # A note that cannot be taken away is no reason to call a model that is here a failure.
                bearable = set() if ended.code else {f"{final.name}.part.json"}
                assert {*names_in(scene.folder)} - bearable == {final.name}, "something is left behind"
            except AssertionError as error:
                left = ", ".join(names_in(scene.folder))
                raise AssertionError(f"at {syscall} {nth}, which left {left or 'nothing'}: {error}") from error
            tried += 1
    return hits, tried


async def _full_at_first(world: World, _: random.Random, folder: Path) -> None:
    """Download to a disk that cannot hold the file, then to the same folder when it can."""
    task = await finish_task(world, mebibytes=8)
    with on_tmpfs("32m") as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(12 << 20))
        error = await fetch(world, task, disk)
        assert isinstance(error, DownloadError), repr(error)
        assert f"needs {task.size} more bytes" in str(error), str(error)
        filler.unlink()
        error = await fetch(world, task, disk)
        assert error is None, repr(error)


async def _filled_on_the_way(
    world: World, rng: random.Random, task: Finished, disk: Path
) -> tuple["asyncio.Task[CrynuxError | None]", int]:
    """Download to a disk that is filled meanwhile; return the download, and how much came before at least."""
    world.bridge.add_fault("trickle", on="result", task_id=task.task_id, bytes_per_second=1 << 20)
    downloading = asyncio.create_task(fetch(world, task, disk))
    part, enough = disk / f"{task.task_id}.zip.part", rng.randrange(1, task.size // 2)
    while not part.exists() or part.stat().st_size < enough:
        await asyncio.sleep(0.01)
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1 << 16))
    return downloading, enough


async def _room_is_kept(world: World, rng: random.Random, _: Path) -> None:
    """Fill a disk while a file comes for which the file system keeps room: nobody can take that away."""
    task = await finish_task(world, mebibytes=8)
    with on_tmpfs("48m") as disk:
        downloading, _enough = await _filled_on_the_way(world, rng, task, disk)
        error = await downloading
        assert error is None, f"the room was kept: {error!r}"


async def _full_on_the_way(world: World, rng: random.Random, folder: Path) -> None:
    """Fill a disk that keeps no room while a file comes; another download, to another disk, must go on."""
    task, other = await finish_task(world, mebibytes=8), await finish_task(world, mebibytes=8, seed=2)
    with on_tmpfs("48m") as disk, patch.object(reserving, "_fallocate", lambda: None):
        world.bridge.add_fault("trickle", on="result", task_id=other.task_id, bytes_per_second=1 << 20)
        elsewhere = asyncio.create_task(fetch(world, other, folder))
        downloading, enough = await _filled_on_the_way(world, rng, task, disk)
        error = await downloading
        size = (disk / f"{task.task_id}.zip.part").stat().st_size
        assert isinstance(error, DownloadError), repr(error)
        assert f"needs {task.size - size} more bytes" in str(error), f"{size} of {task.size} bytes are kept: {error}"
        assert enough <= size < task.size, f"{size} of {task.size} bytes are kept"
        assert not elsewhere.done(), "the other download had ended before"
        error = await elsewhere
        assert error is None, f"the other download: {error!r}"
        (disk / "filler").unlink()
        error = await fetch(world, task, disk)
        assert error is None, repr(error)
        assert starts(world, task) == [0, size], f"asked from {starts(world, task)} with {size} bytes kept"


def two_processes(context: Context) -> str:
    """D9: two processes download one result to one name, with locks and with locks that lock nothing."""

    async def work(world: World) -> list[tuple[float, Counter[int]]]:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(seed: int, options: Sequence[str]) -> tuple[float, Counter[int]]:
            async with slots:
                return await _in_two(world, random.Random(seed), context.folder / f"{seed}{len(options)}", options)

        chances = [(seed, options) for seed in range(1, context.seeds + 1) for options in ((), ("--no-locks",))]
        return await asyncio.gather(*(one(*chance) for chance in chances))

    results = on_real_time(work)
    codes = sum((codes for _, codes in results), Counter[int]())
    traffic = max(traffic for traffic, _ in results)
    assert traffic <= 2.0, f"{traffic:.2f} times the size was sent"
    ends = f"{codes[0]} of {codes.total()} processes finished, {codes[REFUSED]} were refused"
    return f"{ends}; traffic <= {traffic:.2f} x size"


async def _in_two(world: World, rng: random.Random, folder: Path, options: Sequence[str]) -> tuple[float, Counter[int]]:
    """Return how many times the size was sent, and how often each exit code was seen."""
    task = await finish_task(world, mebibytes=4, seed=rng.randrange(1, 10**6))
    world.bridge.add_fault("trickle", on="result", task_id=task.task_id, bytes_per_second=4 << 20, count=2)
    commands = [child("download", task.task_id, folder, *options, "--delay", rng.random() / 2) for _ in range(2)]
    ended = await asyncio.gather(*(run(command, env=environment(world)) for command in commands))
    codes = Counter(each.code for each in ended)
    assert codes[0] >= 1, [each.out + each.err for each in ended]
    assert codes.total() == codes[0] + codes[REFUSED], [each.out + each.err for each in ended]
    for name in names_in(folder):
        assert name.endswith(".zip"), f"{name} was left behind"
        assert sha256(folder / name) == task.sha256, f"{name} is not what the bridge has"
    assert f"{task.task_id}.zip" in names_in(folder)
    shutil.rmtree(folder)
    return sum(task.size - start for start in starts(world, task)) / task.size, codes


CASES = (
    Case(name="D5", fault="SIGKILL at every system call of a download", run=killed_at_every_syscall),
    Case(name="D6", fault="disk full, at first and on the way; any call refused", run=disk_fails),
    Case(name="D11", fault="SIGKILL between the last byte and the ledger", run=killed_before_the_ledger_knows),
    Case(name="D9", fault="two processes, one name, locks broken", run=two_processes),
)
