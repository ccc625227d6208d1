"""Hosts with one ledger and a folder that all of them see: what one has fetched, the others take from there."""

import errno
import logging
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from crynux_async import Job, Session
from crynux_async.downloads import shared_folder
from crynux_async.errors import NotFoundError
from crynux_async.ledgers.memory import MemoryLedger
from tests.fake_backend import FakeBackend, make_config


@attrs.define
class Hosts:
    """What two hosts have in common, and a folder of each."""

    backend: FakeBackend
    ledger: MemoryLedger
    folder: Path

    @property
    def archives(self) -> Path:
        return self.folder / "archives"

    def session(self, host: str, **settings: Any) -> Session:
        options: dict[str, Any] = {"archives": self.archives, "api_key": "k" * 44, "rate_limit": 6000, **settings}
        return Session(backend=self.backend, ledger=self.ledger, host=host, **options)

    async def fetch_on_the_first(self, **settings: Any) -> tuple[str, Path]:
        """Return the name of a job that was fetched on one host, and where its archive is there."""
        async with self.session("first", **settings) as session:
            job = await session.submit(make_config())
            return job.job_id, await job.download(self.folder / "of the first")

    async def fetch_on_the_second(self, job_id: str, **settings: Any) -> Path:
        async with self.session("second", **settings) as session:
            return await (await found(session, job_id)).download(self.folder / "of the second")

    def copies(self) -> list[Path]:
        return sorted(self.archives.iterdir())


@pytest.fixture
async def hosts(tmp_path: Path) -> Hosts:
    (tmp_path / "archives").mkdir()
    return Hosts(FakeBackend(duration=1.0), MemoryLedger(), tmp_path)


async def found(session: Session, job_id: str) -> Job:
    job = await session.find(job_id)
    assert job is not None
    return job


async def test_archive_of_another_host_is_taken_from_the_shared_folder(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    job_id, first = await hosts.fetch_on_the_first()
    first.unlink()  # that host's own folder is not seen from here
    hosts.backend.result_error = NotFoundError("the service has deleted it", status=404)
    with caplog.at_level(logging.INFO):
        second = await hosts.fetch_on_the_second(job_id)
    assert second.read_bytes() == hosts.backend.archive
    assert hosts.backend.open_results == 1
    row = await hosts.ledger.get(job_id)
    assert row is not None
    assert (row.host, row.path) == ("second", str(second))
    [copy] = hosts.copies()
    assert f"is on first ({first}) and not here; it is taken from {copy}" in caplog.text


async def test_archive_that_is_nowhere_here_is_fetched_again_and_left_for_others(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    job_id, first = await hosts.fetch_on_the_first(archives=None)
    first.unlink()
    assert hosts.copies() == []
    with caplog.at_level(logging.INFO):
        await hosts.fetch_on_the_second(job_id)
    assert hosts.backend.open_results == 2
    assert "is on first" in caplog.text
    assert "it is fetched again from the service" in caplog.text
    assert [copy.read_bytes() for copy in hosts.copies()] == [hosts.backend.archive]


async def test_copy_on_the_same_file_system_takes_no_room_and_stays_when_the_archive_goes(hosts: Hosts) -> None:
    _, first = await hosts.fetch_on_the_first()
    [copy] = hosts.copies()
    assert copy.samefile(first)
    first.unlink()
    assert copy.read_bytes() == hosts.backend.archive


async def test_copy_on_another_file_system_is_written_whole(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    links = os.link

    def link(source: Path, target: Path) -> None:
        if source.parent != target.parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        links(source, target)

    monkeypatch.setattr(shared_folder.os, "link", link)
    _, first = await hosts.fetch_on_the_first()
    [copy] = hosts.copies()
    assert not copy.samefile(first)
    assert copy.read_bytes() == hosts.backend.archive


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut short", "with other bytes"])
async def test_copy_that_is_no_good_is_not_used_and_replaced(is_cut: bool, hosts: Hosts) -> None:
    job_id, first = await hosts.fetch_on_the_first()
    first.unlink()
    [copy] = hosts.copies()
    whole = copy.read_bytes()
    copy.unlink()
    copy.write_bytes(whole[:-1] if is_cut else whole[:200] + bytes(100) + whole[300:])
    assert (await hosts.fetch_on_the_second(job_id)).read_bytes() == whole
    assert hosts.backend.open_results == 2
    assert [each.read_bytes() for each in hosts.copies()] == [whole]


async def test_copy_that_cannot_be_read_is_fetched_from_the_service(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job_id, first = await hosts.fetch_on_the_first()
    first.unlink()

    async def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(shared_folder.aiofiles, "open", refuse)
    assert (await hosts.fetch_on_the_second(job_id)).read_bytes() == hosts.backend.archive
    assert "the service is asked: [Errno 116]" in caplog.text


async def test_copy_whose_disk_fails_in_the_middle_is_fetched_from_the_service(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, first = await hosts.fetch_on_the_first()
    first.unlink()

    class Failing:
        def __init__(self) -> None:
            self._pieces = [b"PK"]
            self._file = open(os.devnull, "rb")  # noqa: SIM115 - closed below

        def fileno(self) -> int:
            return self._file.fileno()

        async def read(self, _: int) -> bytes:
            if self._pieces:
                return self._pieces.pop()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        async def close(self) -> None:
            self._file.close()

    async def opened(*_: object, **__: object) -> Failing:
        return Failing()

    monkeypatch.setattr(shared_folder.aiofiles, "open", opened)
    assert (await hosts.fetch_on_the_second(job_id)).read_bytes() == hosts.backend.archive
    assert hosts.backend.open_results == 2


async def test_shared_folder_that_goes_away_fails_no_download(hosts: Hosts, caplog: pytest.LogCaptureFixture) -> None:
    async with hosts.session("first") as session:
        job = await session.submit(make_config())
        hosts.archives.rmdir()
        path = await job.download(hosts.folder / "of the first")
    assert path.read_bytes() == hosts.backend.archive
    assert f"{path} is not left in the shared folder" in caplog.text


async def test_tasks_of_two_services_with_one_number_are_two_copies(hosts: Hosts) -> None:
    _, first = await hosts.fetch_on_the_first()
    other = attrs.evolve(hosts, backend=FakeBackend(duration=1.0), ledger=MemoryLedger())
    other.backend.name = "another"
    await other.fetch_on_the_first()
    assert first.name == "1.zip"
    assert [copy.name[:2] for copy in hosts.copies()] == ["1-", "1-"]
    assert other.backend.open_results == 1
