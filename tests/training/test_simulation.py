"""What a job will do: rounds, steps, images, learning rates, cost, time and size."""

import math
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.errors import UsageError
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.lengths import stall_seconds
from crynux_async.training.schedules import Schedule
from crynux_async.training.simulation import MAX_ROUNDS, Simulation, archive_bytes, round_after, simulate
from tests.strategies import configs

SCHEDULERS = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")


def make(**changes: Any) -> FineTuneConfig:
    return FineTuneConfig(**{"model_name": "m", "dataset_url": "https://a.example/d.zip", "seed": 7, **changes})


def job(batch: int, accumulation: int, **changes: Any) -> FineTuneConfig:
    return make(batch_size=batch, gradient_accumulation_steps=accumulation, **changes)


def last_steps(simulation: Simulation) -> list[int]:
    return [item.last_step for item in simulation.rounds]


def round_as_the_training_code_runs_it(
    images: int, batch: int, accumulation: int, part: int, whole: int, start: int
) -> tuple[int, int, int]:
    """Return the last step, the micro-batches and the images of a round by running its loop without training.

    Source: stable-diffusion-task finetune_lora.py; accelerate's accumulate() on one process.
    """
    batches = math.ceil(images / batch)
    per_epoch = math.ceil(batches / accumulation)
    global_step, steps, accumulated, micro_batches, seen = start, 0, 0, 0, 0
    for _ in range(start // per_epoch, math.ceil(whole / per_epoch)):
        for index in range(batches):
            micro_batches += 1
            seen += min(batch, images - index * batch)
            if index == batches - 1:
                accumulated, is_due = 0, True
            else:
                accumulated += 1
                is_due = accumulated % accumulation == 0
            steps += is_due
            global_step += is_due
            if steps >= part or global_step >= whole:
                break
    return global_step, micro_batches, seen


# What was seen when the training code was run: images, batch, accumulation, num and max steps, global_step.txt.


@pytest.mark.parametrize(
    ("images", "batch", "accumulation", "part", "whole", "seen"),
    [
        (8, 1, 1, 2, 80, 11),
        (8, 1, 1, 5, 200, 29),
        (8, 1, 1, 5, 10, 6),
        (8, 1, 1, 10, 10, 10),
        (8, 1, 1, 8, 8, 8),
        (8, 4, 2, 5, 10, 7),
        (8, 1, 4, 1, 20, 3),
        (8, 1, 1, 50, 10, 10),
        (8, 1, 1, 5, 40, 9),
    ],
)
def test_first_round_ends_where_the_training_code_was_seen_to_end(
    images: int, batch: int, accumulation: int, part: int, whole: int, seen: int
) -> None:
    config = job(batch, accumulation, num_train_steps=part, max_train_steps=whole)
    assert simulate(config, images).rounds[0].last_step == seen


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ({"num_train_steps": 1000, "max_train_epochs": 1}, 8),  # max_train_steps left out: one epoch
        ({"num_train_steps": 8, "max_train_steps": 40}, 12),  # num_train_steps left out: one epoch
        ({"batch_size": 16}, 1),  # neither, and the bridge's batch size
    ],
)
def test_round_with_a_length_left_out_ends_where_the_training_code_was_seen_to_end(
    asked: dict[str, Any], seen: int
) -> None:
    assert simulate(make(**asked), 8).rounds[0].last_step == seen


@pytest.mark.parametrize(
    ("part", "whole", "start", "seen"), [(5, 10, 6, 11), (5, 40, 9, 17), (5, 40, 17, 24), (8, 16, 8, 16)]
)
def test_later_round_ends_where_the_training_code_was_seen_to_end(part: int, whole: int, start: int, seen: int) -> None:
    item = round_after(make(), 8, number=2, done=start, part=part, whole=whole)
    assert (item.first_step, item.last_step) == (start + 1, seen)


