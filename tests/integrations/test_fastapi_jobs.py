"""Routes over jobs: queued, listed, shown, sent again, given up. On virtual time."""

import asyncio
import logging
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError

from crynux_async import CrynuxError, FineTuneConfig, LedgerBusyError, UsageError
from crynux_async.integrations.fastapi import (
    ConfigDep,
    Crynux,
    JobAnswer,
    JobDep,
    ProblemError,
    ProblemRoute,
    SessionDep,
    answer_error,
)
from crynux_async.ledgers.memory import MemoryLedger
from crynux_async.training.fields import field_names
from tests.fake_backend import FakeBackend
from tests.integrations.web_lab import GOOD, PROBLEM, opened_web


def test_package_alone_does_not_import_fastapi() -> None:
    code = "import crynux_async, sys; crynux_async.Session; assert 'fastapi' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_submitted_job_is_in_the_ledger_when_it_is_answered_and_is_sent_by_itself(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        forged = {"Host": "evil.example"}  # where the job is says no host, whatever the caller calls it
        answer = await web.client.post("/jobs?label=cats/1&group=cats&tag=rank:8", json=GOOD, headers=forged)
        job = answer.json()
        assert (answer.status_code, answer.headers["location"]) == (202, f"/jobs/{job['job_id']}")
        stored = await web.crynux.session.ledger.get(job["job_id"])
        assert stored is not None
        assert stored.config == FineTuneConfig(**GOOD)
        assert (job["state"], job["label"], job["group"], job["tags"]) == ("planned", "cats/1", "cats", {"rank": "8"})
        ended = await web.finished(answer.headers["location"])
    assert (ended["state"], ended["task_id"], ended["error"]) == ("downloaded", "1", None)
    assert web.backend.creates == 1


async def test_same_key_is_the_same_job_and_another_config_under_it_a_conflict_without_values(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        key = {"Idempotency-Key": "order-1"}
        first = await web.submit(headers=key)
        assert await web.submit(headers=key) == first
        secret = "https://example.com/pictures.zip?token=topsecret"
        other = await web.client.post("/jobs", json={**GOOD, "rank": 16, "dataset_url": secret}, headers=key)
    assert (other.status_code, other.headers["content-type"]) == (409, PROBLEM)
    assert {entry["field"] for entry in other.json()["errors"]} == {"rank", "dataset_url"}
    assert "topsecret" not in other.text
    assert "16" not in other.text.replace(first.rsplit("/", 1)[-1], "")  # the job's name may have it by chance
    assert web.backend.creates <= 1


async def test_conflict_at_another_worker_names_no_seed_that_nobody_gave(tmp_path: Path) -> None:
    asked = {name: value for name, value in GOOD.items() if name != "seed"}
    key = {"Idempotency-Key": "order-1"}
    async with opened_web(tmp_path) as one, opened_web(tmp_path, backend=one.backend) as other:
        path = await one.submit(asked, headers=key)
        assert await other.submit(asked, headers=key) == path
        refused = await other.client.post("/jobs", json={**asked, "rank": 16}, headers=key)
    assert refused.status_code == 409
    assert [entry["field"] for entry in refused.json()["errors"]] == ["rank"]


class Away(MemoryLedger):
    """Cannot be read."""

    async def jobs(self, *_: Any, **__: Any) -> Any:
        raise LedgerBusyError("db.example cannot be used now: the database system is shutting down")


async def test_ledger_that_is_away_is_told_as_that_and_why_is_in_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="crynux_async")
    async with opened_web(tmp_path, ledger=Away()) as web:
        answer = await web.client.get("/jobs/j1")
    assert (answer.status_code, answer.headers["content-type"], answer.headers["retry-after"]) == (503, PROBLEM, "5")
    assert "db.example" not in answer.text
    said = "GET '/jobs/j1' is answered 503: db.example cannot be used now: the database system is shutting down"
    assert said in caplog.messages


