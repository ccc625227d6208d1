"""Archives that are verified while they arrive: the same words as for whole ones, and no byte read twice."""

import os
import random
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crynux_async.archive import ArchiveLimits, LoraArchive, side_by_side, verify_archive, zip_members
from crynux_async.archive.arriving import ArchiveVerifier, ArrivingArchive
from crynux_async.errors import ArchiveError
from tests.archive_files import RESULT, Raw, deflate, members, pair, raw_zip, write_zip

few = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def large_members() -> dict[str, bytes]:
    """An archive's members, some of them larger than what is read at once."""
    noise = random.Random(1)
    return members(pair()) | {
        "optimizer.bin": noise.randbytes(300_000) + bytes(200_000),
        "scheduler.bin": b"s" * 70_000,
    }


@pytest.fixture(params=["zlib", "whatever is installed"])
def inflating(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zlib":
        monkeypatch.setattr(zip_members, "new_inflater", lambda: zlib.decompressobj(-zlib.MAX_WBITS))
        monkeypatch.setattr(zip_members, "crc32", zlib.crc32)


@pytest.mark.usefixtures("inflating")
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
@pytest.mark.parametrize("step", [997, 65_536, 250_001])
def test_members_are_checked_as_they_come(tmp_path: Path, method: int, step: int) -> None:
    path = write_zip(tmp_path / "a.zip", large_members(), method)
    expected, size, arriving = verify_archive(path), path.stat().st_size, ArchiveVerifier().begin()

    for arrived in range(0, size, step):
        arriving.advance(path, arrived)
    arriving.advance(path, size)

    assert {member.name for member in arriving.checked} == set(large_members())
    assert arriving(path) == expected


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_no_byte_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int) -> None:
    path = write_zip(tmp_path / "a.zip", large_members(), method)
    counted: list[int] = []

    def crc32(data: bytes, value: int = 0) -> int:
        counted.append(len(data))
        return zlib.crc32(data, value)

    monkeypatch.setattr(zip_members, "crc32", crc32)
    monkeypatch.setattr(side_by_side, "crc32", crc32)
    arriving = ArrivingArchive()
    arriving.advance(path, path.stat().st_size // 2)
    begun, checked = sum(counted), sum(member.size_bytes for member in arriving.checked)
    arriving(path)
    total = sum(counted)
    # Where all is right, headers and the step count are read for what they say.
    LoraArchive.open(path).summary()
    size = sum(len(data) for data in large_members().values())

    assert checked < begun < size
    assert total - size == sum(counted) - total < 1000


def test_want_of_memory_on_the_way_is_left_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "a.zip", large_members())
    arriving = ArrivingArchive()
    with monkeypatch.context() as patch:
        patch.setattr(zip_members, "crc32", raise_memory_error)
        arriving.advance(path, path.stat().st_size)
    assert not arriving.checked
    assert arriving(path) == verify_archive(path)


def raise_memory_error(*_: object) -> int:
    raise MemoryError


def test_room_behind_what_has_arrived_is_not_read(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.zip", large_members()).read_bytes()
    path = tmp_path / "a.zip.part"
    arriving = ArrivingArchive()

    for arrived in range(0, len(whole), 50_000):
        # As with room that was promised: zeros lie where bytes will be.
        path.touch()
        with path.open("r+b") as file:
            file.write(whole[:arrived])
            file.truncate(len(whole))
        arriving.advance(path, arrived)
    with path.open("r+b") as file:
        file.write(whole)

    assert arriving(path) == verify_archive(path)
    assert {member.name for member in arriving.checked} == set(large_members())


def test_another_file_in_its_place_is_verified_from_its_beginning(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", large_members(), zipfile.ZIP_STORED)
    arriving = ArrivingArchive()
    arriving.advance(path, path.stat().st_size)
    assert arriving.checked

    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"s" * 100) + 5] ^= 1
    (tmp_path / "b.zip").write_bytes(damaged)
    os.replace(tmp_path / "b.zip", path)

    with pytest.raises(ArchiveError, match=r"the bytes of scheduler\.bin are damaged"):
        arriving(path)


def test_member_that_the_directory_describes_otherwise_is_refused(tmp_path: Path) -> None:
    entries = [Raw(name=name.encode(), data=data) for name, data in members().items()]
    lying = Raw(name=b"scheduler.bin", data=b"seen", local={"crc": zlib.crc32(b"seen")}, crc=1)
    path = tmp_path / "a.zip"
    path.write_bytes(raw_zip(*entries, lying))
    arriving = ArrivingArchive()
    arriving.advance(path, path.stat().st_size)

    with pytest.raises(ArchiveError, match="announces two sizes or two checksums"):
        arriving(path)


def test_what_only_the_directory_can_tell_is_left_to_the_end(tmp_path: Path) -> None:
    class Pipe:
        """Where zipfile cannot go back, so that sizes stand behind the bytes."""

        def __init__(self) -> None:
            self.written = bytearray()

        def write(self, data: bytes) -> int:
            self.written += data
            return len(data)

        def flush(self) -> None:
            """Everything is written already."""

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for name, data in large_members().items():
            archive.writestr(name, data)
    path = tmp_path / "a.zip"
    path.write_bytes(pipe.written)
    arriving = ArrivingArchive()
    arriving.advance(path, path.stat().st_size)

    assert not arriving.checked
    assert arriving(path) == verify_archive(path)


def test_more_than_is_accepted_is_not_unpacked_on_the_way(tmp_path: Path) -> None:
    limits = ArchiveLimits(member_bytes=100_000, total_bytes=150_000)
    path = write_zip(
        tmp_path / "a.zip", {"one.bin": bytes(90_000), "two.bin": bytes(90_000), "big.bin": bytes(110_000)}
    )
    arriving = ArrivingArchive(limits=limits)
    arriving.advance(path, path.stat().st_size)

    assert [member.name for member in arriving.checked] == ["one.bin"]
    with pytest.raises(ArchiveError, match="at most 100000 are accepted"):
        arriving(path)


def verdict_of_whole(path: Path) -> object:
    try:
        return verify_archive(path)
    except ArchiveError as error:
        return str(error), error.is_undamaged


@few
@given(
    place=st.floats(0, 1), flipped=st.integers(0, 7), cuts=st.lists(st.floats(0, 1), max_size=4), stored=st.booleans()
)
def test_any_damage_is_told_as_of_a_whole_archive(
    tmp_path: Path, place: float, flipped: int, cuts: list[float], stored: bool
) -> None:
    data = bytearray(
        RESULT.read_bytes()
        if stored
        else raw_zip(
            *(Raw(name=name.encode(), data=each, packed=deflate(each), method=8) for name, each in members().items())
        )
    )
    data[int(place * (len(data) - 1))] ^= 1 << flipped
    path = tmp_path / "a.zip"
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    arriving = ArrivingArchive()

    for cut in sorted(cuts):
        arriving.advance(path, int(cut * len(data)))
    try:
        verdict: object = arriving(path)
    except ArchiveError as error:
        verdict = (str(error), error.is_undamaged)

    assert verdict == verdict_of_whole(path)