def test_round_begins_where_the_one_before_has_stopped() -> None:
    assert last_steps(simulate(make(num_train_steps=5, max_train_steps=40), 8))[:3] == [9, 17, 24]
    assert last_steps(simulate(make(num_train_steps=5, max_train_steps=10), 8)) == [6, 11]


def test_finished_job_has_no_further_round_as_the_training_code_was_seen_to_run_no_step() -> None:
    assert last_steps(simulate(make(num_train_steps=8, max_train_steps=8), 8)) == [8]
    assert round_as_the_training_code_runs_it(8, 1, 1, 8, 8, start=8) == (8, 0, 0)


def test_rounds_of_a_small_data_set_get_shorter_and_the_last_is_tiny() -> None:
    rounds = simulate(make(num_train_steps=100, max_train_steps=1000), 20).rounds
    assert [item.steps for item in rounds] == [145, 138, 131, 125, 119, 113, 107, 102, 20]


def test_round_of_a_long_job_may_run_several_times_the_steps_asked_for() -> None:
    first = simulate(make(batch_size=4, num_train_steps=100, max_train_steps=2000), 20).rounds[0]
    assert (first.asked_steps, first.steps) == (100, 480)


@given(
    images=st.integers(1, 40),
    batch=st.integers(1, 12),
    accumulation=st.integers(1, 6),
    part=st.integers(1, 60),
    whole=st.integers(1, 150),
)
@settings(max_examples=250, deadline=None)
def test_rounds_are_those_of_the_training_loop(
    images: int, batch: int, accumulation: int, part: int, whole: int
) -> None:
    simulation = simulate(job(batch, accumulation, num_train_steps=part, max_train_steps=whole), images)
    start = 0
    for item in simulation.rounds:
        assert start < whole
        expected = round_as_the_training_code_runs_it(images, batch, accumulation, part, whole, start)
        assert (item.last_step, item.micro_batches, item.images) == expected
        assert item.first_step == start + 1
        start = item.last_step
    assert start >= whole
    assert simulation.is_complete
    assert simulation.steps == start


@given(
    images=st.integers(1, 40),
    batch=st.integers(1, 12),
    accumulation=st.integers(1, 6),
    part=st.integers(1, 5),
    whole=st.integers(1, 9),
)
@settings(max_examples=100, deadline=None)
def test_epochs_are_counted_in_steps_of_whole_epochs(
    images: int, batch: int, accumulation: int, part: int, whole: int
) -> None:
    simulation = simulate(job(batch, accumulation, num_train_epochs=part, max_train_epochs=whole), images)
    per_epoch = math.ceil(math.ceil(images / batch) / accumulation)
    assert simulation.steps_per_epoch == per_epoch
    first = round_as_the_training_code_runs_it(
        images, batch, accumulation, part * per_epoch, whole * per_epoch, start=0
    )
    assert simulation.rounds[0].last_step == first[0]


# What is known without the data set


@pytest.mark.parametrize("part", [None, 200, 500])
def test_one_round_of_steps_is_known_without_the_data_set(part: int | None) -> None:
    simulation = simulate(make(num_train_steps=part, max_train_steps=200, lr_scheduler="linear"))
    assert (simulation.steps, simulation.most_rounds, simulation.is_complete) == (200, 1, True)
    assert simulation.images_seen is None
    assert simulation.final_learning_rate == pytest.approx(1e-4 / 199)


def test_several_rounds_without_the_data_set_are_bounded() -> None:
    simulation = simulate(make(num_train_steps=100, max_train_steps=1000))
    assert (simulation.rounds, simulation.most_rounds, simulation.is_complete) == ((), 10, False)
    assert simulation.steps is None
    assert simulation.final_learning_rate is None


def test_epochs_without_the_data_set_are_one_round_of_unknown_length() -> None:
    simulation = simulate(make(max_train_epochs=3))
    assert (simulation.rounds, simulation.most_rounds, simulation.schedule) == ((), 1, None)


