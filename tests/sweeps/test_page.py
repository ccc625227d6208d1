"""The page of a sweep is written while it runs, whole each time, and fails before anything is paid for."""

import asyncio
import html
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crynux_async import Session, UsageError
from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.sweeps import Report, Sweep, Trial, recall
from crynux_async.sweeps.view import Subject, view_of
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts
from tests.fake_backend import FakeBackend, make_config
from tests.report.views import START, picture

POINTS = [{"rank": 4}, {"rank": 8}, {"rank": 16}]


def open_session(backend: FakeBackend, ledger: MemoryLedger | None = None) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, rate_limit=6000)


def cats(folder: Path, **changes: Any) -> Sweep:
    return Sweep("cats", make_config(), points=POINTS, folder=folder, **changes)


def states(page: Path) -> list[str]:
    return re.findall(r'<tr class="(\w+)" data-trial=', page.read_text(encoding="utf-8"))


async def test_page_follows_a_sweep_while_it_runs(tmp_path: Path) -> None:
    backend = FakeBackend(duration=lambda config: 100.0 * config.rank)
    page = tmp_path / "pages" / "cats.html"
    async with open_session(backend) as session, cats(tmp_path).run(session, report=page) as running:
        await anext(running)
        await asyncio.sleep(60)
        assert states(page) == ["done", "running", "running"]
        await running.wait()
    assert states(page) == ["done", "done", "done"]
    assert [path.name for path in page.parent.iterdir()] == ["cats.html"]  # no draft is left


async def test_trial_that_leaves_a_parameter_out_is_shown_with_the_value_of_the_base(tmp_path: Path) -> None:
    points = [{"rank": 4}, {"learning_rate": 5e-5}]
    base = make_config(rank=8, learning_rate=1e-4)
    async with open_session(FakeBackend()) as session:
        async with Sweep("cats", base, points=points, folder=tmp_path).run(session) as running:
            await running.wait()
        view = view_of(Subject(name="cats", base=base.to_dict()), running.trials, written_at=START)
    expected = [{"rank": 4, "learning_rate": 1e-4}, {"rank": 8, "learning_rate": 5e-5}]
    assert [dict(trial.params) for trial in view.trials] == expected
    assert [
        {name: row[f"params.{name}"] for name in ("rank", "learning_rate")} for row in running.table.rows
    ] == expected


async def test_page_of_a_sweep_that_is_left_early_says_how_far_it_was(tmp_path: Path) -> None:
    page = tmp_path / "cats.html"
    async with open_session(FakeBackend(duration=1000.0)) as session:
        with pytest.raises(ZeroDivisionError):
            async with cats(tmp_path).run(session, report=page) as running:
                for trial in running.trials:
                    await trial.job.submitted()
                raise ZeroDivisionError
    assert states(page) == ["running"] * 3


