"""A config on its way to the relay: nothing is lost, and the relay would write it the same way."""

import json

import attrs
import pytest
from hypothesis import given

from crynux_async.backends.relay.arguments import RELAY_FACTS, config_of, model_ids, same_args, task_args
from crynux_async.emulator.relay.arguments import node_args, normalised
from crynux_async.emulator.relay.schema import violation
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.fields import field_names
from tests.strategies import configs

CONFIG = FineTuneConfig(
    model_name="Crynux-Network/Stable-Diffusion-V1-5",
    model_variant="FP16",
    dataset_url="https://example.com/d?a=1&b=2",
    max_train_steps=100,
    seed=42,
    timeout=1800,
)


@given(configs())
def test_node_gets_every_field_as_it_was_asked_for(config: FineTuneConfig) -> None:
    effective = config.effective(mapping=RELAY_FACTS.mapping).config
    args = node_args(task_args(effective), timeout=config.timeout)
    got = attrs.asdict(args, recurse=False)
    for name in field_names():
        wanted = getattr(effective, name)
        if name == "model_name" and not wanted.startswith(("http://", "https://")):
            wanted = wanted.lower()
        if name == "target_modules" and not isinstance(wanted, str):
            wanted = tuple(wanted)
        assert got[name] == wanted, name


@given(configs())
def test_relay_takes_it_and_would_write_it_the_same_way(config: FineTuneConfig) -> None:
    text = task_args(config.effective(mapping=RELAY_FACTS.mapping).config)
    assert violation(json.loads(text), 2) is None
    assert normalised(text) == text


@given(configs())
def test_config_is_read_again_from_what_the_relay_shows(config: FineTuneConfig) -> None:
    effective = config.effective(mapping=RELAY_FACTS.mapping).config
    name = effective.model_name
    shown = normalised(task_args(effective))
    expected = effective if name.startswith(("http://", "https://")) else effective.evolve(model_name=name.lower())
    assert config_of(shown, config.timeout) == expected


@pytest.mark.parametrize("args", ["{}", "[]", "7", "{", '{"model":{"name":7}}', "[" * 100_000])
def test_arguments_of_another_program_are_no_config(args: str) -> None:
    assert config_of(args, 600) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr_warmup_steps", 0), ("adam_weight_decay", 0.0), ("adam_beta1", 0.0), ("adam_beta2", 0.0), ("scale_lr", True)],
)
def test_zeros_that_a_bridge_cannot_be_sent_are_sent(field: str, value: object) -> None:
    config = CONFIG.evolve(**{field: value})
    effective = config.effective(mapping=RELAY_FACTS.mapping)
    assert not effective.replacements
    assert getattr(node_args(task_args(effective.config), timeout=1), field) == value


def test_no_checkpoint_is_ever_named() -> None:
    assert "checkpoint" not in json.loads(task_args(CONFIG))


@pytest.mark.parametrize(("variant", "expected"), [("FP16", "+fp16"), (None, "")])
def test_models_are_named_as_the_nodes_know_them(variant: str | None, expected: str) -> None:
    assert model_ids(CONFIG.evolve(model_variant=variant)) == (f"base:crynux-network/stable-diffusion-v1-5{expected}",)


def test_address_of_a_model_keeps_its_letters() -> None:
    config = CONFIG.evolve(model_name="https://example.com/A.safetensors")
    assert json.loads(task_args(config))["model"]["name"] == "https://example.com/A.safetensors"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ('{"a":1.50,"b":[1]}', '{ "b": [1], "a": 1.5 }', True),
        ('{"a":9007199254740993}', '{"a":9007199254740992}', False),
        ('{"a":1}', '{"a":"1"}', False),
        ('{"a":1}', "{", False),
        ('{"a":1}', "[" * 100_000, False),
    ],
)
def test_arguments_are_compared_by_what_they_ask_for(one: str, other: str, expected: bool) -> None:
    assert same_args(one, other) is expected
