"""What a service adds: what it cannot be sent, what a round costs, how long it may take. The bridge is only one."""

from typing import Any

import attrs
import pytest
from hypothesis import given, settings

from crynux_async.training import advice
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.lengths import stall_seconds
from crynux_async.training.service import (
    BRIDGE_FACTS,
    BRIDGE_MAPPING,
    OmittedField,
    ReplacedValue,
    ServiceFacts,
    ValueMapping,
)
from crynux_async.training.simulation import simulate
from tests.strategies import configs

# A service that can be sent everything, as the relay can; its other numbers are none that the bridge has.
PLAIN = ServiceFacts(
    fee_cnx=2.5,
    account="your own account",
    queue_seconds=100.0,
    failed_rounds=2,
    endless_share=0.0,
    has_validation_images=True,
    retention=None,
)


def make(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**{"model_name": "m", "dataset_url": "https://a.example/d.zip", "seed": 7, **changes})


def codes(found: list[advice.Advice]) -> set[str]:
    return {item.code for item in found}


@pytest.mark.parametrize("name", ["lr_warmup_steps", "adam_weight_decay", "adam_beta1", "adam_beta2"])
def test_zero_is_sent_as_it_is_to_a_service_that_takes_it(name: str) -> None:
    effective = make(**{"lr_scheduler": "cosine", name: 0}).effective(mapping=PLAIN.mapping)
    assert effective.replacements == ()
    assert getattr(effective.config, name) == 0
    assert name not in {item.field for item in effective.differences}


@given(configs())
@settings(max_examples=40)
def test_service_without_rules_is_sent_exactly_what_was_asked_for(config: FineTuneConfig) -> None:
    assert config.effective(mapping=ValueMapping()).config == config


def test_address_beside_a_name_is_sent_and_not_used_where_no_rule_omits_it() -> None:
    effective = make(dataset_name="d").effective(mapping=PLAIN.mapping)
    (difference,) = effective.differences
    assert effective.config.dataset_url == "https://a.example/d.zip"
    assert (difference.field, difference.used, difference.is_ignored) == ("dataset_url", None, True)


def test_mapping_of_ones_own_replaces_and_omits_by_its_own_rules() -> None:
    mapping = ValueMapping(
        replaced=(ReplacedValue(field="rank", value=8, sent=16, reason="it has no 8"),),
        omitted=(OmittedField(field="dataset_name", beside="dataset_url", reason="it prefers addresses"),),
    )
    effective = make(dataset_name="d").effective(mapping=mapping)
    assert [(item.field, item.asked, item.sent, item.reason) for item in effective.replacements] == [
        ("rank", 8, 16, "it has no 8"),
        ("dataset_name", "d", None, "it prefers addresses"),
    ]
    assert (effective.config.rank, effective.config.dataset_name) == (16, None)
    assert (effective.asked.rank, effective.asked.dataset_name) == (8, "d")


def test_digest_is_the_same_whichever_service_trains() -> None:
    config = make(lr_scheduler="cosine", lr_warmup_steps=0)
    assert config.effective(mapping=PLAIN.mapping).config.digest() == config.effective().config.digest()


def test_schedule_without_a_warm_up_begins_at_the_peak_where_the_service_takes_a_zero() -> None:
    config = make(lr_scheduler="linear", lr_warmup_steps=0, max_train_steps=100, learning_rate=0.5)
    plain, bridge = simulate(config, service=PLAIN).schedule, simulate(config).schedule
    assert plain is not None
    assert bridge is not None
    assert (plain.at(1), bridge.at(1)) == (0.5, 0.0)


def test_advice_tells_of_a_replaced_zero_only_where_it_is_replaced() -> None:
    config = make(lr_scheduler="cosine", lr_warmup_steps=0, max_train_steps=100)
    assert "CX108" in codes(advice.check(config))
    assert "CX108" not in codes(advice.check(config, service=PLAIN))


