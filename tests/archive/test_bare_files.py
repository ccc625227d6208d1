"""LoRAs in bare safetensors files: those of this library, of diffusers, of peft and of kohya's scripts."""

import json
import struct
import tracemalloc
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import LoraArchive, verify_archive
from crynux_async.archive.naming import alpha_name, halves, kohya_name, path_of
from crynux_async.errors import ArchiveError
from tests.archive.test_naming import recorded
from tests.archive_files import ALL_FOUR, RESULT, Tensor, bf16, f16, f32, lora_bytes, of_kinds, pair

np = pytest.importorskip("numpy")

MODULE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
ENCODER = "text_encoder.text_model.encoder.layers.11.self_attn.out_proj"


def write(path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Path:
    entries: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    path.write_bytes(lora_bytes(tensors, entries))
    return path


def kohya(alpha: Tensor, *modules: str) -> dict[str, Tensor]:
    """Sorted by name, as safetensors' own writer leaves them: the alpha before its pair."""
    tensors: dict[str, Tensor] = {}
    for module in modules:
        down, up = pair().values()
        names = halves(module, "kohya")
        tensors |= {alpha_name(module): alpha, names[0]: down, names[1]: up}
    return tensors


def test_every_name_of_the_kohya_layout_is_read_back() -> None:
    assert {path: path_of(kohya_name(path)) for path in recorded()} == {path: path for path in recorded()}
    assert path_of(kohya_name(ENCODER)) == ENCODER


@pytest.mark.parametrize(
    "name", ["lora_unet_", "lora_unet_conv", "lora_te1_text_model", "unet.conv_in", "", "lora_te_x"]
)
def test_what_is_no_name_of_the_kohya_layout_is_none(name: str) -> None:
    assert path_of(name) is None


@pytest.mark.parametrize(
    ("program", "kind"),
    [("all", "kohya"), ("comfyui", "kohya"), ("a1111", "kohya"), ("kohya", "kohya"), ("diffusers", "diffusers")],
)
def test_exported_file_is_read_as_the_lora_that_it_came_from(tmp_path: Path, program: Any, kind: str) -> None:
    archive = LoraArchive.open(RESULT)
    again = LoraArchive.open(archive.export(tmp_path / "out.safetensors", program=program, base_model="a/b"))
    assert (again.is_bare, again.kind, again.verify().kind) == (True, kind, kind)
    assert again.modules.keys() == archive.modules.keys()
    assert (again.rank, again.dtype, again.global_step) == (archive.rank, archive.dtype, archive.global_step)
    assert again.norms() == archive.norms()
    assert again.metadata["base_model"] == "a/b"
    assert again.health().ok
    for name, module in archive.modules.items():
        assert np.array_equal(archive.tensor(module.down), again.tensor(again.modules[name].down))


def test_exported_file_exported_again_is_the_same(tmp_path: Path) -> None:
    first = LoraArchive.open(RESULT).export(tmp_path / "a.safetensors")
    there = LoraArchive.open(first).export(tmp_path / "b.safetensors", program="diffusers")
    back = LoraArchive.open(there).export(tmp_path / "c.safetensors")
    assert back.read_bytes() == first.read_bytes()


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (("F32", [], f32(1.0)), 1.0),
        (("F16", [], f16(0.5)), 0.5),
        (("BF16", [], bf16(8.0)), 8.0),
        (("F32", [1], f32(4.0)), 4.0),
    ],
    ids=str,
)
def test_alpha_of_a_file_of_kohya_counts(tmp_path: Path, alpha: Tensor, expected: float) -> None:
    # What the header says of several alphas at once counts less than the alphas themselves.
    path = write(tmp_path / "a.safetensors", kohya(alpha, MODULE, ENCODER), ss_network_alpha="1,2", ss_steps="300")
    archive = LoraArchive.open(path)
    assert [module.alpha for module in archive.modules.values()] == [expected, expected]
    assert list(archive.modules) == [MODULE, ENCODER]
    assert len(archive.tensors) == 4
    assert archive.global_step == 300
    plain = LoraArchive.open(write(tmp_path / "b.safetensors", pair())).norms().total
    assert archive.norms().modules[MODULE] == pytest.approx(plain * expected / 2)


