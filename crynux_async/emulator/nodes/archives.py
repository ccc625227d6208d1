"""The archives that jobs deliver, made when somebody asks and kept on disk up to a bound.

An archive follows from the job's arguments alone, so one that was thrown away comes back byte for byte.

Source: stable-diffusion-task finetune_lora.py (the checkpoint folder), crynux-node relay/web_impl.py (make_archive).
"""

import asyncio
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import attrs

from crynux_async.emulator.nodes.task_args import TaskArgs
from crynux_async.emulator.nodes.unet import Module, Unet
from crynux_async.emulator.nodes.weights import Condition, Lora
from crynux_async.emulator.nodes.wishes import wishes
from crynux_async.emulator.nodes.zip_files import Member, write_zip

_Contents = Callable[[], tuple[Member, ...]]

_MEBIBYTE = 1 << 20
# What torch.save adds to the numbers for each tensor of an optimizer.
_PICKLED = 810
_RANDOM_STATES = 14_625
_SCHEDULER = 1_401
_SCALER = 988
# The ZIP's own records, and global_step.txt.
_BESIDES = 2_000


def members(
    args: TaskArgs, unet: Unet, *, global_step: int, version: int = 0, is_finished: bool = True
) -> tuple[Member, ...]:
    """Return the files of a finished job's archive, in the order of a node's.

    Args:
        args: The job's arguments.
        unet: The model that was trained.
        global_step: Optimizer steps in all.
        version: Another version has other numbers.
        is_finished: Whether this is the last round.
    """
    lora = _lora(args, unet.targeted(args.target_modules), global_step, version)
    extra = wishes(args.model_name).extra_mebibytes
    optimizer = _optimizer(lora, extra)
    scaler = (Member(name="scaler.pt", pieces=_torch_file("scaler", _SCALER)),)
    return (
        Member(name="pytorch_lora_weights.safetensors", pieces=lora.pieces(), mode=0o600),
        Member(name="random_states_0.pkl", pieces=_torch_file("random_states_0", _RANDOM_STATES)),
        Member(name="global_step.txt", pieces=(str(global_step).encode(),)),
        Member(name="optimizer.bin", pieces=optimizer, is_stored=extra > 0),
        *(scaler if args.mixed_precision == "fp16" else ()),
        *((Member(name="FINISH", pieces=()),) if is_finished else ()),
        Member(name="scheduler.bin", pieces=_torch_file("scheduler", _SCHEDULER)),
    )


def archive_bytes(args: TaskArgs, modules: tuple[Module, ...]) -> int:
    """Return how many bytes an archive has at most, with nothing packed.

    Args:
        args: The job's arguments.
        modules: The layers that are trained.
    """
    lora = _lora(args, modules, global_step=0, version=0)
    weights = len(lora.header()) + lora.data_bytes
    extra = _MEBIBYTE * wishes(args.model_name).extra_mebibytes
    return weights + _optimizer_bytes(lora) + extra + _RANDOM_STATES + _SCHEDULER + _SCALER + _BESIDES


def _lora(args: TaskArgs, modules: tuple[Module, ...], global_step: int, version: int) -> Lora:
    return Lora(
        modules=modules,
        rank=args.rank,
        dtype="BF16" if args.mixed_precision == "bf16" else "F32",
        seed=f"{args.seed} {version}",
        condition=_condition(args, global_step),
    )


def _condition(args: TaskArgs, global_step: int) -> Condition:
    asked = wishes(args.model_name)
    if asked.nan:
        return "nan"
    # The first step of a warm-up has learning rate 0, and Min-SNR weights of 0 make the loss 0.
    learns_nothing = args.snr_gamma == 0 or (global_step == 1 and args.lr_scheduler != "constant")
    return "untrained" if asked.untrained or learns_nothing else "trained"


def _optimizer_bytes(lora: Lora) -> int:
    return 2 * lora.data_bytes + _PICKLED * len(lora.tensors)


def _optimizer(lora: Lora, extra: int) -> Iterator[bytes]:
    yield from _torch_file("optimizer", _optimizer_bytes(lora))
    block = hashlib.shake_256(b"extra").digest(_MEBIBYTE) if extra else b""
    for index in range(extra):
        # Each mebibyte is numbered, so that one in another's place is noticed.
        yield index.to_bytes(8, "little") + block[8:]


