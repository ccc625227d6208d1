"""How the bridge binds a create, and what it refuses before it looks at the key.

Source: crynux-bridge api/v1/image/finetune_params.go and finetune.go (the structs).
"""

from typing import Any

import attrs

from crynux_async.emulator.http.binding import (
    JSON,
    BindError,
    Field,
    Kind,
    Struct,
    bind_form,
    bind_json,
    media_type,
    read_form,
)


def _fields(kind: Kind, *names: str, pointer: bool = False) -> tuple[Field, ...]:
    return tuple(Field(name=name, kind=kind, pointer=pointer) for name in names)


FIELDS: tuple[Field, ...] = (
    *_fields("string", "model_name"),
    *_fields("string", "model_variant", pointer=True),
    *_fields("string", "model_revision"),
    *_fields("string", "dataset_url", "dataset_name", "dataset_config_name", pointer=True),
    *_fields("string", "dataset_image_column", "dataset_caption_column"),
    *_fields("string", "validation_prompt", pointer=True),
    *_fields("int", "validation_num_images"),
    *_fields("bool", "center_crop", "random_flip"),
    *_fields("int", "rank"),
    *_fields("any", "init_lora_weights", "target_modules"),
    *_fields("float64", "learning_rate"),
    *_fields("int", "batch_size", "gradient_accumulation_steps"),
    *_fields("string", "prediction_type", pointer=True),
    *_fields("float64", "max_grad_norm"),
    *_fields("int", "num_train_epochs"),
    *_fields("int", "num_train_steps", pointer=True),
    *_fields("int", "max_train_epochs"),
    *_fields("int", "max_train_steps", pointer=True),
    *_fields("bool", "scale_lr"),
    *_fields("int", "resolution"),
    *_fields("float64", "noise_offset"),
    *_fields("float64", "snr_gamma", pointer=True),
    *_fields("string", "lr_scheduler"),
    *_fields("int", "lr_warmup_steps"),
    *_fields("float64", "adam_beta1", "adam_beta2", "adam_weight_decay", "adam_epsilon"),
    *_fields("string", "mixed_precision"),
    *_fields("int", "seed"),
    # A header, and a field of the same struct: without the header a body may fill it.
    Field(name="Authorization", kind="string"),
    # It has no form tag in Go, so a form has to call it by its name there.
    Field(name="timeout", kind="uint64", pointer=True, form_name="Timeout"),
)
"""Every field in the order of the Go struct."""

_REQUEST = Struct(package="image", name="SDFinetuneLoraRequest", fields=FIELDS)


@attrs.frozen(kw_only=True)
class Bound:
    """A request after binding.

    Attributes:
        values: Field name to value, one entry for every field.
        checkpoints: How many checkpoint files came with it.
    """

    values: dict[str, Any]
    checkpoints: int = 0


def bind(body: bytes, content_type: str, *, query: str = "", authorization: str = "", too_large: bool = False) -> Bound:
    """Bind and check a create as far as the bridge does before it looks at the key.

    Args:
        body: The body, at most as much as the bridge reads.
        content_type: The Content-Type header, or "".
        query: The query of the address, which a form includes.
        authorization: The Authorization header, or "".
        too_large: Whether the body went on behind what is given.

    Returns:
        All fields, unset ones with their zero value.

    Raises:
        BindError: At the first thing that does not fit.
    """
    if media_type(content_type) == JSON:
        bound = Bound(values=bind_json(_REQUEST, body, too_large=too_large))
    else:
        # JSON under any other Content-Type, or none, is an empty form: the bridge then misses the model's name.
        form = read_form(body, content_type, query, too_large=too_large)
        bound = Bound(values=bind_form(_REQUEST, form), checkpoints=len(form.files.get("checkpoint", ())))
    bound.values["Authorization"] = authorization or bound.values["Authorization"]
    # In this order: what a body lacks is said before the header is missed.
    for required in ("model_name", "Authorization"):
        if not bound.values[required]:
            raise BindError(required, f"{required} is required")
    return bound
