"""Arguments of tasks: what the schema says, what the relay keeps, what a node reads."""

import json
from typing import Any

import pytest

from crynux_async.emulator.relay.arguments import ArgumentsError, node_args, normalised, parsed
from crynux_async.emulator.relay.schema import violation
from tests.relay_lab import task_args

LEAST = {"model": {"name": "m"}, "dataset": {}, "validation": {}, "train_args": {}}


def complaint(**changes: Any) -> tuple[str, str]:
    """Return place and message of what the schema says."""
    text = violation({**LEAST, **changes}, 2)
    assert text is not None
    place, _, rest = text.removeprefix("jsonschema: '").partition("' does not validate with ")
    return place, rest.partition(": ")[2]


def test_least_that_the_schema_wants_is_enough() -> None:
    assert violation(LEAST, 2) is None
    assert violation(json.loads(task_args()), 2) is None


@pytest.mark.parametrize("name", LEAST)
def test_each_required_part_is_missed(name: str) -> None:
    text = violation({key: value for key, value in LEAST.items() if key != name}, 2)
    assert text is not None
    assert text.endswith(f"ft.json#/required: missing properties: '{name}'")


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({"model": {}}, "/model", "missing properties: 'name'"),
        ({"model": {"name": ""}}, "/model/name", "length must be >= 1, but got 0"),
        ({"model": []}, "/model", "expected object, but got array"),
        ({"dataset": {"url": "no address"}}, "/dataset/url", "'no address' is not valid 'uri'"),
        ({"train_args": {"learning_rate": 0}}, "/train_args/learning_rate", "must be > 0 but found 0"),
        ({"train_args": {"batch_size": 1.5}}, "/train_args/batch_size", "expected integer, but got number"),
        ({"train_args": {"scale_lr": "yes"}}, "/train_args/scale_lr", "expected boolean, but got string"),
        ({"lora": {"target_modules": [1]}}, "/lora/target_modules/0", "expected string, but got number"),
        ({"lora": {"init_lora_weights": "pissa"}}, "/lora/init_lora_weights", "expected boolean, but got string"),
        ({"mixed_precision": "fp8"}, "/mixed_precision", 'value must be one of "no", "fp16", "bf16"'),
        ({"seed": None}, "/seed", "expected integer, but got null"),
    ],
)
def test_schema_names_place_and_rule(changes: dict[str, Any], place: str, message: str) -> None:
    assert complaint(**changes) == (place, message)


def test_relay_keeps_sorted_keys_whole_numbers_and_a_lower_case_name() -> None:
    text = '{"b": 9007199254740993, "model": {"name": "A/B<"}, "a": [1.50, "é\\u2028"], "b2": 1, "b2": 2}'
    assert normalised(text) == ('{"a":[1.50,"é\\u2028"],"b":9007199254740993,"b2":2,"model":{"name":"a/b\\u003c"}}')


def test_address_of_a_model_keeps_its_case() -> None:
    text = '{"model":{"name":"https://example.com/A"}}'
    assert normalised(text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "unexpected end of JSON input"),
        ("  ", "unexpected end of JSON input"),
        ("{} x", "invalid character 'x' after top-level value"),
        ("{a}", "invalid character 'a' looking for beginning of object key string"),
    ],
)
def test_text_that_is_not_json_is_refused_in_the_words_of_go(text: str, message: str) -> None:
    with pytest.raises(ArgumentsError) as raised:
        parsed(text)
    assert str(raised.value) == message


def test_node_fills_in_its_own_defaults() -> None:
    args = node_args(json.dumps(LEAST), timeout=60)
    assert (args.rank, args.batch_size, args.scale_lr, args.lr_warmup_steps, args.validation_num_images) == (
        8, 16, True, 500, 4,
    )  # fmt: skip
    assert (args.timeout, args.seed, args.target_modules) == (60, 0, None)


def test_node_takes_zeros_as_they_are() -> None:
    train = {"lr_scheduler": {"lr_warmup_steps": 0}, "adam_args": {"weight_decay": 0}, "scale_lr": False}
    args = node_args(json.dumps({**LEAST, "train_args": train}), timeout=60)
    assert (args.lr_warmup_steps, args.adam_weight_decay, args.scale_lr) == (0, 0, False)
