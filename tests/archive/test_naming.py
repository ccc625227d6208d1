"""Names of modules, held against the tables of the programs that read them, recorded from the programs themselves."""

from pathlib import Path

import pytest

from crynux_async.archive.naming import PROGRAMS, Program, alpha_name, halves, kohya_name, passed_over
from crynux_async.emulator.nodes.unet import SIZES

RECORDED = Path(__file__).parents[1] / "data" / "archive" / "program_names.tsv"


def recorded() -> dict[str, tuple[str, str, bool]]:
    """Layer of the checkpoint, name, and whether sd-scripts knows it, by path in diffusers."""
    lines = [line.split("\t") for line in RECORDED.read_text().splitlines() if not line.startswith("#")]
    return {path: (layer, name, known == "yes") for path, layer, name, known in lines}


def test_every_layer_that_can_be_trained_has_the_name_under_which_programs_look_for_it() -> None:
    table = recorded()
    assert table.keys() == {module.name for module in SIZES["sd15"].modules}
    assert {path: kohya_name(path) for path in table} == {path: name for path, (_, name, _) in table.items()}


def test_names_that_programs_look_for_lead_to_different_layers() -> None:
    table = recorded().values()
    assert len({layer for layer, _, _ in table}) == len({name for _, name, _ in table}) == 282


def test_what_sd_scripts_does_not_know_is_said() -> None:
    table = recorded()
    unknown = tuple(path for path, (_, _, known) in table.items() if not known)
    assert passed_over(table, "kohya") == passed_over(table, "all") == unknown
    assert len(unknown) == 4


@pytest.mark.parametrize("program", ["diffusers", "comfyui", "a1111"])
def test_other_programs_pass_over_nothing(program: Program) -> None:
    assert passed_over(recorded(), program) == ()


def test_every_program_but_all_is_described() -> None:
    assert PROGRAMS.keys() == {"diffusers", "comfyui", "a1111", "kohya"}


def test_names_of_a_text_encoder_have_its_prefix() -> None:
    module = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    kohya = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    assert halves(module, "kohya") == (f"{kohya}.lora_down.weight", f"{kohya}.lora_up.weight")
    assert alpha_name(module) == f"{kohya}.alpha"
    assert halves(module, "diffusers") == (f"{module}.lora_A.weight", f"{module}.lora_B.weight")
