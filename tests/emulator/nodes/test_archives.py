"""The emulator's archives: ZIP, safetensors, and the shelf that keeps them."""

import array
import asyncio
import json
import math
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from crynux_async.emulator.bridge.binding import FIELDS
from crynux_async.emulator.nodes.archives import ArchiveShelf, archive_bytes, members
from crynux_async.emulator.nodes.task_args import TaskArgs, task_args, with_defaults
from crynux_async.emulator.nodes.unet import SIZES
from crynux_async.emulator.nodes.zip_files import Member, write_zip

HEADER = Path(__file__).parents[2] / "data" / "archive" / "sd15_rank4_header.json"
LORA = "pytorch_lora_weights.safetensors"
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")


def make_args(**fields: Any) -> TaskArgs:
    values = {field.name: field.zero for field in FIELDS}
    values |= {"model_name": "m", "rank": 4, "target_modules": ATTENTION}
    return task_args(with_defaults({**values, **fields}, seed=1))


def archive(args: TaskArgs, *, size: str = "tiny", version: int = 0, step: int = 11) -> zipfile.ZipFile:
    file = BytesIO()
    unet = SIZES[size]  # type: ignore[index]
    for _ in write_zip(file, members(args, unet, global_step=step, version=version)):
        pass
    return zipfile.ZipFile(file)


