"""``Trial``: a point of a sweep with its job, and what its archive says."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.archive import LoraArchive
from crynux_async.downloads.names import check_template
from crynux_async.errors import CrynuxError, UsageError
from crynux_async.job import Job
from crynux_async.job_values import Cost
from crynux_async.report.values import TrialState
from crynux_async.states import GOOD, JobState
from crynux_async.sweeps.pictures import keep_images
from crynux_async.sweeps.points import Point
from crynux_async.sweeps.trial_states import state_of

if TYPE_CHECKING:
    from crynux_async.archive.health import Health
    from crynux_async.archive.norms import Norms

_log = logging.getLogger("crynux_async.sweeps.trial")


def absolute(folder: str | Path | None) -> Path | None:
    """Return a folder as it is at this moment: a sweep that goes on from another directory must find its models."""
    return None if folder is None else Path(folder).expanduser().absolute()


def is_template(_: object, __: object, template: str | None) -> None:
    """Refuse what names no archives: an attrs validator, so that a sweep hears of it before anything is sent."""
    if template is None:
        return
    if not isinstance(template, str):
        raise UsageError(f"name_template is the text of a file name, not {template!r:.40}", field="name_template")
    check_template(template)


def varied_fields(trials: Iterable["Trial | Point"]) -> list[str]:
    """Return the parameters that any of some trials or points changes, in the order in which they first came."""
    return list(dict.fromkeys(field for trial in trials for field in trial.params))


@attrs.frozen(kw_only=True)
class Reading:
    """What is read from an archive once, in a thread.

    Attributes:
        archive: The archive.
        health: What is wrong with it, held against what was asked.
        norms: How strongly it changes the UNet, or None where numpy is missing.
    """

    archive: LoraArchive
    health: "Health"
    norms: "Norms | None"


@attrs.frozen(kw_only=True)
class Known:
    """What is known of a trial that is over, so that it need not be read again.

    Attributes:
        state: Of its job.
        tries: How many tries that had had.
        cost: What its tasks cost.
        reading: What its archive says, or None.
        problem: What was wrong with the archive, or None.
    """

    state: JobState
    tries: int
    cost: Cost | None
    reading: Reading | None
    problem: Exception | None


@attrs.define(eq=False, repr=False, weakref_slot=False)
class Trial:
    """One point of a sweep, its job, and once it has ended what came of it.

    Attributes:
        point: What is trained.
        job: Its job.
        cost: What its tasks hold and have cost, or None before it has ended.
        objective: What it is ranked by, or None.
        problem: What went wrong after its task had ended well: a download, an archive, the objective; or None.
        is_stopped: Whether it waits unsent because the sweep was stopped.
    """

    point: Point
    job: Job
    cost: Cost | None = attrs.field(default=None, init=False)
    objective: float | None = attrs.field(default=None, init=False)
    problem: Exception | None = attrs.field(default=None, init=False)
    is_stopped: bool = attrs.field(default=False, init=False)
    _reading: Reading | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<Trial {self.point.number} {self.label!r} {self.state}>"

    @property
    def number(self) -> int:
        """Its point's place in the sweep, counted from 1; repeats share it."""
        return self.point.number

    @property
    def label(self) -> str:
        """What it changes, for people, as it was said when its job was queued."""
        return self.job.label or self.point.label

    @property
    def params(self) -> Mapping[str, Any]:
        """What it changes in the base."""
        return self.point.params

    def value_of(self, field: str) -> Any:
        """Return its value of a parameter that other trials change: the base's, where it does not change it."""
        return self.params[field] if field in self.params else getattr(self.point.config, field, None)

    @property
    def state(self) -> TrialState:
        """Where it is. One whose model could not be brought to disk has failed."""
        if self.problem is not None:
            return "failed"
        return state_of(self.job.state, is_set_aside=self.is_stopped or self.job.error is not None)

    @property
    def error(self) -> Exception | None:
        """Why it has no model (on disk), or None."""
        return self.problem or self.job.error

    @property
    def archive(self) -> LoraArchive | None:
        """Its archive, once that is on disk."""
        return self._reading.archive if self._reading else None

    @property
    def health(self) -> "Health | None":
        """What is wrong with its archive, held against what was asked, once that is on disk."""
        return self._reading.health if self._reading else None

    @property
    def norms(self) -> "Norms | None":
        """How strongly its LoRA changes the UNet, once that is on disk; needs numpy."""
        return self._reading.norms if self._reading else None

    @property
    def known(self) -> Known:
        """What is known of it now, for ``recall``."""
        job = self.job
        return Known(state=job.state, tries=job.tries, cost=self.cost, reading=self._reading, problem=self.problem)

    def recall(self, known: Known) -> None:
        """Enter what was known of it."""
        self.cost, self._reading, self.problem = known.cost, known.reading, known.problem


