"""The bridge without its sockets: keys, buckets, jobs, and what it answers to a create, a status and a result.

Theory of operation: nothing happens by itself. A job is a row with the time of its create; what the nodes have made of
it is worked out when somebody asks. What must survive a restart is in the database; the buckets are in memory only, as
in the real bridge.

Source: crynux-bridge api/v1/image/finetune.go, api/v1/inference_tasks/create_task.go.
"""

import os
import secrets
from collections.abc import Mapping

import attrs

from crynux_async.emulator.bridge.binding import Bound, bind
from crynux_async.emulator.bridge.database import Database
from crynux_async.emulator.bridge.go_limiter import Buckets
from crynux_async.emulator.bridge.jobs import Job, availability
from crynux_async.emulator.bridge.keys import AuthorizationError, Key, PanicError
from crynux_async.emulator.bridge.schema import violation
from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.go_text import NumberTextError, parse_uint, rfc3339
from crynux_async.emulator.http.answers import JSON_TYPE, Answer, RefusedError, exception, success, validation_error
from crynux_async.emulator.http.binding import BindError
from crynux_async.emulator.http.files import Resource, serve
from crynux_async.emulator.nodes.archives import ArchiveShelf
from crynux_async.emulator.nodes.node import Progress
from crynux_async.emulator.nodes.task_args import unsupported, with_defaults

_DAY = 86_400.0
_SEEDS = 100_000_000
_NO_TIMEOUT = "timeout must be greater than 0 for SD finetune tasks"


@attrs.frozen(kw_only=True)
class Create:
    """A create as it arrived.

    Attributes:
        body: The body, at most as much as the bridge reads.
        content_type: The Content-Type header, or "".
        query: The query of the address.
        authorization: The Authorization header, or "".
        is_too_large: Whether there was more of the body.
    """

    body: bytes
    content_type: str
    query: str = ""
    authorization: str = ""
    is_too_large: bool = False