def test_modules_of_a_text_encoder_keep_their_prefix(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", kohya(("F32", [], f32(2.0)), ENCODER))
    archive = LoraArchive.open(source)
    assert archive.blocks == ("text_encoder",)
    names = LoraArchive.open(archive.export(tmp_path / "b.safetensors", program="diffusers")).tensors
    assert tuple(names) == halves(ENCODER, "diffusers")


def test_tensors_in_any_order_have_norms(tmp_path: Path) -> None:
    tensors = of_kinds(*ALL_FOUR)
    apart = dict(sorted(tensors.items(), key=lambda item: item[0].endswith("lora.up.weight")))
    archive = LoraArchive.open(write(tmp_path / "a.safetensors", apart))
    assert archive.norms().total == pytest.approx(
        2 * LoraArchive.open(write(tmp_path / "b.safetensors", pair())).norms().total
    )


def sparse(path: Path, rank: int, features: int) -> LoraArchive:
    """A file of zeros, which takes no room on the disk, with one layer that is as wide as it is high."""
    size = 4 * rank * features
    names = dict(zip(halves(MODULE, "diffusers"), ([rank, features], [features, rank]), strict=True))
    entries = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + size]}
        for begin, (name, shape) in zip((0, size), names.items(), strict=True)
    }
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2 * size)
    return LoraArchive.open(path)


def test_norms_of_a_large_module_take_a_bounded_amount_of_memory(tmp_path: Path) -> None:
    archive = sparse(tmp_path / "a.safetensors", 2, 1 << 22)
    tracemalloc.start()
    try:
        assert archive.norms().total == 0.0
        assert tracemalloc.get_traced_memory()[1] < 56 * 2**20
    finally:
        tracemalloc.stop()


def test_norms_of_a_rank_that_nobody_trains_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"norms\(\) is for ranks up to 1024"):
        sparse(tmp_path / "a.safetensors", 1025, 4).norms()


def adapter(**fields: Any) -> str:
    return json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q"], **fields})


@pytest.mark.parametrize(("fields", "alpha"), [({}, 4.0), ({"use_rslora": True}, 4 * 2**0.5)], ids=str)
def test_adapter_of_peft_has_its_alpha_beside_it(tmp_path: Path, fields: dict[str, Any], alpha: float) -> None:
    tensors = {name.replace("unet.", "base_model.model."): each for name, each in pair(style="lora_A lora_B").items()}
    path = write(tmp_path / "adapter_model.safetensors", tensors)
    with pytest.raises(ArchiveError, match=r"adapter_config\.json: cannot be read"):
        LoraArchive.open(path).verify()
    (tmp_path / "adapter_config.json").write_text(adapter(**fields))
    archive = LoraArchive.open(path)
    assert (archive.kind, list(archive.modules)) == ("peft", [MODULE])
    assert archive.modules[MODULE].alpha == pytest.approx(alpha)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "a whole checkpoint"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "Stable Diffusion XL"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "Stable Diffusion XL"),
        ("lora_unet_double_blocks_0_img_mod_lin.lora_down.weight", "Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight", "transformer"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "DoRA"),
        ("lora_unet_mid_block_resnets_0_conv1.lora_mid.weight", "LoCon"),
        ("emb_params", "textual inversion"),
        ("down_blocks.0.resnets.0.conv1.weight", "a whole UNet"),
    ],
)
def test_file_of_another_kind_is_said_to_be_one(tmp_path: Path, name: str, what: str) -> None:
    path = write(tmp_path / "a.safetensors", {name: ("F32", [1, 2], f32(1, 2))})
    with pytest.raises(ArchiveError, match=what):
        LoraArchive.open(path).verify()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "0 bytes long"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>", "a web page"),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
        (b'{"error": "Unauthorized"}', "a text in JSON"),
        (b"\x80\x02}q\0", "a pickle"),
        (b"Rar!\x1a\x07\0", "RAR"),
        (b"PK\3\4", "too short for a ZIP"),
        (b"something else that is long enough", "end record of a ZIP"),
    ],
)
def test_file_that_is_neither_archive_nor_safetensors_is_said_to_be_what_it_is(
    tmp_path: Path, data: bytes, what: str
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=what):
        LoraArchive.open(path)


