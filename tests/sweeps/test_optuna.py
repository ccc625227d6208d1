"""With Optuna each trial is one job, whatever dies between asking and telling."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest

from crynux_async import (
    AuthError,
    BudgetExceededError,
    ConfigError,
    FineTuneConfig,
    Session,
    SubmissionUnknownError,
    UsageError,
)
from crynux_async.backends.base import Finding, LostCreate, Verdict
from crynux_async.budgets import Budget
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.sweeps import Trial, recall, sweep_names
from crynux_async.sweeps.optuna import OptunaSweep
from crynux_async.sweeps.table import table_of
from crynux_async.sweeps.view import view_of
from tests.fake_backend import FakeBackend, make_config
from tests.report.views import START

optuna.logging.set_verbosity(optuna.logging.WARNING)
States = optuna.trial.TrialState


def open_session(backend: FakeBackend, ledger: MemoryLedger) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000)


def config_of(trial: optuna.Trial) -> FineTuneConfig:
    return make_config(
        rank=trial.suggest_categorical("rank", [4, 8, 16]),
        learning_rate=trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True),
    )


def rank_of(trial: Trial) -> float:
    return float(trial.params["rank"])


def new_study(storage: optuna.storages.BaseStorage | None = None, name: str = "cats") -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=1)
    return optuna.create_study(study_name=name, storage=storage, load_if_exists=True, sampler=sampler)


async def test_optimize_tells_every_trial_its_objective_and_where_its_model_is(tmp_path: Path) -> None:
    study, backend = new_study(), FakeBackend()
    async with open_session(backend, MemoryLedger()) as session:
        finished = await OptunaSweep(study, config_of, rank_of, folder=tmp_path).optimize(session, n_trials=6, n_jobs=3)
    assert len(finished) == len(study.trials) == backend.creates == 6
    for trial in study.trials:
        assert (trial.state, trial.value) == (States.COMPLETE, trial.params["rank"])
        assert Path(trial.user_attrs["archive"]).parent == tmp_path
        assert trial.user_attrs["task_id"] in backend.created
        assert backend.created[trial.user_attrs["task_id"]].rank == trial.params["rank"]


async def test_optimize_runs_so_many_at_once() -> None:
    backend = FakeBackend(duration=300.0)
    most = 0

    async def watch(session: Session) -> None:
        nonlocal most
        while True:
            most = max(most, sum(not job.done for job in session.jobs()))
            await asyncio.sleep(1.0)

    async with open_session(backend, MemoryLedger()) as session:
        watcher = asyncio.create_task(watch(session))
        await OptunaSweep(new_study(), config_of, rank_of).optimize(session, n_trials=7, n_jobs=3)
        watcher.cancel()
    assert most == 3


@pytest.mark.parametrize("bad_end", ["fail", "prune"])
async def test_training_that_failed_is_told_as_was_wished_after_its_retries(bad_end: str) -> None:
    def half_bad(trial: optuna.Trial) -> FineTuneConfig:
        return make_config(model_name="x/fail" if trial.number % 2 else "x/good", rank=trial.suggest_int("rank", 4, 8))

    study, backend = new_study(), FakeBackend()
    async with open_session(backend, MemoryLedger()) as session:
        sweep = OptunaSweep(study, half_bad, rank_of, on_bad_end=bad_end, retries=2)  # type: ignore[arg-type]
        await sweep.optimize(session, n_trials=4, n_jobs=2)
    bad = {"fail": States.FAIL, "prune": States.PRUNED}[bad_end]
    assert [trial.state for trial in study.trials] == [States.COMPLETE, bad, States.COMPLETE, bad]
    assert backend.creates == 2 + 2 * 3


@pytest.mark.parametrize("template", [3, "{nope}.zip"])
def test_name_template_that_is_none_is_refused_before_any_trial_is_asked_for(template: Any) -> None:
    with pytest.raises(UsageError, match="file name"):
        OptunaSweep(new_study(), config_of, rank_of, name_template=template)


async def test_objective_that_raises_fails_its_trial_alone(caplog: pytest.LogCaptureFixture) -> None:
    def objective(trial: Trial) -> float:
        if trial.number == 2:
            raise ZeroDivisionError("no pictures")
        return 1.0

    study = new_study()
    with caplog.at_level(logging.CRITICAL, "crynux_async"):
        async with open_session(FakeBackend(), MemoryLedger()) as session:
            await OptunaSweep(study, config_of, objective).optimize(session, n_trials=3, n_jobs=1)
    assert [trial.state for trial in study.trials] == [States.COMPLETE, States.FAIL, States.COMPLETE]


async def test_objective_that_fails_for_want_of_an_archive_says_that_a_folder_is_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    study = new_study()
    with caplog.at_level(logging.CRITICAL, "crynux_async"):
        async with open_session(FakeBackend(), MemoryLedger()) as session:
            sweep = OptunaSweep(study, config_of, lambda trial: trial.norms.total)  # type: ignore[union-attr]
            (trial,) = await sweep.optimize(session, n_trials=1)
    assert isinstance(trial.problem, UsageError)
    assert "give OptunaSweep a folder" in study.trials[0].user_attrs["error"]


async def test_study_is_ranked_by_its_direction_where_it_is_seen_as_a_sweep(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    study = optuna.create_study(study_name="cats", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    async with open_session(backend, ledger) as session:
        await OptunaSweep(study, config_of, rank_of, folder=tmp_path).optimize(session, n_trials=5, n_jobs=2)
        found = await recall(session, "cats")
    ranked = {row["standing"]: row["objective"] for row in found.table.rows}
    assert ranked[1] == study.best_value
    assert found.subject.objective_name == "objective"


async def test_study_goes_on_where_a_run_was_cut_off_at_any_moment() -> None:
    """Cancelled again and again, at another moment each time, with a new session each time: one job for each trial."""
    storage, backend, ledger = optuna.storages.InMemoryStorage(), FakeBackend(duration=200.0), MemoryLedger()
    for cut in range(1, 60):
        async with open_session(backend, ledger) as session:
            sweep = OptunaSweep(new_study(storage), config_of, rank_of)
            try:
                async with asyncio.timeout(0.05 * cut**2):
                    await sweep.optimize(session, n_trials=12, n_jobs=4)
            except TimeoutError:
                continue
            break
    study = new_study(storage)
    assert [trial.state for trial in study.trials] == [States.COMPLETE] * 12
    assert len({trial.user_attrs["job_id"] for trial in study.trials}) == 12
    assert backend.creates == 12


async def test_trial_that_was_asked_and_never_bound_is_sent() -> None:
    storage, backend = optuna.storages.InMemoryStorage(), FakeBackend()
    left = new_study(storage).ask()
    left.suggest_categorical("rank", [4, 8, 16])
    async with open_session(backend, MemoryLedger()) as session:
        await OptunaSweep(new_study(storage), config_of, rank_of).optimize(session, n_trials=1)
    (trial,) = new_study(storage).trials
    assert (trial.state, trial.value) == (States.COMPLETE, left.params["rank"])


async def test_two_processes_on_one_study_train_each_trial_once() -> None:
    storage, backend, ledger = optuna.storages.InMemoryStorage(), FakeBackend(duration=200.0), MemoryLedger()

    async def run() -> None:
        async with open_session(backend, ledger) as session:
            await OptunaSweep(new_study(storage), config_of, rank_of).optimize(session, n_trials=8, n_jobs=2)

    await asyncio.gather(run(), run())
    study = new_study(storage)
    assert {trial.state for trial in study.trials} == {States.COMPLETE}
    assert 8 <= len(study.trials) <= 9  # both may ask for the last one at the same moment
    assert backend.creates == len(study.trials)


async def test_trial_of_unknown_outcome_stays_running_and_is_not_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    study, backend = new_study(), FakeBackend()

    async def lose() -> None:
        raise SubmissionUnknownError("the connection broke")

    backend.answers.extend([lose])
    with caplog.at_level(logging.CRITICAL, "crynux_async"):
        async with open_session(backend, MemoryLedger()) as session:
            await OptunaSweep(study, config_of, rank_of).optimize(session, n_trials=1)
    assert [trial.state for trial in study.trials] == [States.RUNNING]
    assert backend.creates == 1


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_trials_whose_creates_were_never_made_are_sent_whichever_of_them_is_looked_for_first(
    at_once: int,
) -> None:
    verdict = Verdict.OPEN

    class Telling(FakeBackend):
        async def find_lost(self, lost: Sequence[LostCreate], **_: Any) -> list[Finding]:
            return [Finding(job_id=one.job_id, verdict=verdict, explanation="") for one in lost]

    storage, backend, ledger = optuna.storages.InMemoryStorage(), Telling(), MemoryLedger()
    backend.answers.extend([SubmissionUnknownError("the connection broke")] * 3)
    async with open_session(backend, ledger) as session:
        await OptunaSweep(new_study(storage), config_of, rank_of).optimize(session, n_trials=3, n_jobs=3)
    assert [trial.state for trial in new_study(storage).trials] == [States.RUNNING] * 3
    verdict = Verdict.NOT_CREATED
    async with open_session(backend, ledger) as session, asyncio.timeout(36000):
        await OptunaSweep(new_study(storage), config_of, rank_of).optimize(session, n_trials=3, n_jobs=at_once)
    assert [trial.state for trial in new_study(storage).trials] == [States.COMPLETE] * 3
    assert len(backend.created) == 3


@pytest.mark.parametrize(("answer", "cnx"), [(AuthError("invalid api key"), 100), (None, 1)])
async def test_job_that_is_left_unsent_ends_the_run_and_its_trial_is_gone_on_with(
    answer: AuthError | None, cnx: int
) -> None:
    storage, backend, ledger = optuna.storages.InMemoryStorage(), FakeBackend(), MemoryLedger()

    def session_with(cnx: int) -> Session:
        budget = Budget("cats", cnx=cnx)
        return Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000, price=15, budget=budget)

    backend.answers.append(answer)
    with pytest.raises((AuthError, BudgetExceededError)):
        async with session_with(cnx) as session, asyncio.timeout(1.0):
            await OptunaSweep(new_study(storage), config_of, rank_of).optimize(session, n_trials=1)
    assert [trial.state for trial in new_study(storage).trials] == [States.RUNNING]
    async with session_with(100) as session:
        await OptunaSweep(new_study(storage), config_of, rank_of).optimize(session, n_trials=1)
    assert [trial.state for trial in new_study(storage).trials] == [States.COMPLETE]
    assert len(backend.created) == 1


async def test_binding_is_stored_before_anything_is_sent() -> None:
    study, backend = new_study(), FakeBackend()
    bound: list[dict[str, object]] = []

    async def look() -> None:
        bound.append(dict(study.trials[-1].user_attrs))

    backend.answers.append(look)
    async with open_session(backend, MemoryLedger()) as session:
        await OptunaSweep(study, config_of, rank_of).optimize(session, n_trials=1)
    assert bound[0]["crynux_key"] == "optuna:cats:0"
    assert json.loads(str(bound[0]["crynux_config"]))["rank"] == study.trials[0].params["rank"]


@pytest.mark.parametrize(("name", "value"), [("n_trials", 0), ("n_jobs", 0), ("n_jobs", True), ("n_trials", 1.5)])
async def test_numbers_that_mean_nothing_are_named(name: str, value: object) -> None:
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        with pytest.raises(UsageError, match=name):
            await OptunaSweep(new_study(), config_of, rank_of).optimize(session, **{"n_trials": 1, name: value})  # type: ignore[arg-type]


async def test_study_is_seen_as_any_other_sweep_by_its_name(tmp_path: Path) -> None:
    study, backend, ledger = new_study(), FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as session:
        await OptunaSweep(study, config_of, rank_of, folder=tmp_path).optimize(session, n_trials=4, n_jobs=1)
    async with open_session(backend, ledger) as session:
        assert await sweep_names(session) == ["cats"]
        found = await recall(session, "cats")
    assert [(trial.number, trial.state) for trial in found.trials] == [(n, "done") for n in range(1, 5)]
    for trial, asked in zip(found.trials, study.trials, strict=True):
        assert {name: trial.params[name] for name in asked.params} == asked.params
    assert [row["norm"] is not None for row in table_of(found.trials).rows] == [True] * 4
    assert view_of(found.subject, found.trials, written_at=START).count("done") == 4


@pytest.mark.parametrize(("enqueued", "begun"), [(2, 3), (3, 3), (5, 3)])
async def test_enqueued_trials_are_trained_and_count_once_they_have_begun(enqueued: int, begun: int) -> None:
    study, backend = new_study(), FakeBackend()
    for _ in range(enqueued):
        study.enqueue_trial({"rank": 16})
    async with open_session(backend, MemoryLedger()) as session:
        finished = await OptunaSweep(study, config_of, rank_of).optimize(session, n_trials=3, n_jobs=2)
    assert len(finished) == backend.creates == begun
    assert sum(trial.state is States.COMPLETE for trial in study.trials) == begun
    assert sum(trial.state is States.WAITING for trial in study.trials) == max(0, enqueued - begun)
    assert sum(config.rank == 16 for config in backend.created.values()) >= min(enqueued, begun)


async def test_trial_that_config_of_prunes_is_told_so_and_disturbs_no_other() -> None:
    def config_of_odd(trial: optuna.Trial) -> FineTuneConfig:
        if trial.number % 2 == 0:
            raise optuna.TrialPruned
        return config_of(trial)

    study, backend = new_study(), FakeBackend()
    async with open_session(backend, MemoryLedger()) as session:
        await OptunaSweep(study, config_of_odd, rank_of).optimize(session, n_trials=4, n_jobs=2)
    assert [trial.state for trial in study.trials] == [States.PRUNED, States.COMPLETE] * 2
    assert backend.creates == 2


@pytest.mark.filterwarnings("ignore:The value nan is not acceptable")
async def test_objective_that_is_not_a_number_ranks_nothing() -> None:
    study, ledger = new_study(), MemoryLedger()
    async with open_session(FakeBackend(), ledger) as session:
        (trial,) = await OptunaSweep(study, config_of, lambda _: float("nan")).optimize(session, n_trials=1)
        found = await recall(session, "cats")
    assert [trial.objective, found.trials[0].objective] == [None, None]
    assert [trial.state for trial in study.trials] == [States.FAIL]


def out_of_bounds(trial: optuna.Trial) -> FineTuneConfig:
    return make_config(rank=0) if trial.number == 1 else config_of(trial)


def never_works(trial: optuna.Trial) -> FineTuneConfig:
    return make_config(init_lora_weights="loftq") if trial.number == 1 else config_of(trial)


def is_buggy(trial: optuna.Trial) -> FineTuneConfig:
    return config_of(trial) if trial.number != 1 else {}["rank"]


def forgets(trial: optuna.Trial) -> FineTuneConfig:
    return config_of(trial) if trial.number != 1 else None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (out_of_bounds, ConfigError, "rank"),
        (never_works, ConfigError, "CX106"),
        (is_buggy, KeyError, "KeyError"),
        (forgets, ConfigError, "config_of: returned None for trial 1"),
    ],
)
async def test_trial_for_which_nothing_can_be_sent_ends_the_run_and_is_told_with_words(
    wrong: Callable[[optuna.Trial], FineTuneConfig], error: type[Exception], words: str
) -> None:
    storage, backend, ledger = optuna.storages.InMemoryStorage(), FakeBackend(duration=200.0), MemoryLedger()
    with pytest.raises(error):
        async with open_session(backend, ledger) as session:
            await OptunaSweep(new_study(storage), wrong, rank_of).optimize(session, n_trials=3, n_jobs=1)
    first, second = new_study(storage).trials
    assert (first.state, second.state) == (States.COMPLETE, States.FAIL)
    assert words in second.user_attrs["error"]
    async with open_session(backend, ledger) as session:  # goes on behind it
        await OptunaSweep(new_study(storage), wrong, rank_of).optimize(session, n_trials=3, n_jobs=1)
    assert [trial.state for trial in new_study(storage).trials] == [States.COMPLETE, States.FAIL, States.COMPLETE]
    assert backend.creates == 2


async def test_trials_that_run_when_another_cannot_be_sent_are_gone_on_with() -> None:
    storage, backend, ledger = optuna.storages.InMemoryStorage(), FakeBackend(duration=200.0), MemoryLedger()
    with pytest.raises(ConfigError):
        async with open_session(backend, ledger) as session:
            await OptunaSweep(new_study(storage), never_works, rank_of).optimize(session, n_trials=3, n_jobs=3)
    async with open_session(backend, ledger) as session:
        await OptunaSweep(new_study(storage), never_works, rank_of).optimize(session, n_trials=3, n_jobs=3)
    assert [trial.state for trial in new_study(storage).trials] == [States.COMPLETE, States.FAIL, States.COMPLETE]
    assert backend.creates == 2


async def test_trial_that_another_process_has_ended_meanwhile_is_left_alone() -> None:
    storage, backend = optuna.storages.InMemoryStorage(), FakeBackend()
    left = [new_study(storage).ask() for _ in range(2)]

    def other_ends_second(trial: optuna.Trial) -> FineTuneConfig:
        if trial.number == 0:
            new_study(storage).tell(left[1], state=States.FAIL)
        return config_of(trial)

    async with open_session(backend, MemoryLedger()) as session:
        await OptunaSweep(new_study(storage), other_ends_second, rank_of).optimize(session, n_trials=2, n_jobs=1)
    assert [trial.state for trial in new_study(storage).trials] == [States.COMPLETE, States.FAIL]
    assert backend.creates == 1


async def test_trial_that_another_process_has_bound_meanwhile_is_followed_as_it_was_bound(tmp_path: Path) -> None:
    # Each with a storage of its own, as processes have it: within one, Optuna's trials share what they know.
    file = str(tmp_path / "study.log")
    own, other = (optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file)) for _ in range(2))
    backend, ledger = FakeBackend(duration=200.0), MemoryLedger()
    left = [new_study(other).ask() for _ in range(2)]
    asked: list[int] = []

    def other_binds_second(trial: optuna.Trial) -> FineTuneConfig:
        asked.append(trial.number)
        if trial.number == 0:
            left[1].set_user_attr("crynux_config", json.dumps(make_config(rank=16, seed=1).to_dict()))
            left[1].set_user_attr("crynux_key", "optuna:cats:1")
        return config_of(trial)

    async with open_session(backend, ledger) as session:
        sweep = OptunaSweep(new_study(own), other_binds_second, lambda trial: trial.point.config.rank)
        await sweep.optimize(session, n_trials=2, n_jobs=1)
    assert asked == [0]
    assert [trial.value for trial in new_study(own).trials][1] == 16


async def test_job_of_a_trial_is_followed_although_its_config_is_judged_otherwise_by_now() -> None:
    storage, backend, ledger = optuna.storages.InMemoryStorage(), FakeBackend(duration=200.0), MemoryLedger()
    config = make_config(init_lora_weights="loftq", seed=1)
    left = new_study(storage).ask()
    left.suggest_categorical("rank", [4, 8, 16])
    left.set_user_attr("crynux_config", json.dumps(config.to_dict()))
    left.set_user_attr("crynux_key", "optuna:cats:0")
    async with open_session(backend, ledger) as session:
        await session.enqueue(config, idempotency_key="optuna:cats:0", force=True)
        await OptunaSweep(new_study(storage), config_of, rank_of).optimize(session, n_trials=1)
    assert [trial.state for trial in new_study(storage).trials] == [States.COMPLETE]
    assert backend.creates == 1
