"""Where the rows of the watching page come from, and on whose behalf they are read."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

import attrs
from fastapi import Depends, Request

from crynux_async.backends.reading import facts_behind
from crynux_async.errors import UsageError
from crynux_async.integrations.fastapi.callers import CallerDep
from crynux_async.integrations.fastapi.limits import Admission
from crynux_async.integrations.fastapi.streams import Streams
from crynux_async.ledgers.base import JobFilter, Ledger
from crynux_async.ledgers.rows import JobRow
from crynux_async.session import Session
from crynux_async.sweeps.notes import TAG
from crynux_async.training.service import ServiceFacts

OpenSession = Callable[[JobRow], AbstractAsyncContextManager[Session]]
"""Opens a session that reads what a ledger has of a job's service."""


@attrs.frozen(kw_only=True)
class Source:
    """Where rows come from.

    Attributes:
        ledger: Has them; open.
        service: The service whose jobs are shown, or None for those of every service.
        limit: Creates a minute where that is known, or None.
        burst: Creates at once where that is known, or None.
        facts: What the service does with configs, or None to tell it from each job.
        open_session: Opens a session that reads the ledger.
        host: What this host is called where the ledger says who has an archive.
        shows_commands: Whether whoever looks has the command line at hand.
    """

    ledger: Ledger
    service: str | None
    limit: float | None
    burst: int | None
    facts: ServiceFacts | None
    open_session: OpenSession
    host: str
    shows_commands: bool = False

    @classmethod
    def of(cls, session: Session) -> "Source":
        """Return the ledger of an open session, with the jobs of its service."""

        @asynccontextmanager
        async def same(_row: JobRow) -> AsyncIterator[Session]:
            yield session

        return cls(
            ledger=session.ledger,
            service=session.service,
            limit=session.settings.rate_limit,
            burst=session.settings.rate_burst,
            facts=session.service_facts,
            open_session=same,
            host=session.settings.host_name,
        )

    def facts_of(self, row: JobRow) -> ServiceFacts:
        """Return what the service of a job does with configs."""
        if self.facts is not None:
            return self.facts
        return facts_behind(row.key_id)


@attrs.frozen(kw_only=True)
class Viewer:
    """Who looks.

    Attributes:
        source: At what.
        tenant: On whose behalf, or None where every job is seen.
        streams: The open streams of this process.
        admission: Lets streams in, or None where nothing limits them.
    """

    source: Source
    tenant: str | None
    streams: Streams
    admission: Admission | None = None

    def filter(self, **wanted: Any) -> JobFilter:
        """Return which jobs are meant of those that may be seen."""
        return JobFilter(backend=self.source.service, tenant=self.tenant, **wanted)

    async def find(self, job_id: str) -> JobRow | None:
        """Return a job that may be seen, or None."""
        found = await self.source.ledger.jobs(self.filter(job_ids=(job_id,)), limit=1)
        return found[0] if found else None

    async def newest_of_sweep(self, name: str) -> JobRow | None:
        """Return the newest job of a sweep that may be seen, or None where there is no such sweep."""
        found = await self.source.ledger.jobs(self.filter(tags={TAG: name}), limit=1, newest_first=True)
        return found[0] if found else None


async def viewer_of_caller(caller: CallerDep, request: Request) -> None:
    """Let whoever may use the routes over jobs look at the same jobs."""
    web = caller.web
    request.state.crynux_viewer = Viewer(
        source=Source.of(web.session), tenant=caller.tenant, streams=web.streams, admission=web.admission
    )


async def _viewer(request: Request) -> Viewer:
    viewer: Viewer | None = getattr(request.state, "crynux_viewer", None)
    if viewer is None:
        raise UsageError("nobody has said who looks at this page")
    return viewer


ViewerDep = Annotated[Viewer, Depends(_viewer)]
"""Who looks."""
