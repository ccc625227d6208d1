"""``jobs``: what the list shows beside what the ledger has."""

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
import pytest_asyncio

from crynux_async.cli.app import start
from crynux_async.cli.exits import Exit
from crynux_async.cli.job_facts import Detail
from crynux_async.cli.jobs import show_facts, show_list
from crynux_async.downloads.images import put_images
from crynux_async.errors import UsageError
from crynux_async.ledgers.conformance.support import job
from crynux_async.ledgers.sqlite.ledger import SqliteLedger
from crynux_async.states import JobState


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> Path:
    """A ledger with two models, one of which has images."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.open()
    for number, name in enumerate(("cat", "dog")):
        archive = tmp_path / f"{name}.zip"
        archive.write_bytes(b"model")
        changes = {"state": JobState.DOWNLOADED, "path": str(archive), "total_bytes": 5}
        await ledger.add([job(name, task_id=str(number), **changes)])
    await ledger.close()
    put_images(tmp_path / "cat.zip", [b"one", b"two"])
    return tmp_path / "jobs.db"


async def shown(place: Path, *, as_json: bool = False, as_csv: bool = False, is_public: bool = False) -> None:
    if not as_json and not as_csv:
        assert show_list(place, [], None, []) == Exit.DONE
    else:
        detail = Detail(is_public=is_public)
        assert await show_facts(place, [], None, [], as_json=as_json, as_csv=as_csv, detail=detail) is Exit.DONE


async def test_list_counts_the_images_beside_each_archive(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await shown(place)
    head, cat, dog = capsys.readouterr().out.splitlines()
    start, end = head.index("images"), head.index("images") + len("images")
    assert (cat[start:end].strip(), dog[start:end].strip()) == ("2", "")


async def test_images_of_each_job_are_named_for_programs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await shown(place, as_json=True)
    named = {each["job_id"]: each["images"] for each in json.loads(capsys.readouterr().out)}
    files = [str(place.parent / f"cat.zip-{number}.png") for number in range(2)]
    assert named == {"cat": files, "dog": []}
    await shown(place, as_csv=True)
    rows = {row["job_id"]: row["images"] for row in csv.DictReader(StringIO(capsys.readouterr().out))}
    assert json.loads(rows["cat"]) == files


async def test_public_list_names_no_images(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await shown(place, as_json=True, is_public=True)
    assert str(place.parent) not in capsys.readouterr().out


@pytest.mark.parametrize("detail", [Detail(), Detail(is_public=True), Detail(reads_archives=True)])
async def test_table_of_no_jobs_has_the_columns_of_a_table_of_jobs(
    detail: Detail, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await show_facts(place, [], None, [], as_json=False, as_csv=True, detail=detail)
    head, *rows = csv.reader(StringIO(capsys.readouterr().out))
    assert len(rows) == 2
    await show_facts(place, ["failed"], None, [], as_json=False, as_csv=True, detail=detail)
    assert list(csv.reader(StringIO(capsys.readouterr().out))) == [head]


async def test_state_that_there_is_not_is_named_where_there_is_no_ledger_either(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no state nope"):
        show_list(tmp_path / "none.db", ["nope"], None, [])
    with pytest.raises(UsageError, match="there is no state nope"):
        await show_facts(tmp_path / "none.db", ["nope"], None, [], as_json=True, as_csv=False, detail=Detail())


@pytest.mark.parametrize("option", ["--public", "--health"])
def test_detail_without_a_form_that_has_it_is_refused(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["crynux-async", "jobs", option])
    with pytest.raises(SystemExit) as ended:
        start()
    assert ended.value.code == Exit.USAGE
    assert "go with --json or --csv" in capsys.readouterr().err


async def test_json_and_csv_together_are_refused(place: Path) -> None:
    with pytest.raises(UsageError, match="either --json or --csv"):
        await shown(place, as_json=True, as_csv=True)
