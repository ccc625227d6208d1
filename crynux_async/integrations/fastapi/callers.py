"""Who asks, and what they may see: the parts that routes, and handlers of your own, are made of.

Dependencies are ``async`` also where they wait for nothing: FastAPI calls any other one in a thread, which takes longer
than what they do.
"""

import re
from typing import TYPE_CHECKING, Annotated

import attrs
from fastapi import Depends, Path, Request

from crynux_async.errors import UsageError
from crynux_async.integrations.fastapi.problems import ProblemError
from crynux_async.job import Job
from crynux_async.session import Session

if TYPE_CHECKING:
    from crynux_async.integrations.fastapi.crynux import Crynux, Web

_JOB_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")


@attrs.frozen(kw_only=True)
class Caller:
    """Who asks.

    Attributes:
        web: What this process has open.
        tenant: On whose behalf, or None where the application tells no tenants apart: then every job is seen.
    """

    web: "Web"
    tenant: str | None

    async def job(self, job_id: str) -> Job:
        """Return a job of theirs, whoever follows it.

        Raises:
            ProblemError: There is none, or it is somebody else's: 404 for both.
            LedgerError: The ledger cannot be read.
        """
        # Names have one form; what has another is not looked for, whatever bytes it holds.
        known = _JOB_ID.fullmatch(job_id) is not None
        job = await self.web.session.find(job_id, tenant=self.tenant) if known else None
        if job is None:
            raise ProblemError(404, "unknown-job", "There is no such job.")
        return job


async def caller_of(request: Request) -> Caller:
    """Return who asks, as ``crynux.dependencies`` have found out.

    Raises:
        UsageError: They were not asked, and there are tenants to tell apart.
    """
    caller: Caller | None = getattr(request.state, "crynux_caller", None)
    if caller is not None:
        return caller
    crynux: Crynux | None = getattr(request.app.state, "crynux", None)
    if crynux is None:
        raise UsageError("this application has no Crynux: give FastAPI(lifespan=crynux.lifespan)")
    if crynux.tells_callers_apart:
        # Without them this handler would show every tenant's jobs to anybody.
        raise UsageError("give this handler dependencies=crynux.dependencies: they say who asks, and who may")
    return Caller(web=crynux.web, tenant=None)


CallerDep = Annotated[Caller, Depends(caller_of)]
"""Who asks."""


async def _session(caller: CallerDep) -> Session:
    return caller.web.session


async def _job(caller: CallerDep, job_id: Annotated[str, Path(description="The job's name.")]) -> Job:
    return await caller.job(job_id)


SessionDep = Annotated[Session, Depends(_session)]
"""The session of this process."""

JobDep = Annotated[Job, Depends(_job)]
"""The job that ``{job_id}`` in the path names, whoever follows it; 404 where the caller has none of this name."""
