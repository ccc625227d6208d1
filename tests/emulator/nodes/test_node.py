"""How many rounds and steps the emulated network makes of a job."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.emulator.bridge.binding import FIELDS
from crynux_async.emulator.nodes.node import Network, Progress, round_end
from crynux_async.emulator.nodes.task_args import TaskArgs, task_args, with_defaults
from crynux_async.emulator.nodes.unet import SIZES

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]


def make_args(**fields: Any) -> TaskArgs:
    values = {field.name: field.zero for field in FIELDS}
    values |= {
        "model_name": "m",
        "dataset_url": "https://a.example/d",
        "batch_size": 1,
        "target_modules": tuple(ATTENTION),
    }
    return task_args(with_defaults({**values, **fields}, seed=1))


def network(**options: Any) -> Network:
    values = {"images": 8, "round_overhead": 20.0, "seconds_per_step": 1.0, "unet": SIZES["tiny"]}
    return Network(**{**values, **options})


def loop_as_the_node_runs_it(images: int, args: TaskArgs, start: int) -> int:
    """Return the step at which a round ends by running the training loop without training."""
    batches = math.ceil(images / args.batch_size)
    accumulation = args.gradient_accumulation_steps
    per_epoch = math.ceil(batches / accumulation)
    num_steps = args.num_train_steps or args.num_train_epochs * per_epoch
    max_steps = args.max_train_steps or args.max_train_epochs * per_epoch
    global_step, steps, accumulated = start, 0, 0
    for _ in range(start // per_epoch, math.ceil(max_steps / per_epoch)):
        for batch in range(batches):
            if batch == batches - 1:
                accumulated, is_due = 0, True
            else:
                accumulated += 1
                is_due = accumulated % accumulation == 0
            steps += is_due
            global_step += is_due
            if steps >= num_steps or global_step >= max_steps:
                break
    return global_step


@pytest.mark.parametrize(
    ("images", "batch", "accumulation", "num", "most", "end"),
    [(8, 1, 1, 2, 80, 11), (8, 1, 1, 5, 200, 29), (8, 1, 1, 5, 10, 6), (8, 1, 1, 10, 10, 10), (8, 1, 1, 8, 8, 8),
     (8, 4, 2, 5, 10, 7), (8, 1, 4, 1, 20, 3), (8, 1, 1, 50, 10, 10), (8, 1, 1, 5, 40, 9),
     (8, 1, 1, 1000, None, 8), (8, 1, 1, None, 40, 12), (8, 16, 1, None, None, 1)],
)  # fmt: skip
def test_round_ends_where_the_node_code_was_seen_to_end(
    images: int, batch: int, accumulation: int, num: int | None, most: int | None, end: int
) -> None:
    args = make_args(
        batch_size=batch, gradient_accumulation_steps=accumulation, num_train_steps=num, max_train_steps=most
    )
    assert round_end(images=images, args=args, start=0) == end


@pytest.mark.parametrize(
    ("start", "num", "most", "end"), [(6, 5, 10, 11), (9, 5, 40, 17), (17, 5, 40, 24), (8, 8, 16, 16)]
)
def test_resumed_round_ends_where_the_node_code_was_seen_to_end(start: int, num: int, most: int, end: int) -> None:
    args = make_args(num_train_steps=num, max_train_steps=most)
    assert round_end(images=8, args=args, start=start) == end


@given(
    images=st.integers(1, 30),
    batch=st.integers(1, 8),
    accumulation=st.integers(1, 5),
    num=st.none() | st.integers(1, 60),
    most=st.none() | st.integers(1, 120),
    epochs=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    rounds=st.integers(0, 3),
)
@settings(max_examples=300, deadline=None)
def test_round_ends_where_the_training_loop_ends(
    images: int,
    batch: int,
    accumulation: int,
    num: int | None,
    most: int | None,
    epochs: tuple[int, int],
    rounds: int,
) -> None:
    args = make_args(
        batch_size=batch,
        gradient_accumulation_steps=accumulation,
        num_train_steps=num,
        max_train_steps=most,
        num_train_epochs=epochs[0],
        max_train_epochs=epochs[1],
    )
    start = 0
    for _ in range(rounds + 1):
        end = loop_as_the_node_runs_it(images, args, start)
        assert round_end(images=images, args=args, start=start) == end
        if end >= (most or epochs[1] * math.ceil(math.ceil(images / batch) / accumulation)):
            break
        start = end


def test_job_of_two_rounds_runs_through_both_and_ends() -> None:
    course = network().course(make_args(num_train_steps=100, max_train_steps=200))
    # 25 epochs of 8 steps: 100 steps in 13 of them, and one in each of the other 12; then the rest up to 200.
    first, second = 20 + 112, 20 + 88
    running = Progress(status="running")
    done = Progress(status="running", rounds_done=1, global_step=112)
    ended = Progress(status="success", rounds_done=2, global_step=200, ended=first + second)
    assert [course.at(age) for age in (0, first - 0.1, first, first + second - 0.1, first + second, 1e9)] == [
        running,
        running,
        done,
        done,
        ended,
        ended,
    ]


def test_course_asked_in_any_order_tells_the_same() -> None:
    args = make_args(num_train_steps=5, max_train_steps=200)
    late_first, early_first = network().course(args), network().course(args)
    ages = [float(age) for age in range(0, 1500, 37)]
    assert [late_first.at(age) for age in reversed(ages)][::-1] == [early_first.at(age) for age in ages]


def test_enormous_job_is_planned_at_once() -> None:
    course = network().course(make_args(num_train_steps=10**12, max_train_steps=10**12, timeout=10**13))
    assert course.at(1e9).status == "running"
    assert course.at(1e13).global_step == 10**12


def test_round_duration_follows_from_the_networks_options() -> None:
    course = network(round_overhead=3.0, seconds_per_step=0.5, images=4).course(
        make_args(max_train_steps=10, num_train_steps=10)
    )
    assert course.at(1e6).ended == 3.0 + 10 * 0.5


def test_job_that_is_to_fail_fails_at_its_fourth_round() -> None:
    course = network().course(make_args(model_name="m/fail"))
    assert [course.at(age).failed_count for age in (0, 20, 40, 60, 80)] == [0, 1, 2, 3, 4]
    assert [course.at(age).status for age in (79.9, 80)] == ["running", "failed"]
    assert course.at(100).ended == 80


def test_round_longer_than_its_timeout_is_lost_four_times() -> None:
    # 100 steps of a second and 20 s besides, where 10 s are allowed: the fault that was found.
    course = network().course(make_args(num_train_steps=100, max_train_steps=100, timeout=10))
    assert [course.at(age) for age in (0, 10, 35, 39.9, 40, 1e9)] == [
        Progress(status="running"),
        Progress(status="running", failed_count=1),
        Progress(status="running", failed_count=3),
        Progress(status="running", failed_count=3),
        Progress(status="failed", failed_count=4, ended=40),
        Progress(status="failed", failed_count=4, ended=40),
    ]


@pytest.mark.parametrize(("timeout", "status"), [(119, "failed"), (120, "success")])
def test_round_that_just_fits_into_its_timeout_is_delivered(timeout: int, status: str) -> None:
    course = network().course(make_args(num_train_steps=100, max_train_steps=100, timeout=timeout))
    assert course.at(1e6).status == status


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        (26, Progress(status="success", rounds_done=2, global_step=9, ended=26 + 23)),
        (25, Progress(status="failed", failed_count=4, ended=4 * 25)),
    ],
)
def test_steps_that_a_round_runs_beyond_what_was_asked_must_fit_into_its_timeout(
    timeout: int, expected: Progress
) -> None:
    # 8 images in 2 micro-batches are 2 steps an epoch; 3 of 9 steps are asked for, in 5 epochs. The first round stops
    # in the second epoch and runs one step more in each of the 3 that remain: 6 steps, 26 s. The second begins in the
    # fourth epoch, and nothing remains when it stops: 3 steps, 23 s.
    args = make_args(batch_size=4, num_train_steps=3, max_train_steps=9, timeout=timeout)
    assert network().course(args).at(1e6) == expected


def test_polynomial_warm_up_as_long_as_the_training_fails_in_the_round_that_ends_it() -> None:
    fields = {"lr_scheduler": "polynomial", "num_train_steps": 100, "max_train_steps": 200, "timeout": 600}
    course = network().course(make_args(lr_warmup_steps=200, **fields))
    # As in the job of two rounds above: the first ends at 132 s with step 112, and the second never does.
    assert course.at(132 + 599) == Progress(status="running", rounds_done=1, global_step=112)
    assert course.at(132 + 600).failed_count == 1
    ended = Progress(status="failed", rounds_done=1, failed_count=4, global_step=112, ended=132 + 2400)
    assert course.at(132 + 2400) == ended


def test_rounds_of_a_job_that_fails_late_are_told_one_by_one() -> None:
    fields = {"lr_scheduler": "polynomial", "num_train_steps": 100, "max_train_steps": 200, "timeout": 600}
    course = network().course(make_args(lr_warmup_steps=200, **fields))
    ends = [132, 732, 1332, 1932, 2532]
    assert [(one.began, one.ended, one.fate) for one in course.rounds(1e6)] == [
        (0, 132, "trains"),
        *((began, ended, "silent") for began, ended in pairwise(ends)),
    ]
    assert [one.ended for one in course.rounds(1400)] == [132, 732, 1332, None]


@pytest.mark.parametrize("warmup", [199, 201])
def test_polynomial_warm_up_of_another_length_than_the_training_trains(warmup: int) -> None:
    args = make_args(lr_scheduler="polynomial", lr_warmup_steps=warmup, num_train_steps=200, max_train_steps=200)
    assert network().course(args).at(1e6).status == "success"


def test_archive_that_no_node_can_deliver_fails_the_job() -> None:
    tiny = network(largest_archive=50 * 2**20)
    statuses = [tiny.course(make_args(rank=rank, timeout=600)).at(1e6).status for rank in (8, 100_000)]
    assert statuses == ["success", "failed"]
    assert tiny.course(make_args(model_name="m/big-100", timeout=600)).at(1e6).status == "failed"


def test_job_of_a_thousand_million_rounds_is_asked_about_in_bounded_time() -> None:
    endless = network(seconds_per_step=0.0, round_overhead=0.0)
    args = make_args(num_train_steps=1, max_train_steps=10**9, gradient_accumulation_steps=10**9)
    progress = endless.course(args).at(1e9)
    assert (progress.status, progress.rounds_done) == ("running", 100_000)


def test_stalled_job_runs_for_ever_without_a_round() -> None:
    assert network().course(make_args(model_name="m/stall")).at(1e12) == Progress(status="running")


def test_job_that_never_finishes_makes_round_after_round() -> None:
    course = network().course(make_args(model_name="m/nofinish", num_train_steps=8, max_train_steps=8))
    assert course.at(28 * 1000) == Progress(status="running", rounds_done=1000, global_step=8000)
