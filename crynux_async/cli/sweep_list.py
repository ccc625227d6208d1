"""``sweep list``: of which sweeps the ledger remembers how many trials are where. It opens no session."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from crynux_async.cli.exits import Exit
from crynux_async.cli.ledger_place import LedgerPlace, existing_place
from crynux_async.cli.ledger_reading import read_and_show
from crynux_async.cli.plain import one_line, open_output
from crynux_async.ledgers.base import JobRow
from crynux_async.supervision.cut_off import Remembered, as_left
from crynux_async.sweeps.notes import TAG
from crynux_async.sweeps.trial_states import counts_of, state_in


def show_list(ledger: LedgerPlace | None, *, as_json: bool) -> int:
    """List the sweeps of a ledger, at whichever service."""
    place = existing_place(ledger, made_by="sweep run")
    return read_and_show(place, _rows, lambda rows: _show(rows, as_json=as_json), as_json=as_json)


def _show(rows: Sequence[JobRow], *, as_json: bool) -> Exit:
    sweeps = [
        (service, name, counts_of(map(state_in, trials)))
        for service, by_name in _sweeps_of(rows).items()
        for name, trials in by_name.items()
    ]
    if as_json:
        facts = [{"name": name, "service": service, **counts} for service, name, counts in sweeps]
        print(json.dumps(facts))  # noqa: T201  # the command's output
        return Exit.DONE
    output = open_output()
    is_told = len({service for service, _, _ in sweeps}) > 1
    for service, name, counts in sweeps:
        said = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trials"
        output.print_line(one_line(f"{name} ({service}): {said}" if is_told else f"{name}: {said}"))
    if not sweeps:
        output.print_line("No sweep was run yet: crynux-async sweep run sweep.toml")
    return Exit.DONE


async def _rows(book: Remembered) -> list[JobRow]:
    rows = await book.jobs()
    return await as_left(book, [row for row in rows if TAG in row.tags])


def _sweeps_of(rows: Iterable[JobRow]) -> Mapping[str, Mapping[str, list[JobRow]]]:
    """Return the trials of each sweep, by service and name: of services the latest last, of sweeps as they began."""
    sweeps: dict[str, dict[str, list[JobRow]]] = {}
    for row in rows:
        # Put behind the others: what was used last is nearest to the prompt.
        by_name = sweeps[row.backend] = sweeps.pop(row.backend, defaultdict(list))
        # A task that was only attached has no config, and is no trial: nobody here knows what it trains.
        by_name[row.tags[TAG]] += [row] if row.config is not None else []
    return sweeps
