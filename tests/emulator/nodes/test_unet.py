"""The emulator's table of modules and tensors."""

import json
from pathlib import Path

import pytest

from crynux_async.emulator.nodes.task_args import TargetModules
from crynux_async.emulator.nodes.unet import SIZES

HEADER = Path(__file__).parents[2] / "data" / "archive" / "sd15_rank4_header.json"
ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
PARAMETERS_OF_SD15 = 859_520_964


def tensors(target_modules: TargetModules, rank: int) -> dict[str, list[int]]:
    modules = SIZES["sd15"].targeted(target_modules)
    return {name: list(shape) for module in modules for name, shape in module.tensors(rank)}


def test_tensors_of_the_attention_modules_equal_those_of_a_real_lora() -> None:
    real = json.loads(HEADER.read_text(encoding="utf-8"))
    del real["__metadata__"]
    assert tensors(ATTENTION, 4) == {name: entry["shape"] for name, entry in real.items()}


def test_modules_add_up_to_the_parameters_of_stable_diffusion() -> None:
    modules = SIZES["sd15"].modules
    weights = sum(module.inputs * module.outputs * (module.kernel or 1) ** 2 for module in modules)
    biases = sum(module.outputs for module in modules if not module.name.endswith(("to_k", "to_q", "to_v")))
    # Two group norms in each residual block, one group and three layer norms in each transformer, one at the end.
    norms = sum(2 * (module.inputs + module.outputs) for module in modules if module.name.endswith("conv1"))
    norms += sum(8 * module.inputs for module in modules if module.name.endswith("proj_in"))
    norms += 2 * SIZES["sd15"].widths[0]
    assert weights + biases + norms == PARAMETERS_OF_SD15


@pytest.mark.parametrize(
    ("target_modules", "count"),
    [
        ("all-linear", 368),
        (("to_k", "proj_in", "conv1", "ff.net.0.proj"), 172),
        (r".*attn2\.to_k", 32),
        (ATTENTION, 256),
    ],
)
def test_selection_has_as_many_tensors_as_the_node_code_made(target_modules: TargetModules, count: int) -> None:
    assert len(tensors(target_modules, 4)) == count


@pytest.mark.parametrize(
    ("target", "name", "down", "up"),
    [
        ("proj_in", "down_blocks.0.attentions.0.proj_in", [4, 320, 1, 1], [320, 4, 1, 1]),
        ("proj_out", "mid_block.attentions.0.proj_out", [4, 1280, 1, 1], [1280, 4, 1, 1]),
        ("ff.net.0.proj", "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj", [4, 1280], [10240, 4]),
        ("ff.net.2", "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2", [4, 1280], [320, 4]),
        ("conv1", "up_blocks.1.resnets.2.conv1", [4, 1920, 3, 3], [1280, 4, 1, 1]),
        ("conv2", "down_blocks.3.resnets.1.conv2", [4, 1280, 3, 3], [1280, 4, 1, 1]),
        ("time_emb_proj", "mid_block.resnets.1.time_emb_proj", [4, 1280], [1280, 4]),
        ("conv_in", "conv_in", [4, 4, 3, 3], [320, 4, 1, 1]),
        ("conv_out", "conv_out", [4, 320, 3, 3], [4, 4, 1, 1]),
    ],
)
def test_other_modules_are_named_in_the_other_style(target: str, name: str, down: list[int], up: list[int]) -> None:
    found = tensors((target,), 4)
    assert found[f"unet.{name}.lora_A.weight"] == down
    assert found[f"unet.{name}.lora_B.weight"] == up


def test_unknown_name_among_known_ones_is_ignored() -> None:
    assert tensors(("to_k", "nonsense"), 4) == tensors(("to_k",), 4)


@pytest.mark.parametrize("target_modules", [None, (), "", "to_k", "(", ("nonsense",), ("k",)])
def test_what_matches_no_whole_name_selects_nothing(target_modules: TargetModules) -> None:
    assert SIZES["sd15"].targeted(target_modules) == ()


@pytest.mark.parametrize("target_modules", [ATTENTION, "all-linear"])
def test_tiny_model_has_the_same_modules(target_modules: TargetModules) -> None:
    tiny, real = (SIZES[size].targeted(target_modules) for size in ("tiny", "sd15"))
    assert [module.name for module in tiny] == [module.name for module in real]
