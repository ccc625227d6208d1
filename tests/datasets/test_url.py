"""Whether a node could load a data set from an address: the decision, and the requests."""

import asyncio
import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from crynux_async.datasets import UrlObservation, UrlReport, check_url, fresh_url, judge_url
from crynux_async.datasets.url_rules import extracted_as, stored_name
from crynux_async.errors import UsageError


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 600
        archive.addfile(info, io.BytesIO(bytes(600)))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", b"x")
    return buffer.getvalue()


ZIP, TAR = _zip(), _tar()
TAR_GZ, TAR_BZ2, TAR_XZ = gzip.compress(TAR, mtime=0), bz2.compress(TAR), lzma.compress(TAR)
PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"


def observed(url: str = "https://files.example.com/cats.zip", **facts: Any) -> UrlObservation:
    """A good answer, but for these facts."""
    known = {"head_status": 200, "get_status": 200, "size": 1000, "head": ZIP}
    return UrlObservation(url=url, **{**known, **facts})


def error_codes(observation: UrlObservation) -> set[str]:
    return {problem.code for problem in judge_url(observation) if problem.severity == "error"}


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("cats.zip", ZIP),
        ("CATS.ZIP", ZIP),
        ("my.data-v1.0.zip", ZIP),
        ("cats.tar", TAR),
        ("cats.tar", TAR_GZ),
        ("cats.tar.gz", TAR_GZ),
        ("cats.Tar.Gz", TAR_GZ),
        ("cats.tar.bz2", TAR_BZ2),
        ("cats.tar.xz", TAR_XZ),
        ("a" * 247 + ".zip", ZIP),
        ("Hc3mYfRtPqkB", ZIP),
        ("Hc3mYfRtPqkB", TAR_GZ),
        ("Hc3mYfRtPqkB", TAR_XZ),
    ],
)
@pytest.mark.parametrize("query", ["", "?v=1", "?download=1&x=a.tgz"])
def test_judge_address_of_an_archive_is_loadable(name: str, head: bytes, query: str) -> None:
    assert error_codes(observed(f"https://files.example.com/{name}{query}", head=head)) == set()


@pytest.mark.parametrize(
    ("name", "head", "code"),
    [
        ("cats.tgz", TAR_GZ, "CX354"),
        ("cats.txz", TAR_XZ, "CX354"),
        ("my.data-v1.0", ZIP, "CX354"),
        ("cats.7z", b"7z\xbc\xaf\x27\x1c", "CX354"),
        ("cats.rar", b"Rar!\x1a\x07", "CX354"),
        ("cats.gz", gzip.compress(b"x", mtime=0), "CX354"),
        ("cats.parquet", b"PAR1", "CX355"),
        ("cats.csv", b"file_name,text", "CX355"),
        ("metadata.jsonl", b"{}", "CX355"),
        ("cat.png", b"\x89PNG", "CX355"),
        ("dataset", TAR, "CX356"),
        ("dataset", gzip.compress(b"not a tar" * 100, mtime=0), "CX356"),
        ("dataset", b"\x1f\x8bno gzip", "CX356"),
        ("dataset", b"PAR1", "CX356"),
        ("dataset", b"7z\xbc\xaf\x27\x1c", "CX356"),
        ("cats.zip", PAGE, "CX357"),
        ("cats.zip", b"\n <html>", "CX357"),
        ("cats.zip", TAR_GZ, "CX357"),
        ("cats.tar.gz", TAR, "CX357"),
        ("cats.tar.gz", gzip.compress(b"not a tar" * 100, mtime=0), "CX357"),
        ("cats.tar", ZIP, "CX357"),
        (".ZIP", ZIP, "CX358"),
        ("..", ZIP, "CX358"),
        ("a" * 248 + ".zip", ZIP, "CX358"),
    ],
)
def test_judge_address_that_no_node_can_load_is_an_error(name: str, head: bytes, code: str) -> None:
    assert code in error_codes(observed(f"https://files.example.com/{name}", head=head))


