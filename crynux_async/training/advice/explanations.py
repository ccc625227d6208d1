"""What is behind each code of advice: a config that gets it, and what it is told.

What happens is not written down a second time: the example is checked, and says it itself.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from crynux_async.training.advice import check
from crynux_async.training.advice.codes import Advice
from crynux_async.training.config import FineTuneConfig

EXAMPLE_IMAGES: Final = 20
"""Images of the data set of all examples but that of CX205, which is about not knowing them."""

_USUAL: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "model_name": "crynux-ai/stable-diffusion-v1-5",
        "dataset_url": "https://example.org/cats.zip",
        "max_train_steps": 500,
        "center_crop": True,
        "validation_num_images": 1,
        "timeout": 1800,
        "seed": 7,
    }
)
_POLYNOMIAL: Final = {"lr_scheduler": "polynomial"}

EXAMPLES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "CX101": {"model_name": "stabilityai/stable-diffusion-xl-base-1.0"},
        "CX102": {"target_modules": "to_k"},
        "CX103": {"target_modules": ["to_k", "to_out"]},
        "CX104": {"target_modules": ["to_k", "to_w"]},
        "CX105": {"target_modules": ["to_k", "proj_in"]},
        "CX106": {"init_lora_weights": "loftq"},
        "CX107": {"init_lora_weights": False},
        "CX108": {"lr_scheduler": "cosine", "lr_warmup_steps": 0},
        "CX109": {"lr_scheduler": "constant", "lr_warmup_steps": 100},
        "CX110": {"scale_lr": True, "batch_size": 4},
        "CX111": {"model_revision": "v2"},
        "CX112": {"model_variant": "fp16"},
        "CX113": {"mixed_precision": "bf16"},
        "CX114": {"mixed_precision": "no"},
        "CX115": {"resolution": 500},
        "CX116": {"center_crop": False},
        "CX117": {"validation_num_images": 4},
        "CX118": {"dataset_url": "https://example.org/cats.tgz"},
        "CX119": {"dataset_url": "http://192.168.0.7/cats.zip"},
        "CX120": {"dataset_url": "https://example.org/cats.zip"},
        "CX121": {"dataset_url": None, "dataset_name": "me/cats"},
        "CX122": {"model_name": "me/anime", "prediction_type": "epsilon"},
        "CX123": {"target_modules": r"(\w+\.?)+\.to_kk"},
        "CX124": {"model_name": "https://civitai.com/models/4201"},
        "CX125": {"dataset_url": None, "dataset_name": "https://huggingface.co/datasets/me/cats"},
        "CX126": {"dataset_url": "https://me:secret@example.org/cats.zip"},
        "CX127": {"dataset_url": "https://storage.googleapis.com/me/cats.zip?X-Goog-Expires=3600&X-Goog-Signature=0"},
        "CX128": {"dataset_url": "https://github.com/me/cats/blob/main/cats.zip"},
        "CX129": {"prediction_type": "v_prediction"},
        "CX130": {"resolution": 1024},
        "CX131": {"noise_offset": 0.5},
        "CX201": {"num_train_steps": 250},
        "CX202": {"num_train_steps": 450},
        "CX203": {"num_train_steps": 250},
        "CX204": {"max_train_steps": 40},
        "CX205": {"max_train_steps": None, "max_train_epochs": 30},
        "CX206": {"lr_scheduler": "linear", "lr_warmup_steps": 500},
        "CX207": {**_POLYNOMIAL, "learning_rate": 1e-7},
        "CX208": {**_POLYNOMIAL, "lr_warmup_steps": 500},
        "CX209": {"lr_scheduler": "linear", "max_train_steps": 1},
        "CX210": {"batch_size": 4, "gradient_accumulation_steps": 8},
        "CX211": {"learning_rate": 1.0},
        "CX212": {"lr_scheduler": "cosine_with_restarts"},
        "CX401": {"max_train_steps": 500},
        "CX402": {"timeout": 1800},
        "CX403": {"max_train_steps": 8000},
        "CX404": {"timeout": 36_000},
        "CX405": {"rank": 64},
        "CX406": {"max_train_steps": 500},
    }
)
"""For every code, what a config with it asks for beside what is usual."""


@attrs.frozen(kw_only=True)
class AdviceExample:
    """A config that gets an advice.

    Attributes:
        lines: What it asks for, as TOML; a comment stands in front of what is left out.
        advice: What it is told.
    """

    lines: tuple[str, ...]
    advice: Advice


def example_of(code: str) -> AdviceExample:
    """Check the example of a code.

    Args:
        code: A key of ``CODES``.
    """
    changes = EXAMPLES[code]
    config = FineTuneConfig(**{**_USUAL, **changes})
    found = check(config, None if code == "CX205" else EXAMPLE_IMAGES)
    advice = next(item for item in found if item.code == code)
    return AdviceExample(lines=tuple(_line(name, value) for name, value in changes.items()), advice=advice)


def _line(name: str, value: object) -> str:
    return f"# no {name}" if value is None else f"{name} = {json.dumps(value)}"
