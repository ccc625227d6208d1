"""Who may come in, and what they see: tenants never meet, whatever they guess, and each has its limits."""

import asyncio
import gc
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute

from crynux_async import UsageError
from crynux_async.integrations.fastapi import JobAnswer, JobDep, Limits, ProblemRoute
from crynux_async.integrations.fastapi.limits import Admission
from tests.fake_backend import FakeBackend, make_config
from tests.held_ledger import HeldLedger
from tests.integrations.web_lab import GOOD, PROBLEM, EventSource, Web, known_customer, opened_web

ANN = {"X-Customer": "ann"}
BOB = {"X-Customer": "bob"}


def tenants(**options: Any) -> dict[str, Any]:
    return {"authorize": known_customer, "tenant": known_customer, **options}


async def test_nobody_comes_in_without_being_known(tmp_path: Path) -> None:
    async with opened_web(tmp_path, **tenants()) as web:
        path = await web.submit(headers=ANN)
        asks = [("GET", "/jobs"), ("POST", "/jobs"), ("POST", "/jobs/check"), ("GET", path), ("DELETE", path)]
        asks += [("GET", f"{path}/{tail}") for tail in ("events", "archive", "export")]
        asks += [("HEAD", f"{path}/archive"), ("POST", f"{path}/retry")]
        answers = [await web.client.request(method, at, json=GOOD) for method, at in asks]
        assert await web.state(path, headers=ANN) != "abandoned"
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert {answer.headers["content-type"] for answer in answers} == {PROBLEM}


async def test_jobs_of_another_tenant_are_not_there_on_any_route(tmp_path: Path) -> None:
    async with opened_web(tmp_path, **tenants()) as web:
        path = await web.submit(headers=ANN)
        await web.finished(path, headers=ANN)
        asks = [("GET", path), ("DELETE", path), ("POST", f"{path}/retry")]
        asks += [("GET", f"{path}/{tail}") for tail in ("events", "archive", "export")]
        asks += [("GET", f"/jobs?cursor={path.rpartition('/')[2]}")]
        foreign = [await web.client.request(method, at, headers=BOB) for method, at in asks]
        unknown = await web.client.get("/jobs/j0", headers=BOB)
        lists = [(await web.client.get("/jobs", headers=who)).json()["jobs"] for who in (ANN, BOB)]
        archive = await web.client.get(f"{path}/archive", headers=ANN)
    # The same answer as for a job that nobody has: a guess learns nothing.
    assert {(answer.status_code, answer.content) for answer in foreign} == {(404, unknown.content)}
    assert [len(jobs) for jobs in lists] == [1, 0]
    assert archive.content == web.backend.archive


async def test_one_key_of_two_tenants_is_two_jobs_and_no_conflict(tmp_path: Path) -> None:
    async with opened_web(tmp_path, **tenants()) as web:
        key = {"Idempotency-Key": "order-1"}
        anns = await web.submit(headers={**ANN, **key})
        bobs = await web.submit({**GOOD, "rank": 16}, headers={**BOB, **key})
        assert await web.submit(headers={**ANN, **key}) == anns != bobs
        await web.finished(anns, headers=ANN)
        await web.finished(bobs, headers=BOB)
    assert sorted(config.rank for config in web.backend.received) == [8, 16]


async def test_caller_without_a_name_is_refused_and_does_not_become_everybody(tmp_path: Path) -> None:
    def nameless() -> str:
        return ""

    async with opened_web(tmp_path, tenant=nameless) as web:
        answers = [await web.client.get("/jobs"), await web.client.post("/jobs", json=GOOD)]
    assert {answer.status_code for answer in answers} == {403}


@pytest.mark.parametrize("route", [APIRoute, ProblemRoute])
async def test_own_handler_that_does_not_ask_who_comes_is_a_fault_of_the_application(
    tmp_path: Path, route: type[APIRoute]
) -> None:
    router = APIRouter(route_class=route)

    @router.get("/mine/{job_id}")
    async def mine(job: JobDep) -> JobAnswer:
        return JobAnswer.of(job)

    async with opened_web(tmp_path, **tenants()) as web:
        path = (await web.submit(headers=ANN)).replace("/jobs", "/mine")
        web.app.include_router(router)
        with pytest.raises(UsageError, match=r"crynux\.dependencies"):
            await web.client.get(path, headers=ANN)


async def test_own_handler_with_the_dependencies_shows_each_caller_their_own(tmp_path: Path) -> None:
    async with opened_web(tmp_path, **tenants()) as web:
        router = APIRouter(route_class=ProblemRoute, dependencies=web.crynux.dependencies)

        @router.get("/mine/{job_id}")
        async def mine(job: JobDep) -> JobAnswer:
            return JobAnswer.of(job)

        web.app.include_router(router)
        path = (await web.submit(headers=ANN)).replace("/jobs", "/mine")
        answers = [await web.client.get(path, headers=who) for who in (ANN, BOB, {})]
    assert [answer.status_code for answer in answers] == [200, 404, 401]


