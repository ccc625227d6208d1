"""Result archives: what a node sends back, opened without trusting it.

An archive is a ZIP with the LoRA (``pytorch_lora_weights.safetensors``), the step count (``global_step.txt``), an
empty ``FINISH`` when the training is complete, and the state of the optimizer, the scheduler and the random numbers
for going on. Those last ones are pickles made by an unknown machine. They are counted and checksummed here, and never
opened. No member is ever written to disk; :meth:`LoraArchive.export` writes a file of its own.

Nothing is held open between two calls. Each call opens the file again and makes sure that it is still the same one, so
that an archive can be read from several threads, and a thousand archives take no file handles.

Source: stable-diffusion-task finetune_lora.py; crynux-bridge tasks/process_sd_ft_tasks.go.
"""

import contextlib
import io
import itertools
import os
import threading
from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, get_args

import attrs

from crynux_async.archive.export import plan_beginning, write_new_file
from crynux_async.archive.families import Family, family_of
from crynux_async.archive.foreign import BEGINNING_BYTES, recognise_file
from crynux_async.archive.health import AskedFor, Health, Steps, judge, scan
from crynux_async.archive.lora import PEFT_PREFIX, LoraModule
from crynux_async.archive.members import FINISH, STEP, WEIGHTS, check_packing
from crynux_async.archive.metadata import Description, describe
from crynux_async.archive.naming import Program, layout_for
from crynux_async.archive.norms import Norms
from crynux_async.archive.safetensors import LENGTH_BYTES, TensorInfo
from crynux_async.archive.strength import Strength, measure
from crynux_async.archive.weights import Weights
from crynux_async.archive.zip_directory import read_directory
from crynux_async.archive.zip_members import ArchiveLimits, Member, MemberStream, open_regular, read_at, reading
from crynux_async.errors import ArchiveError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from crynux_async.archive.side_by_side import Opened

_DEFAULT_LIMITS = ArchiveLimits()
_NAMES_SHOWN = 8  # a node's archive has seven members at most
_MOST_STEP_BYTES = 18
_PEFT_FILE = "adapter_model.safetensors"
_PEFT_CONFIG = "adapter_config.json"
_MOST_CONFIG_BYTES = 1 << 20

ArchiveKind = Literal["archive", "diffusers", "peft", "kohya"]
"""What a file with a LoRA is: an archive of a node, or a bare safetensors file and whose names it has."""


@attrs.frozen(kw_only=True)
class ArchiveSummary:
    """What a verified archive holds.

    Attributes:
        rank: The rank of all modules, or None when they differ.
        target_modules: The kinds of modules that were trained, sorted: ``("to_k", "to_out.0", "to_q", "to_v")``.
        modules: How many modules.
        tensors: How many tensors, two for each module.
        parameters: How many numbers in all tensors.
        dtype: "F32", "F16" or "BF16", or None when modules differ.
        global_step: Optimizer steps made, or None when the archive does not say.
        finished: Whether the node marked the training as finished.
        file_bytes: Size of the file.
        kind: What the file is; see :attr:`LoraArchive.kind`.
    """

    rank: int | None
    target_modules: tuple[str, ...]
    modules: int
    tensors: int
    parameters: int
    dtype: str | None
    global_step: int | None
    finished: bool
    file_bytes: int
    kind: ArchiveKind


