"""What the emulator's schema check says."""

from typing import Any

import pytest

from crynux_async.emulator.bridge.binding import FIELDS
from crynux_async.emulator.bridge.schema import SCHEMA_URL, is_uri, violation
from crynux_async.emulator.nodes.task_args import with_defaults


def check(**fields: Any) -> str | None:
    values = {field.name: field.zero for field in FIELDS}
    return violation(with_defaults({**values, "model_name": "m", **fields}, seed=1))


def test_defaults_alone_are_accepted() -> None:
    assert check() is None


@pytest.mark.parametrize(
    "fields",
    [
        {"dataset_url": "ftp://host/file"},
        {"dataset_url": None, "dataset_name": "a/b"},
        {"init_lora_weights": False},
        {"init_lora_weights": "loftq"},
        {"target_modules": []},
        {"target_modules": "all-linear"},
        {"validation_num_images": 10},
        {"num_train_steps": 1, "max_train_steps": 1},
        {"prediction_type": "v_prediction"},
    ],
)
def test_values_within_the_schema_are_accepted(fields: dict[str, Any]) -> None:
    assert check(**fields) is None


@pytest.mark.parametrize(
    ("fields", "instance", "message"),
    [
        ({"max_train_steps": 0}, "/train_args/max_train_steps", "must be >= 1 but found 0"),
        ({"num_train_steps": -1_000_000}, "/train_args/num_train_steps", "must be >= 1 but found -1e+06"),
        ({"validation_num_images": 11}, "/validation/num_images", "must be <= 10 but found 11"),
        ({"prediction_type": ""}, "/train_args/prediction_type", 'value must be one of "epsilon", "v_prediction"'),
        ({"mixed_precision": "fp8"}, "/mixed_precision", 'value must be one of "no", "fp16", "bf16"'),
        ({"init_lora_weights": 1.0}, "/lora/init_lora_weights", "expected boolean, but got number"),
        ({"target_modules": ["to_k", 5.0]}, "/lora/target_modules/1", "expected string, but got number"),
        ({"target_modules": True}, "/lora/target_modules", "expected array, but got boolean"),
        ({"target_modules": {}}, "/lora/target_modules", "expected array, but got object"),
        ({"dataset_url": "it's"}, "/dataset/url", "'it\\'s' is not valid 'uri'"),
        ({"dataset_url": "http://h/" + "x" * 2100}, "/dataset/url", "length must be <= 2083, but got 2109"),
    ],
)
def test_violation_names_the_place_and_the_rule(fields: dict[str, Any], instance: str, message: str) -> None:
    text = check(**fields)
    assert text is not None
    assert text.startswith(
        f"invalid task_args: jsonschema: '{instance}' does not validate with {SCHEMA_URL}#/properties/"
    )
    assert text.endswith(f": {message}")


@pytest.mark.parametrize(
    "text",
    [
        "http://host/path",
        "HTTPS://host:443/a%20b?x=%zz#f",
        "mailto:a@b",
        "a:b",
        "s3://bucket/key",
        "http://[::1]:80/",
        "x:/a",
    ],
)
def test_is_uri_accepts_what_go_parses_with_a_scheme(text: str) -> None:
    assert is_uri(text)


@pytest.mark.parametrize(
    "text",
    ["", "not a url", "//host/path", "/path", ":x", "1a:b", "http://a b/", "http://h:port/", "http://h/%zz", "http://h/\n",
     "http://h/#%g0"],
)  # fmt: skip
def test_is_uri_refuses_what_go_does_not_parse_or_what_has_no_scheme(text: str) -> None:
    assert not is_uri(text)
