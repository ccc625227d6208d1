"""Every route is asked whatever its own schema allows, and forbids: it answers as it says there, and never with 500."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from crynux_async.integrations.fastapi import Crynux, Limits
from crynux_async.testing import VirtualTimeLoop
from tests.integrations.web_lab import Web, opened_web

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def described() -> Any:
    app = FastAPI()
    app.include_router(Crynux(ledger=None, folder="models", public=True).router())
    return schemathesis.openapi.from_dict(app.openapi())


SCHEMA = described()
OPERATIONS = {f"{each.ok().method.upper()} {each.ok().path}": each.ok() for each in SCHEMA.get_all_operations()}


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[tuple[asyncio.Runner, Web, str]]:
    """An application with one finished job, on a loop that goes on only while something is asked."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        opening = opened_web(tmp_path, limits=Limits(streams=1000))
        web = runner.run(opening.__aenter__())
        path = runner.run(web.submit())
        runner.run(web.finished(path))
        yield runner, web, path.rpartition("/")[2]
        runner.run(opening.__aexit__(None, None, None))


def can_be_asked_wrongly(operation: Any) -> bool:
    """Whether there is anything to be wrong: a name in a path may be any text."""
    given_elsewhere = [each for each in operation.definition.raw.get("parameters", ()) if each["in"] != "path"]
    return bool(given_elsewhere) or "requestBody" in operation.definition.raw


CASES = [
    pytest.param(operation, mode, id=f"{mode.value} {name}")
    for name, operation in OPERATIONS.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or can_be_asked_wrongly(operation)
]


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_route_answers_as_its_schema_says(operation: Any, mode: GenerationMode, asked: Any) -> None:
    runner, web, job_id = asked
    turns = iter(range(1_000_000))

    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if "job_id" in case.path_parameters and next(turns) % 2:
            case.path_parameters["job_id"] = job_id
        sent = case.as_transport_kwargs(base_url="http://web")
        wanted = ("method", "url", "headers", "params", "json", "data", "cookies")
        known = {name: sent[name] for name in wanted if sent.get(name)}
        if isinstance(known.get("data"), bytes | str):
            known["content"] = known.pop("data")
        answer = runner.run(web.client.request(**known))
        case.validate_response(answer, checks=CHECKS)

    ask()
