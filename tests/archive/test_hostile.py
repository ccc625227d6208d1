import functools
import os
import pickle
import stat
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async.archive import ArchiveLimits, LoraArchive, verify_archive
from crynux_async.errors import ArchiveError
from tests.archive_files import (
    RESULT,
    WEIGHTS,
    Raw,
    deflate,
    f32,
    lora_bytes,
    members,
    pair,
    raw_zip,
    refuse,
    truth,
    write_zip,
    zip64,
)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    return functools.partial(refuse, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        b"../evil.txt",
        b"..",
        b".",
        b"",
        b"/etc/passwd",
        b"folder/file",
        b"folder/",
        b"a\\b",
        b"..\\evil.txt",
        b"C:evil.txt",
        b"C:\\evil.txt",
        b"file:stream",
        b"~",
        b".hidden",
        b"-rf",
        b"trailing.",
        b"space ",
        b"nul\0l",
        b"line\nbreak",
        b"\x1b[2J",
        "FİNISH".encode(),
        b"\xff\xfe",
        b"n" * 129,
    ],
)
def test_member_name_that_is_no_plain_file_name_is_refused(refused: Callable[..., str], name: bytes) -> None:
    refused(raw_zip(*truth(), Raw(name=name, data=b"x")), "name")


@pytest.mark.parametrize(
    "attributes",
    [
        (stat.S_IFLNK | 0o777) << 16,
        (stat.S_IFDIR | 0o755) << 16,
        (stat.S_IFIFO | 0o644) << 16,
        (stat.S_IFCHR | 0o644) << 16,
        0x10,
    ],
)
def test_member_that_is_no_regular_file_is_refused(refused: Callable[..., str], attributes: int) -> None:
    refused(
        raw_zip(*truth(), Raw(name=b"link", data=b"/etc/passwd", attributes=attributes)), "link is a link, a folder"
    )


@pytest.mark.parametrize("names", [(b"twin", b"twin"), (b"x", b"x"), (b"Twin.BIN", b"tWIN.bin"), (b"z", b"FINISH")])
def test_members_with_one_name_are_refused(refused: Callable[..., str], names: tuple[bytes, bytes]) -> None:
    refused(raw_zip(*truth(), *(Raw(name=name) for name in names)), "have one name")


def test_hundred_thousand_members_are_refused_without_reading_them(refused: Callable[..., str]) -> None:
    entries = [Raw(name=b"m%d" % number) for number in range(100)]
    refused(zip64(*entries, total=100_000), "holds 100000 files; at most 64")


def test_directory_that_holds_less_than_it_announces_is_refused(refused: Callable[..., str]) -> None:
    refused(raw_zip(*truth(), count=5), "ends after 4 of 5 entries")


def test_directory_that_holds_more_than_it_announces_is_refused(refused: Callable[..., str]) -> None:
    refused(raw_zip(*truth(), count=3), "holds more than the 3 entries")


@pytest.mark.parametrize("flags", [0x1, 0x40, 0x2000])
def test_encrypted_member_is_refused(refused: Callable[..., str], flags: int) -> None:
    refused(raw_zip(*truth(), Raw(name=b"secret", data=b"x", flags=flags)), "secret is encrypted")


@pytest.mark.parametrize("method", [1, 9, 12, 14, 93, 99])
def test_unsupported_packing_is_refused(refused: Callable[..., str], method: int) -> None:
    refused(raw_zip(*truth(), Raw(name=b"odd", data=b"x", method=method)), f"odd is packed by method {method}")


@pytest.mark.parametrize("odd", [{"flags": 0x20}, {"version": 63}])
def test_feature_that_no_node_uses_is_refused(refused: Callable[..., str], odd: dict[str, Any]) -> None:
    refused(raw_zip(*truth(), Raw(name=b"odd", data=b"x", **odd)), "odd ")


def test_bomb_of_ratio_1000_is_refused_before_it_is_unpacked(refused: Callable[..., str]) -> None:
    size = 200 * 2**20
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(2**20)
    packed = b"".join(packer.compress(piece) for _ in range(200)) + packer.flush()
    assert size / len(packed) > 1000
    bomb = Raw(name=b"optimizer.bin", data=b"", packed=packed, method=8, size=size)
    message = refused(raw_zip(Raw(name=WEIGHTS.encode(), data=lora_bytes(pair())), bomb), "ZIP bomb")
    assert str(size) in message


def test_bomb_in_many_members_is_refused(refused: Callable[..., str]) -> None:
    limits = ArchiveLimits(ratio=100, ratio_free_bytes=100_000)
    packed = deflate(bytes(60_000))
    parts = [Raw(name=b"part%d" % n, data=bytes(60_000), packed=packed, method=8) for n in range(3)]
    refused(raw_zip(*truth(), *parts), "the whole of what no training accounts for packs", limits)