@attrs.frozen
class _Identity:
    """What tells one file from another that took its place."""

    device: int
    inode: int
    size_bytes: int
    changed_ns: int

    @classmethod
    def of(cls, file: io.FileIO) -> Self:
        status = os.fstat(file.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class LoraArchive:
    """A result archive on disk, or a bare safetensors file with a LoRA.

    Every method raises ArchiveError when the file is not what it should be.

    Opening checks the ZIP's directory. The LoRA's header is read when it is first asked for, weights only by
    :meth:`verify`, :meth:`health`, :meth:`norms`, :meth:`export`, :meth:`tensor` and :meth:`arrays`.

    Attributes:
        path: The file.
        limits: What is accepted of it.
        members: The files inside, by name; unchangeable.
    """

    __slots__ = ("_identity", "_lock", "_weights", "limits", "members", "path")

    def __init__(self, path: Path, limits: ArchiveLimits, members: Mapping[str, Member], identity: _Identity) -> None:
        self.path = path
        self.limits = limits
        self.members = members
        self._identity = identity
        self._lock = threading.Lock()
        self._weights: Weights | None = None

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, limits: ArchiveLimits = _DEFAULT_LIMITS) -> Self:
        """Open an archive and check its directory; nothing is unpacked, and nothing stays open.

        A bare safetensors file is read too: those that :meth:`export`, diffusers, peft and kohya's scripts write.

        Args:
            path: The ZIP, or the safetensors file.
            limits: What is accepted of it.

        Returns:
            The archive. It may hold no LoRA; :meth:`verify` says so.

        Raises:
            ArchiveError: When it cannot be read, or is not one unambiguous ZIP of plain files within the limits.
        """
        where = Path(path)
        with reading(where), open_regular(where) as file:
            identity = _Identity.of(file)
            members = {} if _is_bare(file, identity.size_bytes) else _directory(file, identity.size_bytes, limits)
            check_packing(members, limits)
            return cls(where, limits, MappingProxyType(members), identity)

    def __repr__(self) -> str:
        if self.is_bare:
            return f"<LoraArchive {str(self.path)!r}, a safetensors file>"
        state = "finished" if self.finished else "not finished"
        return f"<LoraArchive {str(self.path)!r}, {len(self.members)} members, {state}>"

    @property
    def is_bare(self) -> bool:
        """Whether it is a safetensors file by itself, such as :meth:`export` writes, and no archive of a node."""
        return not self.members

    @property
    def kind(self) -> ArchiveKind:
        """What the file is: a node's "archive", or a bare file with names of "diffusers", "peft" or "kohya"."""
        if not self.is_bare:
            return "archive"
        first = next(iter(self.tensors))
        if first.startswith(("lora_unet_", "lora_te_")):
            return "kohya"
        return "peft" if first.startswith(PEFT_PREFIX) else "diffusers"

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts in the header of the LoRA, by key, as whoever wrote it put them there; unchangeable."""
        return self._loaded().metadata

    @property
    def finished(self) -> bool:
        """Whether the node marked the training as finished; False for a bare file, which has no such mark."""
        return FINISH in self.members

    @property
    def global_step(self) -> int | None:
        """Optimizer steps made, >= 0, or None when the archive does not say. May exceed what was asked for."""
        if self.is_bare:
            return _said_steps(self.metadata)
        member = self.members.get(STEP)
        if member is None:
            return None
        with reading(self.path), self._opened() as file:
            if member.size_bytes > _MOST_STEP_BYTES:
                raise ValueError(f"{STEP} is {member.size_bytes} bytes long and should hold one number")
            stream = MemberStream(member)
            text = stream.piece(file)
            # Now the checksum of these bytes can be told.
            stream.drain(file)
            if not text.strip().isdigit():
                raise ValueError(f"{STEP} holds {text!r} in place of a number")
            return int(text)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The LoRA's tensors by name, in the order of their bytes; unchangeable."""
        return self._loaded().tensors

    @property
    def modules(self) -> Mapping[str, LoraModule]:
        """The trained modules by their path in the UNet; unchangeable."""
        return self._loaded().modules

    @property
    def rank(self) -> int | None:
        """The rank of all modules, or None when they differ (no node makes such a file); see :attr:`modules`."""
        ranks = {module.rank for module in self.modules.values()}
        return ranks.pop() if len(ranks) == 1 else None

    @property
    def dtype(self) -> str | None:
        """The dtype of all tensors, "F32", "F16" or "BF16", or None when they differ."""
        dtypes = {info.dtype for info in self.tensors.values()}
        return dtypes.pop() if len(dtypes) == 1 else None

    @property
    def target_modules(self) -> tuple[str, ...]:
        """The kinds of modules that were trained, sorted, in the words of a config's ``target_modules``."""
        return tuple(sorted({module.target for module in self.modules.values()}))

    @property
    def family(self) -> Family | None:
        """The base models it fits, "sd1", "sd2" or "sdxl", or None where its layers do not tell."""
        return family_of(self.modules.values())

    @property
    def blocks(self) -> tuple[str, ...]:
        """The parts of the UNet that were trained, sorted: ``("down_blocks.0", ..., "mid_block", ...)``."""
        return tuple(sorted({module.block for module in self.modules.values()}))

    @property
    def parameter_count(self) -> int:
        """How many numbers all tensors hold."""
        return sum(info.parameters for info in self.tensors.values())

    def summary(self) -> ArchiveSummary:
        """Return what the archive says about itself, from its directory and headers alone.

        Returns:
            The summary; only :meth:`verify` makes sure of the bytes behind it.

        Raises:
            ArchiveError: When there is no LoRA inside, or its header or the step count is wrong.
        """
        return ArchiveSummary(
            rank=self.rank,
            target_modules=self.target_modules,
            modules=len(self.modules),
            tensors=len(self.tensors),
            parameters=self.parameter_count,
            dtype=self.dtype,
            global_step=self.global_step,
            finished=self.finished,
            file_bytes=self._identity.size_bytes,
            kind=self.kind,
        )

    def verify(self, *, checked: Container[Member] = ()) -> ArchiveSummary:
        """Check every byte: the checksum of every member, the LoRA's header and names, the step count.

        Holds one piece of 256 KiB at a time, whatever the size of the archive. It blocks; call it in a thread.

        Args:
            checked: Members of this very file that were read to their ends and found right, and are not read again.

        Returns:
            What the archive holds.

        Raises:
            ArchiveError: When anything is not as it should be, or there is no LoRA inside. ``is_undamaged`` tells an
                archive that came as it was made from one that should be fetched again.
        """
        with reading(self.path), self._opened() as file:
            for member in self.members.values():
                if member not in checked:
                    MemberStream(member).drain(file)
        # Every checksum is right by now: what is wrong from here on was made so, and would come again.
        try:
            return self.summary()
        except ArchiveError as error:
            error.is_undamaged = True
            raise

    def health(self, config: AskedFor | None = None) -> Health:
        """Look at every weight, and compare the LoRA with what was asked for.

        Without numpy all is judged but the strength, for which it takes as much memory as :meth:`norms`.

        Args:
            config: What was asked for, such as a FineTuneConfig; None to judge the LoRA by itself.

        Returns:
            Everything that is wrong. A LoRA can be whole and worthless: untrained, or full of NaN.

        Raises:
            ArchiveError: When the LoRA cannot be read.
        """
        weights = self._loaded()
        modules = weights.modules
        found = scan(weights.pieces(), frozenset(module.up for module in modules.values()))
        return judge(
            found,
            modules,
            steps=Steps(made=self.global_step, finished=self.finished, is_bare=self.is_bare),
            strength=self._strength_if_known(),
            config=config,
        )

    def strength(self) -> Strength:
        """Judge how strong the LoRA is, against the layers that it changes.

        Returns:
            The verdict, from "untrained" to "diverged", and the ratios that it rests on.

        Raises:
            ArchiveError: When the LoRA cannot be read.
            UsageError: When numpy is not installed.
        """
        return measure(self.norms(), self.modules)

    def _strength_if_known(self) -> Strength | None:
        try:
            return self.strength()
        except (UsageError, ArchiveError):
            return None  # numpy is not there, or a tensor is larger than is taken into memory

    def tensor(self, name: str) -> "NDArray[np.float32]":
        """Return one tensor. Its bytes are checked by :meth:`verify`, not here.

        Asking in the order of :attr:`tensors` unpacks the archive once; any other order may begin again.

        Args:
            name: As :attr:`tensors` has it.

        Returns:
            float32 [rank, in_features] for a down, [out_features, rank] for an up; for convolutions
            [rank, in_channels, height, width] and [out_channels, rank, 1, 1]. Writable, the caller's own.

        Raises:
            ArchiveError: When there is no such tensor, or it cannot be read.
            UsageError: When numpy is not installed.
        """
        return self._loaded().tensor(name)

    def arrays(self) -> Iterator[tuple[str, "NDArray[np.float32]"]]:
        """Return all tensors, unpacking the archive once and holding one tensor at a time.

        Yields:
            (name, float32 array), in the order of :attr:`tensors`; shapes as for :meth:`tensor`. After the last one
            the checksum is verified.

        Raises:
            ArchiveError: When the LoRA cannot be read.
            UsageError: When numpy is not installed.
        """
        return self._loaded().arrays()

    def norms(self) -> Norms:
        """Return how strongly each module was changed: the Frobenius norm of its update (alpha / rank) B A.

        Takes some 50 MB at most, however large the archive is; a rank above 1024 is refused.

        Returns:
            Norms by module, by part of the UNet and in total.

        Raises:
            ArchiveError: When the LoRA cannot be read.
            UsageError: When numpy is not installed.
        """
        return self._loaded().norms()

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        program: Program = "all",
        base_model: str | None = None,
        trigger: str | None = None,
        config: Mapping[str, Any] | None = None,
        digest: str | None = None,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the LoRA as one safetensors file that programs load whole, with a description of what was trained.

        What a bare file says about itself is kept, but for what is given here.

        The weights are copied byte for byte and their checksum is verified on the way. The same archive and arguments
        always give the same bytes. The file appears under its name when it is complete and on disk, or not at all.

        Args:
            path: The file to write.
            program: What loads it: "all" makes one file for diffusers (0.41 or later where ``conv_in``, ``conv_out``
                or the time embedding were trained), ComfyUI, AUTOMATIC1111 and kohya's sd-scripts; "diffusers" one
                that every version of it loads whole, and no other program.
            base_model: The model that the LoRA was trained on and needs.
            trigger: The words of the captions that bring out what was trained; web UIs offer them for the prompt.
            config: What was trained; kept as JSON, and in the words of the web UIs.
            digest: Digest of the config.
            metadata: Further texts for the header; they win over the library's own.
            overwrite: Replace a file of that name.

        Returns:
            The file.

        Raises:
            ArchiveError: When the LoRA cannot be read, cannot be expressed in a file for this program, or the file
                cannot be written or is there already.
            UsageError: When there is no such program, or ``config``, ``metadata`` or another text cannot be written: a
                header holds texts, and JSON knows no NaN. ``field`` says which; nothing was written.
        """
        if program not in (known := get_args(Program)):
            raise UsageError(f"there is no program {program!r} to export for; choose one of {', '.join(known)}")
        weights = self._loaded()
        about = Description(
            global_step=self.global_step,
            base_model=base_model,
            trigger=trigger,
            config=config,
            digest=digest,
            metadata=metadata,
            said=self.metadata if self.is_bare else None,
        )
        texts = describe(weights.modules, layout_for(program), about)
        with reading(self.path):
            beginning = plan_beginning(weights.tensors, weights.modules, program, texts)
        target = Path(path)
        data = (data for _, _, data in weights.pieces())
        write_new_file(target, itertools.chain([beginning], data), overwrite=overwrite)
        return target

    def _loaded(self) -> Weights:
        """Return the LoRA, reading its header the first time."""
        # Threads may ask at once, and a header takes a moment.
        with self._lock:
            if self._weights is None:
                adapter = self._adapter_config() if self.is_bare else None
                self._weights = Weights(self.path, self._weights_member(), self._opened, self.limits, adapter=adapter)
            return self._weights

    def _adapter_config(self) -> str | None:
        """Return what peft says beside a file of its own, or None; its tensors say no alpha."""
        # Beside any other name, a file called so may belong to another LoRA.
        if self.path.name != _PEFT_FILE:
            return None
        config = self.path.with_name(_PEFT_CONFIG)
        with reading(config):
            if config.stat().st_size > _MOST_CONFIG_BYTES:
                raise ValueError(f"is larger than {_MOST_CONFIG_BYTES} bytes")
            return config.read_text(encoding="utf-8")

    def _weights_member(self) -> Member:
        if self.is_bare:
            size = self._identity.size_bytes
            return Member(
                name=self.path.name, size_bytes=size, packed_bytes=size, crc32=None, deflated=False, offset_bytes=0
            )
        member = self.members.get(WEIGHTS)
        if member is None:
            names = sorted(self.members)
            more = f" and {len(names) - _NAMES_SHOWN:,} more" if len(names) > _NAMES_SHOWN else ""
            why = "no LoRA came out of this training (test networks answer so when they only pretend to train)"
            if FINISH not in names and STEP not in names:
                why = "it is not the result of a training"
            raise ArchiveError(f"{self.path}: holds no {WEIGHTS}, only {', '.join(names[:_NAMES_SHOWN])}{more}: {why}")
        return member

    @contextlib.contextmanager
    def _opened(self) -> Iterator[io.FileIO]:
        with open_regular(self.path) as file:
            # Offsets of one file in the bytes of another would give numbers that look like weights.
            if _Identity.of(file) != self._identity:
                raise ValueError("is not the file that was opened: it was changed or replaced since")
            yield file


def _is_bare(file: io.FileIO, size: int) -> bool:
    """Tell a safetensors file from a ZIP: its JSON begins where the first member's sizes and times stand in a ZIP."""
    begin = read_at(file, 0, min(size, LENGTH_BYTES + 1))
    return begin[LENGTH_BYTES:] == b"{" and not begin.startswith(b"PK")


