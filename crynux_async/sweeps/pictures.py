"""Pictures of models: the service's validation images, kept beside the archives, or those that a user brings."""

import contextlib
import logging
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from crynux_async.errors import CrynuxError
from crynux_async.job import Job

if TYPE_CHECKING:
    from crynux_async.sweeps.trial import Trial

Pictures: TypeAlias = Path | Callable[["Trial"], Sequence[bytes]]
"""Where pictures of models come from: a folder of files named like the archives, or a function of a trial."""

_SUFFIXES = (".png", ".jpg", ".jpeg")

_log = logging.getLogger("crynux_async.sweeps.pictures")


async def keep_images(job: Job) -> None:
    """Wait until the validation images of a job are beside its archive; without any, its model is whole all the same.

    Why there are none is logged where they are fetched.
    """
    with contextlib.suppress(CrynuxError, OSError):
        await job.store_images()


async def service_images(job: Job) -> list[bytes]:
    """Return the validation images that the service has of a job, where it has any."""
    try:
        return await job.images()
    # A page without pictures is still right.
    except CrynuxError:
        return []


def pictures_beside(trials: Iterable["Trial"]) -> dict["Trial", list[bytes]]:
    """Return the pictures that lie beside the archives of trials; an archive that was moved has none."""
    by_folder: dict[Path, list[Trial]] = {}
    for trial in trials:
        if trial.job.path is not None:
            by_folder.setdefault(trial.job.path.parent, []).append(trial)
    found: dict[Trial, list[bytes]] = {}
    for folder, inside in by_folder.items():
        try:
            found |= pictures_in(folder, inside)
        except OSError as error:
            _log.warning("pictures in %s cannot be read: %s", folder, error)
    return found


def pictures_in(folder: Path, trials: Iterable["Trial"]) -> dict["Trial", list[bytes]]:
    """Return the pictures of models in a folder: files named like an archive, with more behind its name.

    Where the names of two archives begin alike, a picture belongs to the one whose name it has more of.

    Args:
        folder: The folder.
        trials: Whose models; those without an archive have no pictures.

    Raises:
        OSError: It cannot be read.
    """
    by_stem = {trial.job.path.stem: trial for trial in trials if trial.job.path is not None}
    found: dict[Trial, list[bytes]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in _SUFFIXES and (stem := _longest_stem(path.stem, by_stem)) is not None:
            found.setdefault(by_stem[stem], []).append(path.read_bytes())
    return found


def pictures_by(make: Callable[["Trial"], Sequence[bytes]], trial: "Trial") -> list[bytes]:
    """Return what a user's function makes of a trial; what it raises is logged, and costs the page one picture."""
    try:
        return list(make(trial))
    except Exception:
        _log.exception("pictures of trial %d (%s)", trial.number, trial.label)
        return []


def _longest_stem(name: str, stems: Container[str]) -> str | None:
    for end in range(len(name), 0, -1):
        # "cats-1" must not get the pictures of "cats-10".
        if (end == len(name) or not name[end].isalnum()) and name[:end] in stems:
            return name[:end]
    return None
