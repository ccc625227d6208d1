"""``dataset check``, ``pack`` and ``check-url``: a data set, before a job is paid for that cannot load it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crynux_async import datasets
from crynux_async.cli.check import finding, verdict
from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.datasets import CaptionSource, DatasetError, DatasetProblem, DatasetReport, Spread
from crynux_async.datasets.problems import printable
from crynux_async.report.units import size

_SIZES_SHOWN = 4


def check(
    path: Path, *, image_column: str, caption_column: str, resolution: int, center_crop: bool, as_json: bool
) -> Exit:
    """Show what a node would make of a folder or archive."""
    report = datasets.check(
        path,
        image_column=image_column,
        caption_column=caption_column,
        resolution=resolution,
        center_crop=center_crop,
    )
    if as_json:
        _print(_report_facts(report))
    else:
        _show(f"{path}", _statistics(report), report.problems, is_checked=report.is_checked)
    return Exit.DONE if report.is_ok else Exit.USAGE


def pack(
    folder: Path,
    out: Path,
    *,
    captions: CaptionSource,
    caption_column: str,
    encoding: str | None,
    regularization: bool,
    overwrite: bool,
    as_json: bool,
) -> Exit:
    """Make the archive that nodes load as intended."""
    try:
        packed = datasets.pack(
            folder,
            out,
            captions=captions,
            caption_column=caption_column,
            encoding=encoding,
            regularization=regularization,
            overwrite=overwrite,
        )
    # Told as findings and not as an error: each has a code, a file and a cure.
    except DatasetError as error:
        if as_json:
            _print({"error": type(error).__name__, "problems": _problem_facts(error.problems)})
        else:
            _show(f"{folder} was not packed", (), error.problems)
        return Exit.USAGE
    if as_json:
        facts = {"path": str(packed.path), "image_count": packed.image_count, "bytes": packed.bytes}
        _print({**facts, "sha256": packed.sha256, "problems": _problem_facts(packed.problems)})
        return Exit.DONE
    lines = (
        ("Images", f"{packed.image_count:,}"),
        ("Size", size(packed.bytes)),
        ("SHA-256", packed.sha256),
        ("Next", "upload it, then `crynux-async dataset check-url` on its address"),
    )
    _show(f"{packed.path}", lines, packed.problems)
    return Exit.DONE


async def check_url(url: str, *, timeout: float, as_json: bool) -> Exit:
    """Ask an address what a node would ask, and show whether it could load a data set from there."""
    report = await datasets.check_url(url, timeout=timeout)
    if as_json:
        facts = {"loadable": report.loadable, "name": report.name, "archive": report.archive, "bytes": report.size}
        _print({**facts, "problems": _problem_facts(report.problems)})
    else:
        # Not every server tells it.
        known = "not known" if report.size is None else size(report.size)
        lines = (("Stored as", report.name), ("Extracted as", report.archive or "nothing"), ("Size", known))
        _show("A node's view of this address", lines, report.problems)
    return Exit.DONE if report.loadable else Exit.USAGE


def _show(
    title: str, lines: Sequence[tuple[str, str]], problems: Sequence[DatasetProblem], *, is_checked: bool = True
) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in lines:
        table.add_row(name, value)
    parts: list[RenderableType] = [Text(title, style="bold")]
    if lines:
        parts.append(Padding(table, (1, 0, 0, 0), expand=False))
    parts += [finding(item.severity, item.code, _where(item), item.message, item.advice) for item in problems]
    last = verdict((item.severity for item in problems), is_known=is_checked)
    parts.append(Padding(last, (1, 0, 0, 0), expand=False))
    open_console().print_page(Group(*parts))


def _where(problem: DatasetProblem) -> str:
    more = f" and {len(problem.files) - 1} more" if len(problem.files) > 1 else ""
    return f"{printable(problem.file)}{more}" if problem.file else ""


def _statistics(report: DatasetReport) -> tuple[tuple[str, str], ...]:
    return tuple(_statistic_lines(report))


def _statistic_lines(report: DatasetReport) -> Iterator[tuple[str, str]]:
    yield "Kind", f"{report.kind}, loaded as {report.loader or 'nothing'}, {size(report.total_bytes)}"
    is_known = report.is_checked or not report.is_ok
    usable = f"{report.usable_count:,} usable of" if is_known else "not known how many are usable of"
    yield "Images", f"{usable} {report.image_count:,}"
    if report.split_counts:
        yield "Splits", ", ".join(f"{name} {count:,}" for name, count in report.split_counts.items())
    if report.sizes:
        yield "Pixels", _sizes(report.sizes)
    if report.caption_count:
        yield "Captions", f"{report.caption_count:,}: {_spread(report.caption_words)} words"
        yield "", f"about {_spread(report.caption_tokens)} of {datasets.CLIP_TOKENS} tokens"
    if report.content_hash:
        yield "Content", report.content_hash


def _sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    common = sorted(sizes.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{count:,} × {width}x{height}" for (width, height), count in common[:_SIZES_SHOWN])
    return shown if len(common) <= _SIZES_SHOWN else f"{shown} and {len(common) - _SIZES_SHOWN} other sizes"


def _spread(spread: Spread) -> str:
    return f"{spread.shortest} to {spread.longest} (median {spread.median})"


def _report_facts(report: DatasetReport) -> dict[str, Any]:
    return {
        "ok": report.is_ok,
        "is_checked": report.is_checked,
        "path": report.path,
        "kind": report.kind,
        "loader": report.loader,
        "image_count": report.image_count,
        "usable_count": report.usable_count,
        "split_counts": dict(report.split_counts),
        "sizes": [
            {"width": width, "height": height, "count": count} for (width, height), count in report.sizes.items()
        ],
        "formats": dict(report.formats),
        "caption_count": report.caption_count,
        "caption_words": attrs.asdict(report.caption_words),
        "caption_tokens": attrs.asdict(report.caption_tokens),
        "duplicates": [list(group) for group in report.duplicates],
        "total_bytes": report.total_bytes,
        "content_hash": report.content_hash,
        "problems": _problem_facts(report.problems),
    }


def _problem_facts(problems: Sequence[DatasetProblem]) -> list[dict[str, Any]]:
    return [attrs.asdict(problem) for problem in problems]


def _print(facts: Mapping[str, Any]) -> None:
    print(json.dumps(facts))  # noqa: T201  # the command's output
