"""The poll queue: which job is due, and how many polls there are."""

import gc
import math
import random
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.pacing.age_bins import HazardSnapshot
from crynux_async.pacing.poll_queue import PollQueue, PollStatistics


def queue_of(jobs: int, *, kind: str = "k", started_at: float = 0.0, **settings: Any) -> PollQueue:
    queue = PollQueue(**settings)
    for job in range(jobs):
        queue.add(job, kind=kind, started_at=started_at, now=0.0)
    return queue


def all_due(queue: PollQueue, until: float) -> list[tuple[float, Any]]:
    """Take out everything that comes due up to a time, and answer nothing."""
    taken = []
    now = queue.next_at(0.0)
    while now <= until:
        taken += [(now, job) for job in queue.due(now, 1000)]
        now = queue.next_at(now)
    return taken


class Fleet:
    """Jobs with known ends, polled by a queue on simulated time."""

    def __init__(self, queue: PollQueue) -> None:
        self.queue = queue
        self.now = 0.0
        self.ends: dict[Any, float] = {}
        self.failing: set[Any] = set()
        self.delays: dict[Any, float] = {}
        self.times: list[float] = []
        self.down: Callable[[float], bool] = lambda now: False

    def add(self, job: Any, *, at: float, duration: float, fails: bool = False) -> None:
        self.queue.add(job, kind="k", started_at=at, now=self.now)
        self.ends[job] = at + duration
        if fails:
            self.failing.add(job)

    def run(self, until: float) -> None:
        while (at := self.queue.next_at(self.now)) <= until:
            self.now = at
            taken = self.queue.due(at, 10**6)
            assert taken, "next_at() promised a job"
            self.times += [at] * len(taken)
            for job in taken:
                self.answer(job)
        self.now = until

    def answer(self, job: Any) -> None:
        if self.down(self.now):
            self.queue.errored(job, self.now)
        elif self.now >= self.ends[job]:
            self.queue.ended(job, self.now, failed=job in self.failing)
            self.delays[job] = self.now - self.ends[job]
        else:
            self.queue.running(job, self.now)


def most_in_window(times: list[float], width: float) -> int:
    """Return the largest number of times within [t, t + width]."""
    most, low = 0, 0
    for high, time in enumerate(times):
        while time - times[low] > width:
            low += 1
        most = max(most, high - low + 1)
    return most


# when


def test_next_at_empty_queue_is_never() -> None:
    queue = PollQueue()
    assert queue.next_at(5.0) == math.inf
    assert queue.due(5.0, 10) == []


def test_due_fresh_job_nothing_learned_comes_after_the_square_root_formula() -> None:
    queue = queue_of(1, target_delay=1.0, duration_hint=1200.0, tick=0.25)
    expected = math.sqrt(2 * 1.0 * 1200.0)
    assert queue.next_at(0.0) == pytest.approx(expected, abs=0.25)
    assert queue.due(expected - 0.3, 10) == []
    assert queue.due(expected + 0.3, 10) == [0]


def test_add_duration_hint_sets_the_first_plan_of_its_kind() -> None:
    queue = PollQueue(target_delay=0.1)
    queue.add("a", kind="long", started_at=0.0, now=0.0, duration_hint=10_000.0)
    assert queue.next_at(0.0) == pytest.approx(math.sqrt(2 * 0.1 * 10_000.0), abs=0.25)


@pytest.mark.parametrize("hint", [0.0, -5.0, math.nan, math.inf])
def test_add_duration_hint_that_means_nothing_is_not_heard(hint: float) -> None:
    queue = PollQueue(target_delay=1.0, duration_hint=1200.0)
    queue.add("a", kind="k", started_at=0.0, now=0.0, duration_hint=hint)
    assert queue.next_at(0.0) == pytest.approx(math.sqrt(2 * 1.0 * 1200.0), abs=0.25)


def test_running_job_is_not_due_before_min_interval() -> None:
    queue = queue_of(1, target_delay=1e-6, min_interval=7.0)
    assert queue.next_at(0.0) == pytest.approx(7.0, abs=0.25)
    queue.due(8.0, 1)
    queue.running(0, 8.0)
    assert queue.next_at(8.0) == pytest.approx(15.0, abs=0.25)


def test_running_job_is_due_by_max_interval() -> None:
    queue = queue_of(1, target_delay=1e9, max_interval=300.0, worst_delay=None)
    assert queue.next_at(0.0) == 300.0


