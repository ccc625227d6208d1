"""Cases D12 and D13: downloads that share a disk, and disks and neighbours that do not play along.

D13 runs downloads, exports and packed data sets alike: they give a file its name in one place.
"""

import asyncio
import contextlib
import fcntl
import io
import itertools
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks.scorecard.case import Case, Context, SkippedError
from benchmarks.scorecard.children import REFUSED
from benchmarks.scorecard.processes import child, on_tmpfs, require_strace, run, run_always_failing
from benchmarks.scorecard.tasks import (
    IMPATIENT,
    archive_bytes,
    check_final,
    environment,
    finish_task,
    names_in,
    on_real_time,
    repeat,
)
from benchmarks.scorecard.worlds import World
from crynux_async import errors
from crynux_async.errors import CrynuxError, DownloadError

TOGETHER, ROOM_FOR = 10, 7
_MARGIN = 16 << 20
"""What a download leaves free beside itself. Source: DownloadOptions.free_space_margin."""

_MEBIBYTES = 4
_HELD_UP = 60.0
"""Seconds after which a process is taken to be held up by somebody else's lock."""


def share_a_disk(context: Context) -> str:
    """D12: ten downloads at once, and room for seven; of one session, and of two that know nothing of each other."""
    for slots, sessions in ((4, 1), (TOGETHER, 1), (TOGETHER, 2)):
        repeat(context, partial(_share_a_disk, slots=slots, sessions=sessions))
    return f"{3 * context.seeds} x {ROOM_FOR} of {TOGETHER} finished, the others were refused typed and finished later"


async def _share_a_disk(world: World, _: random.Random, folder: Path, *, slots: int, sessions: int) -> None:
    tasks = [await finish_task(world, mebibytes=_MEBIBYTES, seed=seed) for seed in range(1, TOGETHER + 1)]
    each = max(task.size for task in tasks)
    for task in tasks:
        world.bridge.add_fault("trickle", on="result", task_id=task.task_id, bytes_per_second=1 << 20)
    room = ROOM_FOR * each + each // 2 + _MARGIN
    with on_tmpfs(f"{room // 1024 + 256}k") as disk:
        async with contextlib.AsyncExitStack() as stack:
            opened = [world.session(max_downloads=slots, **IMPATIENT) for _ in range(sessions)]
            sharing = itertools.cycle([await stack.enter_async_context(session) for session in opened])
            jobs = {task.task_id: next(sharing).attach(task.task_id) for task in tasks}
            ended = await asyncio.gather(*(job.download(disk) for job in jobs.values()), return_exceptions=True)
            free = shutil.disk_usage(disk).free
            refused = [error for error in ended if isinstance(error, BaseException)]
            assert all(isinstance(error, DownloadError) for error in refused), refused
            assert all("is full" in str(error) for error in refused), refused
            assert len(refused) == TOGETHER - ROOM_FOR, f"{TOGETHER - len(refused)} finished: {refused}"
            assert free >= _MARGIN, f"{free} bytes are left free"
            finished = [path for path in ended if isinstance(path, Path)]
            assert names_in(disk) == sorted(path.name for path in finished), f"left behind: {names_in(disk)}"
            world.bridge.clear_faults()
            for task, outcome in zip(tasks, ended, strict=True):
                if isinstance(outcome, Path):
                    await check_final(world, task, disk, is_there=True)
                    outcome.unlink()
            for task, outcome in zip(tasks, ended, strict=True):
                if not isinstance(outcome, Path):
                    await jobs[task.task_id].download(disk)
                    await check_final(world, task, disk, is_there=True)


