"""Whatever the bytes are, an archive is read as what it is or refused with an ArchiveError."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crynux_async.archive import ArchiveLimits, LoraArchive
from crynux_async.errors import ArchiveError
from tests.archive_files import GOOD, RESULT, WEIGHTS, Raw, deflate, lora_bytes, members, pair, raw_zip

LIMITS = ArchiveLimits(total_bytes=4 * 2**20)
HAS_NUMPY = importlib.util.find_spec("numpy") is not None

Facts = tuple[object, ...]
Exercise = Callable[[bytes], Facts | None]

few = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
many = settings(few, max_examples=200)


@pytest.fixture
def exercise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exercise:
    """Write an archive and ask it everything; return what it says, or None where it is refused as it should be."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    folder = tmp_path / "inside"
    folder.mkdir()
    path, copy = folder / "any.zip", folder / "out.safetensors"

    def run(data: bytes) -> Facts | None:
        path.unlink(missing_ok=True)  # ext4 sends a file to the disk at once that replaces another in place
        path.write_bytes(data)
        try:
            return ask(path, copy)
        except ArchiveError:
            return None
        finally:
            copy.unlink(missing_ok=True)
            assert list(tmp_path.rglob("*")) == [folder, path]

    return run


def ask(path: Path, copy: Path) -> Facts:
    archive = LoraArchive.open(path, limits=LIMITS)
    facts: list[object] = [archive.finished, archive.global_step, repr(archive)]
    facts += [archive.rank, archive.dtype, archive.target_modules, archive.blocks, dict(archive.tensors)]
    facts += [archive.verify(), archive.health(Config()).problems]
    if HAS_NUMPY:
        facts += [(name, archive.tensor(name).tobytes()) for name in archive.tensors]
        facts += [repr(archive.norms())]
    facts += [archive.export(copy).read_bytes()]
    return tuple(facts)


class Config:
    rank = 2
    target_modules = ("to_q",)
    max_train_steps = 10


def small(*, deflated: bool) -> bytes:
    """An archive as a node makes it, with little in it."""
    entries = []
    for name, data in members().items():
        packed = deflate(data) if deflated else data
        entries.append(Raw(name=name.encode(), data=data, packed=packed, method=8 if deflated else 0))
    return raw_zip(*entries)


SMALL = {"stored": small(deflated=False), "deflated": small(deflated=True)}
SOURCES = [*SMALL.values(), RESULT.read_bytes()]


# Steps without a common divisor with 8 meet each bit of a byte in turn; a step below 8 meets every byte.
@pytest.mark.parametrize(("kind", "step"), [("stored", 5), ("deflated", 9)])
def test_single_flipped_bit_is_refused_or_changes_nothing(exercise: Exercise, kind: str, step: int) -> None:
    good = SMALL[kind]
    truth = exercise(good)
    assert truth is not None
    harmless = 0
    for position in range(0, len(good) * 8, step):
        damaged = bytearray(good)
        damaged[position // 8] ^= 1 << position % 8
        found = exercise(bytes(damaged))
        assert found in (None, truth)
        harmless += found is not None
    # Said by one description only and used by nobody: who made a member, and its permissions and other attributes.
    assert harmless <= len(members()) * 8 * (2 + 2 + 2 + 4 + 4)


@pytest.mark.parametrize("kind", SMALL)
def test_every_shorter_archive_is_refused(exercise: Exercise, kind: str) -> None:
    good = SMALL[kind]
    assert all(exercise(good[:length]) is None for length in range(len(good)))


@st.composite
def damaged_archives(draw: st.DrawFn) -> bytes:
    """Bytes flipped, slices removed, doubled, zeroed and moved."""
    data = bytearray(draw(st.sampled_from(SOURCES)))
    for _ in range(draw(st.integers(1, 4))):
        # Half of all damage is near the end, where the directory is.
        last = len(data)
        begin = draw(st.integers(0, last) | st.integers(max(0, last - 700), last))
        end = min(last, begin + draw(st.integers(1, 64) | st.integers(1, 8192)))
        match draw(st.sampled_from(["flip", "write", "remove", "double", "zero", "move", "cut"])):
            case "flip" if begin < last:
                data[begin] ^= draw(st.integers(1, 255))
            case "write":
                data[begin:end] = draw(st.binary(min_size=1, max_size=16))
            case "remove":
                del data[begin:end]
            case "double":
                data[begin:begin] = data[begin:end]
            case "zero":
                data[begin:end] = bytes(end - begin)
            case "move":
                piece = data[begin:end]
                del data[begin:end]
                place = draw(st.integers(0, len(data)))
                data[place:place] = piece
            case "cut":
                del data[end:]
    return bytes(data)


@many
@given(data=damaged_archives())
def test_damaged_archive_is_refused_or_says_what_is_true(exercise: Exercise, data: bytes) -> None:
    found = exercise(data)
    if found is not None:
        assert found in [exercise(source) for source in SOURCES]


@few
@given(
    data=st.binary(max_size=400) | st.binary(max_size=100).map(lambda tail: b"PK\3\4" + tail + b"PK\5\6" + bytes(18))
)
def test_arbitrary_bytes_are_refused(exercise: Exercise, data: bytes) -> None:
    assert exercise(data) is None


def archive_of(weights: bytes, *, packed: bytes | None = None, method: int = 0) -> bytes:
    return raw_zip(Raw(name=WEIGHTS.encode(), data=weights, packed=packed, method=method), Raw(name=b"FINISH"))


@few
@given(packed=st.binary(max_size=300), size=st.integers(0, 400))
def test_arbitrary_packed_bytes_are_refused(exercise: Exercise, packed: bytes, size: int) -> None:
    weights = Raw(name=WEIGHTS.encode(), packed=packed, method=8, size=size)
    assert exercise(raw_zip(weights)) is None


headers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["F32", *GOOD]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12) | st.sampled_from([*GOOD]), inner),
    max_leaves=20,
)