async def test_waiting_jobs_of_each_tenant_are_limited_and_a_key_that_was_let_in_is_answered(tmp_path: Path) -> None:
    slow = {"rate_limit": 1, "rate_burst": 1, "limits": Limits(queued=3)}
    async with opened_web(tmp_path, **tenants(**slow)) as web:

        async def ask(who: dict[str, str], seed: int) -> httpx.Response:
            headers = {**who, "Idempotency-Key": f"k{seed}"}
            return await web.client.post("/jobs", json={**GOOD, "seed": seed}, headers=headers)

        first = await ask(ANN, 1)
        await web.crynux.session.job(first.json()["job_id"]).submitted()
        at_once = await asyncio.gather(*(ask(ANN, seed) for seed in range(2, 12)))
        refused = [answer for answer in at_once if answer.status_code == 429]
        accepted = [answer for answer in at_once if answer.status_code == 202]
        again = await ask(ANN, accepted[0].json()["config"]["seed"])
        other = await ask(BOB, 1)
    assert (len(accepted), len(refused)) == (3, 7)
    assert all(answer.headers["retry-after"] for answer in refused)
    assert (again.status_code, again.headers["location"]) == (202, accepted[0].headers["location"])
    assert other.status_code == 202


async def test_jobs_of_a_tenant_whose_queue_is_limited_are_stored_together_up_to_the_limit(tmp_path: Path) -> None:
    ledger, backend = HeldLedger(), FakeBackend(round_trip=3600)
    async with opened_web(tmp_path, backend=backend, ledger=ledger, **tenants(limits=Limits(queued=40))) as web:
        asks = asked_at_once(web, 48)
        await asyncio.sleep(1)
        assert not any(ask.done() for ask in asks)  # nobody is refused while it is not known what is stored
        ledger.is_free.set()
        answers = await asyncio.gather(*asks)
    assert sorted(answer.status_code for answer in answers) == [202] * 40 + [429] * 8
    assert sum(ledger.adds) == 40
    assert len(ledger.adds) <= 20


async def test_two_processes_that_are_asked_at_once_let_in_little_more_than_one(tmp_path: Path) -> None:
    ledger, backend = HeldLedger(), FakeBackend(round_trip=3600)
    options = tenants(limits=Limits(queued=12))
    async with AsyncExitStack() as stack:
        webs = [
            await stack.enter_async_context(opened_web(tmp_path, backend=backend, ledger=ledger, **options))
            for _ in range(2)
        ]
        asks = [ask for web in webs for ask in asked_at_once(web, 16)]
        await asyncio.sleep(1)
        ledger.is_free.set()
        answers = await asyncio.gather(*asks)
    assert {answer.status_code for answer in answers} == {202, 429}
    assert 12 <= sum(ledger.adds) <= 12 + 3


def asked_at_once(web: Web, number: int) -> list["asyncio.Task[httpx.Response]"]:
    return [
        asyncio.create_task(web.client.post("/jobs", json={**GOOD, "seed": 1 + seed}, headers=ANN))
        for seed in range(number)
    ]


async def test_tenants_that_have_left_leave_nothing_behind(tmp_path: Path) -> None:
    async with opened_web(tmp_path, **tenants()) as web:
        admission = Admission(web.crynux.session, Limits(queued=3))
        before = _locks()
        for number in range(4):
            async with admission.job(f"tenant {number}", make_config(), None):
                assert _locks() == before + 1
        assert _locks() == before


def _locks() -> int:
    gc.collect()
    return sum(isinstance(thing, asyncio.Lock) for thing in gc.get_objects())


async def test_spending_of_each_tenant_is_limited(tmp_path: Path) -> None:
    async with opened_web(tmp_path, **tenants(price=15, limits=Limits(spend=30))) as web:
        for seed in (1, 2):
            path = await web.submit({**GOOD, "seed": seed}, headers=ANN)
            await web.finished(path, headers=ANN)
        refused = await web.client.post("/jobs", json={**GOOD, "seed": 3}, headers=ANN)
        bobs = await web.submit(headers=BOB)
        await web.finished(bobs, headers=BOB)
    assert (refused.status_code, refused.json()["type"]) == (402, "urn:crynux:budget")
    assert web.backend.creates == 3


async def test_limit_of_spending_without_a_price_is_refused_when_the_application_begins(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="price"):
        async with opened_web(tmp_path, limits=Limits(spend=30)):
            pass


async def test_streams_of_one_tenant_leave_room_for_another(tmp_path: Path) -> None:
    backend = FakeBackend(duration=3600)
    async with opened_web(tmp_path, backend=backend, **tenants(limits=Limits(streams=1))) as web:
        anns, bobs = await web.submit(headers=ANN), await web.submit(headers=BOB)
        async with EventSource(web.app, f"{anns}/events", ANN):
            second = await web.client.get(f"{anns}/events", headers=ANN)
            async with EventSource(web.app, f"{bobs}/events", BOB) as source:
                assert (second.status_code, source.status) == (429, 200)


@pytest.mark.parametrize(
    "wrong",
    [
        {"streams": 0},
        {"queued": -1},
        {"streams": True},
        {"body_bytes": None},
        {"spend": "thirty"},
        {"spend": -1},
        {"spend": "nan"},
    ],
)
def test_limits_that_are_none_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        Limits(**wrong)
    assert caught.value.field == next(iter(wrong))
