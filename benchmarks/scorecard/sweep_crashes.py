"""Cases Q1 to Q5: processes that die in a sweep.

At random moments, alone, four at once, and under Optuna; then, alone and four at once, at every statement of its start:
from the opening of the session until all points are queued.
"""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from benchmarks.scorecard import warm
from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.submit_crashes import Scene, scene
from benchmarks.scorecard.sweep_child import FAILING, POINTS, TRIALS, study
from benchmarks.scorecard.warm import Program
from crynux_async.archive import verify_archive

_KILLS = 10
_ALL_WITH_SEEDS = 20
_LATEST = 1.5  # seconds after which a process is killed at the latest: an undisturbed sweep takes about so long


def one_killed(context: Context) -> str:
    """Q1: a sweep of 60 points whose process is killed and started again."""
    return asyncio.run(_killed(context, processes=1))


def four_killed(context: Context) -> str:
    """Q2: four processes run one sweep, and all of them are killed and started again."""
    return asyncio.run(_killed(context, processes=4))


async def _killed(context: Context, *, processes: int) -> str:
    rng = random.Random(processes)
    kills = unclear = 0
    for number in range(context.seeds):
        async with scene(context.folder / str(number)) as here:
            models = context.folder / str(number) / "models"
            moments = [[rng.uniform(0.0, _LATEST) for _ in range(processes)] for _ in range(_KILLS)]
            for round_of in moments:
                ended = await asyncio.gather(*(_run_killed(here, models, at) for at in round_of))
                kills += sum(ended)
                if not any(ended):
                    break  # all of them came to the end of the sweep
            said = await _run(here, models)
            unclear += _check(here, said)
            await _check_retry(here, models, said)
    return (
        f"{kills} kills of {processes} at once: no point was trained twice, every good task has its archive, {unclear} "
        f" of {POINTS * context.seeds} trials ended unconfirmed, retry sent the {len(FAILING)} that failed"
    )


def killed_at_its_start(context: Context) -> str:
    """Q4: a sweep whose process is killed at every statement of its start, and started again."""
    return asyncio.run(_killed_at_its_start(context, processes=1))


def four_killed_at_its_start(context: Context) -> str:
    """Q5: four processes start one sweep, and each is killed at another statement of its start."""
    return asyncio.run(_killed_at_its_start(context, processes=4))


