"""``OptunaSweep``: Optuna says what to try next, and each of its trials is one job, through any crash.

Theory of operation. A trial is bound to its job before anything is sent: its config and its idempotency key stand in
the trial's user attributes, and the key is made of the study's name and the trial's number. So whatever is killed, the
next run goes on with every RUNNING trial: one without a binding was asked and never sent (its parameters are in the
storage, and are asked for again); one with a binding has a job, or gets the one that it would have had. A trial is told
FAIL only for what ended badly, and for what can never be sent; where the outcome of its create is not known it stays
RUNNING.

No thread waits for a trial: what touches the storage runs in one thread of its own, one call after another, because
that is what every storage bears.
"""

import asyncio
import json
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import attrs

from crynux_async.errors import ConfigError, CrynuxError, Problem, SubmissionUnknownError, UsageError, only_error
from crynux_async.job import Job, record_of
from crynux_async.money import to_cnx
from crynux_async.secret import mask_text
from crynux_async.states import GOOD, JobState
from crynux_async.sweeps.notes import TAG, Ranking, enter_objective, enter_ranking
from crynux_async.sweeps.pictures import pictures_beside, service_images
from crynux_async.sweeps.points import Point, derived_seed
from crynux_async.sweeps.running import OnTrial, call_back
from crynux_async.sweeps.trial import AtEnd, Trial, absolute, conclude, is_template
from crynux_async.training.config import FineTuneConfig

if TYPE_CHECKING:
    import optuna

    from crynux_async.session import Session

BadEnd: TypeAlias = Literal["fail", "prune"]
"""What a trial is told whose training ended badly."""

_KEY, _CONFIG, _ERROR = "crynux_key", "crynux_config", "error"
_T = TypeVar("_T")

_log = logging.getLogger("crynux_async.sweeps.optuna")


def _check_retries(_: object, __: object, retries: object) -> None:
    if type(retries) is not int or retries < 0:
        raise UsageError(f"retries is a whole number, 0 or above, not {retries!r:.40}", field="retries")


@attrs.frozen
class OptunaSweep:
    """A study whose trials are jobs.

    ::

        study = optuna.create_study(study_name="cats", storage="sqlite:///cats.db", load_if_exists=True)
        sweep = OptunaSweep(study, config_of, lambda trial: trial.norms.total, folder="models/cats")
        async with Session(ledger="jobs.db") as session:
            await sweep.optimize(session, n_trials=24, n_jobs=8)

    Any sampler and any storage will do; a storage that outlives the process is what lets a study go on. Samplers should
    reckon with trials that run (``TPESampler`` does by itself).

    Args:
        study: Has a name; the same name is the same sweep.
        config_of: Makes the config of an ``optuna.Trial`` by its ``suggest_`` methods; called in a thread, and again
            after a crash: the same trial must give the same config. ``optuna.TrialPruned`` says that there is nothing
            to train: the trial is told as pruned, and nothing is sent. Whatever else it raises ends the run, as with
            Optuna: the trial is told as failed, with the words in its user attribute "error".
        objective: Returns what Optuna is told, from a finished trial; called in a thread.
        folder: Where archives are put, or None to leave them at the service.
        name_template: File name of an archive, as in ``Job.download``.
        on_bad_end: Whether a trial whose training ended badly is told to Optuna as failed or as pruned.
        retries: How often it is sent again before that, >= 0.
        artifacts: An ``optuna.artifacts`` store for validation images, where the service hands them out; or None.

    Raises:
        UsageError: One of them means nothing.
    """

    study: "optuna.Study"
    config_of: "Callable[[optuna.Trial], FineTuneConfig]"
    objective: Callable[[Trial], float | Sequence[float]]
    folder: Path | None = attrs.field(default=None, converter=absolute)
    name_template: str | None = attrs.field(default=None, validator=is_template)
    on_bad_end: BadEnd = attrs.field(default="fail", validator=attrs.validators.in_(("fail", "prune")))
    retries: int = attrs.field(default=0, validator=_check_retries)
    artifacts: Any = None

    async def optimize(
        self, session: "Session", *, n_trials: int, n_jobs: int = 8, on_trial: OnTrial | None = None
    ) -> list[Trial]:
        """Go on until the study has so many trials, and return those that were finished here, in order of their ends.

        Args:
            session: Where the jobs run; open.
            n_trials: How many trials the study has in the end, those of earlier and of other processes included.
            n_jobs: How many run at once, >= 1.
            on_trial: Called with each finished trial; a function or a coroutine function.

        Raises:
            ConfigError: What ``config_of`` made is no config, or cannot work: its trial is told as failed. Trials that
                run stay RUNNING, and the next call goes on with them.
            Exception: Whatever else ``config_of`` raised; likewise.
            LedgerError: A job could not be stored; its trial stays RUNNING, and the next call goes on with it.
            AuthError, QuotaError: The credential was refused; trials stay RUNNING.
            BudgetExceededError: A job is more than the session's budget has left; its trial stays RUNNING.
            UsageError: A number means nothing, or the session was closed.
        """
        for name, number in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if type(number) is not int or number < 1:
                raise UsageError(f"{name} is a whole number above 0, not {number!r:.40}", field=name)
        with ThreadPoolExecutor(1, thread_name_prefix="optuna") as storage:
            run = _Run(self, session, n_trials, on_trial, storage)
            return await run.all(n_jobs)


