"""A sweep sends each point once, follows it to its end, and is the same sweep whenever it is started again."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from crynux_async import (
    AuthError,
    BudgetExceededError,
    ConfigError,
    ConflictError,
    Job,
    JobState,
    Session,
    SubmissionUnknownError,
    UsageError,
)
from crynux_async.backends.base import Finding, LostCreate, Verdict
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.sweeps import RetryAtMost, StopAfter, Sweep, Trial, grid
from tests.fake_backend import FakeBackend, make_config


def open_session(backend: FakeBackend, ledger: MemoryLedger | None = None, **settings: Any) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, **{"rate_limit": 6000, **settings})


def ranks(*values: int, **changes: Any) -> Sweep:
    return Sweep("cats", make_config(), points=grid(rank=list(values)), **changes)


def failing(*numbers: int) -> list[dict[str, Any]]:
    """Return four points, some of which fail at the service."""
    return [{"rank": 4 + n, **({"model_name": "x/fail"} if n in numbers else {})} for n in range(1, 5)]


async def test_run_yields_every_trial_with_its_archive_in_the_order_of_ends(tmp_path: Path) -> None:
    backend = FakeBackend(duration=lambda config: 1000.0 - 100.0 * config.rank)
    async with open_session(backend) as session, ranks(4, 5, 6, folder=tmp_path).run(session) as running:
        trials = [trial async for trial in running]
    assert [trial.params for trial in trials] == [{"rank": 6}, {"rank": 5}, {"rank": 4}]
    for trial in trials:
        assert trial.state == "done"
        assert trial.archive is not None
        assert trial.norms is not None
        assert trial.norms.total > 0
        assert trial.health is not None
        assert trial.job.path is not None
        assert trial.job.path.parent == tmp_path
    assert backend.creates == 3


async def test_run_jobs_carry_key_label_group_and_tags(tmp_path: Path) -> None:
    ledger = MemoryLedger()
    async with open_session(FakeBackend(), ledger) as session:
        async with ranks(8, tags={"team": "art"}).run(session) as running:
            (trial,) = await running.wait()
        row = await session.ledger.get(trial.job.job_id)
    assert row is not None
    assert (row.label, row.group, dict(row.tags)) == ("rank=8", "cats", {"team": "art", "sweep": "cats"})
    assert row.idempotency_key == trial.point.key


async def test_run_again_sends_nothing_and_yields_what_is_done(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    for _ in range(2):
        async with open_session(backend, ledger) as session, ranks(4, 8, folder=tmp_path).run(session) as running:
            trials = await running.wait()
        assert [trial.state for trial in trials] == ["done", "done"]
    assert backend.creates == 2


async def test_run_left_early_goes_on_where_it_was(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(duration=500.0), MemoryLedger()
    async with open_session(backend, ledger) as session, ranks(4, 8, folder=tmp_path).run(session) as running:
        await running.trials[1].job.submitted()
    async with open_session(backend, ledger) as session, ranks(4, 8, 16, folder=tmp_path).run(session) as running:
        trials = await running.wait()
    assert [trial.state for trial in trials] == ["done"] * 3
    assert backend.creates == 3


async def test_failing_trial_disturbs_no_other_and_retry_sends_it_alone(tmp_path: Path) -> None:
    backend = FakeBackend()
    sweep = Sweep("cats", make_config(), points=failing(2, 4), folder=tmp_path)
    async with open_session(backend) as session, sweep.run(session) as running:
        trials = await running.wait()
        assert [trial.state for trial in trials] == ["done", "failed", "done", "failed"]
        assert backend.creates == 4
        again = await running.retry()
        assert [trial.number for trial in again] == [2, 4]
        assert sorted([trial.number async for trial in running]) == [2, 4]
    assert backend.creates == 6


async def test_retry_at_most_counts_the_tries_of_every_run() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    for _ in range(2):
        sweep = Sweep("cats", make_config(), points=failing(1))
        async with (
            open_session(backend, ledger) as session,
            sweep.run(session, on_failure=RetryAtMost(2)) as running,
        ):
            trials = await running.wait()
        assert [trial.state for trial in trials] == ["failed", "done", "done", "done"]
        assert backend.creates == 4 + 2


async def test_stop_after_failures_sends_nothing_more() -> None:
    backend = FakeBackend(duration=1.0)
    points = [{"model_name": "x/fail", "rank": rank} for rank in range(4, 14)]
    sweep = Sweep("cats", make_config(), points=points)
    async with (
        open_session(backend, rate_limit=1) as session,
        sweep.run(session, on_failure=StopAfter(1)) as running,
    ):
        trials = await running.wait()
    assert {trial.state for trial in trials} == {"failed", "stopped"}
    assert backend.creates < len(points)


async def test_stop_ends_the_iteration_and_another_run_sends_the_rest() -> None:
    backend, ledger = FakeBackend(duration=1.0), MemoryLedger()
    async with open_session(backend, ledger, rate_limit=1) as session, ranks(4, 5, 6).run(session) as running:
        await running.trials[0].job.submitted()
        await running.stop()
        trials = await running.wait()
        assert [trial.state for trial in trials] == ["done", "stopped", "stopped"]
    async with open_session(backend, ledger) as session:  # one that sends all it takes over sends none of these
        await asyncio.sleep(600)
    assert backend.creates == 1
    async with open_session(backend, ledger, rate_limit=1) as session, ranks(4, 5, 6).run(session) as running:
        assert [trial.state for trial in await running.wait()] == ["done"] * 3
    assert backend.creates == 3


async def test_lost_create_that_made_a_task_is_found_and_not_sent_again() -> None:
    backend = FakeBackend()

    async def lose() -> None:
        backend.make_task(backend.received[-1])
        raise SubmissionUnknownError("the connection broke")

    backend.answers.extend([None, lose, None])
    async with open_session(backend, max_creates=1) as session, ranks(4, 5, 6).run(session) as running:
        trials = await running.wait()
    assert [trial.state for trial in trials] == ["done"] * 3
    assert backend.creates == 3


async def test_creates_that_were_never_made_are_sent_whichever_of_them_was_heard_of_first() -> None:
    verdict = Verdict.OPEN

    class Telling(FakeBackend):
        async def find_lost(self, lost: Sequence[LostCreate], **_: Any) -> list[Finding]:
            return [Finding(job_id=one.job_id, verdict=verdict, explanation="") for one in lost]

    backend, ledger = Telling(), MemoryLedger()
    backend.answers.extend([SubmissionUnknownError("the connection broke")] * 3)
    async with open_session(backend, ledger) as session, ranks(4, 5, 6).run(session) as running:
        assert [trial.state for trial in await running.wait()] == ["unconfirmed"] * 3
    verdict = Verdict.NOT_CREATED
    # All three have ended when this begins, and it looks as soon as it has heard of one.
    async with open_session(backend, ledger) as session, ranks(4, 5, 6).run(session) as running:
        async with asyncio.timeout(3600):
            assert [trial.state for trial in await running.wait()] == ["done"] * 3
    assert len(backend.created) == 3


async def test_changed_base_under_an_old_name_says_what_differs() -> None:
    ledger, backend = MemoryLedger(), FakeBackend()
    async with open_session(backend, ledger) as session:
        async with ranks(4).run(session) as running:
            await running.wait()
        changed = Sweep("cats", make_config(resolution=768), points=grid(rank=[4]))
        with pytest.raises(ConflictError, match="resolution was 512 and is 768") as error:
            async with changed.run(session):
                pass
    assert error.value.differences == {"resolution": (512, 768)}
    assert backend.creates == 1


async def test_broken_point_is_named_before_anything_is_sent() -> None:
    backend = FakeBackend()
    sweep = Sweep("cats", make_config(), points=[{"rank": 4}, {"rank": -1}])
    async with open_session(backend) as session:
        with pytest.raises(ConfigError, match="point 2: rank"):
            async with sweep.run(session):
                pass
        assert session.jobs() == []


async def test_objective_ranks_and_one_that_raises_fails_its_trial_alone(tmp_path: Path) -> None:
    def objective(trial: Trial) -> float:
        if trial.params["rank"] == 5:
            raise ZeroDivisionError("no pictures")
        assert trial.norms is not None
        return trial.norms.total

    sweep = ranks(4, 5, 6, folder=tmp_path, objective=objective)
    async with open_session(FakeBackend()) as session, sweep.run(session) as running:
        first, second, third = await running.wait()
    assert first.objective is not None
    assert third.objective is not None
    assert (second.state, second.objective) == ("failed", None)
    assert isinstance(second.error, ZeroDivisionError)


async def test_on_trial_is_called_with_each_and_may_raise() -> None:
    seen: list[int] = []

    async def note(trial: Trial) -> None:
        seen.append(trial.number)
        raise RuntimeError("the tracker is down")

    async with open_session(FakeBackend()) as session, ranks(4, 5).run(session, on_trial=note) as running:
        assert [trial.state for trial in await running.wait()] == ["done", "done"]
    assert sorted(seen) == [1, 2]


async def test_download_that_fails_is_a_failed_trial_that_retry_fetches_without_paying(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.archive = b"no archive"
    async with open_session(backend) as session, ranks(4, folder=tmp_path).run(session) as running:
        (trial,) = await running.wait()
        assert (trial.state, trial.job.state) == ("failed", JobState.SUCCEEDED)
        backend.archive = FakeBackend().archive
        await running.retry()
        (trial,) = await running.wait()
        assert trial.state == "done"
    assert backend.creates == 1


async def test_two_runs_at_once_on_one_ledger_are_one_sweep(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(duration=100.0), MemoryLedger()

    async def run() -> list[str]:
        async with open_session(backend, ledger) as session, ranks(4, 5, 6, folder=tmp_path).run(session) as running:
            return [trial.state for trial in await running.wait()]

    assert await asyncio.gather(run(), run()) == [["done"] * 3] * 2
    assert backend.creates == 3


async def test_iterating_without_entering_says_how() -> None:
    async with open_session(FakeBackend()) as session:
        with pytest.raises(UsageError, match="async with"):
            await anext(ranks(4).run(session))


@pytest.mark.parametrize("value", [0, -1, True, 1.5, "2"])
def test_failure_policies_take_whole_numbers_above_zero(value: Any) -> None:
    with pytest.raises(UsageError):
        RetryAtMost(value)
    with pytest.raises(UsageError):
        StopAfter(value)


@pytest.mark.parametrize("value", ["stop", None, RetryAtMost])
async def test_failure_policy_that_is_none_is_named_before_anything_is_sent(value: Any) -> None:
    async with open_session(FakeBackend()) as session:
        with pytest.raises(UsageError, match="StopAfter") as caught:
            ranks(4).run(session, on_failure=value)
        assert session.jobs() == []
    assert caught.value.field == "on_failure"


async def test_budget_holds_for_every_run_and_what_it_does_not_pay_is_stopped() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    sweep = ranks(4, 5, 6, 7, budget_cnx=30)
    for _ in range(2):  # the second one, in a new session, pays for nothing more
        async with (
            Session(
                backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000, max_creates=1, price=15
            ) as session,
            sweep.run(session) as running,
        ):
            trials = await running.wait()
        assert [trial.state for trial in trials] == ["done", "done", "stopped", "stopped"]
        assert isinstance(trials[2].error, BudgetExceededError)
        assert backend.creates == 2


async def test_sweep_that_cannot_pay_for_anything_ends_at_once() -> None:
    async with (
        open_session(FakeBackend(), price=15) as session,
        ranks(4, 5, 6, 7, budget_cnx=1).run(session) as running,
        asyncio.timeout(1.0),
    ):
        trials = await running.wait()
    assert [trial.state for trial in trials] == ["stopped"] * 4


async def test_trial_that_is_sent_again_just_after_it_was_set_aside_is_followed_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = FakeBackend(duration=100.0)
    backend.answers.append(AuthError("invalid api key"))
    as_completed = Session.as_completed

    async def with_retry(session: Session, jobs: Any = None) -> AsyncGenerator[Job, None]:
        async with aclosing(as_completed(session, jobs)) as ends:
            async for job in ends:
                if job.error is not None:  # before the run has heard of it
                    await job.retry()
                yield job

    monkeypatch.setattr(Session, "as_completed", with_retry)
    async with open_session(backend) as session, ranks(4).run(session) as running, asyncio.timeout(1000):
        (trial,) = await running.wait()
    assert trial.state == "done"


async def test_run_hears_soon_that_another_session_stops_what_it_waits_for() -> None:
    backend, ledger = FakeBackend(duration=1.0), MemoryLedger()
    async with (
        open_session(backend, ledger, rate_limit=1) as session,
        open_session(backend, ledger, follow=False) as other,
        ranks(4, 5, 6).run(session) as running,
    ):
        await running.trials[0].job.submitted()
        await other.stop_sending(await other.history(states=[JobState.PLANNED]))
        async with asyncio.timeout(10.0):
            assert [(await anext(running)).number for _ in range(2)] == [2, 3]
        assert [trial.state for trial in await running.wait()] == ["done", "stopped", "stopped"]


async def test_newest_budget_of_a_sweep_counts_in_the_session_that_knows_an_older_one() -> None:
    backend = FakeBackend()
    async with open_session(backend, max_creates=1, price=15) as session:
        for points, cnx, paid in [((4, 5, 6, 7), 30, 2), ((4, 5, 6, 7), 60, 4), ((4, 5, 6, 7, 8), 30, 4)]:
            async with ranks(*points, budget_cnx=cnx).run(session) as running:
                trials = await running.wait()
            assert [trial.state for trial in trials] == ["done"] * paid + ["stopped"] * (len(points) - paid)
            assert backend.creates == paid


async def test_budget_without_a_price_is_named_before_anything_is_sent() -> None:
    async with open_session(FakeBackend()) as session:
        with pytest.raises(UsageError, match="price"):
            async with ranks(4, budget_cnx=30).run(session):
                pass
        assert session.jobs() == []


async def test_credential_that_is_refused_stops_the_sweep_with_words() -> None:
    backend = FakeBackend()
    backend.answers.append(AuthError("invalid api key"))
    async with open_session(backend, max_creates=1) as session, ranks(4, 5).run(session) as running:
        trials = await running.wait()
    assert [trial.state for trial in trials] == ["stopped", "stopped"]
    assert isinstance(trials[0].error, AuthError)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_objective_that_is_no_number_ranks_nothing_and_is_told(value: float, tmp_path: Path) -> None:
    sweep = ranks(4, 8, folder=tmp_path, objective=lambda trial: value if trial.number == 1 else 1.0)
    async with open_session(FakeBackend()) as session, sweep.run(session) as running:
        first, second = await running.wait()
        rows = running.table.rows
    assert (first.state, first.objective) == ("failed", None)
    assert "the objective of trial 1 is" in str(first.error)
    assert [row["standing"] for row in rows] == [None, 1]
    assert second.state == "done"


async def test_retry_just_before_another_end_is_followed_to_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend(duration=lambda config: 10.0 * config.rank)
    as_completed = Session.as_completed
    retried: list[Trial] = []

    async def with_retry(session: Session, jobs: Any = None) -> AsyncGenerator[Job, None]:
        async with aclosing(as_completed(session, jobs)) as ends:
            async for job in ends:
                if job.job_id == running.trials[1].job.job_id and not retried:
                    retried.extend(await running.retry([running.trials[0]]))
                yield job

    monkeypatch.setattr(Session, "as_completed", with_retry)
    ended: list[int] = []
    async with (
        open_session(backend) as session,
        ranks(4, 8, 16).run(session, on_trial=lambda trial: ended.append(trial.number)) as running,
        asyncio.timeout(100_000),
    ):
        await running.wait()
    assert [trial.number for trial in retried] == [1]
    assert sorted(ended) == [1, 1, 2, 3]


async def test_name_template_that_is_none_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    backend = FakeBackend()
    async with open_session(backend) as session:
        with pytest.raises(UsageError, match=r"\{nickname\}"):
            async with ranks(4, 8, folder=tmp_path, name_template="{nickname}.zip").run(session) as running:
                await running.wait()
        assert session.jobs() == []
    assert backend.creates == 0
