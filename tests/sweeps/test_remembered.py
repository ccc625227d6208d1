"""What a ledger remembers of a sweep is enough to show it, as a table and as a page."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest

from crynux_async import BudgetExceededError, Session, UsageError
from crynux_async.backends.base import Seen
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.report import render
from crynux_async.sweeps import Sweep, SweepRun, Trial, recall, sweep_names
from crynux_async.sweeps.table import table_of
from crynux_async.sweeps.view import view_of
from tests.fake_backend import FakeBackend, make_config
from tests.report.views import START, picture

POINTS = [{"rank": 4}, {"rank": 8, "learning_rate": 5e-5}, {"model_name": "x/fail"}]


def open_session(backend: FakeBackend, ledger: MemoryLedger) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000)


async def run_cats(backend: FakeBackend, ledger: MemoryLedger, folder: Path) -> None:
    sweep = Sweep("cats", make_config(), points=POINTS, folder=folder, repeats=2)
    async with open_session(backend, ledger) as session, sweep.run(session) as running:
        await running.wait()


async def test_recall_has_points_numbers_repeats_and_archives(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await run_cats(backend, ledger, tmp_path)
    async with open_session(backend, ledger) as session:
        found = await recall(session, "cats")
    assert [(trial.number, trial.point.repeat) for trial in found.trials] == [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        (3, 1),
        (3, 2),
    ]
    model = "crynux-ai/stable-diffusion-v1-5"
    assert dict(found.trials[2].params) == {"rank": 8, "learning_rate": 5e-5, "model_name": model}
    assert [trial.state for trial in found.trials] == ["done"] * 4 + ["failed"] * 2
    assert all(trial.norms is not None for trial in found.trials[:4])


async def test_recall_of_what_nobody_ran_names_what_was(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await run_cats(backend, ledger, tmp_path)
    async with open_session(backend, ledger) as session:
        assert await sweep_names(session) == ["cats"]
        with pytest.raises(UsageError, match="it has 'cats'"):
            await recall(session, "dogs")


async def test_table_is_the_same_in_csv_and_json(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await run_cats(backend, ledger, tmp_path)
    async with open_session(backend, ledger) as session:
        table = table_of((await recall(session, "cats")).trials)
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    lines = [json.loads(line) for line in table.to_json_lines().splitlines()]
    assert len(rows) == len(lines) == 6
    for row, line in zip(rows, lines, strict=True):
        assert list(row) == list(line) == list(table.columns)
        for name, value in line.items():
            assert row[name] == ("" if value is None else str(value))
    assert lines[2]["params.rank"] == 8
    assert lines[4]["state"] == "failed"
    assert lines[0]["archive"].endswith(".zip")


async def test_table_in_pandas_has_numbers_to_compute_with_and_nothing_where_nothing_is_known(tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    backend, ledger = FakeBackend(), MemoryLedger()
    await run_cats(backend, ledger, tmp_path)
    async with open_session(backend, ledger) as session:
        table = table_of((await recall(session, "cats")).trials)
    frame = table.to_pandas()
    assert list(frame.columns) == list(table.columns)
    assert frame["params.rank"].tolist() == [4, 4, 8, 8, 8, 8]
    done = frame[frame["state"] == "done"]
    norms = [row["norm"] for row in table.rows if row["state"] == "done"]
    assert done["norm"].max() == max(norms)
    assert done.groupby("params.rank")["norm"].count().to_dict() == {4: 2, 8: 2}
    assert frame["norm"].isna().tolist() == [False] * 4 + [True] * 2
    assert frame["archive"].isna().tolist() == [False] * 4 + [True] * 2
    assert frame["objective"].isna().all()


def test_table_of_no_trials_has_its_columns_in_pandas_too() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    table = table_of([])
    frame = table.to_pandas()
    assert (list(frame.columns), len(frame)) == (list(table.columns), 0)


def test_table_without_pandas_says_what_else_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"pip install pandas, or use to_csv\(\)"):
        table_of([]).to_pandas()


async def test_page_shows_every_trial_and_its_pictures(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await run_cats(backend, ledger, tmp_path)
    async with open_session(backend, ledger) as session:
        found = await recall(session, "cats")
    view = view_of(found.subject, found.trials, written_at=START, images={found.trials[0]: [picture(7)]})
    assert view.count("done") == 4
    assert view.count("failed") == 2
    assert view.trials[0].norm is not None
    assert view.trials[0].stored_at is not None
    page = render(view)
    assert "cats" in page
    assert "data:image/png;base64," in page


async def test_failed_trial_of_an_earlier_process_is_sent_again_and_followed(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await run_cats(backend, ledger, tmp_path)
    sent = backend.creates
    async with open_session(backend, ledger) as session:
        found = await recall(session, "cats", read_archives=False)
        failed = [trial for trial in found.trials if trial.state == "failed"]
        async with SweepRun.again(found, session, failed) as running:
            assert [trial.state for trial in await running.wait()] == ["failed", "failed"]
    assert backend.creates == sent + 2


async def test_recalled_trial_is_called_what_it_was_called_when_it_ran(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await run_cats(backend, ledger, tmp_path)
    async with open_session(backend, ledger) as session:
        found = await recall(session, "cats", read_archives=False)
    first = ["rank=4", "rank=8 learning_rate=5e-05", "model_name=x/fail"]
    assert [trial.label for trial in found.trials] == [label + end for label in first for end in ("", " #2")]


async def test_other_jobs_of_a_group_that_has_the_sweeps_name_are_none_of_its_trials(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    await run_cats(backend, ledger, tmp_path)
    async with open_session(backend, ledger) as session:
        await session.wait_all([await session.submit(make_config(rank=32), group="cats")])
        found = await recall(session, "cats", read_archives=False)
    assert [trial.params["rank"] for trial in found.trials] == [4, 4, 8, 8, 8, 8]  # the base has a rank of 8


async def test_recalled_sweep_is_ranked_as_its_script_ranked_it(tmp_path: Path) -> None:
    def rank_of(trial: Trial) -> float:
        return float(trial.params["rank"])

    backend, ledger = FakeBackend(), MemoryLedger()
    points = [{"rank": 4}, {"rank": 16}, {"rank": 8, "model_name": "x/fail"}, {"rank": 2}]
    sweep = Sweep("cats", make_config(), points=points, folder=tmp_path, objective=rank_of, direction="maximize")
    async with open_session(backend, ledger) as session, sweep.run(session) as running:
        await running.wait()
    async with open_session(backend, ledger) as session:
        found = await recall(session, "cats", read_archives=False)
    assert [row["objective"] for row in found.table.rows] == [4.0, 16.0, None, 2.0]
    assert [row["standing"] for row in found.table.rows] == [2, 1, None, 3]
    assert (found.subject.objective_name, found.subject.minimize) == ("rank_of", False)


async def test_trial_that_is_sent_again_by_name_is_ranked_by_the_norm_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    points = [{"rank": 4, "model_name": "x/fail"}, {"rank": 8}]
    sweep = Sweep("cats", make_config(), points=points, folder=tmp_path, direction="minimize")
    async with open_session(backend, ledger) as session, sweep.run(session) as running:
        await running.wait()
    monkeypatch.setattr(backend, "_end", lambda task_id: Seen.SUCCEEDED)  # what was wrong at the service was mended
    async with open_session(backend, ledger) as session:
        found = await recall(session, "cats", read_archives=False)
        async with SweepRun.again(found, session, found.trials[:1]) as running:
            (again,) = await running.wait()
        found = await recall(session, "cats", read_archives=False)
    assert again.norms is not None
    assert [trial.objective is not None for trial in found.trials] == [True, True]
    assert found.trials[0].objective == again.norms.total


async def test_trials_that_were_left_unsent_are_known_as_stopped_to_whoever_takes_them_over() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    sweep = Sweep("cats", make_config(), points=[{"rank": 4}, {"rank": 8}], budget_cnx=15)
    session = Session(backend=backend, ledger=ledger, api_key="k" * 44, max_creates=1, price=15)
    async with session, sweep.run(session) as running:
        await running.wait()
    async with open_session(backend, ledger) as session:
        found = await recall(session, "cats")
        assert [trial.state for trial in found.trials] == ["done", "stopped"]
        assert isinstance(found.trials[1].error, BudgetExceededError)