def test_judge_plain_tar_without_extension_works_when_the_type_says_tar() -> None:
    url = "https://files.example.com/dataset"
    assert error_codes(observed(url, head=TAR, content_type="application/x-tar")) == set()
    assert error_codes(observed(url, head=TAR, content_type="application/octet-stream")) == {"CX356"}


def test_judge_plain_tar_without_extension_fails_when_the_type_says_zip() -> None:
    assert error_codes(observed("https://a.example/dataset", head=TAR, content_type="application/zip")) == {"CX357"}


def test_judge_bzip2_that_is_too_long_to_look_into_is_a_warning() -> None:
    observation = observed("https://a.example/dataset", head=TAR_BZ2[: len(TAR_BZ2) // 2])
    assert {problem.code: problem.severity for problem in judge_url(observation)}["CX363"] == "warning"
    assert error_codes(observation) == set()


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"failure": "no connection", "head_status": None}, "CX351"),
        ({"head_status": 405}, "CX352"),
        ({"head_status": 401}, "CX352"),
        ({"head_status": 403}, "CX352"),
        ({"head_status": 404}, "CX352"),
        ({"head_status": 500}, "CX352"),
        ({"get_status": 403}, "CX353"),
        ({"get_status": None}, "CX353"),
        ({"size": 0}, "CX357"),
        ({"head": b""}, "CX357"),
    ],
)
def test_judge_answer_that_stops_a_node_is_an_error(facts: dict[str, Any], code: str) -> None:
    assert error_codes(observed(**facts)) == {code}


@pytest.mark.parametrize(
    "url", ["ftp://a.example/cats.zip", "cats.zip", "https:///cats.zip", "", "http://[bad/cats.zip"]
)
def test_judge_address_that_is_not_http_is_an_error(url: str) -> None:
    assert error_codes(UrlObservation(url=url)) == {"CX350"}


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:8000", "10.1.2.3", "192.168.0.5", "[::1]", "nas.local", "fileserver"]
)
def test_judge_private_host_is_a_warning(host: str) -> None:
    found = judge_url(observed(f"http://{host}/cats.zip"))
    assert {problem.code: problem.severity for problem in found}["CX359"] == "error"


def test_judge_public_host_is_no_warning() -> None:
    assert {problem.code for problem in judge_url(observed("http://93.184.216.34/cats.zip"))} == {"CX361", "CX362"}


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@a.example/cats.zip",
        "https://hunter2@a.example/cats.zip",
        "https://a.example/cats.zip?X-Amz-Signature=hunter2",
        "https://a.example/cats.zip?token=hunter2",
    ],
)
def test_judge_secret_in_the_address_is_a_warning_that_does_not_repeat_it(url: str) -> None:
    found = judge_url(observed(url))
    assert "CX360" in {problem.code for problem in found}
    assert "hunter2" not in repr(found) + repr(observed(url))


def test_judge_always_reminds_of_the_nodes_cache() -> None:
    assert {"CX361", "CX362"} <= {problem.code for problem in judge_url(observed())}


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="my cats.zip"', "my cats.zip"),
        ("attachment; filename=cats.zip; size=5", "cats.zip"),
        ("attachment; filename*=UTF-8''cats%20a.zip", "UTF-8cats a.zip"),
        ("attachment; filename='../../cats.zip'", "....cats.zip"),
        ("attachment", "dataset.tgz"),
        ('attachment; filename=""', "dataset.tgz"),
        (None, "dataset.tgz"),
    ],
)
def test_stored_name_comes_from_the_header_else_from_the_address(disposition: str | None, name: str) -> None:
    assert stored_name("https://a.example/x/dataset.tgz?name=y.zip", disposition) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.example/", "dataset"),
        ("https://a.example", "dataset"),
        ("https://a.example/a%20b%2Fc.zip", "a bc.zip"),
        ("https://a.example/дата.zip", "дата.zip"),
    ],
)
def test_stored_name_of_an_address_is_decoded_and_cleaned(url: str, name: str) -> None:
    assert stored_name(url, None) == name


