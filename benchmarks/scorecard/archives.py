"""Cases X1 and X2: archives and answers that mean harm. Nothing is unpacked, nothing large is taken in."""

import asyncio
import io
import json
import os
import random
import stat
import struct
import warnings
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.processes import child, run
from benchmarks.scorecard.tasks import (
    WEIGHTS,
    archive_members,
    environment,
    fetch,
    finish_task,
    names_in,
    on_real_time,
    put_on_shelf,
    repeat,
    zipped,
)
from benchmarks.scorecard.worlds import World
from crynux_async.archive import LoraArchive, verify_archive
from crynux_async.emulator.bridge.routes import Operation
from crynux_async.errors import ArchiveError, CorruptArchiveError

MOST_GROWTH_MIB = 64.0
_MEBIBYTE = 1 << 20
_LARGE_MIB = 1024
_EVIL = "evil"


def hostile_names(context: Context) -> str:
    """X1: members that would land elsewhere, are links, or share a name."""
    outside = context.folder / "outside"
    before = set(os.listdir())
    hostile = dict(_hostile_names(outside))
    for name, data in hostile.items():
        _refuse(context.folder / "raw", name, data)
        repeat(Context(seeds=1, folder=context.folder / "served"), partial(_serve, name=name, data=data))
    _check_nothing_escaped(context.folder)
    assert set(os.listdir()) == before, f"new in the working folder: {set(os.listdir()) - before}"
    return f"{len(hostile)} archives refused, as files and as results: {', '.join(hostile)}"


def _refuse(folder: Path, name: str, data: bytes) -> None:
    """Check that every way to open an archive refuses it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "archive.zip"
    path.write_bytes(data)
    for use in (verify_archive, lambda path: LoraArchive.open(path).export(folder / "out.safetensors")):
        try:
            use(path)
        except ArchiveError:
            continue
        raise AssertionError(f"{name} was accepted")
    assert names_in(folder) == [path.name], f"{name}: {names_in(folder)}"


async def _serve(world: World, _: random.Random, folder: Path, *, name: str, data: bytes) -> None:
    """Check that a result of this kind is not given its name."""
    task = await finish_task(world)
    put_on_shelf(folder, data)
    error = await fetch(world, task, folder)
    assert isinstance(error, CorruptArchiveError), f"{name}: {error!r}"
    assert names_in(folder) == [f"{task.task_id}.zip.corrupt"], f"{name}: {names_in(folder)}"
    _check_nothing_escaped(folder.parent)


def _check_nothing_escaped(folder: Path) -> None:
    for path in folder.rglob("*"):
        assert _EVIL not in path.name, f"{path} was written"
        assert not path.is_symlink(), f"{path} is a link"


def _hostile_names(outside: Path) -> Iterator[tuple[str, bytes]]:
    names = {
        "../": f"../{_EVIL}",
        "a/../../": f"a/../../{_EVIL}",
        "absolute": str(outside / _EVIL),
        "backslash": f"..\\{_EVIL}",
        "drive": f"C:{_EVIL}",
        "drive and backslash": f"C:\\{_EVIL}",
        "folder": f"{_EVIL}/",
        "NUL": f"{_EVIL}\0.txt",
        "stream": f"{_EVIL}.txt:stream",
        "endless": _EVIL * 15_000,
    }
    for what, name in names.items():
        yield what, _with_member(name)
    for what, kind in (("symlink", stat.S_IFLNK), ("device", stat.S_IFCHR), ("pipe", stat.S_IFIFO)):
        yield what, _with_member(_EVIL, mode=kind | 0o777)
    yield "duplicate", _with_member("global_step.txt")
    yield "case", _with_member("Global_Step.TXT")
    yield "100,000 names", zipped({**archive_members(1), **{f"{_EVIL}{n}": b"" for n in range(100_000)}})


def _with_member(name: str, *, mode: int = stat.S_IFREG | 0o644) -> bytes:
    """Return a sound archive with one member too many."""
    target = io.BytesIO(zipped(archive_members(1)))
    with zipfile.ZipFile(target, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the duplicate
        info = zipfile.ZipInfo(_EVIL)
        info.filename = name  # the constructor would make it harmless
        info.create_system = 3
        info.external_attr = mode << 16
        file.writestr(info, b"/etc/passwd")
    return target.getvalue()


def bombs(context: Context) -> str:
    """X2: archives and answers that are small on the way and large when opened."""
    grown = [_open_bomb(context.folder, name, data) for name, data in _bombs(context.folder)]
    answers = on_real_time(partial(_swallow, context.folder))
    worst = max(*grown, *answers.values())
    assert worst < MOST_GROWTH_MIB, f"memory grew by {worst:.0f} MiB"
    return f"{len(grown)} bombs refused, {len(answers)} answers of {_LARGE_MIB} MiB cut off: memory +{worst:.0f} MiB"


def _bombs(folder: Path) -> Iterator[tuple[str, bytes]]:
    zeros = _zip_of_zeros(_LARGE_MIB)
    yield "ratio 1000", zeros
    yield "ratio 1000, weights", _zip_of_zeros(_LARGE_MIB, name=WEIGHTS)
    yield "size understated", _say_sizes(zeros, "optimizer.bin", size=10)
    yield "size within the free ratio", _say_sizes(zeros, "optimizer.bin", size=100 * _MEBIBYTE)
    yield "size of 4 GiB", _say_sizes(zipped(archive_members(1)), "optimizer.bin", size=0xFFFFFFFE, packed=0xFFFFFFFE)
    yield "overlapped", _overlapped()
    yield "quoted many times", _quoted(50)
    for what, length in (("of 2^63 bytes", 2**63 - 1), ("of 1 GiB", 1 << 30)):
        yield f"weights with a header {what}", _with_weights(struct.pack("<Q", length) + b"{}")
    nested = b"[" * 1_000_000
    yield "weights with a nested header", _with_weights(struct.pack("<Q", len(nested)) + nested)


def _zip_of_zeros(mebibytes: int, *, name: str = "optimizer.bin") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
        for other, data in archive_members(1).items():
            if other != name:
                file.writestr(other, data)
        with file.open(name, "w") as member:
            for _ in range(mebibytes):
                member.write(bytes(_MEBIBYTE))
    return target.getvalue()


def _say_sizes(data: bytes, name: str, *, size: int, packed: int | None = None) -> bytes:
    """Return an archive both of whose headers say other sizes of a member."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        info = file.getinfo(name)
    changed = bytearray(data)
    central = data.rindex(name.encode()) - 46
    for sizes in (info.header_offset + 18, central + 20):
        struct.pack_into("<2L", changed, sizes, info.compress_size if packed is None else packed, size)
    return bytes(changed)


