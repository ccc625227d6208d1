"""The watching page over HTTP: who may see it, what it shows and never shows, and what browsers are told to refuse."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from fastapi import FastAPI

from crynux_async import LedgerBusyError, LedgerError, UsageError
from crynux_async.clock import utc_now
from crynux_async.integrations.fastapi import Crynux, Limits
from crynux_async.ledgers.base import AttemptRow, Fence, JobRow
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.states import JobState
from crynux_async.training.config import FineTuneConfig
from tests.fake_backend import FakeBackend
from tests.integrations.web_lab import GOOD, EventSource, Web, known_customer, opened_web

HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"
SIGNED = "https://storage.example.com/pictures.zip?X-Amz-Signature=secretquery"
ANN, BOB = {"X-Customer": "ann"}, {"X-Customer": "bob"}


def paged(web: Web, path: str = "/board") -> Web:
    web.app.include_router(web.crynux.page(path))
    return web


def row(number: int, **changes: Any) -> JobRow:
    """Return a job as a ledger has it, planned ``number`` minutes ago."""
    plain: dict[str, Any] = {
        "job_id": f"j{number:032x}",
        "backend": "fake",
        "key_id": "fake-key",
        "config": FineTuneConfig(**GOOD),
        "label": f"job {number}",
        "state": JobState.FAILED,
        "planned_at": utc_now() - timedelta(minutes=number),
        "submitted_at": utc_now() - timedelta(minutes=number),
        "ended_at": utc_now(),
        "task_id": str(1000 + number),
    }
    return JobRow(**{**plain, **changes})


async def test_page_needs_somebody_who_says_who_may_come_in(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="say who may come in"):
        Crynux(ledger=None, folder=tmp_path).page()


async def test_every_address_of_the_page_asks_who_comes(tmp_path: Path) -> None:
    async with opened_web(tmp_path, authorize=known_customer, tenant=known_customer) as opened:
        web = paged(opened)
        job = (await web.submit(headers=ANN)).replace("/jobs", "/board/jobs")
        tails = ("", "/stream", "/archive", "/export", "/images/0")
        asks = ["/board", "/board/stream", "/board/sweep?name=x", "/board/sweep/stream?name=x", "/board/static/live.js"]
        answers = [await web.client.get(at) for at in [*asks, *(f"{job}{tail}" for tail in tails)]]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}


async def test_board_and_job_are_pages_with_a_policy_that_allows_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        job = (await web.submit(params={"label": "portraits"})).replace("/jobs", "/board/jobs")
        answers = [await web.client.get(at) for at in ("/board", job, "/board/jobs/unknown", "/board?show=nonsense")]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 422]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"].startswith("text/html")
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]* src=)|\sstyle=|\son\w+=|javascript:", answer.text)
    assert "portraits" in answers[0].text
    assert "Nothing is paid yet" in answers[1].text or "runs it" in answers[1].text


async def test_files_that_pages_load_are_there_and_no_others(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        page = (await web.client.get("/board")).text
        loaded = re.findall(r'(?:src|href)="(/board/static/[^"]+)"', page)
        answers = [await web.client.get(at) for at in loaded]
        others = [
            await web.client.get(f"/board/static/{name}") for name in ("page.py", "../page.py", "echarts.LICENSE")
        ]
    assert len(loaded) == 4
    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.headers["content-type"].partition(";")[0] for answer in answers} == {
        "text/css",
        "text/javascript",
        "image/svg+xml",
    }
    assert [answer.status_code for answer in others] == [404] * 3


async def test_pages_may_be_looked_at_and_nothing_else(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        await web.submit()
        head = await web.client.head("/board")
        changes = [await web.client.request(method, "/board") for method in ("POST", "PUT", "DELETE", "PATCH")]
    assert (head.status_code, head.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert {answer.status_code for answer in changes} == {405}


async def test_tenant_sees_their_own_jobs_sums_and_sweeps_alone(tmp_path: Path) -> None:
    async with opened_web(tmp_path, authorize=known_customer, tenant=known_customer) as opened:
        web = paged(opened)
        options = {"label": "anns-secret", "tag": "sweep:anns-sweep"}
        path = (await web.submit(headers=ANN, params=options)).replace("/jobs", "/board/jobs")
        await web.finished(path.replace("/board", ""), headers=ANN)
        own = await web.client.get("/board", headers=ANN)
        other = await web.client.get("/board", headers=BOB)
        tails = ("", "/stream", "/archive", "/export", "/images/0")
        foreign = [await web.client.get(f"{path}{tail}", headers=BOB) for tail in tails]
        foreign += [await web.client.get(at, headers=BOB) for at in ("/board/sweep?name=anns-sweep",)]
        foreign += [await web.client.get(f"/board?before={path.rpartition('/')[2]}", headers=BOB)]
        sweep = await web.client.get("/board/sweep?name=anns-sweep", headers=ANN)
    assert "anns-secret" in own.text
    assert "anns-sweep" in own.text
    assert "No job yet" in other.text
    assert "anns" not in other.text
    assert {answer.status_code for answer in foreign} == {404}
    assert sweep.status_code == 200


async def test_sweep_of_another_tenant_with_the_same_name_tells_nothing_of_its_base(tmp_path: Path) -> None:
    async with opened_web(tmp_path, authorize=known_customer, tenant=known_customer) as opened:
        web = paged(opened)
        note = {"base": {**GOOD, "model_name": "somebody/elses-model"}}
        await web.crynux.session.ledger.put_note("sweep", "cats", note)
        await web.submit(headers=ANN, params={"tag": "sweep:cats"})
        answer = await web.client.get("/board/sweep?name=cats", headers=ANN)
    assert answer.status_code == 200
    assert "elses-model" not in answer.text


async def test_what_others_wrote_is_shown_and_never_run(tmp_path: Path) -> None:
    backend = FakeBackend(duration=60)
    async with opened_web(tmp_path, backend=backend) as opened:
        web = paged(opened)
        options = {"label": HOSTILE, "group": HOSTILE, "tag": [f"note:{HOSTILE}", f"sweep:{HOSTILE}"]}
        job = (await web.submit(params=options)).replace("/jobs", "/board/jobs")
        sent = [row(2, reason=HOSTILE, label=HOSTILE)]
        await web.crynux.session.ledger.add(sent)
        pages = [await web.client.get(at) for at in ("/board", job, f"/board/jobs/{sent[0].job_id}")]
        pages += [await web.client.get("/board", params={"search": HOSTILE})]
        pages += [await web.client.get("/board/sweep", params={"name": HOSTILE})]
    for page in pages:
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert "{{ 7*7 }}" in page.text


async def test_page_names_no_path_host_key_or_query(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        # The data set's address holds a login for whoever has it; everything else is what errors of this library hold.
        config = {**GOOD, "dataset_url": SIGNED}
        ledger = web.crynux.session.ledger
        error = f"cannot reach https://bridge.internal:5028 with {'k' * 44}: see {tmp_path}/models/9.zip"
        troubled = [
            row(2, error=error, reason="", config=FineTuneConfig(**config)),
            row(3, state=JobState.PLANNED, error=error, submitted_at=None, ended_at=None, task_id=None),
            row(4, state=JobState.DOWNLOADED, path=f"{tmp_path}/models/4.zip", host="machine-7", folder=str(tmp_path)),
        ]
        troubled = [attrs.evolve(each, tags={"sweep": "cats"}) for each in troubled]
        await ledger.add(troubled)
        at = ["/board", "/board/sweep?name=cats", *(f"/board/jobs/{each.job_id}" for each in troubled)]
        pages = [await web.client.get(each) for each in at]
        files = [f"/board/jobs/{troubled[2].job_id}/{name}" for name in ("archive", "export")]
        elsewhere = [await web.client.get(each) for each in files]
    assert "pictures.zip?***" in pages[2].text
    for text in [page.text for page in (*pages, *elsewhere)]:
        for secret in (str(tmp_path), "bridge.internal", "k" * 44, "secretquery", "machine-7", "fake-key"):
            assert secret not in text
    for answer in elsewhere:
        assert answer.status_code == 409
        assert "It is on another host." in answer.text


async def test_page_says_what_is_known_of_a_failure_and_no_more(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        failures = [row(2), row(3), row(4, reason="CUDA out of memory")]
        lost = row(5, state=JobState.UNCONFIRMED, task_id=None, submitted_at=None, ended_at=None)
        await web.crynux.session.ledger.add([*failures, lost])
        board = (await web.client.get("/board")).text
        silent, told = [(await web.client.get(f"/board/jobs/{each.job_id}")).text for each in failures[1:]]
    assert "2 jobs failed. The service gives no reason." in board
    assert "1 job failed. Reason: CUDA out of memory." in board
    assert "the task may exist and be paid for" in board
    assert "The service gives no reason." in silent
    assert "Reason: CUDA out of memory." in told


async def test_archive_and_export_come_from_the_page(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        path = await web.submit()
        await web.finished(path)
        at = path.replace("/jobs", "/board/jobs")
        page = (await web.client.get(at)).text
        archive, part = [
            await web.client.get(f"{at}/archive", headers=headers) for headers in ({}, {"Range": "bytes=0-3"})
        ]
        export = await web.client.get(f"{at}/export?program=kohya")
        wrong = [await web.client.get(f"{at}/{tail}") for tail in ("export?program=word", "images/0", "images/-1")]
    assert f'href="{at}/archive"' in page
    assert f'href="{at}/export?program=kohya"' in page
    assert archive.content == web.backend.archive
    assert (part.status_code, part.content) == (206, archive.content[:4])
    assert (export.status_code, export.headers["content-type"]) == (200, "application/octet-stream")
    assert [answer.status_code for answer in wrong] == [422, 404, 404]


async def test_pictures_beside_the_archive_are_shown_and_served(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        path = await web.submit(params={"tag": "sweep:cats"})
        await web.finished(path)
        archive = next((tmp_path / "models").glob("*.zip"))
        archive.with_name(f"{archive.name}-0.png").write_bytes(b"\x89PNG picture")
        at = path.replace("/jobs", "/board/jobs")
        page, sweep = (await web.client.get(at)).text, (await web.client.get("/board/sweep?name=cats")).text
        picture = await web.client.get(f"{at}/images/0")
    assert f'src="{at}/images/0"' in page
    assert f'src="{at}/images/0"' in sweep
    assert (picture.headers["content-type"], picture.content) == ("image/png", b"\x89PNG picture")


async def test_stream_sends_the_page_when_something_else_is_to_be_seen(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        page = (await web.client.get("/board")).text
        [version] = re.findall(r'data-version="(\w+)"', page)
        async with EventSource(web.app, f"/board/stream?have={version}") as source:
            path = await web.submit(params={"label": "portraits"})
            pages: list[str] = []
            seen: list[str] = []
            while "● downloaded" not in " ".join(seen):
                event = await source.next()
                assert event is not None
                pages.append(event.data["main"])
                seen.append(re.sub(r"<[^>]+>", "", event.data["main"]))
        assert path
    assert "No job yet" not in seen[0]  # which is the page that the browser had
    assert "portraits" in seen[-1]
    assert event.name == "page"
    assert any("running" in text for text in seen)
    assert len(pages) == len(set(pages))


async def test_stream_of_a_browser_that_comes_back_begins_with_what_it_missed(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        async with EventSource(web.app, "/board/stream?have=none") as source:
            first = await source.next()
        assert first is not None
        [version] = re.findall(r'data-version="(\w+)"', (await web.client.get("/board")).text)
        await web.submit(params={"label": "portraits"})
        back = {"Last-Event-ID": version}
        async with EventSource(web.app, "/board/stream?have=older", back) as source:
            second = await source.next()
        assert second is not None
    assert "portraits" not in first.data["main"]
    assert "portraits" in second.data["main"]


async def test_streams_of_pages_count_and_end_with_the_process(tmp_path: Path) -> None:
    async with opened_web(tmp_path, limits=Limits(streams=1)) as opened:
        web = paged(opened)
        async with EventSource(web.app, "/board/stream") as source:
            assert await source.next() is not None
            web.crynux.end_streams()
            assert await source.next() is None


async def test_stream_that_finds_no_place_is_refused_before_it_begins(tmp_path: Path) -> None:
    async with opened_web(tmp_path, limits=Limits(streams=1)) as opened:
        web = paged(opened)
        async with EventSource(web.app, "/board/stream") as source:
            assert await source.next() is not None
            refused = await web.client.get("/board/stream")
        async with EventSource(web.app, "/board/stream") as source:
            assert source.status == 200
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "10"


@pytest.mark.parametrize("at", ["/board/stream?before=jx", "/board/sweep/stream?name=x", "/board/jobs/jx/stream"])
async def test_stream_of_what_is_not_there_is_refused_before_it_begins(tmp_path: Path, at: str) -> None:
    async with opened_web(tmp_path, limits=Limits(streams=1)) as opened:
        web = paged(opened)
        answers = [await web.client.get(at) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [404, 404]


class Away(MemoryLedger):
    """Cannot be read while a test says so."""

    error: LedgerError | None = None

    async def count(self, *arguments: Any) -> Any:
        if self.error is not None:
            raise self.error
        return await super().count(*arguments)


async def test_stream_of_a_page_goes_on_when_a_ledger_that_was_away_is_there_again(tmp_path: Path) -> None:
    ledger = Away()
    async with opened_web(tmp_path, ledger=ledger) as opened:
        web = paged(opened)
        async with EventSource(web.app, "/board/stream") as source:
            assert await source.next() is not None
            ledger.error = LedgerBusyError("the server is shutting down")
            await web.submit(params={"label": "portraits"})
            coming = asyncio.create_task(source.next())
            await asyncio.sleep(60)
            assert not coming.done()
            ledger.error = None
            page = await coming
            assert page is not None
            assert "portraits" in page.data["main"]


async def test_stream_of_a_page_ends_without_a_word_where_the_ledger_has_failed(tmp_path: Path) -> None:
    ledger = Away()
    async with opened_web(tmp_path, ledger=ledger) as opened:
        web = paged(opened)
        async with EventSource(web.app, "/board/stream") as source:
            assert await source.next() is not None
            ledger.error = LedgerError("/srv/jobs.db is damaged")
            await web.submit()
            assert await source.next() is None
            await source.leave()  # raises what the application has raised
        refused = await web.client.get("/board")
    assert refused.status_code == 503
    assert "jobs.db" not in refused.text


async def test_page_knows_its_address_wherever_it_is_mounted(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        outer = FastAPI()
        web = paged(opened, "/watch/board")
        outer.mount("/inner", web.app)
        path = (await web.submit()).rpartition("/")[2]
        web.client._transport.app = outer  # type: ignore[attr-defined]
        board = (await web.client.get("/inner/watch/board")).text
        job = await web.client.get(f"/inner/watch/board/jobs/{path}")
    assert f'href="/inner/watch/board/jobs/{path}"' in board
    assert 'data-stream="/inner/watch/board/stream"' in board
    assert 'href="/inner/watch/board/static/live.css' in job.text


async def test_list_is_paged_filtered_and_searched(tmp_path: Path) -> None:
    states = {0: JobState.FAILED}
    thousand = [row(number, state=states.get(number % 10, JobState.DOWNLOADED)) for number in range(1000, 0, -1)]
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        await web.crynux.session.ledger.add(thousand)
        first = (await web.client.get("/board")).text
        seen: list[str] = []
        at = "/board?show=trouble"
        while at:
            page = (await web.client.get(at)).text
            table = page.partition('<table class="list">')[2]
            seen += re.findall(r'data-key="(\w+)"', table)
            older = re.findall(r'href="([^"]+)">Older', page)
            at = older[0].replace("&amp;", "&") if older else ""
        found = [
            re.findall(r'data-key="(\w+)"', (await web.client.get(f"/board?search={text}")).text.partition("list")[2])
            for text in ("job 77", "1078", f"j{79:032x}")
        ]
    assert "1,000 jobs" in first
    assert len(re.findall("data-key", first.partition('<table class="list">')[2])) == 50
    assert len(first) < 120_000
    assert seen == [f"j{number:032x}" for number in range(10, 1001, 10)]
    assert [f"j{number:032x}" for number in (77, *range(770, 780))] == sorted(found[0])
    assert found[1:] == [[f"j{78:032x}"], [f"j{79:032x}"]]


async def test_create_that_was_cut_off_is_not_called_unsent(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as opened:
        web = paged(opened)
        ledger = web.crynux.session.ledger
        planned = row(1, state=JobState.PLANNED, task_id=None, submitted_at=None, ended_at=None)
        fence: Fence = await ledger.enter("somebody", seconds=60)
        await ledger.add([planned], fence=fence)
        attempt = AttemptRow(
            job_id=planned.job_id, number=1, backend="fake", key_id="fake-key", began_at=utc_now(), payload="{}"
        )
        await ledger.begin(fence, attempt)
        under_way = (await web.client.get(f"/board/jobs/{planned.job_id}")).text
        await ledger.leave(fence)
        await asyncio.sleep(2)  # a page may be a second old
        board, job = [
            (await web.client.get(at)).text for at in ("/board?show=all&search=job", f"/board/jobs/{planned.job_id}")
        ]
    assert "Nothing is paid yet" in under_way
    assert "the task may exist and be paid for" in board
    assert "its task may exist and be paid for" in job
    assert "Nothing is paid yet" not in job
