"""``Crynux``: what an application holds."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import attrs
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi import params as fastapi_params

from crynux_async.errors import LedgerError, UsageError
from crynux_async.integrations.fastapi.callers import Caller
from crynux_async.integrations.fastapi.limits import Admission, Limits
from crynux_async.integrations.fastapi.page.routes import make_page
from crynux_async.integrations.fastapi.page.sources import viewer_of_caller
from crynux_async.integrations.fastapi.problems import ProblemError
from crynux_async.integrations.fastapi.routes import make_router
from crynux_async.integrations.fastapi.shutdown import calling_at_shutdown
from crynux_async.integrations.fastapi.streams import Streams
from crynux_async.report.page import require_templates
from crynux_async.session import Session
from crynux_async.settings import SettingsArguments
from crynux_async.supervision.filing import SubmitArguments
from crynux_async.supervision.observer import Observer
from crynux_async.training.config import FineTuneConfig
from crynux_async.training.json_schema import example_config

if TYPE_CHECKING:
    from crynux_async.backends.base import Backend
    from crynux_async.backends.opening import ServiceName
    from crynux_async.ledgers.base import Ledger
    from crynux_async.signing import Wallet


_LOOK_EVERY = 1.0

_log = logging.getLogger("crynux_async.integrations.fastapi")


@attrs.frozen(kw_only=True)
class Web:
    """What one process has open.

    Attributes:
        session: Has the jobs.
        streams: The open event streams.
        admission: Lets callers in as far as their limits go.
        limits: Those limits.
        folder: Where finished archives are brought.
    """

    session: Session
    streams: Streams
    admission: Admission
    limits: Limits
    folder: Path

    @property
    def host(self) -> str:
        """What this host is called where a ledger says who has an archive."""
        return self.session.settings.host_name

    def filing(
        self, tenant: str | None, *, label: str = "", group: str = "", tags: Mapping[str, str] | None = None
    ) -> SubmitArguments:
        """Return what a new job is filed under, with its archive wanted from the first moment on."""
        filing = SubmitArguments(label=label, group=group, tags=tags or {}, tenant=tenant or "", folder=self.folder)
        budget = self.limits.budget(tenant)
        if budget is not None:
            filing["budget"] = budget
        return filing


class Crynux:
    """Jobs inside a FastAPI application, the same ones in every worker.

    Every worker opens a session on the ledger, follows its share of the jobs, and answers for all of them. When one
    ends, the others go on with what it followed.

    Args:
        ledger: Where jobs are remembered, as in ``Session``; None forgets them with the process, for one worker only.
        folder: Where the archive of every job is brought as soon as there is one; the same for all workers.
        authorize: A dependency that raises ``HTTPException`` for whoever may not come in, on every route.
        tenant: A dependency that returns the caller's name. Every route then shows, finds and changes that tenant's
            jobs alone, and one key of two tenants means two jobs. None: every caller sees every job in the ledger.
        public: Whether anybody may come in, where there is no ``authorize``.
        limits: What each tenant may have.
        backend: Who runs the tasks, as in ``Session``.
        wallet: Pays at the relay, as in ``Session``.
        price: What one try costs at most, in CNX, as of ``Session``.
        observer: Watches what the session does, as in ``Session``.
        **settings: Settings by name (see ``Settings``); the rest comes from the environment and the settings file.
    """

    def __init__(
        self,
        *,
        ledger: "str | Path | Ledger | None",
        folder: str | Path,
        authorize: Callable[..., Any] | None = None,
        tenant: Callable[..., Any] | None = None,
        public: bool = False,
        limits: Limits | None = None,
        backend: "Backend | ServiceName | None" = None,
        wallet: "Wallet | None" = None,
        price: Decimal | float | str | None = None,
        observer: Observer | None = None,
        **settings: Unpack[SettingsArguments],
    ) -> None:
        self._ledger = ledger
        self._folder = Path(folder).absolute()
        self._authorize = authorize
        self._tenant = tenant
        self._is_public = public
        self._limits = limits or Limits()
        self._backend = backend
        self._wallet = wallet
        self._price = price
        self._observer = observer
        self._settings = settings
        self._web: Web | None = None

    @property
    def web(self) -> Web:
        """What this process has open.

        Raises:
            UsageError: Nothing; the application has not begun, or has ended.
        """
        if self._web is None:
            raise UsageError("the application has not begun: give FastAPI(lifespan=crynux.lifespan)")
        return self._web

    @property
    def session(self) -> Session:
        """The session of this process.

        Raises:
            UsageError: The application has not begun, or has ended.
        """
        return self.web.session

    @property
    def tells_callers_apart(self) -> bool:
        """Whether not everybody may see everything."""
        return self._authorize is not None or self._tenant is not None

    @property
    def dependencies(self) -> list[fastapi_params.Depends]:
        """What finds out who asks and who may, for routers and handlers of your own: ``dependencies=...``.

        Raises:
            UsageError: Nobody has said who may.
        """
        if self._authorize is None and not self._is_public:
            raise UsageError(
                "say who may come in: Crynux(authorize=...), a dependency that raises HTTPException(401) for others; "
                "or public=True, for anybody",
                field="authorize",
            )
        who = self._caller_by_tenant(self._tenant) if self._tenant is not None else self._any_caller
        allowed = [Depends(self._authorize)] if self._authorize is not None else []
        return [*allowed, Depends(who)]

    def router(self, prefix: str = "/jobs") -> APIRouter:
        """Return every route over jobs, to be included in the application.

        Args:
            prefix: In front of every path.

        Raises:
            UsageError: Nobody has said who may come in.
        """
        return make_router(prefix, self.dependencies, body_bytes=self._limits.body_bytes)

    def page(self, path: str = "/board", *, name: str = "Jobs") -> APIRouter:
        """Return the watching page, to be included in the application: every job as it goes, read-only.

        It shows a caller what the routes over jobs show them, and needs the extra ``report``.

        Args:
            path: Where the board is.
            name: What it is called.

        Raises:
            UsageError: Nobody has said who may come in, or jinja2 is missing.
        """
        # Here, and not at the first look: whoever starts the application is to hear what is missing.
        require_templates()
        return make_page(path, name, [*self.dependencies, Depends(viewer_of_caller)])

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Open a session while the application runs: ``FastAPI(lifespan=crynux.lifespan)``.

        In a lifespan of your own: ``async with crynux.lifespan(app): ...``. It ends event streams as soon as the
        process is told to stop, before the server waits for them.

        Raises:
            SettingsError: The settings cannot work.
            LedgerError: The ledger cannot be opened.
            UsageError: A limit of what may be spent needs a price.
        """
        session = Session(
            ledger=self._ledger,
            backend=self._backend,
            wallet=self._wallet,
            price=self._price,
            observer=self._observer,
            send_planned=True,
            **self._settings,
        )
        async with session:
            self._check_price(session)
            admission = Admission(session, self._limits)
            self._web = Web(
                session=session, streams=Streams(), admission=admission, limits=self._limits, folder=self._folder
            )
            app.state.crynux = self
            going_on = asyncio.create_task(_go_on_for_leavers(session))
            try:
                with calling_at_shutdown(self.end_streams):
                    yield
            finally:
                going_on.cancel()
                self.end_streams()
                self._web = None

    def end_streams(self) -> None:
        """End every event stream of this process; browsers come back to whoever listens then.

        Signals do it by themselves. Whoever stops a server otherwise calls it before the server waits for its
        connections.
        """
        if self._web is not None:
            self._web.streams.end()

    def _check_price(self, session: Session) -> None:
        if self._limits.spend is not None and session.price(FineTuneConfig(**example_config())) is None:
            raise UsageError(
                "limits.spend needs a price: the service tells none; give Crynux(price=...)", field="price"
            )

    async def _any_caller(self, request: Request) -> None:
        request.state.crynux_caller = Caller(web=self.web, tenant=None)

    def _caller_by_tenant(self, tenant: Callable[..., Any]) -> Callable[..., Any]:
        async def know_caller(request: Request, name: Annotated[Any, Depends(tenant)]) -> None:
            if not isinstance(name, str) or not name or "\0" in name:
                # "" is what jobs without a tenant have: whoever has no name must not see those.
                raise ProblemError(403, "nobody", "It is not known who asks.")
            request.state.crynux_caller = Caller(web=self.web, tenant=name)

        return know_caller


async def _go_on_for_leavers(session: Session) -> None:
    """Go on within a second or two with what another worker leaves, for ever."""
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        try:
            await session.take_over()
        except LedgerError as error:
            _log.info("whether a worker has left cannot be read now: %s", error)
