"""Validation images beside every archive: in whatever way it was brought to disk, and never at the model's expense."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crynux_async import Job, JobState, Session, UsageError
from crynux_async.backends.base import Task
from crynux_async.clock import monotonic
from crynux_async.errors import ServerError
from crynux_async.ledgers.memory import MemoryLedger
from tests.fake_backend import FakeBackend, make_config
from tests.fake_result import names_in
from tests.second_backend import PICTURE, Studio, StudioBackend


class Album(StudioBackend):
    """The studio, whose images take a while or cannot be had."""

    def __init__(self, *, delay: float = 0.0, failures: int = 0) -> None:
        super().__init__(Studio())
        self.delay = delay
        self.failures = failures
        self.asked = 0

    async def images(self, task: Task) -> list[bytes]:
        self.asked += 1
        await asyncio.sleep(self.delay)
        if self.failures:
            self.failures -= 1
            raise ServerError("the album is locked")
        return await super().images(task)


def open_session(backend: Any, ledger: MemoryLedger | None = None, **settings: Any) -> Session:
    return Session(backend=backend, ledger=ledger, poll_delay=0.01, min_poll_interval=1.0, **settings)


def images_of(path: Path) -> list[Path]:
    return [path.with_name(f"{path.name}-{number}.png") for number in range(2)]


async def downloaded(session: Session, folder: Path) -> Job:
    job = await session.submit(make_config())
    await job.download(folder)
    return job


async def test_images_lie_beside_an_archive_that_was_downloaded(tmp_path: Path) -> None:
    async with open_session(Album()) as session:
        path = await session.run(make_config(), tmp_path)
    assert [image.read_bytes() for image in images_of(path)] == [PICTURE, PICTURE]


async def test_images_lie_beside_an_archive_that_was_wanted_from_the_start(tmp_path: Path) -> None:
    async with open_session(Album()) as session:
        job = await session.submit(make_config(), folder=tmp_path)
        while job.path is None:
            await asyncio.sleep(1)
        path = job.path
    assert [image.read_bytes() for image in images_of(path)] == [PICTURE, PICTURE]


async def test_images_lie_beside_an_archive_that_a_later_session_fetches(tmp_path: Path) -> None:
    backend, ledger = Album(), MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await session.submit(make_config())
        waiting = asyncio.create_task(job.download(tmp_path))
        while job.folder is None:
            await asyncio.sleep(0)
    with pytest.raises(UsageError):
        await waiting
    async with open_session(backend, ledger) as session:
        (job,) = session.jobs()
        while job.path is None:
            await asyncio.sleep(1)
        path = job.path
    assert [image.read_bytes() for image in images_of(path)] == [PICTURE, PICTURE]


async def test_images_lie_beside_the_archive_of_an_attached_task(tmp_path: Path) -> None:
    backend = Album()
    async with open_session(backend) as session:
        task_id = (await session.submit(make_config())).task_id
    assert task_id is not None
    async with open_session(backend) as session:
        path = await session.attach(task_id).download(tmp_path)
    assert [image.read_bytes() for image in images_of(path)] == [PICTURE, PICTURE]


async def test_images_that_take_long_do_not_delay_the_model(tmp_path: Path) -> None:
    async with open_session(Album(delay=20.0)) as session:
        job = await session.submit(make_config())
        await job
        began = monotonic()
        path = await job.download(tmp_path)
        assert monotonic() - began < 1.0
        assert names_in(tmp_path) == {path.name}
        assert await job.store_images() == images_of(path)


async def test_closing_waits_for_images_and_not_for_ever(tmp_path: Path) -> None:
    began = monotonic()
    async with open_session(Album(delay=20.0), close_timeout=60.0) as session:
        await downloaded(session, tmp_path)
    assert 20.0 <= monotonic() - began < 60.0
    assert len(names_in(tmp_path)) == 3
    async with open_session(Album(delay=3600.0), close_timeout=60.0) as session:
        job = await downloaded(session, tmp_path / "b")
        began = monotonic()
        waiting = asyncio.create_task(job.store_images())
    assert monotonic() - began < 61.0
    with pytest.raises(UsageError, match="closed"):
        await waiting
    assert len(names_in(tmp_path / "b")) == 1


async def test_images_that_cannot_be_had_are_no_failure_and_are_fetched_by_the_next_download(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Album(failures=2)
    async with open_session(backend) as session:
        job = await downloaded(session, tmp_path)
        with pytest.raises(ServerError, match="the album is locked"):
            await job.store_images()
        assert (job.state, job.error) == (JobState.DOWNLOADED, None)
        assert "are not stored, its model is: the album is locked" in caplog.text
        with pytest.raises(ServerError):
            await job.store_images()
        path = await job.download(tmp_path)
        assert await job.store_images() == images_of(path)
        assert backend.asked == 3


async def test_images_that_are_there_are_not_fetched_again(tmp_path: Path) -> None:
    backend = Album()
    async with open_session(backend) as session:
        job = await downloaded(session, tmp_path)
        for _ in range(3):
            await job.download(tmp_path)
            await job.store_images()
    assert backend.asked == 1


async def test_no_file_of_the_users_is_replaced_by_an_image(tmp_path: Path) -> None:
    mine = tmp_path / "cat-1.png"
    mine.write_bytes(b"my cat")
    async with open_session(Album()) as session:
        job = await session.submit(make_config())
        await job.download(tmp_path, name="cat.zip")
        await job.store_images()
    assert mine.read_bytes() == b"my cat"
    assert (tmp_path / "cat.zip-0.png").read_bytes() == PICTURE


async def test_folder_that_takes_no_images_costs_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("crynux_async.supervision.image_keeper.put_images", refuse)
    async with open_session(Album()) as session:
        job = await downloaded(session, tmp_path)
        with pytest.raises(OSError, match="No space left"):
            await job.store_images()
        assert job.path is not None
    assert "No space left on device" in caplog.text


async def test_images_of_a_service_without_any_or_of_a_model_that_is_not_here_are_refused_in_words(
    tmp_path: Path,
) -> None:
    async with open_session(FakeBackend(duration=1.0), api_key="k" * 44) as session:
        job = await downloaded(session, tmp_path)
        with pytest.raises(UsageError, match="hands out no validation images"):
            await job.store_images()
        assert names_in(tmp_path) == {"1.zip"}
    async with open_session(Album()) as session:
        with pytest.raises(UsageError, match=r"download\(\) first"):
            await (await session.submit(make_config())).store_images()
