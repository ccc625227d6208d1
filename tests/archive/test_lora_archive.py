import functools
import itertools
import json
import os
import random
import struct
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs
import pytest

from crynux_async.archive import ArchiveLimits, HealthCode, LoraArchive, verify_archive
from crynux_async.errors import ArchiveError, UsageError
from tests.archive_files import (
    DOWN,
    RESULT,
    UNFINISHED,
    WEIGHTS,
    Asked,
    Raw,
    Tensor,
    f32,
    lora_bytes,
    members,
    open_with,
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


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., LoraArchive]:
    return functools.partial(open_with, tmp_path)


def test_builder_with_true_members_makes_an_archive_that_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "good.zip"
    path.write_bytes(raw_zip(*truth()))
    assert verify_archive(path).rank == 2


def stable_diffusion_names() -> set[str]:
    """The attention projections of Stable Diffusion 1.5's UNet, from its block structure."""
    places = [f"down_blocks.{block}.attentions.{index}" for block in range(3) for index in range(2)]
    places += ["mid_block.attentions.0"]
    places += [f"up_blocks.{block}.attentions.{index}" for block in range(1, 4) for index in range(3)]
    kinds = itertools.product(("attn1", "attn2"), ("to_k", "to_out.0", "to_q", "to_v"), ("down", "up"))
    ends = [f"transformer_blocks.0.{attention}.{module}.lora.{half}.weight" for attention, module, half in kinds]
    return {f"unet.{place}.{end}" for place in places for end in ends}


@pytest.mark.parametrize("path", [RESULT, UNFINISHED], ids=lambda path: path.stem)
def test_tensors_of_a_real_archive_are_what_its_header_says(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        raw = archive.read(WEIGHTS)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    del header["__metadata__"]
    tensors = LoraArchive.open(path).tensors
    assert set(tensors) == stable_diffusion_names() == set(header)
    for name, info in tensors.items():
        assert info.dtype == header[name]["dtype"] == "F32"
        assert list(info.shape) == header[name]["shape"]
        assert [info.offset_bytes, info.offset_bytes + info.size_bytes] == header[name]["data_offsets"]
    assert {info.shape for info in tensors.values()} == {(4, 16), (4, 32), (16, 4), (32, 4)}


def test_verify_of_a_finished_archive_tells_all_about_it() -> None:
    summary = verify_archive(RESULT)
    assert (summary.rank, summary.dtype, summary.modules, summary.tensors) == (4, "F32", 128, 256)
    assert summary.target_modules == ("to_k", "to_out.0", "to_q", "to_v")
    assert summary.parameters == (131448 - 8 - 36208) // 4
    assert (summary.global_step, summary.finished, summary.file_bytes) == (11, True, 317253)


def test_verify_of_a_checkpoint_tells_its_step_and_that_it_is_not_finished() -> None:
    summary = verify_archive(UNFINISHED)
    assert (summary.global_step, summary.finished, summary.file_bytes) == (6, False, 316461)


def test_members_of_a_real_archive_have_their_sizes() -> None:
    found = {
        name: (member.size_bytes, member.packed_bytes) for name, member in LoraArchive.open(RESULT).members.items()
    }
    assert found == {
        WEIGHTS: (131448, 92026),
        "random_states_0.pkl": (14625, 10772),
        "global_step.txt": (2, 4),
        "optimizer.bin": (397067, 213226),
        "FINISH": (0, 2),
        "scheduler.bin": (1401, 549),
    }


def test_blocks_of_a_real_archive_are_those_with_attention() -> None:
    names = "down_blocks.0 down_blocks.1 down_blocks.2 mid_block up_blocks.1 up_blocks.2 up_blocks.3"
    assert LoraArchive.open(RESULT).blocks == tuple(names.split())


def test_arrays_of_a_real_archive_equal_those_of_another_reader() -> None:
    np = pytest.importorskip("numpy")
    reference = pytest.importorskip("safetensors.numpy")
    with zipfile.ZipFile(RESULT) as archive:
        expected = reference.load(archive.read(WEIGHTS))
    found = dict(LoraArchive.open(RESULT).arrays())
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_health_of_a_real_archive_is_good_when_held_against_its_config() -> None:
    assert LoraArchive.open(RESULT).health(Asked(rank=4, max_train_steps=10)).problems == ()


def test_health_of_a_checkpoint_says_unfinished_and_short() -> None:
    codes = LoraArchive.open(UNFINISHED).health(Asked(rank=4, max_train_steps=10)).codes
    assert codes == {HealthCode.UNFINISHED, HealthCode.STEPS_SHORT}


def test_open_of_a_missing_file_raises_archive_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"none\.zip: cannot be read: No such file"):
        LoraArchive.open(tmp_path / "none.zip")


