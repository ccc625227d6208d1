"""What sessions at the relay learn of how long trainings and uploads take, and the looks that they save by it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from crynux_async.backends.base import Phase
from crynux_async.clock import monotonic
from crynux_async.emulator.relay import RelayEmulator
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.pacing.age_bins import HazardSnapshot, bin_of
from crynux_async.pacing.poll_queue import PollQueue
from crynux_async.supervision.follower import kind_of
from tests.relay_sessions import make_config, relay_session, relay_with_money

JOBS = 4
TRAINING, UPLOAD = 120.0, 5.0  # of the emulated nodes


@pytest.fixture
async def relay() -> AsyncIterator[RelayEmulator]:
    async with relay_with_money(nodes=JOBS) as relay:
        yield relay


async def looks_and_seconds(relay: RelayEmulator, ledger: MemoryLedger) -> tuple[int, float]:
    """Let some jobs run in a session; return the looks, and the seconds until all have ended."""
    async with relay_session(relay, ledger) as session:
        began = monotonic()
        jobs = await session.submit_many([make_config(seed=seed) for seed in range(1, JOBS + 1)])
        await asyncio.gather(*jobs)
        return session.statistics().polls, monotonic() - began


def experience(jobs: int) -> dict[str, Any]:
    """Return what was learned from so many jobs that took as long as the emulated nodes take, five more or less."""
    queue, kind = PollQueue(), kind_of(make_config())
    for number in range(jobs):
        took, age = TRAINING - 5.0 + number * 7 % 10, 140.0
        queue.add(number, kind=kind, started_at=-age, now=0.0, seen_at=-age)
        phases = (
            Phase(name="started", late=4.0, age=age, took=took),
            Phase(name="validated", late=0.8, age=10.0, took=UPLOAD),
        )
        queue.ended(number, 0.0, phases=phases)
    return {name: snapshot.to_json() for name, snapshot in queue.snapshots().items()}


async def test_session_learns_when_trainings_and_uploads_end_to_within_a_bin(relay: RelayEmulator) -> None:
    ledger = MemoryLedger()
    await looks_and_seconds(relay, ledger)
    learned = await ledger.load_hazards(relay.url)
    kind = kind_of(make_config())
    assert set(learned) == {kind, f"{kind}|started", f"{kind}|validated"}
    for name, took in (("started", TRAINING), ("validated", UPLOAD)):
        bins = HazardSnapshot.from_json(learned[f"{kind}|{name}"]).bins
        # In tenths of a second, and in bins of 4 %, however far apart the looks were between which it was.
        assert sum(one.completed for one in bins) == JOBS
        assert all(abs(one.number - bin_of(10.0 * took)) <= 1 for one in bins if one.completed)
        assert sum(one.exposure for one in bins) == pytest.approx(10.0 * took * JOBS, rel=0.05)


async def test_session_that_knows_how_long_trainings_take_looks_half_as_often(relay: RelayEmulator) -> None:
    ledger = MemoryLedger()
    looks, seconds = await looks_and_seconds(relay, ledger)
    experienced = MemoryLedger()
    await experienced.save_hazards(relay.url, experience(300))
    fewer, sooner = await looks_and_seconds(relay, experienced)
    # Each trains for 120 s and is looked at every 8 to 10 s of it, by one who knows nothing.
    assert looks >= JOBS * TRAINING / 10.0
    assert fewer <= looks / 2
    # Both see the score within ten seconds, and the upload within two.
    assert max(seconds, sooner) <= TRAINING + UPLOAD + 15.0
