"""Several LoRAs in one file: exactly the sum of what they do."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import LoraArchive, Part, merge
from crynux_async.errors import ArchiveError, UsageError
from tests.archive.test_export import exported
from tests.archive_files import RESULT, UNFINISHED, open_with, pair

np = pytest.importorskip("numpy")

CONV = partial(pair, "down_blocks.0.resnets.0.conv1", style="lora_A lora_B", kernel=(3, 3))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., LoraArchive]:
    return partial(open_with, tmp_path)


def updates(archive: LoraArchive) -> dict[str, Any]:
    """What a LoRA adds to each layer: scale * B A, float64."""
    found = {}
    for name, module in archive.modules.items():
        down, up = (archive.tensor(tensor).astype(np.float64) for tensor in (module.down, module.up))
        found[name] = module.scale * np.einsum("or,r...->o...", up.reshape(len(up), -1), down)
    return found


def test_merged_file_adds_what_its_parts_add_with_their_weights(
    opened: Callable[..., LoraArchive], tmp_path: Path
) -> None:
    first = opened({**pair("conv_in"), **CONV(down=[0.5] * 18)})
    second = opened(
        {
            **pair("conv_in", rank=1, down=(2, 0, 1), up=(1, -1)),
            **pair("conv_out", rank=3, down=[1.0] * 6, up=(1, 2, 3)),
        }
    )
    merged = LoraArchive.open(merge(tmp_path / "out.safetensors", [Part(first, 0.75), Part(second, -2.0)]))
    one, two = updates(first), updates(second)
    expected = {"conv_in": 0.75 * one["conv_in"] - 2.0 * two["conv_in"], "conv_out": -2.0 * two["conv_out"]}
    expected["down_blocks.0.resnets.0.conv1"] = 0.75 * one["down_blocks.0.resnets.0.conv1"]
    found = updates(merged)
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        assert found[name] == pytest.approx(update, abs=1e-7)
    # conv_in has the most: 2 + 1.
    assert {(module.rank, module.alpha) for module in merged.modules.values()} == {(3, 3.0)}


def test_alphas_of_the_parts_count(opened: Callable[..., LoraArchive], tmp_path: Path) -> None:
    plain = opened(pair())
    path = plain.export(
        tmp_path / "a.safetensors", program="diffusers", metadata={"alpha": "1", "ss_network_alpha": "1"}
    )
    half = LoraArchive.open(path)
    assert {module.scale for module in half.modules.values()} == {0.5}
    merged = LoraArchive.open(merge(tmp_path / "out.safetensors", [Part(plain, 1.0), Part(half, 2.0)]))
    for name, update in updates(plain).items():
        assert updates(merged)[name] == pytest.approx(2 * update, abs=1e-7)


def test_real_archives_merge_for_every_program(tmp_path: Path) -> None:
    parts = [Part(LoraArchive.open(RESULT), 0.5), Part(LoraArchive.open(UNFINISHED), 0.25)]
    one, two = (updates(part.archive) for part in parts)
    for program in ("all", "diffusers", "comfyui", "a1111", "kohya"):
        merged = LoraArchive.open(merge(tmp_path / f"{program}.safetensors", parts, program=program))
        assert (merged.rank, len(merged.modules)) == (8, 128)
        for name, update in updates(merged).items():
            assert abs(update - (0.5 * one[name] + 0.25 * two[name])).max() < 1e-6


def test_merged_file_says_where_it_comes_from(opened: Callable[..., LoraArchive], tmp_path: Path) -> None:
    text = {"base_model": "a/b"}
    files = [
        opened(pair()).export(tmp_path / f"{word}.safetensors", metadata={**text, "modelspec.trigger_phrase": word})
        for word in ("cat", "dog")
    ]
    parts = [Part(LoraArchive.open(file), 0.5) for file in files]
    header, _ = exported(merge(tmp_path / "out.safetensors", parts))
    metadata = header["__metadata__"]
    assert json.loads(metadata["merged_from"]) == [
        {"file": "cat.safetensors", "weight": 0.5},
        {"file": "dog.safetensors", "weight": 0.5},
    ]
    assert metadata["base_model"] == "a/b"
    assert json.loads(metadata["ss_tag_frequency"]) == {"trigger": {"cat, dog": 1}}


def test_merged_file_keeps_triggers_whatever_the_layers_tell(
    opened: Callable[..., LoraArchive], tmp_path: Path
) -> None:
    # to_q has the same widths in every family, so that these files have no ModelSpec.
    files = [opened(pair()).export(tmp_path / f"{word}.safetensors", trigger=word) for word in ("cat", "dog")]
    header, _ = exported(merge(tmp_path / "out.safetensors", [Part(LoraArchive.open(file)) for file in files]))
    assert json.loads(header["__metadata__"]["ss_tag_frequency"]) == {"trigger": {"cat, dog": 1}}


def attention(context: int) -> dict[str, Any]:
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    return pair(name, rank=1, down=[1.0] * context, up=[1.0] * 8)


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        (attention(768), attention(1024), r"different base models .* for Stable Diffusion 1\.x, .* 2\.x"),
        (pair("conv_in"), pair("conv_in", down=[1.0] * 8), r"conv_in changes a layer of \[2, 4\], .* \[2, 3\]"),
        (pair("conv_in"), pair("conv_in", up=[1.0] * 6), r"conv_in changes a layer of \[3, 3\]"),
        (CONV(down=[1.0] * 18), CONV(down=[1.0] * 2, kernel=(1, 1)), "not of one base model"),
        (pair(), pair(up=(math.nan, 0, 0, 0)), "not finite"),
        (pair(), pair(down=[math.inf] * 6), "not finite"),
        (pair(rank=4096, down=[1.0] * 4096, up=[1.0] * 4096), pair(rank=1, down=[1.0], up=[1.0]), "rank would be 4097"),
    ],
    ids=range(7),
)
def test_what_does_not_go_together_is_refused_and_nothing_written(
    opened: Callable[..., LoraArchive], tmp_path: Path, first: Any, second: Any, match: str
) -> None:
    parts = [Part(opened(first)), Part(opened(second))]
    with pytest.raises(ArchiveError, match=match):
        merge(tmp_path / "out.safetensors", parts)
    assert not (tmp_path / "out.safetensors").exists()


def test_loras_of_different_base_models_merge_only_when_one_is_named(
    opened: Callable[..., LoraArchive], tmp_path: Path
) -> None:
    files = [opened(pair()).export(tmp_path / f"{name}.safetensors", base_model=f"m/{name}") for name in "ab"]
    parts = [Part(LoraArchive.open(file)) for file in files]
    with pytest.raises(ArchiveError, match="'m/a', 'm/b'"):
        merge(tmp_path / "out.safetensors", parts)
    header, _ = exported(merge(tmp_path / "out.safetensors", parts, base_model="m/a"))
    assert header["__metadata__"]["base_model"] == "m/a"


@pytest.mark.parametrize(
    ("weights", "program", "match"),
    [([1.0], "all", "at least two"), ([1.0, math.nan], "all", "finite"), ([1.0, 1.0], "webui", "no program 'webui'")],
)
def test_merge_that_cannot_be_meant_is_a_usage_error(
    opened: Callable[..., LoraArchive], tmp_path: Path, weights: list[float], program: Any, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        merge(tmp_path / "out.safetensors", [Part(opened(pair()), weight) for weight in weights], program=program)


def test_merge_onto_a_file_replaces_it_only_when_asked(opened: Callable[..., LoraArchive], tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    target.write_text("precious")
    parts = [Part(opened(pair())), Part(opened(pair()))]
    with pytest.raises(ArchiveError, match="is there already"):
        merge(target, parts)
    assert target.read_text() == "precious"
    merge(target, parts, overwrite=True)
    assert LoraArchive.open(target).rank == 4
