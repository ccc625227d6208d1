import contextlib
import functools
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import LoraArchive, safetensors
from crynux_async.errors import ArchiveError, UsageError
from tests.archive_files import (
    ALL_FOUR,
    RESULT,
    WEIGHTS,
    Raw,
    f32,
    lora_bytes,
    members,
    of_kinds,
    open_with,
    pair,
    raw_zip,
    write_zip,
)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., LoraArchive]:
    return functools.partial(open_with, tmp_path)


PROGRAMS = ("all", "diffusers", "comfyui", "a1111", "kohya")

MIXED = {
    **pair("down_blocks.0.attentions.0.proj_in", style="lora_A lora_B"),
    **pair("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"),
    **pair("down_blocks.0.resnets.0.conv1", style="lora_A lora_B", down=[0.5] * 18, kernel=(3, 3)),
}


def exported(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read an exported file by the format's words alone: header, and bytes by tensor."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    infos = {name: info for name, info in header.items() if name != "__metadata__"}
    assert max(info["data_offsets"][1] for info in infos.values()) == len(data)
    return header, {name: data[slice(*info["data_offsets"])] for name, info in infos.items()}


def test_export_for_diffusers_of_mixed_names_has_one_layout_and_every_byte(
    opened: Callable[..., LoraArchive], tmp_path: Path
) -> None:
    archive = opened(MIXED)
    header, data = exported(archive.export(tmp_path / "out.safetensors", program="diffusers"))
    expected = {
        name.replace("lora.down", "lora_A").replace("lora.up", "lora_B"): tensor for name, tensor in MIXED.items()
    }
    assert data == {name: content for name, (_, _, content) in expected.items()}
    for name, (dtype, shape, _) in expected.items():
        assert (header[name]["dtype"], header[name]["shape"]) == (dtype, shape)


def test_export_of_a_real_archive_loads_with_safetensors(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    reference = pytest.importorskip("safetensors.numpy")
    archive = LoraArchive.open(RESULT)
    found = reference.load_file(archive.export(tmp_path / "out.safetensors", program="diffusers"))
    assert len(found) == 256
    for name, array in archive.arrays():
        renamed = name.replace("lora.down", "lora_A").replace("lora.up", "lora_B")
        assert np.array_equal(found[renamed], array)


def test_export_is_read_again_as_the_same_lora(tmp_path: Path) -> None:
    archive = LoraArchive.open(RESULT)
    path = archive.export(tmp_path / "out.safetensors", program="diffusers")
    again = LoraArchive.open(write_zip(tmp_path / "again.zip", {**members(), WEIGHTS: path.read_bytes()}))
    assert again.modules.keys() == archive.modules.keys()
    assert [info.shape for info in again.tensors.values()] == [info.shape for info in archive.tensors.values()]
    assert again.verify().parameters == archive.verify().parameters
    assert again.health().ok


@pytest.mark.parametrize("program", ["all", "comfyui", "a1111", "kohya"])
def test_export_for_all_but_diffusers_has_names_of_kohya_and_alphas(
    opened: Callable[..., LoraArchive], tmp_path: Path, program: Any
) -> None:
    header, data = exported(opened(MIXED).export(tmp_path / "out.safetensors", program=program))
    expected: dict[str, bytes] = {}
    for name, (_, _, content) in MIXED.items():
        module, half = name.removeprefix("unet.").removesuffix(".weight").rsplit(".lora", 1)
        key = f"lora_unet_{module.replace('.', '_')}"
        expected[f"{key}.{'lora_down' if half in ('_A', '.down') else 'lora_up'}.weight"] = content
        expected[f"{key}.alpha"] = f32(2.0)
    assert data == expected
    assert header["lora_unet_down_blocks_0_attentions_0_proj_in.alpha"]["shape"] == []
    assert header["__metadata__"]["ss_network_dim"] == "2"


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_export_of_any_dtype_loads_with_safetensors(
    opened: Callable[..., LoraArchive], tmp_path: Path, dtype: str
) -> None:
    safe_open = pytest.importorskip("safetensors").safe_open
    pytest.importorskip("numpy")
    path = opened(pair("conv_in", dtype=dtype, rank=1, down=(1, 2), up=(3,))).export(
        tmp_path / "out", program="comfyui"
    )
    with safe_open(path, "numpy") as file:
        assert file.get_tensor("lora_unet_conv_in.alpha").tolist() == 1.0
        assert file.get_slice("lora_unet_conv_in.lora_down.weight").get_shape() == [1, 2]


def test_export_describes_what_was_trained(opened: Callable[..., LoraArchive], tmp_path: Path) -> None:
    header, _ = exported(
        opened(of_kinds(*ALL_FOUR)).export(
            tmp_path / "out.safetensors",
            base_model="runwayml/stable-diffusion-v1-5",
            config={"rank": 2, "learning_rate": 1e-4, "caption": "häuser"},
            digest="sha256:00ff",
            metadata={"note": "größer", "rank": "two"},
        )
    )
    metadata = header["__metadata__"]
    training = metadata.pop("training_config")
    assert json.loads(training) == {"rank": 2, "learning_rate": 1e-4, "caption": "häuser"}
    own = {key: text for key, text in metadata.items() if not key.startswith(("ss_", "modelspec."))}
    assert own == {
        "format": "pt",
        "base_model": "runwayml/stable-diffusion-v1-5",
        "rank": "two",
        "alpha": "2",
        "target_modules": '["to_k","to_out.0","to_q","to_v"]',
        "global_step": "10",
        "config_digest": "sha256:00ff",
        "note": "größer",
    }


@pytest.mark.parametrize("program", PROGRAMS)
def test_export_twice_gives_the_same_bytes(tmp_path: Path, program: Any) -> None:
    first, second = ({"b": 1, "a": 2}, {"a": 2, "b": 1})
    one = LoraArchive.open(RESULT).export(tmp_path / "one", program=program, config=first)
    two = LoraArchive.open(RESULT).export(tmp_path / "two", program=program, config=second)
    assert one.read_bytes() == two.read_bytes()


def test_export_onto_a_file_refuses_and_leaves_it(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_text("precious")
    with pytest.raises(ArchiveError, match="is there already"):
        LoraArchive.open(RESULT).export(target)
    assert target.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_export_onto_a_dangling_link_refuses(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveError, match="is there already"):
        LoraArchive.open(RESULT).export(target)
    assert list(tmp_path.iterdir()) == [target]


def test_export_onto_a_file_replaces_it_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_text("old")
    LoraArchive.open(RESULT).export(target, overwrite=True)
    assert len(exported(target)[1]) == 384
    assert list(tmp_path.iterdir()) == [target]


def test_export_never_replaces_a_file_that_appears_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.safetensors"
    sync = os.fsync

    def appear(descriptor: int) -> None:
        sync(descriptor)
        target.write_text("precious")

    monkeypatch.setattr(os, "fsync", appear)
    with pytest.raises(ArchiveError, match="is there already"):
        LoraArchive.open(RESULT).export(target)
    assert target.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [target]


def test_export_where_hard_links_are_not_known_still_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    target = LoraArchive.open(RESULT).export(tmp_path / "out.safetensors")
    assert len(exported(target)[1]) == 384
    assert list(tmp_path.iterdir()) == [target]


def test_export_syncs_the_file_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.safetensors"
    seen: list[tuple[bool, bool]] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), target.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    LoraArchive.open(RESULT).export(target)
    assert seen == [(False, False), (True, True)]


def test_export_of_damaged_weights_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "damaged.zip"
    path.write_bytes(raw_zip(Raw(name=WEIGHTS.encode(), data=lora_bytes(pair()), crc=1)))
    with pytest.raises(ArchiveError, match=r"damaged\.zip: .*CRC-32"):
        LoraArchive.open(path).export(tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == [path]


def test_export_into_a_missing_folder_raises_archive_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"out\.safetensors: No such file"):
        LoraArchive.open(RESULT).export(tmp_path / "none" / "out.safetensors")


def test_export_where_the_disk_cannot_take_it_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArchiveError, match="is full, out cannot be written"):
        LoraArchive.open(RESULT).export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        yield
    finally:  # at once: between a test and its teardown pytest writes, maybe to a file
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_export_that_cannot_be_written_to_its_end_leaves_no_file(tmp_path: Path) -> None:
    with small_files(), pytest.raises(ArchiveError, match="out: File too large"):
        LoraArchive.open(RESULT).export(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_export_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    target = LoraArchive.open(RESULT).export(tmp_path / "out.safetensors")
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_export_for_an_unknown_program_raises_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no program 'webui' to export for"):
        LoraArchive.open(RESULT).export(tmp_path / "out", program="webui")  # type: ignore[arg-type]


def test_export_of_different_ranks_is_not_for_diffusers(opened: Callable[..., LoraArchive], tmp_path: Path) -> None:
    archive = opened({**pair("conv_in"), **pair("conv_out", rank=1)})
    with pytest.raises(ArchiveError, match=r"different ranks \(1, 2\)"):
        archive.export(tmp_path / "out", program="diffusers")
    with pytest.raises(ArchiveError, match=r"different alphas \(1, 2\), and diffusers would scale"):
        archive.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    _, data = exported(archive.export(tmp_path / "out", program="comfyui"))
    assert (data["lora_unet_conv_in.alpha"], data["lora_unet_conv_out.alpha"]) == (f32(2), f32(1))


def test_export_refuses_names_that_would_be_one(opened: Callable[..., LoraArchive], tmp_path: Path) -> None:
    archive = opened({**pair("a.b_c"), **pair("a_b.c")})
    with pytest.raises(ArchiveError, match="one name in this file"):
        archive.export(tmp_path / "out", program="comfyui")
    assert not (tmp_path / "out").exists()


# What the format's own library reads

TEXTS = {"epoch": "3", "note": "größer \U0001f431 \u2028", "quote": '"}, {"\\', "empty": "", "": "no key", "nul": "\0"}


@pytest.mark.parametrize("program", PROGRAMS)
def test_export_with_any_text_in_its_metadata_is_read_by_safetensors(tmp_path: Path, program: Any) -> None:
    safe_open = pytest.importorskip("safetensors").safe_open
    path = LoraArchive.open(RESULT).export(tmp_path / "out.safetensors", program=program, metadata=TEXTS)
    with safe_open(path, "numpy") as file:
        found = file.metadata()
        assert len(file.keys()) == (256 if program == "diffusers" else 384)
    assert {key: found[key] for key in TEXTS} == TEXTS


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"metadata": {"epoch": 3}}, "metadata"),
        ({"metadata": {"loss": 0.5}}, "metadata"),
        ({"metadata": {"note": None}}, "metadata"),
        ({"metadata": {3: "epoch"}}, "metadata"),
        ({"metadata": {"note": b"bytes"}}, "metadata"),
        ({"metadata": {"note": ["a", "b"]}}, "metadata"),
        ({"metadata": {"note": "\ud800"}}, "metadata"),
        ({"metadata": {"\udfff": "note"}}, "metadata"),
        ({"metadata": [("note", "text")]}, "metadata"),
        ({"metadata": "note"}, "metadata"),
        ({"base_model": 15}, "base_model"),
        ({"base_model": "\ud800"}, "base_model"),
        ({"trigger": ["sks dog"]}, "trigger"),
        ({"trigger": "\ud800"}, "trigger"),
        ({"digest": b"00ff"}, "digest"),
        ({"config": {"learning_rate": float("nan")}}, "config"),
        ({"config": {"learning_rate": float("inf")}}, "config"),
        ({"config": {"path": Path()}}, "config"),
    ],
    ids=str,
)
def test_export_of_what_a_header_cannot_hold_is_a_typed_error_before_anything_is_written(
    tmp_path: Path, given: dict[str, Any], field: str
) -> None:
    with pytest.raises(UsageError) as caught:
        LoraArchive.open(RESULT).export(tmp_path / "out.safetensors", **given)
    assert caught.value.field == field
    assert list(tmp_path.iterdir()) == []


def test_export_of_a_config_that_holds_itself_is_a_typed_error(tmp_path: Path) -> None:
    config: dict[str, Any] = {"rank": 2}
    config["config"] = config
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        LoraArchive.open(RESULT).export(tmp_path / "out.safetensors", config=config)


def test_export_with_a_header_longer_than_safetensors_reads_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1_000_000
    monkeypatch.setattr(safetensors, "MOST_HEADER_BYTES", limit)
    archive = LoraArchive.open(RESULT)
    archive.export(tmp_path / "fits.safetensors", metadata={"note": "x" * 900_000})
    with pytest.raises(ArchiveError, match=f"the header would be .* bytes long, and {limit} are read at most"):
        archive.export(tmp_path / "out.safetensors", metadata={"note": "x" * limit})
    assert [path.name for path in tmp_path.iterdir()] == ["fits.safetensors"]