async def test_key_whose_create_has_an_unknown_outcome_gives_its_job_back_and_sends_nothing(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.answers.append(ConnectionResetError())
    async with opened_web(tmp_path, backend=backend) as web:
        path = await web.submit(headers={"Idempotency-Key": "k"})
        assert (await web.finished(path))["state"] == "unconfirmed"
        again = await web.client.post("/jobs", json=GOOD, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.headers["location"], again.json()["state"]) == (202, path, "unconfirmed")
    assert backend.creates == 1


async def test_planned_jobs_of_a_worker_that_died_are_sent_by_the_next_one(tmp_path: Path) -> None:
    backend = FakeBackend()
    async with opened_web(tmp_path, backend=backend, rate_limit=1, rate_burst=1) as web:
        paths = [await web.submit({**GOOD, "seed": seed}) for seed in (1, 2, 3)]
    async with opened_web(tmp_path, backend=backend) as web:
        assert [(await web.finished(path))["state"] for path in paths] == ["downloaded"] * 3
    assert sorted(config.seed for config in backend.received) == [1, 2, 3]


async def test_jobs_are_listed_in_pages_newest_first_and_picked_by_what_they_are(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        for n in range(5):
            group = "even" if n % 2 == 0 else "odd"
            await web.submit({**GOOD, "seed": 1 + n}, params={"label": f"n{n}", "group": group, "tag": f"n:{n}"})

        async def labels(**query: Any) -> tuple[list[str], str | None]:
            page = (await web.client.get("/jobs", params=query)).json()
            return [job["label"] for job in page["jobs"]], page["next_cursor"]

        first, cursor = await labels(limit=2)
        second, cursor_2 = await labels(limit=2, cursor=cursor)
        assert (first, second, await labels(limit=2, cursor=cursor_2)) == (["n4", "n3"], ["n2", "n1"], (["n0"], None))
        assert (await labels(group="odd"))[0] == ["n3", "n1"]
        assert (await labels(tag="n:2"))[0] == ["n2"]
        assert (await labels(label_prefix="n"))[0] == ["n4", "n3", "n2", "n1", "n0"]
        assert (await labels(state=["failed", "expired"]))[0] == []
        assert (await labels(since="2999-01-01T00:00:00Z"))[0] == []
        unknown = await web.client.get("/jobs", params={"cursor": "j" + "0" * 32})
    assert unknown.status_code == 404


async def test_failed_job_is_sent_again_and_a_running_one_is_not(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        path = await web.submit({**GOOD, "model_name": "x/fail"})
        failed = await web.finished(path)
        assert (failed["state"], failed["error"]["kind"]) == ("failed", "failed")
        shorter = await web.client.post(f"{path}/retry", params={"timeout": 60})
        again = await web.client.post(f"{path}/retry", params={"timeout": 3600})
        assert (again.status_code, again.json()["state"], again.json()["config"]["timeout"]) == (202, "planned", 3600)
        await web.crynux.session.jobs()[0].submitted()
        refused = await web.client.post(f"{path}/retry")
    assert (shorter.status_code, shorter.json()["errors"][0]["field"]) == (422, "timeout")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:crynux:state")
    assert web.backend.creates == 2


async def test_abandoned_job_is_not_followed_and_the_answer_says_that_its_task_goes_on(tmp_path: Path) -> None:
    async with opened_web(tmp_path, backend=FakeBackend(duration=3600)) as web:
        path = await web.submit()
        await web.crynux.session.jobs()[0].submitted()
        answer = await web.client.delete(path)
        assert (answer.status_code, "goes on" in answer.json()["message"]) == (202, True)
        assert await web.state(path) == "abandoned"


async def test_check_tells_advice_and_price_and_neither_stores_nor_sends(tmp_path: Path) -> None:
    async with opened_web(tmp_path, price=15) as web:
        answer = await web.client.post("/jobs/check", json={**GOOD, "max_train_steps": 20})
        listed = await web.client.get("/jobs")
    found = answer.json()
    assert {"code": "CX204", "severity": "warning"}.items() <= found["advice"][0].items()
    assert found["price_wei"] == str(15 * 10**18)
    assert set(found["config"]) == set(field_names())
    assert (listed.json()["jobs"], web.backend.creates) == ([], 0)


async def test_config_that_cannot_work_is_refused_with_an_entry_for_each_field(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        answer = await web.client.post(
            "/jobs", json={"rank": 0, "learning_rate": "fast", "dataset_url": "ftp://h/a?token=topsecret"}
        )
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    entries = {entry["field"]: entry for entry in answer.json()["errors"]}
    assert set(entries) == {"model_name", "rank", "learning_rate", "dataset_url"}
    assert entries["rank"]["pointer"] == "#/rank"
    assert "topsecret" not in answer.text


async def test_body_that_is_too_large_no_config_or_has_no_type_is_refused(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        json_type = {"Content-Type": "application/json"}

        async def status(content: Any, headers: dict[str, str] = json_type) -> tuple[int, str]:
            answer = await web.client.post("/jobs", content=content, headers=headers)
            return answer.status_code, answer.headers["content-type"]

        async def endless() -> Any:
            for _ in range(10_000):  # 10 MB of which no more than the limit is read
                yield b" " * 1024

        assert await status(b" " * 10_000_000) == (413, PROBLEM)
        assert await status(endless()) == (413, PROBLEM)
        assert await status(b"[]") == (422, PROBLEM)
        assert await status(b'{"\\ud800": 1}') == (422, PROBLEM)
        # A form that another site makes a browser send has a type of its own: it is no config.
        form = await web.client.post("/jobs", content=b"{}", headers={"Content-Type": "text/plain"})
        assert (form.status_code, form.headers["content-type"]) == (422, PROBLEM)
        assert [entry["detail"] for entry in form.json()["errors"]] == [
            "is read as JSON with Content-Type: application/json alone"
        ]


async def test_label_that_no_ledger_keeps_is_refused_by_name_and_points_to_nothing_in_the_body(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        answer = await web.client.post("/jobs?label=a%00", json=GOOD)
    [entry] = answer.json()["errors"]
    assert (answer.status_code, entry["field"], "pointer" in entry) == (422, "label", False)


@pytest.mark.parametrize("at", ["/jobs", "/jobs/check"])
@pytest.mark.parametrize(
    "body",
    [b"{", b"rank=8", b"{'rank': 8}", b'{"rank": 8}}', b"\xff", b"[" * 30_000, b'{"rank": ' + b"9" * 5000 + b"}"],
    ids=lambda body: repr(body[:12]),
)
async def test_body_that_is_not_json_is_answered_as_the_schema_says(tmp_path: Path, at: str, body: bytes) -> None:
    async with opened_web(tmp_path) as web:
        answer = await web.client.post(at, content=body, headers={"Content-Type": "application/json"})
        declared = web.app.openapi()["paths"][at]["post"]["responses"]["400"]
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)
    assert answer.json()["status"] == 400
    assert (declared["description"], list(declared["content"])) == ("The body is not JSON", [PROBLEM])


async def test_body_that_is_not_json_is_answered_with_the_place_where_it_ends_to_be_some(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        answer = await web.client.post("/jobs", content=b'{"a": oops}', headers={"Content-Type": "application/json"})
    assert answer.json() == {
        "type": "urn:crynux:request",
        "status": 400,
        "detail": "The body is not JSON: Expecting value at character 7.",
    }


@pytest.mark.parametrize("name", ["j0", "j" + "0" * 32, "..%2f..%2fetc%2fpasswd", "%00", "%ff", "a" * 5000, "'--"])
async def test_job_that_nobody_has_is_not_found_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    async with opened_web(tmp_path) as web:
        for tail in ("", "/events", "/archive", "/export"):
            answer = await web.client.get(f"/jobs/{name}{tail}")
            assert answer.status_code == 404


async def test_jobs_of_another_worker_are_answered_for_in_full(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        backend = FakeBackend()
        one = await stack.enter_async_context(opened_web(tmp_path, backend=backend))
        two = await stack.enter_async_context(opened_web(tmp_path, backend=backend))
        path = await one.submit(headers={"Idempotency-Key": "k"})
        assert await two.submit(headers={"Idempotency-Key": "k"}) == path
        here, there = await one.finished(path), await two.finished(path)
        archives = [(await web.client.get(f"{path}/archive")).content for web in (one, two)]
    assert here == there
    assert archives == [backend.archive] * 2
    assert backend.creates == 1


async def test_jobs_of_a_worker_that_ends_are_followed_by_the_other_within_two_seconds(tmp_path: Path) -> None:
    backend = FakeBackend(duration=3600)
    async with opened_web(tmp_path, backend=backend) as stays:
        async with opened_web(tmp_path, backend=backend) as ends:
            await ends.submit()
            await ends.crynux.session.jobs()[0].submitted()
            # Both have seen each other by now.
            await asyncio.sleep(1.5)
            assert stays.crynux.session.jobs() == []
        await asyncio.sleep(2)
        assert [job.state for job in stays.crynux.session.jobs()] == ["running"]


def test_router_without_a_word_about_who_may_come_in_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="authorize"):
        Crynux(ledger=None, folder=tmp_path).router()


async def test_handlers_of_ones_own_take_the_same_parts(tmp_path: Path) -> None:
    router = APIRouter(route_class=ProblemRoute)

    @router.get("/mine/{job_id}")
    async def mine(job: JobDep, session: SessionDep) -> JobAnswer:
        assert await session.find(job.job_id) == job
        return JobAnswer.of(job)

    async with opened_web(tmp_path) as web:
        web.app.include_router(router)
        path = await web.submit()
        shown = await web.client.get(path.replace("/jobs", "/mine"))
        missing = await web.client.get("/mine/j0")
    assert shown.json()["job_id"] == path.rpartition("/")[2]
    assert (missing.status_code, missing.headers["content-type"]) == (404, PROBLEM)


@pytest.mark.parametrize(
    ("found", "entries"),
    [
        ([], []),
        (
            [{"type": "value_error", "loc": (), "msg": "too late"}],
            [{"in": "request", "field": "request", "detail": "too late"}],
        ),
        (
            [{"type": "missing", "loc": ("body",), "msg": "Field required"}],
            [{"in": "body", "field": "body", "detail": "Field required"}],
        ),
    ],
)
async def test_requests_that_a_handler_of_ones_own_refuses_are_answered_however_little_it_says(
    tmp_path: Path, found: list[dict[str, Any]], entries: list[dict[str, str]]
) -> None:
    router = APIRouter(route_class=ProblemRoute)

    @router.get("/mine")
    async def mine() -> None:
        raise RequestValidationError(found)

    async with opened_web(tmp_path) as web:
        web.app.include_router(router)
        answer = await web.client.get("/mine")
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert answer.json().get("errors", []) == entries


async def test_plain_handlers_of_an_application_answer_errors_as_the_routes_do(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        for error in (CrynuxError, ProblemError):
            web.app.add_exception_handler(error, answer_error)

        @web.app.get("/mine/{job_id}")
        async def mine(job: JobDep) -> JobAnswer:
            return JobAnswer.of(job)

        @web.app.post("/mine")
        async def checked(config: ConfigDep) -> str:
            return config.digest()

        pairs = [
            (await web.client.get(f"{at}/j0"), await web.client.post(wrong, json={**GOOD, "rank": 0}))
            for at, wrong in (("/mine", "/mine"), ("/jobs", "/jobs/check"))
        ]
    (own, own_config), (routes, routes_config) = pairs
    assert (own.status_code, own_config.status_code) == (404, 422)
    assert {answer.headers["content-type"] for answer in (own, own_config)} == {PROBLEM}
    assert (own.json(), own_config.json()) == (routes.json(), routes_config.json())


async def test_place_of_a_job_is_an_address_whatever_the_routes_are_under(tmp_path: Path) -> None:
    async with opened_web(tmp_path) as web:
        web.app.include_router(web.crynux.router("/{team}/jobs"))
        answer = await web.client.post("/a%3Fb%20%C3%A9/jobs", json=GOOD)
        place = answer.headers["location"]
        assert place == f"/a%3Fb%20%C3%A9/jobs/{answer.json()['job_id']}"
        assert (await web.client.get(place)).json() == answer.json()


async def test_lifespan_can_be_entered_again_and_composes_with_another(tmp_path: Path) -> None:
    for _ in range(2):
        async with opened_web(tmp_path) as web:
            assert (await web.client.get("/jobs")).status_code == 200
    with pytest.raises(UsageError, match="lifespan"):
        _ = web.crynux.session


def test_schema_has_every_field_of_a_config_once_and_every_route(tmp_path: Path) -> None:
    app = FastAPI()
    app.include_router(Crynux(ledger=None, folder=tmp_path, public=True).router("/v1/jobs"))
    schema = app.openapi()
    config = schema["components"]["schemas"]["FineTuneConfigBody"]
    assert list(config["properties"]) == list(field_names())
    assert config["properties"]["rank"]["minimum"] == 1
    body = schema["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/FineTuneConfigBody"}
    routes = {(path, method) for path, methods in schema["paths"].items() for method in methods}
    one = "/v1/jobs/{job_id}"
    files = {(f"{one}/{name}", method) for name in ("archive", "export") for method in ("get", "head")}
    assert routes == files | {
        ("/v1/jobs", "post"),
        ("/v1/jobs", "get"),
        ("/v1/jobs/check", "post"),
        (one, "get"),
        (one, "delete"),
        (f"{one}/retry", "post"),
        (f"{one}/events", "get"),
    }
