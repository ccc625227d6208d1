"""Jobs as the bridge sees them: a row each, whose state follows from its age.

Source: crynux-bridge models/client.go, models/inference_task.go (GetSDFTTaskFinalTask), tasks/process_sd_ft_tasks.go,
tasks/cleanup_inference_results.go.
"""

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from crynux_async.emulator.bridge.journal import Outcome
from crynux_async.emulator.nodes.node import Course, Progress
from crynux_async.emulator.nodes.task_args import TaskArgs

Availability = Literal["ready", "unfinished", "absent"]

_LINE = ("task_id", "key", "client", "owner", "created_wall", "outcome")
_WAITING = Progress(status="running")


@attrs.define(eq=False, kw_only=True)
class Job:
    """One id of the server.

    Attributes:
        task_id: The id, > 0.
        key: The number of the key that created it.
        client: The client row that the job row points to.
        owner: The client row that the node tasks point to. It differs from ``client`` for the first job of a fresh
            key, because the bridge inserts that key's row twice.
        created: When, on the server's steady clock, in seconds.
        created_wall: When, in seconds since 1970.
        outcome: "job", or what refused the create after the id was used up.
        args: What to train, after the bridge's defaults.
        course: What is going to happen; None when there is no job.
        version: How often the archive has been replaced.
        replaced_wall: When it last was, in seconds since 1970, or None.
    """

    task_id: int
    key: int
    client: int
    owner: int
    created: float
    created_wall: float
    outcome: Outcome
    args: TaskArgs
    course: Course | None = None
    version: int = 0
    replaced_wall: float | None = None
    _final: Progress | None = attrs.field(default=None, init=False)

    @classmethod
    def from_line(cls, line: Mapping[str, Any], *, args: TaskArgs, created: float) -> "Job":
        """Return the job of a journal line.

        Args:
            line: What ``as_line`` returned.
            args: The arguments in it.
            created: When it was created, on the server's steady clock.
        """
        values = {name: line[name] for name in _LINE}
        return cls(**values, created=created, args=args)

    def as_line(self) -> dict[str, Any]:
        """Return the job as a line of the journal."""
        return {**{name: getattr(self, name) for name in _LINE}, "args": attrs.asdict(self.args, recurse=False)}

    def progress(self, now: float, speed: float) -> Progress:
        """Return how far the job is.

        Args:
            now: Seconds on the server's steady clock.
            speed: Seconds of training time per second, > 0.
        """
        # What has ended changes no more, and is asked about most.
        if self._final is not None:
            return self._final
        if self.course is None:
            return _WAITING
        progress = self.course.at(max(0.0, now - self.created) * speed)
        if progress.ended is not None:
            self._final = progress
        return progress

    def is_deleted(self, now: float, speed: float, retention: float) -> bool:
        """Return whether the cleaner has removed the job.

        Args:
            now: Seconds on the server's steady clock.
            speed: Seconds of training time per second, > 0.
            retention: Seconds that rows are kept after their last change; 0 keeps them for ever.
        """
        if not retention or now - self.created < retention:
            return False
        # Each of its rounds writes rows anew, so the cleaner never finds them old.
        if self.course is not None and self.course.fate == "never_finishes":
            return False
        progress = self.progress(now, speed)
        # A job that trains has young rows. One that hangs for ever writes none, and goes while it still says running.
        if progress.status == "running" and self.course is not None and self.course.fate != "stalls":
            return False
        return now - self.created - (progress.ended or 0.0) / speed >= retention

    def finished_wall(self, now: float, speed: float) -> float:
        """Return when the archive was written, in seconds since 1970; 0.0 when there is none."""
        if self.replaced_wall is not None:
            return self.replaced_wall
        ended = self.progress(now, speed).ended
        return 0.0 if ended is None else self.created_wall + ended / speed


def availability(progress: Progress) -> Availability:
    """Return what the bridge finds when it looks for the archive of a job.

    Returns:
        "ready", "unfinished" when a round is done but not the last, "absent" when no round is done.
    """
    if progress.status == "success":
        return "ready"
    return "unfinished" if progress.rounds_done else "absent"
