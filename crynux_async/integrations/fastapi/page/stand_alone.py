"""The watching page in a program of its own: on loopback, for whoever has the token in the address that it opens.

Any page in the user's browser, and any other user of the machine, can reach a port of loopback. So every request must
have the token, must name this server in ``Host`` (a name that somebody else's DNS lets point here does not), and must
not come from another site.

Source: OWASP, DNS rebinding; https://www.w3.org/TR/fetch-metadata/.
"""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import attrs
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from crynux_async.backends.reading import ReadBackend, facts_behind
from crynux_async.integrations.fastapi.page import security
from crynux_async.integrations.fastapi.page.routes import make_page
from crynux_async.integrations.fastapi.page.sources import Source, Viewer
from crynux_async.integrations.fastapi.shutdown import calling_at_shutdown
from crynux_async.integrations.fastapi.streams import Streams
from crynux_async.ledgers import open_ledger
from crynux_async.ledgers.rows import JobRow
from crynux_async.report.live import render_problem
from crynux_async.report.page import require_templates
from crynux_async.session import Session
from crynux_async.settings import Settings

PATH = "/board"
_TOKEN = "token"  # noqa: S105  # the name of it


def stand_alone(ledger: str | Path, settings: Settings, *, port: int, token: str) -> "Guard":
    """Return an application that shows what a ledger has of every service. It asks no service for anything.

    Args:
        ledger: A file, or the address of a database.
        settings: Knows the rate limit, if anybody does.
        port: Where it listens.
        token: What whoever comes in must have.

    Raises:
        UsageError: jinja2 is missing.
    """
    require_templates()
    streams, opened = Streams(), Opened(ledger)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opened:
            app.state.source = Source(
                ledger=opened.ledger,
                service=None,
                limit=settings.rate_limit,
                burst=settings.rate_burst,
                facts=None,
                open_session=opened.session,
                host=settings.host_name,
                shows_commands=True,
            )
            with calling_at_shutdown(streams.end):
                yield
            streams.end()

    async def look(request: Request) -> None:
        request.state.crynux_viewer = Viewer(source=request.app.state.source, tenant=None, streams=streams)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(make_page(PATH, "Jobs", [Depends(look)]))

    @app.get("/", include_in_schema=False)
    async def begin() -> Response:
        return RedirectResponse(PATH, 303)

    return Guard(app, port=port, token=token)


class Opened:
    """A ledger that is read, and sessions that read it for the pages of sweeps: they follow and send nothing.

    Args:
        place: A file, or the address of a database.
    """

    def __init__(self, place: str | Path) -> None:
        self._place = place
        self._sessions: dict[str, Session] = {}
        self._stack = AsyncExitStack()
        self.ledger = open_ledger(place, makes=False)

    async def __aenter__(self) -> "Opened":
        await self.ledger.open()
        self._stack.push_async_callback(self.ledger.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def session(self, row: JobRow) -> AsyncIterator[Session]:
        """Give a session at a job's service, which is opened when it is first needed and not closed before the end."""
        if row.backend not in self._sessions:
            service = ReadBackend(name=row.backend, facts=facts_behind(row.key_id))
            session = Session(backend=service, ledger=self._place, follow=False)
            self._sessions[row.backend] = await self._stack.enter_async_context(session)
        yield self._sessions[row.backend]


@attrs.frozen(kw_only=True)
class _Asked:
    """What is looked at of a request before anything is done for it."""

    headers: Mapping[str, str]
    path: str
    query: Mapping[str, str]

    @classmethod
    def of(cls, scope: Scope) -> "_Asked":
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        return cls(headers=headers, path=scope["path"], query=query)


class Guard:
    """Lets in who has the token and comes from nowhere else.

    Attributes:
        app: What is behind it.

    Args:
        app: What is behind it.
        port: Where it listens.
        token: What whoever comes in must have.
    """

    def __init__(self, app: FastAPI, *, port: int, token: str) -> None:
        self.app = app
        self._token = token
        # Cookies know no ports: another board on this machine must not take the place of this one's.
        self._cookie = f"crynux_board_{port}"
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answer: ASGIApp = self.app
        if scope["type"] == "http":
            answer = self._refusal(_Asked.of(scope)) or self.app
        elif scope["type"] != "lifespan":
            return
        await answer(scope, receive, send)

    def _refusal(self, asked: _Asked) -> Response | None:
        """Return what is answered in the place of the application, or None where the request may pass."""
        host, origin = asked.headers.get("host", ""), asked.headers.get("origin")
        if host not in self._hosts:
            return _refused("This board answers under 127.0.0.1 and localhost only, with its own port.")
        if origin is not None and origin != f"http://{host}":
            return _refused("This board answers no other site.")
        is_link = asked.headers.get("sec-fetch-mode", "navigate") == "navigate"
        if asked.headers.get("sec-fetch-site", "none") == "cross-site" and not is_link:
            return _refused("This board answers no other site.")
        if self._is_token(asked.query.get(_TOKEN, "")):
            return self._admitted(asked)
        if self._is_token(self._sent_cookie(asked)):
            return None
        return _refused("Open the address that the board's command has printed: it has a token at its end.")

    def _admitted(self, asked: _Asked) -> Response:
        """Put the token into a cookie, and the address without it into the address bar: people show theirs."""
        query = urlencode({name: value for name, value in asked.query.items() if name != _TOKEN})
        # "//host" would be the address of somebody else.
        path = "/" + asked.path.lstrip("/")
        answer = RedirectResponse(f"{path}?{query}" if query else path, 303, dict(security.HEADERS))
        answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
        return answer

    def _sent_cookie(self, asked: _Asked) -> str:
        try:
            found = SimpleCookie(asked.headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return ""
        return found.value if found is not None else ""

    def _is_token(self, text: str) -> bool:
        return secrets.compare_digest(text.encode(), self._token.encode())


def _refused(why: str) -> Response:
    return HTMLResponse(render_problem(403, why, ""), 403, {**security.HEADERS, "Cache-Control": "no-store"})
