"""The addresses of the watching page. All of them only read."""

import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio.to_thread
import attrs
from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException as StarletteHTTPException

from crynux_async.archive import Program
from crynux_async.clock import utc_now
from crynux_async.downloads.images import images_beside
from crynux_async.errors import CrynuxError
from crynux_async.integrations.fastapi.archives import StoredModel, archive_file, export_file
from crynux_async.integrations.fastapi.page import security
from crynux_async.integrations.fastapi.page.reader import Reader
from crynux_async.integrations.fastapi.page.renderings import Renderings
from crynux_async.integrations.fastapi.page.sources import Viewer, ViewerDep
from crynux_async.integrations.fastapi.page.streams import stream
from crynux_async.integrations.fastapi.problems import ProblemError, problem_of
from crynux_async.ledgers.rows import JobRow
from crynux_async.report.board_values import Selection
from crynux_async.report.live import (
    MEDIA_TYPES,
    Frame,
    Rendered,
    render_board,
    render_job,
    render_problem,
    render_sweep,
    static_file,
)
from crynux_async.report.page import SWEEP_SCRIPTS

_MAX_TEXT = 200
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}
_FRESH = {"Cache-Control": "no-store"}

_Text = Annotated[str, Query(max_length=_MAX_TEXT)]
_Show = Literal["all", "waiting", "running", "trouble", "done", "given up"]


class PageRoute(APIRoute):
    """A route whose errors are pages, and whose answers tell browsers what to refuse."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, with errors answered and headers added."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                answer = await handle(request)
            except (CrynuxError, RequestValidationError, StarletteHTTPException) as error:
                answer = _problem_page(error, request)
            for name, value in security.HEADERS.items():
                answer.headers.setdefault(name, value)
            return answer

        return answered


def _problem_page(error: Exception, request: Request) -> Response:
    problem = problem_of(error)
    base = str(request.scope.get("crynux_base", ""))
    body = render_problem(problem.status_code, problem.detail, base)
    return HTMLResponse(body, problem.status_code, {**_FRESH, **(problem.headers or {})})


@attrs.frozen(kw_only=True)
class Page:
    """What one request is for.

    Attributes:
        key: What it shows.
        make: Renders it.
    """

    key: tuple[str, ...]
    make: Callable[[], Awaitable[Rendered]]


class Pages:
    """The pages of one board.

    Args:
        name: What it is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reader = Reader()
        self._renderings = Renderings()

    def board(self, viewer: Viewer, request: Request, selection: Selection) -> Page:
        """Return the board."""
        base = _base(request)

        async def make() -> Rendered:
            if selection.before:
                await known(viewer, selection.before)
            frame = self._frame(request, base, self._name)
            view = await self._reader.board(viewer, selection)
            return await anyio.to_thread.run_sync(render_board, view, frame)

        return Page(key=(base, *attrs.astuple(selection)), make=make)

    def job(self, viewer: Viewer, request: Request, job_id: str) -> Page:
        """Return the page of a job."""
        base = _base(request, f"/jobs/{job_id}")

        async def make() -> Rendered:
            view = await self._reader.job(viewer, await known(viewer, job_id))
            title = f"{view.line.title}: {view.line.state}"
            return render_job(view, self._frame(request, base, title, here=view.line.title))

        return Page(key=(base, "job", job_id), make=make)

    def sweep(self, viewer: Viewer, request: Request, name: str) -> Page:
        """Return the page of a sweep."""
        base = _base(request, "/sweep")

        async def make() -> Rendered:
            view = await self._reader.sweep(viewer, name, base)
            if view is None:
                raise _unknown_sweep()
            frame = self._frame(request, base, name, here=name)
            frame = attrs.evolve(frame, scripts=SWEEP_SCRIPTS)
            return await anyio.to_thread.run_sync(render_sweep, view, frame)

        return Page(key=(base, "sweep", name), make=make)

    async def html(self, viewer: Viewer, page: Page, *, policy: str = "") -> Response:
        """Return a page for a browser."""
        found = await self._renderings.get((viewer.tenant, *page.key), page.make, change=None)
        headers = {**_FRESH, **({"Content-Security-Policy": policy} if policy else {})}
        return HTMLResponse(found.html, headers=headers)

    async def stream(self, viewer: Viewer, request: Request, page: Page) -> AsyncIterator[ServerSentEvent]:
        """Send a page anew whenever something has changed."""
        have = request.headers.get("Last-Event-ID") or request.query_params.get("have", "")

        async def get(change: int) -> Rendered:
            return await self._renderings.get((viewer.tenant, *page.key), page.make, change=change)

        async for event in stream(viewer, get, have):
            yield event

    def _frame(self, request: Request, base: str, title: str, *, here: str = "") -> Frame:
        path = request.url.path.removesuffix("/stream").rstrip("/")
        query = "&".join(part for part in request.url.query.split("&") if part and not part.startswith("have="))
        return Frame(
            base=base,
            stream=f"{path}/stream" + (f"?{query}" if query else ""),
            name=self._name,
            title=title,
            here=here,
            now=utc_now(),
        )


