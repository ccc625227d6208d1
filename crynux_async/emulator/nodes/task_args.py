"""The arguments of a job as the bridge hands them to a node: what was bound, with the bridge's defaults.

Source: crynux-bridge api/v1/image/finetune_params.go (SetDefaultValues), models (FinetuneLoraTaskArgs).
"""

import math
from collections.abc import Mapping
from typing import Any

import attrs

TargetModules = tuple[str, ...] | str | None

_DEFAULT_TIMEOUT = 120 * 60

_DEFAULTS: dict[str, Any] = {
    "model_revision": "main",
    "dataset_image_column": "image",
    "dataset_caption_column": "text",
    "validation_num_images": 4,
    "rank": 8,
    "learning_rate": 1e-4,
    "batch_size": 16,
    "gradient_accumulation_steps": 1,
    "max_grad_norm": 1.0,
    "num_train_epochs": 1,
    "max_train_epochs": 1,
    "resolution": 512,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 500,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 0.01,
    "adam_epsilon": 1e-8,
    "mixed_precision": "no",
}


@attrs.frozen(kw_only=True)
class TaskArgs:
    """What one job was asked to do, after the bridge's defaults; names and units are the wire's."""

    model_name: str
    model_variant: str | None
    model_revision: str
    dataset_url: str | None
    dataset_name: str | None
    dataset_config_name: str | None
    dataset_image_column: str
    dataset_caption_column: str
    validation_prompt: str | None
    validation_num_images: int
    center_crop: bool
    random_flip: bool
    rank: int
    init_lora_weights: Any
    target_modules: TargetModules
    learning_rate: float
    batch_size: int
    gradient_accumulation_steps: int
    prediction_type: str | None
    max_grad_norm: float
    num_train_epochs: int
    num_train_steps: int | None
    max_train_epochs: int
    max_train_steps: int | None
    scale_lr: bool
    resolution: int
    noise_offset: float
    snr_gamma: float | None
    lr_scheduler: str
    lr_warmup_steps: int
    adam_beta1: float
    adam_beta2: float
    adam_weight_decay: float
    adam_epsilon: float
    mixed_precision: str
    seed: int
    timeout: int


def with_defaults(values: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """Return the bound fields after the bridge has replaced what is empty, zero or negative.

    Args:
        values: A bound request.
        seed: What the bridge draws when the request has no seed of its own.
    """
    filled = {name: value for name, value in values.items() if name != "Authorization"}
    # Go cannot tell a zero from what is missing: a warm-up of 0 becomes 500.
    for name, default in _DEFAULTS.items():
        value = filled[name]
        if not value or (not isinstance(value, str) and value <= 0):
            filled[name] = default
    # An interface in Go, so that False is kept.
    if filled["init_lora_weights"] is None:
        filled["init_lora_weights"] = True
    if filled["seed"] <= 0:
        filled["seed"] = seed
    return filled


def unsupported(filled: Mapping[str, Any]) -> str | None:
    """Return Go's complaint about a number that JSON cannot express, which only a form can bring in, or None."""
    for value in filled.values():
        if isinstance(value, float) and not math.isfinite(value):
            return f"json: unsupported value: {'NaN' if math.isnan(value) else f'{value:+}'.title()}"
    return None


def task_args(filled: Mapping[str, Any]) -> TaskArgs:
    """Return fields after defaults as a value; an absent timeout becomes the server's 120 minutes."""
    timeout = filled["timeout"]
    return TaskArgs(**{**filled, "timeout": _DEFAULT_TIMEOUT if timeout is None else timeout})
