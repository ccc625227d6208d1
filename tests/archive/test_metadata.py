"""What an exported file says about itself, held against how the programs read it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crynux_async.archive import LoraArchive
from crynux_async.training.config import FineTuneConfig
from tests.archive.test_export import exported
from tests.archive_files import Tensor, open_with, pair

Texts = Callable[..., dict[str, str]]


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    """Export a LoRA of these tensors, and return what its header says."""

    def export(tensors: dict[str, Tensor], **given: Any) -> dict[str, str]:
        archive: LoraArchive = open_with(tmp_path, tensors)
        header, _ = exported(archive.export(tmp_path / "out.safetensors", overwrite=True, **given))
        found: dict[str, str] = header["__metadata__"]
        return found

    return export


def to_k(context: int) -> dict[str, Tensor]:
    """The module that reads the text, rank 1."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    return pair(name, rank=1, down=[0.5] * context, up=[0.5] * 1280)


def a1111_version(metadata: dict[str, str]) -> str:
    """The rule of stable-diffusion-webui 1.10.1, network.py detect_version."""
    if str(metadata.get("ss_base_model_version", "")).startswith("sdxl_"):
        return "SDXL"
    return "SD2" if str(metadata.get("ss_v2", "")) == "True" else "SD1"


@pytest.mark.parametrize(
    ("context", "model", "version"),
    [
        (768, None, "SD1"),
        (1024, None, "SD2"),
        (1024, "runwayml/stable-diffusion-v1-5", "SD2"),
        (8, "stabilityai/stable-diffusion-2-1", "SD2"),
        (8, "someone/anything-v2", "SD1"),
    ],
)
def test_web_ui_shows_the_file_with_the_models_it_fits(
    texts: Texts, context: int, model: str | None, version: str
) -> None:
    assert a1111_version(texts(to_k(context), base_model=model)) == version


# Source: sd-scripts library/sai_model_spec.py and train_util.py; ModelSpec 1.0.1, "resolution" as WIDTHxHEIGHT.
@pytest.mark.parametrize(
    ("context", "model", "config", "architecture", "base", "resolution"),
    [
        (768, None, {}, "stable-diffusion-v1/lora", "sd_v1", "512x512"),
        (768, None, {"prediction_type": "v_prediction"}, "stable-diffusion-v1/lora", "sd_v1_v", "768x768"),
        (1024, "stabilityai/stable-diffusion-2-1", {}, "stable-diffusion-v2-768-v/lora", "sd_v2_v", "768x768"),
        (1024, "stabilityai/stable-diffusion-2-1-base", {}, "stable-diffusion-v2-512/lora", "sd_v2", "512x512"),
        (1024, "a/b", {"resolution": 768}, "stable-diffusion-v2-768-v/lora", "sd_v2_v", "768x768"),
        (1024, "a/b", {"resolution": 640}, "stable-diffusion-v2-512/lora", "sd_v2", "640x640"),
        (
            1024,
            "stabilityai/stable-diffusion-2-1",
            {"prediction_type": "epsilon", "resolution": 768},
            "stable-diffusion-v2-512/lora",
            "sd_v2",
            "768x768",
        ),
    ],
)
def test_architecture_is_said_in_the_words_of_the_standard(
    texts: Texts, context: int, model: str | None, config: dict[str, Any], architecture: str, base: str, resolution: str
) -> None:
    found = texts(to_k(context), base_model=model, config=config)
    assert found["modelspec.sai_model_spec"] == "1.0.1"
    assert found["modelspec.architecture"] == architecture
    assert found["modelspec.resolution"] == resolution
    assert found["ss_base_model_version"] == base
    assert {"modelspec.implementation", "modelspec.title"} <= found.keys()


def test_lora_of_no_family_claims_none(texts: Texts) -> None:
    found = texts(to_k(8))
    assert not any(key.startswith("modelspec.") or key in ("ss_v2", "ss_base_model_version") for key in found)


def test_trigger_is_what_web_uis_offer_for_the_prompt(texts: Texts) -> None:
    found = texts(to_k(768), trigger="sks größer dog", base_model="a/b")
    assert found["modelspec.trigger_phrase"] == "sks größer dog"
    # A folder's tags and how often each was there: ui_edit_user_metadata.py build_tags takes the inner keys.
    assert json.loads(found["ss_tag_frequency"]) == {"trigger": {"sks größer dog": 1}}
    assert "sks größer dog" in found["modelspec.title"]


def test_facts_of_the_training_are_said_in_the_words_of_kohya(texts: Texts) -> None:
    config = FineTuneConfig(
        model_name="runwayml/stable-diffusion-v1-5",
        dataset_url="https://example.com/a.zip",
        learning_rate=3e-4,
        lr_scheduler="cosine",
        lr_warmup_steps=5,
        max_train_steps=100,
        batch_size=2,
        gradient_accumulation_steps=4,
        resolution=640,
        snr_gamma=5.0,
        seed=42,
    )
    found = texts(to_k(768), config=config.to_dict(), base_model=config.model_name)
    expected = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "1",
        "ss_network_alpha": "1",
        "ss_sd_model_name": "runwayml/stable-diffusion-v1-5",
        "ss_learning_rate": "0.0003",
        "ss_lr_scheduler": "cosine",
        "ss_lr_warmup_steps": "5",
        "ss_max_train_steps": "100",
        "ss_steps": "10",
        "ss_total_batch_size": "2",
        "ss_gradient_accumulation_steps": "4",
        "ss_resolution": "(640, 640)",
        "ss_min_snr_gamma": "5.0",
        "ss_seed": "42",
        "ss_optimizer": "torch.optim.adamw.AdamW",
    }
    assert expected.items() <= found.items()


def test_what_is_not_known_is_not_said(texts: Texts) -> None:
    found = texts(to_k(768))
    unknown = {"ss_learning_rate", "ss_seed", "ss_optimizer", "ss_sd_model_name", "ss_tag_frequency", "base_model"}
    assert not unknown & found.keys()
    assert "modelspec.trigger_phrase" not in found
