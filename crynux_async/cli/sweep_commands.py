"""The commands about sweeps."""

from pathlib import Path

from cyclopts import App

from crynux_async.cli.exits import execute, guard
from crynux_async.cli.options import Flag, Json, Yes
from crynux_async.cli.service_choice import PaidService

_PAID_BRIDGE = PaidService()


def sweep_app() -> App:
    """Return the commands under ``sweep``."""
    app = App(name="sweep", help="Run a set of points, once each, through any crash; see the results.")
    for command in (run, preview, list_, status, retry, stop, table, report):
        app.command(command, name=command.__name__.rstrip("_"))
    return app


def run(
    file: Path,
    /,
    *,
    yes: Yes = False,
    emulator: Flag = False,
    service: PaidService = _PAID_BRIDGE,
    force: Flag = False,
    retry: int = 0,
    stop_after: int | None = None,
    report: Path | None = None,
    images: Path | None = None,
    price: float | None = None,
    ledger: str | None = None,
    json: Json = False,
) -> int:
    """Send what is missing of a sweep, follow all of it, and bring its archives to disk.

    Started again, even after a crash, it is the same sweep: nothing is sent twice.

    On a terminal it shows first what will be done, and asks. The exit code is 0 only if every trial has its model.

    Args:
        file: TOML file that describes the sweep.
        yes: Do not ask.
        emulator: Run on an emulated service on this machine: no account, no GPU, no money.
        service: Where the jobs are sent; what a relay costs is shown first.
        force: Send points that cannot work, too.
        retry: How often a failed trial is sent again automatically.
        stop_after: Send nothing more once so many trials have failed.
        report: Keep a page about it up to date in this file while the sweep runs.
        images: Folder with pictures of the models for the page, named like their archives.
        price: What one try costs at most, in CNX, where it is not the bridge's usual 15 CNX a round.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the trials as JSON on standard output, progress on standard error.
    """
    from crynux_async.cli import sweep

    order = sweep.RunOrder(
        file=file,
        is_agreed=yes,
        is_emulated=emulator,
        service=service,
        force=force,
        retries=retry,
        stop_after=stop_after,
        report=report,
        images=images,
        ledger=ledger,
        price=price,
        as_json=json,
    )
    return execute(sweep.run(order), as_json=json)


def preview(
    file: Path,
    /,
    *,
    emulator: Flag = False,
    service: PaidService = _PAID_BRIDGE,
    price: float | None = None,
    ledger: str | None = None,
    json: Json = False,
) -> int:
    """Show what running a sweep would do: what is new, what it costs, how long it takes, what cannot work.

    The exit code is 0 when it can run, and 2 when it cannot.

    Args:
        file: TOML file that describes the sweep.
        emulator: Ask an emulated service on this machine.
        service: Which service to ask, for prices and the balance.
        price: What one try costs at most, in CNX, where it is not the bridge's usual 15 CNX a round.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print it as JSON on standard output.
    """
    from crynux_async.cli import sweep

    return execute(
        sweep.show_preview(file, ledger, service=service, emulated=emulator, price=price, as_json=json), as_json=json
    )


def list_(*, ledger: str | None = None, json: Json = False) -> int:
    """List every sweep that was ever run from here, with how many trials are where.

    Args:
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print it as JSON on standard output.
    """
    from crynux_async.cli import sweep_list

    return guard(lambda: sweep_list.show_list(ledger, as_json=json), as_json=json)


def status(name: str, /, *, ledger: str | None = None, json: Json = False) -> int:
    """Show where the trials of a sweep are. The exit code is 0 only if every trial has its model.

    Args:
        name: The sweep's name.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print it as JSON on standard output.
    """
    from crynux_async.cli import sweep

    return execute(sweep.show_status(name, ledger, as_json=json), as_json=json)


def retry(
    name: str,
    /,
    *,
    yes: Yes = False,
    service: PaidService = _PAID_BRIDGE,
    ledger: str | None = None,
    json: Json = False,
) -> int:
    """Send the failed and stopped trials of a sweep again, and follow them to their ends.

    Args:
        name: The sweep's name.
        yes: Do not ask.
        service: Where its jobs are.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print the trials as JSON on standard output, progress on standard error.
    """
    from crynux_async.cli import sweep

    return execute(sweep.retry(name, ledger, service, is_agreed=yes, as_json=json), as_json=json)


def stop(name: str, /, *, ledger: str | None = None, json: Json = False) -> int:
    """Send nothing more of a sweep, from any process on this ledger. What was sent goes on.

    Args:
        name: The sweep's name.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print how many stay unsent as JSON on standard output.
    """
    from crynux_async.cli import sweep

    return execute(sweep.stop(name, ledger, as_json=json), as_json=json)


def table(
    name: str, /, *, json: Json = False, jsonl: Flag = False, out: Path | None = None, ledger: str | None = None
) -> int:
    """Print every trial of a sweep as a row, for other programs.

    Args:
        name: The sweep's name.
        json: Print one JSON array of objects, in place of CSV with a heading line.
        jsonl: Print JSON, one object on each line.
        out: Write it into this file.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
    """
    from crynux_async.cli import sweep

    return execute(sweep.show_table(name, ledger, as_json=json, as_lines=jsonl, out=out), as_json=json or jsonl)


def report(
    name: str,
    /,
    *,
    out: Path | None = None,
    images: Path | None = None,
    across: str | None = None,
    down: str | None = None,
    ledger: str | None = None,
    json: Json = False,
) -> int:
    """Write the page of a sweep: one file that opens anywhere, offline.

    Args:
        name: The sweep's name.
        out: The file; by default NAME.html in this folder.
        images: Folder with pictures of the models, named like their archives.
        across: The parameter whose values stand side by side in the grid of pictures.
        down: The parameter whose values stand below each other.
        ledger: A file or postgresql://...; by default CRYNUX_LEDGER, or jobs.db in the user's data folder.
        json: Print where it is as JSON on standard output.
    """
    from crynux_async.cli import sweep
    from crynux_async.sweeps import Report

    page = Report(out or sweep.report_file(name), images=images, across=across, down=down)
    return execute(sweep.write_report(name, page, ledger, as_json=json), as_json=json)


app = sweep_app()