def test_disposition_with_an_extension_rescues_an_address_without() -> None:
    observation = observed("https://a.example/download.php", content_disposition="attachment; filename=cats.zip")
    assert error_codes(observation) == set()


def test_extension_in_the_name_goes_before_the_content() -> None:
    assert extracted_as("cats.tgz", ZIP, "application/zip") == ""


@pytest.mark.parametrize(
    ("url", "fresh"),
    [
        ("https://a.example/cats.zip", "https://a.example/cats.zip?v=abcdef012345"),
        ("https://a.example/cats.zip?v=old", "https://a.example/cats.zip?v=abcdef012345"),
        ("https://a.example/c.zip?a=%2f+b&v=old&c#part", "https://a.example/c.zip?a=%2f+b&c&v=abcdef012345#part"),
        ("https://a.example/c.zip?ver=1", "https://a.example/c.zip?ver=1&v=abcdef012345"),
    ],
)
def test_fresh_url_replaces_only_the_version(url: str, fresh: str) -> None:
    assert fresh_url(url, "abcdef0123456789") == fresh


@settings(max_examples=100)
@given(st.text("ab=&v?/%#", max_size=20), st.text("0123456789abcdef", min_size=1, max_size=64))
def test_fresh_url_again_with_the_same_hash_changes_nothing(tail: str, content_hash: str) -> None:
    once = fresh_url(f"https://a.example/{tail}", content_hash)
    assert fresh_url(once, content_hash) == once


@pytest.mark.parametrize("content_hash", ["", "a&b=c", "../x"])
def test_fresh_url_with_something_that_is_no_hash_is_a_usage_error(content_hash: str) -> None:
    with pytest.raises(UsageError, match="content_hash"):
        fresh_url("https://a.example/cats.zip", content_hash)


# ---- the requests, against a server on this machine ----

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@attrs.define(eq=False)
class Files:
    """A small server, and the requests it got."""

    base: str = ""
    seen: list[tuple[str, str, str]] = attrs.field(factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.path, request.headers.get("Range", "")))
        kind = request.path.strip("/").partition("/")[0]
        if kind.startswith("moved"):
            raise web.HTTPFound("/ok/cats.zip" if kind == "moved" else request.path)
        if kind == "noget" and request.method == "GET":
            raise web.HTTPForbidden
        if kind == "nohead" and request.method == "HEAD":
            raise web.HTTPMethodNotAllowed("HEAD", ["GET"])
        if kind == "gone":
            raise web.HTTPNotFound
        if kind == "named":
            return web.Response(body=ZIP, headers={"Content-Disposition": "attachment; filename=cats.tgz"})
        if kind == "page":
            return web.Response(body=PAGE, content_type="text/html")
        if kind == "long":
            return await self._long(request)
        if kind in {"ranged", "unsized"} and request.method == "GET":
            total = "5000000000" if kind == "ranged" else "*"
            return web.Response(status=206, body=ZIP, headers={"Content-Range": f"bytes 0-{len(ZIP) - 1}/{total}"})
        return web.Response(body=ZIP)

    async def _long(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(1 << 30)})
        await response.prepare(request)
        if request.method == "GET":
            await response.write(ZIP + bytes(100_000))
        return response


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    server = Files()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


def errors(report: UrlReport) -> set[str]:
    """Return the codes of the errors, but for the one that every address on this machine has."""
    return {problem.code for problem in report.problems if problem.severity == "error"} - {"CX359"}


@pytest.mark.real_time
async def test_check_url_good_archive_on_this_machine_has_no_fault_but_where_it_is(files: Files) -> None:
    report = await check_url(f"{files.base}/ok/cats.zip")
    assert (report.loadable, errors(report)) == (False, set())
    assert (report.name, report.archive, report.size) == ("cats.zip", ".zip", len(ZIP))


