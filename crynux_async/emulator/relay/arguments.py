"""The arguments of a task: as the relay keeps them, and as a node reads them.

Source: crynux-relay models/task_args.go, models/model_id.go (NormalizeTaskArgsModelNames); stable-diffusion-task
sd_task/task_args/finetune_lora (the node's defaults).
"""

import json
from collections.abc import Mapping
from typing import Any

from crynux_async.emulator import go_json
from crynux_async.emulator.nodes.task_args import TaskArgs

_CUT = "unexpected end of JSON input"


class ArgumentsError(ValueError):
    """Arguments are not JSON; the message is Go's."""


def normalised(text: str) -> str:
    """Return arguments as the relay keeps them: keys sorted, no spaces, the model's name in lower case.

    Args:
        text: JSON of an object.

    Raises:
        ArgumentsError: If it is not JSON.
    """
    return _encode(_lowered(_members(parsed(text))))


def parsed(text: str) -> Any:
    """Return JSON with the literal text of its numbers.

    Raises:
        ArgumentsError: If it is not JSON, or has something behind it.
    """
    data = text.encode("utf-8", "replace")
    try:
        value = go_json.decode_all(data)
    except go_json.GoJSONError as error:
        raise ArgumentsError(_CUT if go_json.is_cut(error) else str(error)) from None
    return value


def node_args(text: str, *, timeout: int) -> TaskArgs:
    """Return the arguments as a node takes them, absent ones with its defaults.

    Args:
        text: JSON that the schema allows.
        timeout: The task's seconds.
    """
    # The node's own defaults and not this library's: what is left out must become visible in the result.
    document = json.loads(text)
    model, dataset, validation = document["model"], document["dataset"], document["validation"]
    train, lora, transforms = document["train_args"], document.get("lora", {}), document.get("transforms", {})
    modules = lora.get("target_modules")
    return TaskArgs(
        model_name=model["name"],
        model_variant=model.get("variant"),
        model_revision=model.get("revision", "main"),
        dataset_url=dataset.get("url"),
        dataset_name=dataset.get("name"),
        dataset_config_name=dataset.get("config_name"),
        dataset_image_column=dataset.get("image_column", "image"),
        dataset_caption_column=dataset.get("caption_column", "text"),
        validation_prompt=validation.get("prompt"),
        validation_num_images=validation.get("num_images", 4),
        center_crop=transforms.get("center_crop", False),
        random_flip=transforms.get("random_flip", False),
        rank=lora.get("rank", 8),
        init_lora_weights=lora.get("init_lora_weights", True),
        target_modules=tuple(modules) if isinstance(modules, list) else modules,
        mixed_precision=document.get("mixed_precision", "no"),
        seed=document.get("seed", 0),
        timeout=timeout,
        **_training(train),
    )


def _training(train: Mapping[str, Any]) -> dict[str, Any]:
    schedule, adam = train.get("lr_scheduler", {}), train.get("adam_args", {})
    return {
        "learning_rate": train.get("learning_rate", 1e-4),
        "batch_size": train.get("batch_size", 16),
        "gradient_accumulation_steps": train.get("gradient_accumulation_steps", 1),
        "prediction_type": train.get("prediction_type"),
        "max_grad_norm": train.get("max_grad_norm", 1.0),
        "num_train_epochs": train.get("num_train_epochs", 1),
        "num_train_steps": train.get("num_train_steps"),
        "max_train_epochs": train.get("max_train_epochs", 1),
        "max_train_steps": train.get("max_train_steps"),
        "scale_lr": train.get("scale_lr", True),
        "resolution": train.get("resolution", 512),
        "noise_offset": train.get("noise_offset", 0.0),
        "snr_gamma": train.get("snr_gamma"),
        "lr_scheduler": schedule.get("lr_scheduler", "constant"),
        "lr_warmup_steps": schedule.get("lr_warmup_steps", 500),
        "adam_beta1": adam.get("beta1", 0.9),
        "adam_beta2": adam.get("beta2", 0.999),
        "adam_weight_decay": adam.get("weight_decay", 0.01),
        "adam_epsilon": adam.get("epsilon", 1e-8),
    }


def _members(value: Any) -> Any:
    """Return objects as dicts, the last of several members with one name."""
    if isinstance(value, go_json.Pairs):
        # Go decodes into a map: the last of several members counts, and order is lost.
        return {name: _members(item) for name, item in value}
    return [_members(item) for item in value] if isinstance(value, list) else value


def _lowered(document: dict[str, Any]) -> dict[str, Any]:
    model = document.get("model")
    if not isinstance(model, dict):
        return document
    name = model.get("name")
    # Addresses keep their case: another one may be another file.
    if not isinstance(name, str) or name.startswith(("http://", "https://")):
        return document
    return {**document, "model": {**model, "name": name.lower()}}


def _encode(value: Any) -> str:
    if isinstance(value, go_json.Number):
        # As it was written: a float in between would round integers above 2^53.
        return str(value)
    if isinstance(value, dict):
        # As Go writes a map: clients must not compare with the text that they sent.
        members = (f"{go_json.encode(name).decode()}:{_encode(value[name])}" for name in sorted(value))
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_encode, value)) + "]"
    return go_json.encode(go_json.well_formed(value) if isinstance(value, str) else value).decode()
