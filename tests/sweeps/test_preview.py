"""A preview says what running would do, and sends nothing."""

import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crynux_async import Session
from crynux_async.backends.relay.arguments import RELAY_FACTS
from crynux_async.cli.console import open_console
from crynux_async.cli.sweep_preview import facts_of, print_preview
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.sweeps import Preview, Sweep, grid
from tests.fake_backend import FakeBackend, make_config


def open_session(backend: FakeBackend, ledger: MemoryLedger, **settings: Any) -> Session:
    return Session(backend=backend, ledger=ledger, api_key="k" * 44, **{"rate_limit": 2, **settings})


async def test_preview_of_a_new_sweep_counts_all_of_it_and_sends_nothing() -> None:
    backend = FakeBackend()
    async with open_session(backend, MemoryLedger()) as session:
        found = await Sweep("cats", make_config(), points=grid(rank=[4, 8, 16])).preview(session)
        assert session.jobs() == []
    assert [point.params for point in found.new] == [{"rank": 4}, {"rank": 8}, {"rank": 16}]
    assert dict(found.known) == {}
    assert found.is_workable
    assert backend.creates == 0


async def test_points_are_made_in_a_thread_so_that_ten_thousand_hold_up_nobody(tmp_path: Path) -> None:
    threads = set[int]()

    def derive(point: Mapping[str, Any]) -> Mapping[str, Any]:
        threads.add(threading.get_ident())
        return {}

    sweep = Sweep("cats", make_config(), points=grid(rank=[4, 8]), derive=derive)
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        await sweep.preview(session)
        async with sweep.run(session):
            pass
        await sweep.report(session, tmp_path / "cats.html")
    assert threads
    assert threading.get_ident() not in threads


async def test_preview_tells_done_and_failed_from_new() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    points = [{"rank": 4}, {"rank": 8, "model_name": "x/fail"}]
    async with open_session(backend, ledger) as session:
        async with Sweep("cats", make_config(), points=points).run(session) as running:
            await running.wait()
        found = await Sweep("cats", make_config(), points=[*points, {"rank": 16}]).preview(session)
    assert dict(found.known) == {"done": 1, "failed": 1}
    assert [point.params for point in found.new] == [{"rank": 16}]


async def test_trials_that_were_stopped_are_shown_as_to_be_sent() -> None:
    backend, ledger = FakeBackend(duration=1.0), MemoryLedger()
    sweep = Sweep("cats", make_config(), points=grid(rank=[4, 8, 16]))
    async with open_session(backend, ledger, rate_limit=1) as session, sweep.run(session) as running:
        await running.trials[0].job.submitted()
        await running.stop()
        await running.wait()
    for follows in (False, True):
        async with open_session(backend, ledger, follow=follows) as session:
            found = await sweep.preview(session)
        assert ([point.number for point in found.new], dict(found.known)) == ([2, 3], {"done": 1})


async def test_preview_forecasts_when_the_last_is_sent_and_ends() -> None:
    backend, ledger = FakeBackend(duration=600.0), MemoryLedger()
    sweep = Sweep("cats", make_config(), points=[{"seed": seed} for seed in range(1, 21)])
    async with open_session(backend, ledger) as session:
        before = await sweep.preview(session)
        assert before.forecast.ends_between is None
        async with sweep.run(session) as running:
            await running.wait()
        more = Sweep("cats", make_config(), points=[{"seed": seed} for seed in range(21, 41)])
        found = await more.preview(session)
    sent, ends = found.forecast.last_sent_at, found.forecast.ends_between
    assert sent is not None
    assert ends is not None
    # All twenty took ten minutes; what was learned of them is smoothed, so the range is wider than that.
    soonest, latest = ((end - sent).total_seconds() for end in ends)
    assert 150 < soonest < 620 < latest < 2400


async def test_preview_names_broken_points_conflicts_and_advice_once() -> None:
    backend, ledger = FakeBackend(), MemoryLedger()
    async with open_session(backend, ledger) as session:
        async with Sweep("cats", make_config(), points=grid(rank=[4])).run(session) as running:
            await running.wait()
        points = [{"rank": -1}, {"rank": 8, "lr_warmup_steps": 0}, {"rank": 16, "lr_warmup_steps": 0}]
        found = await Sweep("cats", make_config(resolution=768), points=points).preview(session)
    assert not found.is_workable
    assert [broken.number for broken in found.points.broken] == [1]
    assert found.conflict is not None
    assert "resolution was 512 and is 768" in str(found.conflict)
    codes = [(said.advice.code, said.advice.field) for said in found.advice]
    assert len(codes) == len(set(codes))
    assert any(said.points == [2, 3] for said in found.advice)


async def test_preview_names_points_that_train_the_same_or_are_asked_twice() -> None:
    points = [{"rank": 4}, {"rank": 4}, {"lr_warmup_steps": 0, "rank": 8}, {"lr_warmup_steps": 1, "rank": 8}]
    base = make_config(lr_scheduler="cosine")
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        found = await Sweep("cats", base, points=points).preview(session)
    assert dict(found.points.twice) == {2: 1}
    assert [list(places) for places in found.points.alike] == [[3, 4]]


async def test_points_that_train_the_same_at_a_bridge_alone_are_not_told_as_alike_at_the_relay() -> None:
    # A bridge makes 1 of a warm-up of 0; the relay passes it on.
    points = [{"lr_warmup_steps": 0}, {"lr_warmup_steps": 1}]
    backend = FakeBackend()
    backend.facts = RELAY_FACTS
    async with open_session(backend, MemoryLedger()) as session:
        found = await Sweep("cats", make_config(lr_scheduler="cosine"), points=points).preview(session)
    assert found.points.alike == []


async def test_preview_says_what_is_used_in_place_of_what_was_asked_each_kind_once() -> None:
    base = make_config(lr_scheduler="cosine", lr_warmup_steps=4)
    points = [{"rank": 4}, {"rank": 4, "lr_warmup_steps": 0}, {"rank": 8, "lr_warmup_steps": 0}]
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        found = await Sweep("cats", base, points=points, repeats=2).preview(session)
    (warmup,) = [each for each in found.changed if each.value.field == "lr_warmup_steps"]
    assert (warmup.value.asked, warmup.value.used, list(warmup.points)) == (0, 1, [2, 3])
    (listed,) = [each for each in facts_of(found)["effective"] if each["field"] == "lr_warmup_steps"]
    assert (listed["asked"], listed["used"], listed["points"]) == (0, 1, [2, 3])
    assert "lr_warmup_steps=0 is used as 1: " in printed(found, width=200)


async def test_preview_on_a_narrow_terminal_breaks_no_word() -> None:
    async with open_session(FakeBackend(), MemoryLedger()) as session:
        found = await Sweep("cats", make_config(resolution=768), points=[{"rank": 4}, {"rank": -1}]).preview(session)
    narrow = printed(found, width=40)
    assert narrow.split() == printed(found, width=1000).split()
    lines = narrow.splitlines()
    assert max(map(len, lines)) <= 40
    assert len(lines) > 5
    assert all(line.startswith("  ") for line in lines[1:])


def printed(found: Preview, *, width: int) -> str:
    console = open_console()
    console.file, console.width = io.StringIO(), width
    print_preview(console, found)
    return console.file.getvalue()