def _directory(file: io.FileIO, size: int, limits: ArchiveLimits) -> dict[str, Member]:
    what = recognise_file(read_at(file, 0, min(size, BEGINNING_BYTES)))
    if what is not None:
        raise ValueError(f"is neither an archive nor a safetensors file but {what}")
    return read_directory(file, limits)


def _said_steps(metadata: Mapping[str, str]) -> int | None:
    said = metadata.get("global_step") or metadata.get("ss_steps") or ""
    return int(said) if said.isascii() and said.isdigit() and len(said) <= _MOST_STEP_BYTES else None


class ReadAhead(Protocol):
    """Reads members in an order of its own, before they are read in theirs."""

    def __call__(self, members: Collection[Member], opened: "Opened", /) -> Container[Member]:
        """Return those that were read to their ends and found right.

        Args:
            members: All members of the file.
            opened: Opens it.
        """


def verify_archive(
    path: str | os.PathLike[str], *, limits: ArchiveLimits = _DEFAULT_LIMITS, read_ahead: ReadAhead | None = None
) -> ArchiveSummary:
    """Open an archive and check every byte of it.

    Args:
        path: The ZIP.
        limits: What is accepted of it.
        read_ahead: What finds members right before they are read one after another, such as by several threads.

    Returns:
        What it holds.

    Raises:
        ArchiveError: When anything is not as it should be, or there is no LoRA inside.
    """
    archive = LoraArchive.open(path, limits=limits)
    if archive.is_bare:
        # What a service hands out is an archive; whatever else came in its place is not what was paid for.
        raise ArchiveError(f"{path}: is a bare safetensors file and no archive of a node")
    if read_ahead is None:
        return archive.verify()
    with reading(archive.path):
        checked = read_ahead(archive.members.values(), archive._opened)
    return archive.verify(checked=checked)