def test_bomb_that_lies_about_its_size_is_unpacked_no_further_than_it_said(tmp_path: Path) -> None:
    packed = deflate(bytes(64 * 2**20))
    path = tmp_path / "bomb.zip"
    path.write_bytes(raw_zip(*truth(), Raw(name=b"bomb", packed=packed, method=8, size=10, crc=0)))
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveError, match="bomb is longer than the 10 bytes"):
            verify_archive(path)
        assert tracemalloc.get_traced_memory()[1] < 2 * 2**20
    finally:
        tracemalloc.stop()


def test_verify_of_a_large_archive_holds_few_pieces_in_memory(tmp_path: Path) -> None:
    columns = 2**19
    tensors = {
        "unet.conv_in.lora_A.weight": ("F32", [4, columns], bytes(16 * columns)),
        "unet.conv_in.lora_B.weight": ("F32", [1, 4], f32(1, 2, 3, 4)),
    }
    path = write_zip(tmp_path / "large.zip", members(tensors))
    del tensors
    tracemalloc.start()
    try:
        archive = LoraArchive.open(path)
        archive.verify()
        archive.export(tmp_path / "out.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 6 * 2**20
        archive.health()  # and what norms() takes, of which its strength is made
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("lie", "match"),
    [
        ({"size": 5, "packed_size": 5}, "gap|begins at byte|end at byte|directory"),
        ({"size": 9}, "stored, and yet says two sizes"),
        ({"crc": 1}, "damaged: CRC-32"),
        ({"method": 8, "packed": deflate(b"0123456789"), "size": 9}, "longer than the 9 bytes"),
        ({"method": 8, "packed": deflate(b"0123456789"), "size": 11}, "ends after 10 of 11 bytes"),
        ({"method": 8, "packed": deflate(b"0123456789") + b"more"}, "followed by packed bytes"),
        ({"method": 8, "packed": deflate(b"0123456789")[:-2]}, "have no end|ends after"),
        ({"method": 8, "packed": b"\xff" * 12}, "packed bytes are damaged"),
        ({"method": 8, "packed": b""}, "announces 10 bytes, more than 0 can be unpacked to"),
        ({"method": 8, "packed": b"\x03\x00"}, "ends after 0 of 10 bytes"),
    ],
)
def test_member_that_lies_about_its_bytes_is_refused(refused: Callable[..., str], lie: Any, match: str) -> None:
    refused(raw_zip(*truth(), Raw(**{"name": b"liar", "data": b"0123456789", **lie})), match)


def test_member_that_announces_more_than_is_accepted_is_refused(refused: Callable[..., str]) -> None:
    wide = struct.pack("<2HQ", 1, 8, 1033)
    entry = Raw(name=b"large", data=b"0123456789", method=8, size=0xFFFFFFFF, extra=wide, version=45)
    refused(raw_zip(*truth(), entry), "large unpacks to 1033 bytes", ArchiveLimits(member_bytes=1032))


def test_member_that_announces_more_than_deflate_can_pack_is_refused(refused: Callable[..., str]) -> None:
    packed = deflate(bytes(1032 * 100))
    fine = Raw(name=b"fine", data=bytes(1032 * 100), packed=packed, method=8)
    liar = Raw(name=b"liar", packed=packed, method=8, size=1032 * len(packed) + 1, crc=0)
    refused(
        raw_zip(*truth(), fine, liar), f"liar announces {1032 * len(packed) + 1} bytes, more than {len(packed)} can"
    )


@pytest.mark.parametrize(
    "local",
    [
        {"name": b"other"},
        {"size": 11},
        {"crc": 7},
        {"method": 8},
        {"flags": 0x0800},
        {"version": 90},
    ],
)
def test_member_described_in_two_ways_is_refused(refused: Callable[..., str], local: Any) -> None:
    refused(raw_zip(*truth(), Raw(name=b"liar", data=b"0123456789", local=local)), "liar")


def test_member_with_a_wrong_description_after_its_data_is_refused(refused: Callable[..., str]) -> None:
    zero = {"crc": 0, "size": 0, "packed_size": 0}
    wrong = struct.pack("<4s3L", b"PK\7\x08", 1, 10, 10)
    refused(
        raw_zip(*truth(), Raw(name=b"liar", data=b"0123456789", flags=8, local=zero, gap=wrong)), "liar announces two"
    )


@pytest.mark.parametrize(
    "extra", [b"", struct.pack("<2HL", 1, 4, 10), 2 * struct.pack("<2HQ", 1, 8, 10), b"\1\0\xff\xff"]
)
def test_member_with_bad_zip64_sizes_is_refused(refused: Callable[..., str], extra: bytes) -> None:
    entry = Raw(name=b"wide", data=b"0123456789", method=8, size=0xFFFFFFFF, extra=extra, version=45)
    refused(raw_zip(*truth(), entry), "wide")


def test_two_members_with_the_same_bytes_are_refused(refused: Callable[..., str]) -> None:
    entry = Raw(name=b"first", data=b"0123456789")
    refused(raw_zip(entry, attrs.evolve(entry, name=b"other", offset=0, hidden=True)), "members overlap")


def test_members_that_overlap_are_refused(refused: Callable[..., str]) -> None:
    inner = Raw(name=b"inner", data=b"x" * 50)
    quoted = inner.local_header() + inner.data
    outer = Raw(name=b"outer", data=quoted)
    entry = attrs.evolve(inner, offset=len(outer.local_header()), hidden=True)
    refused(raw_zip(outer, entry), "members overlap")