def longest_intervals(queue: PollQueue, until: float) -> list[tuple[float, float]]:
    """Poll a job that never ends; return its age at each poll and the seconds to the next one."""
    now, polls = 0.0, []
    while now < until:
        then = queue.next_at(now)
        polls.append((now, then - now))
        now = then
        for job in queue.due(now, 10):
            queue.running(job, now)
    return polls


def taught(duration: float, jobs: int, **settings: Any) -> PollQueue:
    """Return an empty queue that has seen so many jobs of one kind end well after one and the same time."""
    queue = PollQueue(requests_per_second=None, **settings)
    for job in range(jobs):
        queue.add(job, kind="k", started_at=-duration, now=0.0, seen_at=-duration)
        queue.running(job, 0.95 * duration - duration)
        queue.ended(job, 0.0)
    return queue


def test_running_whatever_was_learned_is_looked_at_before_half_its_age_and_a_minute_have_passed() -> None:
    queue = taught(1e5, 500, max_interval=1e6)
    queue.add("a", kind="k", started_at=0.0, now=0.0)
    polls = longest_intervals(queue, until=50_000.0)
    assert all(wait <= 0.5 * age + 60.0 for age, wait in polls)
    # And no sooner than that, for nothing is expected yet: 60, 150, 285, 487, 791, 1246, ... to within the ticks.
    assert [age for age, _ in polls[1:7]] == pytest.approx([60.0, 150.0, 285.0, 487.5, 791.25, 1246.9], abs=5.0)


def test_running_without_a_bound_what_was_learned_decides_alone() -> None:
    queue = taught(1200.0, 500, worst_delay=None)
    queue.add("a", kind="k", started_at=0.0, now=0.0)
    assert queue.next_at(0.0) > 1000.0


@settings(max_examples=40, deadline=None)
@given(
    past=st.lists(st.tuples(st.floats(1.0, 1e6), st.booleans()), max_size=30),
    end=st.floats(0.0, 20_000.0),
    share=st.floats(0.05, 2.0),
)
def test_ended_any_past_is_noticed_within_the_promised_part_of_its_age_and_a_minute(
    past: list[tuple[float, bool]], end: float, share: float
) -> None:
    queue = PollQueue(requests_per_second=None, worst_delay=share, max_interval=1e9)
    for job, (duration, failed) in enumerate(past):
        queue.add(job, kind="k", started_at=-duration, now=0.0, seen_at=-duration)
        queue.ended(job, 0.0, failed=failed)
    queue.add("a", kind="k", started_at=0.0, now=0.0)
    now = queue.next_at(0.0)
    while now < end:
        queue.due(now, 1)
        queue.running("a", now)
        now = queue.next_at(now)
    assert now - end <= share * end + 60.0 + 1e-6


def test_running_wish_of_the_service_is_kept_even_below_min_interval() -> None:
    queue = queue_of(1, min_interval=5.0, tick=0.25)
    for wish in (1.0, 2.5, 0.25, 30.0):
        now = queue.next_at(0.0)
        queue.due(now, 1)
        queue.running(0, now, look_again=wish)
        assert queue.next_at(now) == now + wish


def test_running_wish_of_the_service_does_not_put_off_the_bound() -> None:
    queue = queue_of(1)
    queue.due(100.0, 1)
    queue.running(0, 100.0, look_again=1e6)
    assert queue.next_at(100.0) == pytest.approx(100.0 + 0.5 * 100.0 + 60.0, abs=0.25)


@pytest.mark.parametrize("wish", [0.0, -3.0, math.nan, -math.inf])
def test_running_wish_that_is_no_time_means_the_next_tick(wish: float) -> None:
    queue = queue_of(1, tick=0.25)
    queue.due(100.0, 1)
    queue.running(0, 100.0, look_again=wish)
    assert queue.next_at(100.0) == 100.25


def test_running_wish_is_for_one_look_only() -> None:
    queue = queue_of(1, target_delay=1.0)
    queue.due(100.0, 1)
    queue.running(0, 100.0, look_again=1.0)
    queue.due(101.0, 1)
    queue.running(0, 101.0)
    assert queue.next_at(101.0) > 101.0 + 30.0


