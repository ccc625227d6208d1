"""Digests of configs: what stands in a ledger stays true, whatever becomes of the code."""

import copy
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from crynux_async.training.config import FineTuneConfig
from tests.strategies import config_fields

# What version 0.1.0 made of these arguments: the values that its ledgers hold, and the digest beside them.
RECORDED: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "config_digests.jsonl").read_text(encoding="utf-8").splitlines()
]


@pytest.mark.parametrize("record", RECORDED, ids=lambda record: record["name"])
def test_digest_of_a_stored_config_is_the_one_that_was_stored_with_it(record: dict[str, Any]) -> None:
    assert FineTuneConfig.from_dict(record["stored"]).digest() == record["digest"]


@pytest.mark.parametrize("record", RECORDED, ids=lambda record: record["name"])
def test_arguments_of_an_old_script_still_make_the_config_that_was_stored(record: dict[str, Any]) -> None:
    assert json.loads(json.dumps(FineTuneConfig(**record["asked"]).to_dict())) == record["stored"]


def test_recorded_digests_are_of_more_than_thirty_trainings() -> None:
    assert len({record["digest"] for record in RECORDED}) > 30


# What was asked for

ASKED: dict[str, Any] = {"model_name": "m", "dataset_name": "d", "max_train_steps": 200}

# Every field in the order of its name, as the first version counts them; the seed only where it was given.
ASKED_FIELDS = (
    '"adam_beta1":0.9,"adam_beta2":0.999,"adam_epsilon":1e-08,"adam_weight_decay":0.01,"batch_size":1,'
    '"center_crop":false,"dataset_caption_column":"text","dataset_config_name":null,"dataset_image_column":"image",'
    '"dataset_name":"d","dataset_url":null,"gradient_accumulation_steps":1,"init_lora_weights":"gaussian",'
    '"learning_rate":0.0001,"lr_scheduler":"constant","lr_warmup_steps":0,"max_grad_norm":1.0,"max_train_epochs":1,'
    '"max_train_steps":200,"mixed_precision":"fp16","model_name":"m","model_revision":"main","model_variant":null,'
    '"noise_offset":0.0,"num_train_epochs":1,"num_train_steps":200,"prediction_type":null,"random_flip":false,'
    '"rank":8,"resolution":512,"scale_lr":false,'
)
MORE_FIELDS = (
    '"snr_gamma":null,"target_modules":["to_k","to_q","to_v","to_out.0"],"timeout":3600,'
    '"validation_num_images":4,"validation_prompt":null'
)


def first_version(text: str) -> str:
    return f"1:{hashlib.sha256(text.encode()).hexdigest()}"


def test_asked_digest_without_a_seed_counts_every_other_field() -> None:
    assert FineTuneConfig(**ASKED).asked_digest() == first_version(f"{{{ASKED_FIELDS}{MORE_FIELDS}}}")


def test_asked_digest_with_a_seed_counts_it_too() -> None:
    expected = first_version(f'{{{ASKED_FIELDS}"seed":7,{MORE_FIELDS}}}')
    assert FineTuneConfig(**ASKED, seed=7).asked_digest() == expected


@given(config_fields())
@settings(max_examples=40)
def test_asked_digests_of_the_same_arguments_are_equal_and_digests_only_with_a_seed(fields: dict[str, Any]) -> None:
    one, other = FineTuneConfig(**fields), FineTuneConfig.from_dict(fields)
    assert one.asked_digest() == other.asked_digest()
    if "seed" in fields:
        assert one.digest() == other.digest()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 7},
        {"timeout": 60},
        {"validation_prompt": "a cat"},
        {"lr_warmup_steps": 1},
        {"num_train_steps": 100},
        {"target_modules": ["to_q", "to_k", "to_v", "to_out.0"]},
    ],
    ids=str,
)
def test_asked_digest_of_other_arguments_differs_even_where_the_same_is_trained(changes: dict[str, Any]) -> None:
    assert FineTuneConfig(**ASKED, **changes).asked_digest() != FineTuneConfig(**ASKED).asked_digest()


def test_asked_digest_of_a_value_that_was_left_out_is_that_of_its_default() -> None:
    spelt_out = FineTuneConfig(
        **ASKED, rank=8, num_train_steps=200, target_modules=("to_k", "to_q", "to_v", "to_out.0")
    )
    assert spelt_out.asked_digest() == FineTuneConfig(**ASKED).asked_digest()


# Whether a seed was given


def test_seed_is_known_to_be_drawn_or_given() -> None:
    assert FineTuneConfig(**ASKED).seed_was_drawn
    assert FineTuneConfig.from_dict(ASKED).seed_was_drawn
    assert not FineTuneConfig(**ASKED, seed=7).seed_was_drawn
    assert not FineTuneConfig.from_dict({**ASKED, "seed": 7}).seed_was_drawn


@pytest.mark.parametrize(
    "again",
    [
        FineTuneConfig.evolve,
        lambda config: config.evolve(rank=config.rank),
        lambda config: config.effective().config.evolve(lr_warmup_steps=0),
        lambda config: FineTuneConfig.from_dict(config.to_dict(), seed_was_drawn=config.seed_was_drawn),
        copy.copy,
        copy.deepcopy,
        lambda config: pickle.loads(pickle.dumps(config)),
    ],
    ids=["evolve", "evolve of a field", "what is sent", "stored", "copy", "deep copy", "pickle"],
)
@pytest.mark.parametrize("seed", [{}, {"seed": 7}], ids=["drawn", "given"])
def test_copy_of_a_config_knows_as_well_whether_its_seed_was_drawn(
    seed: dict[str, Any], again: Callable[[FineTuneConfig], FineTuneConfig]
) -> None:
    config = FineTuneConfig(**ASKED, **seed)
    assert again(config) == config
    assert again(config).seed_was_drawn is config.seed_was_drawn
    assert again(config).asked_digest() == config.asked_digest()


def test_seed_that_evolve_is_given_counts_as_given_even_when_it_is_the_drawn_one() -> None:
    config = FineTuneConfig(**ASKED)
    assert not config.evolve(seed=config.seed).seed_was_drawn


def test_seed_in_a_dict_counts_as_given_unless_it_is_said_that_it_was_drawn() -> None:
    config = FineTuneConfig(**ASKED)
    assert not FineTuneConfig.from_dict(config.to_dict()).seed_was_drawn
    assert FineTuneConfig.from_dict(config.to_dict()) == config


def test_whether_a_seed_was_drawn_shows_in_no_dict_and_cannot_be_an_argument() -> None:
    assert "seed_was_drawn" not in FineTuneConfig(**ASKED).to_dict()
    with pytest.raises(TypeError, match="seed_was_drawn"):
        FineTuneConfig(**ASKED, seed_was_drawn=True)
