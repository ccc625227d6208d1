"""What a ledger's address means."""

from pathlib import Path
from typing import Any

import pytest

from crynux_async.errors import UsageError
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.memory import MemoryLedger
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


@pytest.mark.parametrize("where", ["postgresql://host/jobs", "postgresql+psycopg://host/jobs", "postgres://host/jobs"])
def test_open_ledger_in_postgresql_says_that_it_is_not_supported_yet(where: str) -> None:
    with pytest.raises(UsageError, match="not supported yet"):
        open_ledger(where)
