"""Jobs inside a FastAPI application: routes over every job in the ledger, whichever worker follows it.

::

    crynux = Crynux(ledger="jobs.db", folder="models", authorize=signed_in, tenant=customer)
    app = FastAPI(lifespan=crynux.lifespan)
    app.include_router(crynux.router(prefix="/jobs"))

It needs the extra ``fastapi``. Read in this order:

- ``crynux``: ``Crynux``, what an application holds: the lifespan and the router.
- ``routes``: every route, in a few lines each; a handler of your own looks the same.
- ``callers``: who asks: ``SessionDep``, ``JobDep``, ``ConfigDep`` for handlers of your own.
- ``answers``, ``configs``: what goes out and comes in, and its schema.
- ``problems``: errors as RFC 9457 problem details, without keys, paths and hosts.
- ``archives``: archives and exports as files. ``streams``: events as server-sent events.
- ``limits``: what one tenant may have. ``shutdown``: hearing of the end before the server waits for its connections.
"""

from crynux_async.integrations.fastapi.answers import EventAnswer, JobAnswer, JobPage
from crynux_async.integrations.fastapi.archives import archive_response, export_response
from crynux_async.integrations.fastapi.callers import Caller, CallerDep, JobDep, SessionDep
from crynux_async.integrations.fastapi.configs import ConfigDep
from crynux_async.integrations.fastapi.crynux import Crynux
from crynux_async.integrations.fastapi.limits import Limits
from crynux_async.integrations.fastapi.problems import ProblemError, ProblemRoute, answer_error
from crynux_async.integrations.fastapi.streams import EventsDep

__all__ = [
    "Caller",
    "CallerDep",
    "ConfigDep",
    "Crynux",
    "EventAnswer",
    "EventsDep",
    "JobAnswer",
    "JobDep",
    "JobPage",
    "Limits",
    "ProblemError",
    "ProblemRoute",
    "SessionDep",
    "answer_error",
    "archive_response",
    "export_response",
]
