"""Nothing that was paid for is lost or paid twice, whatever happens in whichever order. On virtual time."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from benchmarks.scorecard.accounting import check_nothing_lost, remember
from benchmarks.scorecard.severing import Severable
from crynux_async.emulator import Emulator
from crynux_async.errors import CrynuxError, UsageError
from crynux_async.job import Job
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.session import Session
from crynux_async.settings import Settings
from crynux_async.states import FOLLOWED, GOOD, JobState
from crynux_async.testing import VirtualTimeLoop
from tests.fake_backend import make_config

T = TypeVar("T")

LIMIT = 60_000
FAULTS: dict[str, dict[str, Any]] = {
    "delay": {"seconds": 0.5},
    "stall": {},
    "reset": {},
    "drop_before": {},
    "drop_after_accept": {},
    "broken_json": {},
    "rate_wording": {},
    "status": {"status": 503, "message": "busy", "carried_out": True},
    "html": {"status": 502},
}
NO_FAULT = (None, None, *sorted(FAULTS))
DISKS = (0.0, 0.01, 0.1)
SECONDS = (0.005, 0.05, 0.15, 0.25, 0.35, 1.0, 20.0, 200.0)


class MoneyMachine(RuleBasedStateMachine):
    """Up to two sessions share a ledger with a slow disk and an emulated bridge that fails; any of them may die."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.ledger = MemoryLedger()
        self.sessions: list[tuple[Session, Severable]] = []
        self.waiters: list[asyncio.Task[None]] = []
        self.told: list[str] = []
        self.seed = 0

    @initialize(disk=st.sampled_from(DISKS))
    def start(self, disk: float) -> None:
        self.bridge = Emulator(rate_limit=LIMIT, speed=1e9, unet="tiny", durable=False)
        self.do(self.bridge.start())
        self.key = self.bridge.new_key(rate_limit=LIMIT)
        self.open(disk)

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the machine's loop."""
        return self.loop.run_until_complete(work)

    @precondition(lambda self: len(self.sessions) < 2)
    @rule(disk=st.sampled_from(DISKS))
    def open(self, disk: float) -> None:
        async def open_session() -> None:
            way = Severable(self.ledger, disk)
            chosen = Settings(
                base_url=self.bridge.url, api_key=self.key, rate_limit=LIMIT, prime_key=False, trust_env=False
            )
            session = Session(chosen, ledger=way)
            await session.open()
            self.sessions.append((session, way))

        self.do(open_session())

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), count=st.integers(1, 4), seconds=st.sampled_from(SECONDS), fault=st.sampled_from(NO_FAULT))
    def submit(self, data: st.DataObject, count: int, seconds: float, fault: str | None) -> None:
        if fault is not None:
            self.bridge.add_fault(fault, on="create", **FAULTS[fault])
        session, _ = data.draw(st.sampled_from(self.sessions))

        async def wait_for(job: Job) -> None:
            with contextlib.suppress(CrynuxError):
                await job.submitted()
                assert job.task_id is not None
                self.told.append(job.task_id)

        async def plan() -> None:
            for _ in range(count):
                self.seed += 1
                job = session.submit_nowait(make_config(seed=self.seed))
                self.waiters.append(asyncio.create_task(wait_for(job)))
            await asyncio.sleep(seconds)

        self.do(plan())

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), seed=st.integers(901, 903), seconds=st.sampled_from(SECONDS))
    def ask_for_a_key(self, data: st.DataObject, seed: int, seconds: float) -> None:
        session, _ = data.draw(st.sampled_from(self.sessions))

        async def ask() -> None:
            with contextlib.suppress(CrynuxError):
                await session.enqueue(make_config(seed=seed), idempotency_key=f"seed {seed}")
            await asyncio.sleep(seconds)

        self.do(ask())

    @rule(kind=st.sampled_from(sorted(FAULTS)), after=st.integers(0, 2))
    def break_something(self, kind: str, after: int) -> None:
        self.bridge.add_fault(kind, on="create", after=after, **FAULTS[kind])

    @rule(seconds=st.sampled_from(SECONDS))
    def pass_time(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def cancel_a_caller(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiters)).cancel()

    @precondition(lambda self: any(session.jobs() for session, _ in self.sessions))
    @rule(data=st.data(), again=st.booleans())
    def decide_about_a_job(self, data: st.DataObject, again: bool) -> None:
        job = data.draw(st.sampled_from([job for session, _ in self.sessions for job in session.jobs()]))

        async def decide() -> None:
            if again and job.state not in FOLLOWED | GOOD:
                try:
                    await job.retry()
                except UsageError as error:
                    # One that was given up while it was being sent is not sent beside that create.
                    if "is under way; wait for its answer" not in str(error):
                        raise
            else:
                job.abandon()

        self.do(decide())

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def look_for_lost_tasks(self, data: st.DataObject) -> None:
        session, _ = data.draw(st.sampled_from(self.sessions))
        self.do(session.reconcile())

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(pair)
        self.do(pair[0].close())

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.sessions))
        self.sessions.remove(pair)
        session, way = pair
        self.do(way.sever(session))

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "bridge"):
            self.check()

    def check(self) -> None:
        known = self.do(remember(self.ledger))
        posts = [request for request in self.bridge.requests if request.method == "POST"]
        check_nothing_lost(
            self.bridge.journal,
            known.jobs,
            known.attempts,
            posts,
            brackets={**known.brackets, **known.given_up_brackets},
            told=self.told,
        )

    def teardown(self) -> None:
        try:
            if hasattr(self, "bridge"):
                self.end()
        finally:
            for task in (tasks := asyncio.all_tasks(self.loop)):
                task.cancel()
            self.do(_all_ended(tasks))
            self.loop.close()

    def end(self) -> None:
        """Let everybody die, and the next process take over: what is left must say the same."""
        self.bridge.clear_faults()
        for session, way in self.sessions:
            self.do(way.sever(session))
        self.sessions.clear()
        self.do(asyncio.sleep(120))  # the leases of the dead end
        self.open(0.0)
        ((session, _),) = self.sessions
        self.do(asyncio.sleep(120))
        lost = {each.job.job_id for each in self.do(session.unconfirmed())}
        self.do(session.close())
        known = self.do(remember(self.ledger))
        given_up = {row.job_id for row in known.jobs if row.state is JobState.ABANDONED}
        assert lost == known.brackets.keys() - given_up, "an ambiguous job is not listed"
        assert not [row for row in known.jobs if row.state in FOLLOWED], "a task has ended and nobody has noticed"
        self.check()
        self.do(self.bridge.close())


async def _all_ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


MoneyMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestMoneyMachine = MoneyMachine.TestCase