def test_running_wishes_of_many_keep_the_promised_rate() -> None:
    fleet = Fleet(queue_of(0, requests_per_second=5.0))
    fleet.answer = lambda job: fleet.queue.running(job, fleet.now, look_again=1.0)  # type: ignore[method-assign]
    for job in range(100):
        fleet.add(job, at=0.0, duration=1e9)
    fleet.run(600.0)
    assert most_in_window(fleet.times, 100.0) <= fleet.queue.burst + 500
    assert fleet.queue.statistics().planned_rate == pytest.approx(0.9 * 5.0, rel=0.1)


def test_due_jobs_come_in_the_order_of_their_plans() -> None:
    queue = PollQueue(requests_per_second=None)
    instants = [31.0, 7.0, 19.0, 3.0, 23.0]
    for at in instants:
        queue.add(at, kind="k", started_at=0.0, now=0.0, next_at=at)
    assert queue.due(25.0, 10) == [3.0, 7.0, 19.0, 23.0]
    assert queue.due(100.0, 10) == [31.0]


def test_due_equal_plans_come_in_the_order_of_adding() -> None:
    queue = PollQueue(requests_per_second=None)
    for job in "cabd":
        queue.add(job, kind="k", started_at=0.0, now=0.0, next_at=10.0)
    assert queue.due(10.0, 10) == ["c", "a", "b", "d"]


def test_due_at_most_leaves_the_rest_for_later() -> None:
    queue = queue_of(5, requests_per_second=None)
    assert queue.due(1000.0, 2) == [0, 1]
    assert queue.due(1000.0, 0) == []
    assert queue.due(1000.0, 10) == [2, 3, 4]


def test_due_job_in_flight_is_not_handed_out_again() -> None:
    queue = queue_of(1)
    assert queue.due(1000.0, 10) == [0]
    assert queue.due(5000.0, 10) == []
    assert queue.next_at(5000.0) == math.inf


def test_next_at_plans_within_a_tick_share_an_instant() -> None:
    queue = PollQueue(tick=2.0)
    for job, at in enumerate([10.1, 10.9, 11.3, 12.0]):
        queue.add(job, kind="k", started_at=0.0, now=0.0, next_at=at)
    assert queue.next_at(0.0) == 12.0
    assert queue.due(12.0, 10) == [0, 1, 2, 3]


def test_next_at_something_due_already_is_within_a_tick() -> None:
    queue = queue_of(1, tick=0.25)
    assert 5000.1 <= queue.next_at(5000.1) <= 5000.35


def test_clock_goes_back_time_stands_still_and_nothing_is_lost() -> None:
    queue = queue_of(1)
    assert queue.due(1000.0, 1) == [0]
    queue.running(0, 200.0)
    planned = queue.next_at(0.0)
    assert planned > 1000.0
    assert queue.due(planned, 1) == [0]


def test_clock_jumps_ahead_everything_is_due_at_the_capped_rate() -> None:
    queue = queue_of(500, requests_per_second=10.0, burst=20.0)
    assert len(queue.due(1e6, 10_000)) == 20
    assert len(queue.due(1e6 + 1.0, 10_000)) == 10


@pytest.mark.parametrize(
    "settings",
    [
        {"target_delay": 0.0},
        {"min_interval": -1.0},
        {"max_interval": math.nan},
        {"worst_delay": 0.0},
        {"requests_per_second": 0.0},
        {"burst": 0.5},
        {"tick": math.inf},
        {"duration_hint": 0.0},
    ],
)
def test_queue_impossible_setting_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PollQueue(**settings)  # type: ignore[arg-type]


def test_queue_min_interval_above_the_others_raises_them() -> None:
    queue = queue_of(1, min_interval=2000.0)
    assert queue.next_at(0.0) == 2000.0
    queue.due(2000.0, 1)
    queue.errored(0, 2000.0)
    assert queue.next_at(2000.0) == 4000.0


def test_add_job_twice_is_planned_anew_once() -> None:
    queue = queue_of(1)
    queue.add(0, kind="k", started_at=0.0, now=1.0, next_at=20.0)
    assert len(queue) == 1
    assert [job for _, job in all_due(queue, until=1000.0)] == [0]


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1e300, -1e300])
def test_queue_times_that_are_no_times_lose_no_job(odd: float) -> None:
    queue = PollQueue()
    queue.add("a", kind="k", started_at=odd, now=odd, stall_at=odd, next_at=odd, seen_at=odd)
    queue.add("b", kind="k", started_at=odd, now=100.0)
    for now in (odd, 200.0):
        queue.next_at(now)
        for job in queue.due(now, 10):
            queue.running(job, odd, look_again=odd)
    now = max(200.0, queue.next_at(200.0))
    assert len(queue) == 2
    assert sorted(map(str, queue.due(now + 3600.0, 10))) == ["a", "b"]