def test_gap_between_members_is_refused(refused: Callable[..., str]) -> None:
    refused(raw_zip(Raw(name=b"first", data=b"x", gap=b"hidden"), *truth()), "leave a gap")


def test_gap_before_the_directory_is_refused(refused: Callable[..., str]) -> None:
    refused(raw_zip(*truth(), Raw(name=b"last", data=b"x", gap=b"hidden")), "the directory begins at byte")


def test_member_that_runs_into_the_directory_is_refused(refused: Callable[..., str]) -> None:
    refused(raw_zip(Raw(name=b"long", data=b"x", size=40, packed_size=40)), "runs into the directory")


def test_member_beyond_the_directory_is_refused(refused: Callable[..., str]) -> None:
    refused(raw_zip(Raw(name=b"far", data=b"x", offset=40)), "leave a gap")


@pytest.mark.parametrize("garbage", [b"\0", b"x" * 22, b"PK\5\6", bytes(70_000)])
def test_garbage_after_the_end_is_refused(refused: Callable[..., str], garbage: bytes) -> None:
    refused(RESULT.read_bytes() + garbage, "does not end with the end record")


@pytest.mark.parametrize("prefix", [b"\0", b"#!/bin/sh\n", RESULT.read_bytes()[:4096], RESULT.read_bytes()])
def test_prefix_before_the_beginning_is_refused(refused: Callable[..., str], prefix: bytes) -> None:
    refused(prefix + RESULT.read_bytes(), "its directory is not where its end record says")


def test_prefix_with_corrected_offsets_is_refused(refused: Callable[..., str]) -> None:
    refused(raw_zip(*truth(), prefix=b"MZ and a program"), "leave a gap")


@pytest.mark.parametrize("length", [0, 1, 21, 22, 1000, 317_252])
def test_archive_cut_short_is_refused(refused: Callable[..., str], length: int) -> None:
    refused(RESULT.read_bytes()[:length], "too short|does not end with")


@pytest.mark.parametrize("end", [b"\5\0hell", b"\5\0hello!", b"\4\0PK\5\6", b"\x1a\0PK\5\6" + bytes(20)])
def test_archive_whose_comment_is_not_as_long_as_it_says_or_holds_another_end_is_refused(
    refused: Callable[..., str], end: bytes
) -> None:
    refused(raw_zip(*truth())[:-2] + end, "does not end with|holds no files|directory is not where")


def test_archive_in_several_parts_is_refused(refused: Callable[..., str]) -> None:
    data = raw_zip(*truth())
    refused(data[:-18] + b"\1\0" + data[-16:], "several parts")


def test_archive_without_members_is_refused(refused: Callable[..., str]) -> None:
    refused(raw_zip(), "holds no files")


def test_end_records_that_disagree_are_refused(refused: Callable[..., str]) -> None:
    refused(zip64(*truth(), short=(3, 0xFFFFFFFF, 0xFFFFFFFF)), "two end records disagree")


def test_zip64_end_that_is_not_next_to_its_locator_is_refused(refused: Callable[..., str]) -> None:
    data = zip64(*truth())
    refused(data[:-42] + data[-42:-34] + bytes(8) + data[-26:], "not where its locator says")


def test_bytes_before_a_zip64_end_are_refused(refused: Callable[..., str]) -> None:
    refused(zip64(*truth(), gap=b"hidden"), "its directory is not where")


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"members": 5}, "holds 6 files; at most 5"),
        ({"name_bytes": 31}, "name is 32 bytes long"),
        ({"file_bytes": 317_252}, "317253 bytes long"),
        ({"member_bytes": 397_066}, "optimizer.bin unpacks to 397067"),
        ({"total_bytes": 544_542}, "unpacks to 544543 bytes"),
        ({"header_bytes": 36_207}, "36208 bytes long"),
        ({"tensors": 255}, "256 tensors"),
    ],
)
def test_limit_one_below_the_need_is_enforced(refused: Callable[..., str], limits: Any, match: str) -> None:
    refused(RESULT.read_bytes(), match, ArchiveLimits(**limits))


def test_limits_that_are_just_enough_are_enough(tmp_path: Path) -> None:
    limits = ArchiveLimits(
        members=6,
        name_bytes=32,
        file_bytes=317_253,
        member_bytes=397_067,
        total_bytes=544_543,
        header_bytes=36_208,
        tensors=256,
        ratio=3,
        ratio_free_bytes=1,
    )
    assert verify_archive(RESULT, limits=limits).rank == 4


def test_pickles_inside_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    trap = pickle.dumps(Trap())
    files = {**members(), "optimizer.bin": trap, "scheduler.bin": trap, "random_states_0.pkl": trap, "scaler.pt": trap}
    archive = LoraArchive.open(write_zip(tmp_path / "trap.zip", files))
    archive.verify()
    archive.health()
    archive.export(tmp_path / "out.safetensors")
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists()