def test_epochs_in_rounds_of_steps_without_the_data_set_have_no_bound() -> None:
    simulation = simulate(make(max_train_epochs=3, num_train_steps=100))
    assert simulation.most_rounds is None
    assert simulation.cost() is None
    assert simulation.longest_duration is None
    assert simulation.stall_deadline is None


def test_more_rounds_than_are_worked_out_are_bounded() -> None:
    simulation = simulate(make(num_train_steps=1, max_train_steps=2**53), 2**50)
    assert len(simulation.rounds) == MAX_ROUNDS
    assert not simulation.is_complete
    assert simulation.most_rounds == 2**53


@given(configs(), st.none() | st.integers(1, 2**53))
@settings(max_examples=60, deadline=None)
def test_any_config_can_be_simulated(config: FineTuneConfig, images: int | None) -> None:
    simulation = simulate(config, images)
    assert all(item.steps >= 1 for item in simulation.rounds)
    if simulation.most_rounds is not None:
        assert len(simulation.rounds) <= simulation.most_rounds
        assert simulation.cost() is not None
    if simulation.schedule and simulation.steps:
        assert len(simulation.schedule.points(1, simulation.steps, 50)) <= 50


# Learning rates


def schedule(scheduler: str, *, warmup: int = 1, total: int = 200, peak: float = 1e-4) -> Schedule:
    return Schedule(scheduler=scheduler, peak=peak, warmup_steps=warmup, total_steps=total)


@pytest.mark.parametrize("scheduler", [name for name in SCHEDULERS if name != "constant"])
def test_warm_up_longer_than_the_training_never_gets_to_the_peak(scheduler: str) -> None:
    rates = [schedule(scheduler, warmup=500).at(step) for step in range(1, 201)]
    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (0, pytest.approx(4e-5, rel=0.01))
    assert sum(rates) / 200 == pytest.approx(2e-5, rel=0.01)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_warm_up_of_one_step_is_at_the_peak_in_the_second(scheduler: str) -> None:
    assert schedule(scheduler).at(2) == pytest.approx(1e-4)


def test_constant_ignores_the_warm_up() -> None:
    assert {schedule("constant", warmup=500).at(step) for step in (1, 100, 200, 1000)} == {1e-4}


@pytest.mark.parametrize(
    ("scheduler", "quarter", "half", "beyond"),
    [
        ("linear", 0.75, 0.5, 0),
        ("cosine", 0.5 + math.sqrt(2) / 4, 0.5, (1 - math.cos(math.pi * 0.1)) / 2),
        ("cosine_with_restarts", 0.5 + math.sqrt(2) / 4, 0.5, 0),
        ("polynomial", 0.75, 0.5, 0),
        ("constant_with_warmup", 1, 1, 1),
    ],
)
def test_learning_rate_after_the_warm_up_follows_its_formula(
    scheduler: str, quarter: float, half: float, beyond: float
) -> None:
    rates = schedule(scheduler, warmup=100, total=1100, peak=1.0)
    assert rates.at(51) == 0.5
    # polynomial ends at 1e-7, not 0
    assert rates.at(351) == pytest.approx(quarter, abs=2e-7)
    assert rates.at(601) == pytest.approx(half, abs=2e-7)
    assert rates.at(1201) == pytest.approx(beyond, abs=2e-7)


def test_polynomial_with_a_warm_up_as_long_as_the_training_has_no_learning_rate_after_it() -> None:
    rates = schedule("polynomial", warmup=200)
    assert rates.at(200) == pytest.approx(1e-4 * 199 / 200)
    assert math.isnan(rates.at(201))


def test_points_cover_the_first_and_the_last_step() -> None:
    assert [step for step, _ in schedule("linear").points(5, 7, 10)] == [5, 6, 7]
    steps = [step for step, _ in schedule("linear").points(1, 10**9, 60)]
    assert (len(steps), steps[0], steps[-1]) == (60, 1, 10**9)
    assert steps == sorted(steps)


