"""What export() writes, loaded with the library that people load it with: diffusers, into a UNet of SD 1.5's build."""

import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from crynux_async.archive import LoraArchive, Program
from crynux_async.cli.archive import inspect
from crynux_async.emulator.nodes.archives import members
from crynux_async.emulator.nodes.unet import SIZES, Module
from crynux_async.emulator.nodes.zip_files import write_zip
from tests.archive_files import RESULT, WEIGHTS
from tests.emulator.nodes.test_archives import ATTENTION, make_args

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch: Any = pytest.importorskip("torch", reason="torch is not installed: pip install '.[test-diffusers]'")
    diffusers: Any = pytest.importorskip("diffusers", reason="diffusers is not installed")
    peft: Any = pytest.importorskip("peft", reason="peft is not installed")
    np: Any = pytest.importorskip("numpy", reason="numpy is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed, without which diffusers loads no LoRA")
    pytest.importorskip("safetensors", reason="safetensors is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

Size = Literal["sd15", "tiny"]

MIXED = ("to_k", "proj_in", "conv1", "ff.net.0.proj")
# Every convolution and linear layer; a small UNet has 281, because one of its residual blocks needs no shortcut.
EVERYTHING = (
    r".*(to_[qkv]|to_out\.0|proj_in|proj_out|net\.0\.proj|net\.2|conv_in|conv_out|conv[12]?|conv_shortcut"
    r"|linear_[12]|time_emb_proj)"
)
ADAPTER = "default_0"


def make_archive(path: Path, **fields: Any) -> LoraArchive:
    with path.open("wb") as file:
        for _ in write_zip(file, members(make_args(**fields), SIZES["tiny"], global_step=10)):
            pass
    return LoraArchive.open(path)


def as_it_is(archive: LoraArchive, path: Path) -> Path:
    with zipfile.ZipFile(archive.path) as file:
        path.write_bytes(file.read(WEIGHTS))
    return path


def make_unet(size: Size = "tiny") -> Any:
    torch.manual_seed(7)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=SIZES[size].widths,
        cross_attention_dim=SIZES[size].context,
        norm_num_groups=8,
        attention_head_dim=8,
    ).eval()


def pipeline() -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=make_unet(),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def load(path: Path) -> Any:
    """Return a UNet into which a pipeline has loaded a file, the way the documentation of diffusers has it."""
    pipe = pipeline()
    pipe.load_lora_weights(str(path.parent), weight_name=path.name)
    return pipe.unet


def arrived(unet: Any) -> dict[str, Any]:
    tensors = peft.get_peft_model_state_dict(unet, adapter_name=ADAPTER)
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def sent(archive: LoraArchive) -> dict[str, Any]:
    return {
        name.removeprefix("unet.").replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B."): array
        for name, array in archive.arrays()
    }


