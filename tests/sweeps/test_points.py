"""A point keeps its name whatever becomes of it, and says what is wrong before anything is sent."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crynux_async.errors import ConfigError
from crynux_async.sweeps.points import Points, derived_seed, key_of, plan
from crynux_async.sweeps.spaces import grid
from crynux_async.training.config import EffectiveConfig, FineTuneConfig


def base(**fields: Any) -> FineTuneConfig:
    plain: dict[str, Any] = {
        "model_name": "crynux-ai/stable-diffusion-v1-5",
        "dataset_name": "a/b",
        "max_train_steps": 200,
    }
    return FineTuneConfig(**{**plain, **fields})


def planned(*changes: dict[str, Any], name: str = "cats", **options: Any) -> Points:
    return plan(name, options.pop("base", base()), changes, **options)


def test_two_runs_of_one_script_plan_the_same_jobs() -> None:
    first, second = (planned(*grid(rank=[4, 8], learning_rate=[1e-4, 5e-5])) for _ in range(2))
    assert [point.key for point in first.good] == [point.key for point in second.good]
    assert [point.config for point in first.good] == [point.config for point in second.good]
    assert len({point.key for point in first.good}) == 4


def test_points_of_another_sweep_or_repeat_have_other_keys() -> None:
    names = {point.key for name in ("cats", "dogs") for point in planned({"rank": 4}, name=name, repeats=3).good}
    assert len(names) == 6


def test_key_of_a_recorded_sweep_is_what_it_was() -> None:
    # A released key that changed would pay for every sweep in every ledger a second time.
    config = base().evolve(rank=4)
    [point] = planned({"rank": 4}).good
    assert point.key == key_of("cats", config.asked_digest(), 1) == f"sweep:cats:1:{config.asked_digest()}"


def test_key_does_not_depend_on_what_becomes_of_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    [before] = planned({"lr_warmup_steps": 0}).good
    monkeypatch.setattr(FineTuneConfig, "digest", lambda self: "judged better")
    monkeypatch.setattr(EffectiveConfig, "training", lambda self: {"weights": "judged better"})
    [after] = planned({"lr_warmup_steps": 0}).good
    assert before.key == after.key


def test_seed_that_nobody_gave_is_shared_by_all_points_of_a_repeat() -> None:
    points = planned({"rank": 4}, {"rank": 8}, repeats=2).good
    seeds = {(point.repeat, point.config.seed) for point in points}
    assert seeds == {(1, derived_seed("cats", 1)), (2, derived_seed("cats", 2))}
    assert derived_seed("cats", 1) != derived_seed("cats", 2)


def test_seed_that_was_given_is_kept_in_every_repeat() -> None:
    points = planned({"rank": 4}, {"seed": 7}, base=base(seed=42), repeats=2).good
    assert [point.config.seed for point in points] == [42, 42, 7, 7]


@given(name=st.text(max_size=50), repeat=st.integers(1, 10_000))
def test_derived_seed_is_one_that_nodes_take(name: str, repeat: int) -> None:
    assert 1 <= derived_seed(name, repeat) <= 2**32 - 1


def test_derived_fields_follow_from_the_point() -> None:
    points = planned(
        {"max_train_steps": 400},
        {"max_train_steps": 100},
        derive=lambda p: {"lr_warmup_steps": p["max_train_steps"] // 20},
    )
    assert [point.config.lr_warmup_steps for point in points.good] == [20, 5]
    assert points.good[0].params == {"max_train_steps": 400, "lr_warmup_steps": 20}


def test_points_that_are_no_configs_are_all_named_at_once() -> None:
    points = planned({"rank": 0}, {"rank": 4}, {"rnak": 4, "learning_rate": -1.0})
    assert [point.number for point in points.good] == [2]
    with pytest.raises(ConfigError) as caught:
        points.require_good()
    fields = [problem.field for problem in caught.value.problems]
    assert fields[0] == "point 1: rank"
    assert set(fields[1:]) == {"point 3: rnak", "point 3: learning_rate"}


def test_derived_fields_follow_from_the_base_where_the_point_changes_nothing() -> None:
    points = planned(
        {"rank": 4}, {"max_train_steps": 400}, derive=lambda p: {"lr_warmup_steps": p["max_train_steps"] // 20}
    )
    assert [point.config.lr_warmup_steps for point in points.good] == [10, 20]
    assert points.good[0].params == {"rank": 4, "lr_warmup_steps": 10}


def test_derivation_sees_lengths_that_follow_from_the_point_and_no_seed_that_was_drawn() -> None:
    seen: list[Mapping[str, Any]] = []

    def derive(point: Mapping[str, Any]) -> Mapping[str, Any]:
        seen.append(point)
        return {}

    planned({"max_train_steps": 400}, {"seed": 7}, derive=derive)
    assert [(point["num_train_steps"], point["seed"]) for point in seen] == [(400, None), (200, 7)]


def test_derivation_that_hands_on_what_it_was_given_changes_only_what_it_changed() -> None:
    def derive(point: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**point, "max_train_steps": 400}

    [point] = planned({"rank": 4}, derive=derive).good
    [plain] = planned({"rank": 4, "max_train_steps": 400}).good
    assert point.params == {"rank": 4, "max_train_steps": 400}
    assert point.key == plain.key
    assert point.config.num_train_steps == 400


def test_length_that_a_derivation_gives_counts_although_it_would_follow_from_the_base() -> None:
    [point] = planned({"rank": 4}, derive=lambda _: {"num_train_steps": 200, "max_train_steps": 400}).good
    assert (point.config.num_train_steps, point.config.max_train_steps) == (200, 400)


def test_derivation_that_fails_breaks_its_point_alone() -> None:
    points = planned({"rank": 4}, {"batch_size": 0}, derive=lambda p: {"lr_warmup_steps": 20 // p["batch_size"]})
    assert [broken.number for broken in points.broken] == [2]
    assert "ZeroDivisionError" in str(points.broken[0].problems[0])


def test_point_asked_for_twice_stands_once() -> None:
    points = planned({"rank": 4}, {"rank": 8}, {"rank": 4})
    assert [point.number for point in points.good] == [1, 2]
    assert points.twice == {3: 1}


def test_points_that_train_the_same_are_shown_and_kept() -> None:
    # Without accumulation a scaled learning rate at batch 2 is a plain one of twice the size.
    points = planned(
        {"learning_rate": 2e-4, "batch_size": 2},
        {"learning_rate": 1e-4, "batch_size": 2, "scale_lr": True},
        {"learning_rate": 1e-4, "batch_size": 2},
    )
    assert len(points.good) == 3
    assert points.alike == [[1, 2]]


def test_label_says_what_a_point_changes() -> None:
    first, second, plain = planned({"rank": 4, "learning_rate": 0.00005}, repeats=2).good + planned({}).good
    assert (first.label, second.label, plain.label) == (
        "rank=4 learning_rate=5e-05",
        "rank=4 learning_rate=5e-05 #2",
        "base",
    )