def test_open_of_a_folder_raises_archive_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot be read"):
        LoraArchive.open(tmp_path)


def test_open_of_a_pipe_raises_archive_error_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArchiveError, match="not a regular file"):
        LoraArchive.open(tmp_path / "pipe")


def test_open_of_a_path_with_a_null_byte_raises_archive_error() -> None:
    with pytest.raises(ArchiveError, match="null"):
        LoraArchive.open("a\0b")


def test_open_with_a_text_path_keeps_it_as_a_path() -> None:
    assert LoraArchive.open(str(RESULT)).path == RESULT


def test_repr_names_the_file_and_its_state() -> None:
    assert repr(LoraArchive.open(RESULT)) == f"<LoraArchive {str(RESULT)!r}, 6 members, finished>"


def test_open_leaves_no_file_open(opened: Callable[..., LoraArchive]) -> None:
    before = set(os.listdir("/dev/fd"))
    archive = opened()
    archive.verify()
    archive.health()
    assert set(os.listdir("/dev/fd")) == before


def test_reading_after_the_file_was_replaced_raises_archive_error(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", members())
    archive = LoraArchive.open(path)
    write_zip(tmp_path / "b.zip", members(step="11")).replace(path)
    with pytest.raises(ArchiveError, match="not the file that was opened"):
        archive.verify()


def test_reading_after_the_file_was_removed_raises_archive_error(tmp_path: Path) -> None:
    archive = LoraArchive.open(write_zip(tmp_path / "a.zip", members()))
    archive.path.unlink()
    with pytest.raises(ArchiveError, match="cannot be read"):
        archive.health()


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(ArchiveLimits)])
def test_limits_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ArchiveLimits(**{field: 0})


