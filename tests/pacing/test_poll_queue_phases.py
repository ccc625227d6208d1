"""The poll queue with tasks whose life has phases: their wishes first, and what was learned of the phases then."""

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.backends.base import Phase
from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue

WISH = 10.0
UPLOAD = 10.0


def phases(age: float = 0.0, took: float | None = None, within: float | None = None) -> Sequence[Phase]:
    """Return the phases of a task that trains, or has trained and is to upload."""
    return (
        Phase(name="training", late=4.0, age=age, took=took, within=within),
        Phase(name="upload", late=1.0, within=within),
    )


def over(age: float, took: float) -> Sequence[Phase]:
    """Return the phases of a task that has uploaded."""
    return (
        Phase(name="training", late=4.0, age=age, took=took),
        Phase(name="upload", late=1.0, age=age - took - 1.0, took=UPLOAD),
    )


def new_queue(**settings: Any) -> PollQueue:
    return PollQueue(**{"requests_per_second": None, "worst_delay": None, **settings})


def teach(queue: PollQueue, trainings: Sequence[float], kind: str = "k") -> PollQueue:
    """Let a queue see trainings that take so many seconds."""
    for number, took in enumerate(trainings):
        age = took + UPLOAD + 2.0
        queue.add(("past", number), kind=kind, started_at=-age, now=0.0, seen_at=-age)
        queue.ended(("past", number), 0.0, phases=over(age, took))
    return queue


def around(seconds: float, count: int = 300) -> list[float]:
    """Return so many durations, evenly within a tenth of so many seconds, in an order that shows no change."""
    return [seconds * (0.9 + 0.2 * (number * 37 % count) / count) for number in range(count)]


def next_look(queue: PollQueue, told: Sequence[Phase], wish: float = WISH, now: float = 1000.0) -> float:
    """Return after how many seconds a job is looked at that shows these phases."""
    queue.add("a", kind="k", started_at=now - 500.0, now=now)
    queue.running("a", now, wish, told)
    return queue.next_at(now) - now


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1.0, 5000.0), max_size=15), st.lists(st.floats(0.25, 60.0), min_size=1, max_size=10))
def test_while_little_is_known_each_wish_is_kept_as_ever(past: list[float], wishes: list[float]) -> None:
    told, untold = teach(new_queue(), past), new_queue()
    for queue in (told, untold):
        queue.add("a", kind="k", started_at=0.0, now=0.0)
    now = 0.0
    for wish in wishes:
        told.running("a", now, wish, phases(now))
        untold.running("a", now, wish)
        assert told.next_at(now) == untold.next_at(now)
        now = told.next_at(now)


def test_training_that_takes_five_minutes_is_left_alone_until_it_may_be_done() -> None:
    queue = teach(new_queue(), around(300.0))
    assert 160.0 < next_look(queue, phases(100.0)) < 180.0
    # And then it is looked at more often than the service wishes, for it wishes no better than for one that began.
    assert next_look(queue, phases(320.0)) == pytest.approx(WISH / 2, abs=0.25)


def test_task_that_waits_is_looked_at_as_if_a_node_had_just_taken_it() -> None:
    queue = teach(new_queue(), around(300.0))
    assert 250.0 < next_look(queue, phases(0.0), wish=20.0) < 280.0


def test_first_look_at_a_new_task_is_as_well_placed() -> None:
    queue = teach(new_queue(), around(300.0))
    queue.add("a", kind="k", started_at=0.0, now=0.0, next_at=20.0, phases=phases())
    queue.add("b", kind="k", started_at=0.0, now=0.0, next_at=20.0)
    assert queue.due(20.0, 10) == ["b"]
    assert 250.0 < queue.next_at(20.0) < 280.0


def test_phase_of_another_kind_is_not_known() -> None:
    queue = teach(new_queue(), around(300.0), kind="other")
    assert next_look(queue, phases(100.0)) == WISH


def test_upload_is_expected_when_uploads_usually_end() -> None:
    queue = teach(new_queue(), around(300.0))
    wait = next_look(queue, phases(301.0, 300.0), wish=2.0)
    assert wait == pytest.approx(UPLOAD, abs=1.0)


def test_service_is_asked_within_what_it_says_whatever_was_learned() -> None:
    queue = teach(new_queue(), around(300.0))
    assert next_look(queue, phases(100.0, within=45.0)) == 45.0
    assert next_look(queue, phases(100.0, within=3.0)) == 3.0


@settings(max_examples=60, deadline=None)
@given(
    past=st.lists(st.floats(1.0, 1e5), max_size=60), queued=st.floats(0.0, 500.0), took=st.floats(0.0, 20_000.0),
    share=st.floats(0.05, 2.0),
)  # fmt: skip
def test_end_of_a_phase_is_noticed_within_the_promised_part_of_its_age_and_a_minute(
    past: list[float], queued: float, took: float, share: float
) -> None:
    queue = teach(new_queue(worst_delay=share, max_interval=1e9), past)
    queue.add("a", kind="k", started_at=0.0, now=0.0, next_at=WISH, phases=phases())
    now = queue.next_at(0.0)
    while now < queued + took:
        queue.due(now, 1)
        queue.running("a", now, WISH, phases(max(0.0, now - queued)))
        now = queue.next_at(now)
    assert now - queued - took <= share * took + 60.0 + 1e-6


def test_training_that_has_just_begun_is_looked_at_within_a_minute_however_old_its_job() -> None:
    queue = teach(new_queue(worst_delay=0.5), around(3000.0))
    assert next_look(queue, phases(0.0), wish=30.0) == pytest.approx(60.0, abs=0.25)
    assert next_look(queue, phases(100.0), wish=30.0) == pytest.approx(110.0, abs=0.25)


