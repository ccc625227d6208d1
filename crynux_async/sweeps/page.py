"""The page of a sweep on disk: collected, rendered, and put in its place whole."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from crynux_async.files import new_file
from crynux_async.report import SweepView, render
from crynux_async.sweeps.trial import Trial
from crynux_async.sweeps.view import Pictures, pictures_of, service_pictures


@attrs.frozen(kw_only=True)
class PageChoice:
    """What a page shows besides the trials.

    Attributes:
        across: The parameter whose values stand side by side in the grid of pictures, or None to choose.
        down: The parameter whose values stand below each other, or None to choose.
    """

    across: str | None = None
    down: str | None = None


async def collect_pictures(trials: Sequence[Trial], source: Pictures | None) -> Mapping[Trial, Sequence[bytes]]:
    """Return the pictures of each trial's model that has any."""
    found = {}
    for trial in trials:
        if source is None:
            pictures = await service_pictures(trial)
        else:
            pictures = await asyncio.to_thread(pictures_of, trial, source)
        if pictures:
            found[trial] = pictures
    return found


async def write_page(path: Path, view: SweepView, choice: PageChoice) -> None:
    """Render a page and put it in its place: whoever reads it sees the old one or the new one, whole.

    Raises:
        UsageError: jinja2 is missing.
        OSError: It cannot be written.
    """
    text = await asyncio.to_thread(render, view, images_across=choice.across, images_down=choice.down)
    await asyncio.to_thread(_put, path, text.encode())


def _put(path: Path, data: bytes) -> None:
    with new_file(path, replace=True) as file:
        file.write(data)