class Bridge:
    """The server behind its sockets.

    Args:
        database: What it remembers.
        shelf: The archives.
        clock: The server's clock.
        speed: Seconds of training time per second, > 0.
        retention_days: Days that finished jobs are kept; 0 keeps them for ever.
    """

    def __init__(
        self, database: Database, shelf: ArchiveShelf, *, clock: ServerClock, speed: float, retention_days: float
    ) -> None:
        self.database = database
        self.buckets = Buckets()
        self._shelf = shelf
        self._clock = clock
        self._speed = speed
        self._retention = retention_days * _DAY

    async def close(self) -> None:
        """Stop making archives and close the logs."""
        await self._shelf.close()
        self.database.close()

    async def create(self, request: Create) -> Answer:
        """Answer a create."""
        try:
            key, bound = self._check(request)
            return _created(await self._admit(key, bound))
        except RefusedError as refused:
            return refused.answer

    def status(self, id_text: str) -> Answer:
        """Answer a request for the status of a job, whose id is given as it stands in the address."""
        # Nobody is asked for a key: whoever knows an id may look at it.
        try:
            task_id = _task_id(id_text)
        except RefusedError as refused:
            return refused.answer
        job = self._existing(task_id)
        if job is None:
            # The database's own words, and a 500: the handler takes an unknown id for a failure.
            return exception("record not found")
        status = job.progress(self._clock.now(), self._speed).status
        text = f'{{"message":"success","data":{{"id":{task_id},"status":"{status}"}}}}'
        return Answer(status=200, headers=(("Content-Type", JSON_TYPE),), body=(text.encode(),))

    async def result(self, id_text: str, headers: Mapping[str, str]) -> Answer:
        """Answer a request for the archive of a job.

        Args:
            id_text: The id as it stands in the address.
            headers: The request's headers.
        """
        try:
            job = self._deliverable(id_text, headers.get("Authorization", ""))
        except RefusedError as refused:
            return refused.answer
        now = self._clock.now()
        step = job.progress(now, self._speed).global_step
        file = await self._shelf.open(job.args, global_step=step, version=job.version)
        # Last-Modified has whole seconds.
        modified = int(job.finished_wall(now, self._speed))
        size = file.seek(0, os.SEEK_END)
        archive = Resource(file=file, size=size, modified=modified, name="result.zip", content_type="application/zip")
        return serve(archive, headers)

    def set_rate_limit(self, api_key: str, limit: int) -> bool:
        """Change creates per minute of a key as the bridge's admin call does; return whether there is such a key."""
        key = self.database.keys.find(api_key)
        if key is None:
            return False
        self.database.change_key(key, rate_limit=limit)
        self.buckets.change(key.index, limit, self._clock.now())
        return True

    def replace_archive(self, task_id: int) -> None:
        """Put another archive in the place of a job's, with a later date; nothing happens when there is none."""
        job = self.database.jobs.get(task_id)
        if job is None or job.progress(self._clock.now(), self._speed).status != "success":
            return
        written = job.finished_wall(self._clock.now(), self._speed)
        job.version += 1
        # A second later at least, or the date would not tell the two apart.
        job.replaced_wall = max(self._clock.wall(), written + 1.0)

    def progress(self, task_id: int) -> Progress:
        """Return how far a job is.

        Raises:
            KeyError: If there never was such an id.
        """
        return self.database.jobs[task_id].progress(self._clock.now(), self._speed)

    def _check(self, request: Create) -> tuple[Key, Bound]:
        try:
            bound = bind(
                request.body,
                request.content_type,
                query=request.query,
                authorization=request.authorization,
                too_large=request.is_too_large,
            )
        except BindError as error:
            raise _refused(error.field, str(error)) from None
        key = self._authorize(bound.values["Authorization"])
        # Before schema and timeout: the token is gone whatever they say.
        verdict = self.buckets.check(key.index, key.rate_limit, self._clock.now())
        if not verdict.allowed:
            raise _refused("rate_limit", f"rate limit exceeded, please wait {verdict.wait:.2f} seconds")
        return key, bound

    def _authorize(self, header: str) -> Key:
        try:
            return self.database.keys.authorize(header)
        except AuthorizationError as error:
            raise _refused("Authorization", str(error)) from None
        except PanicError:
            raise RefusedError(Answer(status=500)) from None

    def _existing(self, task_id: int) -> Job | None:
        job = self.database.jobs.get(task_id)
        if job is None or job.is_deleted(self._clock.now(), self._speed, self._retention):
            return None
        return job

    def _deliverable(self, id_text: str, authorization: str) -> Job:
        task_id = _task_id(id_text)
        if not authorization:
            raise _refused("Authorization", "Authorization is required")
        key = self._authorize(authorization)
        # There is no client row before a key's first create.
        if key.client is None:
            raise RefusedError(exception("record not found"))
        job = self._existing(task_id)
        state = "absent" if job is None else availability(job.progress(self._clock.now(), self._speed))
        if job is None or state == "absent":
            raise _refused("id", "Task not found")
        # Always so for the first job of a fresh key (see ``Database.new_job``).
        if job.owner != key.client:
            raise _refused("api_key", "invalid api key")
        if state == "unfinished":
            raise _refused("id", "Task result not found")
        return job

    async def _admit(self, key: Key, bound: Bound) -> Job:
        if bound.checkpoints > 1:
            raise _refused("checkpoint", "More than one checkpoint file uploaded")
        filled = with_defaults(bound.values, seed=secrets.randbelow(_SEEDS))
        complaint = unsupported(filled)
        if complaint is not None:
            raise RefusedError(exception(complaint))
        refusal = violation(filled)
        if refusal is not None:
            # The bridge writes the row, and so uses up the id, before it asks the schema.
            self.database.new_job(key, filled, "schema")
            raise _refused("task_args", refusal)
        # A pointer in Go: only a zero that was sent is one. The id is used up here, too.
        if filled["timeout"] == 0:
            self.database.new_job(key, filled, "timeout")
            raise _refused("timeout", _NO_TIMEOUT)
        await self.database.learn(filled)
        return self.database.new_job(key, filled, "job")


def _task_id(text: str) -> int:
    try:
        task_id = parse_uint(text)
    except NumberTextError as error:
        raise _refused("ID", str(error)) from None
    if not task_id:
        raise _refused("id", "id is required")
    return task_id


def _refused(field: str, message: str) -> RefusedError:
    return RefusedError(validation_error(field, message))


def _created(job: Job) -> Answer:
    at = rfc3339(job.created_wall)
    row = {"id": job.task_id, "created_at": at, "updated_at": at, "deleted_at": None, "client_id": job.client}
    return success({**row, "status": "running", "failed_count": 0})