@attrs.frozen(kw_only=True)
class _Writer:
    """A program that writes one file.

    Attributes:
        name: What it is called.
        command: How it is run.
        env: Its environment.
        folder: Where it writes.
        final: The file.
        drafts: What it may put beside the file under a name that can be guessed.
    """

    name: str
    command: Sequence[str]
    env: dict[str, str]
    folder: Path
    final: str
    drafts: tuple[str, ...] = ()

    def begin(self) -> None:
        """Empty the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)


def hostile_places(context: Context) -> str:
    """D13: locks that are never given back, planted links, folders that cannot be read, synced or linked in."""
    require_strace()
    return on_real_time(partial(_hostile_places, context.folder))


async def _hostile_places(folder: Path, world: World) -> str:
    writers = [*await _writers(folder, world)]
    for writer in writers:
        for what, (syscalls, error, is_folder) in _INABILITIES.items():
            await _write_where(writer, what, syscalls, error, is_folder=is_folder)
        await _write_beside_links(writer, folder / "victim")
    await _download_beside_locks(writers[0])
    names = ", ".join(writer.name for writer in writers)
    return f"{names}: {', '.join(_INABILITIES)}; no planted link was followed, no lock held anybody up"


async def _writers(folder: Path, world: World) -> list[_Writer]:
    task = await finish_task(world)
    (folder / "archive.zip").write_bytes(archive_bytes(1))
    _draw_images(folder / "images")
    out = folder / "out"
    part = f"{task.task_id}.zip"
    beside = tuple(f"{part}{ending}" for ending in (".part", ".part.json", ".part.new", ".part.json.new"))
    return [
        _Writer(
            name="download",
            command=child("download", task.task_id, out),
            env=environment(world),
            folder=out,
            final=part,
            drafts=beside,
        ),
        _Writer(
            name="export",
            command=child("export", folder / "archive.zip", out),
            env={},
            folder=out,
            final="lora.safetensors",
            drafts=("lora.safetensors.part", ".lora.safetensors.part"),
        ),
        _Writer(
            name="pack",
            command=child("pack", folder / "images", out),
            env={},
            folder=out,
            final="cats.zip",
            drafts=("cats.zip.part", ".cats.zip.part"),
        ),
    ]


def _draw_images(folder: Path) -> None:
    try:
        from PIL import Image
    except ImportError:
        raise SkippedError("needs Pillow: pip install pillow") from None
    folder.mkdir(parents=True)
    for number in range(4):
        data = io.BytesIO()
        Image.new("RGB", (16, 16), (number, 0, 0)).save(data, "PNG")
        (folder / f"{number}.png").write_bytes(data.getvalue())
        (folder / f"{number}.txt").write_text(f"cat {number}")


_INABILITIES: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "folder unreadable": (("openat",), "EACCES", True),
    "fsync(folder) EINVAL": (("fsync",), "EINVAL", True),
    "link EACCES": (("link", "linkat"), "EACCES", False),
    "link EPERM": (("link", "linkat"), "EPERM", False),
}
"""What a place cannot do: which calls are refused, how, and whether those on the folder alone."""


async def _write_where(writer: _Writer, what: str, syscalls: Sequence[str], error: str, *, is_folder: bool) -> None:
    """Write where something is impossible that need not be possible, and write once more."""
    writer.begin()
    paths = [writer.folder] if is_folder else []
    for _ in range(2):
        ended = await run_always_failing(writer.command, syscalls, error, paths=paths, env=writer.env)
        assert ended.code == 0, f"{writer.name}, {what}: {ended.out}{ended.err}"
        names = [name for name in names_in(writer.folder) if name.endswith((".part", ".json", ".new"))]
        assert not names, f"{writer.name}, {what}: {names}"
        assert (writer.folder / writer.final).stat().st_size > 0, f"{writer.name}, {what}: nothing was written"


async def _write_beside_links(writer: _Writer, victim: Path) -> None:
    """Plant links to a file wherever the next file could be made; it must stay what it is."""
    for chosen in (writer.drafts, *((draft,) for draft in writer.drafts)):
        what = f"{writer.name}, links at {', '.join(chosen)}"
        _plant(writer, chosen, victim)
        ended = await run(writer.command, env=writer.env)
        assert ended.code in (0, REFUSED), f"{what}: {ended.out}{ended.err}"
        if ended.code == REFUSED:
            said = json.loads(ended.out.splitlines()[-1])
            assert issubclass(getattr(errors, said["error"]), CrynuxError), said
        _check_not_followed(writer, victim, what)


def _plant(writer: _Writer, names: Sequence[str], victim: Path) -> None:
    writer.begin()
    victim.write_text("mine")
    for name in names:
        (writer.folder / name).symlink_to(victim)


def _check_not_followed(writer: _Writer, victim: Path, what: str) -> None:
    assert victim.read_text() == "mine", f"{what}: the link was followed"
    for path in writer.folder.iterdir():
        assert path.is_symlink() or path.resolve() != victim, f"{what}: {path.name}"


async def _download_beside_locks(writer: _Writer) -> None:
    """Let another process have the lock of each file that a download makes, for ever."""
    for name in writer.drafts:
        writer.begin()
        with _locked(writer.folder / name):
            ended = await run(writer.command, env=writer.env, timeout=_HELD_UP)
        assert ended.code in (0, REFUSED), f"{name} locked: {ended.out}{ended.err}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Any]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


CASES = (
    Case(name="D12", fault="ten downloads at once, room for seven", run=share_a_disk),
    Case(name="D13", fault="locks, planted links, unreadable folders, EINVAL", run=hostile_places),
)
