"""Downloads through the bridge's backend, from a file server on loopback that can be told to break off."""

import asyncio
import io
import os
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from crynux_async.backends.bridge.http import BridgeClient
from crynux_async.downloads.pace import DownloadOptions
from crynux_async.downloads.transfer import DownloadedFile, download
from crynux_async.errors import ArchiveError, CorruptArchiveError
from crynux_async.settings import Settings
from tests.fake_result import names_in, some_bytes

SIZE = 3_000_000
KEY = "testKEYtestKEY0123456789-_abcdefghijklmnopqr="


class FileServer:
    """Serves one file as the bridge does: ranges, ``If-Range``, no ETag.

    Attributes:
        cuts: After how many bytes of the body the next answers break off.
        asked: ``Range`` and ``If-Range`` of every request.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "result.zip"
        self.cuts: list[int] = []
        self.asked: list[tuple[str | None, str | None]] = []

    def publish(self, content: bytes, modified: int) -> None:
        self.path.write_bytes(content)
        os.utime(self.path, (modified, modified))

    async def result(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.headers.get("Range"), request.headers.get("If-Range")))
        body, stat = self.path.read_bytes(), self.path.stat()
        response = web.StreamResponse(headers={"Content-Type": "application/zip", "Accept-Ranges": "bytes"})
        response.last_modified = int(stat.st_mtime)
        first = request.http_range.start or 0
        if first and request.headers.get("If-Range") in (None, response.headers["Last-Modified"]):
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            body = body[first:]
        response.content_length = len(body)
        await response.prepare(request)
        part = body[: self.cuts.pop(0)] if self.cuts else body
        await response.write(part)
        if len(part) < len(body):
            await asyncio.sleep(0.1)  # aiohttp drops what it has not handed out when a connection breaks
            assert request.transport is not None
            request.transport.close()
        return response


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[FileServer, BridgeClient]]:
    server = FileServer(folder)
    app = web.Application()
    app.router.add_get("/v1/images/models/7/result", server.result)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    backend = BridgeClient(Settings(api_key=KEY, base_url=f"http://{host}:{port}", trust_env=False))
    try:
        yield server, backend
    finally:
        await backend.close()
        await runner.cleanup()


def archive(seed: str, size: int = SIZE) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("pytorch_lora_weights.safetensors"), some_bytes(size, seed))
    return buffer.getvalue()


def verify(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{path} is no ZIP: {error}") from error
    if bad is not None:
        raise ArchiveError(f"{bad} in {path} is damaged")


async def fetch(backend: BridgeClient, path: Path) -> DownloadedFile:
    options = DownloadOptions(free_space_margin=0)
    return await download(partial(backend.open_result, 7), path, verify=verify, options=options)


async def test_archive_over_http_arrives_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, backend):
        server.publish(archive("first"), 1_767_600_000)
        done = await fetch(backend, tmp_path / "out" / "7.zip")
    assert done.path.read_bytes() == server.path.read_bytes()
    assert names_in(done.path.parent) == {"7.zip"}


async def test_archive_over_http_cut_many_times_is_continued_with_range_and_if_range(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, backend):
        server.publish(archive("first"), 1_767_600_000)
        server.cuts = [400_000] * 5
        done = await fetch(backend, tmp_path / "out" / "7.zip")
    assert done.path.read_bytes() == server.path.read_bytes()
    assert server.asked[0] == (None, None)
    assert len(server.asked) == 6
    assert all(span and date == "Mon, 05 Jan 2026 08:00:00 GMT" for span, date in server.asked[1:])
    assert done.fetched_bytes == done.total_bytes


async def test_archive_over_http_that_changes_between_two_requests_is_the_new_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as (server, backend):
        server.publish(archive("first"), 1_767_600_000)
        server.cuts = [1_000_000, 0]
        task = asyncio.create_task(fetch(backend, tmp_path / "out" / "7.zip"))
        await asyncio.sleep(0.5)
        server.publish(archive("second"), 1_767_600_001)
        done = await task
    assert done.path.read_bytes() == archive("second")


async def test_archive_over_http_is_continued_by_another_backend(tmp_path: Path) -> None:
    path = tmp_path / "out" / "7.zip"
    async with serving(tmp_path) as (server, backend):
        server.publish(archive("first"), 1_767_600_000)
        server.cuts = [2_000_000]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.9):
                await fetch(backend, path)
    kept = path.with_name("7.zip.part").stat().st_size
    async with serving(tmp_path) as (server, backend):
        done = await fetch(backend, path)
    assert 0 < kept <= 2_000_000
    assert (done.resumed_from, done.fetched_bytes) == (kept, done.total_bytes - kept)
    assert server.asked == [(f"bytes={kept}-", "Mon, 05 Jan 2026 08:00:00 GMT")]


async def test_damaged_archive_over_http_is_put_aside(tmp_path: Path) -> None:
    damaged = bytearray(archive("first"))
    damaged[1_000_000] ^= 1
    async with serving(tmp_path) as (server, backend):
        server.publish(bytes(damaged), 1_767_600_000)
        with pytest.raises(CorruptArchiveError):
            await fetch(backend, tmp_path / "out" / "7.zip")
    assert names_in(tmp_path / "out") == {"7.zip.corrupt"}
    assert len(server.asked) == 2
