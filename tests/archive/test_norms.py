"""Norms of modules of every size: right, and in memory that does not follow from what an archive announces."""

import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.archive import ArchiveLimits, HealthCode, LoraArchive, norms
from crynux_async.errors import ArchiveError
from tests.archive_files import Tensor, f32, members, pair, write_zip

np: Any = pytest.importorskip("numpy", reason="numpy is not installed")


def random_pair(
    name: str, rank: int, inputs: int, outputs: int, *, dtype: str = "F32", kernel: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    generator = np.random.default_rng([rank, inputs, outputs])
    columns = inputs * int(np.prod(kernel, dtype=int))
    down = generator.integers(-8, 9, rank * columns) / 4
    up = generator.integers(-8, 9, rank * outputs) / 4
    return pair(name, rank=rank, dtype=dtype, style="lora_A lora_B", down=down, up=up, kernel=kernel)


def expected(archive: LoraArchive) -> dict[str, float]:
    """The norms by their definition, from numbers that every dtype holds exactly."""
    found = {}
    for name, module in archive.modules.items():
        down, up = (archive.tensor(tensor).astype(np.float64) for tensor in (module.down, module.up))
        found[name] = float(np.linalg.norm(up.reshape(len(up), -1) @ down.reshape(len(down), -1)))
    return found


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize(
    "block", [16 << 20, 4000, 700, 1], ids=["one block", "few blocks", "many blocks", "column by column"]
)
def test_norms_in_pieces_are_those_of_the_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int, dtype: str, block: int
) -> None:
    monkeypatch.setattr(norms, "_SMALL_BYTES", 0)
    monkeypatch.setattr(norms, "_BLOCK_BYTES", block)
    monkeypatch.setattr(norms, "_CHUNK_BYTES", 1000)
    tensors = {
        **random_pair("conv_in", 3, 4, 40, dtype=dtype, kernel=(3, 3)),
        **random_pair("conv_out", 1, 17, 5, dtype=dtype),
        **random_pair("time_embedding.linear_1", 20, 6, 9, dtype=dtype),
    }
    archive = LoraArchive.open(write_zip(tmp_path / "a.zip", members(tensors), method))
    assert dict(archive.norms().modules) == pytest.approx(expected(archive))


def test_norms_where_the_up_tensor_comes_first_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "_SMALL_BYTES", 0)
    monkeypatch.setattr(norms, "_BLOCK_BYTES", 100)
    tensors = dict(reversed(random_pair("conv_in", 3, 40, 30).items()))
    archive = LoraArchive.open(write_zip(tmp_path / "a.zip", members(tensors)))
    assert dict(archive.norms().modules) == pytest.approx(expected(archive))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(1, 4000))
