"""What a sweep would do, as a person and as a program read it."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.padding import Padding
from rich.text import Text

from crynux_async.cli.console import LiteralConsole
from crynux_async.clock import utc_now
from crynux_async.money import to_cnx
from crynux_async.report.units import duration
from crynux_async.secret import mask_address
from crynux_async.sweeps import Preview
from crynux_async.sweeps.points import shown
from crynux_async.sweeps.preview import Changed, Said

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}
_MOST_NAMED = 8


def print_preview(console: LiteralConsole, found: Preview) -> None:
    """Print it for a person, in a few lines."""
    console.print(Text.assemble((found.name, "bold"), f": {_counts(found)}"))
    for line in _lines(found):
        _print_below(console, Text(line))
    for said in found.advice:
        if said.advice.severity == "note":
            continue  # what is good to know of one config is what 'check' is for
        style = _STYLES[said.advice.severity]
        text = f"{said.advice.message} {said.advice.action}"
        head = f"{said.advice.code} {said.advice.severity}"
        _print_below(console, Text.assemble((head, style), f" ({_named(said.points)}): {text}"))
    for broken in found.points.broken:
        for problem in broken.problems:
            text = f" {problem.field}: {problem.message}"
            _print_below(console, Text.assemble((f"point {broken.number}", "bold red"), text))
    if found.conflict is not None:
        _print_below(console, Text(str(found.conflict), style="bold red"))


def _print_below(console: LiteralConsole, text: Text) -> None:
    """Print a sentence below the name of the sweep: its words wrapped, all of its lines with the same margin."""
    console.print_page(Padding(text, (0, 0, 0, 2), expand=False))


def facts_of(found: Preview) -> dict[str, Any]:
    """Return it for a program, as JSON values; amounts in CNX."""
    ends = found.forecast.ends_between
    return {
        "name": found.name,
        "workable": found.is_workable,
        "points": len(found.points.good),
        "new": len(found.new),
        "known": dict(found.known),
        "price_cnx": None if found.price is None else to_cnx(found.price),
        "balance_cnx": None if found.balance is None else to_cnx(found.balance),
        "last_sent_at": _iso(found.forecast.last_sent_at),
        "ends_between": None if ends is None else [_iso(end) for end in ends],
        "advice": [_advice_facts(said) for said in found.advice],
        "effective": [
            {
                "field": changed.value.field,
                "asked": mask_address(changed.value.asked),
                "used": mask_address(changed.value.used),
                "reason": changed.value.reason,
                "points": list(changed.points),
            }
            for changed in found.changed
        ],
        "broken": [
            {"point": broken.number, "field": problem.field, "message": problem.message}
            for broken in found.points.broken
            for problem in broken.problems
        ],
        "asked_twice": {str(place): first for place, first in found.points.twice.items()},
        "train_the_same": [list(places) for places in found.points.alike],
        "conflict": None if found.conflict is None else str(found.conflict),
    }


def _counts(found: Preview) -> str:
    known = [f"{count} {state}" for state, count in sorted(found.known.items())]
    return ", ".join([f"{len(found.new)} to send", *known])


def _lines(found: Preview) -> Iterator[str]:
    if found.new:
        yield _money(found)
        yield _time(found)
    for place, first in found.points.twice.items():
        yield f"point {place} asks for the same as point {first}: it is trained once"
    for places in found.points.alike:
        yield f"points {_named(places)} train the same model although they ask for different things"
    for changed in found.changed:
        yield f"{_became(changed)} ({_named(changed.points)})"


def _became(changed: Changed) -> str:
    value = changed.value
    used = "is not used" if value.used is None else f"is used as {shown(value.used)}"
    return f"{value.field}={shown(value.asked)} {used}: {value.reason}"


def _money(found: Preview) -> str:
    if found.price is None:
        return "the service does not say what they cost"
    at_hand = "" if found.balance is None else f"; the account has {to_cnx(found.balance)} CNX"
    return f"at most {to_cnx(found.price)} CNX{at_hand}"


def _time(found: Preview) -> str:
    sent, ends = found.forecast.last_sent_at, found.forecast.ends_between
    if sent is None:
        return "the rate limit is not known yet, so nobody can say when the last is sent"
    said = f"the last is sent in {_until(sent)}"
    if ends is None:
        return f"{said}; too few of this kind have been seen to say when it ends"
    return f"{said}, and ends in {_until(ends[0])} to {_until(ends[1])} if it goes as it went so far"


def _named(numbers: Sequence[int]) -> str:
    named = ", ".join(map(str, numbers[:_MOST_NAMED]))
    more = len(numbers) - _MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _advice_facts(said: Said) -> dict[str, Any]:
    return {
        "code": said.advice.code,
        "severity": said.advice.severity,
        "field": said.advice.field,
        "message": said.advice.message,
        "action": said.advice.action,
        "points": list(said.points),
    }


def _until(when: datetime) -> str:
    return duration(max(0.0, (when - utc_now()).total_seconds()))


def _iso(when: datetime | None) -> str | None:
    return None if when is None else when.isoformat()
