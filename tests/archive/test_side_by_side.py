"""Members that several threads read: the same verdict as one reader's, whatever is wrong, and no thread is left."""

import io
import random
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crynux_async.archive import side_by_side, verify_archive, zip_members
from crynux_async.archive.arriving import ArchiveVerifier, ArrivingArchive, _StoppedError
from crynux_async.archive.deflate_cuts import Ahead
from crynux_async.archive.side_by_side import Helpers, read_side_by_side
from crynux_async.archive.zip_directory import read_directory
from crynux_async.archive.zip_members import ArchiveLimits, Member, MemberStream, open_regular
from crynux_async.errors import ArchiveError
from tests.archive.test_deflate_cuts import numbers
from tests.archive_files import members, pair, write_zip

WAIT = 10.0


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "WORTH_BYTES", 100_000)
    monkeypatch.setattr(side_by_side, "HEAD_START_BYTES", 0)


def files(seed: int = 1) -> dict[str, bytes]:
    """An archive's members; the optimizer's state is most of it."""
    return members(pair()) | {"optimizer.bin": numbers(250_000, seed), "scheduler.bin": numbers(50_000, seed + 1)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_zip(tmp_path_factory.mktemp("whole") / "a.zip", files()).read_bytes()


def opened(path: Path) -> Callable[[], AbstractContextManager[io.FileIO]]:
    return lambda: open_regular(path)


def members_of(path: Path) -> dict[str, Member]:
    with open_regular(path) as file:
        return read_directory(file, ArchiveLimits())


def read(path: Path, helpers: Helpers) -> set[str]:
    streams = [MemberStream(member) for member in members_of(path).values()]
    return {member.name for member in read_side_by_side(streams, opened(path), helpers)}


def verdict(verify: Callable[[Path], object], path: Path) -> object:
    try:
        return verify(path)
    except ArchiveError as error:
        return str(error), error.is_undamaged


@attrs.define(eq=False)
class Halves:
    """Keeps whoever reads first from reading on before another thread has begun in the middle of its member.

    Attributes:
        found: Where other threads began.
        spoil: What becomes of that.
    """

    found: list[Ahead | None] = attrs.field(factory=list)
    spoil: Callable[[Ahead], Ahead | None] = attrs.field(default=lambda ahead: ahead)
    has_begun: threading.Event = attrs.field(factory=threading.Event)


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> Halves:
    kept = Halves()
    unpack_ahead, unpack = side_by_side.unpack_ahead, side_by_side._Part.unpack

    def begin(file: io.FileIO, begin: int, end: int) -> Ahead | None:
        ahead = unpack_ahead(file, begin, end)
        kept.found.append(ahead)
        kept.has_begun.set()
        return kept.spoil(ahead) if ahead else None

    def wait(part: side_by_side._Part, *arguments: Any) -> None:
        if part.stream is not None and part.member.name == "optimizer.bin":
            assert kept.has_begun.wait(WAIT), "nobody has begun in the middle"
        unpack(part, *arguments)

    monkeypatch.setattr(side_by_side, "unpack_ahead", begin)
    monkeypatch.setattr(side_by_side._Part, "unpack", wait)
    return kept


@pytest.mark.parametrize("helpers", [1, 2, 3])
def test_large_member_is_read_by_several_threads(tmp_path: Path, whole: bytes, halves: Halves, helpers: int) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(whole)
    assert read(path, Helpers(helpers)) == set(files())
    assert any(halves.found)


def test_archive_that_was_half_read_when_the_last_byte_came_is_read_on_by_several(
    tmp_path: Path, whole: bytes, halves: Halves
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(whole)
    arriving = ArchiveVerifier(helpers=Helpers(1)).begin()
    arriving.advance(path, 300_000)
    assert "optimizer.bin" not in {member.name for member in arriving.checked}

    assert arriving(path) == verify_archive(path)
    assert {member.name for member in arriving.checked} == set(files())
    begun = members_of(path)["optimizer.bin"]
    assert any(
        ahead and ahead.offset_bytes > (300_000 + begun.offset_bytes + begun.packed_bytes) // 2 - 20_000
        for ahead in halves.found
    )


def test_archive_whose_sizes_follow_the_bytes_is_read_by_several(tmp_path: Path, halves: Halves) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.written += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files().items():
            archive.writestr(name, data)
    path = tmp_path / "a.zip"
    path.write_bytes(pipe.written)
    arriving = ArchiveVerifier(helpers=Helpers(1)).begin()
    arriving.advance(path, path.stat().st_size)
    assert not arriving.checked

    assert arriving(path) == verify_archive(path)
    assert any(halves.found)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda ahead: None, id="nowhere"),
        pytest.param(lambda ahead: attrs.evolve(ahead, offset_bytes=ahead.offset_bytes + 1), id="a byte later"),
        pytest.param(lambda ahead: attrs.evolve(ahead, bit=(ahead.bit + 2) % 8), id="another bit"),
        pytest.param(lambda ahead: attrs.evolve(ahead, lead_bytes=ahead.lead_bytes - 1), id="a byte is missing"),
        pytest.param(lambda ahead: attrs.evolve(ahead, pending=b""), id="packed bytes are missing"),
    ],
)
def test_wrong_beginning_in_the_middle_changes_no_verdict(
    tmp_path: Path, whole: bytes, halves: Halves, spoil: Callable[[Ahead], Ahead | None]
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(whole)
    halves.spoil = spoil
    assert ArchiveVerifier(helpers=Helpers(1))(path) == verify_archive(path)
    assert any(halves.found)


@pytest.mark.parametrize("place", [0.1, 0.45, 0.55, 0.9, 0.999])
def test_damage_in_any_part_is_told_as_by_one_reader(
    tmp_path: Path, whole: bytes, halves: Halves, place: float
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(whole)
    optimizer = members_of(path)["optimizer.bin"]
    damaged = bytearray(whole)
    damaged[optimizer.offset_bytes + int(place * optimizer.packed_bytes)] ^= 0x10
    path.write_bytes(damaged)

    alone = verdict(verify_archive, path)
    assert isinstance(alone, tuple)
    assert verdict(ArchiveVerifier(helpers=Helpers(2)), path) == alone
    assert halves.found


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=3),
    cut=st.none() | st.floats(0, 1),
    arrived=st.none() | st.floats(0, 1),
    helpers=st.integers(0, 3),
)
def test_any_damage_is_told_as_by_one_reader(
    tmp_path: Path,
    whole: bytes,
    places: list[tuple[float, int]],
    cut: float | None,
    arrived: float | None,
    helpers: int,
) -> None:
    data = bytearray(whole)
    for place, flipped in places:
        data[int(place * (len(data) - 1))] ^= flipped
    path = tmp_path / "a.zip"
    path.write_bytes(data if cut is None else data[: int(cut * len(data))])
    several = ArrivingArchive(helpers=Helpers(helpers))
    if arrived is not None:
        several.advance(path, int(arrived * path.stat().st_size))

    assert verdict(several, path) == verdict(verify_archive, path)