@attrs.frozen(kw_only=True)
class AtEnd:
    """What becomes of trials that have ended well.

    Attributes:
        folder: Where their archives are put; None for where each job's archive is wanted, if it is.
        file_name: The template of their names, or None for the service's usual one.
        objective: What they are ranked by, or None.
    """

    folder: Path | None = None
    file_name: str | None = None
    objective: Callable[[Trial], float] | None = None


async def conclude(trial: Trial, at_end: AtEnd) -> None:
    """Bring the model of a trial that ended well to disk, and enter what came of it.

    Never raises for what belongs to one trial: it stands in ``trial.problem``.
    """
    trial.problem = None
    with _problem_kept(trial):
        folder = at_end.folder or trial.job.folder
        if trial.job.state in GOOD and folder is not None:
            path = await trial.job.download(folder, name=at_end.file_name or trial.job.file_name)
            trial._reading = await asyncio.to_thread(_read, trial, path)
            await keep_images(trial.job)
        trial.cost = await trial.job.cost()
        if trial.job.state in GOOD and at_end.objective is not None:
            trial.objective = await _objective(trial, at_end.objective)


@contextmanager
def _problem_kept(trial: Trial) -> Iterator[None]:
    """Let what goes wrong with a trial in the block stand in ``trial.problem``, and end the block."""
    try:
        yield
    except CrynuxError as error:
        trial.problem = error
    except Exception as error:
        # A user's function may raise anything; the other trials have nothing to do with it.
        _log.exception("trial %d (%s)", trial.number, trial.label)
        trial.problem = error


async def _objective(trial: Trial, objective: Callable[[Trial], float]) -> float:
    value = float(await asyncio.to_thread(objective, trial))
    if not math.isfinite(value):
        raise UsageError(f"the objective of trial {trial.number} is {value}, which ranks nothing", field="objective")
    return value


async def remember(trial: Trial, *, read_archive: bool, objective: Callable[[Trial], float] | None = None) -> None:
    """Enter what is known of a trial of an earlier run: what it cost, and what its archive says where that is on disk.

    Never raises for an archive or an objective: what is wrong with it stands in ``trial.problem``.
    """
    trial.cost = await trial.job.cost()
    path = trial.job.path
    if path is None or not read_archive:
        return
    with _problem_kept(trial):
        trial._reading = await asyncio.to_thread(_read, trial, path)
        if objective is not None:
            trial.objective = await _objective(trial, objective)


def strength(trial: Trial) -> float:
    """Return how strongly a trial's LoRA changes the UNet: ||B A|| over all modules.

    Raises:
        UsageError: Its archive is not on disk, or numpy is missing.
    """
    if trial.norms is None:
        raise UsageError("the norm of a model needs its archive on disk (folder=) and numpy: 'crynux-async[archive]'")
    return trial.norms.total


def _read(trial: Trial, path: Path) -> Reading:
    archive = LoraArchive.open(path)
    try:
        norms = archive.norms()
    except UsageError:  # numpy is an extra
        norms = None
    return Reading(archive=archive, health=archive.health(trial.point.config), norms=norms)
