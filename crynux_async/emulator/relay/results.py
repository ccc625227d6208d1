"""The files of tasks: checkpoints that came with a create, and what nodes deliver.

What scripted nodes upload is kept in a folder. What automatic nodes deliver follows from the task's arguments and is
made when somebody asks.
"""

import os
from io import BytesIO
from pathlib import Path

import attrs

from crynux_async.emulator.http.files import Resource
from crynux_async.emulator.nodes.archives import ArchiveShelf
from crynux_async.emulator.nodes.node import Network, round_end
from crynux_async.emulator.nodes.task_args import TaskArgs
from crynux_async.emulator.relay.arguments import node_args
from crynux_async.emulator.relay.images import picture
from crynux_async.emulator.relay.tasks import Task

CHECKPOINT = "checkpoint.zip"

_BINARY = "application/octet-stream"


@attrs.frozen(kw_only=True)
class Training:
    """What an automatic node does for a task.

    Attributes:
        args: What it was asked for.
        global_step: The optimizer steps that it trains.
        is_finished: Whether those are all.
    """

    args: TaskArgs
    global_step: int
    is_finished: bool

    def subjects(self) -> list[str]:
        """Return what each validation image is of; equal for tasks with equal arguments."""
        return [f"{self.args} {index}" for index in range(self.args.validation_num_images)]


def training(task: Task, network: Network) -> Training:
    """Return what an automatic node does for a task, which is one round whatever was asked."""
    args = node_args(task.args, timeout=task.timeout)
    step = round_end(images=network.images, args=args, start=0)
    last = args.max_train_steps
    return Training(args=args, global_step=step, is_finished=last is None or step >= last)


class Results:
    """Everything that can be fetched.

    Args:
        folder: A folder that belongs to the relay.
        network: What automatic nodes are like.
        limit_bytes: How much of what they deliver is kept on disk.
    """

    def __init__(self, folder: Path, network: Network, *, limit_bytes: int) -> None:
        self._folder = folder
        self._network = network
        self._shelf = ArchiveShelf(folder / "archives", network.unet, limit_bytes=limit_bytes)
        self._made: set[int] = set()

    async def close(self) -> None:
        """Stop making archives."""
        await self._shelf.close()

    def keep_input(self, task: Task, checkpoint: bytes) -> None:
        """Keep the checkpoint that a task starts from."""
        self._write(task, "input", CHECKPOINT, checkpoint)

    def input(self, task: Task) -> Resource | None:
        """Return the checkpoint that a task starts from, or None."""
        return self._stored(task, "input", CHECKPOINT, modified=task.created)

    def keep(self, task: Task, *, images: list[bytes], checkpoint: bytes) -> None:
        """Keep what a scripted node has uploaded."""
        for index, image in enumerate(images):
            self._write(task, "results", f"{index}.png", image)
        self._write(task, "results", CHECKPOINT, checkpoint)

    def make(self, task: Task) -> None:
        """Deliver what an automatic node has made."""
        self._made.add(task.sequence)

    async def checkpoint(self, task: Task) -> Resource | None:
        """Return the archive of a task, or None."""
        modified = task.uploaded or 0.0
        if task.sequence not in self._made:
            return self._stored(task, "results", CHECKPOINT, modified=modified)
        work = training(task, self._network)
        file = await self._shelf.open(work.args, global_step=work.global_step, is_finished=work.is_finished)
        size = file.seek(0, os.SEEK_END)
        return Resource(file=file, size=size, modified=int(modified), name=CHECKPOINT, content_type=_BINARY)

    def image(self, task: Task, index: str) -> Resource | None:
        """Return a validation image of a task, or None.

        Args:
            task: The task.
            index: Its number as it stands in the address.
        """
        name, modified = f"{index}.png", task.uploaded or 0.0
        if task.sequence not in self._made:
            return self._stored(task, "results", name, modified=modified)
        # From the arguments alone, so that three honest nodes of a group deliver the same and agree.
        subjects = training(task, self._network).subjects()
        if not index.isdecimal() or str(int(index)) != index or int(index) >= len(subjects):
            return None
        content = picture(subjects[int(index)])
        file = BytesIO(content)
        return Resource(file=file, size=len(content), modified=int(modified), name=name, content_type=_BINARY)

    def _stored(self, task: Task, place: str, name: str, *, modified: float) -> Resource | None:
        path = self._path(task, place, name)
        # The number comes from the address as it was sent: "../0" must not lead out of the folder.
        if os.sep in name or not path.is_file():
            return None
        file = path.open("rb")
        size = file.seek(0, os.SEEK_END)
        return Resource(file=file, size=size, modified=int(modified), name=name, content_type=_BINARY)

    def _write(self, task: Task, place: str, name: str, content: bytes) -> None:
        path = self._path(task, place, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def _path(self, task: Task, place: str, name: str) -> Path:
        # By number: what a creator calls a task need not be a good name for a folder.
        return self._folder / "tasks" / str(task.sequence) / place / name