def _overlapped() -> bytes:
    """Return an archive in which one member lies inside the bytes of another; both have their own header."""
    inner = zipped({"inner.bin": bytes(1000)})
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, data in {**archive_members(1), "outer.bin": inner}.items():
            file.writestr(name, data)
        [outer] = [info for info in file.infolist() if info.filename == "outer.bin"]
        hidden = zipfile.ZipFile(io.BytesIO(inner)).infolist()[0]
        hidden.header_offset = outer.header_offset + 30 + len(outer.filename)
        file.filelist.append(hidden)
    return target.getvalue()


def _quoted(times: int) -> bytes:
    """Return an archive whose directory names one large member many times."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in archive_members(1).items():
            file.writestr(name, data)
        file.writestr("zeros.bin", bytes(100 * _MEBIBYTE))
        for number in range(times):
            again = zipfile.ZipInfo(f"zeros{number}.bin")
            kernel = file.getinfo("zeros.bin")
            again.header_offset, again.CRC = kernel.header_offset, kernel.CRC
            again.compress_size, again.file_size = kernel.compress_size, kernel.file_size
            again.compress_type = kernel.compress_type
            file.filelist.append(again)
    return target.getvalue()


def _with_weights(data: bytes) -> bytes:
    return zipped({**archive_members(1), WEIGHTS: data}, zipfile.ZIP_DEFLATED)


def _open_bomb(folder: Path, name: str, data: bytes) -> float:
    """Check that a bomb is refused, and return by how many MiB memory grew in the process that opened it."""
    path = folder / "bomb.zip"
    path.write_bytes(data)
    ended = asyncio.run(run(child("open", path)))
    assert ended.code == 0, f"{name}: {ended.err}"
    seen = json.loads(ended.out)
    assert seen["error"], f"{name} was accepted"
    assert names_in(folder) == [path.name], f"{name}: {names_in(folder)}"
    return float(seen["grown_mib"])


async def _swallow(folder: Path, world: World) -> dict[str, float]:
    """Give very large answers and return by how many MiB memory grew for each."""
    task = await finish_task(world)
    expected: dict[Operation, str] = {"create": "SubmissionUnknownError", "status": "done", "result": "done"}
    asked: list[tuple[str, Operation]] = [("big_json", "create"), ("big_json", "status")]
    asked += [("gzip_bomb", what) for what in expected]
    grown = {}
    for kind, what in asked:
        world.bridge.add_fault(kind, on=what, megabytes=_LARGE_MIB)
        ended = await run(child("ask", what, task.task_id, folder / kind), env=environment(world, rate_limit=60_000))
        assert ended.code == 0, f"{kind} on {what}: {ended.err}"
        seen = json.loads(ended.out)
        assert seen["outcome"] == expected[what], f"{kind} on {what}: {seen['outcome']}"
        grown[f"{kind} on {what}"] = float(seen["grown_mib"])
    return grown


CASES = (
    Case(name="X1", fault="members named ../, absolute, C:, links, twice, 100k", run=hostile_names),
    Case(name="X2", fault="ZIP bombs, lies, overlaps; 1 GiB of JSON, gzip bomb", run=bombs),
)
