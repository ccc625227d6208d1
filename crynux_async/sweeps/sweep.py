"""``Sweep``: a named set of points, in Python or from a file, and what can be done with it."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import attrs

from crynux_async.errors import UsageError
from crynux_async.money import wei_of
from crynux_async.supervision.filing import filed
from crynux_async.sweeps import definition, preview, running
from crynux_async.sweeps.notes import Ranking
from crynux_async.sweeps.page import Report, ReportWriter
from crynux_async.sweeps.pictures import Pictures
from crynux_async.sweeps.points import Derive, Points, plan
from crynux_async.sweeps.remembered import known_trials
from crynux_async.sweeps.spaces import Params
from crynux_async.sweeps.trial import AtEnd, Trial, absolute, is_template, strength, varied_fields
from crynux_async.sweeps.view import Subject
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.service import BRIDGE_MAPPING, ValueMapping

if TYPE_CHECKING:
    from crynux_async.session import Session

Direction: TypeAlias = Literal["minimize", "maximize"]

# It stands in idempotency keys, tags and names of files, and is printed.
_MOST_NAME_CHARS = 100
# Stored, so that a later version that asks for more than the base can tell what it reads.
_DEFINITION_VERSION = 1


def _check_name(_: Any, __: Any, name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _MOST_NAME_CHARS:
        raise UsageError(
            f"a sweep's name is printable text of 1 to {_MOST_NAME_CHARS} characters, not {name!r:.60}", field="name"
        )


def _check_repeats(_: Any, __: Any, repeats: int) -> None:
    if type(repeats) is not int or repeats < 1:
        raise UsageError(f"repeats is a whole number above 0, not {repeats!r}", field="repeats")


def _check_direction(_: Any, __: Any, direction: Any) -> None:
    if direction not in ("minimize", "maximize", None):
        raise UsageError(f"direction is 'minimize' or 'maximize', not {direction!r:.40}", field="direction")


def _check_points(_: Any, __: Any, points: tuple[Any, ...]) -> None:
    wrong = next((point for point in points if not isinstance(point, Mapping)), None)
    if wrong is not None:
        raise UsageError(f"a point is a dict of fields, such as {{'rank': 4}}, not {wrong!r:.40}", field="points")


def _check_tags(_: Any, __: Any, tags: Mapping[str, str]) -> None:
    filed(tags=tags)


def _check_budget(_: Any, __: Any, budget_cnx: float | None) -> None:
    if budget_cnx is not None:
        wei_of(budget_cnx, "budget_cnx")


def _kept(points: Iterable[Params]) -> tuple[Params, ...]:
    # A generator would be empty the second time: a preview plans the points, and so does the run after it.
    return tuple(points)


@attrs.frozen
class Sweep:
    """A named set of points, each of which is trained once (or ``repeats`` times), whatever happens in between.

    ::

        sweep = Sweep("cats", base, points=grid(rank=[4, 8, 16], learning_rate=[1e-4, 5e-5]), folder="models/cats")
        async with Session(ledger="jobs.db") as session, sweep.run(session) as running:
            async for trial in running:
                print(trial.label, trial.state, trial.archive)

    Started again, after a crash or on another host of the same ledger, it is the same sweep: what is done is done, what
    runs is followed, and only what is missing is sent.

    Args:
        name: What it is called in the ledger: the same name is the same sweep, in every process.
        base: What is trained where a point changes nothing.
        points: What each point changes, in the order in which they are sent.
        folder: Where archives are put, or None to leave them at the service.
        name_template: File name of an archive, as in ``Job.download``.
        budget_cnx: What all of it may hold and spend, in CNX, in all processes together, or None for the session's
            budget. Where the service tells no price, ``Session(price=...)`` must.
        repeats: How often each point is trained, >= 1.
        derive: Makes further fields of a point, or None: a function of all fields that the point has so far, the base's
            with its own over them (a seed that nobody gave is None), that returns those to add or to change, such as
            ``lambda p: {"lr_warmup_steps": p["max_train_steps"] // 20}``. The same point must give the same.
        tags: Free names and values that every job gets.
        objective: What trials are ranked by: a plain function of a finished trial, called in a thread. None for the
            norm of the model, ||B A||, where a direction is given, and for no ranking where none is.
        direction: Whether a smaller or a larger objective is better; None for "minimize" beside an objective.

    Raises:
        UsageError: One of them cannot be kept or means nothing.
    """

    name: str = attrs.field(validator=_check_name)
    base: FineTuneConfig
    points: Sequence[Params] = attrs.field(default=({},), converter=_kept, validator=_check_points, kw_only=True)
    folder: Path | None = attrs.field(default=None, converter=absolute, kw_only=True)
    name_template: str | None = attrs.field(default=None, validator=is_template, kw_only=True)
    budget_cnx: float | None = attrs.field(default=None, validator=_check_budget, kw_only=True)
    repeats: int = attrs.field(default=1, validator=_check_repeats, kw_only=True)
    derive: Derive | None = attrs.field(default=None, kw_only=True)
    tags: Mapping[str, str] = attrs.field(factory=dict, validator=_check_tags, kw_only=True)
    objective: Callable[[Trial], float] | None = attrs.field(default=None, kw_only=True)
    direction: Direction | None = attrs.field(default=None, validator=_check_direction, kw_only=True)

    def plan(self, mapping: ValueMapping = BRIDGE_MAPPING) -> Points:
        """Return every point, with what is wrong with some.

        Args:
            mapping: What the service cannot be sent, which decides what trains the same; by default a bridge's.
        """
        return plan(self.name, self.base, self.points, repeats=self.repeats, derive=self.derive, mapping=mapping)

    def asked(self) -> dict[str, Any]:
        """Return what the sweep's name stands for in a ledger: the base that was asked, as JSON values.

        Points are not part of it, so that more can be added. Neither is a seed that nobody gave.
        """
        base = self.base.to_dict()
        if self.base.seed_was_drawn:
            del base["seed"]
        return {"version": _DEFINITION_VERSION, "base": base}

    async def preview(self, session: "Session") -> "preview.Preview":
        """Return what running it would do, before anything is sent.

        Args:
            session: Where it would run; open.

        Raises:
            LedgerError: The ledger cannot be read.
            UsageError: The session is not open.
        """
        return await preview.preview(self, session)

    def run(
        self,
        session: "Session",
        *,
        force: bool = False,
        on_failure: "running.OnFailure" = "keep",
        on_trial: "running.OnTrial | None" = None,
        report: Report | str | Path | None = None,
    ) -> "running.SweepRun":
        """Return a context that sends what is missing, and yields trials in the order of their ends.

        Leaving it early stops nothing: the jobs go on in the session, and the next ``run`` finds them.

        Args:
            session: Where it runs; open.
            force: Send points even if advice says that they cannot work.
            on_failure: "keep" a failed trial as it is, ``RetryAtMost(n)``, or ``StopAfter(n)``.
            on_trial: Called with each finished trial, before it is yielded; a function or a coroutine function. What it
                raises is logged and disturbs nothing.
            report: A page to keep up to date while it runs: its file, or a ``Report`` that says more.

        Raises:
            UsageError: ``on_failure`` is none of these.
        """
        page = report if isinstance(report, Report | None) else Report(report)
        return running.SweepRun(
            self.subject,
            session,
            # Only while the context is entered: what it raises belongs to the block's beginning.
            partial(running.begin, self, session, force=force, report=page),
            at_end=AtEnd(folder=self.folder, file_name=self.name_template, objective=self._ranked_by),
            on_failure=on_failure,
            on_trial=on_trial,
            report=page,
        )

    async def report(
        self,
        session: "Session",
        path: str | Path,
        *,
        images: "str | Pictures | None" = None,
        across: str | None = None,
        down: str | None = None,
    ) -> Path:
        """Write a page about what the ledger knows of its trials now, and return the file; sends nothing.

        Args:
            session: On the ledger; open.
            path: As of ``Report``, and so the others.
            images: Where pictures of the models come from.
            across: The parameter whose values stand side by side in the grid of pictures.
            down: The parameter whose values stand below each other.

        Raises:
            UsageError: jinja2 is missing, or something given cannot be used.
            LedgerError: The ledger cannot be read.
            OSError: It cannot be written.
        """
        report = Report(path, images=images, across=across, down=down)
        points = await asyncio.to_thread(self.plan)
        report.check_parameters(varied_fields(points.good))
        trials = await known_trials(self.name, points.good, session, objective=self._ranked_by)
        return await ReportWriter(report, self.subject, session).write(trials)

    @property
    def subject(self) -> Subject:
        """What a page tells of it besides its trials."""
        ranking = self.ranking
        return Subject(
            name=self.name,
            base=self.asked()["base"],
            objective_name="" if ranking is None else ranking.objective_name,
            minimize=self.direction != "maximize",
            budget_cnx=self.budget_cnx,
        )

    @property
    def ranking(self) -> Ranking | None:
        """What its trials are ranked by, as a ledger keeps it; None where by nothing."""
        objective = self._ranked_by
        if objective is None:
            return None
        minimize = self.direction != "maximize"
        return Ranking(objective_name=_name_of(objective), minimize=minimize, is_strength=objective is strength)

    @property
    def _ranked_by(self) -> Callable[[Trial], float] | None:
        return self.objective or (strength if self.direction else None)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Return the sweep that a TOML file describes.

        ::

            name = "cats"
            folder = "models/cats"
            repeats = 1
            budget_cnx = 480

            [base]
            model_name = "crynux-ai/stable-diffusion-v1-5"
            dataset_url = "https://example.com/cats.zip"
            max_train_steps = 200

            [[grid]]
            rank = [4, 8, 16]
            learning_rate = [1e-4, 5e-5]

            [[random]]
            n = 20
            seed = 1
            method = "sobol"
            learning_rate = { log_uniform = [1e-5, 1e-3] }
            rank = { choice = [4, 8, 16] }

            [[listed]]
            file = "points.csv"

        Paths are taken from the file's own folder.

        Raises:
            ConfigError: It cannot be read, or describes no sweep; lists everything that is wrong with the base.
        """
        return cls(**definition.read(path))


def _name_of(objective: Callable[[Trial], float]) -> str:
    name = getattr(objective, "__name__", "")
    return name if name.isidentifier() else "objective"  # a lambda has no name for people
