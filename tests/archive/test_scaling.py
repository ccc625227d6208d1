"""Files whose header says an alpha: norms, exports, and what is refused because it is not understood."""

import functools
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import LoraArchive
from crynux_async.errors import ArchiveError
from tests.archive.test_export import exported
from tests.archive_files import WEIGHTS, Tensor, lora_bytes, members, of_kinds, pair, write_zip

TENSORS = of_kinds("to_k", "to_q")
KEY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"


def config(**fields: Any) -> dict[str, Any]:
    """What peft 0.19 says of a LoRA that is nothing special, with other fields where they are given."""
    usual = {
        "alora_invocation_tokens": None,
        "alpha_pattern": {},
        "arrow_config": None,
        "base_model_name_or_path": None,
        "bias": "none",
        "corda_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": False,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 8,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "peft_version": "0.19.1",
        "qalora_group_size": 16,
        "r": 2,
        "rank_pattern": {},
        "revision": None,
        "target_modules": ["to_k", "to_q"],
        "task_type": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    }
    return usual | fields


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., LoraArchive]:
    def open_with(metadata: dict[str, str], tensors: dict[str, Tensor] = TENSORS) -> LoraArchive:
        raw = lora_bytes(tensors)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        data = lora_bytes(tensors, {**header, "__metadata__": {"format": "pt", **metadata}})
        return LoraArchive.open(write_zip(tmp_path / "peft.zip", {**members(), WEIGHTS: data}))

    return open_with


def adapter(prefix: str = "unet.", **fields: Any) -> dict[str, str]:
    return {"lora_adapter_metadata": json.dumps({f"{prefix}{key}": value for key, value in config(**fields).items()})}


def alphas(archive: LoraArchive) -> list[float]:
    return [module.alpha for module in archive.modules.values()]


def test_node_says_nothing_and_means_the_rank(opened: Callable[..., LoraArchive]) -> None:
    archive = opened({})
    assert alphas(archive) == [2.0, 2.0]
    assert [module.scale for module in archive.modules.values()] == [1.0, 1.0]


@pytest.mark.parametrize("prefix", ["unet.", ""])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [8, 8]),
        ({"lora_alpha": 0.5}, [0.5, 0.5]),
        ({"use_rslora": True}, [8 * math.sqrt(2), 8 * math.sqrt(2)]),
        ({"alpha_pattern": {"to_k": 3}}, [3, 8]),
        ({"alpha_pattern": {KEY: 3, "to_q": 5}}, [3, 5]),
        ({"alpha_pattern": {f"^{KEY}": 3, "^to_q": 5}}, [3, 8]),
        ({"alpha_pattern": {"o_k": 3}}, [8, 8]),
        ({"alpha_pattern": {"to_k": 3}, "use_rslora": True}, [3 * math.sqrt(2), 8 * math.sqrt(2)]),
        ({"r": 16, "rank_pattern": {"attn1.to_k": 2, "to_q": 2}}, [8, 8]),
    ],
    ids=str,
)
def test_alpha_is_what_the_adapter_metadata_says(
    opened: Callable[..., LoraArchive], prefix: str, fields: dict[str, Any], expected: list[float]
) -> None:
    assert alphas(opened(adapter(prefix, **fields))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        (adapter(use_dora=True), "use_dora on"),
        (adapter(lora_bias=True), "lora_bias on"),
        (adapter(use_qalora=True, fan_in_fan_out=True), "use_qalora, fan_in_fan_out on"),
        (adapter(layer_replication=[[0, 4]]), "layer_replication on"),
        (adapter(bias="all"), "bias"),
        (adapter(lora_alpha=None), "lora_alpha in the header is None"),
        (adapter(lora_alpha=0), "must be a number above 0"),
        (adapter(lora_alpha=-1), "must be a number above 0"),
        (adapter(lora_alpha=True), "must be a number above 0"),
        (adapter(lora_alpha="8"), "must be a number above 0"),
        (adapter(lora_alpha=math.inf), "must be a number above 0"),
        (adapter(lora_alpha=math.nan), "must be a number above 0"),
        (adapter(alpha_pattern={r"(a+)+$": 3}), "not understood here"),
        (adapter(alpha_pattern={"to_k": "3"}), "must be a number above 0"),
        (adapter(alpha_pattern=["to_k"]), "not understood here"),
        (adapter(use_rslora="yes"), "use_rslora in the header is yes"),
        (adapter(r=4), "says that .* has rank 4, and it has 2"),
        (adapter(rank_pattern={"to_k": 4}), "says that .*to_k has rank 4, and it has 2"),
        (adapter(r=2.5), "must be whole"),
        ({"lora_adapter_metadata": json.dumps({"unet.r": 2})}, "does not say an alpha"),
        ({"lora_adapter_metadata": json.dumps([8])}, "not understood here"),
        ({"lora_adapter_metadata": "{"}, "is not JSON"),
        ({"lora_adapter_metadata": "[" * 60_000}, "nested too deeply"),
        ({"ss_network_alpha": "None"}, "must be a number above 0"),
        ({"ss_network_alpha": "4", "alpha": "8"}, "several alphas: 4, 8"),
    ],
    ids=str,
)
def test_what_is_said_and_not_understood_is_refused(
    opened: Callable[..., LoraArchive], metadata: dict[str, str], match: str
) -> None:
    archive = opened(metadata)
    with pytest.raises(ArchiveError, match=match) as caught:
        archive.verify()
    assert caught.value.is_undamaged


