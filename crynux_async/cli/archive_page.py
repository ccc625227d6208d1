"""What ``inspect`` shows: what an archive holds, what is wrong with it, and how strongly each part was trained."""

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crynux_async.archive import ArchiveKind, ArchiveSummary, Health, HealthCode, LoraArchive, Member, Norms, Strength
from crynux_async.archive.families import FAMILY_TITLES, family_named
from crynux_async.archive.members import PURPOSES, is_pickle
from crynux_async.cli.console import LiteralConsole, open_console
from crynux_async.cli.plain import one_line
from crynux_async.report.units import size
from crynux_async.training.config import FineTuneConfig
from crynux_async.wording import counted

_PAGE_WIDTH = 80
_BAR_WIDTH = 40
_NUMBER_WIDTH = 12
_EIGHTHS = " ▏▎▍▌▋▊▉"

# In the order in which an image passes through the UNet.
_FLOW = ("conv_in", "time_embedding", "down_blocks", "mid_block", "up_blocks")

_ADVICE = {
    HealthCode.UNTRAINED: "Images made with it are those of the base model.",
    HealthCode.NAN: "It cannot be used; try a lower learning_rate.",
    HealthCode.INF: "It cannot be used; try a lower learning_rate.",
    HealthCode.RANK: "Is it the config of this archive?",
    HealthCode.MODULES_EXTRA: "Is it the config of this archive?",
    HealthCode.DIVERGED: "Train again with a lower learning_rate; 1e-4 is usual.",
    HealthCode.FAMILY: "Is it the config of this archive?",
}

_KINDS: Mapping[ArchiveKind, str] = MappingProxyType(
    {
        "archive": "a result archive of a node",
        "diffusers": "a LoRA file in diffusers' names, which no other program reads",
        "peft": "an adapter of peft",
        "kohya": "a LoRA file in kohya's names, which ComfyUI and AUTOMATIC1111 read",
    }
)


@attrs.frozen(kw_only=True)
class Report:
    """Everything that is said about an archive; why there are no norms, where there are none."""

    archive: LoraArchive
    summary: ArchiveSummary
    health: Health
    norms: Norms | str
    config: FineTuneConfig | None
    config_path: Path | None


def left_out(archive: LoraArchive) -> int:
    """Return how many tensors diffusers leaves out when it loads the file in the archive as it is.

    It takes the first tensor's naming style for that of all, and knows those named ``lora.down`` and ``lora.up``
    only where they come first.

    Source: diffusers src/diffusers/loaders/peft.py (load_lora_adapter).
    """
    names = list(archive.tensors)
    is_mixed = ".lora_A." in names[0] and not archive.is_bare
    return sum(".lora." in name for name in names) if is_mixed else 0


def page_console() -> LiteralConsole:
    """Return a console for a page that people read; other programs ask for JSON."""
    console = open_console()
    console.width = min(console.width, _PAGE_WIDTH)
    return console


def show(console: LiteralConsole, report: Report) -> None:
    """Print the whole page."""
    path, summary = report.archive.path, report.summary
    about = f"  {size(summary.file_bytes)}" + ("" if report.archive.is_bare else ", every byte checked")
    console.print(Text.assemble((one_line(str(path)), "bold"), (about, "dim")))
    console.print_page(_what_it_is(report))
    _show_health(console, report)
    _show_norms(console, report.norms, report.health.strength)
    # The one member of a bare file would be the file itself.
    if not report.archive.is_bare:
        _show_members(console, report.archive.members)
    if report.health.ok and (command := _export_command(report)):
        console.print()
        console.print(Text(f"Next: {shlex.join(command)}", style="dim"))


def _export_command(report: Report) -> list[str]:
    """Return the command that makes a file for all programs, or none for a file that is as good as that."""
    archive, path = report.archive, report.archive.path
    if archive.kind == "kohya":
        return []
    out = path.with_stem(f"{path.stem}-all") if archive.is_bare else path.with_suffix(".safetensors")
    # One file for all of them cannot have alphas that differ.
    alphas = {module.alpha for module in archive.modules.values()}
    program = [] if len(alphas) == 1 else ["--for", "comfyui"]
    config = ["--config", str(report.config_path)] if report.config_path else []
    return ["crynux-async", "export", str(path), str(out), *program, *config]


def _what_it_is(report: Report) -> Table:
    """Return rank, modules, steps and weights, beside what was asked for where that is known."""
    table = _table()
    for row in _rows(report):
        agrees = ", as asked for" if row.found == row.asked else ""
        table.add_row(Text(row.name, style="dim"), Text.assemble(row.found, (agrees, "dim"), row.more))
        if row.asked and not agrees:
            table.add_row("", Text(f"asked for: {row.asked}", style="yellow" if row.is_wrong else "dim"))
    return table


@attrs.frozen(kw_only=True)
class _Row:
    name: str
    found: str
    more: str = ""
    asked: str = ""
    is_wrong: bool = False


