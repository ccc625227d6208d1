"""Archives and exports over HTTP: whole, in parts, by tag, and a plain word while there is none. On virtual time."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx import Response

from crynux_async.testing import running_emulator
from tests.fake_backend import FakeBackend
from tests.integrations.web_lab import GOOD, PROBLEM, Web, opened_web


async def finished_archive(web: Web) -> str:
    path = await web.submit()
    await web.finished(path)
    return f"{path}/archive"


async def test_archive_comes_by_itself_whole_and_in_parts(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await finished_archive(web)
        whole, data = await web.client.get(path), web.backend.archive
        part = await web.client.get(path, headers={"Range": "bytes=10-19"})
        tail = await web.client.get(path, headers={"Range": "bytes=-5"})
        behind = await web.client.get(path, headers={"Range": f"bytes={len(data)}-"})
        head = await web.client.head(path)
    assert (whole.status_code, whole.content, whole.headers["content-type"]) == (200, data, "application/zip")
    assert whole.headers["content-disposition"] == 'attachment; filename="1.zip"'
    assert (part.status_code, part.content) == (206, data[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"
    assert (tail.status_code, tail.content) == (206, data[-5:])
    assert (behind.status_code, behind.headers["content-range"]) == (416, f"bytes */{len(data)}")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(data)), b"")


async def test_archive_that_the_caller_has_is_not_sent_again_and_a_changed_one_is_sent_whole(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await finished_archive(web)
        tag = (await web.client.head(path)).headers["etag"]
        same = await web.client.get(path, headers={"If-None-Match": f'"x", {tag}'})
        other = await web.client.get(path, headers={"If-None-Match": '"x"'})
        resumed = await web.client.get(path, headers={"Range": "bytes=4-", "If-Range": tag})
        changed = await web.client.get(path, headers={"Range": "bytes=4-", "If-Range": '"x"'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    assert (other.status_code, resumed.status_code, changed.status_code) == (200, 206, 200)


async def test_archive_that_is_not_there_yet_says_the_state_and_when_to_ask_again(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await web.submit()
        await web.crynux.session.jobs()[0].submitted()
        for tail in ("archive", "export"):
            answer = await web.client.get(f"{path}/{tail}")
            assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
            assert (answer.json()["state"], answer.headers["retry-after"]) == ("running", "5")


async def test_archive_of_a_job_that_failed_will_not_come_by_itself(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await web.submit({**GOOD, "model_name": "x/fail"})
        await web.finished(path)
        answer = await web.client.get(f"{path}/archive")
    assert (answer.status_code, answer.json()["state"]) == (409, "failed")
    assert "retry-after" not in answer.headers


async def test_archive_that_was_deleted_is_gone(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await finished_archive(web)
        for file in (tmp_path / "models").iterdir():
            file.unlink()
        answers = [await web.client.get(path), await web.client.get(path.replace("archive", "export"))]
    for answer in answers:
        assert answer.status_code == 410
        assert str(tmp_path) not in answer.text


@asynccontextmanager
async def two_hosts(folder: Path) -> AsyncIterator[tuple[Web, Web]]:
    """Run an application on two hosts with one ledger, each with a folder of its own."""
    backend, ledger = FakeBackend(), folder / "jobs.db"
    for name in ("one", "two"):
        (folder / name).mkdir()
    async with (
        opened_web(folder / "one", backend=backend, ledger=ledger, host="one") as one,
        opened_web(folder / "two", backend=backend, ledger=ledger, host="two") as two,
    ):
        yield one, two


async def archive_elsewhere(one: Web, two: Web) -> tuple[Web, str]:
    """Return a host, and the path there of an archive that only the other one has."""
    path = await finished_archive(one)
    job = await one.crynux.session.find(path.split("/")[-2])
    assert job is not None
    assert job.path is not None
    job.path.rename(job.path.with_name("kept"))  # where hosts share no disk, the other one does not see it
    return (two if job.host == "one" else one), path


async def patient_answer(web: Web, path: str) -> Response:
    """Return the answer of a route, asked again as long as it says that the archive is on its way."""
    for _ in range(20):
        answer = await web.client.get(path)
        if answer.status_code != 409:
            break
    return answer


async def test_archive_of_another_host_is_brought_from_the_service(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as (one, two):
        there, path = await archive_elsewhere(one, two)
        answers = [await patient_answer(there, path) for _ in range(2)]
        job = await there.crynux.session.find(path.split("/")[-2])
        assert job is not None
        assert (job.host, job.path) == (there.crynux.web.host, there.crynux.web.folder / "1.zip")
    assert [(answer.status_code, answer.content) for answer in answers] == [(200, one.backend.archive)] * 2
    assert one.backend.open_results == 2


async def test_archive_of_another_host_that_takes_its_time_is_asked_for_again(tmp_path: Path) -> None:
    async with two_hosts(tmp_path) as (one, two):
        there, path = await archive_elsewhere(one, two)
        one.backend.may_download.clear()
        waits = [await there.client.get(path), await there.client.get(path.replace("archive", "export"))]
        one.backend.may_download.set()
        answer = await patient_answer(there, path)
    for wait in waits:
        assert (wait.status_code, wait.headers["retry-after"], wait.json()["state"]) == (409, "5", "downloaded")
    assert (answer.status_code, answer.content) == (200, one.backend.archive)


async def test_export_is_one_safetensors_file_for_a_program_without_the_query_of_the_data_set(tmp_path: Path) -> None:
    async with running_emulator() as bridge:
        options: Any = bridge.settings()
        async with opened_web(tmp_path, backend="bridge", **options) as web:
            path = await web.submit({**GOOD, "dataset_url": "https://example.com/a.zip?token=topsecret"})
            await web.finished(path)
            answers = {
                program: await web.client.get(f"{path}/export", params={"program": program})
                for program in ("all", "diffusers", "all")
            }
            unknown = await web.client.get(f"{path}/export", params={"program": "paint"})
    for answer in answers.values():
        size = int.from_bytes(answer.content[:8], "little")
        header = json.loads(answer.content[8 : 8 + size])
        assert (answer.status_code, len(header) > 1) == (200, True)
        assert header["__metadata__"]["base_model"] == GOOD["model_name"]
        assert b"topsecret" not in answer.content
    assert answers["all"].content != answers["diffusers"].content
    assert unknown.status_code == 422


@pytest.mark.parametrize("label", ["../../etc/passwd", "a\nb", 'a"b', "é"])
async def test_label_is_no_part_of_where_an_archive_is_or_what_it_is_called(tmp_path: Path, label: str) -> None:
    async with opened_web(tmp_path, backend=FakeBackend()) as web:
        path = await web.submit(params={"label": label})
        await web.finished(path)
        answer = await web.client.get(f"{path}/archive")
    assert answer.headers["content-disposition"] == 'attachment; filename="1.zip"'
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["1.zip"]
