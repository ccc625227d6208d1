"""Cases S1, S6, S7 and S9: processes that die, disks that fail, and two processes on one ledger, while jobs are sent.

Each scenario has a bridge and a ledger of its own: a child process submits, something happens to it, ``crynux-async
resume`` runs on what is left, and then nothing may be lost.
"""

import asyncio
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import attrs

from benchmarks.scorecard import warm
from benchmarks.scorecard.accounting import JobClass, Remembered, check_nothing_lost, remember_file
from benchmarks.scorecard.case import Context
from benchmarks.scorecard.processes import (
    Ended,
    count_syscalls,
    kill_points,
    on_tmpfs,
    require_strace,
    require_tool,
    run,
    started,
    trace,
)
from benchmarks.scorecard.tasks import environment
from benchmarks.scorecard.warm import Program
from benchmarks.scorecard.worlds import World, creates
from crynux_async.cli.exits import Exit
from crynux_async.emulator import Emulator
from crynux_async.states import JobState

T = TypeVar("T")
Work: TypeAlias = Callable[[], Coroutine[Any, Any, T]]
Killed: TypeAlias = tuple[bool, Counter[JobClass]]

AT_ONCE = 2
RANDOM_KILLS = 15
ALL_SEEDS = 20
LEASE = 3.0

FILE_CALLS = ("pwrite64", "fdatasync", "fsync", "unlink", "ftruncate")
"""Where a resume is killed: at what changes the ledger."""

MONEY_CALLS = ("write", "pwrite64", "fdatasync", "fsync", "rename", "unlink", "ftruncate", "sendto", "recvfrom")
"""Where a submission is killed. SQLite writes with ``pwrite64`` and renames nothing; it deletes its journal instead."""

_RATE_LIMIT = 60_000
_INSTANT = 1e9


@attrs.frozen(kw_only=True)
class Scene:
    """A bridge for one scenario, and the place of its ledger.

    Attributes:
        world: The bridge and its key.
        ledger: The ledger's file, which may not be there.
    """

    world: World
    ledger: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of a child process."""
        return environment(self.world, rate_limit=_RATE_LIMIT)

    @property
    def resuming(self) -> Program:
        """The program that takes up what is left."""
        return _program("crynux_async.cli", "resume", "--json", "--ledger", self.ledger, "--timeout", 30)

    def submit(self, *options: object, first: int = 1, ledger: Path | None = None) -> Program:
        """Return the program that submits three jobs."""
        return _program("benchmarks.scorecard.submit_child", ledger or self.ledger, first, 3, *options)

    async def resume(self, *, is_warm: bool = True) -> Remembered:
        """Let the next process take up what is left, and return what the ledger says then.

        Args:
            is_warm: Whether that process may be forked from a warm one.

        Raises:
            AssertionError: It failed, or did not say what is known of each ambiguous job.
        """
        resume = self.resuming
        ended = await (warm.run(resume, env=self.env) if is_warm else run(resume.command, env=self.env))
        told = json.loads(ended.out.splitlines()[-1])
        shown = {lost["job_id"]: lost for lost in told["unconfirmed"]}
        is_unsent = any(job["state"] == JobState.PLANNED for job in told["jobs"])
        expected = Exit.OUTCOME_UNKNOWN if shown else Exit.TIMED_OUT if is_unsent else Exit.DONE
        assert ended.code == expected, f"resume exited with {ended.code}: {ended.out} {ended.err}"
        known = await remember_file(self.ledger)
        assert shown.keys() == known.brackets.keys(), f"resume showed {sorted(shown)} of {sorted(known.brackets)}"
        digests = {job.job_id: job.digest for job in known.jobs}
        for job_id, lost in shown.items():
            assert lost["digest"] == digests[job_id], f"resume showed another config for {job_id}"
            around = known.lost[job_id]
            made = [next(iter(ids), None) for ids in (around.before, around.after)]
            assert [lost["after"], lost["before"]] == made, f"resume showed {lost}"
            assert datetime.fromisoformat(lost["began_at"]).tzinfo is not None, f"resume showed no time: {lost}"
        return known

    async def check(self, said: Sequence[dict[str, Any]], *, is_warm: bool = True) -> Counter[JobClass]:
        """Resume, and check that nothing is lost of what the children were told."""
        known = await self.resume(is_warm=is_warm)
        return check_nothing_lost(
            self.world.bridge.journal,
            known.jobs,
            known.attempts,
            creates(self.world.bridge),
            brackets=known.brackets,
            told=told_in(said),
        )


def told_in(said: Sequence[dict[str, Any]]) -> list[str]:
    """Return the task ids that were returned to callers."""
    return [line["told"] for line in said if "told" in line]


def lines(out: str) -> list[dict[str, Any]]:
    """Return what a child said; a last line that was not finished says nothing."""
    return [json.loads(line) for line in out.split("\n")[:-1]]


@asynccontextmanager
async def scene(folder: Path) -> AsyncIterator[Scene]:
    """Provide a bridge whose tasks end at once, and a folder for it."""
    options: dict[str, Any] = {"speed": _INSTANT, "unet": "tiny", "rate_limit": _RATE_LIMIT}
    async with Emulator(folder=folder / "bridge", **options) as bridge:
        world = World(bridge=bridge, key=bridge.new_key(rate_limit=_RATE_LIMIT))
        yield Scene(world=world, ledger=folder / "jobs.db")


async def all_of(works: Sequence[Work[T]]) -> list[T]:
    """Run all of them, a few at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(work: Work[T]) -> T:
        async with slots:
            return await work()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(work)) for work in works]
    return [task.result() for task in tasks]


