"""Answers to looks that are no answers. On virtual time."""

import asyncio

import pytest

from crynux_async import JobState, ProtocolError
from crynux_async.backends.base import Look, Seen
from tests.fake_backend import FakeBackend, make_config
from tests.supervision.test_onlookers import open_session

MINUTE = 60.0


def wrong() -> Look:
    raise ProtocolError("a page of something else", status=404, is_lasting=True)


async def test_wrong_address_is_told_to_whoever_waits_when_it_was_met_again_a_minute_later() -> None:
    backend = FakeBackend(duration=10_000)
    async with open_session(backend, None) as session:
        job = await session.submit(make_config())
        backend.looks["1"] = wrong
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(ProtocolError, match="a page") as caught:
            await job.wait()
        assert MINUTE <= loop.time() - began < session.settings.unreachable_timeout
        assert (caught.value.job_id, caught.value.task_id) == (job.job_id, "1")
        assert job.state is JobState.RUNNING


async def test_task_behind_a_wrong_answer_is_followed_to_its_end() -> None:
    backend = FakeBackend(duration=10_000)
    async with open_session(backend, None) as session:
        job = await session.submit(make_config())
        backend.looks["1"] = wrong
        with pytest.raises(ProtocolError):
            await job.wait()
        backend.looks["1"] = lambda: Look(seen=Seen.RUNNING)
        await asyncio.sleep(30 * MINUTE)
        assert job.error is None
        backend.looks["1"] = lambda: Look(seen=Seen.SUCCEEDED)
        assert (await job.wait()).state is JobState.SUCCEEDED


async def test_wrong_answer_of_a_moment_is_told_to_nobody() -> None:
    backend = FakeBackend(duration=600)
    async with open_session(backend, None) as session:
        job = await session.submit(make_config())
        answers = iter([wrong])
        backend.looks["1"] = lambda: next(answers, backend_end)()

        def backend_end() -> Look:
            return Look(seen=backend._end("1"))

        assert (await job.wait()).state is JobState.SUCCEEDED
