"""A sweep's page as one file: it opens offline, asks nobody for anything, and a policy in it says so.

The table and the sentences are markup, so that they are there without a script, in print and for screen readers. Plots,
sorting, filtering and search are added by a script whose digest stands in the page's Content-Security-Policy: no other
script can run. Everything that comes from outside is escaped by the template engine.
"""

import base64
import functools
import hashlib
import importlib.resources
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from crynux_async.errors import UsageError
from crynux_async.report import story
from crynux_async.report.values import SweepView, TrialView
from crynux_async.wording import counted

if TYPE_CHECKING:
    import jinja2

SWEEP_SCRIPTS = ("echarts.min.js", "sweep.js")
"""What draws the plots of a sweep, in order."""

# The strongest alone: a row for each of a thousand models would be most of the page.
_MOST_HEAT_ROWS = 40
_MOST_COLUMNS = 12
_PNG = b"\x89PNG"


def render(view: SweepView, *, images_across: str | None = None, images_down: str | None = None) -> str:
    """Return the page of a sweep as HTML.

    Args:
        view: The sweep.
        images_across: The parameter whose values stand side by side in the grid of pictures; None for the one with the
            most values, 12 at most.
        images_down: The parameter whose values stand below each other; None for the next one.

    Raises:
        UsageError: jinja2 is missing.
    """
    scripts = [static_text(name) for name in SWEEP_SCRIPTS]
    template = environment().get_template("sweep.html.j2")
    return template.render(
        view=view,
        policy=_policy(scripts),
        scripts=scripts,
        style=static_text("page.css"),
        data=plot_data(view),
        live=False,
        story=story,
        grid=picture_grid(view, across=images_across, down=images_down),
        heat=heat_rows(view),
    )


def picture_grid(view: SweepView, *, across: str | None = None, down: str | None = None) -> dict[str, Any] | None:
    """Return the pictures of a sweep by the values of two parameters, or None where there are none."""
    pictured = [trial for trial in view.trials if trial.images]
    if not pictured:
        return None
    counts = {name: len(_values(pictured, name)) for name in view.parameters}
    # Numbers drawn at random are all different: a grid by them would be empty but for its diagonal.
    by_size = sorted((name for name in counts if counts[name] <= _MOST_COLUMNS), key=lambda name: -counts[name])
    across = across or (by_size[0] if by_size else "")
    down = down or next((name for name in by_size if name != across), "")
    columns, rows = _values(pictured, across), _values(pictured, down)
    cells = [[_pictures(pictured, {across: column, down: row}) for column in columns] for row in rows]
    return {"across": across, "down": down, "columns": columns, "rows": list(zip(rows, cells, strict=True))}


def heat_rows(view: SweepView) -> list[dict[str, Any]]:
    """Return the norms by block of the strongest models: label, trial, and (block, norm, share of the largest)."""
    normed = sorted((trial for trial in view.trials if trial.blocks), key=lambda trial: -(trial.norm or 0.0))
    shown = normed[:_MOST_HEAT_ROWS]
    blocks = list(dict.fromkeys(block for trial in shown for block in trial.blocks))
    largest = max((norm for trial in shown for norm in trial.blocks.values() if math.isfinite(norm)), default=0.0)
    return [
        {
            "trial": trial,
            "cells": [(block, trial.blocks.get(block), _share(trial.blocks.get(block), largest)) for block in blocks],
        }
        for trial in shown
    ]


def _share(norm: float | None, largest: float) -> int:
    """Return a norm as a percentage of the largest, 0 to 100."""
    if norm is None or not math.isfinite(norm) or largest <= 0:
        return 0
    return round(100 * min(1.0, norm / largest))


def _values(trials: Iterable[TrialView], name: str) -> list[Any]:
    """Return the different values of a parameter, in order where they have one."""
    # By their texts: a value may be a list, which has no hash.
    found = {repr(trial.params.get(name)): trial.params.get(name) for trial in trials}
    values = list(found.values())
    try:
        return sorted(values)
    # With None among numbers, or a text and a number, there is no order.
    except TypeError:
        return values


def _pictures(trials: Sequence[TrialView], wanted: Mapping[str, Any]) -> list[tuple[TrialView, str]]:
    return [
        (trial, data_address(image))
        for trial in trials
        if all(trial.params.get(name) == value for name, value in wanted.items() if name)
        for image in trial.images
    ]


def data_address(image: bytes | str) -> str:
    """Return a picture as an address that holds it, or the address that it is already."""
    if isinstance(image, str):
        return image
    # What is neither would not be shown by a browser either, whatever stood here.
    kind = "png" if image.startswith(_PNG) else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def plot_data(view: SweepView) -> str:
    """Return what the plots of a sweep draw, as JSON that can stand in a script element."""
    return _embedded(_data(view))


def _data(view: SweepView) -> dict[str, Any]:
    return {
        "parameters": view.parameters,
        "objective": view.objective_name,
        "written": _milliseconds(view.written_at),
        "trials": [
            {
                "number": trial.number,
                "label": trial.label,
                "state": trial.state,
                "params": {name: _plain(value) for name, value in trial.params.items()},
                "minutes": _finite(trial.minutes),
                "norm": _finite(trial.norm),
                "objective": _finite(trial.objective),
                "verdict": trial.verdict,
                "sent": _milliseconds(trial.sent_at),
                "noticed": _milliseconds(trial.noticed_at),
                "stored": _milliseconds(trial.stored_at),
                "facts": story.job_facts(trial),
            }
            for trial in view.trials
        ],
    }


def _milliseconds(when: datetime | None) -> int | None:
    return None if when is None else round(1000 * when.timestamp())


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) or value is None else shown(value)


def shown(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else str(value)


def exact(value: Any) -> str:
    """Return a value as a table sorts it: every digit of a number."""
    return repr(value) if isinstance(value, float) else shown(value)


def shown_norm(norm: float | None) -> str:
    """Return a norm with three significant digits."""
    return "–" if norm is None else f"{norm:#.3g}".rstrip(".")


def _finite(value: float | None) -> float | None:
    # A model that diverged has a norm of NaN, for which JSON has no word.
    return value if value is not None and math.isfinite(value) else None


def _embedded(data: Any) -> str:
    """Return JSON that can stand in a script element: nothing in it can end the element or begin a comment."""
    # A NaN that slips through fails here, and not as a page whose scripts stop at it.
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: Iterable[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    # Styles may stand in the page: they can run nothing.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


@functools.cache
def static_text(name: str) -> str:
    """Return a file that pages load or hold."""
    return importlib.resources.files("crynux_async.report").joinpath("static", name).read_text(encoding="utf-8")


def require_templates() -> None:
    """Check that pages can be rendered.

    Raises:
        UsageError: jinja2 is missing.
    """
    environment()


@functools.cache
def environment() -> "jinja2.Environment":
    """Return what renders the templates.

    Raises:
        UsageError: jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UsageError("pages need jinja2: pip install 'crynux-async[report]'") from error
    # Strict: a misspelt name in a template is an error, and no gap in a page.
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crynux_async.report"),
        # Not select_autoescape(): it goes by the end of the name, and sees no HTML in "sweep.html.j2".
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.filters["exact"] = exact
    environment.filters["norm"] = shown_norm
    environment.filters["moment"] = story.shown_time
    environment.globals["counted"] = counted
    return environment
