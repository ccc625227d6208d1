"""The list of jobs at any width."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from crynux_async.cli.listing import Column, fitted, print_jobs
from crynux_async.cli.plain import PlainOutput
from crynux_async.ledgers.conformance.support import job
from crynux_async.report.units import age
from crynux_async.states import JobState

NAMES = Column(title="job", cells=["j12345678", "j87654321"])
STATES = Column(title="state", cells=["running", "downloaded"])
LABELS = Column(title="label", cells=["a" * 200, "short"], gives="right")
PATHS = Column(title="archive", cells=["/home/user/" + "deep/" * 30 + "models/30.zip", ""], gives="left")


def line_width(columns: list[Column]) -> int:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1)


def test_columns_that_fit_are_left_as_they_are() -> None:
    columns = [NAMES, STATES, attrs.evolve(LABELS, cells=["a", "b"])]
    assert fitted(columns, 80) == columns


def test_label_gives_its_end_and_path_its_beginning() -> None:
    _, _, labels, paths = fitted([NAMES, STATES, LABELS, PATHS], 80)
    assert (
        labels.cells[0] == "a" * 27 + "…"
    )  # 80 - 9 - 10 - 3 gaps of 2 is 55, and the longer one gets the odd character
    assert paths.cells[0].startswith("…")
    assert paths.cells[0].endswith("deep/models/30.zip")


class Terminal(PlainOutput):
    """A terminal of 80 columns."""

    is_terminal = True


def test_size_of_an_archive_stays_whole_where_its_path_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    path = f"/home/user/{'deep/' * 30}30.zip"
    row = job("cat", task_id="30", state=JobState.DOWNLOADED, path=path, total_bytes=9_600_000)
    print_jobs(Terminal(), [row], row.planned_at)
    head, line = capsys.readouterr().out.splitlines()
    assert head.split() == ["job", "task", "state", "age", "size", "archive"]
    assert "  9.6 MB  …" in line
    assert line.endswith("deep/30.zip")
    assert len(line) == 80


def test_short_column_keeps_what_it_needs_and_leaves_the_rest_to_the_long_one() -> None:
    labels = attrs.evolve(LABELS, cells=["short", "label"])
    *_, paths = fitted([NAMES, STATES, labels, PATHS], 80)
    assert line_width(fitted([NAMES, STATES, labels, PATHS], 80)) == 80
    assert paths.width == 80 - 9 - 10 - 5 - 6


def test_column_without_room_is_left_out_and_the_names_stay() -> None:
    columns = fitted([NAMES, STATES, LABELS, PATHS], 36)
    assert [column.title for column in columns] == ["job", "state", "label"]
    assert fitted([NAMES, STATES, LABELS, PATHS], 10) == [NAMES, STATES]


WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cf", "Mn", "Me"]), max_size=120)


@given(labels=st.lists(WORDS, min_size=2, max_size=2), paths=st.lists(WORDS, min_size=2, max_size=2))
@pytest.mark.parametrize("width", [24, 40, 80, 120])
def test_line_is_never_wider_than_the_terminal_and_firm_cells_are_whole(
    width: int, labels: list[str], paths: list[str]
) -> None:
    soft = [attrs.evolve(LABELS, cells=labels), attrs.evolve(PATHS, cells=paths)]
    columns = fitted([NAMES, STATES, *soft], width)
    assert columns[:2] == [NAMES, STATES]
    assert line_width(columns) <= width
    assert all(cell_len(cell) <= column.width for column in columns for cell in column.cells)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "0 s"), (59, "59 s"), (3600, "1 h 00 min"), (2 * 86400 - 1, "47 h 59 min"), (2 * 86400, "2 d")],
)
def test_age_is_said_in_days_from_the_second_on(seconds: float, said: str) -> None:
    assert age(seconds) == said