def test_zip_without_a_training_names_a_few_of_its_files(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "cats.zip", "w") as archive:
        for number in range(60):
            archive.writestr(f"{number:04}.png", b"x")
    with pytest.raises(ArchiveError, match=r"0007\.png and 52 more: it is not the result of a training$"):
        LoraArchive.open(tmp_path / "cats.zip").verify()


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (kohya(("F32", [], f32(0.0)), MODULE), "must be a number above 0"),
        (kohya(("F32", [], struct.pack("<I", 0x7FC00000)), MODULE), "must be a number above 0"),
        (kohya(("F32", [1, 1], f32(1.0)), MODULE), "should be one number"),
        ({alpha_name(ENCODER): ("F32", [], f32(1.0)), **pair()}, "belong to no module"),
        ({**pair(), halves(MODULE, "kohya")[0]: next(iter(pair().values()))}, "both naming styles"),
        ({"a.alpha": ("F32", [], f32(1.0)), **pair()}, "not part of a UNet LoRA"),
        ({next(iter(pair())): ("F32", [], f32(1.0)), list(pair())[1]: list(pair().values())[1]}, "not a matrix"),
    ],
    ids=str,
)
def test_file_that_is_not_right_is_refused(tmp_path: Path, tensors: Mapping[str, Tensor], match: str) -> None:
    with pytest.raises(ArchiveError, match=match):
        LoraArchive.open(write(tmp_path / "a.safetensors", tensors)).verify()


def test_bare_file_in_place_of_an_archive_is_not_what_was_paid_for(tmp_path: Path) -> None:
    path = LoraArchive.open(RESULT).export(tmp_path / "17.zip")
    with pytest.raises(ArchiveError, match="no archive of a node"):
        verify_archive(path)


def test_bare_file_that_is_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    archive = LoraArchive.open(write(tmp_path / "a.safetensors", pair()))
    write(tmp_path / "a.safetensors", pair(), note="another")
    with pytest.raises(ArchiveError, match="changed or replaced"):
        archive.verify()


@pytest.mark.parametrize("cut", [1, 100])
def test_bare_file_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = LoraArchive.open(RESULT).export(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ArchiveError, match="bytes and"):
        LoraArchive.open(path).verify()


def texts_after_export(path: Path, tmp_path: Path, **given: Any) -> Mapping[str, str]:
    out = LoraArchive.open(path).export(tmp_path / "again.safetensors", overwrite=True, **given)
    return LoraArchive.open(out).metadata


@pytest.mark.parametrize("program", ["all", "diffusers"])
def test_what_a_file_says_of_its_training_is_kept_when_it_is_exported_again(tmp_path: Path, program: Any) -> None:
    given: Any = {"base_model": "a/b", "trigger": "sks cat", "digest": "d" * 64, "config": {"learning_rate": 1e-4}}
    first = LoraArchive.open(RESULT).export(tmp_path / "a.safetensors", **given)
    said = LoraArchive.open(first).metadata
    assert texts_after_export(first, tmp_path, program=program) == said


def test_words_of_other_programs_are_kept_and_those_about_other_bytes_are_not(tmp_path: Path) -> None:
    kept = {
        "ss_tag_frequency": '{"10_x":{"sks":10}}',
        "ss_sd_model_name": "v1-5.safetensors",
        "ss_v2": "True",  # of which these widths tell nothing
        "modelspec.title": "mine",
    }
    stale = {"sshs_model_hash": "0", "modelspec.hash_sha256": "0", "ss_network_dim": "64", "lora_alpha": "3"}
    path = write(tmp_path / "a.safetensors", kohya(("F32", [], f32(1.0)), MODULE), **kept, **stale)
    found = texts_after_export(path, tmp_path)
    assert {key: found[key] for key in kept} == kept
    assert (found["ss_network_dim"], found["ss_network_alpha"], found["alpha"]) == ("2", "1", "1")
    assert not {"sshs_model_hash", "modelspec.hash_sha256", "lora_alpha"} & found.keys()


