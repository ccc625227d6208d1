"""``jobs``: what the ledger remembers. It asks no service, and loads no session."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crynux_async.cli.exits import Exit
from crynux_async.cli.ledger_place import LedgerPlace, existing_place, ledger_option, shown
from crynux_async.cli.ledger_reading import read_and_show
from crynux_async.cli.listing import print_jobs
from crynux_async.cli.plain import open_output
from crynux_async.downloads.images import images_beside
from crynux_async.errors import UsageError
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.base import JobFilter, JobRow
from crynux_async.states import JobState
from crynux_async.supervision.cut_off import Remembered, find_as_left, sent_in_doubt
from crynux_async.wall_clock import wall_now
from crynux_async.wording import counted

if TYPE_CHECKING:
    from crynux_async.cli.job_facts import Detail


def show_list(
    ledger: LedgerPlace | None,
    states: Sequence[str],
    label: str | None,
    tags: Sequence[str],
    *,
    wants_detail: bool = False,
) -> int:
    """List what the ledger remembers, for people; asks the bridge nothing."""
    if wants_detail:  # whoever leaves out what is private must not be shown it
        raise UsageError("--public and --health go with --json or --csv")
    where = job_filter(states, label, tags)
    place = existing_place(ledger)

    async def look(book: Remembered) -> tuple[list[JobRow], list[str]]:
        rows = await find_as_left(book, where)
        return rows, await sent_in_doubt(book, rows)

    def show(found: tuple[list[JobRow], list[str]]) -> Exit:
        rows, doubtful = found
        _print(rows, shown(place), _counted_images(rows))
        if doubtful:
            open_output().print_line(in_doubt_text(doubtful, ledger_option(ledger)))
        return Exit.DONE

    return read_and_show(place, look, show)


async def show_facts(
    ledger: LedgerPlace | None,
    states: Sequence[str],
    label: str | None,
    tags: Sequence[str],
    *,
    as_json: bool,
    as_csv: bool,
    detail: "Detail",
) -> Exit:
    """Print everything that is known of jobs, for other programs."""
    if as_json and as_csv:
        raise UsageError("give either --json or --csv, not both")
    import json  # here, as what follows: none of it is in a list for people

    from crynux_async.cli.job_facts import facts_of, names_of, write_csv

    where = job_filter(states, label, tags)
    place = existing_place(ledger)
    book = open_ledger(place, makes=False)
    await book.open()
    try:
        # Read and closed before anything is printed: a pager that waits must not hold the ledger open.
        rows = await find_as_left(book, where)
        facts = await facts_of(book, rows, detail, in_doubt=await sent_in_doubt(book, rows))
    finally:
        await book.close()
    if as_csv:
        write_csv(await names_of(detail), facts, sys.stdout)
    else:
        print(json.dumps(facts))  # noqa: T201  # the command's output
    return Exit.DONE


def in_doubt_text(job_ids: Sequence[str], option: str) -> str:
    """Return what is said of planned jobs that may have a task: whoever sent their configs anew would pay twice.

    Args:
        job_ids: The jobs.
        option: What the next command must be given besides, with a space before it, or "".
    """
    return (
        f"{counted(len(job_ids), 'planned job')} may have a task, because the answer to a create was lost. The same "
        "create makes no other task and takes no other fee: "
        f"crynux-async retry {' '.join(job_ids)} --relay{option}"
    )


def job_filter(states: Sequence[str], label: str | None, tags: Sequence[str]) -> JobFilter:
    """Return which jobs are meant by what was written on a command line.

    Args:
        states: Names of states.
        label: A label, or the beginning of one and a "*".
        tags: As name=value.

    Raises:
        UsageError: There is no such state, or a tag has no "=".
    """
    wrong = [tag for tag in tags if "=" not in tag]
    if wrong:
        raise UsageError(f"a tag is given as name=value, not {wrong[0]!r}", field="tag")
    is_prefix = label is not None and label.endswith("*")
    return JobFilter(
        states=parse_states(states),
        label=None if is_prefix else label,
        label_prefix=label[:-1] if is_prefix and label is not None else None,
        tags=dict(tag.split("=", 1) for tag in tags),
    )


def parse_states(names: Sequence[str]) -> frozenset[JobState] | None:
    """Return the states with these names, or None for no names.

    Raises:
        UsageError: There is no such state.
    """
    known = {str(state): state for state in JobState}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"there is no state {', '.join(unknown)}; there are {', '.join(known)}", field="state")
    return frozenset(known[name] for name in names) or None


def _counted_images(rows: Sequence[JobRow]) -> dict[str, int]:
    """Return how many validation images lie beside the archives of jobs, by job."""
    return {row.job_id: len(images_beside(Path(row.path))) for row in rows if row.path}


def _print(rows: Sequence[JobRow], place: str, images: Mapping[str, int]) -> None:
    output = open_output()
    if rows:
        print_jobs(output, rows, wall_now(), images)
    else:
        output.print_line(f"No jobs in {place}.")