def _torch_file(name: str, size: int) -> Iterator[bytes]:
    """Yield ``size`` bytes that begin like a file of torch.save and hold nothing that could be unpickled."""
    path = f"{name}/data.pkl".encode()
    head = b"PK\x03\x04" + b"\x00\x00\x08\x08" + bytes(18) + len(path).to_bytes(2, "little") + b"\x10\x00" + path
    yield head
    block = hashlib.shake_256(name.encode()).digest(1 << 16)
    full, rest = divmod(size - len(head), len(block))
    for _ in range(full):
        yield block
    yield block[:rest]


@attrs.define(kw_only=True)
class _Archive:
    path: Path
    size: int


class ArchiveShelf:
    """Archives on disk, the least recently asked for given up first.

    Args:
        folder: A folder that belongs to the shelf.
        unet: The model that all jobs train.
        limit_bytes: How much to keep, that which is being made included; the archive asked for last is kept in any
            case.
    """

    def __init__(self, folder: Path, unet: Unet, *, limit_bytes: int) -> None:
        self._folder = folder
        self._unet = unet
        self._limit_bytes = limit_bytes
        self._files: OrderedDict[str, _Archive] = OrderedDict()
        self._builds: dict[str, asyncio.Task[_Archive]] = {}
        self._turn = asyncio.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        # Whatever is asked for is made again, and a half of one must not be found.
        for leftover in folder.glob("*.zip*"):
            leftover.unlink()

    async def open(self, args: TaskArgs, *, global_step: int, version: int = 0, is_finished: bool = True) -> BinaryIO:
        """Return the archive of a finished job, open for reading; it is made now unless it is there.

        Args:
            args: The job's arguments.
            global_step: Optimizer steps in all.
            version: How often the archive has been replaced.
            is_finished: Whether the job's last round is done.
        """
        name = hashlib.sha256(repr((args, global_step, version, is_finished)).encode()).hexdigest()[:32]
        contents = partial(members, args, self._unet, global_step=global_step, version=version, is_finished=is_finished)
        while True:
            archive = self._files.get(name) or await self._build_once(name, args, contents)
            try:
                file = archive.path.open("rb")
            except FileNotFoundError:
                # It was given up between being made and being opened.
                self._files.pop(name, None)
                continue
            self._files.move_to_end(name)
            return file

    async def _build_once(self, name: str, args: TaskArgs, contents: _Contents) -> _Archive:
        build = self._builds.get(name)
        if build is None:
            build = self._builds[name] = asyncio.create_task(self._build_in_turn(name, args, contents))
            build.add_done_callback(lambda _: self._builds.pop(name, None))
        # Others may wait for the same archive.
        return await asyncio.shield(build)

    async def close(self) -> None:
        """Stop what is being made."""
        builds = list(self._builds.values())
        for build in builds:
            build.cancel()
        await asyncio.gather(*builds, return_exceptions=True)

    async def _build_in_turn(self, name: str, args: TaskArgs, contents: _Contents) -> _Archive:
        await self._unet.learn(args.target_modules)
        # One after the other: two at once would not be done sooner, and would need room for both.
        async with self._turn:
            self._make_room(archive_bytes(args, self._unet.targeted(args.target_modules)))
            return await self._build(name, contents())

    async def _build(self, name: str, contents: tuple[Member, ...]) -> _Archive:
        path = self._folder / f"{name}.zip"
        unfinished = path.with_suffix(".zip.new")
        with unfinished.open("wb") as file:
            for _ in write_zip(file, contents):
                # Piece by piece on the loop, so that other requests are answered meanwhile.
                await asyncio.sleep(0)
        os.replace(unfinished, path)
        made = self._files[name] = _Archive(path=path, size=path.stat().st_size)
        return made

    def _make_room(self, size: int) -> None:
        total = size + sum(file.size for file in self._files.values())
        while total > self._limit_bytes and self._files:
            _, file = self._files.popitem(last=False)
            file.path.unlink(missing_ok=True)
            total -= file.size
