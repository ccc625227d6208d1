"""``FineTuneConfig``: bounds, defaults, files, and what will really be sent."""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crynux_async.errors import ConfigError, Problem
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.fields import field_names
from tests.strategies import OPTIONAL_FIELDS, config_fields, configs, texts

HOW_TO: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "howto.json").read_text(encoding="utf-8"))

# What POST /v1/images/models reads, by type. Source: crynux-bridge api/v1/image/finetune_params.go.
TEXT_FIELDS = [
    "model_name",
    "model_variant",
    "model_revision",
    "dataset_url",
    "dataset_name",
    "dataset_config_name",
    "dataset_image_column",
    "dataset_caption_column",
    "validation_prompt",
    "prediction_type",
    "lr_scheduler",
    "mixed_precision",
]
INTEGER_FIELDS = [
    "validation_num_images",
    "rank",
    "batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "num_train_steps",
    "max_train_epochs",
    "max_train_steps",
    "resolution",
    "lr_warmup_steps",
    "seed",
    "timeout",
]
NUMBER_FIELDS = [
    "learning_rate",
    "max_grad_norm",
    "noise_offset",
    "snr_gamma",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "adam_epsilon",
]
FLAG_FIELDS = ["center_crop", "random_flip", "scale_lr"]
MIXED_FIELDS = ["init_lora_weights", "target_modules"]
ALL_FIELDS = {*TEXT_FIELDS, *INTEGER_FIELDS, *NUMBER_FIELDS, *FLAG_FIELDS, *MIXED_FIELDS}

# Fields in which the bridge replaces a zero by its own default (SetDefaultValues, same file).
ZERO_IS_REPLACED = [
    "validation_num_images",
    "rank",
    "learning_rate",
    "batch_size",
    "gradient_accumulation_steps",
    "max_grad_norm",
    "num_train_epochs",
    "max_train_epochs",
    "resolution",
    "lr_warmup_steps",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "adam_epsilon",
    "seed",
]
# A zero makes no sense in any other of them.
CANNOT_BE_ZERO = {*ZERO_IS_REPLACED} - {"lr_warmup_steps", "adam_beta1", "adam_beta2", "adam_weight_decay"}


