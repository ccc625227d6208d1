"""What becomes of a config on its way: asked for, sent, used."""

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.effective import EffectiveField
from crynux_async.training.lengths import most_rounds
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts
from tests.strategies import configs


def make(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**{"model_name": "m", "dataset_url": "https://a.example/d.zip", "seed": 7, **changes})


def field(config: FineTuneConfig, name: str, images: int | None = None) -> EffectiveField:
    (found,) = (item for item in config.effective(images).fields if item.field == name)
    return found


def test_plain_config_of_one_round_has_no_differences() -> None:
    assert make(max_train_steps=200).effective().differences == ()


def test_fields_are_all_of_the_config_in_their_order() -> None:
    names = [item.field for item in make().effective().fields]
    assert names == [item.name for item in attrs.fields(FineTuneConfig) if item.init]


def test_field_that_nothing_happens_to_is_the_same_at_each_station() -> None:
    rank = field(make(rank=4), "rank")
    assert (rank.asked, rank.sent, rank.used, rank.is_ignored, rank.is_changed) == (4, 4, 4, False, False)


@pytest.mark.parametrize(
    ("asked", "name", "sent", "used", "reason"),
    [
        ({"lr_scheduler": "cosine"}, "lr_warmup_steps", 1, 1, "500"),
        ({"adam_weight_decay": 0}, "adam_weight_decay", 1e-12, 1e-12, "0.01"),
        ({"adam_beta1": 0}, "adam_beta1", 1e-12, 1e-12, "0.9"),
        ({"dataset_name": "d"}, "dataset_url", None, None, "dataset_name"),
        ({"lr_warmup_steps": 9}, "lr_warmup_steps", 9, None, "no warm-up"),
        ({"num_train_steps": 500, "max_train_steps": 100}, "num_train_steps", 500, 100, "no more steps"),
        ({"num_train_epochs": 9, "max_train_epochs": 3}, "num_train_epochs", 9, 3, "no more epochs"),
        ({"max_train_steps": 100, "max_train_epochs": 3}, "max_train_epochs", 3, None, "max_train_steps decides"),
        ({"max_train_steps": 100, "num_train_epochs": 3}, "num_train_epochs", 3, None, "one round of 100 steps"),
    ],
)
def test_value_that_is_not_used_as_asked_for_is_a_difference_with_its_reason(
    asked: dict[str, Any], name: str, sent: Any, used: Any, reason: str
) -> None:
    config = make(**asked)
    (found,) = (item for item in config.effective().differences if item.field == name)
    assert (found.asked, found.sent, found.used) == (getattr(config, name), sent, used)
    assert reason in found.reason


def test_scaled_learning_rate_is_multiplied_by_batch_and_accumulation() -> None:
    config = make(scale_lr=True, learning_rate=1e-3, batch_size=4, gradient_accumulation_steps=2)
    assert field(config, "learning_rate").used == pytest.approx(8e-3)


def test_value_that_is_replaced_and_then_ignored_gives_both_reasons() -> None:
    found = field(make(lr_warmup_steps=0), "lr_warmup_steps")
    assert (found.sent, found.used, found.is_ignored) == (1, None, True)
    assert "500" in found.reason
    assert "no warm-up" in found.reason


def test_epochs_with_images_become_steps() -> None:
    config = make(max_train_epochs=3, batch_size=4, gradient_accumulation_steps=2)
    assert field(config, "max_train_steps").used is None
    assert field(config, "max_train_steps", images=18).used == 3 * 3  # 5 batches, so 3 steps an epoch


def test_validation_images_are_limited_by_the_data_set_unless_there_is_a_prompt() -> None:
    assert field(make(validation_num_images=10), "validation_num_images", images=8).used == 8
    assert (
        field(make(validation_num_images=10, validation_prompt="a cat"), "validation_num_images", images=8).used == 10
    )


def test_difference_as_text_names_every_station() -> None:
    (found,) = make(lr_warmup_steps=9).effective().differences
    assert str(found) == "lr_warmup_steps: 9 -> 9 -> not used: the constant scheduler has no warm-up"


@given(configs(), st.none() | st.integers(1, 2**40))
@settings(max_examples=60)
def test_what_is_sent_is_what_is_asked_for_but_for_the_replacements(config: FineTuneConfig, images: int | None) -> None:
    effective = config.effective(images)
    changes = {item.field: item.sent for item in effective.replacements}
    assert effective.config == attrs.evolve(config, **changes)


@pytest.mark.parametrize(
    ("asked", "images", "rounds"),
    [
        ({}, None, 1),
        ({"max_train_steps": 500}, None, 1),
        ({"num_train_steps": 100, "max_train_steps": 201}, None, 3),
        ({"num_train_steps": 300, "max_train_steps": 200}, None, 1),
        ({"num_train_epochs": 2, "max_train_epochs": 5}, None, 3),
        ({"num_train_steps": 100, "max_train_epochs": 3}, None, None),
        ({"num_train_steps": 100, "max_train_epochs": 3}, 80, 3),
        ({"num_train_steps": 100, "max_train_epochs": 3}, 20, 1),
    ],
)
def test_rounds_at_most_follow_from_the_lengths(asked: dict[str, Any], images: int | None, rounds: int | None) -> None:
    assert most_rounds(make(**asked), images) == rounds


@pytest.mark.parametrize("facts", [BRIDGE_FACTS, RELAY_FACTS])
@given(configs())
def test_what_is_sent_is_that_of_effective(facts: ServiceFacts, config: FineTuneConfig) -> None:
    assert config.sent(facts.mapping) == config.effective(mapping=facts.mapping).config