def read_lora(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def floats(header: dict[str, Any], data: bytes, ending: str) -> list[float]:
    """Return all numbers of the F32 tensors whose names have this ending."""
    numbers = array.array("f")
    for name, entry in header.items():
        if name.endswith(ending):
            numbers.frombytes(data[slice(*entry["data_offsets"])])
    return numbers.tolist()


def test_archive_is_a_valid_zip_with_a_nodes_entries() -> None:
    with archive(make_args()) as file:
        assert file.testzip() is None
        assert [(entry.filename, entry.compress_type) for entry in file.infolist()] == [
            (LORA, zipfile.ZIP_DEFLATED),
            ("random_states_0.pkl", zipfile.ZIP_DEFLATED),
            ("global_step.txt", zipfile.ZIP_DEFLATED),
            ("optimizer.bin", zipfile.ZIP_DEFLATED),
            ("FINISH", zipfile.ZIP_DEFLATED),
            ("scheduler.bin", zipfile.ZIP_DEFLATED),
        ]


def test_archive_entries_have_a_nodes_permissions_and_flags() -> None:
    with archive(make_args()) as file:
        entries = {entry.filename: entry for entry in file.infolist()}
    assert {name: oct(entry.external_attr >> 16) for name, entry in entries.items()} == {
        name: "0o100600" if name == LORA else "0o100644" for name in entries
    }
    assert {(entry.flag_bits, entry.create_system) for entry in entries.values()} == {(0, 3)}


def test_archive_tells_the_global_step_and_an_empty_finish() -> None:
    with archive(make_args()) as file:
        assert (file.read("global_step.txt"), file.read("FINISH")) == (b"11", b"")


def test_archive_of_fp16_has_a_scaler() -> None:
    with archive(make_args(mixed_precision="fp16")) as file:
        assert "scaler.pt" in file.namelist()


def test_archive_pickles_look_like_torch_files_of_the_right_size() -> None:
    with archive(make_args()) as file:
        sizes = {name: len(file.read(name)) for name in file.namelist()}
        assert all(
            file.read(name).startswith(b"PK\x03\x04")
            for name in ("optimizer.bin", "scheduler.bin", "random_states_0.pkl")
        )
    # A real node's archive of this tiny model: 397067, 1401 and 14625 bytes.
    assert sizes["optimizer.bin"] == pytest.approx(397_067, rel=0.01)
    assert (sizes["scheduler.bin"], sizes["random_states_0.pkl"]) == (1401, 14_625)


def test_lora_of_real_size_has_the_real_header() -> None:
    with archive(make_args(), size="sd15") as file:
        header, data = read_lora(file.read(LORA))
    real = json.loads(HEADER.read_text(encoding="utf-8"))
    assert header["__metadata__"] == real["__metadata__"]
    assert {name: (entry["dtype"], entry["shape"]) for name, entry in header.items() if name != "__metadata__"} == {
        name: (entry["dtype"], entry["shape"]) for name, entry in real.items() if name != "__metadata__"
    }
    assert len(data) == 4 * 4 * 199_296


def test_lora_of_the_tiny_model_begins_byte_for_byte_like_the_node_codes_own() -> None:
    with zipfile.ZipFile(HEADER.with_name("result.zip")) as real, archive(make_args()) as file:
        expected, content = real.read(LORA), file.read(LORA)
    end = 8 + struct.unpack("<Q", expected[:8])[0]
    assert (content[:end], len(content)) == (expected[:end], len(expected))


@pytest.mark.parametrize(("precision", "dtype", "width"), [("no", "F32", 4), ("fp16", "F32", 4), ("bf16", "BF16", 2)])
def test_lora_tensors_tile_the_data_in_the_right_type(precision: str, dtype: str, width: int) -> None:
    with archive(make_args(mixed_precision=precision, rank=3, target_modules=("to_q", "conv1"))) as file:
        header, data = read_lora(file.read(LORA))
    offset = 0
    del header["__metadata__"]
    for entry in header.values():
        assert entry["dtype"] == dtype
        assert entry["data_offsets"] == [offset, offset + width * math.prod(entry["shape"])]
        offset = entry["data_offsets"][1]
    assert offset == len(data)
    assert list(header) == sorted(header)


@pytest.mark.parametrize("rank", [1, 9, 10, 100])
def test_lora_header_is_padded_to_eight_bytes(rank: int) -> None:
    with archive(make_args(rank=rank, target_modules=("to_q",))) as file:
        (length,) = struct.unpack("<Q", file.read(LORA)[:8])
    assert length % 8 == 0


def test_lora_numbers_are_normal_below_and_small_above() -> None:
    with archive(make_args()) as file:
        header, data = read_lora(file.read(LORA))
    down, up = floats(header, data, "lora.down.weight"), floats(header, data, "lora.up.weight")
    mean = sum(down) / len(down)
    deviation = math.sqrt(sum((number - mean) ** 2 for number in down) / len(down))
    assert mean == pytest.approx(0, abs=0.01)
    assert deviation == pytest.approx(0.25, rel=0.05)
    assert 0 < min(map(abs, up)) <= max(map(abs, up)) < 0.01


def test_untrained_lora_has_only_zeros_above() -> None:
    with archive(make_args(model_name="m/untrained")) as file:
        header, data = read_lora(file.read(LORA))
    assert set(floats(header, data, "lora.up.weight")) == {0.0}
    assert any(floats(header, data, "lora.down.weight"))


@pytest.mark.parametrize(
    ("fields", "step"), [({"lr_scheduler": "cosine"}, 1), ({"lr_scheduler": "polynomial"}, 1), ({"snr_gamma": 0.0}, 11)]
)
def test_training_that_teaches_nothing_gives_an_untrained_lora(fields: dict[str, Any], step: int) -> None:
    with archive(make_args(**fields), step=step) as file:
        header, data = read_lora(file.read(LORA))
    assert set(floats(header, data, "lora.up.weight")) == {0.0}


@pytest.mark.parametrize(("scheduler", "step"), [("constant", 1), ("cosine", 2)])
def test_training_with_a_learning_rate_gives_a_trained_lora(scheduler: str, step: int) -> None:
    with archive(make_args(lr_scheduler=scheduler), step=step) as file:
        header, data = read_lora(file.read(LORA))
    assert any(floats(header, data, "lora.up.weight"))


def test_nan_lora_has_no_number_at_all() -> None:
    with archive(make_args(model_name="m/nan")) as file:
        header, data = read_lora(file.read(LORA))
    assert all(map(math.isnan, floats(header, data, ".weight")))


def test_big_archive_is_larger_by_what_was_asked_and_does_not_compress() -> None:
    with archive(make_args()) as plain, archive(make_args(model_name="m/big-3")) as big:
        small, large = plain.getinfo("optimizer.bin"), big.getinfo("optimizer.bin")
        assert large.file_size - small.file_size == 3 * 1024 * 1024
        assert large.compress_size == large.file_size
        assert big.testzip() is None


def test_weights_follow_from_the_seed() -> None:
    contents = [archive(make_args(seed=seed)).read(LORA) for seed in (5, 5, 6)]
    assert contents[0] == contents[1] != contents[2]


def test_another_version_has_other_weights() -> None:
    assert archive(make_args()).read(LORA) != archive(make_args(), version=1).read(LORA)


def test_zip_repeats_a_piece_that_comes_again() -> None:
    piece = bytes(range(256)) * 40
    file = BytesIO()
    for _ in write_zip(file, [Member(name="a", pieces=[piece, piece, b"x", piece])]):
        pass
    with zipfile.ZipFile(file) as read:
        assert read.read("a") == piece + piece + b"x" + piece


async def test_shelf_makes_an_archive_once_for_many_askers(tmp_path: Path) -> None:
    shelf = ArchiveShelf(tmp_path, SIZES["tiny"], limit_bytes=10**9)
    files = await asyncio.gather(*(shelf.open(make_args(), global_step=1, version=0) for _ in range(5)))
    contents = {file.read() for file in files}
    for file in files:
        file.close()
    assert len(contents) == len(list(tmp_path.iterdir())) == 1


async def test_shelf_gives_up_the_archive_that_was_not_asked_for_longest(tmp_path: Path) -> None:
    shelf = ArchiveShelf(tmp_path, SIZES["tiny"], limit_bytes=1_200_000)
    first, second, third = (make_args(seed=seed) for seed in (1, 2, 3))
    for args in (first, second, first, third):
        (await shelf.open(args, global_step=1, version=0)).close()
    kept = {path.name for path in tmp_path.iterdir()}
    (await shelf.open(first, global_step=1, version=0)).close()
    assert len(kept) == 2
    assert {path.name for path in tmp_path.iterdir()} == kept


async def test_shelf_makes_a_given_up_archive_again_byte_for_byte(tmp_path: Path) -> None:
    shelf = ArchiveShelf(tmp_path, SIZES["tiny"], limit_bytes=1)
    contents = []
    for seed in (1, 2, 1):
        with await shelf.open(make_args(seed=seed), global_step=1, version=0) as file:
            contents.append(file.read())
    assert contents[0] == contents[2] != contents[1]


async def test_shelf_never_holds_more_than_its_limit(tmp_path: Path) -> None:
    # Three archives fit; before, six at once were written side by side and only then thrown away.
    limit = 2_000_000
    held: list[int] = []

    async def watch() -> None:
        while True:
            held.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
            await asyncio.sleep(0)

    shelf = ArchiveShelf(tmp_path, SIZES["tiny"], limit_bytes=limit)
    watching = asyncio.create_task(watch())
    files = await asyncio.gather(*(shelf.open(make_args(seed=n), global_step=1, version=0) for n in range(1, 7)))
    watching.cancel()
    for file in files:
        file.close()
    assert 1_000_000 < max(held) <= limit


@pytest.mark.parametrize(
    "fields", [{}, {"rank": 16, "mixed_precision": "bf16"}, {"mixed_precision": "fp16"}, {"model_name": "m/big-3"}]
)
def test_size_of_an_archive_is_known_before_it_is_made(fields: dict[str, Any]) -> None:
    args = make_args(**fields)
    with archive(args) as file:
        size = sum(entry.file_size for entry in file.infolist())
    assert size <= archive_bytes(args, SIZES["tiny"].targeted(args.target_modules)) <= size + 3000


async def test_shelf_that_is_closed_while_making_leaves_no_archive(tmp_path: Path) -> None:
    shelf = ArchiveShelf(tmp_path, SIZES["tiny"], limit_bytes=10**9)
    asker = asyncio.create_task(shelf.open(make_args(), global_step=1, version=0))
    for _ in range(3):
        await asyncio.sleep(0)
    await shelf.close()
    with pytest.raises(asyncio.CancelledError):
        await asker
    assert not list(tmp_path.glob("*.zip"))


async def test_shelf_clears_what_an_earlier_run_left(tmp_path: Path) -> None:
    (tmp_path / "old.zip").write_bytes(b"x")
    (tmp_path / "old.zip.new").write_bytes(b"x")
    ArchiveShelf(tmp_path, SIZES["tiny"], limit_bytes=1)
    assert not list(tmp_path.iterdir())