def same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def image(unet: Any) -> Any:
    """Return what a UNet makes of one fixed noise."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text = torch.randn(1, 5, SIZES["tiny"].context, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return unet(noise, 500, encoder_hidden_states=text).sample


def difference(left: Any, right: Any) -> float:
    return float((left - right).abs().max())


def merged(archive: LoraArchive) -> Any:
    """Return a UNet to whose weights B A was added by hand."""
    unet = make_unet()
    with torch.no_grad():
        for name, module in archive.modules.items():
            down, up = (torch.from_numpy(archive.tensor(tensor)) for tensor in (module.down, module.up))
            unet.get_submodule(name).weight += torch.einsum("or,r...->o...", up.reshape(len(up), -1), down)
    return unet


@pytest.mark.parametrize("size", ["tiny", "sd15"])
def test_emulators_unet_has_the_layers_of_the_real_one(size: Size) -> None:
    with torch.device("meta"):
        unet = make_unet(size)
    real = set()
    for name, layer in unet.named_modules():
        if isinstance(layer, torch.nn.Linear):
            real.add(Module(name=name, inputs=layer.in_features, outputs=layer.out_features))
        if isinstance(layer, torch.nn.Conv2d):
            (kernel,) = set(layer.kernel_size)
            real.add(Module(name=name, inputs=layer.in_channels, outputs=layer.out_channels, kernel=kernel))
    assert set(SIZES[size].modules) == real


def test_mixed_file_as_it_is_loads_only_in_part(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.zip", target_modules=MIXED)
    found = arrived(load(as_it_is(archive, tmp_path / "raw.safetensors")))
    assert (len(found), len(archive.tensors)) == (108, 172)
    assert not any(".to_k." in name for name in found)


@pytest.mark.parametrize("program", ["all", "diffusers"])
@pytest.mark.parametrize(
    ("modules", "tensors"), [(MIXED, 172), (ATTENTION, 256), ("all-linear", 368), (EVERYTHING, 562)], ids=str
)
def test_exported_file_loads_whole(program: Program, modules: Any, tensors: int, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.zip", target_modules=modules)
    found = arrived(load(archive.export(tmp_path / "out.safetensors", program=program)))
    assert len(found) == tensors
    assert same(found, sent(archive))


def test_exported_file_of_a_real_node_loads_whole(tmp_path: Path) -> None:
    archive = LoraArchive.open(RESULT)
    found = arrived(load(archive.export(tmp_path / "out.safetensors")))
    assert len(found) == 256
    assert same(found, sent(archive))


def test_exported_bf16_file_loads_whole(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.zip", target_modules=MIXED, mixed_precision="bf16")
    assert archive.dtype == "BF16"
    assert same(arrived(load(archive.export(tmp_path / "out.safetensors"))), sent(archive))


@pytest.mark.parametrize("program", ["all", "diffusers"])
@pytest.mark.parametrize(("modules", "rank"), [(MIXED, 6), (EVERYTHING, 4), (ATTENTION, 64)], ids=str)
def test_loaded_update_is_b_a_of_every_module(program: Program, modules: Any, rank: int, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.zip", target_modules=modules, rank=rank)
    found = image(load(archive.export(tmp_path / "out.safetensors", program=program)))
    assert difference(found, image(merged(archive))) < 1e-5
    assert difference(found, image(make_unet())) > 1e-4


def test_what_is_left_out_of_a_mixed_file_changes_the_image(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.zip", target_modules=MIXED)
    found = image(load(as_it_is(archive, tmp_path / "raw.safetensors")))
    assert difference(found, image(merged(archive))) > 1e-4


def test_untrained_lora_changes_nothing(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.zip", target_modules=MIXED, model_name="m/untrained")
    assert torch.equal(image(load(archive.export(tmp_path / "out.safetensors"))), image(make_unet()))


def test_norms_are_those_of_the_loaded_updates(tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.zip", target_modules=MIXED)
    unet = load(archive.export(tmp_path / "out.safetensors"))
    layers = {name: unet.get_submodule(name) for name in archive.modules}
    real = {name: float(layer.get_delta_weight(ADAPTER).norm()) for name, layer in layers.items()}
    assert dict(archive.norms().modules) == pytest.approx(real, rel=1e-4)


@pytest.mark.parametrize(
    "modules",
    [
        MIXED,
        ATTENTION,
        "all-linear",
        ("to_k", "proj_out"),
        ("to_k", "ff.net.2"),
        ("to_v", "conv_in"),
        ("to_q", "time_emb_proj"),
        ("conv1", "conv2"),
    ],
    ids=str,
)
def test_inspect_foretells_how_many_tensors_are_left_out(
    modules: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = make_archive(tmp_path / "a.zip", target_modules=modules)
    inspect(archive.path, None, as_json=True)
    foretold = json.loads(capsys.readouterr().out)["dropped_by_diffusers"]
    found = arrived(load(as_it_is(archive, tmp_path / "raw.safetensors")))
    assert len(archive.tensors) - len(found) == foretold
