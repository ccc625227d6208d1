"""A config as the relay takes it: the nested arguments of a node, and the models that the node must have.

Nothing is lost on this way: unlike a bridge the relay passes zeros on. The text is written as the relay itself writes
it (keys sorted, no spaces, HTML's letters escaped, the model's name in lower case), so that what it shows later can be
compared with what was sent.

Source: stable-diffusion-task schema/stable-diffusion-finetune-lora-task.json; crynux-relay models/task_args.go,
models/model_id.go (NormalizeTaskArgsModelNames); crynux-bridge api/v1/image/finetune.go (the models' ids).
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from crynux_async.training.config import FineTuneConfig
from crynux_async.training.service import OmittedField, ServiceFacts, ValueMapping

RELAY_FACTS = ServiceFacts(
    mapping=ValueMapping(
        omitted=(
            OmittedField(
                field="dataset_url", beside="dataset_name", reason="the nodes use dataset_name where both are given"
            ),
        )
    ),
    fee_cnx=15.0,
    account="your wallet's account at the relay",
    queue_seconds=180.0,
    failed_rounds=4,
    endless_share=0.0,
    has_validation_images=True,
    retention=None,
    takes_rounds=False,
    option="--relay",
)
"""What the relay adds to a training: nothing that is sent is changed, and three failures are repeated."""

_HTML = str.maketrans({char: f"\\u{ord(char):04x}" for char in "&<>\u2028\u2029"})
_ADDRESSES = ("http://", "https://")


def task_args(config: FineTuneConfig) -> str:
    """Return the arguments of a task that trains ``config``, as the relay itself would write them.

    Args:
        config: What is trained, with what the service cannot be sent already replaced; of one round.
    """
    return _normal_json(_without_none(_nested(config)))


def model_ids(config: FineTuneConfig) -> tuple[str, ...]:
    """Return the models that a node must have before it starts, as the relay names them."""
    variant = f"+{config.model_variant}" if config.model_variant else ""
    return (f"base:{config.model_name}{variant}".lower(),)


def config_of(args: str, timeout: int) -> FineTuneConfig | None:
    """Return the config that a task trains, or None where its arguments are not this library's.

    The relay writes the model's name in lower case, and so does the config.

    Args:
        args: What the relay shows.
        timeout: Seconds that the task may take.
    """
    try:
        return FineTuneConfig.from_dict({**_flat(json.loads(args)), "timeout": timeout})
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return None


def same_args(one: str, other: str) -> bool:
    """Return whether two texts of arguments ask for the same, whoever wrote them.

    Args:
        one: JSON.
        other: JSON, or anything else, which is never the same.
    """
    try:
        # Never as text: the relay sorts the keys and escapes <, > and &, and in debug mode indents.
        return bool(_read(one) == _read(other))
    except (ValueError, RecursionError):
        return False


def _nested(config: FineTuneConfig) -> dict[str, Any]:
    name = config.model_name
    modules = config.target_modules
    return {
        "model": {
            "name": name if name.startswith(_ADDRESSES) else name.lower(),
            "variant": config.model_variant,
            "revision": config.model_revision,
        },
        "dataset": {
            "url": config.dataset_url,
            "name": config.dataset_name,
            "config_name": config.dataset_config_name,
            "image_column": config.dataset_image_column,
            "caption_column": config.dataset_caption_column,
        },
        "validation": {"prompt": config.validation_prompt, "num_images": config.validation_num_images},
        "train_args": _training(config),
        "lora": {
            "rank": config.rank,
            "init_lora_weights": config.init_lora_weights,
            "target_modules": modules if isinstance(modules, str) else list(modules),
        },
        "transforms": {"center_crop": config.center_crop, "random_flip": config.random_flip},
        "dataloader_num_workers": 0,
        "mixed_precision": config.mixed_precision,
        "seed": config.seed,
    }


def _training(config: FineTuneConfig) -> dict[str, Any]:
    return {
        "learning_rate": config.learning_rate,
        "batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "prediction_type": config.prediction_type,
        "max_grad_norm": config.max_grad_norm,
        "num_train_epochs": config.num_train_epochs,
        "num_train_steps": config.num_train_steps,
        "max_train_epochs": config.max_train_epochs,
        "max_train_steps": config.max_train_steps,
        "scale_lr": config.scale_lr,
        "resolution": config.resolution,
        "noise_offset": config.noise_offset,
        "snr_gamma": config.snr_gamma,
        "lr_scheduler": {"lr_scheduler": config.lr_scheduler, "lr_warmup_steps": config.lr_warmup_steps},
        "adam_args": {
            "beta1": config.adam_beta1,
            "beta2": config.adam_beta2,
            "weight_decay": config.adam_weight_decay,
            "epsilon": config.adam_epsilon,
        },
    }


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``_nested`` was made of, without what was left out."""
    training = dict(nested["train_args"])
    adam, schedule = training.pop("adam_args"), training.pop("lr_scheduler")
    groups = ("model", "dataset", "validation")
    grouped = {f"{group}_{name}": value for group in groups for name, value in nested[group].items()}
    rest = {name: nested[name] for name in ("mixed_precision", "seed")}
    named = {f"adam_{name}": value for name, value in adam.items()}
    return {**grouped, **training, **schedule, **nested["lora"], **nested["transforms"], **rest, **named}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return value


def _normal_json(value: Any) -> str:
    # As Go writes it: the relay keeps its own text of what it has read.
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # A surrogate that stands alone is no character, and Go writes another one in its place.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").translate(_HTML)


def _read(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)
