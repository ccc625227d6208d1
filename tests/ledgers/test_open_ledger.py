"""What a ledger's address means."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crynux_async.cli.ledger_place import existing_place, ledger_place
from crynux_async.errors import UsageError
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.ledgers.postgres.ledger import PostgresLedger
from crynux_async.ledgers.sqlite.ledger import SqliteLedger


@pytest.mark.parametrize("where", ["sqlite:///jobs.db", "sqlite+aiosqlite:///jobs.db", "jobs.db", Path("jobs.db")])
def test_open_ledger_at_a_path_or_url_names_the_file(
    where: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = open_ledger(where)
    assert isinstance(ledger, SqliteLedger)
    assert ledger.path == tmp_path / "jobs.db"


def test_open_ledger_with_four_slashes_is_absolute(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/a b%20c#d.db")
    assert isinstance(ledger, SqliteLedger)
    assert ledger.path == tmp_path / "a b%20c#d.db"


def test_open_ledger_without_a_place_is_in_memory() -> None:
    assert isinstance(open_ledger(None), MemoryLedger)


def test_open_ledger_with_a_ledger_is_that_one() -> None:
    ledger = MemoryLedger()
    assert open_ledger(ledger) is ledger


@pytest.mark.parametrize(
    "where",
    [
        "",
        "sqlite://",
        "sqlite:///",
        ":memory:",
        "sqlite:///:memory:",
        "file:jobs.db",
        "mysql://somewhere/jobs",
        "sqlite:///jobs.db?timeout=5",
        "jobs\0.db",
        7,
        object(),
    ],
)
def test_open_ledger_at_no_place_is_a_usage_error(where: Any) -> None:
    with pytest.raises(UsageError):
        open_ledger(where)


@pytest.mark.parametrize(
    "where",
    [
        "mysql://ann:s3cr3t@host/jobs",
        "mysql://ann:s3/cr3t@host/jobs?password=s3cr3t",
        "postgresql:/ann:s3cr3t@host/jobs",
        "postgres:ann:s3cr3t@host/jobs",
        "postgresql//ann:s3cr3t@host/jobs",
        "host=db dbname=jobs password=s3cr3t",
        "user=ann password=s3cr3t",
    ],
)
def test_address_that_is_no_place_is_refused_without_its_password(where: str) -> None:
    for named in (open_ledger, lambda text: open_ledger(existing_place(text))):
        with pytest.raises(UsageError) as caught:
            named(where)
        assert "cr3t" not in str(caught.value)


@pytest.mark.parametrize("where", ["POSTGRESQL://host/jobs", "Postgres://host/jobs"])
def test_scheme_of_an_address_is_read_in_any_case(where: str) -> None:
    assert isinstance(open_ledger(where), PostgresLedger)


def test_command_line_takes_the_address_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ledger_place(f"sqlite:///{tmp_path}/jobs.db") == tmp_path / "jobs.db"
    monkeypatch.setenv("CRYNUX_LEDGER", "sqlite:///jobs.db")
    assert ledger_place(None) == Path("jobs.db")


@pytest.mark.parametrize("where", ["postgresql://host/jobs", "postgresql+psycopg://host/jobs", "postgres://host/jobs"])
def test_open_ledger_with_a_server_address_names_its_database(where: str) -> None:
    ledger = open_ledger(where)
    assert isinstance(ledger, PostgresLedger)
    assert repr(ledger) == "<PostgresLedger postgresql://host/jobs?schema=crynux_async closed>"


def test_open_ledger_without_psycopg_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crynux_async.ledgers.postgres.ledger", None)
    with pytest.raises(UsageError, match=r"pip install 'crynux-async\[postgres\]'"):
        open_ledger("postgresql://host/jobs")


def test_import_of_the_package_and_of_sqlite_brings_no_psycopg() -> None:
    script = "import sys, crynux_async.session, crynux_async.ledgers.sqlite.ledger; sys.exit('psycopg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