def test_final_learning_rate_is_that_of_the_last_step_that_is_run() -> None:
    # 8 images, rounds of 5: the job stops at step 11 of 10, where cosine goes up again.
    simulation = simulate(make(num_train_steps=5, max_train_steps=10, lr_scheduler="cosine"), 8)
    assert simulation.steps == 11
    assert simulation.final_learning_rate == pytest.approx(simulation.peak * (1 + math.cos(math.pi * 9 / 9)) / 2)


def test_learning_rate_is_scaled_where_asked_for() -> None:
    config = make(scale_lr=True, learning_rate=1e-3, batch_size=4, gradient_accumulation_steps=2)
    assert simulate(config, 8).peak == pytest.approx(8e-3)


# Cost, time, size


def test_cost_is_a_fee_for_each_round() -> None:
    simulation = simulate(make(num_train_steps=100, max_train_steps=200), 8)
    assert simulation.cost() == 30
    assert simulation.cost(2.5) == 5


def test_durations_count_the_queue_and_the_time_out_of_each_round() -> None:
    simulation = simulate(make(num_train_steps=100, max_train_steps=200, timeout=1800), 8)
    assert simulation.longest_duration == 2 * (180 + 1800 + 1800)
    assert simulation.stall_deadline == 5 * (180 + 1800 + 1800)
    assert simulation.longest_failure == 4 * (180 + 1800 + 1800)


def test_stall_deadline_is_the_one_that_a_session_uses() -> None:
    config = make(num_train_steps=100, max_train_steps=1000)
    assert simulate(config).stall_deadline == stall_seconds(config)


def test_archive_of_rank_4_has_about_the_size_of_a_real_one() -> None:
    assert archive_bytes(make(rank=4, mixed_precision="no")) == pytest.approx(9_054_995, rel=0.01)


@pytest.mark.parametrize(("rank", "megabytes"), [(8, 19.4), (16, 38.5), (32, 76.8), (64, 153)])
def test_archive_grows_with_the_rank_as_computed_from_the_real_unet(rank: int, megabytes: float) -> None:
    assert archive_bytes(make(rank=rank)) == pytest.approx(0.92 * megabytes * 1e6, rel=0.02)


def test_archive_in_bfloat16_is_about_half() -> None:
    full, half = archive_bytes(make(rank=64)), archive_bytes(make(rank=64, mixed_precision="bf16"))
    assert full is not None
    assert half == pytest.approx(full / 2, rel=0.01)


def test_archive_of_nothing_is_not_known() -> None:
    assert archive_bytes(make(target_modules="to_k")) is None


def test_simulation_is_a_value() -> None:
    first, second = (simulate(make(max_train_steps=200), 8) for _ in range(2))
    assert first == second
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        first.images = 9  # type: ignore[misc]


@pytest.mark.parametrize("images", [0, -1])
def test_number_of_images_that_no_data_set_has_is_refused(images: int) -> None:
    with pytest.raises(UsageError, match=f"at least 1 image, not {images}"):
        simulate(make(), images)
    with pytest.raises(UsageError, match=f"at least 1 image, not {images}"):
        make().effective(images)


# diffusers' own configurations: text of 768 numbers in 1.x and of 1,024 in 2.x; 128 layers of the attention.
@pytest.mark.parametrize(
    ("name", "per_rank"), [("a/stable-diffusion-v1-5", 199_296), ("a/stable-diffusion-2-1", 207_488)]
)
def test_archive_is_larger_where_the_text_is_wider(name: str, per_rank: int) -> None:
    expected = 0.92 * (3 * 4 * 15 * per_rank + 128 * 1917 + 16_026)
    assert archive_bytes(make(model_name=name, rank=15)) == pytest.approx(expected, abs=1)
