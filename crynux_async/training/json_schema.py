"""What a config may hold, as JSON Schema: made from the fields themselves, so that it cannot say anything else.

Source: JSON Schema draft 2020-12, which OpenAPI 3.1 uses.
"""

import inspect
import re
from typing import Any

import attrs

from crynux_async.training.config import FineTuneConfig
from crynux_async.training.fields import ConfigFields, field_kinds

_ENTRY = re.compile(r"^    (\w+): (.+(?:\n        .+)*)", re.MULTILINE)


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config: every field with its type, bounds, default, meaning and an example.

    It says what one field may hold. What is wrong between fields, and an address that no node could load, is refused
    by ``FineTuneConfig.from_dict`` only.
    """
    meanings = _meanings()
    fields = {field.name: field for field in attrs.fields(ConfigFields) if field.init}
    return {
        "type": "object",
        "title": "FineTuneConfig",
        "description": "What to train. Every field is sent explicitly, so what is sent is what runs.",
        "properties": {name: _field_schema(field, meanings.get(name, "")) for name, field in fields.items()},
        "required": [name for name, field in fields.items() if field.default is attrs.NOTHING],
        "anyOf": [{"required": ["dataset_url"]}, {"required": ["dataset_name"]}],
        "additionalProperties": False,
        "examples": [example_config()],
    }


def example_config() -> dict[str, Any]:
    """Return a small config that works, as its JSON values: those fields that most jobs give."""
    kinds = field_kinds()
    names = ("model_name", "model_variant", "dataset_url", "max_train_steps")
    return {name: kinds[name].schema["examples"][0] for name in names}


def _field_schema(field: "attrs.Attribute[Any]", meaning: str) -> dict[str, Any]:
    schema = {**field.metadata["kind"].schema, **({"description": meaning} if meaning else {})}
    default = field.default
    if default is attrs.NOTHING or isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return schema
    shown = list(default) if isinstance(default, tuple) else default
    examples = {} if shown is None else {"examples": [shown]}
    return {"default": shown, **schema, **examples}


def _meanings() -> dict[str, str]:
    """Return what the documentation says of each field; nothing where Python runs without docstrings (-OO)."""
    documentation = inspect.getdoc(FineTuneConfig) or ""
    _, _, attributes = documentation.partition("\nAttributes:\n")
    attributes, _, _ = attributes.partition("\n\n")
    return {name: re.sub(r"\s+", " ", text) for name, text in _ENTRY.findall(attributes)}
