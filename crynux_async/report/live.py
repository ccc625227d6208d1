"""Watching pages: the board, a job, a sweep, rendered on the server and sent anew whenever something has changed.

A page is a frame around its ``main`` element. The frame loads a style sheet and a script of ours and nothing else; the
script listens to the page's stream and puts a new ``main`` in the place of the old one. Without a script the page is
whole, and stands still.
"""

import functools
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.money import to_cnx
from crynux_async.report import story
from crynux_async.report.board import SHOWN
from crynux_async.report.board_values import BoardView, JobView
from crynux_async.report.job_words import MARKS, TONES
from crynux_async.report.page import environment, heat_rows, picture_grid, plot_data, static_text
from crynux_async.report.units import duration
from crynux_async.report.values import SweepView
from crynux_async.states import JobState
from crynux_async.wording import counted

if TYPE_CHECKING:
    import jinja2

MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "page.css": "text/css",
        "live.css": "text/css",
        "live.js": "text/javascript",
        "sweep.js": "text/javascript",
        "echarts.min.js": "text/javascript",
        "icon.svg": "image/svg+xml",
    }
)
"""The files that pages load, and what they are."""


@attrs.frozen(kw_only=True)
class Frame:
    """What stands around a page.

    Attributes:
        base: The board's own address, without a slash at its end.
        stream: The address of the page's stream.
        name: What the board is called.
        title: What the page is called.
        here: Where the page is below the board, in words, or "".
        scripts: Further scripts that it loads, in order.
        now: When it was made.
    """

    base: str
    stream: str
    name: str
    title: str
    here: str = ""
    scripts: tuple[str, ...] = ()
    now: datetime


@attrs.frozen(kw_only=True)
class Rendered:
    """A page.

    Attributes:
        frame: What stands around it.
        main: What is inside its ``main`` element.
    """

    frame: Frame
    main: str

    @functools.cached_property
    def version(self) -> str:
        """A name for what it shows: another one where that has changed."""
        return hashlib.sha256(f"{self.frame.title}\n{self.main}".encode()).hexdigest()[:16]

    @property
    def html(self) -> str:
        """The whole page."""
        template = _environment().get_template("live.html.j2")
        facts = {"main": self.main, "version": self.version, "assets": assets_version()}
        return template.render(frame=self.frame, **facts)

    @property
    def message(self) -> str:
        """What a stream sends of it, as JSON."""
        facts = {
            "title": self.frame.title,
            "main": self.main,
            "now": self.frame.now.isoformat(),
            "assets": assets_version(),
        }
        return json.dumps(facts)


def render_board(view: BoardView, frame: Frame) -> Rendered:
    """Return the board."""
    return _rendered("board.html.j2", frame, view=view, shown=SHOWN, lead=board_lead(view))


def render_job(view: JobView, frame: Frame) -> Rendered:
    """Return the page of a job."""
    return _rendered("job.html.j2", frame, view=view)


def render_sweep(view: SweepView, frame: Frame) -> Rendered:
    """Return the page of a sweep: its report, which goes on."""
    grid, heat = picture_grid(view), heat_rows(view)
    return _rendered("sweep_main.html.j2", frame, view=view, story=story, grid=grid, heat=heat, data=plot_data(view))


def render_problem(status: int, detail: str, base: str) -> str:
    """Return the page that says why there is no other one."""
    return _environment().get_template("problem.html.j2").render(status=status, detail=detail, base=base)


def board_lead(view: BoardView) -> str:
    """Return the sentence under the heading of the board."""
    if not view.total:
        return "No job yet. The first one shows up here as soon as it is queued."
    counts = {
        "training": view.training,
        "stalled": view.count(JobState.STALLED),
        "waiting": view.queued,
        "at the service, not yet here": view.count(JobState.SUCCEEDED),
    }
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    said = ", ".join(parts) or "nothing under way"
    return f"{counted(view.total, 'job')}: {said}."


@functools.cache
def assets_version() -> str:
    """Return a name for the files that pages load: another one where any of them has changed."""
    return hashlib.sha256("".join(map(static_text, sorted(MEDIA_TYPES))).encode()).hexdigest()[:12]


def _rendered(name: str, frame: Frame, **values: Any) -> Rendered:
    return Rendered(frame=frame, main=_environment().get_template(name).render(frame=frame, live=True, **values))


@functools.cache
def _environment() -> "jinja2.Environment":
    ours = environment().overlay()
    ours.filters = {**environment().filters, "cnx": to_cnx, "duration": duration, "iso": datetime.isoformat}
    ours.globals = {**environment().globals, "marks": MARKS, "tones": TONES, "JobState": JobState}
    return ours


def static_file(name: str) -> bytes:
    """Return a file that pages load.

    Args:
        name: A key of ``MEDIA_TYPES``.
    """
    return importlib.resources.files("crynux_async.report").joinpath("static", name).read_bytes()
