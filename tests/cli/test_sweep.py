"""What commands about sweeps make of names."""

import json
from pathlib import Path

import pytest

from crynux_async import Session, UsageError
from crynux_async.cli.sweep import report_file, show_status, show_table, write_report
from crynux_async.cli.sweep_list import show_list
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.conformance.support import BACKEND, OTHER_BACKEND, job
from crynux_async.states import JobState
from crynux_async.sweeps import Report, Sweep, grid
from tests.fake_backend import FakeBackend, make_config


@pytest.mark.parametrize(
    ("name", "file"),
    [("cats", "cats.html"), ("v1.5", "v1.5.html"), ("people/cats", "people-cats.html"), ("../../etc/x", "etc-x.html")],
)
def test_report_goes_into_this_folder_whatever_the_sweep_is_called(name: str, file: str) -> None:
    assert report_file(name) == Path(file)


async def ran_once(ledger: Path) -> None:
    """Run a sweep over two ranks to its end."""
    sweep = Sweep("cats", make_config(), points=grid(rank=[4, 16]))
    session = Session(backend=FakeBackend(), ledger=ledger, api_key="k" * 44, rate_limit=6000)
    async with session, sweep.run(session) as running:
        await running.wait()


async def test_unknown_sweep_is_answered_with_the_names_that_there_are_at_any_service(tmp_path: Path) -> None:
    ledger = tmp_path / "jobs.db"
    await ran_once(ledger)
    with pytest.raises(UsageError, match="no sweep 'dogs'; it has 'cats'"):
        await show_status("dogs", ledger, as_json=False)


@pytest.mark.parametrize("option", ["across", "down"])
async def test_report_by_a_parameter_that_no_trial_has_is_refused_with_those_that_there_are(
    option: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "jobs.db"
    await ran_once(ledger)
    page = Report(tmp_path / "cats.html", **{option: "nope"})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"{option}='nope'.* change rank"):
        await write_report("cats", page, ledger, as_json=False)
    assert not page.path.exists()


async def test_table_is_not_printed_in_two_forms(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="either --json or --jsonl"):
        await show_table("cats", tmp_path / "jobs.db", as_json=True, as_lines=True, out=None)


async def keep_sweeps_of_two_services(ledger: Path) -> None:
    """Make a ledger with two sweeps of one name at two services, a job of no sweep, and a task that was attached."""
    cats = {"tags": {"sweep": "cats"}}
    book = open_ledger(ledger)
    await book.open()
    await book.add(
        [
            job("a", **cats, state=JobState.DOWNLOADED),
            job("b", **cats, backend=OTHER_BACKEND, state=JobState.FAILED, error="no node could load it"),
            job("c", **cats, error="the budget is spent"),
            job("d", state=JobState.RUNNING),
            job("e", tags={"sweep": "dogs"}, state=JobState.ATTACHED, task_id="7", config=None),
        ]
    )
    await book.close()


async def test_list_counts_the_trials_of_each_sweep_at_each_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "jobs.db"
    await keep_sweeps_of_two_services(ledger)

    show_list(ledger, as_json=True)

    assert json.loads(capsys.readouterr().out) == [
        {"name": "cats", "service": OTHER_BACKEND, "failed": 1},
        {"name": "cats", "service": BACKEND, "done": 1, "stopped": 1},
        {"name": "dogs", "service": BACKEND},
    ]


async def test_list_names_the_service_where_there_are_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "jobs.db"
    await keep_sweeps_of_two_services(ledger)

    show_list(ledger, as_json=False)

    assert capsys.readouterr().out.splitlines() == [
        f"cats ({OTHER_BACKEND}): 1 failed",
        f"cats ({BACKEND}): 1 done, 1 stopped",
        f"dogs ({BACKEND}): no trials",
    ]