# learning


def test_learning_sweep_at_equal_polls_finds_ends_sooner_than_a_fixed_interval() -> None:
    rng = random.Random(3)
    fleet = Fleet(PollQueue(requests_per_second=None))
    durations = {job: 1200.0 * rng.uniform(0.85, 1.15) for job in range(150)}
    for job, duration in durations.items():
        fleet.run(job * 30.0)
        fleet.add(job, at=job * 30.0, duration=duration)
    fleet.run(20_000.0)
    polls = len(fleet.times) / len(durations)
    learned = sum(fleet.delays.values()) / len(durations)
    # A fixed interval i costs E[D]/i + 1/2 polls a job and hides an end for i/2 on average.
    fixed = 1200.0 / (polls - 0.5) / 2
    assert len(fleet.delays) == len(durations)
    assert learned < fixed / 3


def test_learning_kinds_do_not_mix() -> None:
    queue = PollQueue(requests_per_second=None, target_delay=1.0)
    for job in range(50):
        queue.add(job, kind="short", started_at=0.0, now=0.0)
    now = queue.next_at(0.0)
    while now < 500.0:
        for job in queue.due(now, 100):
            queue.ended(job, now) if now >= 300.0 else queue.running(job, now)
        now = queue.next_at(now)
    assert len(queue) == 0
    queue.add("other", kind="long", started_at=500.0, now=500.0)
    assert queue.next_at(500.0) - 500.0 == pytest.approx(math.sqrt(2 * 1.0 * 1200.0), abs=0.5)
    assert set(queue.snapshots()) == {"short", "long"}
    assert queue.snapshots()["long"].bins == ()


def test_ended_without_learning_leaves_no_event() -> None:
    queue = queue_of(1)
    queue.due(1000.0, 1)
    queue.ended(0, 1000.0, learn=False)
    assert queue.snapshots()["k"].bins == ()
    assert len(queue) == 0


def test_running_old_job_of_unknown_past_teaches_only_from_its_first_answer_on() -> None:
    queue = queue_of(1, started_at=-5000.0)
    queue.due(100.0, 1)
    queue.running(0, 100.0)
    assert queue.snapshots()["k"].bins == ()
    queue.due(1000.0, 1)
    queue.running(0, 1000.0)
    assert sum(one.exposure for one in queue.snapshots()["k"].bins) == pytest.approx(900.0)


def test_ended_failed_is_learned_as_a_failure() -> None:
    queue = queue_of(2)
    queue.due(100.0, 2)
    queue.ended(0, 100.0, failed=True)
    queue.ended(1, 100.0)
    [learned] = queue.snapshots().values()
    assert sum(one.failed for one in learned.bins) == pytest.approx(1.0)
    assert sum(one.completed for one in learned.bins) == pytest.approx(1.0)


def test_learning_jobs_that_fail_soon_are_noticed_soon_after_many_that_did_not() -> None:
    fleet = Fleet(PollQueue(requests_per_second=None))
    rng = random.Random(2)
    fails = {job: job >= 300 and rng.random() < 0.5 for job in range(500)}
    for job, has_failed in fails.items():
        fleet.run(job * 12.0)
        duration = 40.0 if has_failed else 1200.0 * rng.uniform(0.95, 1.05)
        fleet.add(job, at=job * 12.0, duration=duration, fails=has_failed)
    fleet.run(20_000.0)
    delays = [fleet.delays[job] for job, has_failed in fails.items() if has_failed]
    assert delays[0] <= 0.5 * 40.0 + 60.0
    assert sum(delays[-50:]) / 50 < 10.0


def test_learning_kind_that_became_ten_times_faster_is_noticed_soon() -> None:
    fleet = Fleet(PollQueue(requests_per_second=None))
    rng = random.Random(5)
    for job in range(800):
        fleet.run(job * 12.0)
        fleet.add(job, at=job * 12.0, duration=(1200.0 if job < 600 else 120.0) * rng.uniform(0.95, 1.05))
    fleet.run(20_000.0)
    # 3,000 jobs and 1,023 s for the first 250 before; now at worst half of the age and a minute, and soon far less.
    assert max(fleet.delays[job] for job in range(600, 800)) <= 0.5 * 126.0 + 60.0
    assert sum(fleet.delays[job] for job in range(650, 800)) / 150 < 10.0


