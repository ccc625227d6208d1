"""The JSON Schema of a config says what its fields say: held against a validator, and against the config itself."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async import ConfigError, FineTuneConfig
from crynux_async.training.fields import field_names
from crynux_async.training.json_schema import config_schema, example_config
from tests.strategies import configs

SCHEMA = jsonschema_rs.validator_for(config_schema())
GOOD = {"model_name": "crynux-ai/stable-diffusion-v1-5", "dataset_url": "https://example.com/a.zip"}

# Just inside and just outside of each kind of bound, as the fields' documentation states them.
INSIDE: list[tuple[str, Any]] = [
    ("rank", 1),
    ("validation_num_images", 10),
    ("resolution", 8),
    ("seed", 4294967295),
    ("learning_rate", 5e-324),
    ("adam_beta1", 0),
    ("adam_beta2", 0.9999999),
    ("adam_weight_decay", 0),
    ("noise_offset", -1e300),
    ("lr_warmup_steps", 0),
    ("snr_gamma", None),
    ("max_train_steps", None),
    ("prediction_type", None),
    ("prediction_type", "v_prediction"),
    ("init_lora_weights", False),
    ("init_lora_weights", "loftq"),
    ("target_modules", "to_k"),
    ("target_modules", ["to_k"]),
    ("mixed_precision", "bf16"),
    ("model_variant", None),
    ("dataset_url", "http://localhost/a"),
]
OUTSIDE: list[tuple[str, Any]] = [
    ("rank", 0),
    ("rank", 1.5),
    ("rank", 2**53 + 1),
    ("rank", "8"),
    ("rank", None),
    ("validation_num_images", 11),
    ("resolution", 7),
    ("seed", 0),
    ("seed", 4294967296),
    ("learning_rate", 0),
    ("adam_beta1", 1),
    ("adam_beta2", -0.1),
    ("adam_weight_decay", -1e-9),
    ("lr_warmup_steps", -1),
    ("snr_gamma", 0),
    ("max_train_steps", 0),
    ("prediction_type", "sample"),
    ("init_lora_weights", "pissa"),
    ("init_lora_weights", None),
    ("target_modules", []),
    ("target_modules", [" "]),
    ("target_modules", " "),
    ("mixed_precision", "fp8"),
    ("center_crop", 1),
    ("model_variant", " "),
    ("dataset_url", "ftp://example.com/a"),
    ("dataset_url", "https://example.com/" + "a" * 2083),
    ("rnak", 8),
]


@pytest.mark.parametrize(("field", "value"), INSIDE)
def test_value_inside_the_bounds_is_valid_and_makes_a_config(field: str, value: Any) -> None:
    assert SCHEMA.is_valid({**GOOD, field: value})
    FineTuneConfig.from_dict({**GOOD, field: value})


@pytest.mark.parametrize(("field", "value"), OUTSIDE)
def test_value_outside_the_bounds_is_neither_valid_nor_a_config(field: str, value: Any) -> None:
    assert not SCHEMA.is_valid({**GOOD, field: value})
    with pytest.raises(ConfigError):
        FineTuneConfig.from_dict({**GOOD, field: value})


@pytest.mark.parametrize("given_fields", [{}, {"model_name": "a"}, {"dataset_url": "https://example.com/a.zip"}])
def test_what_is_missing_is_missed_by_both(given_fields: dict[str, Any]) -> None:
    assert not SCHEMA.is_valid(given_fields)
    with pytest.raises(ConfigError):
        FineTuneConfig.from_dict(given_fields)


@given(configs())
def test_every_config_that_can_be_made_is_valid(config: FineTuneConfig) -> None:
    assert SCHEMA.is_valid(config.to_dict())


@given(st.sampled_from(field_names()), st.none() | st.booleans() | st.integers() | st.floats(-2, 2) | st.text())
def test_whatever_the_schema_refuses_is_refused_when_a_config_is_made(field: str, value: Any) -> None:
    data = {**GOOD, field: value}
    if not SCHEMA.is_valid(data):
        with pytest.raises(ConfigError):
            FineTuneConfig.from_dict(data)


def test_each_field_tells_its_type_its_meaning_and_an_example() -> None:
    properties = config_schema()["properties"]
    assert tuple(properties) == field_names()
    for name, field in properties.items():
        assert field.get("type") or field.get("enum") or field.get("anyOf"), name
        assert field["description"].endswith("."), name
        assert field.get("examples") or field.get("enum"), name


def test_examples_are_valid_and_make_a_config_each() -> None:
    for name, field in config_schema()["properties"].items():
        for example in field.get("examples", []):
            FineTuneConfig.from_dict({**GOOD, name: example})
    FineTuneConfig.from_dict(example_config())
    assert SCHEMA.is_valid(example_config())