@pytest.mark.parametrize(
    ("report", "field"),
    [
        (lambda folder: Report(folder / "cats.html", images=folder / "nowhere"), "images"),
        (lambda folder: Report(folder), "report"),
        (lambda folder: Report(folder / "file" / "cats.html"), "report"),
        (lambda folder: Report(folder / "cats.html", across="nope"), "across"),
        (lambda folder: Report(folder / "cats.html", across="rank", down="resolution"), "down"),
    ],
)
async def test_page_that_cannot_be_written_is_named_before_anything_is_sent(
    tmp_path: Path, report: Any, field: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    backend = FakeBackend()
    async with open_session(backend) as session:
        with pytest.raises(UsageError) as error:
            async with cats(tmp_path).run(session, report=report(tmp_path)):
                pass
        assert error.value.field == field
        assert session.jobs() == []
    assert backend.creates == 0


@pytest.mark.parametrize("option", ["across", "down"])
async def test_report_by_what_no_trial_changes_is_refused_with_what_they_change(tmp_path: Path, option: str) -> None:
    page, wrong = tmp_path / "cats.html", {option: "nope"}
    sweep = cats(tmp_path)
    async with open_session(FakeBackend()) as session, sweep.run(session) as running:
        await running.wait()
        for write in (partial(running.report, page, **wrong), partial(sweep.report, session, page, **wrong)):
            with pytest.raises(UsageError, match=f"{option}='nope'.* change rank") as error:
                await write()
            assert error.value.field == option
    assert not page.exists()


async def test_disk_that_is_full_for_a_while_ends_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "cats.html"
    is_full = [True]

    def render(*_: object, **__: object) -> str:
        if is_full[0]:
            raise OSError(28, "No space left on device")
        return "whole"

    monkeypatch.setattr("crynux_async.sweeps.page.render", render)
    async with (
        open_session(FakeBackend(duration=100.0)) as session,
        cats(tmp_path).run(session, report=page) as running,
    ):
        await running.wait()
        assert not page.exists()
        is_full[0] = False
    assert page.read_text() == "whole"


async def test_report_of_a_run_shows_pictures_by_a_function_and_the_objective_by_its_name(tmp_path: Path) -> None:
    def loss(trial: Trial) -> float:
        return float(trial.params["rank"])

    async with open_session(FakeBackend()) as session, cats(tmp_path, objective=loss).run(session) as running:
        await running.wait()
        page = await running.report(tmp_path / "cats.html", images=lambda trial: [picture(trial.number)], across="rank")
    text = page.read_text(encoding="utf-8")
    assert len(re.findall("data:image/png;base64,", text)) == 3
    assert 'num">loss</th>' in text


async def test_report_of_a_later_process_asks_the_ledger_and_ranks_again(tmp_path: Path) -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    sweep = cats(tmp_path, direction="maximize")
    async with open_session(backend, ledger) as session, sweep.run(session) as running:
        await running.wait()
    sent = backend.creates
    async with open_session(backend, ledger) as session:
        page = await sweep.report(session, tmp_path / "cats.html")
        assert page == tmp_path / "cats.html"
        assert states(page) == ["done"] * 3
        assert 'num">strength</th>' in page.read_text(encoding="utf-8")
        assert (await recall(session, "cats")).subject.objective_name == "strength"
    assert backend.creates == sent


@pytest.mark.parametrize(("direction", "best"), [("minimize", 4), ("maximize", 16)])
async def test_table_says_who_is_best(tmp_path: Path, direction: Any, best: int) -> None:
    sweep = cats(tmp_path, objective=lambda trial: trial.params["rank"], direction=direction)
    async with open_session(FakeBackend()) as session, sweep.run(session) as running:
        await running.wait()
    standings = {row["params.rank"]: row["standing"] for row in running.table.rows}
    assert standings[best] == 1
    assert sorted(standings.values()) == [1, 2, 3]


async def test_equal_objectives_share_their_standing(tmp_path: Path) -> None:
    sweep = cats(tmp_path, objective=lambda trial: min(trial.params["rank"], 8))
    async with open_session(FakeBackend()) as session, sweep.run(session) as running:
        await running.wait()
    assert [row["standing"] for row in running.table.rows] == [1, 2, 2]


async def test_page_tells_what_the_sweeps_own_service_replaces(tmp_path: Path) -> None:
    pages = []
    for facts in (BRIDGE_FACTS, RELAY_FACTS):
        backend = FakeBackend()
        backend.facts = facts
        async with open_session(backend) as session:
            async with Sweep("cats", make_config(adam_weight_decay=0.0)).run(session) as running:
                await running.wait()
            path = await running.report(tmp_path / "cats.html")
        pages.append(await asyncio.to_thread(path.read_text, encoding="utf-8"))
    assert ["1e-12" in page for page in pages] == [True, False]


@pytest.mark.parametrize(
    ("facts", "settings", "options"),
    [
        (BRIDGE_FACTS, {}, ""),
        (RELAY_FACTS, {}, " --relay --network https://relay.example"),
        (RELAY_FACTS, {"fee": 20.5}, " --relay --network https://relay.example --fee 20.5"),
    ],
)
async def test_page_of_a_script_names_the_command_that_tries_again_with_all_that_it_needs(
    tmp_path: Path, facts: ServiceFacts, settings: dict[str, Any], options: str
) -> None:
    backend = FakeBackend()
    backend.name, backend.facts = "https://relay.example", facts
    failing = Sweep("cats", make_config(model_name="x/fail"))
    place = tmp_path / "my jobs.db"
    session = Session(backend=backend, ledger=place, api_key="k" * 44, rate_limit=6000, **settings)
    async with session, failing.run(session, report=tmp_path / "cats.html") as running:
        await running.wait()
    said = html.unescape((tmp_path / "cats.html").read_text(encoding="utf-8"))
    assert f"crynux-async sweep retry cats{options} --ledger '{place}' tries failed ones again." in said


async def test_page_of_a_session_without_a_ledger_names_no_command_that_could_not_find_its_jobs(tmp_path: Path) -> None:
    failing = Sweep("cats", make_config(model_name="x/fail"))
    async with open_session(FakeBackend()) as session, failing.run(session) as running:
        await running.wait()
        page = await running.report(tmp_path / "cats.html")
    text = page.read_text(encoding="utf-8")
    assert states(page) == ["failed"]
    assert "sweep retry" not in text
