"""A job's downloads: who hears of what, where files are when they are asked for again, and what the ledger knows."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crynux_async import JobState, Session, UsageError
from crynux_async.clock import monotonic
from crynux_async.downloads import reservations
from crynux_async.errors import CorruptArchiveError, IncompleteError, LedgerBusyError
from crynux_async.events import ArchiveReady, DownloadFailed
from crynux_async.ledgers.memory import MemoryLedger
from tests.fake_backend import FakeBackend, make_config
from tests.fake_result import names_in


def open_session(backend: FakeBackend, ledger: MemoryLedger | None = None, **settings: Any) -> Session:
    return Session(backend=backend, api_key="k" * 44, rate_limit=6000, ledger=ledger, **settings)


@pytest.fixture
async def backend() -> FakeBackend:
    return FakeBackend(duration=1.0)


async def model_of(session: Session) -> Any:
    job = await session.submit(make_config())
    await job
    return job


# What ends a download


async def test_download_into_a_folder_with_a_nul_is_a_typed_error_in_a_task_group(backend: FakeBackend) -> None:
    async with open_session(backend) as session:
        job = await model_of(session)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(job.download("a\0b"))
        [error] = caught.value.exceptions
        assert isinstance(error, UsageError)
        assert error.field == "folder"


async def test_download_without_a_thread_reaches_its_caller_as_it_was(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Path:
        raise RuntimeError("can't start new thread")

    async with open_session(backend) as session:
        job = await model_of(session)
        monkeypatch.setattr(reservations, "reserve_path", refuse)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(job.download(tmp_path))
        assert caught.group_contains(RuntimeError, match="can't start new thread")
        monkeypatch.undo()
        assert (await job.download(tmp_path)).name == "1.zip"


async def test_download_that_a_closing_session_ends_is_a_usage_error(backend: FakeBackend, tmp_path: Path) -> None:
    backend.may_download.clear()
    async with open_session(backend) as session:
        job = await model_of(session)
        downloads = [asyncio.create_task(job.download(tmp_path)) for _ in range(2)]
        await asyncio.sleep(1)
    for each in downloads:
        with pytest.raises(UsageError, match="closed"):
            await each


async def test_result_without_a_lora_is_fetched_once(backend: FakeBackend, tmp_path: Path) -> None:
    backend.archive = without_lora(tmp_path)
    async with open_session(backend) as session:
        job = await model_of(session)
        with pytest.raises(CorruptArchiveError, match="no LoRA came out of this training"):
            await job.download(tmp_path / "out")
        assert backend.open_results == 1
        assert names_in(tmp_path / "out") == {"1.zip.corrupt"}


def without_lora(folder: Path) -> bytes:
    from tests.archive_files import write_zip

    path = write_zip(folder / "mock.zip", {"global_step.txt": b"10", "FINISH": b""})
    data = path.read_bytes()
    path.unlink()
    return data


# Asking again


async def test_two_folders_in_turn_are_one_file_each(backend: FakeBackend, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    async with open_session(backend) as session:
        job = await model_of(session)
        paths = [await job.download(folder) for folder in (a, b, a, b)]
    assert paths == [a / "1.zip", b / "1.zip", a / "1.zip", b / "1.zip"]
    assert (names_in(a) | names_in(b)) == {"1.zip"}


async def test_file_that_was_cut_meanwhile_is_not_returned(backend: FakeBackend, tmp_path: Path) -> None:
    async with open_session(backend) as session:
        job = await model_of(session)
        path = await job.download(tmp_path)
        os.truncate(path, 100)
        again = await job.download(tmp_path)
        assert again == tmp_path / "1-2.zip"
        assert again.read_bytes() == backend.archive
        assert job.path == again


async def test_other_name_is_honoured(backend: FakeBackend, tmp_path: Path) -> None:
    async with open_session(backend) as session:
        job = await model_of(session)
        names = [(await job.download(tmp_path, name=name)).name for name in ("{task_id}.zip", "cat.zip", "cat.zip")]
    assert names == ["1.zip", "cat.zip", "cat.zip"]
    assert names_in(tmp_path) == {"1.zip", "cat.zip"}


@pytest.mark.parametrize("name", ["../cat.zip", "cats/{task_id}.zip", "cats\\{task_id}.zip"])
async def test_path_in_place_of_a_name_is_refused(backend: FakeBackend, tmp_path: Path, name: str) -> None:
    async with open_session(backend) as session:
        job = await model_of(session)
        with pytest.raises(UsageError, match="is a path; give its folder as the folder") as caught:
            await job.download(tmp_path / "a", name=name)
        with pytest.raises(UsageError, match="is a path"):
            await session.submit(make_config(), folder=tmp_path, file_name=name)
    assert caught.value.field == "name"
    assert (backend.creates, names_in(tmp_path)) == (1, set())


async def test_folder_is_remembered_as_an_absolute_path(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await model_of(session)
        assert await job.download("models") == tmp_path / "models" / "1.zip"
    [row] = await ledger.jobs()
    assert (row.folder, row.path) == (str(tmp_path / "models"), str(tmp_path / "models" / "1.zip"))


async def test_task_that_is_attached_again_after_it_was_downloaded_is_not_fetched_again(
    backend: FakeBackend, tmp_path: Path
) -> None:
    ledger = MemoryLedger()
    for _ in range(2):
        async with open_session(backend, ledger) as session:
            job = session.attach("1") if backend.creates else await model_of(session)
            assert await job.download(tmp_path) == tmp_path / "1.zip"
            assert (job.state, job.path) == (JobState.DOWNLOADED, tmp_path / "1.zip")
    assert (backend.open_results, names_in(tmp_path)) == (1, {"1.zip"})


# Until the ledger knows


def record_notes(ledger: MemoryLedger, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Record what lies in a folder each time when the ledger is told where an archive is."""
    seen: list[set[str]] = []

    async def change(fence: Any, changes: Any) -> Any:
        if any(each.columns.get("path") for each in changes):
            seen.append(names_in(folder))
        return await original(fence, changes)

    original = ledger.change
    monkeypatch.setattr(ledger, "change", change)
    return seen