def test_small_and_large_way_agree(rank: int, inputs: int, outputs: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        archive = LoraArchive.open(
            write_zip(Path(folder, "a.zip"), members(random_pair("conv_in", rank, inputs, outputs)))
        )
        small = archive.norms().total
        patch.setattr(norms, "_SMALL_BYTES", 0)
        patch.setattr(norms, "_BLOCK_BYTES", block)
        assert archive.norms().total == pytest.approx(small, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("small", [0, 1 << 20])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_norm_of_a_weight_that_is_no_number_is_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: int, number: float
) -> None:
    monkeypatch.setattr(norms, "_SMALL_BYTES", small)
    for place in ("down", "up"):
        tensors = pair("conv_in", rank=1, style="lora_A lora_B", **{"down": (1.0, 2.0), "up": (3.0,), place: (number,)})
        found = LoraArchive.open(write_zip(tmp_path / "a.zip", members(tensors))).norms()
        assert np.isnan(found.modules["conv_in"])
        assert np.isnan(found.total)


@pytest.mark.parametrize(
    ("dtype", "number"),
    [("F32", b"\x00\x00\xa0\x7f"), ("F16", b"\x00\x7d"), ("BF16", b"\xa0\x7f")],
)
def test_signalling_nan_is_judged_without_a_warning(tmp_path: Path, dtype: str, number: bytes) -> None:
    tensors = {
        "unet.conv_in.lora_A.weight": (dtype, [2, 4], 8 * number),
        "unet.conv_in.lora_B.weight": (dtype, [4, 2], 8 * number),
    }
    archive = LoraArchive.open(write_zip(tmp_path / "a.zip", members(tensors)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(archive.norms().total)
        assert archive.health().codes == {HealthCode.NAN}


def large(folder: Path, rank: int, columns: int, outputs: int) -> LoraArchive:
    """An archive whose down tensor is large, packed to next to nothing."""
    tensors = {
        "unet.conv_in.lora_A.weight": ("F32", [rank, columns], f32(1.0) * (rank * columns)),
        "unet.conv_in.lora_B.weight": ("F32", [outputs, rank], f32(1.0) * (outputs * rank)),
    }
    return LoraArchive.open(write_zip(folder / "large.zip", members(tensors)))


@pytest.mark.parametrize(("rank", "columns", "outputs"), [(2, 8 << 20, 4), (1024, 8192, 512), (512, 512, 32_768)])
def test_norms_of_a_large_module_take_a_bounded_amount_of_memory(
    tmp_path: Path, rank: int, columns: int, outputs: int
) -> None:
    archive = large(tmp_path, rank, columns, outputs)
    tracemalloc.start()
    try:
        found = archive.norms().total
        assert tracemalloc.get_traced_memory()[1] < 56 * 2**20
    finally:
        tracemalloc.stop()
    # Every number of B A is the rank.
    assert found == pytest.approx(rank * (columns * outputs) ** 0.5)


def test_tensor_too_large_for_memory_is_refused_by_what_needs_it_there_and_judged_all_the_same(tmp_path: Path) -> None:
    limits = ArchiveLimits(tensor_bytes=4 * 4 * 1000 - 1)
    path = large(tmp_path, 4, 1000, 2).path
    archive = LoraArchive.open(path, limits=limits)
    name = next(iter(archive.tensors))
    for use in (archive.norms, lambda: archive.tensor(name), lambda: list(archive.arrays())):
        with pytest.raises(ArchiveError, match="takes 16000 bytes as numbers, and 15999 are taken into memory at most"):
            use()
    archive.verify()
    assert archive.health().ok
    archive.export(tmp_path / "out.safetensors")
    assert LoraArchive.open(path, limits=ArchiveLimits(tensor_bytes=16000)).norms().total > 0


def test_norms_of_a_rank_that_nobody_trains_are_refused(tmp_path: Path) -> None:
    archive = large(tmp_path, 1025, 2, 2)
    with pytest.raises(ArchiveError, match="rank 1025, and norms"):
        archive.norms()
    assert archive.health().ok


def test_norms_of_tensors_that_do_not_follow_one_another_are_refused(tmp_path: Path) -> None:
    first, second = pair("conv_in", style="lora_A lora_B"), pair("conv_out", style="lora_A lora_B")
    tensors = dict(sorted({**first, **second}.items(), key=lambda item: "lora_B" in item[0]))
    archive = LoraArchive.open(write_zip(tmp_path / "a.zip", members(tensors)))
    with pytest.raises(ArchiveError, match="do not follow one another"):
        archive.norms()
    assert archive.health().ok


def test_norms_of_a_damaged_archive_are_refused(tmp_path: Path) -> None:
    tensors = pair("conv_in", style="lora_A lora_B", down=(1.0,) * 6, up=(1.0,) * 4)
    path = write_zip(tmp_path / "a.zip", members(tensors), zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(struct.pack("<6f", *(1.0,) * 6), struct.pack("<6f", *(2.0,) * 6)))
    with pytest.raises(ArchiveError, match="damaged: CRC-32"):
        LoraArchive.open(path).norms()
