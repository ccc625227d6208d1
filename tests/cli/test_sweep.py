"""What commands about sweeps make of names."""

from pathlib import Path

import pytest

from crynux_async import Session, UsageError
from crynux_async.cli.sweep import report_file, show_status, show_table, write_report
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