@pytest.mark.parametrize(("metadata", "expected"), [({"ss_network_alpha": "4.0"}, 4), ({"alpha": "2"}, 2)])
def test_alpha_that_stands_alone_in_the_header_is_used(
    opened: Callable[..., LoraArchive], metadata: dict[str, str], expected: float
) -> None:
    assert alphas(opened(metadata)) == [expected, expected]


@pytest.mark.parametrize(("fields", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / math.sqrt(2))])
def test_norms_count_alpha(opened: Callable[..., LoraArchive], fields: dict[str, Any], scale: float) -> None:
    pytest.importorskip("numpy")
    plain, scaled = opened({}).norms(), None
    scaled = opened(adapter(**fields)).norms()
    assert dict(scaled.modules) == pytest.approx({name: scale * norm for name, norm in plain.modules.items()})
    assert scaled.total == pytest.approx(scale * plain.total)


def test_kohya_export_has_the_alphas_of_the_file(opened: Callable[..., LoraArchive], tmp_path: Path) -> None:
    archive = opened(adapter(alpha_pattern={"to_k": 3}))
    header, data = exported(archive.export(tmp_path / "out.safetensors", program="a1111"))
    found = {name: struct.unpack("<f", value)[0] for name, value in data.items() if name.endswith(".alpha")}
    assert found == {
        f"lora_unet_{name.replace('.', '_')}.alpha": module.alpha for name, module in archive.modules.items()
    }
    assert set(found.values()) == {3.0, 8.0}
    assert header["__metadata__"]["ss_network_alpha"] == "3,8"


def test_diffusers_export_says_the_alphas_as_diffusers_reads_them(
    opened: Callable[..., LoraArchive], tmp_path: Path
) -> None:
    archive = opened(adapter(alpha_pattern={"to_k": 3}))
    header, _ = exported(archive.export(tmp_path / "out.safetensors", program="diffusers"))
    assert json.loads(header["__metadata__"]["lora_adapter_metadata"]) == {
        "unet.r": 2,
        "unet.lora_alpha": 3,
        "unet.rank_pattern": {},
        "unet.alpha_pattern": {KEY.replace("to_k", "to_q"): 8},
        "unet.target_modules": sorted(archive.modules),
        "unet.use_rslora": False,
    }


def test_diffusers_export_of_a_nodes_file_has_no_adapter_metadata(
    opened: Callable[..., LoraArchive], tmp_path: Path
) -> None:
    header, _ = exported(opened({}).export(tmp_path / "out.safetensors", program="diffusers"))
    assert "lora_adapter_metadata" not in header["__metadata__"]


@pytest.mark.parametrize("fields", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 1.5}}])
def test_exported_file_is_read_again_with_the_same_alphas(
    opened: Callable[..., LoraArchive], tmp_path: Path, fields: dict[str, Any]
) -> None:
    archive = opened(adapter(**fields))
    raw = archive.export(tmp_path / "out.safetensors", program="diffusers").read_bytes()
    again = LoraArchive.open(write_zip(tmp_path / "again.zip", {**members(), WEIGHTS: raw}))
    assert alphas(again) == pytest.approx(alphas(archive))


def test_rank_of_each_module_counts_for_its_root(opened: Callable[..., LoraArchive]) -> None:
    name = functools.partial(pair, down=(1.0, 2.0, 3.0, 4.0), up=(1.0, 2.0, 3.0, 4.0))
    tensors = {**name("conv_in", rank=1, style="lora_A lora_B"), **name("conv_out", rank=4, style="lora_A lora_B")}
    archive = opened(adapter(r=1, rank_pattern={"conv_out": 4}, use_rslora=True), tensors)
    assert alphas(archive) == pytest.approx([8.0, 16.0])
