"""Cases W1 to W3: processes that die at every write and every call of a job at the relay, and the next that goes on.

A moment is the time before or after a call of the ledger, or before or after a request to the relay. A session dies at
a moment: nothing that it does from then on reaches the ledger or the relay. Then another session opens the same ledger.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import attrs

from benchmarks.scorecard.case import Case, Context
from benchmarks.scorecard.severing import Severable
from crynux_async.backends.relay.backend import LEASE, RelayBackend
from crynux_async.emulator.relay import CNX, RelayEmulator, Status
from crynux_async.ledgers.base import JobFilter, Ledger
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.secret import Secret
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.signing import Wallet
from crynux_async.states import JobState
from crynux_async.supervision.audit import audit
from crynux_async.testing import virtual_time_run
from crynux_async.training.config import FineTuneConfig

FEE = 15 * CNX
MONEY = 1000 * CNX
SECRET = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"  # the public example key
SELECTED_SEED = (40).to_bytes(32)
"""The first seed that selects a task of that wallet."""

TASKS = {False: 1, True: 4}
"""How many tasks a job needs: a selected one three, and one more that brings the archive."""

_FOREVER = 10**9
_LIST_IS_LATE = 11.0
_ALL_WITH_SEEDS = 20


class Moments:
    """Counts moments, and stops whoever comes to the fatal one.

    Args:
        fatal: The number of the fatal moment, from 1.
    """

    def __init__(self, fatal: int) -> None:
        self.passed = 0
        self.reached = asyncio.Event()
        self._fatal = fatal

    async def come(self) -> None:
        """Let one moment pass; the fatal one never ends, nor does any after it."""
        self.passed += 1
        if self.passed >= self._fatal:
            self.reached.set()
            await asyncio.Event().wait()


class MortalLedger(Severable):
    """A session's way to a ledger with a moment before and after each call."""

    def __init__(self, ledger: Ledger, moments: Moments) -> None:
        super().__init__(ledger)
        self._moments = moments

    async def _pass(self) -> None:
        await self._moments.come()
        await super()._pass()


@attrs.define(eq=False)
class Owner:
    """One process: a session that may die."""

    session: Session
    backend: RelayBackend
    way: MortalLedger
    moments: Moments

    @classmethod
    async def start(cls, relay: RelayEmulator, ledger: Ledger, fatal: int = _FOREVER) -> "Owner":
        """Open a session that dies at the given moment."""
        moments = Moments(fatal)
        backend = RelayBackend(Settings(base_url=relay.url, trust_env=False), Wallet(Secret(SECRET)))
        _make_mortal(backend, moments)
        way = MortalLedger(ledger, moments)
        session = Session(Settings(trust_env=False), backend=backend, ledger=way)
        owner = cls(session, backend, way, moments)
        opening = asyncio.create_task(session.open())
        await _first(opening, moments)
        return owner

    async def die(self) -> None:
        """Die: nothing reaches the ledger or the relay any more."""
        if self.session._runner is not None:
            await self.way.sever(self.session)
        await self.backend.close()


def config(**changes: Any) -> FineTuneConfig:
    """Return a config whose training takes 120 s."""
    values: dict[str, Any] = {"model_name": "a/stable-diffusion-v1-5", "dataset_name": "a/b", "max_train_steps": 100}
    return FineTuneConfig(**{**values, "seed": 1, "timeout": 600, "rank": 1, "target_modules": ["to_k"], **changes})


def killed_once(fatal: int, *, is_selected: bool, folder: Path) -> int | None:
    """Let the first owner of a job die at a moment and the next one bring it to its end.

    Args:
        fatal: The moment.
        is_selected: Whether the network wants the job checked.
        folder: Where the archive goes.

    Returns:
        How many moments a whole life has where the moment lies behind its end, else None.

    Raises:
        AssertionError: Something is lost, or paid twice.
    """
    passed: int | None = virtual_time_run(lambda: _life(is_selected, folder, [fatal]))
    return passed


def killed_in_turn(fatal: list[int], *, is_selected: bool, folder: Path) -> None:
    """Let one owner after the other die, each at a moment of its own, and the last one bring the job to its end.

    Raises:
        AssertionError: Something is lost, or paid twice.
    """
    virtual_time_run(lambda: _life(is_selected, folder, fatal))


async def _life(is_selected: bool, folder: Path, fatal: list[int]) -> int | None:
    async with RelayEmulator(unet="tiny", durable=False, sampling="never", chance=1) as relay:
        relay.fund(relay.know_wallet(SECRET), MONEY)
        if is_selected:
            relay.put_seed(SELECTED_SEED)
        ledger = MemoryLedger()
        for moment in fatal:
            owner = await Owner.start(relay, ledger, moment)
            work = asyncio.create_task(_bring_home(owner, folder))
            await _first(work, owner.moments)
            if not owner.moments.reached.is_set():
                await owner.backend.close()
                await _check(relay, ledger, is_selected)
                return owner.moments.passed
            await owner.die()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await asyncio.sleep(LEASE / 3)
        last = await Owner.start(relay, ledger)
        await asyncio.sleep(2 * LEASE)  # what the dead held is free
        await _bring_home(last, folder)
        await last.backend.close()
        await _check(relay, ledger, is_selected)
    return None