@pytest.mark.parametrize("seed", range(6))
def test_members_of_every_kind_are_read_whoever_reads_what(tmp_path: Path, seed: int) -> None:
    drawn = random.Random(seed)
    kinds: list[Callable[[], bytes]] = [
        lambda: numbers(drawn.randrange(1, 120_000), seed),
        lambda: drawn.randbytes(drawn.randrange(300_000)),
        lambda: bytes(drawn.randrange(2_000_000)),
        lambda: b"some words, " * drawn.randrange(50_000),
    ]
    contents = members(pair()) | {f"{n}.bin": drawn.choice(kinds)() for n in range(10)}
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data, drawn.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    assert read(path, Helpers(3)) == set(contents)


def test_helpers_are_shared_and_given_back() -> None:
    helpers, gate = Helpers(3), threading.Event()
    started: list[str] = []

    def work() -> None:
        started.append(threading.current_thread().name)
        gate.wait(WAIT)

    with helpers.working(work, 2), helpers.working(work, 5), helpers.working(work, 5):
        gate.set()
    assert started == ["crynux_async inflate"] * 3
    with helpers.working(work, 5):
        pass
    assert len(started) == 6
    assert not left_behind()


def left_behind() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "inflate" in thread.name]


@pytest.mark.parametrize(("processors", "count"), [(1, 0), (2, 1), (3, 2), (8, 4), (64, 4)])
def test_helpers_are_few_and_leave_processors_to_others(
    monkeypatch: pytest.MonkeyPatch, processors: int, count: int
) -> None:
    monkeypatch.setattr(side_by_side, "processors", lambda: processors)
    monkeypatch.setattr(side_by_side, "verifying_at_once", lambda: max(1, processors // 2))
    started: list[None] = []
    with Helpers().working(lambda: started.append(None), 100):
        pass
    assert len(started) == count


def test_little_is_read_without_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise AssertionError("a thread for nothing")

    monkeypatch.setattr(threading.Thread, "start", start)
    path = write_zip(tmp_path / "a.zip", members(pair()))
    assert read(path, Helpers(4)) == set(members(pair()))


def test_where_the_system_has_no_more_threads_one_reads_all(
    tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[None] = []

    def start(self: threading.Thread) -> None:
        tried.append(None)
        raise RuntimeError("can't start new thread")

    path = tmp_path / "a.zip"
    path.write_bytes(whole)
    helpers = Helpers(2)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert read(path, helpers) == set(files())
    assert len(tried) == 1
    assert helpers._free._value == 2


@pytest.mark.parametrize("error", [MemoryError(), OSError(5, "Input/output error")])
def test_trouble_of_a_helper_is_not_the_members(
    tmp_path: Path, whole: bytes, halves: Halves, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(whole)
    begin = side_by_side.unpack_ahead

    def fail(*arguments: Any) -> Ahead | None:
        begin(*arguments)
        raise error

    monkeypatch.setattr(side_by_side, "unpack_ahead", fail)
    assert read(path, Helpers(1)) == set(files()) - {"optimizer.bin"}
    assert ArchiveVerifier(helpers=Helpers(1))(path) == verify_archive(path)
    assert not left_behind()


@pytest.mark.parametrize("helpers", [0, 2])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_archive_that_nobody_wants_any_more_is_not_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helpers: int, method: int
) -> None:
    path = write_zip(tmp_path / "a.zip", files(), method)
    arriving = ArchiveVerifier(helpers=Helpers(helpers)).begin()
    seen: list[int] = []

    def crc32(data: bytes, value: int = 0) -> int:
        seen.append(len(data))
        arriving.stop()
        return zlib.crc32(data, value)

    monkeypatch.setattr(side_by_side, "crc32", crc32)
    monkeypatch.setattr(zip_members, "crc32", crc32)
    with pytest.raises(_StoppedError):
        arriving(path)
    # Each thread had at most one piece in hand, and what that unpacks to.
    assert 0 < sum(seen) < 3 * 300_000
    assert not left_behind()


def test_file_that_was_replaced_while_it_is_read_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(whole)
    streams = [MemberStream(member) for member in members_of(path).values()]

    def replaced() -> AbstractContextManager[io.FileIO]:
        raise ValueError("is not the file that was opened")

    assert read_side_by_side(streams, replaced, Helpers(2)) == set()


def test_several_threads_hold_few_pieces_in_memory(tmp_path: Path) -> None:
    block = numbers(250_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members(pair()).items():
            archive.writestr(name, data)
        with archive.open("scheduler.bin", "w") as file:
            for _ in range(8):
                file.write(block)
    streams = [MemberStream(member) for member in members_of(path).values()]
    tracemalloc.start()
    try:
        assert len(read_side_by_side(streams, opened(path), Helpers(3))) == len(streams)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()
