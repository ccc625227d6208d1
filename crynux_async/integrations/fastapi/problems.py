"""Errors as problem details, which say what is wrong and nothing about the machine that they happened on.

Messages of this library are for whoever runs it: they name paths, hosts and values. Whoever asks over the web gets the
kind of the error, a sentence that was written here, and the fields that are at fault.

Source: RFC 9457, Problem Details for HTTP APIs.
"""

import json
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import attrs
from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Receive, Scope

from crynux_async import errors
from crynux_async.errors import ConfigError, ConflictError, CrynuxError, RateLimitedError, SettingsError, UsageError
from crynux_async.secret import mask_text

MEDIA_TYPE = "application/problem+json"

_FAULT_OF_SERVER = 500

_log = logging.getLogger("crynux_async.integrations.fastapi")

# RFC 9110, sections 15.3.5 and 15.4.5: these have no body, and servers refuse to send one.
_WITHOUT_BODY = frozenset({204, 304})
# Fields of a call that a caller over the web gives: what is wrong with them is told in the library's own words.
_FIELDS_OF_CALLERS = frozenset({"group", "idempotency_key", "label", "tags", "timeout"})


@attrs.frozen
class _Kind:
    """How one class of errors is told."""

    status: int
    name: str
    detail: str
    retry_after: int | None = None


_KINDS: Mapping[type[CrynuxError], _Kind] = {
    ConfigError: _Kind(422, "config", "This config cannot be sent; errors lists what is wrong, by field."),
    ConflictError: _Kind(409, "conflict", "This key stands for another config already; take another key."),
    errors.QuotaError: _Kind(402, "quota", "The key of this service is used up; nothing was sent."),
    errors.BudgetExceededError: _Kind(402, "budget", "The budget does not allow it; nothing was sent."),
    errors.AuthError: _Kind(502, "auth", "The training service does not accept this service's key."),
    errors.OwnershipError: _Kind(502, "auth", "The training service files this job under another key."),
    errors.UnreachableError: _Kind(503, "unreachable", "The training service cannot be reached.", 30),
    errors.TransportError: _Kind(503, "unreachable", "The connection to the training service broke.", 30),
    RateLimitedError: _Kind(503, "rate-limit", "The training service takes no more jobs at the moment.", 60),
    errors.NotFoundError: _Kind(410, "gone", "The training service does not have it (any more)."),
    errors.RejectedError: _Kind(422, "rejected", "The training service refused it; nothing is paid."),
    errors.BackendError: _Kind(502, "service", "The training service did not answer as it should."),
    errors.SubmissionUnknownError: _Kind(
        409, "unconfirmed", "It was sent and the outcome is not known, so it is not sent again by itself."
    ),
    errors.JobFailedError: _Kind(409, "failed", "The training service gave up on it."),
    errors.JobStalledError: _Kind(409, "stalled", "It runs longer than any healthy job can; it is still watched."),
    errors.JobExpiredError: _Kind(410, "gone", "The training service has deleted it."),
    errors.JobAbandonedError: _Kind(409, "abandoned", "It was given up."),
    errors.JobError: _Kind(409, "job", "It did not end with a model."),
    errors.DownloadError: _Kind(503, "download", "Its archive could not be fetched yet.", 30),
    errors.ArchiveError: _Kind(409, "archive", "Its archive cannot be expressed so, or is not a sound one."),
    errors.LedgerError: _Kind(503, "ledger", "Jobs cannot be read or stored at the moment; nothing was sent.", 5),
    UsageError: _Kind(409, "state", "It cannot be done in the state that the job is in."),
    SettingsError: _Kind(500, "settings", "This service is not set up as it should be."),
    CrynuxError: _Kind(500, "error", "Something went wrong."),
}