async def test_note_stays_beside_the_file_until_the_ledger_has_its_place(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await model_of(session)
        seen = record_notes(ledger, tmp_path, monkeypatch)
        await job.download(tmp_path)
        assert seen == [{"1.zip", "1.zip.part.json"}]
        assert names_in(tmp_path) == {"1.zip"}
        [row] = await ledger.jobs()
        assert (row.path, row.state) == (str(tmp_path / "1.zip"), JobState.DOWNLOADED)


async def test_file_of_a_ledger_that_is_busy_is_returned_and_its_note_goes_when_it_can_be_told(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> None:
        raise LedgerBusyError("the ledger is locked")

    ledger = MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await model_of(session)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "change", busy)
            assert await job.download(tmp_path) == tmp_path / "1.zip"
            assert names_in(tmp_path) == {"1.zip", "1.zip.part.json"}
            await asyncio.sleep(60)
            assert names_in(tmp_path) == {"1.zip", "1.zip.part.json"}
        await until(lambda: names_in(tmp_path) == {"1.zip"})
        [row] = await ledger.jobs()
        assert row.path == str(tmp_path / "1.zip")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(600):
        while not condition():
            await asyncio.sleep(1)


async def test_file_of_a_process_that_ended_before_the_ledger_knew_is_found_by_the_next(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: object) -> None:
        raise LedgerBusyError("the ledger is locked")

    ledger = MemoryLedger()
    async with open_session(backend, ledger) as session:
        job = await model_of(session)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "change", busy)
            await job.download(tmp_path)
    backend.result_error = RuntimeError("asked again")
    async with open_session(backend, ledger) as session:
        [row] = await session.history()
        again = session.attach(str(row.task_id))
        assert await again.download(tmp_path) == tmp_path / "1.zip"
    assert names_in(tmp_path) == {"1.zip"}


# Slots and events


async def test_silent_results_do_not_keep_a_healthy_one_waiting(
    backend: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_session(backend, max_downloads=4) as session:
        jobs = [await model_of(session) for _ in range(5)]
        silent = {job.task_id for job in jobs[:4]}
        be_silent(backend, silent, monkeypatch)
        began = monotonic()
        downloads = [asyncio.create_task(job.download(tmp_path)) for job in jobs]
        await downloads[-1]
        assert monotonic() - began <= session.settings.read_timeout + 1
        for each in await asyncio.gather(*downloads[:4], return_exceptions=True):
            assert isinstance(each, IncompleteError)


def be_silent(backend: FakeBackend, silent: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    original = backend.open_result

    class Silent:
        async def __aenter__(self) -> None:
            await asyncio.Event().wait()

        async def __aexit__(self, *_: object) -> None:
            return None

    def open_result(task: Any, **options: Any) -> Any:
        return Silent() if task.task_id in silent else original(task, **options)

    monkeypatch.setattr(backend, "open_result", open_result)


async def test_shared_download_that_fails_is_told_once(backend: FakeBackend, tmp_path: Path) -> None:
    backend.archive = b"no archive at all"
    async with open_session(backend) as session:
        job = await model_of(session)
        told: list[Any] = []

        async def listen() -> None:
            async for event in job.events():
                told.append(event)

        downloads = [asyncio.create_task(job.download(tmp_path)) for _ in range(3)]
        await asyncio.sleep(0)
        listening = asyncio.create_task(listen())
        await asyncio.gather(*downloads, return_exceptions=True)
        await listening
    assert sum(isinstance(event, DownloadFailed) for event in told) == 1
    assert not any(isinstance(event, ArchiveReady) for event in told)