def test_ended_old_job_of_unknown_past_teaches_nothing() -> None:
    queue = queue_of(1, started_at=-5000.0)
    queue.due(100.0, 1)
    queue.ended(0, 100.0)
    assert queue.snapshots()["k"].bins == ()


def test_ended_old_job_with_known_past_teaches_its_end() -> None:
    queue = PollQueue()
    queue.add("a", kind="k", started_at=-5000.0, now=0.0, seen_at=-200.0)
    queue.due(100.0, 1)
    queue.ended("a", 100.0)
    assert sum(one.completed for one in queue.snapshots()["k"].bins) == pytest.approx(1.0)


def test_errored_poll_adds_exposure_only_when_the_job_answers() -> None:
    queue = queue_of(1)
    queue.due(100.0, 1)
    queue.errored(0, 100.0)
    assert queue.snapshots()["k"].bins == ()
    queue.due(200.0, 1)
    queue.running(0, 200.0)
    assert sum(one.exposure for one in queue.snapshots()["k"].bins) == pytest.approx(200.0)


def test_restore_what_was_learned_before_plans_like_before() -> None:
    first = queue_of(100, requests_per_second=None, worst_delay=None)
    for job in range(100):
        first.due(900.0, 100)
        first.running(job, 900.0)
    for job in range(100):
        first.ended(job, 950.0)
    first.add("next", kind="k", started_at=950.0, now=950.0)
    second = PollQueue(requests_per_second=None, worst_delay=None)
    second.restore("k", HazardSnapshot.from_json(first.snapshots()["k"].to_json()))
    second.add("next", kind="k", started_at=950.0, now=950.0)
    assert second.next_at(950.0) == pytest.approx(first.next_at(950.0), rel=0.02)
    assert second.next_at(950.0) > 950.0 + 500.0


def test_snapshots_changed_only_leaves_out_what_was_returned_before() -> None:
    queue = queue_of(1)
    queue.due(100.0, 1)
    queue.running(0, 100.0)
    assert set(queue.snapshots(changed_only=True)) == {"k"}
    assert queue.snapshots(changed_only=True) == {}


# how many


@settings(max_examples=40, deadline=None)
@given(
    rate=st.floats(0.05, 100.0),
    burst=st.one_of(st.none(), st.floats(1.0, 50.0)),
    visits=st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(0, 100), st.booleans()), min_size=1, max_size=60),
)
def test_due_any_visits_stay_under_burst_and_rate_in_every_window(
    rate: float, burst: float | None, visits: list[tuple[float, int, bool]]
) -> None:
    queue = PollQueue(requests_per_second=rate, target_delay=1e-9, **({} if burst is None else {"burst": burst}))
    for job in range(200):
        queue.add(job, kind="k", started_at=0.0, now=0.0)
    now, times = 0.0, []
    for pause, at_most, fails in visits:
        now += pause
        for job in queue.due(now, at_most):
            times.append(now)
            (queue.errored if fails else queue.running)(job, now)
    for low, start in enumerate(times):
        for high in range(low, len(times)):
            assert high - low + 1 <= queue.burst + rate * (times[high] - start) + 1e-3


def test_add_ten_thousand_resumed_jobs_are_polled_at_the_capped_rate_and_all_of_them() -> None:
    queue = PollQueue(requests_per_second=50.0, burst=50.0)
    rng = random.Random(1)
    for job in range(10_000):
        queue.add(job, kind="k", started_at=-rng.uniform(0.0, 3000.0), now=0.0)
    taken = all_due(queue, until=3600.0)
    assert len({job for _, job in taken}) == 10_000
    assert most_in_window([at for at, _ in taken], 10.0) <= 50 + 50 * 10
    assert max(at for at, _ in taken) < 10_000 / 50 + 100


def test_add_resumed_jobs_without_a_cap_are_spread_over_their_first_interval() -> None:
    queue = queue_of(1000, started_at=-600.0, requests_per_second=None)
    taken = [at for at, _ in all_due(queue, until=3600.0)]
    assert len(taken) == 1000
    assert most_in_window(taken, 1.0) < 40


