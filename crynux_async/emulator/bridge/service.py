"""The bridge without its sockets: keys, buckets, jobs, and what it answers to a create, a status and a result.

Theory of operation: nothing happens by itself. A job is a row with the time of its create; what the nodes have made of
it is worked out when somebody asks. What must survive a restart is in two logs, written before anybody is told; the
buckets are in memory only, as in the real bridge.

Source: crynux-bridge api/v1/image/finetune.go, api/v1/inference_tasks/create_task.go.
"""

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from crynux_async.emulator.bridge.binding import Bound, bind
from crynux_async.emulator.bridge.go_limiter import Buckets
from crynux_async.emulator.bridge.jobs import Job, availability
from crynux_async.emulator.bridge.journal import JournalEntry, Outcome, as_datetime
from crynux_async.emulator.bridge.keys import AuthorizationError, Key, KeyRing, PanicError
from crynux_async.emulator.bridge.schema import violation
from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.go_text import NumberTextError, parse_uint, rfc3339
from crynux_async.emulator.http.answers import JSON_TYPE, Answer, RefusedError, exception, success, validation_error
from crynux_async.emulator.http.binding import BindError
from crynux_async.emulator.http.files import Resource, serve
from crynux_async.emulator.line_log import LineLog
from crynux_async.emulator.nodes.archives import ArchiveShelf
from crynux_async.emulator.nodes.node import Network, Progress
from crynux_async.emulator.nodes.task_args import TaskArgs, task_args, unsupported, with_defaults

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
    """The state of the server.

    Args:
        folder: Where logs and archives are; what is there is taken up again.
        network: The nodes.
        clock: The server's clock.
        speed: Seconds of training time per second, > 0.
        retention_days: Days that finished jobs are kept; 0 keeps them for ever.
        durable: Whether each log line is forced to the disk.
        archive_limit_bytes: How much of the archives is kept on disk.
    """

    def __init__(
        self,
        *,
        folder: Path,
        network: Network,
        clock: ServerClock,
        speed: float,
        retention_days: float,
        durable: bool,
        archive_limit_bytes: int,
    ) -> None:
        self.keys = KeyRing()
        self.buckets = Buckets()
        self.jobs: dict[int, Job] = {}
        self._network = network
        self._clock = clock
        self._speed = speed
        self._retention = retention_days * _DAY
        self._next_client = 1
        self._shared: dict[Any, Any] = {}
        self._shelf = ArchiveShelf(folder / "archives", network.unet, limit_bytes=archive_limit_bytes)
        self._key_log = LineLog(folder / "keys.jsonl", durable=durable)
        self._journal = LineLog(folder / "journal.jsonl", durable=durable)
        self._take_up()

    async def close(self) -> None:
        """Stop making archives and close the logs."""
        await self._shelf.close()
        self._key_log.close()
        self._journal.close()

    def create(self, request: Create) -> Answer:
        """Answer a create."""
        try:
            key, bound = self._check(request)
            return _created(self._admit(key, bound))
        except RefusedError as refused:
            return refused.answer

    def status(self, id_text: str) -> Answer:
        """Answer a request for the status of a job, whose id is given as it stands in the address."""
        try:
            task_id = _task_id(id_text)
        except RefusedError as refused:
            return refused.answer
        job = self._existing(task_id)
        if job is None:
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
        modified = int(job.finished_wall(now, self._speed))
        size = file.seek(0, os.SEEK_END)
        archive = Resource(file=file, size=size, modified=modified, name="result.zip", content_type="application/zip")
        return serve(archive, headers)

    def new_key(self, *, roles: Iterable[str], primed: bool, **limits: Any) -> str:
        """Make an API key.

        Args:
            roles: Its roles.
            primed: Whether it has a client row already.
            **limits: Further attributes of ``Key``.

        Returns:
            The text of the key.
        """
        text, key = self.keys.new(roles=roles, **limits)
        if primed:
            key.client = self._new_client()
        self._key_log.append({**attrs.asdict(key), "digest": key.digest.hex()})
        return text

    def set_rate_limit(self, api_key: str, limit: int) -> bool:
        """Change creates per minute of a key as the bridge's admin call does; return whether there is such a key."""
        key = self.keys.find(api_key)
        if key is None:
            return False
        self._key_log.append({"index": key.index, "rate_limit": limit})
        key.rate_limit = limit
        self.buckets.change(key.index, limit, self._clock.now())
        return True

    def replace_archive(self, task_id: int) -> None:
        """Put another archive in the place of a job's, with a later date; nothing happens when there is none."""
        job = self.jobs.get(task_id)
        if job is None or job.progress(self._clock.now(), self._speed).status != "success":
            return
        written = job.finished_wall(self._clock.now(), self._speed)
        job.version += 1
        job.replaced_wall = max(self._clock.wall(), written + 1.0)

    def progress(self, task_id: int) -> Progress:
        """Return how far a job is.

        Raises:
            KeyError: If there never was such an id.
        """
        return self.jobs[task_id].progress(self._clock.now(), self._speed)

    def entry(self, job: Job) -> JournalEntry:
        """Return the journal's entry of a job."""
        return JournalEntry(
            task_id=job.task_id,
            key=self.keys[job.key].prefix,
            client_id=job.client,
            created_at=as_datetime(job.created_wall),
            outcome=job.outcome,
            model_name=job.args.model_name,
            seed=job.args.seed,
        )

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
        verdict = self.buckets.check(key.index, key.rate_limit, self._clock.now())
        if not verdict.allowed:
            raise _refused("rate_limit", f"rate limit exceeded, please wait {verdict.wait:.2f} seconds")
        return key, bound

    def _authorize(self, header: str) -> Key:
        try:
            return self.keys.authorize(header)
        except AuthorizationError as error:
            raise _refused("Authorization", str(error)) from None
        except PanicError:
            raise RefusedError(Answer(status=500)) from None

    def _existing(self, task_id: int) -> Job | None:
        job = self.jobs.get(task_id)
        if job is None or job.is_deleted(self._clock.now(), self._speed, self._retention):
            return None
        return job

    def _deliverable(self, id_text: str, authorization: str) -> Job:
        task_id = _task_id(id_text)
        if not authorization:
            raise _refused("Authorization", "Authorization is required")
        key = self._authorize(authorization)
        if key.client is None:
            raise RefusedError(exception("record not found"))
        job = self._existing(task_id)
        state = "absent" if job is None else availability(job.progress(self._clock.now(), self._speed))
        if job is None or state == "absent":
            raise _refused("id", "Task not found")
        if job.owner != key.client:
            raise _refused("api_key", "invalid api key")
        if state == "unfinished":
            raise _refused("id", "Task result not found")
        return job

    def _admit(self, key: Key, bound: Bound) -> Job:
        if bound.checkpoints > 1:
            raise _refused("checkpoint", "More than one checkpoint file uploaded")
        filled = with_defaults(bound.values, seed=secrets.randbelow(_SEEDS))
        complaint = unsupported(filled)
        if complaint is not None:
            raise RefusedError(exception(complaint))
        refusal = violation(filled)
        if refusal is not None:
            self._register(key, filled, "schema")
            raise _refused("task_args", refusal)
        if filled["timeout"] == 0:
            self._register(key, filled, "timeout")
            raise _refused("timeout", _NO_TIMEOUT)
        return self._register(key, filled, "job")

    def _register(self, key: Key, filled: Mapping[str, Any], outcome: Outcome) -> Job:
        """Make the rows of a create and write them down."""
        owner = None
        if key.client is None:
            key.client = self._new_client()
            # The bridge inserts the client again with the node task, and compares the two ids for ever.
            owner = self._new_client() if outcome == "job" else None
        job = Job(
            task_id=len(self.jobs) + 1,
            key=key.index,
            client=key.client,
            owner=owner or key.client,
            created=self._clock.now(),
            created_wall=self._clock.wall(),
            outcome=outcome,
            args=self._args(filled),
        )
        self._start(job)
        self._journal.append(job.as_line())
        return job

    def _start(self, job: Job) -> None:
        if job.outcome == "job":
            job.course = self._network.course(job.args)
        self.jobs[job.task_id] = job

    def _args(self, values: Mapping[str, Any]) -> TaskArgs:
        """Return arguments that share their texts with those of other jobs."""
        modules = values["target_modules"]
        # What the schema refused may hold anything, and stays as it is.
        is_list = isinstance(modules, list) and all(isinstance(module, str) for module in modules)
        frozen = {**values, "target_modules": tuple(modules) if is_list else modules}
        share = self._shared.setdefault
        return task_args(
            {name: share(value, value) if isinstance(value, (str, tuple)) else value for name, value in frozen.items()}
        )

    def _new_client(self) -> int:
        self._next_client += 1
        return self._next_client - 1

    def _take_up(self) -> None:
        """Read the logs of an earlier run."""
        for line in self._key_log:
            if "digest" in line:
                values = {**line, "digest": bytes.fromhex(line["digest"]), "roles": tuple(line["roles"])}
                self.keys.add(Key(**values))
                self._next_client = max(self._next_client, (line["client"] or 0) + 1)
            else:
                self.keys[line["index"]].rate_limit = line["rate_limit"]
        start = self._clock.now() - self._clock.wall()
        for line in self._journal:
            job = Job.from_line(line, args=self._args(line["args"]), created=start + line["created_wall"])
            self._start(job)
            self.keys[job.key].client = self.keys[job.key].client or job.client
            self._next_client = max(self._next_client, job.client + 1, job.owner + 1)


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
