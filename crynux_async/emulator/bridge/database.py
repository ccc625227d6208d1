"""What the bridge remembers: keys, client rows and jobs, in memory and in two logs written before anybody is told."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from crynux_async.emulator.bridge.jobs import Job
from crynux_async.emulator.bridge.journal import JournalEntry, Outcome, as_datetime
from crynux_async.emulator.bridge.keys import Key, KeyOptions, KeyRing
from crynux_async.emulator.clock import ServerClock
from crynux_async.emulator.line_log import LineLog
from crynux_async.emulator.nodes.node import Network
from crynux_async.emulator.nodes.task_args import TaskArgs, task_args


class Database:
    """The rows of the server.

    Args:
        folder: Where the logs are.
        network: The nodes, which say what is going to happen to a job.
        clock: The server's clock.
        durable: Whether each log line is forced to the disk.
    """

    def __init__(self, folder: Path, *, network: Network, clock: ServerClock, durable: bool) -> None:
        self.keys = KeyRing()
        self.jobs: dict[int, Job] = {}
        self._network = network
        self._clock = clock
        self._next_client = 1
        self._shared: dict[Any, Any] = {}
        self._key_log = LineLog(folder / "keys.jsonl", durable=durable)
        self._journal = LineLog(folder / "journal.jsonl", durable=durable)

    async def take_up(self) -> None:
        """Read what an earlier run has left."""
        for line in self._key_log:
            if "digest" in line:
                values = {**line, "digest": bytes.fromhex(line["digest"]), "roles": tuple(line["roles"])}
                self.keys.add(Key(**values))
                self._next_client = max(self._next_client, (line["client"] or 0) + 1)
            elif line.get("deleted"):
                self.keys.remove(self.keys[line["index"]])
            else:
                _change(self.keys[line["index"]], line)
        # The steady clock has begun anew; how old a job is follows from the dates.
        start = self._clock.now() - self._clock.wall()
        for line in self._journal:
            job = Job.from_line(line, args=self._args(line["args"]), created=start + line["created_wall"])
            if job.outcome == "job":
                await self._network.learn(job.args.target_modules)
            self._start(job)
            self.keys[job.key].client = self.keys[job.key].client or job.client
            self._next_client = max(self._next_client, job.client + 1, job.owner + 1)

    def close(self) -> None:
        """Close the logs."""
        self._key_log.close()
        self._journal.close()

    def new_key(self, options: KeyOptions) -> str:
        """Make an API key and return its text."""
        text, key = self.keys.new(options, self._new_client() if options.primed else None)
        self._key_log.append({**attrs.asdict(key), "digest": key.digest.hex()})
        return text

    def change_key(self, key: Key, **changes: Any) -> None:
        """Change attributes of a key: its roles or limits."""
        # Written before it holds: what somebody was told must survive a kill.
        self._key_log.append({"index": key.index, **changes})
        _change(key, changes)

    def delete_key(self, key: Key) -> None:
        """Let a key open nothing any more."""
        self._key_log.append({"index": key.index, "deleted": True})
        self.keys.remove(key)

    async def learn(self, filled: Mapping[str, Any]) -> None:
        """Find out what takes a while about a job that is to be made."""
        await self._network.learn(self._args(filled).target_modules)

    def new_job(self, key: Key, filled: Mapping[str, Any], outcome: Outcome) -> Job:
        """Make the rows of a create and write them down.

        Args:
            key: Whose it is.
            filled: The bound fields after defaults.
            outcome: "job", or what refuses the create although its id is used up.
        """
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

    def entries(self) -> Iterator[JournalEntry]:
        """Yield the journal: every id in order, with its key and time."""
        for job in self.jobs.values():
            yield JournalEntry(
                task_id=job.task_id,
                key=self.keys[job.key].prefix,
                client_id=job.client,
                created_at=as_datetime(job.created_wall),
                outcome=job.outcome,
                model_name=job.args.model_name,
                seed=job.args.seed,
            )

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
        # A simulation has a hundred thousand jobs with the same few texts.
        share = self._shared.setdefault
        return task_args(
            {name: share(value, value) if isinstance(value, (str, tuple)) else value for name, value in frozen.items()}
        )

    def _new_client(self) -> int:
        self._next_client += 1
        return self._next_client - 1


def _change(key: Key, changes: Mapping[str, Any]) -> None:
    for name in ("rate_limit", "use_limit"):
        if name in changes:
            setattr(key, name, changes[name])
    if "roles" in changes:
        key.roles = tuple(changes["roles"])
