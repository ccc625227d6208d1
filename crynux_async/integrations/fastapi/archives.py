"""Archives and exports as files: in ranges, with a tag, and with a plain word while there is none.

Source: RFC 9110, sections 13 (conditional requests), 14 (ranges) and 15.5.11 (410 Gone).
"""

import asyncio
from functools import partial
from pathlib import Path
from typing import Self

import anyio.to_thread
import attrs
from fastapi import Request
from fastapi.responses import FileResponse, Response

from crynux_async.archive import LoraArchive, Program
from crynux_async.integrations.fastapi.problems import ProblemError
from crynux_async.job import Job
from crynux_async.ledgers.rows import JobRow, shown_config
from crynux_async.states import STAGES, JobState, Stage
from crynux_async.training.config import FineTuneConfig

# A bridge's task is looked at every 5 s at most: sooner there is hardly news.
_LOOK_AGAIN = {"Retry-After": "5"}
_WITHIN = 5.0  # seconds; proxies give up on a silent request after 30 to 60
# A browser may keep it and asks each time; a cache that callers share would give one tenant's model to another.
_NO_CACHES = "private, no-cache"


@attrs.frozen(kw_only=True)
class StoredModel:
    """What is needed of a job to hand out its model.

    Attributes:
        path: Where its archive is, or None.
        state: How the job stands.
        name: What its files are called, without an ending.
        config: What was trained, or None where that is not known.
        is_elsewhere: Whether another host has it.
    """

    path: Path | None
    state: JobState
    name: str
    config: FineTuneConfig | None
    is_elsewhere: bool = False

    @classmethod
    def of(cls, job: Job | JobRow, *, host: str | None = None) -> Self:
        """Return what is needed of a job.

        Args:
            job: The job.
            host: What this host is called; None where the archive was brought to it before, if there is one.
        """
        path = None if job.path is None else Path(job.path)
        name, is_elsewhere = job.task_id or job.job_id, bool(host and job.host and job.host != host)
        return cls(path=path, state=job.state, name=name, config=job.config, is_elsewhere=is_elsewhere)


async def bring_here(job: Job, folder: Path, host: str) -> None:
    """Bring an archive that another host has to this one, from the shared folder or from the service.

    Args:
        job: The job.
        folder: Where archives are on this host.
        host: What this host is called.

    Raises:
        ProblemError: 409 with Retry-After, where it takes longer; what has come is kept for the next request.
        CrynuxError: It cannot be had any more.
    """
    if job.path is None or job.host in (None, host) or await anyio.to_thread.run_sync(job.path.is_file):
        return
    try:
        async with asyncio.timeout(_WITHIN):
            await job.download(folder)
    except TimeoutError as error:
        detail = "It is on another host, and on its way to this one."
        raise ProblemError(409, "no-archive", detail, headers=_LOOK_AGAIN, state=job.state.value) from error


async def archive_response(job: Job, request: Request) -> Response:
    """Return a job's archive as it came from the service.

    Raises:
        ProblemError: There is none here: 409 with the state, and with Retry-After while one may come; 410 when it was
            deleted.
    """
    return archive_file(StoredModel.of(job), request)


def archive_file(model: StoredModel, request: Request) -> Response:
    """Return an archive as it came from the service.

    Raises:
        ProblemError: As of ``archive_response``.
    """
    return _file(_archive_path(model), request, f"{model.name}.zip", "application/zip")


async def export_response(job: Job, request: Request, program: Program = "all") -> Response:
    """Return a job's LoRA as one safetensors file for a program, written beside the archive when first asked for.

    Raises:
        ProblemError: As of ``archive_response``.
        ArchiveError: The LoRA cannot be expressed in a file for this program.
    """
    return await export_file(StoredModel.of(job), request, program)


async def export_file(model: StoredModel, request: Request, program: Program = "all") -> Response:
    """Return a LoRA as one safetensors file for a program.

    Raises:
        ProblemError: As of ``archive_response``.
        ArchiveError: As of ``export_response``.
    """
    archive = _archive_path(model)
    # Beside the archive: the same archive and program always give the same bytes, for every worker.
    path = archive.with_name(f"{archive.stem}.{program}.safetensors")
    if not path.is_file():
        await anyio.to_thread.run_sync(partial(_export, model.config, archive, path, program))
    return _file(path, request, f"{model.name}.{program}.safetensors", "application/octet-stream")


def _archive_path(model: StoredModel) -> Path:
    if model.path is not None:
        if model.path.is_file():  # also another host's, where both have mounted its folder
            return model.path
        if model.is_elsewhere:
            raise ProblemError(409, "elsewhere", "It is on another host.", state=model.state.value)
        raise ProblemError(410, "gone", "It was deleted.")
    if model.state is JobState.EXPIRED:
        raise ProblemError(410, "gone", "The training service has deleted it.", state=model.state.value)
    may_come = STAGES[model.state] is not Stage.OVER
    detail = "There is no archive yet." if may_come else "There is no archive, and none will come by itself."
    headers = _LOOK_AGAIN if may_come else {}
    raise ProblemError(409, "no-archive", detail, headers=headers, state=model.state.value)


def _file(path: Path, request: Request, name: str, media_type: str) -> Response:
    response = FileResponse(path, media_type=media_type, filename=name, stat_result=path.stat())
    response.headers["Cache-Control"] = _NO_CACHES
    # Starlette's file server knows ranges and If-Range, but not this.
    if _is_known(request, response.headers["ETag"]):
        kept = {name: response.headers[name] for name in ("ETag", "Last-Modified", "Cache-Control")}
        return Response(status_code=304, headers=kept)
    return response


def _is_known(request: Request, tag: str) -> bool:
    # Compared weakly, as RFC 9110, section 13.1.2, has it: proxies mark a tag as weak when they compress.
    known = [each.strip().removeprefix("W/") for each in request.headers.get("If-None-Match", "").split(",")]
    return tag in known or "*" in known


def _export(config: FineTuneConfig | None, archive: Path, path: Path, program: Program) -> None:
    LoraArchive.open(archive).export(
        path,
        program=program,
        base_model=config.model_name if config else None,
        # Without the query of a presigned address: whoever gets the file reads its header.
        config=shown_config(config),
        digest=config.digest() if config else None,
        # Two workers may be asked at once. Both write the same bytes, and whole: neither disturbs the other.
        overwrite=True,
    )