class ProblemError(HTTPException):
    """An answer that is a problem, for routes and for handlers of one's own.

    Attributes:
        name: Its kind: a short word that stays the same.
        entries: What is wrong, field by field.
        extra: Further members of the answer.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        entries: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.name = name
        self.entries = tuple(entries)
        self.extra = extra


class ProblemRoute(APIRoute):
    """A route whose errors are problem details; ``APIRouter(route_class=ProblemRoute)`` for handlers of your own.

    Attributes:
        body_bytes: Size that a body may have, > 0; more is answered 413 as soon as it has come.
    """

    body_bytes = 64 * 1024

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors answered."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            limited = _LimitedRequest(request.scope, request.receive, body_bytes=self.body_bytes)
            try:
                return await handle(limited)
            # Here and not by handlers of the application, whose other routes keep the answers that they have.
            except (CrynuxError, RequestValidationError, StarletteHTTPException) as error:
                return await answer_error(request, error)

        return answered


class _LimitedRequest(Request):
    """A request whose body is read up to a limit. FastAPI's own limit answers in plain text."""

    def __init__(self, scope: Scope, receive: Receive, *, body_bytes: int) -> None:
        super().__init__(scope, receive)
        self._limit = body_bytes

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            pieces, size = [], 0
            async for piece in self.stream():
                size += len(piece)
                if size > self._limit:
                    raise ProblemError(413, "too-large", f"The body may have {self._limit} bytes.")
                pieces.append(piece)
            # Where Starlette keeps it, too: its stream() and form() look there.
            self._body = b"".join(pieces)
        return self._body


async def answer_error(request: Request, error: Exception) -> Response:
    """Answer an error of this library, of validation or of HTTP with problem details.

    ``app.add_exception_handler(CrynuxError, answer_error)`` does it for handlers that are no ``ProblemRoute``.

    Args:
        request: What was asked.
        error: A ``CrynuxError``, ``RequestValidationError`` or ``HTTPException``; any other is raised again.
    """
    problem = problem_of(error)
    if isinstance(error, CrynuxError) and problem.status_code >= _FAULT_OF_SERVER:
        # Whoever asks is told the kind alone; what has happened is for whoever runs this.
        _log.info("%s %r is answered %d: %s", request.method, request.url.path, problem.status_code, error)
    headers = {**(problem.headers or {})}
    if problem.status_code in _WITHOUT_BODY:
        return Response(status_code=problem.status_code, headers=headers)
    body = {
        "type": f"urn:crynux:{problem.name}",
        "status": problem.status_code,
        "detail": problem.detail,
        **({"errors": list(problem.entries)} if problem.entries else {}),
        **problem.extra,
    }
    # In ASCII: a caller's own text may hold halves of characters, which have no UTF-8.
    return Response(json.dumps(body), problem.status_code, headers, MEDIA_TYPE)


def problem_of(error: Exception) -> ProblemError:
    """Return an error as the problem that a caller is told; what is no caller's fault to mend is raised again.

    A ``UsageError`` that is about no job and no field of a call is a fault of the application: the server logs it and
    answers 500.
    """
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, CrynuxError) and not _is_fault_of_application(error):
        return _problem_of_library(error)
    if isinstance(error, RequestValidationError):
        return _problem_of_request(error.errors())
    if isinstance(error, StarletteHTTPException):
        return ProblemError(error.status_code, "request", str(error.detail), headers=error.headers)
    raise error


def told(error: CrynuxError) -> dict[str, str]:
    """Return what is told of why a job ended badly or was not sent."""
    kind = _kind_of(error)
    return {"kind": kind.name, "detail": kind.detail}


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route's schema says of the statuses with which it may answer a problem."""
    return {status: {"description": _MEANINGS[status], "content": {MEDIA_TYPE: _CONTENT}} for status in statuses}


def _problem_of_library(error: CrynuxError) -> ProblemError:
    kind = _kind_of(error)
    wait = kind.retry_after
    if isinstance(error, RateLimitedError) and error.wait is not None:
        # Whole seconds are all that the header can say; rounded up, or whoever obeys is early and refused again.
        wait = 1 + int(error.wait)
    headers = {} if wait is None else {"Retry-After": str(wait)}
    entries = list(_entries(error))
    facts = {"job_id": error.job_id} if error.job_id is not None else {}
    return ProblemError(kind.status, kind.name, kind.detail, entries=entries, headers=headers, **facts)