def exposure(queue: PollQueue, name: str) -> float:
    """Return how many tenths of a second were counted of a phase."""
    return sum(one.exposure for one in queue.snapshots()[f"k|{name}"].bins)


def test_job_is_counted_apart_from_the_one_that_was_forgotten_before_it() -> None:
    queue = new_queue()
    for job in ("another", "a"):
        queue.add(job, kind="k", started_at=0.0, now=0.0)
    queue.running("a", 100.0, WISH, phases(100.0))
    queue.discard("a")
    queue.add("b", kind="k", started_at=100.0, now=100.0)  # attached: it has trained for as long
    queue.running("b", 110.0, WISH, phases(110.0))
    assert exposure(queue, "training") == pytest.approx(1000.0 + 1100.0)


def test_job_is_counted_from_its_beginning_though_one_of_an_earlier_process_was_forgotten_before_it() -> None:
    queue = new_queue()
    queue.add("another", kind="k", started_at=0.0, now=0.0)
    queue.add("a", kind="k", started_at=0.0, now=400.0)
    queue.running("a", 400.0, WISH)
    queue.discard("a")
    queue.add("b", kind="k", started_at=400.0, now=400.0)
    queue.running("b", 410.0, WISH, phases(10.0))
    assert exposure(queue, "training") == pytest.approx(100.0)


def test_what_is_learned_of_phases_is_stored_as_kinds_are() -> None:
    queue = teach(new_queue(), around(300.0))
    stored = queue.snapshots(changed_only=True)
    assert set(stored) == {"k", "k|training", "k|upload"}
    assert queue.snapshots(changed_only=True) == {}
    later = new_queue()
    for kind, snapshot in stored.items():
        later.restore(kind, snapshot)
    assert next_look(later, phases(100.0)) == pytest.approx(next_look(queue, phases(100.0)), abs=0.25)


def test_what_is_learned_of_whole_lives_is_the_same_with_phases_and_without() -> None:
    told, untold = new_queue(), new_queue()
    for number, took in enumerate(around(300.0, 20)):
        for queue in (told, untold):
            queue.add(number, kind="k", started_at=0.0, now=0.0)
        told.running(number, 0.0, WISH, phases(took + 1.0, took))
        untold.running(number, 0.0, WISH)
        told.ended(number, took + 12.0, phases=over(took + 12.0, took))
        untold.ended(number, took + 12.0)
    assert told.snapshots()["k"] == untold.snapshots()["k"]


def test_first_answer_about_a_job_of_an_earlier_process_teaches_nothing_and_the_next_one_what_is_new() -> None:
    queue = new_queue()
    queue.add("a", kind="k", started_at=0.0, now=400.0)
    queue.running("a", 400.0, WISH, phases(300.0))
    assert queue.snapshots()["k|training"] == HazardSnapshot()
    queue.running("a", 410.0, WISH, phases(310.0))
    # In tenths of a second.
    assert sum(one.exposure for one in queue.snapshots()["k|training"].bins) == pytest.approx(100.0)


@pytest.mark.parametrize("is_ended", [False, True])
def test_first_phases_of_a_job_of_an_earlier_process_teach_nothing_though_it_was_looked_at_before(
    is_ended: bool,
) -> None:
    queue = new_queue()
    queue.add("a", kind="k", started_at=0.0, now=400.0)
    queue.running("a", 400.0, WISH)  # as where a validation has to be done again
    if is_ended:
        queue.ended("a", 420.0, phases=over(420.0, 300.0))
    else:
        queue.running("a", 410.0, WISH, phases(410.0, 300.0))
    assert {name for name, one in queue.snapshots().items() if one.bins} == {"k"}


def test_end_that_teaches_nothing_of_the_job_teaches_nothing_of_its_phases() -> None:
    queue = new_queue()
    queue.add("a", kind="k", started_at=0.0, now=0.0)
    queue.ended("a", 320.0, learn=False, phases=over(320.0, 300.0))
    assert "k|training" not in queue.snapshots()


def test_job_past_its_deadline_is_looked_at_as_the_service_wishes() -> None:
    queue = teach(new_queue(), around(300.0))
    queue.add("a", kind="k", started_at=0.0, now=0.0, stall_at=50.0)
    queue.running("a", 100.0, WISH, phases(100.0))
    assert queue.stalled() == ["a"]
    assert queue.next_at(100.0) == 100.0 + WISH


ODD = st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 30.0])


@settings(max_examples=100, deadline=None)
@given(ODD, ODD, st.none() | ODD, st.none() | ODD)
def test_phases_that_make_no_sense_stop_nothing(
    late: float, age: float, took: float | None, within: float | None
) -> None:
    queue = teach(new_queue(worst_delay=0.5), around(300.0, 40))
    queue.add("a", kind="k", started_at=0.0, now=0.0)
    queue.running("a", 0.0, WISH, (Phase(name="training", late=late, age=age, took=took, within=within),))
    assert 0.25 <= queue.next_at(0.0) <= 60.0


def test_looks_by_phase_keep_the_promised_rate() -> None:
    queue = teach(PollQueue(requests_per_second=2.0, worst_delay=None), around(300.0))
    rng, began = random.Random(1), dict.fromkeys(range(100), 0.0)
    for job in began:
        queue.add(job, kind="k", started_at=0.0, now=0.0)
    now, looks = 0.0, 0
    while (now := queue.next_at(now)) <= 3000.0:
        for job in queue.due(now, 1000):
            assert isinstance(job, int)
            looks += 1
            if now - began[job] > 330.0:
                began[job] = now - rng.uniform(0.0, 300.0)
            queue.running(job, now, 1.0, phases(now - began[job]))
    assert looks <= 2.0 * 3000.0 + queue.burst
    assert queue.statistics().planned_rate <= 0.9 * 2.0 * 1.05
