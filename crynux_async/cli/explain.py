"""``explain``: what is behind a code of advice or of a data set's problem."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import attrs
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crynux_async.cli.check import STYLES
from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.datasets.explanations import EXPLANATIONS
from crynux_async.datasets.findings import Severity
from crynux_async.datasets.problems import CODES as DATASET_CODES
from crynux_async.datasets.problems import RETIRED
from crynux_async.errors import UsageError
from crynux_async.training.advice import CODES
from crynux_async.training.advice.explanations import example_of


@attrs.frozen(kw_only=True)
class _Entry:
    code: str
    severity: Severity
    title: str


@attrs.frozen(kw_only=True)
class _Page(_Entry):
    happens: str
    example: str
    action: str
    source: str


@attrs.frozen(kw_only=True)
class _Retired:
    code: str
    title: str
    retired: bool
    instead: str


def explain(codes: Sequence[str], *, as_json: bool) -> Exit:
    """Show what is behind codes; of a beginning such as CX2, or of none, the list."""
    pages = [_page(code) for code in codes if code.upper() in _titles()]
    retired = [_retired(code) for code in codes if code.upper() in RETIRED]
    beginnings = [code for code in codes if code.upper() not in {*_titles(), *RETIRED}] if codes else ["CX"]
    entries = [entry for beginning in beginnings for entry in _entries(beginning)]
    if as_json:
        found: list[_Entry | _Retired] = [*pages, *retired, *entries]
        print(json.dumps([attrs.asdict(item) for item in found]))  # noqa: T201  # the command's output
        return Exit.DONE
    shown: list[RenderableType] = [*(_shown(page) for page in pages), *(_shown_retired(item) for item in retired)]
    open_console().print_page(Group(*shown, *([_list(entries)] if entries else [])))
    return Exit.DONE


def _titles() -> Mapping[str, tuple[Severity, str]]:
    config = {code: (kind.severity, kind.title) for code, kind in CODES.items()}
    dataset = {code: (kind.severity, kind.title) for code, kind in DATASET_CODES.items()}
    return dict(sorted({**config, **dataset}.items()))


def _entries(beginning: str) -> list[_Entry]:
    titles = _titles()
    found = [
        _Entry(code=code, severity=severity, title=title)
        for code, (severity, title) in titles.items()
        if code.startswith(beginning.upper())
    ]
    if not found:
        near = difflib.get_close_matches(beginning.upper(), titles, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UsageError(f"there is no code {beginning!r}{hint}; `crynux-async explain` lists them", field="code")
    return found


def _retired(code: str) -> _Retired:
    known = code.upper()
    return _Retired(code=known, title=RETIRED[known].title, retired=True, instead=RETIRED[known].instead)


def _page(code: str) -> _Page:
    known = code.upper()
    severity, title = _titles()[known]
    return _Page(code=known, severity=severity, title=title, **_texts(known))


def _texts(code: str) -> dict[str, Any]:
    if code in DATASET_CODES:
        behind = EXPLANATIONS[code]
        action = DATASET_CODES[code].advice
        return {"happens": behind.happens, "example": behind.example, "action": action, "source": behind.source}
    found = example_of(code)
    example = "\n".join(found.lines)
    return {
        "happens": found.advice.message,
        "example": example,
        "action": CODES[code].action,
        "source": CODES[code].source,
    }


def _shown(page: _Page) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows = (
        ("What happens", page.happens),
        ("Example", page.example),
        ("What to do", page.action),
        ("Source", page.source),
    )
    for name, text in rows:
        table.add_row(name, Text(text))
    head = Text.assemble((page.code, "bold"), " ", (page.severity, STYLES[page.severity]), f": {page.title}")
    return Group(head, Padding(table, (0, 0, 1, 2), expand=False))


def _shown_retired(item: _Retired) -> RenderableType:
    head = Text.assemble((item.code, "bold"), f" is retired, and nothing reports it any more. It was: {item.title}.")
    return Group(head, Padding(Text(item.instead), (0, 0, 1, 2), expand=False))


def _list(entries: Iterable[_Entry]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for entry in entries:
        table.add_row(
            Text(entry.code, style="bold"), Text(entry.severity, style=STYLES[entry.severity]), Text(entry.title)
        )
    return table
