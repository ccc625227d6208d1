"""Events as server-sent events: every number once, whoever follows the job, and an end that browsers understand."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from crynux_async import LedgerError, OwnershipError
from crynux_async.clock import monotonic
from crynux_async.events import Event
from crynux_async.integrations.fastapi import Limits
from crynux_async.job import record_of
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.supervision.event_reader import Bookmark
from tests.fake_backend import FakeBackend
from tests.integrations.web_lab import GOOD, PROBLEM, EventSource, SentEvent, opened_web


def numbers(events: list[SentEvent]) -> list[int | None]:
    return [event.number for event in events if event.name == "message"]


async def test_stream_tells_every_event_once_by_number_and_then_the_end(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await web.submit()
        async with EventSource(web.app, f"{path}/events") as source:
            events = await source.rest()
    assert numbers(events) == list(range(1, len(events)))
    assert events[-1] == SentEvent("end", None, {})
    kinds = [event.data["kind"] for event in events[:-1]]
    assert kinds[0] == "JobQueued"
    assert kinds[-1] == "JobStateChanged"
    assert {"JobSubmitted", "ArchiveReady"} <= set(kinds)
    assert all(event.data["number"] == event.number for event in events[:-1])


async def test_browser_that_comes_back_goes_on_behind_its_last_event_and_stops_at_the_end(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await web.submit()
        async with EventSource(web.app, f"{path}/events") as source:
            first = await source.next()
        assert first is not None
        assert first.number == 1
        async with EventSource(web.app, f"{path}/events", {"Last-Event-ID": "1"}) as source:
            rest = await source.rest()
        assert numbers(rest) == list(range(2, len(rest) + 1))
        last = max(number or 0 for number in numbers(rest))
        by_query = await web.client.get(f"{path}/events?after={last - 1}")
        done = await web.client.get(f"{path}/events", headers={"Last-Event-ID": str(last)})
        wrong = await web.client.get(f"{path}/events", headers={"Last-Event-ID": "-1"})
        huge = await web.client.get(f"{path}/events", headers={"Last-Event-ID": str(2**64)})
    assert by_query.text.count("\nid: ") == 1
    # 204 is what makes an EventSource stop asking.
    assert (done.status_code, done.content) == (204, b"")
    assert (wrong.status_code, huge.status_code) == (422, 422)


async def test_readers_at_two_workers_see_every_number_once_through_a_change_of_owner(tmp_path: Path) -> None:
    backend = FakeBackend(duration=600)
    async with AsyncExitStack() as stack:
        onlooker = await stack.enter_async_context(opened_web(tmp_path, backend=backend))
        async with opened_web(tmp_path, backend=backend) as owner:
            path = await owner.submit()
            await owner.crynux.session.jobs()[0].submitted()
            source = await stack.enter_async_context(EventSource(onlooker.app, f"{path}/events"))
            reading = asyncio.create_task(source.rest())
            async with EventSource(owner.app, f"{path}/events") as cut:
                begun = await cut.next()
                owner.crynux.end_streams()
                cut_off = await cut.rest()
        assert begun is not None
        assert cut_off[-1] == SentEvent("reconnect", None, {})
        seen = [begun, *cut_off[:-1]]
        headers = {"Last-Event-ID": str(seen[-1].number)}
        async with EventSource(onlooker.app, f"{path}/events", headers) as again:
            seen += await again.rest()
        whole = await reading
    assert numbers(whole) == list(range(1, len(whole)))
    assert numbers(seen) == numbers(whole)


async def test_events_and_answers_name_no_path_and_no_message_for_the_operator(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.result_error = OwnershipError(f"http://10.0.0.5/v1 has it, and {tmp_path} has not")
    async with opened_web(tmp_path, backend=backend) as web:
        path = await web.submit()
        async with EventSource(web.app, f"{path}/events") as source:
            while (event := await source.next()) is not None and event.data.get("kind") != "DownloadFailed":
                pass
        shown = await web.client.get(path)
        refused = await web.client.get(f"{path}/archive")
    assert event is not None
    assert set(event.data) == {"kind", "job_id", "task_id", "number", "at"}
    for text in (shown.text, refused.text):
        assert str(tmp_path) not in text
        assert "10.0.0.5" not in text


async def test_streams_of_one_caller_are_limited_and_a_closed_one_gives_its_place_back(tmp_path: Path) -> None:
    async with opened_web(tmp_path, backend=FakeBackend(duration=3600), limits=Limits(streams=3)) as web:
        path = await web.submit()
        async with AsyncExitStack() as stack:
            sources = [await stack.enter_async_context(EventSource(web.app, f"{path}/events")) for _ in range(3)]
            assert [source.status for source in sources] == [200] * 3
            refused = await web.client.get(f"{path}/events")
            assert (refused.status_code, refused.headers["content-type"]) == (429, PROBLEM)
            assert refused.headers["retry-after"]
        async with EventSource(web.app, f"{path}/events") as source:
            assert source.status == 200


async def test_streams_of_one_caller_are_cut_down_to_the_limit_that_is_set_by_itself(tmp_path: Path) -> None:
    async with opened_web(tmp_path, backend=FakeBackend(duration=3600)) as web:
        path = await web.submit()
        async with AsyncExitStack() as stack:
            asked = [stack.enter_async_context(EventSource(web.app, f"{path}/events")) for _ in range(250)]
            sources = await asyncio.gather(*asked)
            # Whoever has too many open is told so, and everything else goes on.
            assert await web.state(path) in ("planned", "running")
    assert Counter(source.status for source in sources) == {200: Limits().streams, 429: 250 - 200}


class Failing(MemoryLedger):
    """A ledger whose events cannot be read when a test says so."""

    has_failed = False

    async def events(self, *arguments: Any, **options: Any) -> Any:
        if self.has_failed:
            raise LedgerError("/srv/jobs.db is damaged")
        return await super().events(*arguments, **options)


async def test_stream_whose_ledger_fails_ends_with_a_word_to_come_back(tmp_path: Path) -> None:
    ledger = Failing()
    async with opened_web(tmp_path, ledger=ledger) as web:
        path = await web.submit()
        async with EventSource(web.app, f"{path}/events") as source:
            assert await source.next() is not None
            ledger.has_failed = True
            assert [event.name for event in await source.rest()] == ["reconnect"]
            await source.leave()  # raises what the application has raised


async def test_browser_that_goes_away_leaves_nothing_behind(tmp_path: Path) -> None:
    async with opened_web(tmp_path, backend=FakeBackend(duration=3600), limits=Limits(streams=1)) as web:
        path = await web.submit()
        async with EventSource(web.app, f"{path}/events") as source:
            assert await source.next() is not None
            before = web.crynux.session.jobs()[0]
            await source.leave()
            assert not record_of(before).is_heard
            async with EventSource(web.app, f"{path}/events") as again:
                assert again.status == 200


async def test_silent_stream_has_a_heartbeat_so_that_no_proxy_cuts_it(tmp_path: Path) -> None:
    async with opened_web(tmp_path, backend=FakeBackend(duration=100)) as web:
        path = await web.submit()
        async with EventSource(web.app, f"{path}/events") as source:
            events = await source.rest()
    times = [datetime.fromisoformat(event.data["at"]).timestamp() for event in events[:-1]]
    silences = [later - earlier for earlier, later in pairwise(times)]
    assert max(silences) > 30
    assert source.comments == ["events", *["heartbeat"] * sum(int(silence // 15) for silence in silences)]
    assert numbers(events) == list(range(1, len(events)))


async def test_streams_end_at_once_with_a_word_to_come_back_and_nothing_is_left_open(tmp_path: Path) -> None:
    async with opened_web(tmp_path, backend=FakeBackend(duration=3600)) as web:
        path = await web.submit()
        async with AsyncExitStack() as stack:
            sources = [await stack.enter_async_context(EventSource(web.app, f"{path}/events")) for _ in range(20)]
            reading = [asyncio.create_task(source.rest()) for source in sources]
            await web.crynux.session.jobs()[0].submitted()
            web.crynux.end_streams()
            ends = await asyncio.gather(*reading)
            late = await stack.enter_async_context(EventSource(web.app, f"{path}/events"))
            assert [event.name for event in await late.rest()] == ["reconnect"]
    assert {events[-1].name for events in ends} == {"reconnect"}


async def test_stream_that_is_ended_while_it_reads_waits_for_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened_web(tmp_path, backend=FakeBackend(duration=3600)) as web:
        path = await web.submit()
        await web.crynux.session.jobs()[0].submitted()
        more = Bookmark.more

        async def ended_meanwhile(self: Bookmark) -> Sequence[Event]:
            events = await more(self)
            web.crynux.end_streams()
            return events

        monkeypatch.setattr(Bookmark, "more", ended_meanwhile)
        before = monotonic()
        async with EventSource(web.app, f"{path}/events") as source:
            events = await source.rest()
    assert events[-1].name == "reconnect"
    assert source.comments == ["events"]
    assert monotonic() - before < 1


async def test_reader_of_a_job_that_is_sent_again_hears_of_the_new_try(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await web.submit({**GOOD, "model_name": "x/fail"})
        async with EventSource(web.app, f"{path}/events") as source:
            first = await source.rest()
        known = str(first[-2].number)
        await web.client.post(f"{path}/retry")
        async with EventSource(web.app, f"{path}/events", {"Last-Event-ID": known}) as source:
            second = await source.rest()
    states: list[Any] = [event.data.get("state") for event in second if event.data.get("state")]
    assert states == ["planned", "running", "failed"]
