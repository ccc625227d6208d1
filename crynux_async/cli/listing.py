"""The list of jobs, as wide as the terminal: what names a job, and how it is, never shrinks; label and path do.

Off a terminal nothing is cut.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

import attrs
from rich.cells import cell_len, set_cell_size

from crynux_async.cli.job_names import shortest, shortest_tasks
from crynux_async.cli.plain import Output, one_line
from crynux_async.ledgers.base import JobRow
from crynux_async.report.units import age, size
from crynux_async.states import JobState
from crynux_async.values import Value

STYLES = {
    JobState.PLANNED: "dim",
    JobState.ATTACHED: "dim cyan",
    JobState.RUNNING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.DOWNLOADED: "bold green",
    JobState.STALLED: "yellow",
    JobState.UNCONFIRMED: "bold yellow",
    JobState.REJECTED: "bold red",
    JobState.FAILED: "bold red",
    JobState.EXPIRED: "red",
    JobState.ABANDONED: "dim",
}
_GAP = "  "
_LEAST_SHOWN = 8  # characters of a label or path; where there is room for fewer, there is no such column


@attrs.frozen(kw_only=True)
class Column(Value):
    """One column of the list.

    Attributes:
        title: What stands above it.
        cells: What stands in it, a line each.
        is_right: Whether its cells end at its right side.
        gives: Which end of a cell is cut off where there is no room, "left" or "right", or "" for a cell that stays.
    """

    title: str
    cells: Sequence[str]
    is_right: bool = False
    gives: str = ""

    @property
    def width(self) -> int:
        """How wide it is."""
        return max(map(cell_len, (self.title, *self.cells)))

    def cut_to(self, width: int) -> "Column":
        """Return it with no cell wider than this."""
        return attrs.evolve(self, cells=[_cut(cell, width, self.gives) for cell in self.cells])


def print_jobs(output: Output, rows: Sequence[JobRow], now: datetime, images: Mapping[str, int] | None = None) -> None:
    """Print a list of jobs, and below it why some of them ended badly.

    Args:
        output: Where.
        rows: The jobs, at least one.
        now: The time, aware.
        images: How many validation images lie beside the archives of jobs, by job.
    """
    # In full off a terminal: whatever reads the list may hand a name to another command.
    names = {row.job_id: row.job_id for row in rows}
    if output.is_terminal:
        names = dict(shortest(names))
        columns = fitted(_columns(rows, names, now, images or {}), output.width)
    else:
        columns = _columns(rows, names, now, images or {})
    output.print_line((_line(columns, None), "dim"))
    start = sum(column.width + len(_GAP) for column in columns[:2])
    end = start + columns[2].width
    for place, row in enumerate(rows):
        line = _line(columns, place)
        output.print_line(line[:start], (line[start:end], STYLES[row.state]), line[end:])
    for row in rows:
        if row.reason or row.error:
            output.print_line((names[row.job_id], "bold"), f": {one_line(row.reason or row.error)}")


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that a terminal has room for, with what may give way cut.

    Args:
        columns: All of them.
        width: Characters in a line.
    """
    firm = [column.width + len(_GAP) for column in columns if not column.gives]
    soft = [column for column in columns if column.gives]
    free = width - sum(firm) + len(_GAP) - len(soft) * len(_GAP)
    if not soft or sum(column.width for column in soft) <= free:
        return list(columns)
    room = _shared_out([column.width for column in soft], max(0, free))
    if min(room) < min(_LEAST_SHOWN, *(column.width for column in soft)):
        # The last one goes first: what names a job stands further left.
        return fitted([column for column in columns if column is not soft[-1]], width)
    widths = dict(zip((column.title for column in soft), room, strict=True))
    return [column.cut_to(widths[column.title]) if column.gives else column for column in columns]


def _shared_out(wanted: Sequence[int], free: int) -> list[int]:
    """Return how much each gets: what it wants where that is less than an even share of what is left."""
    given = dict.fromkeys(range(len(wanted)), 0)
    left = free
    for turn, place in enumerate(sorted(given, key=lambda place: wanted[place])):
        given[place] = min(wanted[place], left // (len(wanted) - turn))
        left -= given[place]
    return list(given.values())


def _columns(
    rows: Sequence[JobRow], names: Mapping[str, str], now: datetime, images: Mapping[str, int]
) -> list[Column]:
    is_short = any(names[row.job_id] != row.job_id for row in rows)
    tasks = shortest_tasks(row.task_id for row in rows) if is_short else {}
    columns = [
        Column(title="job", cells=[names[row.job_id] for row in rows]),
        Column(title="task", cells=[tasks.get(row.task_id or "", row.task_id or "") for row in rows], is_right=True),
        Column(title="state", cells=[str(row.state) for row in rows]),
        Column(title="age", cells=[age((now - row.planned_at).total_seconds()) for row in rows], is_right=True),
    ]
    if len({row.backend for row in rows}) > 1:
        columns.append(Column(title="service", cells=[_place(row.backend) for row in rows], gives="left"))
    if any(row.label for row in rows):
        columns.append(Column(title="label", cells=[one_line(row.label) for row in rows], gives="right"))
    if any(images.values()):
        counts = [images.get(row.job_id, 0) for row in rows]
        columns.append(Column(title="images", cells=[str(count or "") for count in counts], is_right=True))
    if any(row.path for row in rows):
        # By itself: of a path that begins with its size, the first figures of the size would be cut off.
        sizes = [size(row.total_bytes or 0) if row.path else "" for row in rows]
        columns.append(Column(title="size", cells=sizes, is_right=True))
        columns.append(Column(title="archive", cells=[one_line(row.path or "") for row in rows], gives="left"))
    return columns


def _place(service: str) -> str:
    return one_line(service.partition("://")[2] or service)


def _line(columns: Sequence[Column], place: int | None) -> str:
    return _GAP.join(_filled(columns, place)).rstrip()


def _filled(columns: Sequence[Column], place: int | None) -> Iterator[str]:
    for column in columns:
        cell = column.title if place is None else column.cells[place]
        space = " " * (column.width - cell_len(cell))
        yield f"{space}{cell}" if column.is_right else f"{cell}{space}"


def _cut(cell: str, width: int, gives: str) -> str:
    if cell_len(cell) <= width:
        return cell
    if gives == "right":
        return f"{set_cell_size(cell, width - 1).rstrip()}…"
    # The end of a path or an address tells most. Turned round, because only the end of a text can be cut to cells.
    return f"…{set_cell_size(cell[::-1], width - 1)[::-1].lstrip()}"