async def _bring_home(owner: Owner, folder: Path) -> None:
    """Do what a user does who wants one model, however often his program has died: never ask for a second one."""
    session = owner.session
    rows = await session.history()
    if not rows:
        job = session.submit_nowait(config())
    else:
        if rows[0].state is JobState.DOWNLOADED:
            await session.close()
            return
        while rows[0].job_id not in {known.job_id for known in session.jobs()}:
            await asyncio.sleep(1)
        job = session.job(rows[0].job_id)
        if job.state is JobState.PLANNED:
            await job.retry()
    await job.download(folder)
    await session.close()


async def _check(relay: RelayEmulator, ledger: Ledger, is_selected: bool) -> None:
    """Hold the ledger against the relay, to the wei."""
    (row,) = await ledger.jobs()
    assert row.state is JobState.DOWNLOADED, f"the job is {row.state}: {row.error}"
    assert row.path is not None
    assert await anyio.Path(row.path).is_file(), f"there is no file {row.path}"
    made = list(relay.tasks.values())
    assert len(made) == TASKS[is_selected], f"{len(made)} tasks were made and paid for"
    ends = Counter(task.status for task in made)
    assert ends[Status.END_SUCCESS] == 1, f"the tasks ended as {dict(ends)}"
    await asyncio.sleep(_LIST_IS_LATE)
    backend = RelayBackend(Settings(base_url=relay.url, trust_env=False), Wallet(Secret(SECRET)))
    found = await audit(backend, backend.key_id, ledger)
    await backend.close()
    assert found.adds_up, f"list and ledger differ: {found}"
    gone = MONEY - relay.balance(backend.key_id)
    held, spent = await ledger.spent(JobFilter())
    assert (held, spent) == (0, gone), f"the relay took {gone} wei, the ledger has {spent} spent and {held} held"


async def _first(work: "asyncio.Task[None]", moments: Moments) -> None:
    """Wait until the work is done or the fatal moment has come."""
    fatal = asyncio.create_task(moments.reached.wait())
    await asyncio.wait({work, fatal}, return_when=asyncio.FIRST_COMPLETED)
    fatal.cancel()
    if not moments.reached.is_set():
        await work


def _make_mortal(backend: RelayBackend, moments: Moments) -> None:
    """Put a moment before and after each request of a backend."""
    http: Any = backend._client._http
    ask = http._ask

    async def mortal(*args: Any, **kwargs: Any) -> Any:
        await moments.come()
        answer = await ask(*args, **kwargs)
        await moments.come()
        return answer

    http._ask = mortal


def at_every_moment(context: Context) -> str:
    """W1: a job is killed at every moment."""
    return f"{_every(context, is_selected=False)} moments, one task and one fee each time"


def at_every_moment_of_a_selected_job(context: Context) -> str:
    """W2: a job that the network wants checked is killed at every moment."""
    return f"{_every(context, is_selected=True)} moments, four tasks and two fees each time"


def by_two_owners_in_turn(context: Context) -> str:
    """W3: two owners of a job are killed one after the other, at moments that are drawn."""
    rng = random.Random(3)
    lives = 5 * context.seeds
    for life in range(lives):
        is_selected = life % 2 == 1
        moments = [rng.randint(1, 300), rng.randint(1, 300)]
        try:
            killed_in_turn(moments, is_selected=is_selected, folder=context.folder / str(life))
        except AssertionError as error:
            raise AssertionError(f"killed at {moments}, selected {is_selected}: {error}") from error
    return f"{lives} lives, two deaths each, half of them selected"


def _every(context: Context, *, is_selected: bool) -> int:
    """Die at every moment of a life, or with few seeds at some of them, and return how many those were."""
    step = max(1, _ALL_WITH_SEEDS // context.seeds)
    for died, fatal in enumerate(range(1, _FOREVER, step)):
        try:
            if killed_once(fatal, is_selected=is_selected, folder=context.folder / str(fatal)) is not None:
                return died
        except AssertionError as error:
            raise AssertionError(f"killed at moment {fatal}: {error}") from error
    raise AssertionError("the life does not end")


CASES = (
    Case(name="W1", fault="relay: killed at every write and call of a job", run=at_every_moment),
    Case(name="W2", fault="relay: the same with a selected job", run=at_every_moment_of_a_selected_job),
    Case(name="W3", fault="relay: two owners killed in turn", run=by_two_owners_in_turn),
)