@few
@given(header=headers, data=st.binary(max_size=64))
def test_arbitrary_json_as_a_header_is_refused(exercise: Exercise, header: Any, data: bytes) -> None:
    raw = json.dumps(header).encode()
    assert exercise(archive_of(len(raw).to_bytes(8, "little") + raw + data)) is None


@few
@given(
    raw=st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789.eE+-aNI\\u\ud800'[:-1], max_size=200),
    data=st.binary(max_size=64),
)
def test_arbitrary_bytes_as_a_header_are_refused(exercise: Exercise, raw: bytes | str, data: bytes) -> None:
    header = raw.encode() if isinstance(raw, str) else raw
    assert exercise(archive_of(len(header).to_bytes(8, "little") + header + data)) is None


@few
@given(length=st.integers(0, 2**64 - 1) | st.integers(0, 1000))
def test_any_other_length_of_the_header_is_refused(exercise: Exercise, length: int) -> None:
    weights = lora_bytes(pair())
    assert (exercise(archive_of(length.to_bytes(8, "little") + weights[8:])) is None) == (
        length != int.from_bytes(weights[:8], "little")
    )


sizes = st.integers(-2, 50) | st.sampled_from([2**31, 2**32, 2**53, 2**63, 2**64, 10**30, 1.5, True, None, "4"])
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "", 4]),
        "shape": st.lists(sizes, max_size=5) | st.sampled_from([[2, 3], [4, 2], [2, 2], [1, 1]]),
        "data_offsets": st.lists(sizes, max_size=3) | st.sampled_from([[0, 24], [24, 40], [0, 40], [0, 0]]),
    }
)


@many
@given(header=st.dictionaries(st.sampled_from([*GOOD, "__metadata__", "unet.x.lora_A.weight"]), entries, max_size=4))
def test_header_with_wrong_numbers_is_refused_or_is_right(exercise: Exercise, header: Any) -> None:
    facts = exercise(archive_of(lora_bytes(pair(), header)))
    if facts is not None:
        ends = sorted(tuple(entry["data_offsets"]) for entry in header.values())
        assert ends == [(0, 24), (24, 40)]


@few
@given(
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), min_size=1, max_size=5), packed=st.booleans()
)
def test_flipped_bytes_of_the_weights_under_a_right_checksum_are_contained(
    exercise: Exercise, flips: list[tuple[int, int]], packed: bool
) -> None:
    weights = bytearray(lora_bytes(pair()))
    for position, mask in flips:
        weights[position % len(weights)] ^= mask
    data = bytes(weights)
    exercise(archive_of(data, packed=deflate(data), method=8) if packed else archive_of(data))