def _problem_of_request(found: Sequence[Mapping[str, Any]]) -> ProblemError:
    if found and found[0]["type"] == "json_invalid":
        *_, index = found[0]["loc"]
        return ProblemError(
            400, "request", f"The body is not JSON: {found[0]['ctx']['error']} at character {index + 1}."
        )
    entries = [_validation_entry(entry) for entry in found]
    return ProblemError(422, "request", "This request cannot be understood; errors lists why.", entries=entries)


def _is_fault_of_application(error: CrynuxError) -> bool:
    return isinstance(error, UsageError) and error.job_id is None and error.field not in _FIELDS_OF_CALLERS


def _kind_of(error: CrynuxError) -> _Kind:
    if isinstance(error, UsageError) and error.field in _FIELDS_OF_CALLERS:
        return _Kind(422, "request", "This request cannot be understood; errors lists why.")
    # As its nearest relative that is told: an error of a new kind is never told in its own words.
    return next(_KINDS[cls] for cls in type(error).__mro__ if cls in _KINDS)


def _entries(error: CrynuxError) -> Iterable[dict[str, str]]:
    if isinstance(error, ConfigError):
        for problem in error.problems:
            yield _entry(problem.field, mask_text(problem.message))
    elif isinstance(error, ConflictError):
        # Not the values: whoever has guessed a key must not learn what was asked under it.
        for field in error.differences:
            yield _entry(field, "is another one than was asked under this key before")
    elif isinstance(error, UsageError) and error.field in _FIELDS_OF_CALLERS:
        # No pointer: it is not in the body.
        yield {"field": error.field, "detail": str(error)}
    elif isinstance(error, errors.RejectedError) and error.field is not None:
        yield _entry(error.field, "is refused by the training service")


def _entry(field: str, detail: str) -> dict[str, str]:
    return {"field": field, "pointer": f"#/{field}", "detail": detail}


def _validation_entry(entry: Mapping[str, Any]) -> dict[str, str]:
    # A handler's own may be about nothing in particular, and leave out what was sent.
    place, *path = map(str, entry["loc"] or ("request",))
    detail = str(entry["msg"])
    if place == "body" and not path and isinstance(entry.get("input"), bytes):
        # What curl -d says unless it is told otherwise is a form, which is not read at all.
        detail = "is read as JSON with Content-Type: application/json alone"
    return {"in": place, "field": ".".join(path) or place, "detail": detail}


_MEANINGS: Mapping[int, str] = {
    400: "The body is not JSON",
    401: "Nobody is signed in",
    402: "The quota or the budget is used up",
    403: "Not allowed",
    404: "There is no such job",
    409: "The job's state, or another use of the key, does not allow it",
    410: "It was deleted",
    413: "The body is too large",
    416: "The range lies behind the end",
    422: "The request or the config is wrong; `errors` says where",
    429: "Too many of this caller's are under way; `Retry-After` says when to try again",
    502: "The training service refused this service",
    503: "The ledger or the training service is away; `Retry-After` says when to try again",
}

_CONTENT: Mapping[str, Any] = {
    "schema": {
        "title": "Problem",
        "type": "object",
        "description": "Problem details (RFC 9457).",
        "required": ["type", "status", "detail"],
        "properties": {
            "type": {"type": "string", "format": "uri", "examples": ["urn:crynux:config"]},
            "status": {"type": "integer", "examples": [422]},
            "detail": {"type": "string", "examples": ["This config cannot be sent."]},
            "job_id": {"type": "string"},
            "state": {"type": "string"},
            "errors": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["field", "detail"],
                    "properties": {
                        "field": {"type": "string", "examples": ["learning_rate"]},
                        "pointer": {"type": "string", "examples": ["#/learning_rate"]},
                        "in": {"type": "string", "examples": ["query"]},
                        "detail": {"type": "string", "examples": ["must be above 0, not -1"]},
                    },
                },
            },
        },
    }
}