class Unseekable:
    """A file that can only be written on, so that sizes follow the data."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive_written_as_a_stream_is_accepted(tmp_path: Path, method: int) -> None:
    target = Unseekable(tmp_path / "stream.zip")
    with zipfile.ZipFile(target, "w", method) as archive:  # type: ignore[call-overload]
        for name, data in members().items():
            archive.writestr(name, data)
    target.file.close()
    assert (tmp_path / "stream.zip").read_bytes()[6] & 8
    assert verify_archive(tmp_path / "stream.zip").global_step == 10


def test_archive_with_zip64_members_is_accepted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        for name, data in members().items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    assert verify_archive(tmp_path / "large.zip").rank == 2


def test_archive_with_a_zip64_end_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "large.zip").write_bytes(zip64(*truth()))
    assert verify_archive(tmp_path / "large.zip").rank == 2


def test_member_with_zip64_sizes_is_read(tmp_path: Path) -> None:
    data = lora_bytes(pair())
    wide = struct.pack("<2H2Q", 1, 16, len(data), len(data))
    entry = Raw(name=WEIGHTS.encode(), data=data, size=0xFFFFFFFF, packed_size=0xFFFFFFFF, extra=wide, version=45)
    (tmp_path / "large.zip").write_bytes(raw_zip(entry))
    assert verify_archive(tmp_path / "large.zip").rank == 2


def test_archive_without_weights_opens_and_verify_says_so(tmp_path: Path) -> None:
    archive = LoraArchive.open(write_zip(tmp_path / "mock.zip", {"global_step.txt": b"5", "FINISH": b""}))
    assert archive.finished
    with pytest.raises(ArchiveError, match=f"holds no {WEIGHTS}, only FINISH, global_step.txt: no LoRA came out"):
        archive.verify()


@pytest.mark.parametrize("text", [b"", b" ", b"ten", b"-1", b"1.5", b"0x10", b"1_0", b"9" * 19, b"\xd9\xa1"])
def test_step_that_is_no_number_is_refused(refused: Callable[..., str], text: bytes) -> None:
    files = members(step=None)
    entries = [Raw(name=name.encode(), data=data) for name, data in files.items()]
    refused(raw_zip(*entries, Raw(name=b"global_step.txt", data=text)), r"global_step\.txt")


def test_step_with_a_line_end_is_read(opened: Callable[..., LoraArchive]) -> None:
    assert opened(step="120\n").global_step == 120


def test_archive_without_a_step_has_none(opened: Callable[..., LoraArchive]) -> None:
    assert opened(step=None).verify().global_step is None


def test_target_modules_of_both_naming_styles_are_named_as_in_a_config(opened: Callable[..., LoraArchive]) -> None:
    block = "down_blocks.1.attentions.0"
    names = {
        "conv_in": "conv_in",
        "time_embedding.linear_1": "time_embedding.linear_1",
        f"{block}.proj_in": "proj_in",
        f"{block}.transformer_blocks.0.ff.net.0.proj": "ff.net.0.proj",
        f"{block}.transformer_blocks.0.attn2.to_out.0": "to_out.0",
        "down_blocks.1.resnets.0.conv1": "conv1",
        "down_blocks.1.resnets.1.time_emb_proj": "time_emb_proj",
        "up_blocks.0.upsamplers.0.conv": "conv",
    }
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= pair(name, style="lora_A lora_B" if "attn" not in name else "lora.down lora.up")
    archive = opened(tensors)
    assert {name: module.target for name, module in archive.modules.items()} == names
    assert archive.blocks == ("conv_in", "down_blocks.1", "time_embedding", "up_blocks.0")


def test_rank_and_dtype_that_differ_are_none(opened: Callable[..., LoraArchive]) -> None:
    archive = opened({**pair("conv_in"), **pair("conv_out", rank=1, dtype="BF16")})
    assert (archive.rank, archive.dtype) == (None, None)
    assert {name: module.rank for name, module in archive.modules.items()} == {"conv_in": 2, "conv_out": 1}


def test_mappings_of_an_archive_cannot_be_changed() -> None:
    archive = LoraArchive.open(RESULT)
    for mapping in (archive.members, archive.tensors, archive.modules):
        with pytest.raises(TypeError):
            mapping["new"] = None  # type: ignore[index]


NUMBERS = (1.0, -2.0, 3.5, -0.0, 0.25, 65280.0)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_tensor_of_every_dtype_is_float32_in_its_shape(opened: Callable[..., LoraArchive], dtype: str) -> None:
    np = pytest.importorskip("numpy")
    array = opened(pair(dtype=dtype, down=NUMBERS)).tensor(DOWN)
    assert (array.dtype, array.shape) == (np.float32, (2, 3))
    assert array.ravel().tolist() == list(NUMBERS)
    array[0, 0] = 5.0


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_tensors_in_any_order_and_from_many_threads_are_right(tmp_path: Path, method: int) -> None:
    np = pytest.importorskip("numpy")
    with zipfile.ZipFile(RESULT) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    again = LoraArchive.open(write_zip(tmp_path / "again.zip", files, method))
    expected = dict(LoraArchive.open(RESULT).arrays())
    names = [*expected, *reversed(expected)]
    random.Random(5).shuffle(names)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(again.tensor, names))
    assert all(np.array_equal(array, expected[name]) for name, array in zip(names, found, strict=True))


def test_tensor_with_an_unknown_name_raises_archive_error() -> None:
    pytest.importorskip("numpy")
    with pytest.raises(ArchiveError, match=r"holds no tensor named 'unet\.nothing'"):
        LoraArchive.open(RESULT).tensor("unet.nothing")


def test_arrays_larger_than_one_piece_are_whole(opened: Callable[..., LoraArchive]) -> None:
    np = pytest.importorskip("numpy")
    down = np.arange(700_000, dtype="<f4").reshape(2, -1)
    tensors = {
        "unet.conv_in.lora_A.weight": ("F32", [2, 350_000], down.tobytes()),
        "unet.conv_in.lora_B.weight": ("F32", [1, 2], f32(1, 2)),
    }
    found = dict(opened(tensors).arrays())
    assert np.array_equal(found["unet.conv_in.lora_A.weight"], down)
    assert found["unet.conv_in.lora_B.weight"].tolist() == [[1, 2]]


@pytest.fixture
def without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)


@pytest.mark.usefixtures("without_numpy")
def test_everything_but_arrays_works_without_numpy(tmp_path: Path) -> None:
    archive = LoraArchive.open(RESULT)
    archive.verify()
    assert archive.health().ok
    archive.export(tmp_path / "out.safetensors")


@pytest.mark.usefixtures("without_numpy")
@pytest.mark.parametrize(
    "call",
    [lambda a: a.tensor(DOWN), lambda a: next(a.arrays()), lambda a: a.norms()],
    ids=["tensor", "arrays", "norms"],
)
def test_arrays_without_numpy_raise_usage_error(call: Callable[[LoraArchive], object]) -> None:
    with pytest.raises(UsageError, match="needs numpy"):
        call(LoraArchive.open(RESULT))


def test_open_in_many_threads_at_once_reads_one_header() -> None:
    archive = LoraArchive.open(RESULT)
    gate = threading.Barrier(4)

    def ask(_: int) -> object:
        gate.wait()
        return archive.tensors

    with ThreadPoolExecutor(4) as pool:
        first, *rest = pool.map(ask, range(4))
    assert all(found is first for found in rest)