@attrs.define(eq=False)
class _Run:
    """One call of ``optimize``."""

    _sweep: OptunaSweep
    _session: "Session"
    _n_trials: int
    _on_trial: OnTrial | None
    _storage: ThreadPoolExecutor
    _left_over: "list[optuna.Trial]" = attrs.field(factory=list, init=False)
    _finished: list[Trial] = attrs.field(factory=list, init=False)
    _looking: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    async def all(self, n_jobs: int) -> list[Trial]:
        # First, so that trials of a process that was killed are ended before new ones are asked for.
        self._left_over = await self._stored(self._running)
        await self._enter_ranking()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(n_jobs):
                    group.create_task(self._work())
        except* Exception as errors:
            raise only_error(errors) from None
        return self._finished

    async def _enter_ranking(self) -> None:
        """Let whoever sees the study as a sweep rank it as Optuna does; several directions rank nothing."""
        directions = await self._stored(lambda: self._sweep.study.directions)
        if len(directions) == 1:
            minimize = directions[0].name == "MINIMIZE"
            ranking = Ranking(objective_name="objective", minimize=minimize, is_strength=False)
            await enter_ranking(self._session.ledger, self._sweep.study.study_name, ranking)

    async def _work(self) -> None:
        while (bound := await self._stored(self._next)) is not None:
            await self._carry_out(*bound)

    def _running(self) -> "list[optuna.Trial]":
        import optuna

        # Trials of another process that lives are among them: both wait for the same jobs, and the first one tells.
        frozen = self._sweep.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        # Optuna has no public way to go on with a trial that runs.
        return [optuna.Trial(self._sweep.study, one._trial_id) for one in frozen]

    def _next(self) -> "tuple[optuna.Trial, Point] | None":
        """Return the next trial with what is trained for it, or None where the study has enough of them."""
        # Asked and bound in one go: a process that starts meanwhile takes a trial that is not bound for a left-over.
        while (asked := self._asked()) is not None:
            point = self._bound(asked)
            if point is not None:
                return asked, point
        return None

    def _asked(self) -> "optuna.Trial | None":
        if self._left_over:
            return self._left_over.pop(0)
        # Those that enqueue_trial() has made wait to be asked for: they are the first that ask() returns.
        known = self._sweep.study.get_trials(deepcopy=False)
        begun = sum(trial.state.name != "WAITING" for trial in known)
        return self._sweep.study.ask() if begun < self._n_trials else None

    async def _carry_out(self, asked: "optuna.Trial", point: Point) -> None:
        try:
            job = await self._ended(await self._job_of(point))
        except ConfigError as error:
            await self._stored(partial(self._refuse, asked, error))
            raise
        except SubmissionUnknownError as error:
            _log.warning("trial %d stays RUNNING: %s", asked.number, error)
            return
        trial = Trial(point, job)
        sweep = self._sweep
        # Without the objective, which may be several numbers here.
        await conclude(trial, AtEnd(folder=sweep.folder, file_name=sweep.name_template))
        value = await self._value(trial)
        # Optuna takes NaN and fails the trial; it ranks nothing, and is no JSON.
        if isinstance(value, int | float) and math.isfinite(value):
            trial.objective = float(value)
            # Before it is told: a trial that was told is never looked at again.
            await enter_objective(self._session.ledger, job.job_id, trial.objective)
        # Told before its pictures are stored: where that fails, what was paid for counts all the same.
        await self._stored(partial(self._tell, asked, trial, value))
        await self._keep_images(asked, trial)
        self._finished.append(trial)
        await call_back(self._on_trial, trial)

    def _bound(self, asked: "optuna.Trial") -> Point | None:
        """Bind a trial and return what is trained for it; None where that is nothing, or another process has ended it.

        Raises:
            Exception: What ``config_of`` has raised; the trial is told.
        """
        import optuna

        found = self._found(asked)
        if found.state.is_finished():
            return None
        if _KEY not in found.user_attrs:
            try:
                config = self._config_of(asked)
            except optuna.TrialPruned:  # of the user's own, as any objective of Optuna's may raise it
                self._sweep.study.tell(asked, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)
                return None
            except Exception as error:
                self._refuse(asked, error)
                raise
            self._bind(asked, config)
            found = self._found(asked)
        return Point(
            number=found.number + 1,
            repeat=1,
            params=dict(found.params),
            config=FineTuneConfig.from_dict(json.loads(found.user_attrs[_CONFIG])),
            key=found.user_attrs[_KEY],
        )

    def _config_of(self, asked: "optuna.Trial") -> FineTuneConfig:
        config: Any = self._sweep.config_of(asked)
        if isinstance(config, FineTuneConfig):
            return config
        message = f"returned {config!r:.40} for trial {asked.number}, not a FineTuneConfig"
        raise ConfigError([Problem(field="config_of", message=message)])

    def _found(self, asked: "optuna.Trial") -> "optuna.trial.FrozenTrial":
        """Return a trial as the storage has it now: what Optuna's own says of it is as old as it is itself."""
        return self._sweep.study.get_trials(deepcopy=False)[asked.number]

    def _bind(self, asked: "optuna.Trial", config: FineTuneConfig) -> None:
        """Store what is trained for a trial and under which key."""
        study = self._sweep.study.study_name
        if config.seed_was_drawn:  # the same for all, so that they can be compared, and again after a crash
            config = config.evolve(seed=derived_seed(study, 1))
        asked.set_user_attr(_CONFIG, json.dumps(config.to_dict()))
        # The key last: a trial that has one has its config, too, wherever the process was killed.
        asked.set_user_attr(_KEY, f"optuna:{study}:{asked.number}")

    def _refuse(self, asked: "optuna.Trial", error: Exception) -> None:
        """Tell a trial for which nothing can be sent as failed, with the words of an error."""
        import optuna

        if not self._found(asked).state.is_finished():
            asked.set_user_attr(_ERROR, mask_text(f"{type(error).__name__}: {error}"))
            self._sweep.study.tell(asked, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)

    async def _job_of(self, point: Point) -> Job:
        try:
            return await self._queued(point)
        except SubmissionUnknownError:  # of an earlier process: it is looked for, as one that is lost here
            job = await self._session.find(idempotency_key=point.key)
            if job is None:
                raise
            return job
        except ConfigError:
            # A later version may judge its config otherwise: the job that a trial has is followed all the same.
            if await self._session.find(idempotency_key=point.key) is None:
                raise
            return await self._queued(point, force=True)

    async def _queued(self, point: Point, *, force: bool = False) -> Job:
        name = self._sweep.study.study_name
        return await self._session.enqueue(
            point.config,
            idempotency_key=point.key,
            force=force,
            label=point.label,
            group=name,
            tags={TAG: name},
            folder=self._sweep.folder,
            file_name=self._sweep.name_template,
        )

    async def _ended(self, job: Job) -> Job:
        """Wait until a job has ended, sending it again as often as is wished.

        Raises:
            SubmissionUnknownError: It was sent, and nobody can tell what became of it.
            CrynuxError: It is left unsent; why.
        """
        while True:
            await self._session.wait_all([job])
            if job.state in (JobState.UNCONFIRMED, JobState.PLANNED):
                async with self._looking:  # whoever looks for lost creates sends all that were never made
                    if job.state is JobState.UNCONFIRMED:
                        await self._look_for(job)
                if record_of(job).is_set_aside:
                    await job.submitted()  # raises, but where it was sent again meanwhile
                continue
            is_failure = job.state not in GOOD and job.state is not JobState.ABANDONED
            if not is_failure or record_of(job).tries > self._sweep.retries:
                return job
            await job.retry()

    async def _look_for(self, job: Job) -> None:
        # All lost creates are looked for, so also those of trials that nobody waits for here yet.
        found = [each.job for each in await self._session.reconcile() if each.job is not None]
        for lost in (job, *(one for one in found if one.group == self._sweep.study.study_name)):
            if lost.state is JobState.PLANNED:  # certainly not created: sending it again is safe
                await lost.retry()
        if job.state is JobState.UNCONFIRMED:
            raise SubmissionUnknownError(f"the outcome of {job!r} is not known", job_id=job.job_id)

    async def _value(self, trial: Trial) -> float | Sequence[float] | None:
        """Return what Optuna is told of a trial, or None where it ended badly."""
        if trial.state != "done":
            return None
        try:
            return await asyncio.to_thread(self._sweep.objective, trial)
        except Exception as error:
            # A user's function may raise anything; the other trials have nothing to do with it.
            _log.exception("the objective of trial %d", trial.number - 1)
            trial.problem = error if self._sweep.folder is not None else _without_archive(error)
            return None

    def _tell(self, asked: "optuna.Trial", trial: Trial, value: float | Sequence[float] | None) -> None:
        import optuna

        for name, fact in _facts(trial).items():
            asked.set_user_attr(name, fact)
        if value is not None:
            # Another process that waits for the same job may have told it meanwhile.
            self._sweep.study.tell(asked, value, skip_if_finished=True)
            return
        states = {"fail": optuna.trial.TrialState.FAIL, "prune": optuna.trial.TrialState.PRUNED}
        self._sweep.study.tell(asked, state=states[self._sweep.on_bad_end], skip_if_finished=True)

    async def _keep_images(self, asked: "optuna.Trial", trial: Trial) -> None:
        if self._sweep.artifacts is not None and trial.job.state in GOOD:
            beside = await asyncio.to_thread(pictures_beside, [trial])
            images = beside.get(trial) or await service_images(trial.job)
            await self._stored(partial(self._upload, asked, images))

    def _upload(self, asked: "optuna.Trial", images: Sequence[bytes]) -> None:
        import optuna

        # In a folder that goes by itself: the store keeps a copy of its own.
        with tempfile.TemporaryDirectory() as folder:
            for number, image in enumerate(images):
                path = Path(folder, f"validation-{number}.png")
                path.write_bytes(image)
                optuna.artifacts.upload_artifact(
                    artifact_store=self._sweep.artifacts, file_path=str(path), study_or_trial=asked
                )

    async def _stored(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._storage, call)


def _without_archive(error: Exception) -> UsageError:
    """Return what is said of an objective that failed where models are left at the service."""
    said = UsageError(
        f"the objective failed ({error!r}), and without folder= no archive is on disk: archive, health and norms of a "
        "trial are None then; give OptunaSweep a folder",
        field="folder",
    )
    said.__cause__ = error
    return said


def _facts(trial: Trial) -> dict[str, Any]:
    """Return what stands beside a trial in Optuna's dashboard."""
    job = trial.job
    facts = {
        "job_id": job.job_id,
        "task_id": job.task_id,
        "state": str(job.state),
        "cost_cnx": to_cnx(trial.cost.spent) if trial.cost and trial.cost.is_complete else None,
        "archive": str(job.path) if job.path else None,
        "health": str(trial.health) if trial.health else None,
        _ERROR: str(trial.error) if isinstance(trial.error, CrynuxError) else None,
        "reason": job.reason,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}