def test_add_planned_instant_known_is_kept() -> None:
    queue = PollQueue()
    queue.add("a", kind="k", started_at=-600.0, now=0.0, next_at=77.0)
    assert queue.next_at(0.0) == 77.0


def test_add_planned_instant_beyond_reason_is_brought_forward() -> None:
    queue = PollQueue(max_interval=1800.0)
    queue.add("a", kind="k", started_at=0.0, now=0.0, next_at=1e9)
    assert queue.next_at(0.0) <= 60.0


@pytest.mark.parametrize("spread", [0.5, 0.15])
def test_budget_too_many_jobs_raises_the_price_until_the_rate_fits(spread: float) -> None:
    rng = random.Random(7)
    fleet = Fleet(PollQueue(requests_per_second=1.0))
    for job in range(2400):
        fleet.run(job * 5.0)
        fleet.add(job, at=job * 5.0, duration=1200.0 * math.exp(rng.gauss(0.0, spread)))
    settled = [at for at in fleet.times if at > 3000.0]
    statistics = fleet.queue.statistics()
    assert 0.7 < len(settled) / 9000.0 < 0.98
    assert statistics.target_delay > fleet.queue.target_delay
    # It is the price that keeps the rate, not the bucket: jobs are polled when planned.
    assert statistics.mean_lag < 5.0


def test_budget_few_jobs_keep_the_price() -> None:
    queue = queue_of(10, requests_per_second=50.0)
    assert queue.statistics().target_delay == queue.target_delay


def test_budget_jobs_gone_price_comes_back() -> None:
    queue = queue_of(1000, requests_per_second=1.0)
    assert queue.statistics().target_delay > 10 * queue.target_delay
    for job in range(1000):
        queue.discard(job)
    assert queue.statistics().target_delay == queue.target_delay
    assert queue.statistics().planned_rate == 0.0


def test_budget_more_jobs_than_max_interval_allows_keeps_the_rate() -> None:
    fleet = Fleet(queue_of(0, requests_per_second=1.0, max_interval=60.0))
    for job in range(1000):
        fleet.add(job, at=0.0, duration=1e9)
    fleet.run(10_000.0)
    assert len(fleet.times) <= 10_000
    assert fleet.queue.statistics().mean_lag < 60.0


# trouble


def test_errored_job_backs_off_exponentially_to_the_limit() -> None:
    queue = queue_of(1, min_interval=5.0, error_backoff=60.0)
    now, waits = queue.next_at(0.0), []
    for _ in range(6):
        assert queue.due(now, 1) == [0]
        queue.errored(0, now)
        then = queue.next_at(now)
        waits.append(then - now)
        now = then
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]


def test_errored_job_that_answers_again_starts_over() -> None:
    queue = queue_of(1, min_interval=5.0)
    for now in (100.0, 200.0, 300.0):
        queue.due(now, 1)
        queue.errored(0, now)
    queue.due(400.0, 1)
    queue.running(0, 400.0)
    now = queue.next_at(400.0)
    queue.due(now, 1)
    queue.errored(0, now)
    assert queue.next_at(now) == now + 5.0


def test_errored_job_leaves_the_others_alone() -> None:
    polls: dict[bool, int] = {}
    for sick in (True, False):
        fleet = Fleet(PollQueue(requests_per_second=None))
        for job in range(20):
            fleet.add(job, at=0.0, duration=1e9)
        answer = fleet.answer

        def answer_or_fail(job: int, fleet: Fleet = fleet, sick: bool = sick, answer: Any = answer) -> None:
            if sick and job == 0:
                fleet.queue.errored(job, fleet.now)
            else:
                polls[sick] = polls.get(sick, 0) + (job != 0)
                answer(job)

        fleet.answer = answer_or_fail  # type: ignore[method-assign]
        fleet.run(2000.0)
        assert not fleet.queue.statistics().outage
        assert fleet.queue.statistics().max_lag == 0.0
    assert polls[True] == pytest.approx(polls[False], rel=0.05)
    assert polls[False] > 200


def test_outage_one_job_per_min_interval_looks_until_somebody_answers() -> None:
    queue = queue_of(100, min_interval=5.0, requests_per_second=None)
    taken = queue.due(1000.0, 8)
    for job in taken:
        queue.errored(job, 1000.0)
    assert queue.statistics().outage
    assert queue.due(1000.0, 100) == [8]
    assert queue.due(1003.0, 100) == []
    assert queue.next_at(1003.0) == 1005.0
    [probe] = queue.due(1005.0, 100)
    queue.running(probe, 1005.0)
    assert not queue.statistics().outage
    assert len(queue.due(1005.0, 1000)) >= 90