def test_cost_is_the_services_unless_another_fee_is_named() -> None:
    config = make(num_train_steps=100, max_train_steps=400)
    known = simulate(config, service=PLAIN)
    assert (known.cost(), known.cost(1.0)) == (4 * 2.5, 4 * 1.0)
    messages = {
        fee: next(item.message for item in advice.check(config, fee_cnx=fee, service=PLAIN) if item.code == "CX401")
        for fee in (None, 7.0)
    }
    assert "2.5 CNX: 10 CNX, from your own account." in messages[None]
    assert "7 CNX: 28 CNX" in messages[7.0]


def test_times_follow_from_the_services_queue_and_patience() -> None:
    config = make(num_train_steps=100, max_train_steps=300, timeout=60)
    known = simulate(config, service=PLAIN)
    round_seconds = 100 + 60 + 60
    assert known.longest_duration == 3 * round_seconds
    assert known.longest_failure == 2 * round_seconds
    assert known.stall_deadline == stall_seconds(config, PLAIN) == (3 + 2 - 1) * round_seconds


def test_time_until_a_mistake_shows_counts_the_services_failed_rounds() -> None:
    config = make(max_train_steps=100, timeout=60)
    (text,) = (item.message for item in advice.check(config, service=PLAIN) if item.code == "CX402")
    assert "2 rounds stay silent" in text
    (text,) = (item.message for item in advice.check(config) if item.code == "CX402")
    assert "4 rounds stay silent" in text


def test_rounds_that_never_end_are_told_of_only_where_there_are_any() -> None:
    config = make(num_train_steps=100, max_train_steps=200)
    (text,) = (item.message for item in advice.check(config) if item.code == "CX406")
    assert "One round in 100" in text
    assert "2% of such jobs" in text
    assert "CX406" not in codes(advice.check(config, service=PLAIN))
    (text,) = (
        item.message
        for item in advice.check(config, service=attrs.evolve(PLAIN, endless_share=0.5))
        if item.code == "CX406"
    )
    assert "One round in 2" in text
    assert "75% of such jobs" in text


def test_validation_images_are_useless_only_where_nobody_hands_them_out() -> None:
    config = make(validation_num_images=4)
    assert "CX117" in codes(advice.check(config))
    assert "CX117" not in codes(advice.check(config, service=PLAIN))


def test_bridge_is_the_default_wherever_no_service_is_named() -> None:
    config = make(max_train_steps=100)
    assert config.effective() == config.effective(mapping=BRIDGE_MAPPING)
    assert simulate(config) == simulate(config, service=BRIDGE_FACTS)
    assert advice.check(config) == advice.check(config, service=BRIDGE_FACTS)
    assert stall_seconds(config) == stall_seconds(config, BRIDGE_FACTS)


def test_facts_of_another_operator_are_the_bridges_with_one_changed() -> None:
    assert attrs.evolve(BRIDGE_FACTS, fee_cnx=20.0).mapping == BRIDGE_MAPPING


@pytest.mark.parametrize(
    "rounds",
    [{"max_train_steps": 100, "num_train_steps": 50}, {"max_train_epochs": 10, "num_train_steps": 50}],
    ids=["known", "not known"],
)
def test_service_that_takes_one_round_is_asked_for_no_chain(rounds: dict[str, Any]) -> None:
    config = make(**rounds)
    given = advice.check(config, service=attrs.evolve(PLAIN, takes_rounds=False))
    (found,) = [item for item in given if item.code == "CX201"]
    assert found.severity == "error"
    assert "untrained weights" in found.message
    assert "num_train_steps" in found.action
    assert not advice.has_error(advice.check(config, service=PLAIN))


def test_service_that_takes_one_round_is_asked_for_one() -> None:
    found = advice.check(make(max_train_steps=100), service=attrs.evolve(PLAIN, takes_rounds=False))
    assert "CX201" not in codes(found)
