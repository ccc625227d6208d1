"""The commands about a ledger as a whole."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from crynux_async.cli.exits import execute
from crynux_async.cli.options import Json, within

_Days = Annotated[float, Parameter(validator=within(0))]
_Count = Annotated[int, Parameter(validator=within(1))]


def ledger_app() -> App:
    """Return the commands under ``ledger``."""
    app = App(name="ledger", help="Check, migrate, trim and move the ledger in which jobs are remembered.")
    for command in (check, migrate, trim, copy):
        app.command(command)
    return app


def check(*, ledger: str | None = None, json: Json = False) -> int:
    """Say whether a ledger can be used, what is in it, and who is using it.

    Args:
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import ledger as work

    return execute(work.check(ledger, as_json=json), as_json=json)


def migrate(*, ledger: str | None = None, json: Json = False) -> int:
    """Make the tables of a new ledger, or bring those of an older one up to date.

    Sessions do so by themselves where their role may.
    Run this once as the owner of a PostgreSQL database whose sessions have fewer rights.

    A role "app" then needs no more than:

    GRANT USAGE ON SCHEMA crynux_async TO app;

    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA crynux_async TO app;

    GRANT USAGE ON ALL SEQUENCES IN SCHEMA crynux_async TO app;

    Args:
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import ledger as work

    return execute(work.migrate(ledger, as_json=json), as_json=json)


def trim(*, days: _Days = 30, keep: _Count = 1000, ledger: str | None = None, json: Json = False) -> int:
    """Remove old events; jobs, tasks and attempts stay for ever.

    Args:
        days: Events of jobs that have ended are removed after so many days.
        keep: Of every job so many of the newest events stay.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import ledger as work

    return execute(work.trim(ledger, days=days, keep=keep, as_json=json), as_json=json)


def copy(source: Path, target: str, /, *, json: Json = False) -> int:
    """Move a ledger from a file into an empty one in PostgreSQL; the file cannot be opened after that.

    Args:
        source: The file; nobody may be using it.
        target: postgresql://user@host/database, with ?schema=... where that is not crynux_async.
        json: Print the result as JSON on standard output.
    """
    from crynux_async.cli import ledger as work

    return execute(work.copy(source, target, as_json=json), as_json=json)


app = ledger_app()