def test_outage_is_over_when_a_job_has_ended() -> None:
    queue = queue_of(100, requests_per_second=None)
    for job in queue.due(1000.0, 8):
        queue.errored(job, 1000.0)
    [probe] = queue.due(1000.0, 100)
    queue.ended(probe, 1000.0)
    assert not queue.statistics().outage
    assert len(queue.due(1000.0, 1000)) == 91


def test_outage_of_ten_minutes_loses_no_job_and_never_bursts() -> None:
    rng = random.Random(11)
    fleet = Fleet(PollQueue(requests_per_second=20.0))
    for job in range(2000):
        fleet.add(job, at=-rng.uniform(0.0, 600.0), duration=rng.uniform(1500.0, 3000.0))
    fleet.down = lambda now: 600.0 <= now < 1200.0
    fleet.run(8000.0)
    during = [at for at in fleet.times if 600.0 <= at < 1200.0]
    ended_meanwhile = [job for job, end in fleet.ends.items() if 600.0 <= end < 1200.0]
    assert len(fleet.delays) == 2000
    assert len(fleet.queue) == 0
    assert len(during) < 200
    assert most_in_window(fleet.times, 1.0) <= fleet.queue.burst + 20
    assert most_in_window(fleet.times, 60.0) <= fleet.queue.burst + 20 * 60
    # Two thousand overdue jobs at twenty a second.
    assert max(fleet.ends[job] + fleet.delays[job] for job in ended_meanwhile) < 1200.0 + 5.0 + 2000 / 20 + 20.0


def test_outage_failing_jobs_among_healthy_ones_are_none() -> None:
    fleet = Fleet(PollQueue(requests_per_second=None))
    for job in range(40):
        fleet.add(job, at=0.0, duration=1e9)
    answer = fleet.answer
    fleet.answer = lambda job: fleet.queue.errored(job, fleet.now) if job % 2 else answer(job)  # type: ignore[method-assign]
    fleet.run(3000.0)
    assert not fleet.queue.statistics().outage
    assert fleet.queue.statistics().mean_lag < 0.1


def test_stalled_job_found_past_its_deadline_is_told_once_and_polled_slowly() -> None:
    queue = PollQueue(stalled_interval=900.0)
    queue.add("a", kind="k", started_at=-5000.0, now=0.0, stall_at=100.0)
    now, told = queue.next_at(0.0), []
    for _ in range(6):
        queue.due(now, 1)
        queue.running("a", now)
        told.append(queue.stalled())
        last, now = now, queue.next_at(now)
    assert told.count(["a"]) == 1
    assert now - last == 900.0
    assert queue.statistics().stalled == 1


def test_stalled_job_is_looked_at_when_the_deadline_passes() -> None:
    queue = PollQueue(target_delay=1e6, max_interval=1800.0, worst_delay=None)
    queue.add("a", kind="k", started_at=0.0, now=0.0, stall_at=333.0)
    assert queue.next_at(0.0) == 333.0
    queue.due(333.0, 1)
    assert queue.stalled() == []
    queue.running("a", 333.0)
    assert queue.stalled() == ["a"]


def test_stalled_job_whose_polls_fail_is_told_after_many_failures() -> None:
    queue = PollQueue(min_interval=5.0)
    queue.add("a", kind="k", started_at=0.0, now=0.0, stall_at=10.0)
    now, told_after = queue.next_at(0.0), []
    for failures in range(1, 12):
        queue.due(now, 1)
        queue.errored("a", now)
        if queue.stalled():
            told_after.append(failures)
        now = queue.next_at(now)
    assert told_after == [8]


def test_stalled_job_whose_poll_fails_is_still_polled_slowly() -> None:
    queue = PollQueue(min_interval=5.0, stalled_interval=900.0)
    queue.add("a", kind="k", started_at=0.0, now=0.0, stall_at=10.0)
    queue.due(500.0, 1)
    queue.running("a", 500.0)
    assert queue.next_at(500.0) == 500.0 + 0.5 * 500.0 + 60.0 - queue.tick  # what is promised holds for it, too
    queue.due(2000.0, 1)
    queue.errored("a", 2000.0)
    assert queue.next_at(2000.0) == 2900.0