def killed(context: Context) -> str:
    """S1: SIGKILL at every system call that counts of a 3-job submit, and at random instants."""
    require_strace()
    return asyncio.run(_killed(context))


async def _killed(context: Context) -> str:
    async with scene(context.folder / "undisturbed") as first:
        # In interpreters of their own, as a user's are: what this one does is what the forked ones must be killed at.
        ended, calls = await trace(first.submit().command, MONEY_CALLS, env=first.env)
        assert ended.code == 0, ended.out + ended.err
        classes = await first.check(lines(ended.out), is_warm=False)
        assert classes[JobClass.ACCEPTED] == 3, "the undisturbed submit lost something"
    every = kill_points(calls)
    points = kill_points(calls, None if context.seeds >= ALL_SEEDS else -(-len(every) * context.seeds // ALL_SEEDS))
    at_calls = await all_of([_killing_at(context, name, nth) for name, nth in points])
    hits = sum(was_killed for was_killed, _ in at_calls)
    assert hits >= 0.9 * len(points), f"only {hits} of {len(points)} were killed: a forked submit is another program"
    rng = random.Random(1)
    took = await _undisturbed_seconds(context)
    instants = [rng.uniform(0.0, took) for _ in range(RANDOM_KILLS * context.seeds)]
    at_instants = await all_of([_killing_after(context, number, at) for number, at in enumerate(instants)])
    at_resumes, resume_points = await _killed_resumes(context)
    classes = _sum([found for _, found in [*at_calls, *at_instants, *at_resumes]])
    kinds = Counter(name for name, _ in points)
    return (
        f"{len(points)} of {len(every)} points ({', '.join(f'{count} {name}' for name, count in kinds.items())}; "
        f"{hits} died there) and {len(instants)} random kills "
        f"({sum(hit for hit, _ in at_instants)} in time), then {len(at_resumes)} of {resume_points} points of a resume "
        f"({sum(hit for hit, _ in at_resumes)} died there): {_show(classes)}"
    )


async def _killed_resumes(context: Context) -> tuple[list[Killed], int]:
    """Kill the resume of a submit that was killed between a create and its answer, at every change of the ledger.

    Returns:
        What came of each, and how many points there are.
    """
    async with scene(context.folder / "left") as left:
        left.world.bridge.add_fault("stall", on="create", count=1)
        async with warm.forked(left.submit("--at-once"), env=left.env) as child:
            child.go()
            while not creates(left.world.bridge):
                await asyncio.sleep(0.005)
            child.send(signal.SIGKILL)
            said = lines((await child.ended()).out)
        left.world.bridge.clear_faults()

        def copy(name: str) -> Scene:
            _rescue(left.ledger.parent, here := left.ledger.with_name(f"{name}.db"))
            return attrs.evolve(left, ledger=here)

        undisturbed = copy("undisturbed")
        ended, calls = await warm.trace(undisturbed.resuming, FILE_CALLS, env=left.env)
        assert ended.code == Exit.OUTCOME_UNKNOWN, ended.out + ended.err
        assert (await undisturbed.check(said))[JobClass.AMBIGUOUS], "the submit left nothing uncertain"
        every = [(name, nth) for name, count in count_syscalls(calls).items() for nth in range(1, count + 1)]
        points = every[:: max(1, ALL_SEEDS // context.seeds)]

        def killing(name: str, nth: int) -> Work[Killed]:
            async def work() -> Killed:
                here = copy(f"{name}-{nth}")
                ended = await warm.run_killed_at(here.resuming, name, nth, env=here.env)
                return ended.was_killed, await here.check(said)

            return work

        return await all_of([killing(name, nth) for name, nth in points]), len(every)


def _killing_at(context: Context, name: str, nth: int) -> Work[Killed]:
    async def work() -> Killed:
        async with scene(context.folder / f"{name}-{nth}") as here:
            ended = await warm.run_killed_at(here.submit(), name, nth, env=here.env)
            return await _after_kill(here, ended)

    return work


def _killing_after(context: Context, number: int, seconds: float) -> Work[Killed]:
    async def work() -> Killed:
        async with scene(context.folder / f"instant-{number}") as here:
            async with warm.forked(here.submit("--at-once"), env=here.env) as child:
                child.go()
                words = await child.out.readline()
                assert words, "the child said nothing"
                await asyncio.sleep(seconds)
                child.send(signal.SIGKILL)
                ended = await child.ended()
            return await _after_kill(here, ended)

    return work


async def _after_kill(here: Scene, ended: Ended) -> Killed:
    assert ended.was_killed or ended.code == 0, f"exited with {ended.code}: {ended.out} {ended.err}"
    return ended.was_killed, await here.check(lines(ended.out))


async def _undisturbed_seconds(context: Context) -> float:
    """Return how long a child needs from its first word to its last."""
    async with scene(context.folder / "timed") as here, warm.forked(here.submit("--at-once"), env=here.env) as child:
        child.go()
        await child.out.readline()
        began = asyncio.get_running_loop().time()
        await child.out.read()
        return asyncio.get_running_loop().time() - began


def full_disk(context: Context) -> str:
    """S6: the ledger's disk is filled before it is opened, when it is open, before a POST, and before its answer."""
    moments = {"first": 0, "open": 0, "before": 1, "after": 1}
    seen = []
    for moment, posts in moments.items():
        for number in range(max(1, context.seeds // 5)):
            with on_tmpfs("2m") as disk:
                place = context.folder / f"{moment}-{number}"
                seen.append(f"{moment}: {asyncio.run(_fill(place, disk, moment, posts))}")
    return "; ".join(dict.fromkeys(seen))


async def _fill(place: Path, disk: Path, moment: str, posts: int) -> str:
    async with scene(place) as here:
        command = here.submit("--fill", moment, ledger=_place(disk) / "jobs.db").command
        ended = await run(_inside(disk, command), env={**here.env, "CRYNUX_CLOSE_TIMEOUT": "1"})
        said = lines(ended.out)
        arrived = creates(here.world.bridge)
        assert len(arrived) == posts, f"{len(arrived)} POSTs with a disk that was full {moment}: {ended.out}"
        assert not told_in(said), f"an id that is not durable was returned: {ended.out}"
        if moment == "first":
            assert said[-1].get("failed") == "LedgerBusyError", f"it was opened: {ended.out} {ended.err}"
        else:
            # Nobody is refused while there may be room again; when the session is closed, everybody is told.
            refused = [line["error"] for line in said if "refused" in line]
            assert refused == ["LedgerError"] * posts + ["UsageError"] * (3 - posts), f"{ended.out} {ended.err}"
        ids = [entry.task_id for entry in here.world.bridge.journal]
        for task_id in ids:
            assert any(line.get("task_id") == str(task_id) for line in said), f"task {task_id} is in no exception"
            assert f"task {task_id}" in ended.err, f"task {task_id} is not on stderr: {ended.err}"
        await asyncio.to_thread(_rescue, disk, here.ledger)
        classes = await here.check(said)
        return f"{len(arrived)} POSTs, {len(ids)} ids in the exception and on stderr, then {_show(classes)}"


def failing_sync(context: Context) -> str:
    """S7: every fsync and fdatasync of the submission fails once with EIO."""
    require_strace()
    return asyncio.run(_failing_sync(context))


async def _failing_sync(context: Context) -> str:
    async with scene(context.folder / "undisturbed") as here:
        ended, calls = await warm.trace(here.submit(), ("fsync", "fdatasync"), env=here.env)
        assert ended.code == 0, ended.out + ended.err
    every = kill_points(calls)
    points = kill_points(calls, None if context.seeds >= ALL_SEEDS else max(3, len(every) * context.seeds // ALL_SEEDS))

    def failing(name: str, nth: int) -> Work[Counter[JobClass]]:
        async def work() -> Counter[JobClass]:
            async with scene(context.folder / f"{name}-{nth}") as here:
                return await _fail_sync(here, name, nth)

        return work

    found = await all_of([failing(name, nth) for name, nth in points])
    return f"{len(points)} of {len(every)} syncs failed, each time nothing was sent after: {_show(_sum(found))}"


async def _fail_sync(here: Scene, name: str, nth: int) -> Counter[JobClass]:
    ended = await warm.run_failing_at(here.submit(), name, nth, "EIO", env=here.env)
    said = lines(ended.out)
    told = told_in(said)
    failed = [index for index, line in enumerate(said) if line.get("error") == "LedgerError"]
    if failed:
        later = told_in(said[failed[0] :])
        assert not later, f"{name} {nth} failed and {later} was taken for durable after it"
        # The one whose answer could not be stored was sent; nothing after it.
        assert len(creates(here.world.bridge)) <= len(told) + 1, f"a POST followed the failure: {ended.out}"
    elif said and "failed" in said[-1]:
        assert not creates(here.world.bridge), f"the ledger did not open, and something was sent: {ended.out}"
    else:
        # What is written after the last answer (leases, closing) has no caller who could be told; it is logged.
        assert len(told) == 3, f"the failure of {name} {nth} was swallowed: {ended.out} {ended.err}"
    for task_id in (line["task_id"] for line in said if line.get("task_id")):
        assert f"task {task_id}" in ended.err, f"task {task_id} is not on stderr"
    return await here.check(said)


def two_processes(context: Context) -> str:
    """S9: two processes on one ledger; one is killed, the other takes its jobs over, the planned ones included."""
    rng = random.Random(9)
    kills = [rng.uniform(0.0, 0.4) for _ in range(context.seeds)]

    async def work() -> list[tuple[float, Counter[JobClass]]]:
        return [await _survive(context, number, at) for number, at in enumerate(kills)]

    found = asyncio.run(work())
    slowest = max(seconds for seconds, _ in found)
    assert slowest <= 4 * LEASE, f"taken over after {slowest:.1f} s with a lease of {LEASE:g} s"
    return (
        f"{context.seeds} kills, no job POSTed twice, everything taken over at most {slowest:.1f} s after the "
        f"other's death (lease {LEASE:g} s): {_show(_sum([classes for _, classes in found]))}"
    )


async def _survive(context: Context, number: int, seconds: float) -> tuple[float, Counter[JobClass]]:
    async with scene(context.folder / str(number)) as here:
        options = ("--at-once", "--lease", LEASE)
        async with (
            started(here.submit(*options, first=1).command, env=here.env) as victim,
            started(here.submit(*options, first=101).command, env=here.env) as survivor,
        ):
            assert victim.stdout is not None
            words = await victim.stdout.readline()
            await asyncio.sleep(seconds)
            if victim.returncode is None:
                victim.kill()
            words += await victim.stdout.read()
            assert survivor.stdin is not None
            survivor.stdin.close()
            try:
                async with asyncio.timeout(60):
                    out, err = await survivor.communicate()
            except TimeoutError:
                left = [f"{job.job_id} {job.state}" for job in (await remember_file(here.ledger)).jobs]
                raise AssertionError(f"the survivor of kill {number} at {seconds:.3f} s still runs: {left}") from None
        said = [*lines(words.decode()), *lines(out.decode())]
        assert survivor.returncode == 0, f"the survivor exited with {survivor.returncode}: {out!r} {err!r}"
        classes = await here.check(said)
        assert not classes[JobClass.NOT_SENT], f"the survivor left something unsent: {said}"
        return next(line["seconds"] for line in lines(out.decode()) if "took_over" in line), classes


def _rescue(disk: Path, ledger: Path) -> None:
    """Copy a ledger to another place, with what lies beside it."""
    for file in disk.glob("jobs.db*"):
        shutil.copy(file, ledger.with_name(file.name.replace("jobs.db", ledger.name)))


def _place(disk: Path) -> Path:
    """Return what a folder of ``on_tmpfs`` is called by processes that see its mount."""
    return Path("/", *disk.parts[4:])


def _inside(disk: Path, command: Sequence[str]) -> list[str]:
    """Return a command that runs where a disk of ``on_tmpfs`` is mounted.

    A ledger resolves links before it opens its file, and the way through /proc is a link that leads back to here.
    """
    same_user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    enter = [require_tool("nsenter", "util-linux"), "--target", disk.parts[2], "--mount", *same_user]
    return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', str(Path(__file__).parents[2]), *command]


def _program(module: str, *arguments: object) -> Program:
    return Program(module=module, arguments=[*map(str, arguments)])


def _sum(counts: Sequence[Counter[JobClass]]) -> Counter[JobClass]:
    return sum(counts, Counter[JobClass]())


def _show(classes: Counter[JobClass]) -> str:
    return ", ".join(f"{classes[name]} {name}" for name in JobClass if classes[name]) or "no job"