def test_what_is_given_counts_before_what_a_file_said(tmp_path: Path) -> None:
    first = LoraArchive.open(RESULT).export(tmp_path / "a.safetensors", base_model="a/b", trigger="cat")
    found = texts_after_export(first, tmp_path, base_model="c/d", trigger="dog", metadata={"rank": "mine"})
    assert (found["base_model"], found["ss_sd_model_name"], found["trigger"], found["rank"]) == (
        *("c/d", "c/d", "dog"),
        "mine",
    )
    assert json.loads(found["ss_tag_frequency"]) == {"trigger": {"dog": 1}}


def test_modules_of_a_text_encoder_are_named_by_their_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", kohya(("F32", [], f32(2.0)), MODULE, ENCODER))
    assert LoraArchive.open(path).target_modules == ("self_attn.out_proj", "to_q")


def test_text_encoder_with_an_alpha_is_not_exported_for_diffusers_alone(tmp_path: Path) -> None:
    # diffusers reads adapter metadata for each part, and gives a part without any the defaults of peft: rank 8.
    path = write(tmp_path / "a.safetensors", kohya(("F32", [], f32(1.0)), MODULE, ENCODER))
    with pytest.raises(ArchiveError, match=r'text encoder has an alpha.* export it for "all"'):
        LoraArchive.open(path).export(tmp_path / "b.safetensors", program="diffusers")
    assert not (tmp_path / "b.safetensors").exists()
    LoraArchive.open(path).export(tmp_path / "b.safetensors")


def both(path: Path, config: Mapping[str, Any]) -> LoraArchive:
    """A file of diffusers with a layer of the UNet and one of the text encoder, both of rank 2."""
    tensors: dict[str, Tensor] = {}
    for module in (MODULE, ENCODER):
        tensors |= dict(zip(halves(module, "diffusers"), pair().values(), strict=True))
    return LoraArchive.open(write(path, tensors, lora_adapter_metadata=json.dumps(config)))


def test_text_encoder_has_the_alpha_that_is_said_of_it(tmp_path: Path) -> None:
    unet, encoder = {"unet.r": 2, "unet.lora_alpha": 8}, {"text_encoder.r": 2, "text_encoder.lora_alpha": 16}
    archive = both(tmp_path / "a.safetensors", unet | encoder)
    assert {name: module.alpha for name, module in archive.modules.items()} == {MODULE: 8.0, ENCODER: 16.0}
    pattern = {"text_encoder.alpha_pattern": {"^text_model.encoder.layers.11.self_attn.out_proj": 3}}
    archive = both(tmp_path / "b.safetensors", unet | encoder | pattern | {"text_encoder.use_rslora": True})
    assert archive.modules[ENCODER].alpha == pytest.approx(3 * 2**0.5)
    plain = both(tmp_path / "c.safetensors", {"r": 2, "lora_alpha": 8})
    assert [module.alpha for module in plain.modules.values()] == [8.0, 8.0]


def test_text_encoder_of_which_nothing_is_said_is_refused(tmp_path: Path) -> None:
    archive = both(tmp_path / "a.safetensors", {"unet.r": 2, "unet.lora_alpha": 8})
    with pytest.raises(ArchiveError, match="does not say an alpha of the text_encoder"):
        archive.norms()


def test_tensor_that_is_refused_is_named_as_the_file_has_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"model.diffusion_model.x": ("F32", [1], f32(1.0))})
    with pytest.raises(ArchiveError, match=r"the tensor 'model\.diffusion_model\.x' is not part"):
        LoraArchive.open(path).verify()
