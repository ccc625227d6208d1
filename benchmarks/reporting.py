"""How every benchmark shows its figures: a table for people, then one line of JSON for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print an aligned table; numbers go to the right."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max(len(line[index]) for line in [list(columns), *cells]) for index in range(len(columns))]
    numeric = [all(isinstance(row[index], int | float | None) for row in rows) for index in range(len(columns))]
    print(f"\n{title}")
    for line in [list(columns), ["-" * width for width in widths], *cells]:
        pairs = zip(line, widths, numeric, strict=True)
        print(
            "  " + "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in pairs).rstrip()
        )


def finish(benchmark: str, results: Mapping[str, Any]) -> None:
    """Print the closing line."""
    print()
    print(json.dumps({"benchmark": benchmark, **results}))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
