"""What a user would write, on the emulator and virtual time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from crynux_async import FineTuneConfig, JobFailedError, JobState, Session
from crynux_async.emulator import Emulator
from tests.fake_backend import make_config


@pytest_asyncio.fixture
async def bridge() -> AsyncIterator[Emulator]:
    async with Emulator(rate_limit=60) as emulator:
        yield emulator


@pytest_asyncio.fixture
async def session(bridge: Emulator) -> AsyncIterator[Session]:
    """A session opened in the fixture's task and used in the test's."""
    async with Session(base_url=bridge.url, api_key=bridge.new_key(primed=False), trust_env=False) as session:
        yield session


async def test_first_job_of_a_fresh_key_is_downloaded(session: Session, bridge: Emulator, tmp_path: Path) -> None:
    path = await session.run(make_config(), tmp_path)
    assert path.stat().st_size > 1_000_000
    assert [entry.outcome for entry in bridge.journal].count("job") == 1


async def test_first_job_of_a_fresh_key_without_priming_is_lost(bridge: Emulator, tmp_path: Path) -> None:
    from crynux_async import OwnershipError

    key = bridge.new_key(primed=False)
    async with Session(base_url=bridge.url, api_key=key, prime_key=False, trust_env=False) as session:
        job = await session.submit(make_config())
        with pytest.raises(OwnershipError):
            await job.download(tmp_path)


async def test_sweep_with_a_bad_data_set_in_it_gives_every_other_model(session: Session, tmp_path: Path) -> None:
    base = make_config()
    configs = [base.evolve(rank=rank) for rank in (2, 4, 8)]
    bad: FineTuneConfig = base.evolve(model_name="crynux-ai/stable-diffusion-v1-5/fail")
    jobs = [session.submit_nowait(config) for config in [*configs, bad]]
    results = await asyncio.gather(*(job.download(tmp_path) for job in jobs), return_exceptions=True)
    assert [job.state for job in jobs] == [JobState.DOWNLOADED] * 3 + [JobState.FAILED]
    assert isinstance(results[-1], JobFailedError)


async def test_key_of_one_a_minute_sends_every_job_in_the_shortest_time(bridge: Emulator) -> None:
    loop = asyncio.get_running_loop()
    key = bridge.new_key(rate_limit=1)
    async with Session(base_url=bridge.url, api_key=key, trust_env=False, rate_limit=1) as session:
        began = loop.time()
        jobs = [session.submit_nowait(make_config()) for _ in range(20)]
        await asyncio.gather(*(job.submitted() for job in jobs))
        assert session.statistics().refusals == 0
        assert loop.time() - began == pytest.approx(19 * 60, rel=0.02)


@pytest.mark.parametrize(("named", "waits"), [(None, 60), (5, 0)])
async def test_first_create_of_a_key_that_was_never_used_waits_as_its_first_limit_wants_it(
    named: int | None, waits: float, bridge: Emulator
) -> None:
    # Sent at once it would be refused, and another token and another minute later.
    loop = asyncio.get_running_loop()
    key = bridge.new_key(rate_limit=named or 1, primed=False)
    async with Session(base_url=bridge.url, api_key=key, trust_env=False, rate_limit=named) as session:
        began = loop.time()
        job = session.submit_nowait(make_config())
        await job.submitted()
        assert session.statistics().refusals == 0
        assert loop.time() - began == pytest.approx(waits, abs=2)


async def test_key_of_unknown_limit_is_refused_once_and_then_paced(bridge: Emulator) -> None:
    loop = asyncio.get_running_loop()
    key = bridge.new_key(rate_limit=5)
    async with Session(base_url=bridge.url, api_key=key, trust_env=False) as session:
        began = loop.time()
        jobs = [session.submit_nowait(make_config()) for _ in range(60)]
        await asyncio.gather(*(job.submitted() for job in jobs))
        assert session.statistics().refusals <= 1
        assert session.statistics().limit_per_minute == pytest.approx(5)
        assert loop.time() - began <= 1.05 * 55 * 12
    assert len(bridge.journal) == 60


async def test_two_hundred_jobs_at_once_are_all_downloaded(tmp_path: Path) -> None:
    async with (
        Emulator(unet="tiny") as bridge,
        Session(
            base_url=bridge.url, api_key=bridge.new_key(rate_limit=200), trust_env=False, rate_limit=200
        ) as session,
    ):
        jobs = [
            session.submit_nowait(make_config(seed=seed, rank=1, target_modules=["to_k"])) for seed in range(1, 201)
        ]
        await asyncio.gather(*(job.download(tmp_path) for job in jobs))
        assert session.statistics().jobs == {JobState.DOWNLOADED: 200}
    assert len({path.read_bytes()[:4096] for path in tmp_path.glob("*.zip")}) >= 1
    assert len(list(tmp_path.glob("*.zip"))) == 200