def _rows(report: Report) -> Iterator[_Row]:
    summary, config, codes = report.summary, report.config, report.health.codes
    modules = report.archive.modules.values()
    yield _Row(name="kind", found=_KINDS[summary.kind])
    if report.archive.family is not None:
        yield _Row(name="fits", found=FAMILY_TITLES[report.archive.family], **_asked_family(report))
    yield _Row(
        name="rank",
        found=", ".join(map(str, sorted({module.rank for module in modules}))),
        asked=str(config.rank) if config else "",
        is_wrong=HealthCode.RANK in codes,
    )
    if any(module.alpha != module.rank for module in modules):
        yield _Row(name="alpha", found=", ".join(f"{alpha:.9g}" for alpha in sorted({each.alpha for each in modules})))
    yield _Row(
        name="modules",
        found=", ".join(summary.target_modules),
        asked=_asked_modules(config) if config else "",
        is_wrong=bool(codes & {HealthCode.MODULES_EXTRA, HealthCode.MODULES_MISSING}),
    )
    yield _Row(
        name="steps",
        found="unknown" if summary.global_step is None else f"{summary.global_step:,}",
        more="" if report.archive.is_bare else ", finished" if summary.finished else ", not finished",
        asked=_asked_steps(config) if config else "",
        is_wrong=HealthCode.STEPS_SHORT in codes,
    )
    tensors = f" in {counted(summary.tensors, 'tensor')} of {counted(len(modules), 'module')}"
    yield _Row(
        name="weights", found=f"{summary.parameters:,}", more=f"{tensors}, {summary.dtype or 'of several types'}"
    )


def _asked_family(report: Report) -> dict[str, Any]:
    asked = family_named(report.config.model_name) if report.config else None
    if asked is None:
        return {}
    return {"asked": FAMILY_TITLES[asked], "is_wrong": HealthCode.FAMILY in report.health.codes}


def _asked_modules(config: FineTuneConfig) -> str:
    asked = config.target_modules
    return asked if isinstance(asked, str) else ", ".join(sorted(asked))


def _asked_steps(config: FineTuneConfig) -> str:
    if config.max_train_steps is None:
        return counted(config.max_train_epochs or 1, "epoch")
    return f"{config.max_train_steps:,}"


def _show_health(console: LiteralConsole, report: Report) -> None:
    problems = report.health.problems
    if problems:
        _heading(console, "Health", counted(len(problems), "problem"), "bold red")
    else:
        _heading(console, "Health", "good", "bold green")
        agrees = ", and nothing contradicts the config" if report.config else ""
        console.print_page(f"  Trained{agrees}; every weight is a finite number.")
    table = _table()
    for problem in problems:
        advice = _ADVICE.get(problem.code)
        message = f"{problem.message}. {advice}" if advice else problem.message
        table.add_row(Text(problem.code, style="red"), Text(message))
    if dropped := left_out(report.archive):
        note = (
            f"Two naming styles are mixed, and diffusers leaves {dropped} of the {report.summary.tensors} tensors "
            "out when it loads the file as it is. 'crynux-async export' writes one that it loads whole."
        )
        table.add_row(Text("names", style="yellow"), Text(note))
    if table.row_count:
        console.print_page(table)


def _show_norms(console: LiteralConsole, norms: Norms | str, strength: Strength | None) -> None:
    _heading(console, "Update", "||B A||, how strongly each part of the UNet was changed", "dim")
    if isinstance(norms, str):
        console.print_page(Padding(Text(norms), (0, 0, 0, 2), expand=False))
        return
    largest = max((norm for norm in norms.blocks.values() if math.isfinite(norm)), default=0.0)
    # Beside a bar stand a block's name, a number and the gaps.
    width = max(8, min(_BAR_WIDTH, console.width - 36))
    table = _table()
    table.add_column(width=16, no_wrap=True)
    table.add_column(width=width, no_wrap=True)
    table.add_column(width=_NUMBER_WIDTH, no_wrap=True, justify="right")
    for block, norm in in_flow(norms.blocks):
        bar = _bar(norm / largest if largest else 0.0, width, ascii_only=console.options.ascii_only)
        table.add_row(Text(block), Text(bar, style="cyan"), _norm(norm))
    table.add_row(Text("all", style="dim"), "", _norm(norms.total))
    console.print_page(table)
    if strength is not None and strength.verdict not in ("untrained", "diverged"):
        measured = f"{strength.verdict}: {strength.ratio:.2g} of the size that fresh layers have. {strength.action}"
        console.print_page(Padding(Text(measured), (0, 0, 0, 2), expand=False))


def in_flow(blocks: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return parts of the UNet in the order in which an image passes through them."""

    def place(item: tuple[str, float]) -> tuple[int, str]:
        kind = item[0].partition(".")[0]
        return (_FLOW.index(kind) if kind in _FLOW else len(_FLOW), item[0])

    return sorted(blocks.items(), key=place)


def _bar(share: float, width: int, *, ascii_only: bool) -> str:
    """Return a bar for 0 <= share <= 1; something for anything that is not zero, nothing for NaN."""
    if not share > 0:
        return ""
    eighths = max(1, round(share * width * 8))
    if ascii_only:
        return "#" * max(1, eighths // 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _norm(value: float) -> Text:
    return (
        Text(f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}")
        if math.isfinite(value)
        else Text("NaN", style="bold red")
    )


def _show_members(console: LiteralConsole, members: Mapping[str, Member]) -> None:
    _heading(console, "Members", counted(len(members), "file"), "dim")
    table = _table()
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    for member in sorted(members.values(), key=lambda member: -member.size_bytes):
        what = Text(PURPOSES.get(member.name, "unknown"), style="" if member.name in PURPOSES else "yellow")
        if is_pickle(member.name):
            what.append(" (pickle)", style="yellow")
        table.add_row(Text(member.name), size(member.size_bytes), what)
    console.print_page(table)
    if any(map(is_pickle, members)):
        note = (
            "Pickles can run code when they are loaded, and an unknown machine made these. They are checksummed "
            "and never opened; the LoRA does not need them."
        )
        console.print_page(Padding(note, (0, 0, 0, 2), expand=False), style="dim")


def _heading(console: LiteralConsole, title: str, remark: str, style: str) -> None:
    console.print()
    console.print_page(Text.assemble((title, "bold"), "  ", (remark, style)))


def _table() -> Table:
    return Table(box=None, show_header=False, padding=(0, 0, 0, 2))
