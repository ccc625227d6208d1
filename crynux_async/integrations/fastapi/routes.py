"""Every route over jobs. Each is a few lines over the parts, as a handler of your own would be."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.params import Depends
from pydantic import AwareDatetime

from crynux_async.archive import Program
from crynux_async.errors import SubmissionUnknownError
from crynux_async.integrations.fastapi.answers import AbandonAnswer, AdviceAnswer, CheckAnswer, JobAnswer, JobPage
from crynux_async.integrations.fastapi.archives import archive_response, bring_here, export_response
from crynux_async.integrations.fastapi.callers import CallerDep, JobDep, caller_of
from crynux_async.integrations.fastapi.configs import ConfigDep, FineTuneConfigBody, config_from
from crynux_async.integrations.fastapi.problems import ProblemRoute, responses
from crynux_async.integrations.fastapi.streams import EventsDep
from crynux_async.integrations.fastapi.submissions import (
    MAX_NAME,
    MAX_TAGS,
    Submission,
    Tag,
    submission_parameters,
    tags_of,
)
from crynux_async.ledgers.rows import shown_config
from crynux_async.secret import mask_text
from crynux_async.states import FOLLOWED, JobState
from crynux_async.training import advice

_MAX_PAGE = 200
# Nothing was planned before; and near the end of what Python holds, a time of another zone has no equal in UTC.
_EPOCH, _FAR = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)

_Name = Annotated[str, Query(max_length=MAX_NAME)]
_Tags = Annotated[list[Tag], Query(max_length=MAX_TAGS)]

# Source: OpenAPI 3.2, section 4.14.4, server-sent events.
_STREAM: dict[str, Any] = {
    "description": "Its events, as they come",
    "content": {
        "text/event-stream": {
            "itemSchema": {
                "type": "object",
                "properties": {
                    "data": {"type": "string"},
                    "event": {"type": "string"},
                    "id": {"type": "string"},
                    "retry": {"type": "integer", "minimum": 0},
                },
            }
        }
    },
}


async def submit_job(*, body: FineTuneConfigBody, request: Request) -> Response:
    """Queue a config. When this answers, the job is durable, and whichever worker lives sends it."""
    # Called, and no dependencies as in the other routes: FastAPI takes longer to resolve one than it takes to run.
    asked, config, caller = Submission.of(request), await config_from(body), await caller_of(request)
    web, tenant = caller.web, caller.tenant
    # A job with a key is sent by any session that stands for it, and one without only by its own: so each gets one.
    key = asked.key or secrets.token_hex(16)
    try:
        async with web.admission.job(tenant, config, asked.key):
            filing = web.filing(tenant, label=asked.label, group=asked.group, tags=asked.tags)
            job = await web.session.enqueue(config, idempotency_key=key, **filing)
    except SubmissionUnknownError as error:
        # What the same key is answered for a job that runs: this job, whose state says the rest.
        job = await caller.job(error.job_id or "")
    place = {"Location": f"{quote(request.scope['path'].rstrip('/'))}/{job.job_id}"}
    # As bytes: FastAPI would check once more what was checked as it was made.
    return Response(JobAnswer.of(job).model_dump_json(), 202, place, "application/json")


async def list_jobs(
    *,
    caller: CallerDep,
    state: Annotated[list[JobState], Query()] = [],  # noqa: B006
    label: _Name | None = None,
    label_prefix: _Name | None = None,
    group: _Name | None = None,
    tag: _Tags = [],  # noqa: B006  # FastAPI copies defaults
    since: Annotated[AwareDatetime | None, Query(ge=_EPOCH, le=_FAR)] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 50,
    cursor: Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before.")] = None,
) -> JobPage:
    """List jobs, whoever follows them, the newest first."""
    # Looked for as the caller: another tenant's job is no place to go on from, and not known to exist.
    before = None if cursor is None else (await caller.job(cursor)).job_id
    jobs = await caller.web.session.history(
        states=state or None,
        label=label,
        label_prefix=label_prefix,
        group=group,
        tags=tags_of(tag),
        tenant=caller.tenant,
        since=since,
        before=before,
        # One more than is shown tells whether there is a next page.
        limit=limit + 1,
        newest_first=True,
    )
    shown = jobs[:limit]
    return JobPage(jobs=list(map(JobAnswer.of, shown)), next_cursor=shown[-1].job_id if jobs[limit:] else None)


async def show_job(job: JobDep) -> JobAnswer:
    """Show one job, whoever follows it."""
    return JobAnswer.of(job)


async def stream_events(events: EventsDep) -> Response:
    """Tell what happened to a job, and then what happens, as server-sent events.

    The event's number is its `id`, so that a browser goes on where it was. An event named `end` says that nothing more
    happens by itself; one named `reconnect`, that this process stops and another one goes on, or that the ledger cannot
    be read any more.
    """
    return events.response()


async def get_archive(caller: CallerDep, job: JobDep, request: Request) -> Response:
    """Return the archive as it came from the training service."""
    await bring_here(job, caller.web.folder, caller.web.host)
    return await archive_response(job, request)


async def get_export(caller: CallerDep, job: JobDep, request: Request, program: Program = "all") -> Response:
    """Return the LoRA as one safetensors file that programs load."""
    await bring_here(job, caller.web.folder, caller.web.host)
    return await export_response(job, request, program)


async def retry_job(job: JobDep, timeout: Annotated[int | None, Query(ge=1, le=2**53)] = None) -> JobAnswer:
    """Send a job again that was not sent, or ended badly. It is paid for again where it was sent."""
    return JobAnswer.of(await job.retry(timeout=timeout))


async def abandon_job(job: JobDep) -> AbandonAnswer:
    """Give a job up. A task that runs goes on at the training service, and is paid for."""
    runs = job.state in FOLLOWED
    job.abandon()
    message = (
        "Nobody follows it any more; its task goes on and is paid for." if runs else "Nothing more is done for it."
    )
    return AbandonAnswer(job=JobAnswer.of(job), message=message)


async def check_config(config: ConfigDep, caller: CallerDep) -> CheckAnswer:
    """Say what to know of a config before it is paid for. Nothing is sent, and nothing is fetched."""
    session = caller.web.session
    found = advice.check(config, service=session.service_facts)
    price = session.price(config)
    return CheckAnswer(
        advice=[_advice(item) for item in found],
        price_wei=None if price is None else str(price),
        digest=config.digest(),
        config=FineTuneConfigBody(shown_config(config) or {}),
    )


def make_router(prefix: str, dependencies: Sequence[Depends], *, body_bytes: int) -> APIRouter:
    """Return a router with every route.

    Args:
        prefix: In front of every path, such as "/jobs".
        dependencies: Say who asks, and who may.
        body_bytes: Size of a config's JSON, > 0.
    """
    route = type("LimitedRoute", (ProblemRoute,), {"body_bytes": body_bytes})
    common = responses(401, 403, 422, 503)
    router = APIRouter(
        prefix=prefix, dependencies=list(dependencies), route_class=route, tags=["jobs"], responses=common
    )
    one = "/{job_id}"
    router.add_api_route(
        "",
        submit_job,
        methods=["POST"],
        status_code=202,
        response_model=JobAnswer,
        responses=_submitted(),
        openapi_extra={"parameters": submission_parameters()},
    )
    router.add_api_route("", list_jobs, methods=["GET"], responses=responses(404))
    # In the way of no job: nothing is posted to a job itself.
    router.add_api_route("/check", check_config, methods=["POST"], responses=responses(400, 413))
    router.add_api_route(one, show_job, methods=["GET"], responses=responses(404))
    router.add_api_route(one, abandon_job, methods=["DELETE"], status_code=202, responses=responses(404))
    router.add_api_route(f"{one}/retry", retry_job, methods=["POST"], status_code=202, responses=responses(404, 409))
    router.add_api_route(
        f"{one}/events",
        stream_events,
        methods=["GET"],
        response_class=Response,
        responses={200: _STREAM, 204: {"description": "Nothing more happens to it"}, **responses(404, 429)},
    )
    _add_file(router, f"{one}/archive", get_archive, "application/zip")
    _add_file(router, f"{one}/export", get_export, "application/octet-stream")
    return router


def _add_file(router: APIRouter, path: str, endpoint: Any, media_type: str) -> None:
    whole = {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}
    said: dict[int | str, dict[str, Any]] = {
        200: {"description": "The file", **whole},
        206: {"description": "A part of it", **whole},
        304: {"description": "It is what the caller has"},
        # A range that cannot be understood is answered by the file server itself, in plain text.
        400: {"description": "The range cannot be understood", "content": {"text/plain": {}}},
        416: {"description": "The range lies behind the end", "content": {"text/plain": {}}},
        **responses(404, 409, 410),
    }
    # One name each: a route with both methods would give two operations of the schema one id.
    for method in ("GET", "HEAD"):
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=f"{endpoint.__name__}_{method.lower()}",
            response_class=Response,
            responses=said,
        )


def _submitted() -> dict[int | str, dict[str, Any]]:
    location = {"description": "Where the job is", "schema": {"type": "string", "format": "uri-reference"}}
    return {
        202: {"description": "It is queued, or was already", "headers": {"Location": location}},
        **responses(400, 402, 409, 413, 429),
    }


def _advice(item: advice.Advice) -> AdviceAnswer:
    texts = {name: getattr(item, name) for name in ("code", "severity", "field", "title", "action")}
    return AdviceAnswer(**texts, message=mask_text(item.message))