def test_stalled_job_discarded_meanwhile_is_not_told() -> None:
    queue = PollQueue()
    queue.add("a", kind="k", started_at=-50.0, now=0.0, stall_at=-10.0)
    queue.due(500.0, 1)
    queue.running("a", 500.0)
    queue.discard("a")
    assert queue.stalled() == []
    assert queue.statistics().stalled == 0


def test_stalled_job_that_ends_after_all_is_gone() -> None:
    queue = PollQueue()
    queue.add("a", kind="k", started_at=0.0, now=0.0, stall_at=10.0)
    queue.due(500.0, 1)
    queue.running("a", 500.0)
    queue.due(5000.0, 1)
    queue.ended("a", 5000.0)
    assert len(queue) == 0
    assert queue.statistics().stalled == 0


# bookkeeping


def test_discard_waiting_job_is_never_due() -> None:
    queue = queue_of(2, requests_per_second=None)
    queue.discard(0)
    assert queue.due(1000.0, 10) == [1]
    assert 0 not in queue
    assert 1 in queue


def test_discard_job_in_flight_ignores_its_late_answer() -> None:
    queue = queue_of(1)
    queue.due(1000.0, 1)
    queue.discard(0)
    queue.running(0, 1001.0)
    queue.errored(0, 1001.0)
    queue.ended(0, 1001.0)
    assert len(queue) == 0
    assert queue.next_at(1001.0) == math.inf
    assert queue.statistics().ended == 0


def test_discard_and_add_again_leaves_one_plan() -> None:
    queue = queue_of(1, requests_per_second=None, worst_delay=None)
    queue.discard(0)
    queue.add(0, kind="k", started_at=0.0, now=1.0, next_at=500.0)
    assert queue.due(400.0, 10) == []
    assert queue.due(500.0, 10) == [0]


def test_running_job_that_was_not_due_is_planned_anew() -> None:
    queue = queue_of(1, requests_per_second=None)
    first = queue.next_at(0.0)
    queue.running(0, first - 10.0)
    assert queue.next_at(0.0) > first + 20.0
    assert queue.due(first + 1.0, 10) == []
    assert len(all_due(queue, until=1000.0)) == 1


def test_discard_many_keeps_the_heap_small() -> None:
    queue = queue_of(100, requests_per_second=None)
    for job in range(100, 20_100):
        queue.add(job, kind="k", started_at=0.0, now=0.0)
        queue.discard(job)
        assert queue._agenda.size <= 2 * len(queue) + 64
    assert sorted(queue.due(1e6, 10**6)) == list(range(100))


def test_memory_per_job_is_under_six_hundred_bytes() -> None:
    ids = [f"job-{number}" for number in range(4000)]
    rng = random.Random(0)
    starts = [rng.uniform(-1000.0, 0.0) for _ in ids]
    queue = PollQueue()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number, (job_id, start) in enumerate(zip(ids, starts, strict=True)):
            queue.add(job_id, kind=f"kind {number % 5}", started_at=start, now=0.0, stall_at=start + 4e4)
        now = 0.0
        for _ in range(200):
            now = queue.next_at(now)
            for job_id in queue.due(now, 1000):
                queue.running(job_id, now)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / len(ids) < 600


def test_statistics_count_what_happened() -> None:
    queue = queue_of(4, requests_per_second=None)
    planned = queue.next_at(0.0)
    queue.due(planned + 10.0, 3)
    queue.ended(0, planned + 10.0)
    queue.errored(1, planned + 10.0)
    statistics = queue.statistics()
    assert statistics == PollStatistics(
        jobs=3,
        in_flight=1,
        stalled=0,
        polls=3,
        errors=1,
        ended=1,
        mean_lag=10.0,
        max_lag=10.0,
        target_delay=2.0,
        planned_rate=statistics.planned_rate,
        outage=False,
    )
    assert statistics.planned_rate == pytest.approx(3 / planned, rel=0.01)


def test_repr_tells_the_state_of_the_fleet() -> None:
    queue = queue_of(12)
    queue.due(1000.0, 10)
    for job in range(8):
        queue.errored(job, 1000.0)
    text = repr(queue)
    assert "12 jobs" in text
    assert "2 in flight" in text
    assert "no poll succeeds" in text
