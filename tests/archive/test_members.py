"""What is in a node's archive, how large a training can make it, and what is a bomb."""

import shutil
import struct
import zlib
from pathlib import Path

import pytest

from crynux_async.archive import HealthCode, LoraArchive, verify_archive
from crynux_async.archive.members import FINISH, OPTIMIZER, PURPOSES, STEP, WEIGHTS, is_pickle
from crynux_async.emulator.nodes.unet import SIZES
from crynux_async.emulator.nodes.weights import Lora
from crynux_async.errors import ArchiveError
from tests.archive_files import RESULT, Raw, deflate, lora_bytes, members, pair, raw_zip, refuse, write_zip

NAN = struct.pack("<f", float("nan"))
MEBIBYTE = 2**20


def test_names_are_those_of_a_real_archive() -> None:
    found = LoraArchive.open(RESULT).members.keys()
    assert found == PURPOSES.keys() - {"scaler.pt"}
    assert found >= {WEIGHTS, OPTIMIZER, STEP, FINISH}
    assert {name for name in found if is_pickle(name)} == {OPTIMIZER, "scheduler.bin", "random_states_0.pkl"}


@pytest.mark.parametrize(("rank", "targets"), [(57, ("to_k", "to_q", "to_v", "to_out.0")), (28, "all-linear")])
def test_diverged_training_is_read_and_judged_whatever_its_rank(
    tmp_path: Path, rank: int, targets: tuple[str, ...] | str
) -> None:
    lora = Lora(modules=SIZES["sd15"].targeted(targets), rank=rank, dtype="F32", seed="1", condition="nan")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with (folder / WEIGHTS).open("wb") as file:
        file.writelines(lora.pieces())
    (folder / OPTIMIZER).write_bytes(NAN * (2 * lora.data_bytes // 4))
    (folder / STEP).write_text("100")
    (folder / FINISH).touch()
    path = Path(shutil.make_archive(str(tmp_path / "result"), "zip", folder))
    assert path.stat().st_size * 200 < lora.data_bytes  # by the ratio alone it would be a bomb
    archive = LoraArchive.open(path)
    archive.verify()
    assert archive.health().codes == {HealthCode.NAN}


def bomb(name: str, size: int) -> Raw:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(bytes(MEBIBYTE)) + packer.flush(zlib.Z_FULL_FLUSH)  # the same again after each such end
    return Raw(name=name.encode(), data=bytes(size), packed=size // MEBIBYTE * packed + packer.flush(), method=8)


def weights(size: int) -> Raw:
    """A sound LoRA with as many bytes of numbers."""
    columns = (size - 8) // 8
    tensors = pair("conv_in", style="lora_A lora_B", rank=2, down=(0.0,) * 2, up=(1.0, 2.0))
    tensors["unet.conv_in.lora_A.weight"] = ("F32", [2, columns], bytes(8 * columns))
    data = lora_bytes(tensors)
    return Raw(name=WEIGHTS.encode(), data=data, packed=deflate(data), method=8)


def test_optimizer_state_that_goes_with_its_lora_is_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(raw_zip(weights(40 * MEBIBYTE), bomb(OPTIMIZER, 160 * MEBIBYTE)))
    verify_archive(path)


def test_optimizer_state_that_goes_with_no_lora_is_a_bomb(tmp_path: Path) -> None:
    data = raw_zip(weights(40 * MEBIBYTE), bomb(OPTIMIZER, 161 * MEBIBYTE))
    refuse(tmp_path, data, "optimizer.bin packs .* a ZIP bomb")


@pytest.mark.parametrize("name", ["scheduler.bin", "random_states_0.pkl", "anything"])
def test_other_member_that_packs_too_well_is_a_bomb(tmp_path: Path, name: str) -> None:
    data = raw_zip(weights(40 * MEBIBYTE), bomb(name, 129 * MEBIBYTE))
    refuse(tmp_path, data, f"{name} packs .* a ZIP bomb")


def test_lora_whose_header_does_not_account_for_its_size_is_refused_before_it_is_held(tmp_path: Path) -> None:
    refuse(tmp_path, raw_zip(bomb(WEIGHTS, 200 * MEBIBYTE)), "safetensors header says it is 0 bytes long")


# What fetching again can help


@pytest.mark.parametrize("cut", [1, 100, 10_000])
def test_archive_that_lost_bytes_may_be_damaged(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(RESULT.read_bytes()[:-cut])
    with pytest.raises(ArchiveError) as caught:
        verify_archive(path)
    assert not caught.value.is_undamaged


def test_archive_with_a_flipped_bit_is_damaged_also_where_the_header_shows_it_first(tmp_path: Path) -> None:
    files = members()
    data = write_zip(tmp_path / "a.zip", files, 0).read_bytes()
    path = tmp_path / "b.zip"
    path.write_bytes(data.replace(b'"dtype"', b'"dtypf"', 1))
    with pytest.raises(ArchiveError, match="CRC-32") as caught:
        verify_archive(path)
    assert not caught.value.is_undamaged


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({STEP: b"10", FINISH: b""}, "no LoRA came out"),
        ({**members(), WEIGHTS: b"\0" * 8}, "safetensors header"),
        ({**members(), WEIGHTS: lora_bytes({})}, "names 0 tensors"),
        ({**members(), STEP: b"ten"}, "in place of a number"),
    ],
)
def test_archive_that_is_whole_and_not_a_lora_is_undamaged(tmp_path: Path, files: dict[str, bytes], match: str) -> None:
    with pytest.raises(ArchiveError, match=match) as caught:
        verify_archive(write_zip(tmp_path / "a.zip", files))
    assert caught.value.is_undamaged
