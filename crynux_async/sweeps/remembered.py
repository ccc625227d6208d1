"""A sweep as its ledger remembers it, where the script or file that described it is not at hand."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

import attrs

from crynux_async.errors import UsageError
from crynux_async.job import Job, record_of
from crynux_async.states import STAGES, Stage
from crynux_async.sweeps.notes import SCOPE, TAG, Ranking, objective_of, ranking_of
from crynux_async.sweeps.points import Point
from crynux_async.sweeps.table import Table, table_of
from crynux_async.sweeps.trial import Known, Trial, remember, strength
from crynux_async.sweeps.view import Subject
from crynux_async.training.config import FineTuneConfig

if TYPE_CHECKING:
    from crynux_async.session import Session


@attrs.frozen(kw_only=True)
class RememberedSweep:
    """A sweep without its definition.

    Attributes:
        name: Its name.
        base: Fields of the base that was asked, and values.
        trials: Every trial that was ever queued, in the order of its planning.
        ranking: What they were ranked by when the sweep last ran, or None.
    """

    name: str
    base: Mapping[str, Any]
    trials: tuple[Trial, ...]
    ranking: Ranking | None = None

    @property
    def subject(self) -> Subject:
        """What a page tells of it besides its trials."""
        if self.ranking is None:
            return Subject(name=self.name, base=self.base)
        name, minimize = self.ranking.objective_name, self.ranking.minimize
        return Subject(name=self.name, base=self.base, objective_name=name, minimize=minimize)

    @property
    def table(self) -> Table:
        """What is known of every trial, for CSV, JSON lines or pandas."""
        return table_of(self.trials, minimize=self.subject.minimize)

    @property
    def objective(self) -> Callable[[Trial], float] | None:
        """What trials that are sent again can be ranked by: no ledger keeps a user's function."""
        return strength if self.ranking is not None and self.ranking.is_strength else None


async def sweep_names(session: "Session") -> list[str]:
    """Return the names of all sweeps in the ledger, in the order in which they began."""
    jobs = await session.history()
    return list(dict.fromkeys(name for job in jobs if (name := record_of(job).filing.tags.get(TAG))))


async def recall(
    session: "Session",
    name: str,
    *,
    read_archives: bool = True,
    tenant: str | None = None,
    known: MutableMapping[str, Known] | None = None,
) -> RememberedSweep:
    """Return what the ledger remembers of a sweep.

    Args:
        session: On the ledger; open.
        name: The sweep's name.
        read_archives: Whether to read the archives that are on disk, which takes about 50 ms for each.
        tenant: Whose jobs; None for everybody's. What the ledger has under the sweep's name alone is nobody's then, and
            is left out: the first job stands for its base, and nothing is ranked.
        known: What earlier calls have found out about jobs that are over; what this one finds is put in.

    Raises:
        UsageError: The ledger knows no such sweep.
        LedgerError: The ledger cannot be read.
    """
    # A task that was only attached has none: nobody here knows what it trains.
    jobs = [job for job in await session.history(tags={TAG: name}, tenant=tenant) if job.config is not None]
    if not jobs:
        others = ", ".join(map(repr, await sweep_names(session))) or "none"
        raise UsageError(f"this ledger has no sweep {name!r} at {session.service}; it has {others}", field="name")
    base = _first_config(jobs) if tenant is not None else await _base_of(name, jobs, session)
    trials = [Trial(point, job) for point, job in zip(points_of(name, base, jobs), jobs, strict=True)]
    for trial in trials:
        await _remember(trial, known if known is not None else {}, read_archive=read_archives)
    ranking = await ranking_of(session.ledger, name) if tenant is None else None
    if ranking is not None:
        for trial in trials:
            trial.objective = await objective_of(session.ledger, trial.job.job_id)
    return RememberedSweep(name=name, base=base, trials=tuple(trials), ranking=ranking)


async def _base_of(name: str, jobs: Iterable[Job], session: "Session") -> Mapping[str, Any]:
    """Return the base that was asked; an Optuna study has none, and its first trial stands for it."""
    note = await session.ledger.note(SCOPE, name)
    if note is not None:
        base: Mapping[str, Any] = note["base"]
        return base
    return _first_config(jobs)


def _first_config(jobs: Iterable[Job]) -> Mapping[str, Any]:
    return next(job.config.to_dict() for job in jobs if job.config is not None)


async def _remember(trial: Trial, known: MutableMapping[str, Known], *, read_archive: bool) -> None:
    """Enter what is known of a trial; of one that is over nothing changes any more but by another try."""
    found = known.get(trial.job.job_id)
    if found is not None and found.tries == trial.job.tries and found.state is trial.job.state:
        trial.recall(found)
        return
    await remember(trial, read_archive=read_archive)
    if STAGES[trial.job.state] is Stage.OVER:
        known[trial.job.job_id] = trial.known


async def known_trials(
    name: str, points: Iterable[Point], session: "Session", *, objective: Callable[[Trial], float] | None
) -> list[Trial]:
    """Return the trials of those points that the ledger has jobs of, with what came of them.

    Args:
        name: The sweep's name.
        points: Its points, in order.
        session: On the ledger; open.
        objective: What they are ranked by, or None.

    Raises:
        LedgerError: The ledger cannot be read.
    """
    # By their keys: a user may have filed other jobs under the same group.
    jobs = {job.idempotency_key: job for job in await session.history(group=name)}
    trials = [Trial(point, jobs[point.key]) for point in points if point.key in jobs]
    for trial in trials:
        await remember(trial, read_archive=True, objective=objective)
    return trials


def points_of(name: str, base: Mapping[str, Any], jobs: Iterable[Job]) -> list[Point]:
    """Return the points that a sweep's jobs were made for, numbered in the order in which they first came.

    What a point was given is not stored: its parameters are all fields that any of the points has changed.
    """
    configs = [(job, job.config) for job in jobs if job.config is not None]
    varied = list(dict.fromkeys(field for _, config in configs for field in changes(base, config)))
    numbers: dict[str, int] = {}
    points = []
    for job, config in configs:
        asked = config.to_dict()
        key = job.idempotency_key or ""
        # An Optuna trial's key has another form, and every one of them is a point of its own.
        repeat, _, digest = key.removeprefix(f"sweep:{name}:").partition(":")
        points.append(
            Point(
                number=numbers.setdefault(digest, len(numbers) + 1),
                repeat=int(repeat) if repeat.isdecimal() else 1,
                params={field: asked[field] for field in varied},
                config=config,
                key=key,
            )
        )
    return points


def changes(base: Mapping[str, Any], config: FineTuneConfig) -> dict[str, Any]:
    """Return the fields in which a config differs from a base; a seed that the base does not give is no difference."""
    return {field: value for field, value in config.to_dict().items() if field in base and base[field] != value}