async def _killed_at_its_start(context: Context, *, processes: int) -> str:
    """Die at every statement of a start, or with few seeds at some of them, each time with a ledger of its own."""
    async with scene(context.folder / "counted") as here:
        models = context.folder / "counted" / "models"
        out = (await warm.run(_program(here, models, "--die-at", "0"), env=here.env)).out
        total: int = json.loads(out.splitlines()[0])["statements"]
    moments = range(1, total + 1, max(1, _ALL_WITH_SEEDS // context.seeds))
    unclear = 0
    for at in moments:
        async with scene(context.folder / str(at)) as here:
            models = context.folder / str(at) / "models"
            # One behind the other, so that what one has begun is what the next one meets.
            dying = [_program(here, models, "--die-at", str(at + place)) for place in range(processes)]
            ended = await asyncio.gather(*(warm.run(program, env=here.env) for program in dying))
            alive = [each for each in ended if each.code != -signal.SIGKILL]
            # What another process has begun makes the start of the next one shorter, so that it may come to the end.
            assert len(alive) < processes, f"nobody died at statement {at} of {total}"
            assert all(each.code == 0 for each in alive), f"killed at {at}: {[each.err for each in alive]}"
            try:
                unclear += _check(here, await _run(here, models))
            except AssertionError as error:
                raise AssertionError(f"killed at statement {at} of {total}: {error}") from error
    return (
        f"{len(moments)} of {total} statements, {processes} at once: no point was trained twice, every good task has "
        f"its archive, {unclear} of {POINTS * len(moments)} trials ended unconfirmed"
    )


def study_killed(context: Context) -> str:
    """Q3: a study of 24 trials, 8 at once, whose process is killed and started again."""
    return asyncio.run(_study_killed(context))


async def _study_killed(context: Context) -> str:
    rng = random.Random(3)
    kills = unclear = 0
    for number in range(context.seeds):
        folder = context.folder / str(number)
        async with scene(folder) as here:
            for _ in range(_KILLS):
                kills += await _run_killed(here, folder / "models", rng.uniform(0.0, 2 * _LATEST), "--optuna")
            ended = await warm.run(_program(here, folder / "models", "--optuna"), env=here.env)
            assert ended.code == 0, ended.err
            unclear += _check_study(here, study(folder / "models"))
    return f"{kills} kills: no trial was trained twice or told FAIL, {unclear} of {TRIALS * context.seeds} stay RUNNING"


def _check_study(here: Scene, found: optuna.Study) -> int:
    """Check a finished study, and return how many trials have an unknown outcome."""
    made = _made(here)
    twice = [seed for seed, count in made.items() if count > 1]
    assert not twice, f"the trials {[seed - 1 for seed in twice]} were paid for twice"
    states = Counter(trial.state for trial in found.trials)
    complete, running = states[optuna.trial.TrialState.COMPLETE], states[optuna.trial.TrialState.RUNNING]
    assert complete + running == TRIALS, f"{dict(states)}"
    assert len(made) <= TRIALS <= len(made) + running, f"{len(made)} tasks and {dict(states)}"
    return running


def _program(here: Scene, models: Path, *options: str) -> Program:
    return Program(module="benchmarks.scorecard.sweep_child", arguments=[str(here.ledger), str(models), *options])


async def _run_killed(here: Scene, models: Path, seconds: float, *options: str) -> bool:
    """Run the sweep, kill its process after so many seconds, and say whether it still lived."""
    async with warm.forked(_program(here, models, *options), env=here.env) as child:
        child.go()
        ending = asyncio.create_task(child.ended())
        await asyncio.wait([ending], timeout=seconds)
        if ending.done():
            assert (await ending).code == 0, (await ending).err
            return False
        ending.cancel()
        return True


async def _run(here: Scene, models: Path, *options: str) -> dict[str, list[Any]]:
    ended = await warm.run(_program(here, models, *options), env=here.env)
    assert ended.code == 0, f"the sweep ended with {ended.code}: {ended.err}"
    said: dict[str, list[Any]] = json.loads(ended.out.splitlines()[-1])
    return said


def _made(here: Scene) -> Counter[int]:
    return Counter(entry.seed for entry in here.world.bridge.journal if entry.accepted)


def _check(here: Scene, said: dict[str, list[Any]]) -> int:
    """Check a finished sweep, and return how many trials are unconfirmed."""
    made = _made(here)
    twice = [seed for seed, count in made.items() if count > 1]
    assert not twice, f"the points with the seeds {twice} were paid for twice"
    assert sorted(said, key=int) == [str(seed) for seed in range(1, POINTS + 1)], "the table is not complete"
    states = Counter(state for state, _, _ in said.values())
    assert states["done"] + states["failed"] + states["unconfirmed"] == POINTS, f"{dict(states)}"
    # A kill between a POST and its stored answer leaves a task that may not be found again; nothing else may.
    assert len(made) <= POINTS <= len(made) + states["unconfirmed"], f"{len(made)} tasks and {dict(states)}"
    for seed, (state, path, task_id) in said.items():
        if state == "failed":
            assert int(seed) in FAILING, f"the point with the seed {seed} (task {task_id}) failed"
        if state == "done":
            verify_archive(path)
    return states["unconfirmed"]


async def _check_retry(here: Scene, models: Path, said: Mapping[str, Sequence[Any]]) -> None:
    failed = {int(seed) for seed, (state, _, _) in said.items() if state == "failed"}
    before = _made(here)
    await _run(here, models, "--retry")
    again = _made(here) - before
    assert again == Counter(failed), f"retry sent {dict(again)}, and {failed} had failed"


CASES = (
    Case(name="Q1", fault="a sweep killed at random moments", run=one_killed),
    Case(name="Q2", fault="one sweep by four processes, killed", run=four_killed),
    Case(name="Q3", fault="an Optuna study killed at random moments", run=study_killed),
    Case(name="Q4", fault="a sweep killed at each statement of its start", run=killed_at_its_start),
    Case(name="Q5", fault="its start by four processes, killed", run=four_killed_at_its_start),
)