def _base(request: Request, below: str = "") -> str:
    """Return the address of the board, whatever the application has mounted it under."""
    path = request.url.path.removesuffix("/stream").rstrip("/").removesuffix(below)
    request.scope["crynux_base"] = path
    return path


async def known(viewer: Viewer, job_id: str) -> JobRow:
    """Return a job that may be seen.

    Raises:
        ProblemError: There is none, or it is somebody else's: 404 for both.
    """
    row = await viewer.find(job_id)
    if row is None:
        raise ProblemError(404, "unknown-job", "There is no such job.")
    return row


def _unknown_sweep() -> ProblemError:
    return ProblemError(404, "unknown-sweep", "There is no such sweep.")


async def _hold_place(viewer: ViewerDep) -> AsyncIterator[None]:
    """Hold one of the viewer's places for open streams until the response is over.

    Raises:
        ProblemError: There is none left.
    """
    with nullcontext() if viewer.admission is None else viewer.admission.stream(viewer.tenant):
        yield


async def _selection(show: _Show = "all", search: _Text = "", before: _Text = "") -> Selection:
    return Selection(show=show, search=search.strip(), before=before)


_SelectionDep = Annotated[Selection, Depends(_selection)]


def make_page(path: str, name: str, dependencies: Sequence[Depends]) -> APIRouter:
    """Return a router with the watching page.

    Args:
        path: Where the board is, such as "/board".
        name: What it is called.
        dependencies: Say who looks, and who may.
    """
    pages = Pages(name)
    router = APIRouter(prefix=path, dependencies=list(dependencies), route_class=PageRoute, include_in_schema=False)

    async def board(viewer: ViewerDep, request: Request, selection: _SelectionDep) -> Response:
        return await pages.html(viewer, pages.board(viewer, request, selection))

    async def job(viewer: ViewerDep, request: Request, job_id: str) -> Response:
        return await pages.html(viewer, pages.job(viewer, request, job_id))

    async def sweep(viewer: ViewerDep, request: Request, name: _Text) -> Response:
        page = pages.sweep(viewer, request, name)
        return await pages.html(viewer, page, policy=security.WITH_STYLES)

    # What cannot be shown is refused here: an answer that has begun can only break off, and browsers ask for it again.
    async def board_page(viewer: ViewerDep, request: Request, selection: _SelectionDep) -> Page:
        if selection.before:
            await known(viewer, selection.before)
        return pages.board(viewer, request, selection)

    async def job_page(viewer: ViewerDep, request: Request, job_id: str) -> Page:
        await known(viewer, job_id)
        return pages.job(viewer, request, job_id)

    async def sweep_page(viewer: ViewerDep, request: Request, name: _Text) -> Page:
        if await viewer.newest_of_sweep(name) is None:
            raise _unknown_sweep()
        return pages.sweep(viewer, request, name)

    for at, endpoint, page in (
        ("", board, board_page),
        ("/jobs/{job_id}", job, job_page),
        ("/sweep", sweep, sweep_page),
    ):
        router.add_api_route(at, endpoint, methods=["GET", "HEAD"], response_class=HTMLResponse)
        _add_stream(router, f"{at}/stream", pages, page)
    _add_files(router)
    return router


def _add_stream(router: APIRouter, at: str, pages: Pages, page_of: Callable[..., Awaitable[Page]]) -> None:
    async def follow(
        viewer: ViewerDep, request: Request, page: Annotated[Page, Depends(page_of)]
    ) -> AsyncIterator[ServerSentEvent]:
        async for event in pages.stream(viewer, request, page):
            yield event

    place = [Depends(_hold_place)]
    router.add_api_route(at, follow, methods=["GET"], response_class=EventSourceResponse, dependencies=place)


def _add_files(router: APIRouter) -> None:
    async def model(viewer: Viewer, job_id: str) -> StoredModel:
        # Not brought here, as the routes over jobs do: whoever looks at a page changes nothing.
        return StoredModel.of(await known(viewer, job_id), host=viewer.source.host)

    async def archive(viewer: ViewerDep, request: Request, job_id: str) -> Response:
        return archive_file(await model(viewer, job_id), request)

    async def export(viewer: ViewerDep, request: Request, job_id: str, program: Program = "all") -> Response:
        return await export_file(await model(viewer, job_id), request, program)

    async def image(viewer: ViewerDep, job_id: str, number: int) -> Response:
        row = await known(viewer, job_id)
        found = await anyio.to_thread.run_sync(images_beside, Path(row.path)) if row.path is not None else []
        if not 0 <= number < len(found):
            raise ProblemError(404, "no-picture", "There is no such picture.")
        return FileResponse(found[number], media_type=mimetypes.guess_type(found[number])[0])

    async def static(name: str) -> Response:
        if name not in MEDIA_TYPES:
            raise ProblemError(404, "no-file", "There is no such file.")
        body = await anyio.to_thread.run_sync(static_file, name)
        return Response(body, media_type=MEDIA_TYPES[name], headers=_KEPT)

    for at, endpoint in (
        ("/jobs/{job_id}/archive", archive),
        ("/jobs/{job_id}/export", export),
        ("/jobs/{job_id}/images/{number}", image),
        ("/static/{name}", static),
    ):
        router.add_api_route(at, endpoint, methods=["GET", "HEAD"], response_class=Response)
