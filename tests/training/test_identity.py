"""Trainings that are the same have the same digest, and others have not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.training.config import FineTuneConfig
from crynux_async.training.schedules import schedule_of
from crynux_async.training.unet_modules import module_sizes, select, shortest_entries


def make(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**{"model_name": "m", "dataset_name": "d", "max_train_steps": 100, "seed": 7, **changes})


def digests(*changes: dict[str, Any]) -> set[str]:
    return {make(**change).digest() for change in changes}


LINEAR = {"lr_scheduler": "linear", "lr_warmup_steps": 100, "learning_rate": 1e-4}
SAME: dict[str, list[dict[str, Any]]] = {
    "all-linear in any letters": [{"target_modules": "all-linear"}, {"target_modules": "ALL-LINEAR"}],
    "an entry within another": [{"target_modules": ["to_k"]}, {"target_modules": ["attn1.to_k", "to_k"]}],
    "an entry as two": [{"target_modules": ["to_k"]}, {"target_modules": ["attn2.to_k", "attn1.to_k"]}],
    "an entry that selects nothing": [{"target_modules": ["to_k", "to_w"]}, {"target_modules": ("to_k",)}],
    "whole names": [
        {"target_modules": ["conv_in"]},
        {"target_modules": ["conv_in", "conv_in"]},
    ],
    "a rate that is multiplied": [
        {"batch_size": 3, "learning_rate": 3e-4},
        {"batch_size": 3, "learning_rate": 1e-4, "scale_lr": True},
    ],
    "a rate that is multiplied by one": [{"scale_lr": True}, {"scale_lr": False}],
    "a schedule that never begins": [
        *({**LINEAR, "lr_scheduler": name} for name in ("linear", "cosine", "cosine_with_restarts")),
        {**LINEAR, "lr_scheduler": "constant_with_warmup"},
    ],
    "a warm-up twice as long to twice the peak": [
        LINEAR,
        {**LINEAR, "lr_warmup_steps": 200, "learning_rate": 2e-4},
        {**LINEAR, "lr_warmup_steps": 300, "learning_rate": 3e-4, "lr_scheduler": "polynomial"},
    ],
}
OTHER: dict[str, list[dict[str, Any]]] = {
    "other modules": [{"target_modules": ["to_k"]}, {"target_modules": ["attn1.to_k"]}, {"target_modules": ["to_v"]}],
    # In Stable Diffusion 2.x they are linear, too: "all-linear" is no list.
    "all-linear and what it is in 1.x": [
        {"target_modules": "all-linear"},
        {"target_modules": list(select("all-linear").trained)},
    ],
    "another product": [{"batch_size": 2, "scale_lr": True}, {"batch_size": 2}],
    "a longer warm-up to the same peak": [LINEAR, {**LINEAR, "lr_warmup_steps": 200}],
    "a warm-up that ends in time": [
        {**LINEAR, "lr_warmup_steps": 99},
        {**LINEAR, "lr_warmup_steps": 99, "lr_scheduler": "cosine"},
    ],
    # diffusers divides by what is left of the steps, which is nothing.
    "polynomial, which fails at the end": [LINEAR, {**LINEAR, "lr_scheduler": "polynomial"}],
    # A round may train more steps than asked for, and then the schedule begins.
    "rounds": [
        {**LINEAR, "num_train_steps": 50},
        {**LINEAR, "num_train_steps": 50, "lr_scheduler": "cosine"},
    ],
}


@pytest.mark.parametrize("case", SAME)
def test_configs_that_train_the_same_have_one_digest(case: str) -> None:
    assert len(digests(*SAME[case])) == 1


@pytest.mark.parametrize("case", OTHER)
def test_configs_that_train_otherwise_have_digests_of_their_own(case: str) -> None:
    assert len(digests(*OTHER[case])) == len(OTHER[case])


def test_polynomial_whose_peak_is_too_low_is_no_training_at_all() -> None:
    low = {**LINEAR, "lr_warmup_steps": 200, "learning_rate": 1e-7}
    assert len(digests(low, {**low, "lr_scheduler": "polynomial"})) == 2


PARTS = sorted({part for name in module_sizes() for part in name.split(".")})
ENTRIES = st.lists(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map(".".join) | st.sampled_from(sorted(module_sizes())),
    min_size=1,
    max_size=6,
).map(tuple)


@given(ENTRIES)
def test_shortest_entries_select_the_same_modules(entries: tuple[str, ...]) -> None:
    before, after = select(entries), select(shortest_entries(entries))
    assert (after.trained, after.unsuitable) == (before.trained, before.unsuitable)
    assert shortest_entries(shortest_entries(entries)) == shortest_entries(entries)


@given(ENTRIES, ENTRIES)
def test_lists_have_one_form_when_they_select_the_same_and_only_then(
    one: tuple[str, ...], two: tuple[str, ...]
) -> None:
    first, second = select(one), select(two)
    if first.trained or first.unsuitable or second.trained or second.unsuitable:
        is_same = (first.trained, first.unsuitable) == (second.trained, second.unsuitable)
        assert (shortest_entries(one) == shortest_entries(two)) is is_same


RATES = st.fixed_dictionaries(
    {
        "lr_scheduler": st.sampled_from(["linear", "cosine", "polynomial", "constant", "constant_with_warmup"]),
        "lr_warmup_steps": st.sampled_from([1, 2, 5, 6, 10, 12]),
        "learning_rate": st.sampled_from([1e-4, 2e-4, 4e-4]),
        "scale_lr": st.booleans(),
        "batch_size": st.just(2),
        "max_train_steps": st.just(5),
    }
)


@given(RATES, RATES)
def test_equal_digests_mean_equal_learning_rates_at_every_step(one: dict[str, Any], two: dict[str, Any]) -> None:
    first, second = make(**one), make(**two)
    rates = [[schedule_of(config, 5).at(step) for step in range(1, 6)] for config in (first, second)]
    if first.digest() == second.digest():
        assert rates[0] == pytest.approx(rates[1], rel=1e-12)
