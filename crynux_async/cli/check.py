"""``check`` and ``run --dry-run``: what will really be trained, before anything is sent."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from crynux_async.cli.changes import parse_changes
from crynux_async.cli.console import open_console
from crynux_async.cli.exits import Exit
from crynux_async.cli.plain import one_line
from crynux_async.cli.plot import curve
from crynux_async.downloads.names import check_template
from crynux_async.downloads.target import check_folder
from crynux_async.errors import UsageError
from crynux_async.report.units import size
from crynux_async.secret import mask_address, mask_addresses
from crynux_async.training import advice
from crynux_async.training.advice import Advice
from crynux_async.training.advice.case import in_words
from crynux_async.training.config import EffectiveConfig, FineTuneConfig
from crynux_async.training.service import BRIDGE_FACTS, ServiceFacts
from crynux_async.training.simulation import Round, Simulation, archive_bytes, simulate

if TYPE_CHECKING:
    from crynux_async.datasets import DatasetReport

STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_ON_TOP = ("CX401", "CX402")  # cost and time have lines of their own
_PLOT_WIDTH, _PLOT_HEIGHT = 60, 6
_ROUNDS_SHOWN = 6
_VALUE_CHARS = 24


@attrs.frozen(kw_only=True)
class Findings:
    """Everything that a check of a config tells.

    Attributes:
        effective: What becomes of the config.
        simulation: What the job will do.
        advice: What to know, errors first.
        fee_cnx: The service's fee for a round.
        is_known: False when a data set was given of which not everything was looked at.
    """

    effective: EffectiveConfig
    simulation: Simulation
    advice: list[Advice]
    fee_cnx: float
    is_known: bool = True

    @property
    def exit(self) -> Exit:
        """The exit code of a check."""
        return Exit.USAGE if advice.has_error(self.advice) else Exit.DONE


def check(
    config_path: Path,
    changes: Sequence[str],
    *,
    dataset: Path | None = None,
    images: int | None = None,
    fee_cnx: float = BRIDGE_FACTS.fee_cnx,
    service: ServiceFacts = BRIDGE_FACTS,
    as_json: bool = False,
) -> Exit:
    """Show what will be made of the config in a file; nothing is sent."""
    if dataset is not None and images is not None:
        raise UsageError("give either --dataset or --images: the data set tells how many images it has")
    config = FineTuneConfig.from_file(config_path).evolve(**parse_changes(changes))
    found = find(config, images if dataset is None else read_dataset(dataset, config), fee_cnx, service)
    if as_json:
        print(json.dumps(as_facts(found)))  # noqa: T201  # the command's output
    else:
        open_console().print_page(page(found, config_path.name))
    return found.exit


def dry_run(
    config_path: Path,
    changes: Sequence[str],
    out: Path,
    name: str | None,
    *,
    service: ServiceFacts,
    force: bool,
    as_json: bool,
) -> Exit:
    """Show what will be made of the config in a file, and refuse a folder or a name that ``run`` would refuse."""
    config = FineTuneConfig.from_file(config_path).evolve(**parse_changes(changes))
    if name is not None:  # else it is the service's usual one
        check_template(name)
    # With force the user knows better; the room is looked at again when bytes come.
    check_folder(out, needed=0 if force else archive_bytes(config) or 0)
    return check(config_path, changes, fee_cnx=service.fee_cnx, service=service, as_json=as_json)


def find(
    config: FineTuneConfig,
    dataset: "DatasetReport | int | None",
    fee_cnx: float = BRIDGE_FACTS.fee_cnx,
    service: ServiceFacts = BRIDGE_FACTS,
) -> Findings:
    """Work out everything about a config."""
    # With no image that trains there is nothing to work out; the advice says why.
    images = dataset if dataset is None or isinstance(dataset, int) else dataset.train_count or None
    return Findings(
        effective=config.effective(images, service.mapping),
        simulation=simulate(config, images, service),
        advice=advice.check(config, dataset, fee_cnx=fee_cnx, service=service),
        fee_cnx=fee_cnx,
        is_known=dataset is None or isinstance(dataset, int) or dataset.is_checked,
    )


def read_dataset(path: Path, config: FineTuneConfig) -> "DatasetReport":
    """Read a data set the way a node would with this config."""
    from crynux_async import datasets

    return datasets.check(
        path,
        image_column=config.dataset_image_column,
        caption_column=config.dataset_caption_column,
        resolution=config.resolution,
        center_crop=config.center_crop,
    )


def page(found: Findings, name: str) -> RenderableType:
    """Return what a person sees."""
    sections = (_changes(found.effective), _rounds(found.simulation), _plot(found.simulation), _bounds(found))
    paddings = (Padding(part, (1, 0, 0, 0), expand=False) for part in sections if part)
    return Group(_headline(found, name), *paddings, *_advice(found))


def _headline(found: Findings, name: str) -> Text:
    config, images = found.effective.config, found.simulation.images
    data = "" if images is None else f", {images:,} image{'' if images == 1 else 's'}"
    return Text.assemble((one_line(name), "bold"), f"  {config.model_name}, rank {config.rank}{data}")


def _changes(effective: EffectiveConfig) -> RenderableType:
    if not effective.differences:
        return Text("Every value is sent and used as given.", style="dim")
    rows = [("Value", "asked", "sent", "used")]
    for change in effective.differences:
        sent = "left out" if change.sent is None else _value(change.sent)
        used = "not used" if change.used is None else _value(change.used)
        rows.append((change.field, _value(change.asked), sent, used))
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    lines = ["".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    text = Text(lines[0], style="bold")
    for line, change in zip(lines[1:], effective.differences, strict=True):
        text.append(f"\n{line}", style="not bold").append(f"\n  {change.reason}", style="not bold dim")
    return text


def _value(value: Any) -> str:
    # Masked: the query of a presigned address is a credential.
    text = f"{value:g}" if isinstance(value, float) else "none" if value is None else str(mask_address(value))
    return text if len(text) <= _VALUE_CHARS else f"{text[: _VALUE_CHARS - 1]}…"


def _rounds(simulation: Simulation) -> RenderableType:
    if not simulation.rounds:
        number = "an unknown number of" if simulation.most_rounds is None else f"at most {simulation.most_rounds:,}"
        if simulation.most_rounds == 1:
            return Text("1 round; give --dataset or --images to see its steps.")
        return Text(f"{number[0].upper()}{number[1:]} rounds; give --dataset or --images to see them.")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("Round", "steps", "asked for", "images seen"):
        table.add_column(column, justify="right")
    table.add_column("learning rate")
    table.add_column("weights")
    for item in _shown(simulation.rounds):
        if item is None:
            table.add_row("...")
            continue
        seen = "?" if item.images is None else f"{item.images:,}"
        kept = Text("kept", style="green") if item is simulation.final_round else Text("lost", style="red")
        table.add_row(
            str(item.number), f"{item.steps:,}", f"{item.asked_steps:,}", seen, _rates(simulation, item), kept
        )
    return table


def _shown(rounds: Sequence[Round]) -> Iterator[Round | None]:
    """Yield the first rounds and the last one, with None for those between."""
    if len(rounds) <= _ROUNDS_SHOWN:
        yield from rounds
        return
    yield from rounds[: _ROUNDS_SHOWN - 2]
    yield None
    yield rounds[-1]


def _rates(simulation: Simulation, item: Round) -> str:
    if simulation.schedule is None:
        return ""
    first, last = simulation.schedule.at(item.first_step), simulation.schedule.at(item.last_step)
    return f"{first:.3g}" if first == last else f"{first:.3g} → {last:.3g}"


def _plot(simulation: Simulation) -> RenderableType | None:
    schedule = simulation.schedule
    # A constant rate is a line, and one step no curve.
    if schedule is None or schedule.scheduler == "constant":
        return None
    steps = simulation.steps or schedule.total_steps
    if steps < 2:
        return None
    points = schedule.points(1, steps, 2 * _PLOT_WIDTH)
    top = max((rate for _, rate in points if rate == rate), default=0.0) or schedule.peak  # noqa: PLR0124  # NaN
    final = simulation.final_round
    # What was trained before the last round began is lost: nodes do not read the weights of the round before.
    kept = 0 if final is None else round((final.first_step - 1) / steps * _PLOT_WIDTH)
    labels = [f"{top:.3g}", *[""] * (_PLOT_HEIGHT - 2), "0"]
    text = Text("Learning rate", style="bold")
    for label, line in zip(labels, curve(points, width=_PLOT_WIDTH, height=_PLOT_HEIGHT, top=top), strict=True):
        text.append(f"\n{label:>9} ", style="dim").append("┤", style="dim")
        text.append(line[:kept], style="red").append(line[kept:], style="green")
    return text.append(f"\n{'step 1':>16}{steps:>{_PLOT_WIDTH - 5},}", style="dim")


def _bounds(found: Findings) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(found):
        table.add_row(name, value)
    return table


def _facts(found: Findings) -> Iterator[tuple[str, str]]:
    simulation = found.simulation
    cost, longest, stalled = simulation.cost(found.fee_cnx), simulation.longest_duration, simulation.stall_deadline
    if cost is not None:
        up_to = "" if simulation.is_complete or simulation.most_rounds == 1 else "at most "
        yield "Cost", f"{up_to}{simulation.most_rounds:,} × {found.fee_cnx:g} CNX = {cost:,.15g} CNX"
    if longest is not None and stalled is not None:
        yield "Time", f"ends within {in_words(longest)}; stalled after {in_words(stalled)}"
    yield "Mistakes", f"show after up to {in_words(simulation.longest_failure)}, without a reason"
    archive = archive_bytes(found.effective.config)
    if archive is not None:
        yield "Archive", f"about {size(archive)}"


def _advice(found: Findings) -> Iterator[RenderableType]:
    shown = [item for item in found.advice if item.code not in _ON_TOP]
    for item in shown:
        yield finding(item.severity, item.code, item.field or "", item.message, item.action)
    yield Padding(verdict((item.severity for item in shown), is_known=found.is_known), (1, 0, 0, 0), expand=False)


def finding(severity: str, code: str, where: str, message: str, action: str) -> RenderableType:
    """Return one finding: its code, what happens, and what to do; a note is kept short."""
    head = Text.assemble((f"\n{severity} {code}", STYLES[severity]), f"  {where}" if where else "")
    if severity == "note":
        return Group(head, Padding(Text(f"{message} {action}", style="dim"), (0, 0, 0, 2), expand=False))
    return Group(head, Padding(Group(Text(message), Text(f"→ {action}", style="cyan")), (0, 0, 0, 2), expand=False))


def verdict(severities: Iterable[str], *, is_known: bool = True) -> Text:
    """Return the last line: whether it can work, if that is known, and how much there is to know."""
    counts = Counter(severities)
    parts = [f"{counts[kind]} {kind}{'' if counts[kind] == 1 else 's'}" for kind in STYLES if counts[kind]]
    if counts["error"]:
        return Text(f"This cannot work: {', '.join(parts)}.", style="bold red")
    if not is_known:
        text = "Whether this works is not known: not everything in the data set was looked at."
        return Text(text, style="bold yellow")
    if counts["warning"]:
        return Text(f"This works, but not as one would expect: {', '.join(parts)}.", style="bold yellow")
    return Text("No problem was found." + (f" {', '.join(parts)}." if parts else ""), style="bold green")


def as_facts(found: Findings) -> dict[str, Any]:
    """Return what a program wants to know of a config."""
    simulation = found.simulation
    return {
        "workable": found.exit is Exit.DONE,
        "config": mask_addresses(found.effective.config.to_dict()),
        "digest": found.effective.asked.digest(),
        "changes": [mask_addresses(attrs.asdict(change)) for change in found.effective.differences],
        "images": simulation.images,
        "rounds": [attrs.asdict(item) for item in simulation.rounds],
        "most_rounds": simulation.most_rounds,
        "steps": simulation.steps,
        "images_seen": simulation.images_seen,
        "peak_learning_rate": simulation.peak,
        "final_learning_rate": simulation.final_learning_rate,
        "cost_cnx": simulation.cost(found.fee_cnx),
        "longest_duration": simulation.longest_duration,
        "stall_deadline": simulation.stall_deadline,
        "longest_failure": simulation.longest_failure,
        "archive_bytes": archive_bytes(found.effective.config),
        "advice": [attrs.asdict(item) for item in found.advice],
    }