@pytest.mark.real_time
async def test_check_url_asks_head_and_then_the_first_bytes(files: Files) -> None:
    await check_url(f"{files.base}/ok/cats.zip")
    assert files.seen == [("HEAD", "/ok/cats.zip", ""), ("GET", "/ok/cats.zip", "bytes=0-65535")]


@pytest.mark.real_time
async def test_check_url_redirect_is_followed_and_the_first_name_counts(files: Files) -> None:
    report = await check_url(f"{files.base}/moved/dogs.zip")
    assert (errors(report), report.name, report.observation.redirects) == (set(), "dogs.zip", 1)


@pytest.mark.real_time
async def test_check_url_redirect_to_an_archive_from_a_name_with_another_dot_fails(files: Files) -> None:
    assert errors(await check_url(f"{files.base}/moved/download.php")) == {"CX354"}


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("nohead/cats.zip", "CX352"),
        ("gone/cats.zip", "CX352"),
        ("noget/cats.zip", "CX353"),
        ("named/cats.zip", "CX354"),
        ("page/cats.zip", "CX357"),
        ("moved-in-a-circle/cats.zip", "CX351"),
    ],
)
async def test_check_url_that_no_node_can_load_is_not_loadable(path: str, code: str, files: Files) -> None:
    report = await check_url(f"{files.base}/{path}")
    assert (report.loadable, errors(report)) == (False, {code})


@pytest.mark.real_time
async def test_check_url_after_a_refused_head_asks_nothing_more(files: Files) -> None:
    await check_url(f"{files.base}/nohead/cats.zip")
    assert [method for method, _, _ in files.seen] == ["HEAD"]


@pytest.mark.real_time
async def test_check_url_thirty_redirects_are_not_too_many(files: Files) -> None:
    report = await check_url(f"{files.base}/moved-in-a-circle/cats.zip")
    assert len(files.seen) == 31
    assert "redirects" in report.problems[0].message


@pytest.mark.real_time
async def test_check_url_server_that_ignores_the_range_is_not_read_to_the_end(files: Files) -> None:
    report = await check_url(f"{files.base}/long/cats.zip")
    assert not errors(report)
    assert (report.size, len(report.observation.head)) == (1 << 30, 65_536)


@pytest.mark.real_time
async def test_check_url_size_comes_from_the_range_answer(files: Files) -> None:
    assert (await check_url(f"{files.base}/ranged/cats.zip")).size == 5_000_000_000


@pytest.mark.real_time
async def test_check_url_range_answer_without_a_size_keeps_that_of_head(files: Files) -> None:
    assert (await check_url(f"{files.base}/unsized/cats.zip")).size == len(ZIP)


@pytest.mark.real_time
async def test_check_url_nobody_there_is_a_finding(files: Files, unused_tcp_port: int) -> None:
    report = await check_url(f"http://127.0.0.1:{unused_tcp_port}/cats.zip?token=hunter2")
    assert errors(report) == {"CX351"}
    assert "hunter2" not in repr(report)


@pytest.mark.real_time
async def test_check_url_not_http_is_decided_without_a_request() -> None:
    assert errors(await check_url("ipfs://bafy/cats.zip")) == {"CX350"}


@pytest.mark.real_time
async def test_check_url_uses_the_session_and_leaves_it_open(files: Files) -> None:
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        assert errors(await check_url(f"{files.base}/gone/cats.zip", session=session)) == {"CX352"}
        assert not session.closed


@pytest.mark.real_time
async def test_check_url_session_with_credentials_is_refused(files: Files) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer x"}) as session:
        with pytest.raises(UsageError, match="without credentials"):
            await check_url(f"{files.base}/ok/cats.zip", session=session)
    assert files.seen == []


async def test_check_url_silent_server_is_given_up_at_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def __aenter__(self) -> Any:
            await asyncio.Event().wait()

        async def __aexit__(self, *_: object) -> None:
            return None

    monkeypatch.setattr(aiohttp.ClientSession, "head", lambda *_, **__: Silent())
    report = await check_url("https://files.example.com/cats.zip", timeout=7)
    assert "nothing within 7 seconds" in report.problems[0].message