class Whole:
    """A whole number of another library, like numpy.int64."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:  # without an address: it is part of the name of a test
        return f"Whole({self.value})"


class Array:
    """Something that says it is a number and is none, like a numpy array of two."""

    def __repr__(self) -> str:
        return "Array()"

    def __float__(self) -> float:
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")


def make(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**{"model_name": "m", "dataset_url": "https://a.example/d.zip", "seed": 7, **changes})


def problems_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        function(*args, **kwargs)
    return {problem.field: problem.message for problem in caught.value.problems}


# The how-to


def test_how_to_dict_unchanged_keeps_every_value() -> None:
    data = FineTuneConfig.from_dict(HOW_TO).to_dict()
    assert {name: data[name] for name in HOW_TO} == HOW_TO


def test_how_to_dict_as_keyword_arguments_is_the_same_config() -> None:
    assert FineTuneConfig(**HOW_TO) == FineTuneConfig.from_dict(HOW_TO)


def test_how_to_dict_sent_differs_only_where_the_bridge_has_no_zero() -> None:
    (replacement,) = FineTuneConfig.from_dict(HOW_TO).effective().replacements
    assert (replacement.field, replacement.asked, replacement.sent) == ("lr_warmup_steps", 0, 1)


def test_fields_are_those_of_the_bridge() -> None:
    assert set(field_names()) == ALL_FIELDS


def test_fields_all_have_a_strategy() -> None:
    assert {*OPTIONAL_FIELDS, "model_name", "dataset_url", "dataset_name"} == ALL_FIELDS


def test_to_dict_holds_plain_json_values() -> None:
    config = make()
    assert json.loads(config.to_json()) == config.to_dict()
    assert isinstance(config.to_dict()["target_modules"], list)


def test_config_is_hashable_and_equal_by_value() -> None:
    assert len({make(), make(), make(rank=4)}) == 2


# What is refused


def test_wrong_config_lists_every_problem_at_once() -> None:
    problems = problems_of(
        FineTuneConfig.from_dict,
        {"model_nam": "m", "rnak": 4, "batch_size": "2", "timeout": 0, "lr_scheduler": "cosin", "center_crop": 1},
    )
    assert set(problems) == {
        *("model_name", "model_nam", "rnak", "batch_size", "timeout", "lr_scheduler", "center_crop", "dataset_url")
    }


def test_wrong_arguments_list_every_problem_at_once() -> None:
    problems = problems_of(make, rank=0, learning_rate=float("nan"), dataset_url=None, seed=0)
    assert set(problems) == {"rank", "learning_rate", "dataset_url", "seed"}


def test_config_error_message_names_every_field_and_the_count() -> None:
    with pytest.raises(ConfigError, match=r"2 problems\n  rank: .*\n  timeout: ") as caught:
        make(rank=0, timeout=0)
    assert caught.value.field == "rank"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("rnak", "rank"),
        ("Rank", "rank"),
        ("learningrate", "learning_rate"),
        ("dataset_ulr", "dataset_url"),
        ("max_steps", "max_train_steps"),
        ("scheduler", "lr_scheduler"),
    ],
)
def test_unknown_field_near_a_known_one_says_which(wrong: str, near: str) -> None:
    assert f"did you mean {near}?" in problems_of(FineTuneConfig.from_dict, {**HOW_TO, wrong: 1})[wrong]


def test_unknown_field_near_nothing_is_refused_without_a_guess() -> None:
    assert "mean" not in problems_of(FineTuneConfig.from_dict, {**HOW_TO, "zzzzzz": 1})["zzzzzz"]


def test_unknown_choice_near_a_known_one_says_which() -> None:
    assert "'cosine'" in problems_of(make, lr_scheduler="cosin")["lr_scheduler"]


@pytest.mark.parametrize("name", INTEGER_FIELDS)
@pytest.mark.parametrize("value", [8.5, True, "8", float("inf"), float("nan"), [8], Array(), Fraction(17, 2)], ids=str)
def test_whole_number_of_another_kind_is_refused(name: str, value: Any) -> None:
    assert "whole number" in problems_of(make, **{name: value})[name]


@pytest.mark.parametrize("value", [8.0, Whole(8), Decimal(8), Fraction(16, 2)], ids=repr)
@pytest.mark.parametrize("name", INTEGER_FIELDS)
def test_whole_number_in_disguise_becomes_an_int(name: str, value: Any) -> None:
    stored = getattr(make(**{name: value}), name)
    assert stored == 8
    assert type(stored) is int


@pytest.mark.parametrize("name", NUMBER_FIELDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), True, "0.5", 10**400, Array()], ids=str)
def test_number_that_json_has_not_is_refused(name: str, value: Any) -> None:
    assert name in problems_of(make, **{name: value})


@pytest.mark.parametrize("name", NUMBER_FIELDS)
@pytest.mark.parametrize("value", [Decimal("0.5"), Fraction(1, 2), 0.5])
def test_number_of_another_kind_becomes_a_float(name: str, value: Any) -> None:
    stored = getattr(make(**{name: value}), name)
    assert stored == 0.5
    assert type(stored) is float


def test_int_in_a_number_field_becomes_a_float() -> None:
    assert type(make(max_grad_norm=1).max_grad_norm) is float


@pytest.mark.parametrize("name", FLAG_FIELDS)
@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_flag_of_another_type_is_refused(name: str, value: Any) -> None:
    assert name in problems_of(make, **{name: value})


@pytest.mark.parametrize("name", TEXT_FIELDS)
@pytest.mark.parametrize("value", ["", "  ", 5, b"m", "half \ud83d"], ids=repr)
def test_text_that_is_none_is_refused(name: str, value: Any) -> None:
    assert name in problems_of(make, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("validation_num_images", 0),
        ("validation_num_images", 11),
        ("rank", 0),
        ("rank", -1),
        ("rank", 2**53 + 1),
        ("rank", 10**5000),
        ("batch_size", 0),
        ("num_train_steps", 0),
        ("max_train_steps", -1),
        ("resolution", 7),
        ("lr_warmup_steps", -1),
        ("seed", 0),
        ("seed", 2**32),
        ("timeout", 0),
        ("learning_rate", 0),
        ("learning_rate", -1e-4),
        ("max_grad_norm", 0),
        ("snr_gamma", 0),
        ("adam_beta1", 1),
        ("adam_beta2", -0.1),
        ("adam_weight_decay", -1),
        ("adam_epsilon", 0),
        ("mixed_precision", "fp8"),
        ("prediction_type", "noise"),
        ("init_lora_weights", "magic"),
        ("init_lora_weights", 1),
        ("target_modules", None),
        ("target_modules", []),
        ("target_modules", ["to_k", ""]),
        ("target_modules", ["to_k", 1]),
        ("target_modules", "half \ud83d"),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) else hex(value)[:20],
)
def test_value_out_of_bounds_is_refused(name: str, value: Any) -> None:
    assert name in problems_of(make, **{name: value})


@pytest.mark.parametrize(
    "url",
    [
        "not a url",
        "ftp://a.example/d.zip",
        "https://",
        "https:///d.zip",
        "http://[::1/d",
        "https://a.example/d e",
        "s3://b",
    ],
)
def test_dataset_url_that_no_node_can_load_is_refused(url: str) -> None:
    assert "address" in problems_of(make, dataset_url=url)["dataset_url"]


def test_dataset_url_longer_than_the_schema_allows_is_refused() -> None:
    base = "https://a.example/"
    assert len(make(dataset_url=base + "x" * (2083 - len(base))).dataset_url or "") == 2083
    assert "2083" in problems_of(make, dataset_url=base + "x" * (2084 - len(base)))["dataset_url"]


def test_problem_with_a_huge_value_stays_short() -> None:
    assert len(problems_of(make, rank=[1] * 100_000)["rank"]) < 200


def test_config_without_any_data_set_is_refused() -> None:
    assert "dataset_name" in problems_of(FineTuneConfig, model_name="m")["dataset_url"]


def test_bound_for_a_value_too_large_names_the_upper_bound() -> None:
    assert str(2**53) in problems_of(make, rank=2**53 + 1)["rank"]


# Defaults


@pytest.mark.parametrize(
    "field", [field for field in attrs.fields(FineTuneConfig) if field.init], ids=attrgetter("name")
)
def test_default_is_a_value_that_could_be_given(field: Any) -> None:
    kind = field.metadata["kind"]
    if field.default is not attrs.NOTHING and not isinstance(field.default, type(attrs.Factory(list))):
        kept = field.default if kind.read is None else kind.read(field.default)
        assert (repr(kept), kind.problem(kept)) == (repr(field.default), None)


def test_defaults_send_the_four_attention_modules() -> None:
    assert make().target_modules == ("to_k", "to_q", "to_v", "to_out.0")


@pytest.mark.parametrize("asked", ["num_train_steps", "max_train_steps"])
def test_steps_given_once_make_one_round(asked: str) -> None:
    config = make(**{asked: 500})
    assert (config.num_train_steps, config.max_train_steps) == (500, 500)


@pytest.mark.parametrize("asked", ["num_train_epochs", "max_train_epochs"])
def test_epochs_given_once_make_one_round(asked: str) -> None:
    config = make(**{asked: 3})
    assert (config.num_train_epochs, config.max_train_epochs) == (3, 3)
    assert (config.num_train_steps, config.max_train_steps) == (None, None)


def test_rounds_asked_for_are_kept() -> None:
    config = make(num_train_steps=100, max_train_steps=200)
    assert (config.num_train_steps, config.max_train_steps) == (100, 200)


def test_epochs_of_a_job_with_steps_of_a_round_stay_the_length_of_the_job() -> None:
    config = make(num_train_steps=100, max_train_epochs=3)
    assert (config.num_train_steps, config.max_train_steps, config.max_train_epochs) == (100, None, 3)


def test_epochs_of_a_round_in_a_job_with_steps_leave_it_one_round() -> None:
    config = make(num_train_epochs=1, max_train_steps=300)
    assert (config.num_train_steps, config.max_train_steps) == (300, 300)


def test_nothing_about_length_is_one_round_of_one_epoch() -> None:
    config = make()
    assert (config.num_train_epochs, config.max_train_epochs) == (1, 1)
    assert (config.num_train_steps, config.max_train_steps) == (None, None)


def test_seed_not_given_is_drawn_anew_for_every_config() -> None:
    seeds = {FineTuneConfig(model_name="m", dataset_name="d").seed for _ in range(20)}
    assert len(seeds) > 1
    assert all(1 <= seed < 2**32 for seed in seeds)


def test_seed_that_was_drawn_is_recorded() -> None:
    config = FineTuneConfig(model_name="m", dataset_name="d")
    assert config.to_dict()["seed"] == config.seed
    assert FineTuneConfig.from_dict(config.to_dict()) == config


# What will really be sent


@pytest.mark.parametrize("name", ZERO_IS_REPLACED)
def test_zero_that_the_bridge_would_replace_is_refused_or_mapped_to_something_else(name: str) -> None:
    if name in CANNOT_BE_ZERO:
        assert name in problems_of(make, **{name: 0})
    else:
        assert getattr(make(**{name: 0}).effective().config, name) != 0


@pytest.mark.parametrize(
    ("name", "sent"),
    [("lr_warmup_steps", 1), ("adam_weight_decay", 1e-12), ("adam_beta1", 1e-12), ("adam_beta2", 1e-12)],
)
def test_zero_that_the_bridge_cannot_express_is_sent_as_the_nearest_value(name: str, sent: float) -> None:
    effective = make(**{"lr_warmup_steps": 5, name: 0}).effective()
    (replacement,) = effective.replacements
    assert getattr(effective.config, name) == sent
    assert (replacement.field, replacement.asked, replacement.sent) == (name, 0, sent)


def test_dataset_url_beside_a_name_is_not_sent() -> None:
    effective = make(dataset_name="d", lr_warmup_steps=5).effective()
    assert (effective.config.dataset_url, effective.config.dataset_name) == (None, "d")
    assert [item.field for item in effective.replacements] == ["dataset_url"]


def test_replacement_as_text_names_both_values() -> None:
    assert str(make().effective().replacements[0]).startswith("lr_warmup_steps: 0 is sent as 1: ")


def test_digest_has_64_hexadecimal_digits() -> None:
    assert len(make().digest()) == 64
    assert int(make().digest(), 16)


def test_digest_of_a_zero_and_of_what_is_sent_for_it_is_equal() -> None:
    assert make(lr_warmup_steps=0).digest() == make(lr_warmup_steps=1).digest()


def test_digest_of_zero_does_not_depend_on_its_sign() -> None:
    assert make(noise_offset=-0.0).digest() == make(noise_offset=0.0).digest()


@given(configs())
@settings(max_examples=40)
def test_effective_twice_changes_nothing_more(config: FineTuneConfig) -> None:
    effective = config.effective().config.effective()
    assert effective.replacements == ()
    assert effective.config == config.effective().config


@given(configs(), st.data())
@settings(max_examples=60)
def test_digest_is_equal_where_the_same_is_sent(config: FineTuneConfig, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(OPTIONAL_FIELDS)))
    other = attrs.evolve(config, **{name: data.draw(OPTIONAL_FIELDS[name])})
    if config.effective().config == other.effective().config:
        assert config.digest() == other.digest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"timeout": 60}, {"timeout": 7200}),
        ({"validation_prompt": "a cat", "validation_num_images": 1}, {}),
        ({"max_train_steps": 100, "max_train_epochs": 7}, {"max_train_steps": 100}),
        ({"max_train_steps": 100, "num_train_epochs": 7}, {"max_train_steps": 100}),
        ({"max_train_steps": 100, "num_train_steps": 500}, {"max_train_steps": 100}),
        ({"max_train_epochs": 3, "num_train_epochs": 9}, {"max_train_epochs": 3}),
        ({"lr_scheduler": "constant", "lr_warmup_steps": 50}, {"lr_scheduler": "constant"}),
        ({"scale_lr": True, "batch_size": 4, "learning_rate": 0.25}, {"batch_size": 4, "learning_rate": 1.0}),
        ({"scale_lr": True}, {"scale_lr": False}),
        ({"dataset_name": "d"}, {"dataset_name": "d", "dataset_url": None}),
        ({"target_modules": ["to_q", "to_k"]}, {"target_modules": ["to_k", "to_q", "to_k"]}),
    ],
)
def test_digest_of_configs_that_train_the_same_is_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert make(**one).digest() == make(**other).digest()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 50}, {"lr_scheduler": "cosine"}),
        ({"max_train_steps": 100, "num_train_steps": 50}, {"max_train_steps": 100}),
        ({"scale_lr": True, "batch_size": 4}, {"batch_size": 4}),
        ({"batch_size": 2}, {"gradient_accumulation_steps": 2}),
        ({"num_train_steps": 100, "max_train_epochs": 3}, {"num_train_steps": 100}),
        ({"dataset_config_name": "small"}, {}),
        ({"seed": 8}, {}),
    ],
)
def test_digest_of_configs_that_train_otherwise_differs(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert make(**one).digest() != make(**other).digest()


ALWAYS_USED = sorted(
    {*OPTIONAL_FIELDS, "model_name"}
    - {
        *("timeout", "validation_prompt", "validation_num_images", "lr_warmup_steps", "scale_lr", "target_modules"),
        *("num_train_epochs", "num_train_steps", "max_train_epochs", "max_train_steps"),
        *("learning_rate", "adam_beta1", "adam_beta2", "adam_weight_decay"),
    }
)


@given(configs(), st.sampled_from(ALWAYS_USED), st.data())
@settings(max_examples=60)
def test_digest_of_another_value_that_is_always_used_differs(
    config: FineTuneConfig, name: str, data: st.DataObject
) -> None:
    value = data.draw(OPTIONAL_FIELDS.get(name, texts()))
    other = attrs.evolve(config, **{name: value})
    # scale_lr multiplies the learning rate by both: it may round to the same.
    assume(name not in ("batch_size", "gradient_accumulation_steps") or not config.scale_lr)
    # What a scheduler does after a warm-up is not seen in a training that ends in it.
    assume(name != "lr_scheduler" or config.lr_warmup_steps < (config.max_train_steps or math.inf))
    assert (config.digest() == other.digest()) is (getattr(config, name) == getattr(other, name))


# Copies and files


@given(configs())
@settings(max_examples=60)
def test_dict_of_any_config_gives_it_back(config: FineTuneConfig) -> None:
    assert FineTuneConfig.from_dict(config.to_dict()) == config


@given(config_fields())
@settings(max_examples=30)
def test_any_config_from_a_dict_is_the_one_from_arguments(fields: dict[str, Any]) -> None:
    fields.setdefault("seed", 1)
    assert FineTuneConfig.from_dict(fields) == FineTuneConfig(**fields)


@pytest.mark.parametrize("name", ["c.json", "c.toml"])
def test_file_of_any_config_gives_it_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / name

    @given(configs())
    @settings(max_examples=40)
    def check(config: FineTuneConfig) -> None:
        path.write_text(config.to_json() if path.suffix == ".json" else config.to_toml(), encoding="utf-8")
        assert FineTuneConfig.from_file(path) == config

    check()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.toml", b"rank = ["),
        ("c.json", b"{"),
        ("c.json", b"[1]"),
        ("c.json", b"\xff"),
        ("c.json", b"1" * 5000),
    ],
)
def test_file_that_is_no_table_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert name in problems_of(FineTuneConfig.from_file, tmp_path / name)["(file)"]


@pytest.mark.parametrize("name", ["c.json", "c.toml"])
def test_file_with_a_byte_order_mark_is_read(name: str, tmp_path: Path) -> None:
    config = FineTuneConfig(model_name="m", dataset_name="d", seed=1)
    text = config.to_json() if name.endswith(".json") else config.to_toml()
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert FineTuneConfig.from_file(tmp_path / name) == config


def test_file_that_is_missing_is_a_config_error(tmp_path: Path) -> None:
    assert "(file)" in problems_of(FineTuneConfig.from_file, tmp_path / "nothing.toml")


def test_file_with_a_wrong_field_names_it(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('model_name = "m"\ndataset_name = "d"\nrnak = 4\n', encoding="utf-8")
    assert "rank" in problems_of(FineTuneConfig.from_file, path)["rnak"]


def test_evolve_keeps_everything_else_and_the_seed() -> None:
    config = FineTuneConfig(model_name="m", dataset_name="d", rank=4)
    changed = config.evolve(rank=16)
    assert changed.seed == config.seed
    assert changed.evolve(rank=4) == config


def test_evolve_of_a_one_round_job_keeps_one_round() -> None:
    config = make(max_train_steps=200).evolve(max_train_steps=400)
    assert (config.num_train_steps, config.max_train_steps) == (400, 400)


def test_evolve_of_a_job_in_rounds_keeps_the_length_of_a_round() -> None:
    config = make(num_train_steps=100, max_train_steps=200).evolve(max_train_steps=400)
    assert (config.num_train_steps, config.max_train_steps) == (100, 400)


def test_evolve_of_both_lengths_takes_both() -> None:
    config = make(max_train_steps=200).evolve(max_train_steps=400, num_train_steps=50)
    assert (config.num_train_steps, config.max_train_steps) == (50, 400)


def test_evolve_of_the_round_alone_makes_rounds() -> None:
    config = make(max_train_steps=200).evolve(num_train_steps=50)
    assert (config.num_train_steps, config.max_train_steps) == (50, 200)


def test_evolve_from_steps_to_epochs_drops_both_steps() -> None:
    config = make(max_train_steps=200).evolve(max_train_steps=None, max_train_epochs=5)
    assert (config.num_train_steps, config.max_train_steps) == (None, None)
    assert (config.num_train_epochs, config.max_train_epochs) == (5, 5)


def test_evolve_to_steps_of_a_job_without_any_length_makes_one_round() -> None:
    config = make().evolve(num_train_steps=100)
    assert (config.num_train_steps, config.max_train_steps) == (100, 100)


@pytest.mark.parametrize("epochs", [1, 3])
def test_evolve_of_something_else_keeps_epochs_with_steps_of_a_round(epochs: int) -> None:
    config = make(num_train_steps=100, max_train_epochs=epochs)
    assert config.evolve(rank=16).evolve(rank=config.rank) == config


@given(configs())
@settings(max_examples=60)
def test_evolve_of_nothing_changes_nothing(config: FineTuneConfig) -> None:
    assert config.evolve() == config


def test_evolve_to_a_wrong_or_unknown_field_lists_both() -> None:
    assert set(problems_of(make().evolve, rank=0, rnak=1)) == {"rank", "rnak"}


def test_what_is_wrong_between_fields_is_said_once_and_alike_by_all_that_make_configs() -> None:
    wrong = {"model_name": "m"}
    ways = [partial(FineTuneConfig, **wrong), partial(FineTuneConfig.from_dict, wrong)]
    for way in [*ways, partial(make().evolve, dataset_url=None, dataset_name=None)]:
        with pytest.raises(ConfigError) as caught:
            way()
        assert [problem.field for problem in caught.value.problems] == ["dataset_url"]


def test_problem_as_text_begins_with_the_field() -> None:
    assert str(Problem(field="rank", message="is wrong")) == "rank: is wrong"


def test_dataset_url_with_a_broken_escape_is_refused() -> None:
    with pytest.raises(ConfigError, match="dataset_url"):
        FineTuneConfig(model_name="m", dataset_url="https://example.com/%zz.zip")


def test_evolve_with_a_seed_is_a_config_with_that_seed() -> None:
    drawn = FineTuneConfig(model_name="a/b", dataset_name="c/d", max_train_steps=10)
    given, made = drawn.evolve(seed=7), FineTuneConfig(model_name="a/b", dataset_name="c/d", max_train_steps=10, seed=7)
    assert given == made
    assert (given.seed, given.seed_was_drawn, drawn.seed_was_drawn) == (7, False, True)
    assert given.asked_digest() == made.asked_digest()


@pytest.mark.parametrize("seed", [0, -1, 2**32, True, 1.5, "7"])
def test_evolve_takes_seeds_only(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed"):
        FineTuneConfig(model_name="a/b", dataset_name="c/d", max_train_steps=10).evolve(seed=seed)
